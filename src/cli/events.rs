//! `sandkeep events`.

use super::connect::block_on;
use super::logs::AGAIN;
use super::out::{self, BAD, BUSY, DIM, GOOD, paint};
use super::{CliError, Global};
use crate::control::document::UnitState;
use crate::control::event_log::{Missed, Notice, Transition};
use crate::control::{Event, Time};
use std::process::ExitCode;

/// Shows transitions
///
/// What happened to the units, and when. Times are UTC.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Go on with what happens
    #[arg(short, long)]
    pub follow: bool,
    /// The last so many; with --follow 10 unless told otherwise
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print one JSON document a line
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let lines = args.lines.or(args.follow.then_some(10));
    block_on(async {
        let mut events = client.events(lines, args.follow).await?;
        let mut last = None;
        loop {
            while let Some(event) = events.next().await? {
                last = Some(event.id());
                if args.json {
                    out::print_json(&event)?;
                } else {
                    out::print(&line(&event))?;
                }
            }
            if !args.follow {
                return Ok(ExitCode::SUCCESS);
            }
            // The supervisor has ended, or it was upgraded: then its next image goes on from here.
            tokio::time::sleep(AGAIN).await;
            match client.events_after(last).await {
                Ok(more) => events = more,
                Err(_) => return Ok(ExitCode::SUCCESS),
            }
        }
    })
}

/// An event, for people.
pub(super) fn line(event: &Event) -> String {
    match event {
        Event::Transition(transition) => of_unit(transition),
        Event::Supervisor(Notice { at, message, .. }) => format!("{} {}\n", clock(*at), out::harmless(message)),
        Event::Missed(Missed { count, .. }) => paint(BUSY, &format!("{count} events are lost to this reader\n")),
    }
}

fn of_unit(transition: &Transition) -> String {
    let Transition {
        at,
        unit,
        state,
        from,
        to,
        ready,
        reason,
        ..
    } = transition;
    let style = match state {
        UnitState::Failed => BAD,
        _ if *ready => GOOD,
        UnitState::Inactive | UnitState::Skipped => DIM,
        UnitState::Activating | UnitState::Active | UnitState::Reloading | UnitState::Deactivating => BUSY,
    };
    let name = paint(out::of_unit(unit), unit);
    let ready = if *ready { ", ready" } else { "" };
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(": {}", out::harmless(reason))
    };
    format!(
        "{} {name} {from} → {}{ready}{reason}\n",
        clock(*at),
        paint(style, &format!("{} ({to})", state.as_str()))
    )
}

/// The time of day, for people.
pub(super) fn clock(at: Time) -> String {
    paint(DIM, &at.0.strftime("%H:%M:%S%.3f").to_string())
}
