//! `sandkeep logs`.

use super::connect::block_on;
use super::events::clock;
use super::out::{self, BUSY, paint};
use super::{CliError, Global};
use crate::control::LogLine;
use crate::control::client::{Client, LinesWanted};
use crate::control::params;
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
    block_on(async {
        show(&client, &args).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn show(client: &Client, args: &Args) -> Result<(), CliError> {
    let wanted = LinesWanted {
        units: args.units.clone(),
        lines: args.lines.or((args.follow && args.since.is_none()).then_some(10)),
        since: args.since.clone(),
        grep: args.grep.clone(),
        cursor: None,
        follow: args.follow,
    };
    let mut lines = client.logs(&wanted).await?;
    let mut printer = Printer::new(args);
    while let Some(line) = lines.next().await? {
        printer.print(&line)?;
    }
    Ok(())
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
