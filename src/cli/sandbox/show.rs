//! `sandkeep sandbox status`, `logs`, `list`.

use super::{failure, open, records, unless_interrupted, variable};
use crate::cli::out::{self, paint};
use crate::cli::{CliError, status as inside_status};
use crate::sandbox::look::{Condition, LogsWanted, Report};
use crate::sandbox::provider::{State, Stream, Wake};
use crate::sandbox::record::Record;
use crate::sandbox::{Code, logs as read_logs, status as look};
use futures_util::future::join_all;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// How long one provider may take to say how a sandbox is.
const STATE_WITHIN: Duration = Duration::from_secs(20);

/// Tells how a sandbox does
///
/// Exits with 0 when it is ready, with 1 when not, with 3 if no supervisor runs in it, with 4 if there is no such sandbox, with 5 if it is
/// gone.
#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    /// The sandbox
    name: String,
    /// Print the report as JSON, with the supervisor's status document in it
    #[arg(long)]
    json: bool,
}

pub(super) fn status(args: StatusArgs) -> Result<ExitCode, CliError> {
    let report = unless_interrupted(async {
        let (record, provider) = open(&args.name)?;
        look(&record, provider.as_ref()).await
    })?;
    let report = match report {
        Ok(report) => report,
        Err(fault) => return Err(failure(&fault, args.json)),
    };
    if args.json {
        out::print_json(&report)?;
    } else {
        out::print(&told(&report))?;
    }
    Ok(ExitCode::from(report.condition.exit_code()))
}

fn told(report: &Report) -> String {
    let (style, word) = match report.condition {
        Condition::Ready => (out::GOOD, "ready"),
        Condition::NotReady => (out::BUSY, "not ready"),
        Condition::NoSupervisor => (out::BAD, "no supervisor"),
        Condition::NoSuchSandbox => (out::BAD, "no such sandbox"),
        Condition::Gone => (out::BAD, "gone"),
    };
    let mut text = format!(
        "{} {} · {} · {}",
        paint(out::BOLD, &report.name),
        paint(style, word),
        report.provider,
        report.sandbox_id
    );
    if let Some(reason) = &report.reason {
        text.push_str(&format!(" · {reason}"));
    }
    text.push('\n');
    for (what, url) in [("preview", &report.url), ("health", &report.health_url)] {
        if let Some(url) = url {
            text.push_str(&format!("{what:8} {url}\n"));
        }
    }
    for warning in report.unsaved.iter().flat_map(|unsaved| unsaved.warnings()) {
        text.push_str(&format!("{} {warning}\n", paint(out::BUSY, "unsaved:")));
    }
    if let Some(status) = &report.status {
        text.push('\n');
        text.push_str(&inside_status::whole(status, jiff::Timestamp::now()));
    }
    text
}

/// Shows what the units in a sandbox wrote
#[derive(clap::Args, Debug)]
pub(super) struct LogsArgs {
    /// The sandbox
    name: String,
    /// Units; all if none is named
    units: Vec<String>,
    /// Go on with what is written
    #[arg(short, long)]
    follow: bool,
    /// The last so many
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
    /// Not older than this: a time, or how long ago: `5min`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Matching this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Print one JSON document a line
    #[arg(long)]
    json: bool,
}

pub(super) fn logs(args: LogsArgs) -> Result<ExitCode, CliError> {
    let wanted = LogsWanted {
        units: args.units,
        lines: args.lines,
        since: args.since,
        grep: args.grep,
        follow: args.follow,
        json: args.json,
    };
    let exit = unless_interrupted(async {
        let (record, provider) = open(&args.name)?;
        read_logs(&record, provider.as_ref(), &wanted, &mut pass_on).await
    });
    match exit {
        Ok(exit) => Ok(exit_code(exit?.0)),
        Err(error) if error.code == 130 && args.follow => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// What a command in a sandbox writes, written here.
pub(super) fn pass_on(stream: Stream, chunk: &[u8]) {
    // Who does not read any more is not written to; the command ends by itself.
    let _ = match stream {
        Stream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(chunk).and_then(|()| stdout.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(chunk),
    };
}

/// The exit code of a command in a sandbox as our own.
pub(super) fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Lists the sandboxes that were started from here
#[derive(clap::Args, Debug)]
pub(super) struct ListArgs {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    provider: String,
    sandbox_id: String,
    /// `running`, `stopped`, `ended`, `gone`, or `unknown` with why.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    url: Option<String>,
    created_at: jiff::Timestamp,
    expires_at: Option<jiff::Timestamp>,
}

pub(super) fn list(args: ListArgs) -> Result<ExitCode, CliError> {
    let all = records()?.all()?;
    let listed = unless_interrupted(async { Ok(join_all(all.iter().map(listed)).await) })??;
    if args.json {
        out::print_json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAME", "STATE", "PROVIDER", "ID", "PREVIEW"]
        .map(|cell| paint(out::DIM, cell))
        .to_vec();
    let rows = listed.iter().map(|listed| {
        let Listed {
            name,
            state,
            provider,
            sandbox_id,
            url,
            ..
        } = listed;
        let url = url.clone().unwrap_or_default();
        vec![name.clone(), state.clone(), provider.clone(), sandbox_id.clone(), url]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    out::print(&out::table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn listed(record: &Record) -> Listed {
    let asked = async {
        let provider = record.provider.open(&variable)?;
        provider.find(&record.name, Wake::No).await
    };
    let found = tokio::time::timeout(STATE_WITHIN, asked).await;
    let found = found.unwrap_or_else(|_| Err(crate::sandbox::Fault::new(Code::Unreachable, "no answer in time")));
    let (state, error) = match found {
        Ok(None) => ("gone", None),
        Ok(Some(sandbox)) => match sandbox.state {
            State::Running => ("running", None),
            State::Stopped => ("stopped", None),
            State::Ended => ("ended", None),
        },
        Err(fault) => ("unknown", Some(fault.message)),
    };
    Listed {
        name: record.name.clone(),
        provider: record.provider.kind().to_owned(),
        sandbox_id: record.id.clone(),
        state: state.to_owned(),
        error,
        url: record.url.clone(),
        created_at: record.created_at,
        expires_at: record.expires_at,
    }
}
