//! `sandkeep sync restore`: what the `restore` unit runs.

use super::ask::Json;
use super::{Place, configuration, failure, no_store, open, runtime, show};
use crate::cli::{CliError, Global};
use crate::sync::archive;
use crate::sync::arrive::{Arrived, Progress};
use crate::sync::once;
use crate::tasks;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// By hand it gives up after this long without the store; a unit has its own start timeout.
const PATIENCE_BY_HAND: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Makes the tree what it was in this generation; the worker must not run
    #[arg(long, value_name = "GENERATION")]
    at: Option<u64>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    crate::host::become_private();
    let project = open(&configuration(&args.place, global)?)?.ok_or_else(no_store)?;
    if let Some(generation) = args.at {
        let went = tasks::block_on(&runtime()?, archive::go_back(project, generation)).map_err(failure)?;
        if args.json.json {
            show::json(&went);
        } else {
            show::line(&format!(
                "as in generation {generation}: {} files brought, {} removed, {} as they were",
                went.restored, went.removed, went.unchanged
            ));
            went.refused
                .iter()
                .for_each(|(path, why)| show::line(&format!("not restored: `{path}`: {why}")));
        }
        return Ok(if went.refused.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let patience = std::env::var_os("SANDKEEP_UNIT").is_none().then_some(PATIENCE_BY_HAND);
    let bar = Bar::new();
    let arrived = tasks::block_on(&runtime()?, once::restore(project, patience, &bar)).map_err(failure)?;
    bar.end();
    print(&arrived, args.json.json);
    Ok(ExitCode::SUCCESS)
}

fn print(arrived: &Arrived, json: bool) {
    if json {
        show::json(arrived);
    } else {
        show::arrived(arrived);
    }
}

/// Progress with bytes, files and rate: one line that is overwritten, on a terminal alone.
pub(super) struct Bar {
    shown: bool,
    started: Instant,
    total: (AtomicU64, AtomicU64),
    done: (AtomicU64, AtomicU64),
    drawn_at_ms: AtomicU64,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self {
            shown: std::io::stderr().is_terminal(),
            started: Instant::now(),
            total: Default::default(),
            done: Default::default(),
            drawn_at_ms: AtomicU64::new(0),
        }
    }

    #[expect(clippy::print_stderr, reason = "the command line is what prints")]
    pub(super) fn end(&self) {
        if self.shown && self.total.0.load(Ordering::Relaxed) > 0 {
            eprint!("\r\x1b[K");
        }
    }

    #[expect(clippy::print_stderr, reason = "the command line is what prints")]
    fn draw(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !self.shown || now < self.drawn_at_ms.load(Ordering::Relaxed) + 100 {
            return;
        }
        self.drawn_at_ms.store(now, Ordering::Relaxed);
        let (files, bytes) = (self.done.0.load(Ordering::Relaxed), self.done.1.load(Ordering::Relaxed));
        let rate = show::bytes(bytes * 1000 / now.max(1));
        let (all, whole) = (self.total.0.load(Ordering::Relaxed), self.total.1.load(Ordering::Relaxed));
        eprint!(
            "\r\x1b[K{files}/{all} files, {}/{}, {rate}/s",
            show::bytes(bytes),
            show::bytes(whole)
        );
    }
}

impl Progress for Bar {
    fn begin(&self, files: u64, bytes: u64) {
        self.total.0.store(files, Ordering::Relaxed);
        self.total.1.store(bytes, Ordering::Relaxed);
    }

    fn advance(&self, files: u64, bytes: u64) {
        self.done.0.fetch_add(files, Ordering::Relaxed);
        self.done.1.fetch_add(bytes, Ordering::Relaxed);
        self.draw();
    }
}
