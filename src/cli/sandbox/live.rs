//! What a person sees of a start: a line for each step that is done, and on a terminal one that moves.

use crate::cli::out::{self, paint};
use crate::sandbox::progress::{Progress, Told};
use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks of the clock.
const TICK: Duration = Duration::from_millis(250);
/// How much of a command's output is shown.
const LAST_LINES: usize = 40;

#[derive(Debug, Default)]
struct State {
    /// The step that goes on, since when, and what was said of it last.
    current: Option<(String, Instant, String)>,
    drawn: bool,
}

/// Takes what is told.
#[derive(Clone, Debug)]
pub(super) struct Live(Screen);

/// Where it is shown: standard error.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    state: Arc<Mutex<State>>,
    quiet: bool,
    moves: bool,
}

impl Live {
    /// With `json` nothing but warnings is shown.
    pub(super) fn new(json: bool) -> (Self, Screen) {
        let screen = Screen {
            state: Arc::default(),
            quiet: json,
            moves: !json && std::io::stderr().is_terminal(),
        };
        (Self(screen.clone()), screen)
    }
}

impl Progress for Live {
    fn tell(&self, told: Told) {
        match told {
            Told::Began { step, detail } => self
                .0
                .change(|state| state.current = Some((step.as_str().to_owned(), Instant::now(), detail))),
            Told::Note { line, .. } => self.0.change(|state| {
                if let Some((_, _, said)) = &mut state.current {
                    *said = line;
                }
            }),
            Told::Done(done) => {
                let time = if done.skipped {
                    "-".to_owned()
                } else {
                    out::span(Duration::from_millis(done.duration_ms))
                };
                let line = format!("{:12} {:>7}  {}", done.step.as_str(), time, out::harmless(&done.detail));
                self.0.change(|state| state.current = None);
                let style = if done.skipped { out::DIM } else { anstyle::Style::new() };
                self.0.line(&paint(style, &line));
            }
            Told::Warning { message } => {
                let line = format!("{} {}", paint(out::BUSY, "warning:"), out::harmless(&message));
                self.0.always(&line);
            }
            Told::Failed { .. } => self.0.change(|state| state.current = None),
        }
    }
}

impl Screen {
    /// Draws the line that moves, again and again.
    pub(super) async fn keep_drawn(&self) -> Infallible {
        loop {
            tokio::time::sleep(TICK).await;
            self.change(|_| ());
        }
    }

    /// Takes the line that moves away.
    pub(super) fn clear(&self) {
        self.change(|state| state.current = None);
    }

    /// What a command wrote, its end.
    pub(super) fn output(&self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            self.always(&format!("{} {}", paint(out::DIM, " |"), out::harmless(line)));
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    fn always(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        erase(&mut state);
        let mut stderr = anstream::stderr();
        // With stderr closed nobody can be told.
        let _ = writeln!(stderr, "{text}");
        self.draw(&mut state);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        erase(&mut state);
        self.draw(&mut state);
    }

    fn draw(&self, state: &mut State) {
        let Some((step, since, said)) = state.current.as_ref().filter(|_| self.moves) else {
            return;
        };
        let mut stderr = anstream::stderr();
        let said: String = out::harmless(said).chars().take(100).collect();
        let line = format!("{step:12} {:>7}  {said}", out::span(since.elapsed()));
        let _ = write!(stderr, "{}", paint(out::DIM, &line)).and_then(|()| stderr.flush());
        state.drawn = true;
    }
}

fn erase(state: &mut State) {
    if std::mem::take(&mut state.drawn) {
        let _ = std::io::stderr().write_all(b"\r\x1b[2K");
    }
}
