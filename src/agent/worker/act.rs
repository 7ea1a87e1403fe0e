//! Doing what the sessions decide.

use super::*;
use crate::agent::children::Ticks;
use crate::agent::claude::{self, SessionStart};
use crate::agent::flush;
use crate::agent::session::Action;
use crate::agent::settings::Launch;
use crate::agent::transcript;
use crate::agent::tree::{Scope, Target};
use crate::tasks;

impl Worker {
    pub(super) fn act(&mut self, now: Instant, name: &str, action: Action) -> Result<(), WorkerError> {
        match action {
            Action::Claim(id, origin) => {
                if let Some(inbox) = self.inbox(origin) {
                    inbox.claim(&id);
                }
            }
            Action::Renew(id, attempt) => {
                if let Some(inbox) = self.parts.convex.as_mut() {
                    inbox.renew(&id, attempt);
                }
            }
            Action::Start {
                generation,
                launch,
                message,
                resumes,
            } => self.start(name, generation, &launch, &message, resumes),
            Action::Write(line) => self.with_claude(name, |claude| claude.write(line)),
            Action::Terminate => self.with_claude(name, |claude| claude.terminate()),
            Action::KillTree(generation) => self.empty(name, generation, true),
            Action::Sweep(generation) => self.empty(name, generation, false),
            Action::Record(id, happening) => self.record(now, name, &id, happening),
            Action::Recover(id) => self.recover(name, id),
            // The record goes into the store with the files.
            Action::Flush(id) => {
                self.keep_cost(name);
                self.flush(name, id);
            }
            Action::Finish(prompt, outcome) => self.end_prompt(prompt, *outcome),
            Action::Abandon(id) => {
                tracing::warn!("the claim of prompt {id} is lost");
                self.parts.outbox.close(&id);
                if let Some(inbox) = self.parts.convex.as_mut() {
                    inbox.delivered(&id);
                }
            }
            Action::Drop(id) => tracing::info!("prompt {id} was not given to this agent"),
            Action::Learn { version, capabilities } => {
                if let Err(error) = self.parts.features.learn(version, capabilities) {
                    tracing::warn!("remembering what claude can do: {error}");
                }
            }
            Action::Mirror { file, entries } => {
                if let Err(error) = self.parts.transcripts.mirror(&file, entries) {
                    tracing::warn!("keeping the transcript: {error}");
                }
            }
        }
        Ok(())
    }

    fn with_claude(&mut self, name: &str, act: impl FnOnce(&mut Claude)) {
        if let Some(claude) = self.slots.get_mut(name).and_then(|slot| slot.claude.as_mut()) {
            act(claude);
        }
    }

    fn start(&mut self, name: &str, generation: u64, launch: &Launch, message: &str, resumes: bool) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        let inner = self.inner.clone();
        let owned = name.to_owned();
        let output = move |output| {
            let _ = inner.send(Self::heard(&owned, generation, output));
        };
        let started = self.parts.transcripts.keep(&slot.record).and_then(|()| {
            let session = SessionStart {
                id: &slot.record.claude_session,
                begun: self.parts.transcripts.prepare(&slot.record.claude_session, message)?,
                resume_reason: resumes.then_some("sandkeep"),
            };
            claude::start(
                &self.parts.surroundings,
                &self.parts.settings,
                launch,
                &session,
                &self.leaders,
                output,
            )
        });
        let event = match started {
            Ok(claude) => {
                slot.claude = Some(claude);
                Event::Started { generation }
            }
            Err(error) => Event::StartFailed {
                generation,
                error: format!("starting {}: {error}", self.parts.surroundings.program.display()),
            },
        };
        self.keep_marks();
        self.events.push_back((name.to_owned(), event));
    }

    fn keep_marks(&self) {
        let marks: Vec<&str> = self
            .slots
            .values()
            .filter_map(|slot| slot.claude.as_ref())
            .map(|claude| claude.mark.as_str())
            .collect();
        let text = serde_json::to_vec(&marks).unwrap_or_default();
        if let Err(error) = transcript::replace(&marks_path(&self.parts.directory), &text) {
            tracing::warn!("keeping the marks of what claude starts: {error}");
        }
    }

    fn empty(&mut self, name: &str, generation: u64, everything: bool) {
        let orphans_before = self.orphans_before(name);
        let Some(slot) = self.slots.get_mut(name) else { return };
        let (inner, leaders) = (self.inner.clone(), self.leaders.clone());
        let name = name.to_owned();
        let target = slot.claude.as_ref().map(|claude| Target {
            mark: claude.mark.clone(),
            leader: claude.pid,
            scope: if everything { Scope::Everything } else { Scope::OutsideSession },
            orphans_before,
        });
        let Some(target) = target else {
            let _ = inner.send((name, Event::Emptied { generation, ended: 0 }));
            return;
        };
        if everything {
            slot.claude = None;
        }
        tasks::spawn(async move {
            let ended = tree::end(&target, &leaders).await;
            let _ = inner.send((name, Event::Emptied { generation, ended }));
        });
    }

    /// An orphan that was there before any other session could have left it is this one's.
    fn orphans_before(&self, name: &str) -> Ticks {
        let background = self.parts.settings.background;
        let others = self
            .slots
            .iter()
            .filter(|(other, _)| other.as_str() != name)
            .filter_map(|(_, slot)| {
                let claude = slot.claude.as_ref()?;
                match background {
                    true => Some(claude.since),
                    false => slot.session.uses_tools().then_some(slot.claimed),
                }
            });
        others.min().unwrap_or(Ticks::FOREVER)
    }

    fn record(&mut self, now: Instant, name: &str, id: &PromptId, happening: Happening) {
        let attempt = self
            .slots
            .get(name)
            .and_then(|slot| slot.session.open())
            .map_or(0, |(_, attempt)| attempt);
        if let Happening::Init(told) = &happening {
            self.follow_session(name, told);
        }
        let local = self.parts.local_has(id);
        if let Some(inbox) = self.parts.convex.as_mut().filter(|_| !local) {
            match &happening {
                Happening::Question(body) => inbox.ask(id, attempt, body["question"].as_str().unwrap_or_default(), body),
                Happening::Answer(body) => inbox.settle(id, attempt, body["question"].as_str().unwrap_or_default()),
                _ => {}
            }
        }
        self.parts.outbox.record(now, id, happening);
    }

    /// `/clear` gives the conversation another id.
    fn follow_session(&mut self, name: &str, told: &Value) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        if let Some(id) = told["session"]
            .as_str()
            .filter(|id| !id.is_empty() && *id != slot.record.claude_session)
        {
            slot.record.claude_session = id.to_owned();
            self.keep_record(name);
        }
    }

    fn keep_cost(&mut self, name: &str) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.record.total_cost_usd = slot.session.total_cost_usd();
        }
        self.keep_record(name);
    }

    fn keep_record(&self, name: &str) {
        if let Some(Err(error)) = self.slots.get(name).map(|slot| self.parts.transcripts.keep(&slot.record)) {
            tracing::warn!("keeping the session's record: {error}");
        }
    }

    fn recover(&mut self, name: &str, id: PromptId) {
        let Some(slot) = self.slots.get(name) else { return };
        let text = self.parts.transcripts.answer_to(&slot.record.claude_session, id.as_str());
        self.events.push_back((name.to_owned(), Event::Recovered { id, text }));
    }

    fn flush(&mut self, name: &str, id: PromptId) {
        let (inner, name, control) = (self.inner.clone(), name.to_owned(), self.parts.control.clone());
        tasks::spawn(async move {
            let durability = flush::flush(control.as_deref(), Rules::default().flush_timeout).await;
            let _ = inner.send((name, Event::Flushed { id, durability }));
        });
    }

    /// The one place where a prompt ends: the terminal event on disk, then the inbox.
    pub(super) fn end_prompt(&mut self, prompt: Prompt, mut outcome: Outcome) {
        for text in [Some(&mut outcome.text), outcome.error.as_mut()].into_iter().flatten() {
            *text = self.parts.masker.mask(text).into_owned();
        }
        self.count(&prompt, &outcome);
        match self.parts.outbox.end(&prompt.id, outcome.clone()) {
            Ok(progress) => {
                if let Some(inbox) = self.inbox(prompt.origin) {
                    inbox.finish(&prompt.id, &outcome, progress.last_seq);
                }
            }
            Err(error) => tracing::error!("the end of prompt {} is not on disk: {error}", prompt.id),
        }
    }
}

impl Parts {
    /// Whether a prompt came through the queue on this disk.
    pub(super) fn local_has(&self, id: &PromptId) -> bool {
        self.local.entry(id).is_some()
    }
}
