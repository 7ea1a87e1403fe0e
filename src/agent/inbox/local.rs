//! The queue on this disk: one file a prompt.

use super::{Inbox, Notice};
use crate::agent::outbox::epoch_ms;
use crate::agent::prompt::{Outcome, Prompt, PromptId, Verdict};
use crate::agent::transcript::replace;
use crate::ordered::Order;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::UnboundedSender;

/// Ended prompts that are kept for whoever comes back to ask.
const KEPT: usize = 500;

/// Where a prompt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits.
    Pending,
    /// It runs.
    Claimed,
    /// It ended as asked.
    Done,
    /// It did not work.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<Verdict> for Status {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::Done,
            Verdict::Failed => Self::Failed,
            Verdict::Cancelled => Self::Cancelled,
        }
    }
}

/// A prompt and where it stands, as its file and the HTTP API have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The prompt.
    #[serde(flatten)]
    pub prompt: Prompt,
    /// Its place in the queue.
    pub order: u64,
    /// Where it stands.
    pub status: Status,
    /// Attempts so far.
    pub attempt: u32,
    /// Milliseconds since the epoch.
    pub created_at: u64,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl Entry {
    fn open(&self) -> bool {
        matches!(self.status, Status::Pending | Status::Claimed)
    }
}

/// The queue.
#[derive(Debug)]
pub struct Local {
    directory: PathBuf,
    entries: BTreeMap<PromptId, Entry>,
    next_order: u64,
    notices: UnboundedSender<Notice>,
}

impl Local {
    /// Opens the queue and offers what is open in it, in order.
    pub fn open(directory: &Path, notices: UnboundedSender<Notice>) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut entries = BTreeMap::new();
        for file in std::fs::read_dir(directory)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match serde_json::from_slice::<Entry>(&std::fs::read(&path)?) {
                Ok(entry) => {
                    entries.insert(entry.prompt.id.clone(), entry);
                }
                Err(error) => tracing::warn!("leaving out {}: {error}", path.display()),
            }
        }
        let next_order = entries.values().map(|entry| entry.order + 1).max().unwrap_or(0);
        let queue = Self {
            directory: directory.to_owned(),
            entries,
            next_order,
            notices,
        };
        let mut open: Vec<&Entry> = queue.entries.values().filter(|entry| entry.open()).collect();
        open.order_by_key(|entry| entry.order);
        // Resumed ones go to the front of their session, so they are offered last to first.
        let (claimed, pending): (Vec<&Entry>, Vec<&Entry>) = open.into_iter().partition(|entry| entry.status == Status::Claimed);
        for entry in claimed.into_iter().rev().chain(pending) {
            queue.offer(entry);
        }
        Ok(queue)
    }

    fn offer(&self, entry: &Entry) {
        self.tell(Notice::Offer {
            prompt: Box::new(entry.prompt.clone()),
            resumed: entry.status == Status::Claimed,
            flaw: None,
        });
    }

    fn tell(&self, notice: Notice) {
        // The worker is gone when it no longer listens.
        let _ = self.notices.send(notice);
    }

    /// Takes a prompt in; it is on the disk when this returns. One that is there already stays as it is.
    pub fn submit(&mut self, prompt: Prompt) -> io::Result<Entry> {
        if let Some(entry) = self.entries.get(&prompt.id) {
            return Ok(entry.clone());
        }
        let entry = Entry {
            order: self.next_order,
            status: Status::Pending,
            attempt: 0,
            created_at: epoch_ms(),
            outcome: None,
            prompt,
        };
        self.save(&entry)?;
        self.next_order += 1;
        self.offer(&entry);
        self.entries.insert(entry.prompt.id.clone(), entry.clone());
        self.prune();
        Ok(entry)
    }

    /// A prompt.
    pub fn entry(&self, id: &PromptId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// The last prompts, newest first.
    pub fn latest(&self, count: usize) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.order_by_key(|entry| std::cmp::Reverse(entry.order));
        entries.truncate(count);
        entries
    }

    fn save(&self, entry: &Entry) -> io::Result<()> {
        let text = serde_json::to_vec(entry).unwrap_or_default();
        replace(&self.directory.join(format!("{}.json", entry.prompt.id)), &text)
    }

    fn change(&mut self, id: &PromptId, change: impl FnOnce(&mut Entry)) -> io::Result<Option<Entry>> {
        let Some(mut entry) = self.entries.get(id).cloned() else {
            return Ok(None);
        };
        change(&mut entry);
        self.save(&entry)?;
        self.entries.insert(id.clone(), entry.clone());
        Ok(Some(entry))
    }

    fn prune(&mut self) {
        let mut ended: Vec<(u64, PromptId)> = self
            .entries
            .values()
            .filter(|entry| !entry.open())
            .map(|entry| (entry.order, entry.prompt.id.clone()))
            .collect();
        ended.order();
        let surplus = ended.len().saturating_sub(KEPT);
        for (_, id) in ended.into_iter().take(surplus) {
            self.entries.remove(&id);
            if let Err(error) = std::fs::remove_file(self.directory.join(format!("{id}.json"))) {
                tracing::debug!("removing an old prompt: {error}");
            }
        }
    }
}

impl Inbox for Local {
    fn claim(&mut self, id: &PromptId) {
        let open = self.entries.get(id).is_some_and(Entry::open);
        let claimed = open.then(|| {
            self.change(id, |entry| {
                entry.status = Status::Claimed;
                entry.attempt += 1;
            })
        });
        let id = id.clone();
        match claimed {
            Some(Ok(Some(entry))) => self.tell(Notice::Claimed {
                id,
                attempt: entry.attempt,
                first_seq: 1,
                text: None,
                fresh: false,
            }),
            Some(Err(error)) => {
                tracing::error!("claiming prompt {id}: {error}");
                self.tell(Notice::Refused { id });
            }
            Some(Ok(None)) | None => self.tell(Notice::Refused { id }),
        }
    }

    fn renew(&mut self, id: &PromptId, attempt: u32) {
        self.tell(Notice::Renewed {
            id: id.clone(),
            attempt,
            held: true,
        });
    }

    fn ask(&mut self, _id: &PromptId, _attempt: u32, _question: &str, _body: &Value) {}

    fn settle(&mut self, _id: &PromptId, _attempt: u32, _question: &str) {}

    fn finish(&mut self, id: &PromptId, outcome: &Outcome, _last_seq: u64) {
        let changed = self.change(id, |entry| {
            entry.status = outcome.status.into();
            entry.outcome = Some(outcome.clone());
        });
        if let Err(error) = changed {
            tracing::error!("keeping the end of prompt {id}: {error}");
        }
    }

    fn report(&mut self, _part: &Value) {}

    fn status(&self) -> Value {
        json!({"open": self.entries.values().filter(|entry| entry.open()).count()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::prompt::Origin;
    use tokio::sync::mpsc;

    fn prompt(id: &str) -> Prompt {
        Prompt {
            id: PromptId::new(id).unwrap(),
            origin: Origin::Local,
            session: "s".into(),
            text: "t".into(),
            options: Default::default(),
        }
    }

    fn offers(receiver: &mut mpsc::UnboundedReceiver<Notice>) -> Vec<(String, bool)> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .filter_map(|notice| match notice {
                Notice::Offer { prompt, resumed, .. } => Some((prompt.id.to_string(), resumed)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn survives_a_restart_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut queue = Local::open(directory.path(), sender.clone()).unwrap();
        for id in ["z", "a", "m"] {
            queue.submit(prompt(id)).unwrap();
        }
        queue.submit(prompt("a")).unwrap();
        assert_eq!(offers(&mut receiver).len(), 3);
        let id = PromptId::new("z").unwrap();
        queue.claim(&id);
        queue.claim(&PromptId::new("a").unwrap());
        queue.finish(
            &PromptId::new("a").unwrap(),
            &Outcome::without_claude(Verdict::Done, "completed", None),
            3,
        );
        drop(queue);
        offers(&mut receiver);
        let queue = Local::open(directory.path(), sender).unwrap();
        assert_eq!(offers(&mut receiver), [("z".into(), true), ("m".into(), false)]);
        assert_eq!(queue.entry(&id).unwrap().attempt, 1);
    }
}
