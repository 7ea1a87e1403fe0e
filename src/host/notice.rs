//! The words of the notify protocol. sd_notify(3).

use crate::ordered::Order;
use crate::supervisor::event::{Notice, Pid};
use std::time::Duration;

/// The longest status text that is kept, in bytes.
const LONGEST_STATUS: usize = 1024;

/// The notices in a datagram, in the order in which they take effect: a new main process first, then as written. What is not understood
/// is left out.
pub(super) fn parse(datagram: &[u8]) -> Vec<Notice> {
    let mut notices: Vec<Notice> = datagram.split(|&byte| byte == b'\n').filter_map(notice).collect();
    notices.order_by_key(|notice| !matches!(notice, Notice::MainPid(_)));
    notices
}

fn notice(line: &[u8]) -> Option<Notice> {
    let split = line.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (&line[..split], &line[split + 1..]);
    match name {
        b"READY" => (value == b"1").then_some(Notice::Ready),
        b"RELOADING" => (value == b"1").then_some(Notice::Reloading),
        b"STOPPING" => (value == b"1").then_some(Notice::Stopping),
        b"WATCHDOG" if value == b"1" => Some(Notice::Watchdog),
        b"WATCHDOG" if value == b"trigger" => Some(Notice::WatchdogTrigger),
        b"STATUS" => Some(Notice::Status(printable(value))),
        b"ERRNO" => number::<i32>(value).filter(|errno| *errno >= 0).map(Notice::Errno),
        b"MAINPID" => number::<Pid>(value).filter(|pid| *pid > 1).map(Notice::MainPid),
        b"WATCHDOG_USEC" => number(value).map(Duration::from_micros).map(Notice::WatchdogInterval),
        b"EXTEND_TIMEOUT_USEC" => number(value).map(Duration::from_micros).map(Notice::ExtendTimeout),
        b"X_SANDKEEP" => std::str::from_utf8(value).ok().map(|json| Notice::Part(json.to_owned())),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Text that no terminal and no log can be hurt with.
fn printable(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let mut kept: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    let end = kept.floor_char_boundary(LONGEST_STATUS);
    kept.truncate(end);
    kept.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_understood() {
        let all = b"READY=1\nRELOADING=1\nMONOTONIC_USEC=5\nSTOPPING=1\nSTATUS=ok \x1b[1m\nERRNO=2\nWATCHDOG=1\nWATCHDOG=trigger\n\
            WATCHDOG_USEC=1000\nEXTEND_TIMEOUT_USEC=2000000\nMAINPID=77\nX_SANDKEEP={\"a\":1}\nBARRIER=1\nFDSTORE=1\nX_OTHER=1\n";
        assert_eq!(
            parse(all),
            [
                Notice::MainPid(77),
                Notice::Ready,
                Notice::Reloading,
                Notice::Stopping,
                Notice::Status("ok  [1m".to_owned()),
                Notice::Errno(2),
                Notice::Watchdog,
                Notice::WatchdogTrigger,
                Notice::WatchdogInterval(Duration::from_millis(1)),
                Notice::ExtendTimeout(Duration::from_secs(2)),
                Notice::Part("{\"a\":1}".to_owned()),
            ]
        );
    }

    #[test]
    fn junk_is_nothing() {
        for junk in [
            "",
            "=",
            "READY",
            "READY=0",
            "READY=11",
            "MAINPID=1",
            "MAINPID=-4",
            "MAINPID=x",
            "ERRNO=-1",
            "WATCHDOG_USEC=-1",
            "\n\n",
        ] {
            assert_eq!(parse(junk.as_bytes()), [], "{junk:?}");
        }
        assert_eq!(parse(b"X_SANDKEEP=\xff"), []);
        assert_eq!(parse(b"STATUS=\xff"), [Notice::Status("\u{fffd}".to_owned())]);
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let long = format!("STATUS={}", "ä".repeat(2000));
        let [Notice::Status(text)] = &parse(long.as_bytes())[..] else {
            panic!("one status")
        };
        assert_eq!(text.len(), LONGEST_STATUS);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            parse(&bytes);
        }
    }
}
