//! The transitions of late, with ids, for whoever wants to follow them.
//!
//! A ring in a watch channel: a follower keeps the id it has seen and takes what came after. It has no buffer of its own to overflow;
//! one that is too slow finds its place overwritten and is told how many it missed.

use super::document::{Time, UnitState};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::ToSchema;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A unit went from one state to another.
    Transition(Transition),
    /// The supervisor itself: started, reloaded, was paused, shuts down.
    Supervisor(Notice),
    /// This many events are lost to this reader: it was too slow or away too long.
    Missed(Missed),
}

/// A unit went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// Grows, also from one supervisor to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Which unit.
    pub unit: String,
    /// Of which run.
    pub invocation: u64,
    /// `sub_state` before.
    pub from: String,
    /// `state` after.
    pub state: UnitState,
    /// `sub_state` after.
    pub to: String,
    /// Whether it is ready after.
    pub ready: bool,
    /// Why, for people.
    pub reason: String,
}

/// Something about the supervisor itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Grows, also from one supervisor to the next.
    pub id: u64,
    /// When.
    pub at: Time,
    /// What, for people.
    pub message: String,
}

/// Events that a reader did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// The id to go on from.
    pub id: u64,
    /// How many.
    pub count: u64,
}

impl Event {
    /// Its id.
    pub fn id(&self) -> u64 {
        match self {
            Self::Transition(Transition { id, .. }) | Self::Supervisor(Notice { id, .. }) | Self::Missed(Missed { id, .. }) => *id,
        }
    }

    /// The word in JSON and the name of the server-sent event.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Transition(_) => "transition",
            Self::Supervisor(_) => "supervisor",
            Self::Missed(_) => "missed",
        }
    }
}

#[derive(Debug)]
struct Ring {
    first_id: u64,
    events: VecDeque<Arc<Event>>,
}

impl Ring {
    fn next_id(&self) -> u64 {
        self.first_id + self.events.len() as u64
    }
}

/// What a log leaves to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedEvents {
    first_id: u64,
    events: Vec<Arc<Event>>,
}

/// The writing end, the daemon's.
#[derive(Debug)]
pub struct EventLog {
    ring: watch::Sender<Ring>,
    capacity: usize,
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct EventReader {
    ring: watch::Receiver<Ring>,
}

/// Where a reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u64);

impl EventLog {
    /// How many events are kept.
    pub const CAPACITY: usize = 2048;

    /// An empty log. Ids begin with the seconds of `now`, so that those of a later supervisor are larger; all fit a double.
    pub fn new(now: Time) -> Self {
        Self::with_capacity(now, Self::CAPACITY)
    }

    fn with_capacity(now: Time, capacity: usize) -> Self {
        let seconds = u64::try_from(now.0.as_second()).unwrap_or(0) & 0xffff_ffff;
        let (ring, _) = watch::channel(Ring {
            first_id: (seconds << 20) + 1,
            events: VecDeque::new(),
        });
        Self { ring, capacity }
    }

    /// Adds a unit's transition.
    pub fn transition(&self, at: Time, transition: &crate::supervisor::Transition) {
        self.push(|id| {
            Event::Transition(Transition {
                id,
                at,
                unit: transition.unit.as_str().to_owned(),
                invocation: transition.invocation,
                from: transition.from.to_owned(),
                state: UnitState::parse(transition.state).unwrap_or_default(),
                to: transition.to.to_owned(),
                ready: transition.ready,
                reason: transition.reason.clone(),
            })
        });
    }

    /// Adds something about the supervisor itself.
    pub fn notice(&self, at: Time, message: impl Into<String>) {
        let message = message.into();
        self.push(|id| Event::Supervisor(Notice { id, at, message }));
    }

    fn push(&self, event: impl FnOnce(u64) -> Event) {
        self.ring.send_modify(|ring| {
            let event = Arc::new(event(ring.next_id()));
            ring.events.push_back(event);
            while ring.events.len() > self.capacity {
                ring.events.pop_front();
                ring.first_id += 1;
            }
        });
    }

    /// What is kept, for the log of the next image.
    pub fn hand_over(&self) -> HandedEvents {
        let ring = self.ring.borrow();
        HandedEvents {
            first_id: ring.first_id,
            events: ring.events.iter().cloned().collect(),
        }
    }

    /// The log that goes on where an earlier one was: ids grow on.
    pub fn inherit(handed: HandedEvents) -> Self {
        let (ring, _) = watch::channel(Ring {
            first_id: handed.first_id,
            events: handed.events.into(),
        });
        Self {
            ring,
            capacity: Self::CAPACITY,
        }
    }

    /// A reading end.
    pub fn reader(&self) -> EventReader {
        EventReader {
            ring: self.ring.subscribe(),
        }
    }
}

impl EventReader {
    /// Before the oldest that is kept.
    pub fn oldest(&self) -> Position {
        Position(self.ring.borrow().first_id)
    }

    /// After the newest.
    pub fn newest(&self) -> Position {
        Position(self.ring.borrow().next_id())
    }

    /// Before the last so many.
    pub fn last(&self, count: usize) -> Position {
        let ring = self.ring.borrow();
        Position(ring.first_id + ring.events.len().saturating_sub(count) as u64)
    }

    /// After the event of this id. An id from the future (the clock was set back) means the oldest that is kept.
    pub fn after(&self, id: u64) -> Position {
        let ring = self.ring.borrow();
        if id >= ring.next_id() {
            Position(ring.first_id)
        } else {
            Position(id + 1)
        }
    }

    /// What came since, at most `limit`, and the position after it; what is lost comes first.
    pub fn read(&mut self, position: Position, limit: usize) -> (Vec<Arc<Event>>, Position) {
        let ring = self.ring.borrow_and_update();
        let lost = ring.first_id.saturating_sub(position.0);
        let start = position.0.max(ring.first_id);
        let skip = usize::try_from(start - ring.first_id).unwrap_or(usize::MAX);
        let mut events: Vec<Arc<Event>> = ring.events.iter().skip(skip).take(limit).cloned().collect();
        let end = Position(start + events.len() as u64);
        if lost > 0 {
            let missed = Missed {
                id: ring.first_id - 1,
                count: lost,
            };
            events.insert(0, Arc::new(Event::Missed(missed)));
        }
        (events, end)
    }

    /// Returns when there is something after this position; `false` when there never will be.
    pub async fn wait(&mut self, position: Position) -> bool {
        self.ring.wait_for(|ring| ring.next_id() > position.0).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: usize) -> EventLog {
        EventLog::with_capacity(Time(jiff::Timestamp::from_second(1).unwrap()), capacity)
    }

    fn fill(log: &EventLog, count: usize) {
        for n in 0..count {
            log.notice(Time(jiff::Timestamp::UNIX_EPOCH), n.to_string());
        }
    }

    #[test]
    fn a_reader_gets_what_came_since() {
        let log = log(8);
        let mut reader = log.reader();
        let position = reader.newest();
        assert_eq!(reader.read(position, 10), (vec![], position));
        fill(&log, 3);
        let (events, after) = reader.read(position, 2);
        assert_eq!(events.len(), 2);
        let (rest, end) = reader.read(after, 10);
        assert_eq!(rest.len(), 1);
        assert_eq!(end, reader.newest());
        assert_eq!(reader.after(events[1].id()), after);
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let log = log(4);
        let mut reader = log.reader();
        let position = reader.oldest();
        fill(&log, 10);
        let (events, end) = reader.read(position, 100);
        let Event::Missed(missed) = *events[0] else { panic!("{events:?}") };
        assert_eq!((missed.count, events.len()), (6, 5));
        assert_eq!(reader.read(end, 100), (vec![], end));
        let again = reader.after(missed.id);
        assert_eq!(reader.read(again, 100).0.len(), 4);
    }

    #[test]
    fn an_id_from_the_future_starts_over() {
        let log = log(4);
        fill(&log, 2);
        let mut reader = log.reader();
        let position = reader.after(u64::MAX);
        assert_eq!(reader.read(position, 9).0.len(), 2);
    }

    #[test]
    fn ids_grow_over_restarts_and_fit_a_double() {
        let later = EventLog::new(Time(jiff::Timestamp::from_second(u32::MAX.into()).unwrap()));
        assert!(later.reader().newest().0 < 1 << 53);
        assert!(later.reader().newest().0 > log(1).reader().newest().0);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_log() {
        let log = log(4);
        let mut reader = log.reader();
        let position = reader.newest();
        fill(&log, 1);
        assert!(reader.wait(position).await);
        let position = reader.newest();
        drop(log);
        assert!(!reader.wait(position).await);
    }
}
