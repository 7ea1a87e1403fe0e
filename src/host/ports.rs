//! Who listens on which TCP port, found in /proc: for `listen` probes, the status's `ports`, `why`, and the preview.
//!
//! Scans only when asked. The tables of sockets are read first, so that no process is looked at when nobody listens.

use crate::supervisor::Pid;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";
/// For how long `Ports` gives the same answer.
const FRESH: Duration = Duration::from_secs(1);
/// How many ancestors are named.
const GENERATIONS: usize = 6;
/// The longest command that is shown, characters.
const COMMAND: usize = 80;

/// A TCP port that a process listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// The address it is bound to; unspecified (`0.0.0.0`, `::`) is every one.
    pub address: IpAddr,
    /// Who listens.
    #[serde(skip)]
    pub pid: Pid,
}

impl Listener {
    /// Whether it is reachable from this machine alone.
    pub fn is_loopback(&self) -> bool {
        match self.address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(v6.is_loopback(), |v4| v4.is_loopback()),
        }
    }

    /// Address and port, as a URL has them: `[::1]:5173`.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Where to connect to reach it from here.
    pub fn target(&self) -> SocketAddr {
        let address = match self.address {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        SocketAddr::new(address, self.port)
    }
}

/// What these processes listen on, by port and address. Processes that have gone or may not be looked at are left out.
pub fn listeners(pids: &[Pid]) -> Vec<Listener> {
    owned(&sockets(), pids.iter().copied())
}

/// Who listens on this port, whoever it is; looks at every process.
pub fn holders(port: u16) -> Vec<Listener> {
    let mut sockets = sockets();
    sockets.retain(|_, socket| socket.port() == port);
    if sockets.is_empty() {
        return Vec::new();
    }
    owned(&sockets, all_pids())
}

/// Whether anybody listens on this port, even where it cannot be found out who.
pub fn is_taken(port: u16) -> bool {
    !addresses(port).is_empty()
}

/// Where somebody listens on this port, even where it cannot be found out who.
pub fn addresses(port: u16) -> BTreeSet<IpAddr> {
    let sockets = sockets().into_values();
    sockets.filter(|socket| socket.port() == port).map(|socket| socket.ip()).collect()
}

/// The process and its ancestors, for people: `agent › bash › npm run dev`. `unit_of` names the unit of a main process, where the
/// chain begins.
pub fn lineage(pid: Pid, unit_of: impl Fn(Pid) -> Option<String>) -> String {
    let mut names = vec![command(pid)];
    let mut at = pid;
    for _ in 0..GENERATIONS {
        if let Some(unit) = unit_of(at) {
            names.push(unit);
            break;
        }
        match parent(at) {
            Some(parent) if parent > 1 => {
                at = parent;
                names.push(short_name(at));
            }
            _ => break,
        }
    }
    // A unit's main process goes by the unit's name alone, unless it is the very one that is asked about.
    if names.len() > 2 && unit_of(at).is_some() {
        names.remove(names.len() - 2);
    }
    names.reverse();
    names.join(" › ")
}

/// Remembers the last answer for a second, for whoever asks often.
#[derive(Debug, Default)]
pub struct Ports {
    seen: Option<(Instant, BTreeMap<u64, SocketAddr>)>,
}

impl Ports {
    /// As `listeners`.
    pub fn listeners(&mut self, pids: &[Pid]) -> Vec<Listener> {
        let now = Instant::now();
        let sockets = match self.seen.take() {
            Some((at, sockets)) if now.duration_since(at) < FRESH => (at, sockets),
            _ => (now, sockets()),
        };
        let found = owned(&sockets.1, pids.iter().copied());
        self.seen = Some(sockets);
        found
    }
}

/// The listening sockets of this network namespace by inode.
fn sockets() -> BTreeMap<u64, SocketAddr> {
    let mut found = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is no tcp6.
        if let Ok(text) = std::fs::read_to_string(table) {
            found.extend(text.lines().filter_map(parse_line));
        }
    }
    found
}

/// A line of proc(5) /proc/net/tcp: inode and address of a listening socket.
fn parse_line(line: &str) -> Option<(u64, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    (state == LISTEN && inode != 0).then_some(())?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((inode, SocketAddr::new(parse_address(address)?, port)))
}

/// An address is printed as 32-bit words, each in the machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for n in 0..4 {
                octets[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn owned(sockets: &BTreeMap<u64, SocketAddr>, pids: impl IntoIterator<Item = Pid>) -> Vec<Listener> {
    let mut found = BTreeSet::new();
    if sockets.is_empty() {
        return Vec::new();
    }
    for pid in pids {
        for inode in socket_inodes(pid) {
            if let Some(socket) = sockets.get(&inode) {
                found.insert((socket.port(), socket.ip(), pid));
            }
        }
    }
    let mut listeners: Vec<Listener> = found
        .into_iter()
        .map(|(port, address, pid)| Listener { port, address, pid })
        .collect();
    // Forked children share the socket: the first of them stands for all.
    listeners.dedup_by_key(|l| (l.port, l.address));
    listeners
}

fn socket_inodes(pid: Pid) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |link: std::path::PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    links.filter_map(inode).collect()
}

fn all_pids() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The parent, from proc(5) /proc/pid/stat; the name in it may contain anything, so what follows is counted from its end.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn short_name(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { format!("pid {pid}") } else { name.to_owned() }
}

/// The command line, shortened; the name where there is none.
fn command(pid: Pid) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    let Some(program) = words.first() else {
        return short_name(pid);
    };
    // Programs that set their title (`npm run dev`) have it all in one word.
    let program = if program.contains(' ') {
        program.clone()
    } else {
        program.rsplit('/').next().unwrap_or(program).to_owned()
    };
    let mut text = program;
    for word in &words[1..] {
        text.push(' ');
        text.push_str(word);
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > COMMAND {
        let mut cut: String = text.chars().take(COMMAND - 1).collect();
        cut.push('…');
        return cut;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    fn me() -> Pid {
        Pid::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn table_lines_are_read() {
        let v4 = "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0000 100 0 0 10 0";
        assert_eq!(parse_line(v4), Some((4242, "127.0.0.1:3000".parse().unwrap())));
        let v6 = "   0: 00000000000000000000000001000000:1435 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0";
        assert_eq!(parse_line(v6), Some((77, "[::1]:5173".parse().unwrap())));
        assert_eq!(parse_line(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse_line("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn own_listeners_are_found_on_both_families() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let expected = |address: &str, port| Listener {
            port,
            address: address.parse().unwrap(),
            pid: me(),
        };
        let found = listeners(&[me(), -1]);
        assert!(found.contains(&expected("127.0.0.1", port)), "{found:?}");
        assert!(found.iter().all(|l| l.port != port || l.is_loopback()));
        assert!(Ports::default().listeners(&[me()]).contains(&expected("127.0.0.1", port)));
        assert!(holders(port).contains(&expected("127.0.0.1", port)));
        assert!(is_taken(port));
        if let Ok(v6) = TcpListener::bind("[::]:0") {
            let port = v6.local_addr().unwrap().port();
            let any = expected("::", port);
            assert!(listeners(&[me()]).contains(&any));
            assert_eq!(any.target().to_string(), format!("[::1]:{port}"));
            assert!(!any.is_loopback());
        }
        assert_eq!(listeners(&[]), []);
    }

    #[test]
    fn a_lineage_ends_at_the_unit() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let unit = |p: Pid| (p == me()).then(|| "dev".to_owned());
        // Until the exec is over it is called as this process is, or has no arguments yet.
        while command(pid) != "sleep 600" {
            std::thread::yield_now();
        }
        assert_eq!(lineage(pid, unit), "dev › sleep 600");
        assert!(lineage(pid, |_| None).ends_with(" › sleep 600"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_refused(line in "\\PC{0,120}", address in "[0-9A-F]{0,33}") {
            let _ = parse_line(&line);
            let _ = parse_line(&format!("0: {address}:0BB8 0:0 0A 0:0 0:0 0 0 0 42 1"));
        }
    }
}
