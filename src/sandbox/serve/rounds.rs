//! The rounds: every few seconds a look at the records, which others write too.
//!
//! What the command line started is taken into the fleet, what it stopped or removed is not asked any more, and sandboxes in use get more
//! time before they end.

use super::deadlines::{DeadlinePolicy, Deadlines, Moved};
use super::desk::DeskHandle;
use super::problem::Problem;
use super::sandboxes::{Known, Sandboxes};
use crate::ordered::IntoMap;
use crate::sandbox::fault::Fault;
use crate::sandbox::fleet::{FleetHandle, FleetRow, Presence, Target};
use crate::tasks;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Sandboxes that are given more time at once.
const AT_ONCE: usize = 16;
/// What of an agent's state means that it is at a prompt.
const AT_WORK: [&str; 3] = ["running", "requires_action", "retrying"];

/// Tells the rounds that a sandbox is used; cheap to clone.
#[derive(Clone, Debug)]
pub struct Uses(mpsc::Sender<String>);

impl Uses {
    /// A sandbox is used at this moment.
    pub fn tell(&self, sandbox: &str) {
        // So many at once that one is lost: the next is told.
        let _ = self.0.try_send(sandbox.to_owned());
    }
}

/// An attempt to give a sandbox more time: which, when it ended before, and what came of it.
type Attempt = (String, Timestamp, Result<Option<Timestamp>, Fault>);

/// Goes the rounds.
pub(super) struct Rounds {
    period: std::time::Duration,
    sandboxes: Arc<dyn Sandboxes>,
    fleet: FleetHandle,
    desk: DeskHandle,
    deadlines: Deadlines,
    /// Where those that are in care are asked.
    targets: BTreeMap<String, Target>,
    /// Of which there was a record.
    recorded: BTreeSet<String>,
    attempts: JoinSet<Attempt>,
    under_way: BTreeSet<String>,
}

impl Rounds {
    /// Goes the first one, and begins the rest. Over when every [`Uses`] is gone.
    pub(super) async fn begin(policy: DeadlinePolicy, sandboxes: Arc<dyn Sandboxes>, fleet: FleetHandle, desk: DeskHandle) -> Uses {
        let (tell, uses) = mpsc::channel(1024);
        let mut rounds = Self {
            period: policy.period,
            sandboxes,
            fleet,
            desk,
            deadlines: Deadlines::new(policy),
            targets: BTreeMap::new(),
            recorded: BTreeSet::new(),
            attempts: JoinSet::new(),
            under_way: BTreeSet::new(),
        };
        // It fails only when the program ends.
        let _ = rounds.round().await;
        tasks::spawn(rounds.run(uses));
        Uses(tell)
    }

    async fn run(mut self, mut uses: mpsc::Receiver<String>) {
        let mut due = Instant::now() + self.period;
        loop {
            tokio::select! {
                used = uses.recv() => match used {
                    Some(sandbox) => self.deadlines.used(&sandbox, Timestamp::now()),
                    None => return,
                },
                Some(done) = self.attempts.join_next() => {
                    if let Ok(attempt) = done {
                        self.attempted(attempt);
                    }
                }
                () = sleep_until(due) => {
                    if self.round().await.is_err() {
                        return;
                    }
                    due = Instant::now() + self.period;
                }
            }
        }
    }

    /// Fails only when the program ends.
    async fn round(&mut self) -> Result<(), Problem> {
        // Before the records are read: who is stopped here and not there was started again since.
        let rows = self
            .fleet
            .rows()
            .await?
            .into_iter()
            .map(|row| (row.sandbox_id.clone(), row))
            .into_map();
        let latest = self.desk.latest().await?;
        let sandboxes = self.sandboxes.clone();
        let known = match tasks::spawn_blocking(move || sandboxes.known()).await {
            Ok(Ok(known)) => known,
            Ok(Err(fault)) => {
                tracing::warn!("the sandboxes are not looked through: {fault}");
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        let recorded: BTreeSet<String> = known.iter().map(|known| known.sandbox_id.clone()).collect();
        for gone in self.recorded.difference(&recorded) {
            self.fleet.remove(gone).await?;
            self.targets.remove(gone);
        }
        self.recorded = recorded;
        self.deadlines.keep(|sandbox| self.recorded.contains(sandbox));
        for known in known.iter().filter(|known| known.complete) {
            self.care(known, rows.get(&known.sandbox_id)).await?;
        }
        let starting = |sandbox: &str| latest.get(sandbox).is_some_and(|(_, state)| !state.is_over());
        let now = Timestamp::now();
        for known in known.iter().filter(|known| known.extendable && !known.stopped) {
            let sandbox = &known.sandbox_id;
            if starting(sandbox) || rows.get(sandbox).is_some_and(is_at_work) {
                self.deadlines.used(sandbox, now);
            }
            // A start that is under way looks after its sandbox itself.
            if known.complete && !starting(sandbox) {
                self.extend(known, now);
            }
        }
        Ok(())
    }

    /// Has the fleet look after a sandbox as its record says.
    async fn care(&mut self, known: &Known, row: Option<&FleetRow>) -> Result<(), Problem> {
        let sandbox = &known.sandbox_id;
        let at_rest = row.is_some_and(|row| row.presence == Presence::Stopped);
        let same = self.targets.get(sandbox) == Some(&known.target);
        if row.is_none() || (!known.stopped && (at_rest || !same)) {
            self.fleet.add(sandbox, Some(known.target.clone())).await?;
            self.targets.insert(sandbox.clone(), known.target.clone());
        }
        if known.stopped && !at_rest {
            self.fleet.stopped(sandbox).await?;
        }
        Ok(())
    }

    fn extend(&mut self, known: &Known, now: Timestamp) {
        let Some(ends) = known.expires_at.map(|time| time.0) else { return };
        if self.under_way.len() >= AT_ONCE || self.under_way.contains(&known.sandbox_id) {
            return;
        }
        let Some(until) = self.deadlines.due(&known.sandbox_id, ends, now) else {
            return;
        };
        let (sandbox, asked) = (known.sandbox_id.clone(), self.sandboxes.extend(known.sandbox_id.clone(), until));
        self.under_way.insert(sandbox.clone());
        self.attempts.spawn(async move { (sandbox, ends, asked.await) });
    }

    fn attempted(&mut self, (sandbox, before, result): Attempt) {
        self.under_way.remove(&sandbox);
        let after = result.as_ref().ok().copied();
        match self.deadlines.moved(&sandbox, before, after, Timestamp::now()) {
            Moved::Later => tracing::debug!("`{sandbox}` is in use and ends later"),
            Moved::NoMore => tracing::warn!("`{sandbox}` is in use and ends at {before:.0}: its provider's plan gives it no more time"),
            Moved::NotYet => {
                let why = result.err().map_or_else(String::new, |fault| fault.to_string());
                tracing::warn!("`{sandbox}` is in use and ends at {before:.0}; it is not given more time: {why}");
            }
        }
    }
}

fn is_at_work(row: &FleetRow) -> bool {
    let heard = matches!(row.presence, Presence::Ready | Presence::NotReady);
    heard && row.agent.as_deref().is_some_and(|state| AT_WORK.contains(&state))
}
