//! What a person sees who looks at `up`: transitions, the units' lines, progress.

use super::super::out;
use crate::cli::Global;
use crate::control::client::Client;
use crate::control::document::{Readiness, StatusDocument, UnitState, UnitStatus};
use crate::control::event_log::Transition;
use crate::control::{DaemonHandle, Event, LogPage, LogQuery, Snapshot, Time};
use crate::tasks;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Lines of one read.
const PAGE: usize = 512;
/// Between two looks of the clock at a start that goes on.
const TICK: Duration = Duration::from_secs(1);

/// From when on everything is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// From the supervisor's start on.
    Beginning,
    /// From now on: an earlier image of this process has shown the rest.
    Now,
}

/// Shows everything on a thread of its own: a terminal that does not take it holds up nobody.
pub(super) fn attach(handle: DaemonHandle, global: Global, finished: Sender<()>, from: From) {
    let thread = std::thread::Builder::new().name("console".into());
    let _ = thread.spawn(move || {
        // Signals are the main thread's business.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() {
            tasks::block_on(&runtime, show(handle, &global, from));
        }
        drop(finished);
    });
}

/// The lower end of the screen: a line of progress that other lines push up.
#[derive(Debug)]
struct Screen {
    live: bool,
    progress: String,
}

impl Screen {
    fn new() -> Self {
        Self {
            live: std::io::stderr().is_terminal() && std::io::stdout().is_terminal(),
            progress: String::new(),
        }
    }

    /// A line that stays.
    fn line(&mut self, text: &str) {
        let clear = if self.progress.is_empty() { "" } else { "\r\x1b[2K" };
        let mut stdout = anstream::stdout();
        if !clear.is_empty() {
            let _ = std::io::stderr().write_all(clear.as_bytes());
        }
        let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        self.draw();
    }

    /// The line that changes.
    fn progress(&mut self, text: String) {
        if self.live && self.progress != text {
            let _ = std::io::stderr().write_all(b"\r\x1b[2K");
            self.progress = text;
            self.draw();
        }
    }

    fn draw(&self) {
        if !self.progress.is_empty() {
            let mut stderr = anstream::stderr();
            let _ = write!(stderr, "{}", out::paint(out::DIM, &self.progress)).and_then(|()| stderr.flush());
        }
    }
}

async fn show(mut handle: DaemonHandle, global: &Global, from: From) {
    let started = Instant::now();
    let mut screen = Screen::new();
    let mut events = handle.events.clone();
    let (mut position, since) = match from {
        From::Beginning => (events.oldest(), handle.snapshot().started_at),
        From::Now => (events.last(1), Time(jiff::Timestamp::now())),
    };
    let mut changed = handle.logs.changed();
    let mut query = LogQuery {
        since: Some(since),
        limit: PAGE,
        follow: true,
        ..LogQuery::default()
    };
    let mut ready = from == From::Now && handle.snapshot().ready();
    loop {
        let (new, next) = events.read(position, PAGE);
        position = next;
        for event in &new {
            if let Some(line) = event_line(event) {
                screen.line(&line);
            }
        }
        let page = read(&handle, &mut query);
        let width = width(&handle.snapshot());
        for line in &page.lines {
            let name = out::paint(out::of_unit(&line.unit), &format!("{:width$}", line.unit));
            screen.line(&format!("{name} {} {}", out::paint(out::DIM, "|"), out::harmless(&line.text)));
        }
        let snapshot = handle.snapshot();
        if snapshot.ready() && !ready {
            let text = summary(
                &format!("ready after {}", out::span(started.elapsed())),
                &snapshot.document(),
                global,
            );
            screen.progress(String::new());
            screen.line(text.trim_end());
        }
        ready = snapshot.ready();
        screen.progress(if ready {
            String::new()
        } else {
            progress_line(&snapshot.document(), started.elapsed())
        });
        if page.more || !new.is_empty() {
            continue;
        }
        let tick = (screen.live && !ready).then_some(TICK);
        tokio::select! {
            more = events.wait(position) => if !more { return finish(&handle, &mut query, &mut screen) },
            more = changed.changed() => if more.is_err() { return finish(&handle, &mut query, &mut screen) },
            more = handle.snapshot.changed() => if more.is_err() { return finish(&handle, &mut query, &mut screen) },
            () = pause(tick) => {}
        }
    }
}

/// The last lines.
fn finish(handle: &DaemonHandle, query: &mut LogQuery, screen: &mut Screen) {
    screen.progress(String::new());
    query.follow = false;
    loop {
        let page = read(handle, query);
        for line in &page.lines {
            screen.line(&format!(
                "{} {} {}",
                out::paint(out::of_unit(&line.unit), &line.unit),
                out::paint(out::DIM, "|"),
                out::harmless(&line.text)
            ));
        }
        if !page.more {
            return;
        }
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The next lines of the units; the supervisor's own are shown as events.
fn read(handle: &DaemonHandle, query: &mut LogQuery) -> LogPage {
    let mut page = handle.logs.read(query).unwrap_or_default();
    if !page.cursor.is_empty() {
        query.after = Some(page.cursor.clone());
        query.since = None;
    }
    page.lines.retain(|line| line.unit != "sandkeep");
    page
}

fn width(snapshot: &Snapshot) -> usize {
    snapshot.units.iter().map(|unit| unit.status.name.len()).max().unwrap_or(0)
}

fn event_line(event: &Event) -> Option<String> {
    match event {
        Event::Transition(transition) => transition_line(transition),
        Event::Supervisor(notice) => Some(format!("{} {}", out::paint(out::BOLD, "sandkeep"), out::harmless(&notice.message))),
        Event::Missed(missed) => Some(format!("{} {} transitions were not shown", out::paint(out::DIM, "…"), missed.count)),
    }
}

fn transition_line(transition: &Transition) -> Option<String> {
    let (style, mark) = match transition.state {
        UnitState::Failed => (out::BAD, "✗"),
        UnitState::Active if transition.ready => (out::GOOD, "✓"),
        UnitState::Activating if transition.to == "auto-restart" => (out::BUSY, "↻"),
        UnitState::Skipped => (out::DIM, "-"),
        UnitState::Deactivating | UnitState::Reloading => (out::BUSY, "·"),
        UnitState::Activating if transition.to == "start" => (out::DIM, "·"),
        UnitState::Inactive if transition.to == "dead" && transition.from != "waiting" => (out::DIM, "■"),
        UnitState::Active | UnitState::Activating | UnitState::Inactive => return None,
    };
    let unit = out::paint(out::of_unit(&transition.unit), &transition.unit);
    let reason = if transition.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", out::harmless(&transition.reason))
    };
    let state = if transition.ready { "ready" } else { &transition.to };
    Some(format!("{} {unit} {state}{reason}", out::paint(style, mark)))
}

fn progress_line(status: &StatusDocument, elapsed: Duration) -> String {
    let open = status
        .units
        .iter()
        .filter(|unit| unit.required && !unit.ready && unit.state != UnitState::Skipped);
    let open: Vec<String> = open.map(|unit| format!("{} {}", unit.name, unit.sub_state)).collect();
    if open.is_empty() {
        String::new()
    } else {
        format!("{} · {}", out::span(elapsed), open.join(" · "))
    }
}

/// While `--detach` waits on a terminal: what it waits for.
pub(super) async fn progress(client: Client) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let (started, mut screen) = (Instant::now(), Screen::new());
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if let Ok(status) = client.status().await {
            screen.progress(progress_line(&status, started.elapsed()));
        }
    }
}

/// What there is to know once it is ready.
pub(super) fn summary(what: &str, status: &StatusDocument, global: &Global) -> String {
    let mut text = format!("{} {what}, pid {}\n", out::paint(out::GOOD, "✓ sandkeep"), status.pid);
    if let Some(port) = status.preview.port.filter(|_| status.preview.state != "off") {
        let state = &status.preview.state;
        let reason = status
            .preview
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        let note = if state == "ready" {
            String::new()
        } else {
            format!(" ({state}{reason})")
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  preview  http://127.0.0.1:{port}{}", out::harmless(&note));
    }
    if let Ok(paths) = global.paths() {
        let token = paths.token();
        if token.exists() {
            let _ = writeln!(text, "  token    {}", token.display());
        }
    }
    text
}

/// The required units that are not ready, and why.
pub(super) fn unready(status: &StatusDocument) -> Vec<String> {
    let open = status
        .units
        .iter()
        .filter(|unit| unit.required && !unit.ready && unit.state != UnitState::Skipped);
    open.map(|unit| {
        let reason = unit.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{} is {}{reason}", unit.name, word(unit).as_str())
    })
    .collect()
}

/// The unit to ask about first: one that failed by itself, else the first that is not ready.
pub(super) fn culprit(status: &StatusDocument) -> Option<String> {
    let open: Vec<&UnitStatus> = status.units.iter().filter(|unit| unit.required && !unit.ready).collect();
    let failed = open
        .iter()
        .find(|unit| unit.state == UnitState::Failed && unit.sub_state != "waiting");
    failed.or(open.first()).map(|unit| unit.name.clone())
}

fn word(unit: &UnitStatus) -> Readiness {
    match unit.state {
        UnitState::Failed => Readiness::Failed,
        UnitState::Skipped => Readiness::Skipped,
        UnitState::Active | UnitState::Reloading => Readiness::Unready,
        _ if unit.sub_state == "waiting" => Readiness::Waiting,
        _ if unit.sub_state == "dead" => Readiness::Stopped,
        UnitState::Inactive | UnitState::Activating | UnitState::Deactivating => Readiness::Starting,
    }
}
