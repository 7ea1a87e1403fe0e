//! What is told of the worker: its part of the status, on change and at most once a second.

use super::{Lane, TELL_EVERY, Worker};
use crate::ordered::IntoMap;
use crate::sd_notify;
use crate::sync::status::{Part, State};
use std::time::Instant;

impl Worker {
    pub(super) fn part(&self, state: State) -> Part {
        let requests = self.engine.project.store.requests();
        let hours = self.now().as_secs_f64().max(60.0) / 3600.0;
        Part {
            state,
            generation: self.engine.manifest.generation,
            pending: (self.lanes.pending(Lane::Fast) + self.lanes.pending(Lane::Batch)) as u64,
            pending_fast: self.lanes.pending(Lane::Fast) as u64,
            pending_batch: self.lanes.pending(Lane::Batch) as u64,
            oldest_unsynced_ms: self.lanes.oldest().map_or(0, |first| {
                u64::try_from((self.now().saturating_sub(first)).as_millis()).unwrap_or(u64::MAX)
            }),
            excluded_changed: self.excluded_changed.len() as u64,
            last_upload_at: self.last_upload_at.clone(),
            files: self.engine.index.files.len() as u64,
            bytes: self.engine.index.bytes(),
            errors: self.errors,
            last_error: self.last_error.clone(),
            held_deletes: self.deletes.pending() as u64,
            held_because: self.held.map(|held| held.to_string()),
            conflicts: self.engine.tally.conflicts,
            odd: self
                .engine
                .odd
                .iter()
                .take(20)
                .map(|(path, why)| (path.clone(), why.clone()))
                .into_map(),
            watching: self
                .watch
                .polling()
                .map_or_else(|| "inotify".to_owned(), |why| format!("polling: {why}")),
            requests: requests.into(),
            cost_per_hour: requests.cost() / hours,
        }
    }

    pub(super) fn show(&mut self, state: State) {
        let part = self.part(state);
        self.tell.send_replace(part.clone());
        if self.told.state != state {
            self.say(part);
        }
    }

    pub(super) fn unsaid(&self) -> bool {
        *self.tell.borrow() != self.told
    }

    pub(super) fn publish(&mut self, now: bool) {
        let quiet = Part {
            // These two change by themselves and are no news.
            oldest_unsynced_ms: self.told.oldest_unsynced_ms,
            cost_per_hour: self.told.cost_per_hour,
            ..self.part(self.resting)
        };
        let news = quiet != self.told;
        self.tell.send_replace(if news { self.part(self.resting) } else { quiet });
        let due = self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if now || (news && due) {
            let part = self.tell.borrow().clone();
            self.say(part);
        }
    }

    pub(super) fn say(&mut self, part: Part) {
        self.told_at = Some(Instant::now());
        // Where nobody reads it, it is said again in a second.
        if serde_json::to_value(&part).is_ok_and(|json| sd_notify::part(&json)) {
            self.told = part;
        }
    }
}
