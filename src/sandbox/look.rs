//! How a sandbox does, and what its units write.

use super::fault::{Code, Fault};
use super::inside::Inside;
use super::provider::{Command, Exit, Output, Provider, Sandbox, State, Wake};
use super::record::{Record, Records, check_name};
use crate::control::document::StatusDocument;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long reading may take.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// How long lines are followed.
const FOLLOWED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a sandbox is, from nothing to ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// No sandbox of this name was ever started from here.
    NoSuchSandbox,
    /// There was one, and its provider has it no longer.
    Gone,
    /// It is there (perhaps standing still), but no supervisor runs in it.
    NoSupervisor,
    /// The supervisor runs, and not every required unit is ready.
    NotReady,
    /// Ready.
    Ready,
}

impl Condition {
    /// The exit code of `sandbox status`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NotReady => 1,
            Self::NoSupervisor => 3,
            Self::NoSuchSandbox => 4,
            Self::Gone => 5,
        }
    }
}

/// Work in a sandbox that would be lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unsaved {
    /// Commits that no remote has.
    pub unpushed_commits: u64,
    /// Files that differ from the last commit.
    pub changed_files: u64,
    /// Files that no store has; `None` where sync is off, and so nothing is kept.
    pub unsynced_files: Option<u64>,
}

impl Unsaved {
    /// In words; nothing where all is kept.
    pub fn warnings(&self) -> Vec<String> {
        let Self {
            unpushed_commits,
            changed_files,
            unsynced_files,
        } = *self;
        let count = |number: u64, thing: &str| format!("{number} {thing}{}", if number == 1 { " is" } else { "s are" });
        let mut warnings = Vec::new();
        if unpushed_commits > 0 {
            warnings.push(format!("{} pushed nowhere", count(unpushed_commits, "commit")));
        }
        match unsynced_files {
            Some(0) => {}
            Some(files) => warnings.push(format!("{} not in the store", count(files, "changed file"))),
            None if changed_files > 0 => {
                warnings.push(format!(
                    "{} in no commit, and no store is set",
                    count(changed_files, "changed file")
                ));
            }
            None => {}
        }
        warnings
    }
}

/// How a sandbox does.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// In one word.
    pub condition: Condition,
    /// In one line, when it is not ready.
    pub reason: Option<String>,
    /// `local`, `exec` or `vercel`.
    pub provider: String,
    /// `SANDBOX_ID`.
    pub sandbox_id: String,
    /// The preview.
    pub url: Option<String>,
    /// The health endpoint.
    pub health_url: Option<String>,
    /// When the provider ends it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
    /// What would be lost with it; `None` where it cannot be asked.
    pub unsaved: Option<Unsaved>,
    /// The supervisor's own status document.
    pub status: Option<StatusDocument>,
}

impl Report {
    fn new(record: &Record, condition: Condition, reason: Option<String>) -> Self {
        Self {
            name: record.name.clone(),
            condition,
            reason,
            provider: record.provider.kind().to_owned(),
            sandbox_id: record.id.clone(),
            url: record.url.clone(),
            health_url: record.health_url.clone(),
            expires_at: record.expires_at,
            unsaved: None,
            status: None,
        }
    }
}

/// Looks how a sandbox does, without waking it.
///
/// # Errors
/// When the provider cannot be asked. That there is no sandbox, or no supervisor, is an answer and no error.
pub async fn status(record: &Record, provider: &dyn Provider) -> Result<Report, Fault> {
    let report = |condition, reason: &str| Ok(Report::new(record, condition, Some(reason.to_owned())));
    let Some(sandbox) = provider.find(&record.name, Wake::No).await? else {
        return report(Condition::Gone, "its provider has it no longer");
    };
    match sandbox.state {
        State::Ended => return report(Condition::Gone, "it has ended"),
        State::Stopped => return report(Condition::NoSupervisor, "it stands still; `sandbox start` wakes it"),
        State::Running => {}
    }
    if record.place.is_empty() {
        return report(Condition::NoSupervisor, "its start has not got far; `sandbox start` goes on");
    }
    let inside = Inside {
        provider,
        sandbox: &sandbox,
        record,
    };
    let reported = match inside.report().await {
        Ok(reported) => reported,
        // Somebody else's box whose directory is gone, or that never got our binary.
        Err(fault) if matches!(fault.code, Code::MissingProgram | Code::CommandFailed) => {
            return report(Condition::NoSupervisor, "sandkeep is not in it; `sandbox start` brings it in");
        }
        Err(fault) => return Err(fault),
    };
    let (condition, reason) = match &reported.status {
        None => (
            Condition::NoSupervisor,
            Some("no supervisor runs in it; `sandbox start` starts one".to_owned()),
        ),
        Some(status) if status.ready => (Condition::Ready, None),
        Some(status) => (Condition::NotReady, Some(unready(status))),
    };
    Ok(Report {
        expires_at: sandbox.expires_at.or(record.expires_at),
        unsaved: reported.unsaved,
        status: reported.status,
        ..Report::new(record, condition, reason)
    })
}

fn unready(status: &StatusDocument) -> String {
    let unready = status.units.iter().filter(|unit| unit.required && !unit.ready);
    let said = unready.map(|unit| match &unit.reason {
        Some(reason) => format!("{} is {} ({reason})", unit.name, unit.sub_state),
        None => format!("{} is {}", unit.name, unit.sub_state),
    });
    said.collect::<Vec<_>>().join("; ")
}

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsWanted {
    /// Of these units; of all if empty.
    pub units: Vec<String>,
    /// The last so many.
    pub lines: Option<usize>,
    /// RFC 3339, or how long ago.
    pub since: Option<String>,
    /// A regular expression.
    pub grep: Option<String>,
    /// Whether to go on with new ones.
    pub follow: bool,
    /// One JSON document a line.
    pub json: bool,
}

/// Hands over lines that units wrote, as `sandkeep logs` prints them in there. Without a supervisor they come from its files.
///
/// # Errors
/// When the sandbox is not there, or stands still.
pub async fn logs(record: &Record, provider: &dyn Provider, wanted: &LogsWanted, output: Output<'_>) -> Result<Exit, Fault> {
    let sandbox = running(record, provider).await?;
    let inside = Inside {
        provider,
        sandbox: &sandbox,
        record,
    };
    let LogsWanted {
        units,
        lines,
        since,
        grep,
        follow,
        json,
    } = wanted;
    let mut arguments = vec!["logs".to_owned()];
    let lines = lines.map(|lines| lines.to_string());
    for (name, value) in [("--lines", &lines), ("--since", since), ("--grep", grep)] {
        arguments.extend(value.iter().flat_map(|value| [name.to_owned(), value.clone()]));
    }
    arguments.extend(follow.then(|| "--follow".to_owned()));
    arguments.extend(json.then(|| "--json".to_owned()));
    arguments.push("--".to_owned());
    arguments.extend(units.iter().cloned());
    let limit = if *follow { FOLLOWED_FOR } else { READ_WITHIN };
    provider.run(&sandbox, &inside.command(arguments).within(limit), output).await
}

/// The sandbox of a record, if commands can be run in it.
pub(super) async fn running(record: &Record, provider: &dyn Provider) -> Result<Sandbox, Fault> {
    let found = provider.find(&record.name, Wake::No).await?;
    match found {
        Some(sandbox) if sandbox.state == State::Running && !record.place.is_empty() => Ok(sandbox),
        Some(sandbox) if sandbox.state != State::Ended => Err(Fault::new(
            Code::NoSupervisor,
            format!("the sandbox `{}` stands still", record.name),
        )
        .hint("`sandkeep sandbox start` with the same name wakes it")),
        _ => {
            Err(Fault::new(Code::SandboxGone, format!("the sandbox `{}` is gone", record.name))
                .hint("`sandkeep sandbox start` makes another"))
        }
    }
}

/// Runs a command in the project's directory.
///
/// # Errors
/// When the sandbox is not there, or stands still.
pub async fn exec(record: &Record, provider: &dyn Provider, command: Command, output: Output<'_>) -> Result<Exit, Fault> {
    let sandbox = running(record, provider).await?;
    let directory = command.directory.clone().or_else(|| Some(record.directory.clone()));
    let command = Command {
        directory: directory.filter(|directory| !directory.is_empty()),
        ..command
    };
    provider.run(&sandbox, &command, output).await
}

/// Has a sandbox live until then at least, as far as its provider allows, and tells the supervisor in it. Answers its deadline.
///
/// # Errors
/// When the sandbox is not there, stands still, or may not live longer.
pub async fn extend(
    name: &str,
    until: jiff::Timestamp,
    provider: &dyn Provider,
    records: &Records,
) -> Result<Option<jiff::Timestamp>, Fault> {
    check_name(name)?;
    let _held = records.hold(name, READ_WITHIN).await?;
    let mut record = records.known(name)?;
    let sandbox = running(&record, provider).await?;
    let ends = provider.extend(&sandbox, until).await?;
    if let Some(at) = ends {
        record.expires_at = Some(at);
        records.save(&record)?;
        let inside = Inside {
            provider,
            sandbox: &sandbox,
            record: &record,
        };
        inside.deadline(at).await?;
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::Unsaved;

    #[test]
    fn what_would_be_lost_is_said() {
        let said = |unpushed_commits, changed_files, unsynced_files| {
            let unsaved = Unsaved {
                unpushed_commits,
                changed_files,
                unsynced_files,
            };
            unsaved.warnings().join("; ")
        };
        assert_eq!(said(0, 0, Some(0)), "");
        assert_eq!(said(0, 3, Some(0)), "", "the store has what no commit has");
        assert_eq!(
            said(1, 0, Some(2)),
            "1 commit is pushed nowhere; 2 changed files are not in the store"
        );
        assert_eq!(
            said(2, 1, None),
            "2 commits are pushed nowhere; 1 changed file is in no commit, and no store is set"
        );
    }
}
