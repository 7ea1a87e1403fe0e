//! The agent's part of the status document.

use super::*;
use crate::agent::session::Activity;
use serde_json::json;

impl Worker {
    /// What the agent says of itself.
    pub(super) fn part(&self) -> Value {
        let activity = self
            .slots
            .values()
            .map(|slot| slot.session.activity())
            .max()
            .unwrap_or(Activity::Idle);
        let queued = self.waiting.len() + self.slots.values().map(|slot| slot.session.queued()).sum::<usize>();
        let running: Vec<Value> = self.slots.iter().filter_map(|(name, slot)| running(name, slot)).collect();
        let counters = &self.counters;
        let convex = self.parts.convex.as_ref().map(|inbox| inbox.status());
        json!({
            "state": activity.as_str(), "running": running, "queued": queued,
            "done": counters.done, "failed": counters.failed, "cancelled": counters.cancelled,
            "cost_usd": counters.cost_usd, "turns": counters.turns, "duration_ms": counters.duration_ms, "last": counters.last,
            "version": self.parts.version, "processes": self.slots.values().filter(|slot| slot.claude.is_some()).count(),
            "key": if self.parts.surroundings.key.is_some() { "inherited descriptor; root can read memory" } else { "none in this box" },
            "inbox": {"local": self.parts.local.status(), "convex": convex},
        })
    }

    pub(super) fn count(&mut self, prompt: &Prompt, outcome: &Outcome) {
        let counters = &mut self.counters;
        match outcome.status {
            Verdict::Done => counters.done += 1,
            Verdict::Failed => counters.failed += 1,
            Verdict::Cancelled => counters.cancelled += 1,
        }
        counters.cost_usd += outcome.cost_usd;
        counters.turns += outcome.turns;
        counters.duration_ms += outcome.duration_ms;
        counters.last = json!({
            "prompt": prompt.id, "session": prompt.session, "status": outcome.status, "reason": outcome.reason, "turns": outcome.turns,
            "duration_ms": outcome.duration_ms, "cost_usd": outcome.cost_usd, "usage": outcome.usage, "durable": outcome.durable,
        });
    }

    /// Sends the part when it has changed, at most once a second.
    pub(super) fn report(&mut self, now: Instant, last: bool) {
        if !(self.changed && now >= self.report_at || last) {
            return;
        }
        self.changed = false;
        let part = self.part();
        if part == self.reported {
            return;
        }
        sd_notify::part(&part);
        if let Some(inbox) = self.parts.convex.as_mut() {
            inbox.report(&part);
        }
        self.reported = part;
        self.report_at = now + REPORT_EVERY;
    }
}

fn running(name: &str, slot: &Slot) -> Option<Value> {
    let (prompt, attempt) = slot.session.open()?;
    let questions: Vec<&str> = slot.session.questions().collect();
    Some(json!({
        "prompt": prompt.id, "session": name, "state": slot.session.activity().as_str(), "attempt": attempt, "origin": prompt.origin,
        "questions": questions,
    }))
}
