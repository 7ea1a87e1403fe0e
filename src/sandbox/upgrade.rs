//! Another binary in a sandbox that runs: its processes stay, and keep their pids.

use super::binary::Binary;
use super::fault::{Code, Fault};
use super::inside::{Inside, failed};
use super::look::running;
use super::provider::{Body, Command, Exit, Provider, Upload, hear};
use super::record::Records;
use crate::control::document::StatusDocument;
use crate::tasks;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// How long another command of the same name is waited for.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How long the handover may take.
const WITHIN: Duration = Duration::from_secs(180);

/// Puts `$1.next` in the place of `$1` and keeps the old one, which runs and whose words the supervisor knows, until the handover of
/// instance `$2` is over; `$3` asks for the workers too.
const UPGRADE: &str = r#"set -e
chmod 755 "$1.next"
[ -e "$1.last" ] || [ ! -e "$1" ] || ln "$1" "$1.last"
mv -f "$1.next" "$1"
set +e
client=$1.last
[ -x "$client" ] || client=$1
"$client" --instance "$2" upgrade "$1" $3
code=$?
if [ $code -ne 0 ] && [ -e "$1.last" ]; then mv -f "$1.last" "$1"; fi
rm -f "$1.last"
exit $code"#;

/// The machine, and the digest of the binary `$0`. Of one whose handover was cut off nobody knows whether it runs: then no digest.
const LOOK: &str = r#"uname -m
[ -e "$0.last" ] || sha256sum "$0" 2>/dev/null | cut -d' ' -f1"#;

/// What an upgrade came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Upgraded {
    /// The sandbox's name.
    pub name: String,
    /// `false`: the very same binary ran already.
    pub changed: bool,
    /// The version that ran before.
    pub from: String,
    /// The version that runs.
    pub to: String,
    /// How many bytes were sent.
    pub bytes_uploaded: u64,
}

/// Uploads a binary (without a path the one that runs here) and has the supervisor execute it in place. Processes and their pids stay; when
/// the new one does not take over, the old one goes on and its file is back in its place.
///
/// # Errors
/// When the sandbox or its supervisor is not there, or the handover failed: nothing has changed then.
pub async fn upgrade(
    name: &str,
    binary: Option<&Path>,
    workers: bool,
    provider: &dyn Provider,
    records: &Records,
) -> Result<Upgraded, Fault> {
    super::record::check_name(name)?;
    let _held = records.hold(name, HELD_FOR).await?;
    let record = records.known(name)?;
    let path = binary.map(Path::to_owned);
    let binary = tasks::spawn_blocking(move || Binary::read(path.as_deref()));
    let binary = binary.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let sandbox = running(&record, provider).await?;
    let inside = Inside {
        provider,
        sandbox: &sandbox,
        record: &record,
    };
    let look = Command::shell(LOOK).arg(record.binary());
    let (_, heard) = hear(provider, &sandbox, &look).await?;
    let text = heard.text();
    let mut lines = text.lines();
    binary.check(lines.next().unwrap_or_default())?;
    let from = status(&inside).await?.version;
    let mut upgraded = Upgraded {
        name: name.to_owned(),
        changed: false,
        to: from.clone(),
        from,
        bytes_uploaded: 0,
    };
    if lines.next() == Some(binary.sha256.as_str()) {
        return Ok(upgraded);
    }
    let upload = Upload {
        path: format!("{}.next", record.binary()),
        mode: 0o755,
        body: Body::File(binary.path),
    };
    upgraded.bytes_uploaded = provider.upload(&sandbox, &upload).await?;
    let command = Command::shell(UPGRADE)
        .arg("upgrade")
        .arg(record.binary())
        .arg(&record.instance)
        .arg(if workers { "--workers" } else { "" })
        .within(WITHIN)
        .once();
    let (exit, heard) = hear(provider, &sandbox, &command).await?;
    if !exit.is_success() {
        return Err(refused(exit, &heard.both(), &upgraded.from));
    }
    let after = status(&inside).await?;
    if after
        .upgrade
        .is_none_or(|last| last.error.is_some() || last.sha256 != binary.sha256)
    {
        return Err(Fault::new(
            Code::CommandFailed,
            "upgrading: the supervisor answers, but does not say that it runs the new binary",
        )
        .hint("`sandkeep sandbox status` says how it does; what runs in the sandbox is untouched"));
    }
    upgraded.changed = true;
    upgraded.to = after.version;
    Ok(upgraded)
}

/// Why the supervisor runs the binary it ran before.
fn refused(exit: Exit, said: &str, version: &str) -> Fault {
    if said.contains("unrecognized subcommand") {
        let message = format!("the sandkeep in the sandbox ({version}) is too old to be upgraded in place");
        return Fault::new(Code::Unsupported, message)
            .hint("`sandkeep sandbox stop` drains it, and `sandkeep sandbox start` brings the new one in");
    }
    let mut fault = failed("the supervisor goes on as it was", exit, said);
    if fault.code == Code::InvalidConfig {
        fault.code = Code::CommandFailed;
    }
    fault
        .hint
        .get_or_insert_with(|| "nothing has changed; the output tells more".to_owned());
    fault
}

/// How the supervisor does.
async fn status(inside: &Inside<'_>) -> Result<StatusDocument, Fault> {
    inside
        .report()
        .await?
        .status
        .ok_or_else(|| Fault::new(Code::NoSupervisor, "no supervisor runs in the sandbox").hint("`sandkeep sandbox start` starts one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_know_the_word_is_told_from_one_that_refuses() {
        let old = refused(Exit(2), "error: unrecognized subcommand 'upgrade'\n\nUsage: …", "0.0.1");
        assert_eq!(old.code, Code::Unsupported);
        assert!(old.message.contains("0.0.1"), "{old}");
        let no = refused(
            Exit(1),
            "error: upgrading to /x/sandkeep: it cannot take over; nothing has changed\n",
            "0.1.0",
        );
        assert_eq!((no.code, no.hint.is_some()), (Code::CommandFailed, true));
        assert!(no.message.contains("it cannot take over"), "{no}");
    }
}
