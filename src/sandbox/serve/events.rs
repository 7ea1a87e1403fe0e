//! What happens, with ids, for whoever wants to follow it: steps of starts, ends of operations, sandboxes that come and go.
//!
//! A ring in a watch channel, as the supervisor's own event log: a follower keeps the id it has seen and takes what came after; one that is
//! too slow is told that it missed something.

use crate::control::document::Time;
use crate::ordered::Order;
use crate::sandbox::fault::Fault;
use crate::sandbox::fleet::Presence;
use crate::sandbox::plan::Step;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::ToSchema;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// It waits for its turn.
    Pending,
    /// It goes on.
    Running,
    /// It is done: the sandbox is ready.
    Succeeded,
    /// It is over, and the sandbox is not ready.
    Failed,
    /// A stop of the sandbox overtook it.
    Cancelled,
}

impl OperationState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing follows.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It begins.
    Began,
    /// Something worth a line.
    Note,
    /// It is done.
    Done,
    /// Nothing had to be done.
    Skipped,
    /// It failed.
    Failed,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// An operation got so far.
    Operation(OperationEvent),
    /// A step of an operation got so far.
    Step(StepEvent),
    /// Something that the caller of an operation should know, although it goes on.
    Warning(WarningEvent),
    /// A sandbox came to be otherwise, seen from here.
    Sandbox(SandboxEvent),
    /// Some events are lost to this reader: it was too slow or away too long.
    Missed(MissedEvent),
}

/// An operation got so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationEvent {
    /// Grows, also from one server to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Which operation.
    pub operation_id: String,
    /// Which sandbox.
    pub sandbox_id: String,
    /// How far.
    pub state: OperationState,
    /// Where the preview is, when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_url: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Fault>,
}

/// A step of an operation got so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepEvent {
    /// Grows, also from one server to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Which operation.
    pub operation_id: String,
    /// Which sandbox.
    pub sandbox_id: String,
    /// Which step.
    pub step: Step,
    /// How far.
    pub state: StepState,
    /// In a line.
    pub detail: String,
    /// How long it took, when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// Something that the caller should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarningEvent {
    /// Grows, also from one server to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Which operation.
    pub operation_id: String,
    /// Which sandbox.
    pub sandbox_id: String,
    /// In one line.
    pub message: String,
}

/// A sandbox came to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxEvent {
    /// Grows, also from one server to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Which sandbox.
    pub sandbox_id: String,
    /// How it was.
    pub from: Presence,
    /// How it is.
    pub to: Presence,
}

/// Events that a reader did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissedEvent {
    /// The id to go on from.
    pub id: u64,
}

impl Event {
    /// Its id.
    pub fn id(&self) -> u64 {
        match self {
            Self::Operation(OperationEvent { id, .. })
            | Self::Step(StepEvent { id, .. })
            | Self::Warning(WarningEvent { id, .. })
            | Self::Sandbox(SandboxEvent { id, .. })
            | Self::Missed(MissedEvent { id }) => *id,
        }
    }

    /// The word in JSON and the name of the server-sent event.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operation(_) => "operation",
            Self::Step(_) => "step",
            Self::Warning(_) => "warning",
            Self::Sandbox(_) => "sandbox",
            Self::Missed(_) => "missed",
        }
    }

    /// The sandbox that it is about.
    pub fn sandbox_id(&self) -> Option<&str> {
        match self {
            Self::Operation(OperationEvent { sandbox_id, .. })
            | Self::Step(StepEvent { sandbox_id, .. })
            | Self::Warning(WarningEvent { sandbox_id, .. })
            | Self::Sandbox(SandboxEvent { sandbox_id, .. }) => Some(sandbox_id),
            Self::Missed(_) => None,
        }
    }
}

#[derive(Debug)]
struct Ring {
    next_id: u64,
    /// The id of the last one that was dropped.
    dropped: u64,
    events: VecDeque<Arc<Event>>,
}

/// The log; cheap to clone, both ends in one.
#[derive(Clone, Debug)]
pub struct EventLog {
    ring: Arc<watch::Sender<Ring>>,
    capacity: usize,
}

impl EventLog {
    /// How many events are kept.
    pub const CAPACITY: usize = 4096;

    /// A log that goes on after these. Ids begin with the seconds of `now`, so that those of a later server are larger; all fit a double.
    pub fn new(now: jiff::Timestamp, before: Vec<Event>) -> Self {
        Self::with_capacity(now, before, Self::CAPACITY)
    }

    fn with_capacity(now: jiff::Timestamp, mut before: Vec<Event>, capacity: usize) -> Self {
        before.order_by_key(Event::id);
        let seconds = u64::try_from(now.as_second()).unwrap_or(0) & 0xffff_ffff;
        let last = before.last().map_or(0, Event::id);
        let mut ring = Ring {
            next_id: ((seconds << 20) + 1).max(last + 1),
            dropped: 0,
            events: before.into_iter().map(Arc::new).collect(),
        };
        ring.shrink(capacity);
        let (ring, _) = watch::channel(ring);
        Self {
            ring: Arc::new(ring),
            capacity,
        }
    }

    /// Adds what `event` makes of its id and the moment, and gives it back.
    pub fn push(&self, event: impl FnOnce(u64, Time) -> Event) -> Arc<Event> {
        let mut pushed = None;
        let at = Time(jiff::Timestamp::now());
        self.ring.send_modify(|ring| {
            let event = Arc::new(event(ring.next_id, at));
            ring.next_id += 1;
            ring.events.push_back(event.clone());
            ring.shrink(self.capacity);
            pushed = Some(event);
        });
        pushed.expect("send_modify calls its function")
    }

    /// The id of the newest; an id that later ones exceed.
    pub fn newest(&self) -> u64 {
        self.ring.borrow().next_id - 1
    }

    /// What came after this id, at most `limit`. What is lost comes first. An id from the future (the clock was set back) means all.
    pub fn after(&self, id: u64, limit: usize) -> Vec<Arc<Event>> {
        let ring = self.ring.borrow();
        let id = if id >= ring.next_id { 0 } else { id };
        let start = ring.events.partition_point(|event| event.id() <= id);
        let mut events: Vec<_> = ring.events.iter().skip(start).take(limit).cloned().collect();
        if id > 0 && id < ring.dropped {
            events.insert(0, Arc::new(Event::Missed(MissedEvent { id: ring.dropped })));
        }
        events
    }

    /// Returns when there is something after this id.
    pub async fn wait(&self, id: u64) {
        let mut ring = self.ring.subscribe();
        // The log outlives whoever waits: both are ends of the same.
        let _ = ring.wait_for(|ring| ring.next_id - 1 > id).await;
    }
}

impl Ring {
    fn shrink(&mut self, capacity: usize) {
        while self.events.len() > capacity {
            self.dropped = self.events.pop_front().map_or(self.dropped, |event| event.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: usize) -> EventLog {
        EventLog::with_capacity(jiff::Timestamp::from_second(1).unwrap(), Vec::new(), capacity)
    }

    fn fill(log: &EventLog, count: usize) -> Vec<Event> {
        let sandbox = |id, at| {
            Event::Sandbox(SandboxEvent {
                id,
                at,
                sandbox_id: "a".into(),
                from: Presence::Unknown,
                to: Presence::Ready,
            })
        };
        (0..count).map(|_| log.push(sandbox).as_ref().clone()).collect()
    }

    #[test]
    fn a_reader_gets_what_came_since_and_is_told_what_it_missed() {
        let log = log(4);
        let all = fill(&log, 3);
        assert_eq!(log.after(all[0].id(), 9).len(), 2);
        assert_eq!(log.after(log.newest(), 9), []);
        fill(&log, 6);
        let late = log.after(all[0].id(), 9);
        assert_eq!((late.len(), late[0].kind()), (5, "missed"));
        assert_eq!(log.after(late[0].id(), 9).len(), 4);
        assert_eq!(log.after(u64::MAX, 9).len(), 4);
        assert_eq!(log.after(0, 2).len(), 2);
    }

    #[tokio::test]
    async fn a_later_server_goes_on_with_larger_ids() {
        let before = fill(&log(4), 3);
        let last = before[2].id();
        let log = EventLog::with_capacity(jiff::Timestamp::from_second(0).unwrap(), before, 4);
        assert_eq!(log.newest(), last);
        assert!(fill(&log, 1)[0].id() > last);
        log.wait(last).await;
        assert!((u64::from(u32::MAX) << 20) < 1 << 53);
    }
}
