//! Another binary in a sandbox that runs: its processes stay, and keep their pids.

use super::binary::Binary;
use super::fault::{Code, Fault};
use super::inside::{Inside, failed};
use super::look::running;
use super::provider::{Body, Command, Provider, Upload, hear};
use super::record::Records;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// How long another command of the same name is waited for.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How long the handover may take.
const WITHIN: Duration = Duration::from_secs(180);

/// Puts `$1.next` in the place of `$1` and keeps the old one until the handover of instance `$2` is over; `$3` asks for the workers too.
const UPGRADE: &str = r#"set -e
chmod 755 "$1.next"
[ ! -e "$1" ] || ln -f "$1" "$1.last"
mv -f "$1.next" "$1"
set +e
"$1" --instance "$2" upgrade "$1" $3
code=$?
if [ $code -ne 0 ] && [ -e "$1.last" ]; then mv -f "$1.last" "$1"; fi
rm -f "$1.last"
exit $code"#;

/// What an upgrade came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Upgraded {
    /// The sandbox's name.
    pub name: String,
    /// `false`: the very same binary ran already.
    pub changed: bool,
    /// The version that ran before, where it is known.
    pub from: Option<String>,
    /// The version that runs.
    pub to: Option<String>,
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
    let binary = tokio::task::spawn_blocking(move || Binary::read(path.as_deref()));
    let binary = binary.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let sandbox = running(&record, provider).await?;
    let inside = Inside {
        provider,
        sandbox: &sandbox,
        record: &record,
    };
    let look = Command::shell("uname -m; sha256sum \"$0\" 2>/dev/null | cut -d' ' -f1").arg(record.binary());
    let (_, heard) = hear(provider, &sandbox, &look).await?;
    let text = heard.text();
    let mut lines = text.lines();
    binary.check(lines.next().unwrap_or_default())?;
    let from = version(&inside).await?;
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
        return Err(failed("upgrading", exit, &heard.both()));
    }
    upgraded.changed = true;
    upgraded.to = version(&inside).await?;
    Ok(upgraded)
}

/// The version of the supervisor that runs.
async fn version(inside: &Inside<'_>) -> Result<Option<String>, Fault> {
    match inside.report().await?.status {
        Some(status) => Ok(Some(status.version)),
        None => Err(Fault::new(Code::NoSupervisor, "no supervisor runs in the sandbox").hint("`sandkeep sandbox start` starts one")),
    }
}
