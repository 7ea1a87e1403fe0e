//! `sandkeep logs`.

use super::connect::block_on;
use super::events::clock;
use super::out::{self, BUSY, paint};
use super::{CliError, Global};
use crate::control::client::{Client, ClientError, LinesWanted};
use crate::control::{LogLine, LogQuery, Logs, ReadLogsError, params};
use crate::daemon::JournalLogs;
use crate::host::Environment;
use crate::host::journal::Reader;
use crate::host::mask::Masker;
use crate::ordered::IntoMap;
use crate::unit::{Config, Flags, Source, load};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shows what units wrote
///
/// Lines of several units are merged by time. Times are UTC. Secrets are masked.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Units; all if none is named
    pub units: Vec<String>,
    /// Go on with what is written
    #[arg(short, long)]
    pub follow: bool,
    /// The last so many; with --follow 10 unless told otherwise
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Not older than this: `2026-02-03T04:05:06Z`, `2026-02-03`, `14:02`, or how long ago: `5min`
    #[arg(long, value_name = "TIME", value_parser = known_time)]
    pub since: Option<String>,
    /// Matching this regular expression
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Print one JSON document a line
    #[arg(long)]
    pub json: bool,
    /// Print what was written alone, without time and unit
    #[arg(long, conflicts_with = "json")]
    pub plain: bool,
}

fn known_time(text: &str) -> Result<String, String> {
    params::time(text, jiff::Timestamp::now()).map(|_| text.to_owned())
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let asked = block_on(async { Ok(show(&client, &args).await) })?;
    match asked {
        Err(Failure::NoSupervisor(error)) => {
            let directory = global.paths()?.state.join("logs");
            if !directory.is_dir() {
                return Err(error.into());
            }
            show_files(directory, &args)?;
        }
        Err(Failure::Other(error)) => return Err(error),
        Ok(()) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// From the end of a stream that was followed to asking for the rest.
pub(super) const AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Why lines were not shown.
enum Failure {
    NoSupervisor(ClientError),
    Other(CliError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoSupervisor { .. } => Self::NoSupervisor(error),
            ClientError::Problem(_) | ClientError::Broken(_) | ClientError::Unreadable(_) => Self::Other(error.into()),
        }
    }
}

/// What an earlier supervisor's units wrote, from the files. Secrets are masked as far as this environment knows them.
fn show_files(directory: PathBuf, args: &Args) -> Result<(), CliError> {
    let environment = Environment::new(std::env::vars_os(), &secret_names());
    let reader = Reader::new(directory, Masker::new(environment.secret_values()));
    let (_sender, changed) = tokio::sync::watch::channel(0);
    let logs = JournalLogs::new(reader, changed);
    let time = args.since.as_deref().map(|text| params::time(text, jiff::Timestamp::now()));
    let grep = args.grep.as_deref().map(regex::Regex::new).transpose();
    let mut query = LogQuery {
        units: args.units.clone(),
        since: time.transpose().map_err(CliError::usage)?,
        grep: grep.map_err(|error| CliError::usage(error.to_string()))?,
        tail: args.lines,
        limit: 512,
        ..LogQuery::default()
    };
    let mut printer = Printer::new(args);
    loop {
        let page = logs.read(&query).map_err(unreadable)?;
        for line in &page.lines {
            printer.print(line)?;
        }
        if !page.more {
            return Ok(());
        }
        query = LogQuery {
            after: Some(page.cursor),
            tail: None,
            since: None,
            ..query
        };
    }
}

fn unreadable(error: ReadLogsError) -> CliError {
    let code = match error {
        ReadLogsError::NoSuchUnit(_) => 4,
        ReadLogsError::BadCursor(_) | ReadLogsError::Io { .. } => 1,
    };
    CliError {
        code,
        ..CliError::failed(error.to_string())
    }
}

/// What counts as a secret: as the configuration here says, if there is a valid one.
fn secret_names() -> Vec<String> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .into_map();
    let loaded = load(&Source::in_directory(Path::new(".")), &Flags::default(), &environment);
    loaded.map_or_else(
        |_| Config::SECRET_NAMES.map(str::to_owned).to_vec(),
        |loaded| loaded.config.secret_names,
    )
}

async fn show(client: &Client, args: &Args) -> Result<(), Failure> {
    let begun = jiff::Timestamp::now();
    let mut wanted = LinesWanted {
        units: args.units.clone(),
        lines: args.lines.or((args.follow && args.since.is_none()).then_some(10)),
        since: args.since.clone(),
        grep: args.grep.clone(),
        cursor: None,
        follow: args.follow,
    };
    let mut lines = client.logs(&wanted).await?;
    let mut printer = Printer::new(args);
    loop {
        while let Some(line) = lines.next().await? {
            printer.print(&line).map_err(Failure::Other)?;
            wanted.cursor = Some(line.cursor);
        }
        if !args.follow {
            return Ok(());
        }
        // The supervisor has ended, or it was upgraded: then its next image goes on from here.
        tokio::time::sleep(AGAIN).await;
        wanted.lines = None;
        wanted.since = wanted.cursor.is_none().then(|| begun.to_string());
        match client.logs(&wanted).await {
            Ok(more) => lines = more,
            Err(_) => return Ok(()),
        }
    }
}

/// How lines are shown.
struct Printer {
    json: bool,
    plain: bool,
    width: usize,
}

impl Printer {
    fn new(args: &Args) -> Self {
        let width = args.units.iter().map(String::len).max().unwrap_or(0);
        Self {
            json: args.json,
            plain: args.plain,
            width,
        }
    }

    fn print(&mut self, line: &LogLine) -> Result<(), CliError> {
        if self.json {
            out::print_json(line)
        } else if self.plain {
            out::print(&format!("{}\n", out::harmless(&line.text)))
        } else {
            out::print(&self.told(line))
        }
    }

    /// The column of names grows with the longest that was seen.
    fn told(&mut self, line: &LogLine) -> String {
        self.width = self.width.max(line.unit.chars().count());
        let name = format!("{:width$}", line.unit, width = self.width);
        let text = out::harmless(&line.text);
        // What the log says about itself, such as lines that are lost, is not the unit's word.
        let text = if line.stream == "sandkeep" { paint(BUSY, &text) } else { text };
        format!("{} {} {text}\n", clock(line.at), paint(out::of_unit(&line.unit), &name))
    }
}
