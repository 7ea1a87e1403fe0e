//! What clients ask through the door.

use super::*;
use crate::agent::door::{Problem, Reply, Submission, Wish};
use crate::agent::permission;
use crate::agent::prompt::{session_flaw, text_flaw};
use axum::http::StatusCode;
use serde_json::json;

impl Worker {
    pub(super) fn knocked(&mut self, knock: Knock) {
        // A client that has gone away does not wait for the answer.
        match knock {
            Knock::Wish(wish, reply) => {
                let _ = reply.send(self.wished(*wish));
            }
            Knock::Follow(id, reply) => {
                let _ = reply.send(self.follow(&id));
            }
        }
    }

    fn wished(&mut self, wish: Wish) -> Reply {
        match wish {
            Wish::Submit(submission) => self.submit(submission),
            Wish::Show(id) => self.show(&id),
            Wish::List => Ok((StatusCode::OK, json!({"prompts": self.parts.local.latest(50)}))),
            Wish::Status => Ok((StatusCode::OK, self.part())),
            Wish::Cancel(id) => {
                let open = self.owner(&id).is_some() || self.waiting.iter().any(|(prompt, _)| prompt.id == id);
                if open {
                    self.cancel(&id);
                    return Ok((StatusCode::ACCEPTED, json!({"id": id, "cancel": "asked"})));
                }
                let (_, known) = self.show(&id)?;
                Ok((StatusCode::OK, json!({"id": id, "cancel": "over", "status": known["status"]})))
            }
            Wish::Answer(id, question, answer) => {
                self.answer(Some(&id), question.as_deref(), &answer)?;
                Ok((StatusCode::OK, json!({"id": id, "answered": true})))
            }
        }
    }

    /// A prompt that waits has no events yet, but it can be followed.
    fn follow(&mut self, id: &PromptId) -> Option<crate::agent::door::Following> {
        if let Some(following) = self.parts.outbox.follow(id) {
            return Some(following);
        }
        let waits = self.parts.local_has(id) || self.owner(id).is_some();
        waits.then(|| self.parts.outbox.begin(id, 1).ok()).flatten()?;
        self.parts.outbox.follow(id)
    }

    fn submit(&mut self, submission: Submission) -> Reply {
        let prompt = self.read(submission)?;
        let known = self.parts.local_has(&prompt.id);
        match self.parts.local.submit(prompt.clone()) {
            Ok(entry) if known && entry.prompt != prompt => Err(Problem::new(
                StatusCode::CONFLICT,
                "id_taken",
                format!("another prompt has the id `{}`", prompt.id),
            )),
            Ok(entry) => {
                let status = if known { StatusCode::OK } else { StatusCode::ACCEPTED };
                Ok((status, serde_json::to_value(entry).unwrap_or_default()))
            }
            Err(error) => Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "not_kept",
                format!("keeping the prompt on the disk: {error}"),
            )),
        }
    }

    fn read(&self, submission: Submission) -> Result<Prompt, Problem> {
        let bad = |code, detail: String| Problem::new(StatusCode::BAD_REQUEST, code, detail);
        let Submission {
            id,
            session,
            text,
            options,
        } = submission;
        if self.draining {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the agent is ending"));
        }
        if let Some((code, detail)) = text_flaw(&text, self.parts.settings.max_prompt_bytes) {
            let long = code == "long_prompt";
            let status = if long {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            return Err(Problem::new(status, code, detail));
        }
        let session = session.unwrap_or_else(|| "main".into());
        if let Some(flaw) = session_flaw(&session) {
            return Err(bad("bad_session", flaw));
        }
        self.parts
            .settings
            .launch(&options)
            .map_err(|refusal| bad("bad_option", refusal.to_string()))?;
        let id = id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let id = PromptId::new(&id).ok_or_else(|| bad("bad_id", "a prompt's id is 1 to 64 letters, digits, `_` and `-`".into()))?;
        Ok(Prompt {
            id,
            origin: Origin::Local,
            session,
            text,
            options,
        })
    }

    fn show(&self, id: &PromptId) -> Reply {
        let progress = self.parts.outbox.progress(id);
        let mut shown = match self.parts.local.entry(id) {
            Some(entry) => serde_json::to_value(entry).unwrap_or_default(),
            None => {
                let open = self
                    .slots
                    .values()
                    .filter_map(|slot| slot.session.open())
                    .find(|(prompt, _)| &prompt.id == id);
                match (open, progress) {
                    (Some((prompt, attempt)), _) => {
                        let mut shown = serde_json::to_value(prompt).unwrap_or_default();
                        shown["status"] = json!("claimed");
                        shown["attempt"] = json!(attempt);
                        shown
                    }
                    (None, Some(progress)) => json!({"id": id, "status": if progress.ended { "ended" } else { "pending" }}),
                    (None, None) => return Err(Problem::unknown(id)),
                }
            }
        };
        shown["last_seq"] = json!(progress.map_or(0, |progress| progress.last_seq));
        shown["questions"] = json!(self.questions_of(id));
        Ok((StatusCode::OK, shown))
    }

    fn questions_of(&self, id: &PromptId) -> Vec<&str> {
        let slots = self.slots.values();
        let questions = slots.flat_map(|slot| {
            slot.session
                .questions()
                .filter_map(|question| Some((question, slot.session.question(question)?.0)))
        });
        questions.filter(|(_, of)| *of == id).map(|(question, _)| question).collect()
    }

    /// Ends a prompt wherever it stands. One that has ended stays as it is.
    pub(super) fn cancel(&mut self, id: &PromptId) {
        if let Some(at) = self.waiting.iter().position(|(prompt, resumed)| &prompt.id == id && !resumed)
            && let Some((prompt, _)) = self.waiting.remove(at)
        {
            return self.end_early(prompt, Outcome::without_claude(Verdict::Cancelled, "cancelled", None));
        }
        self.tell_owner(id, Event::CancelAsked { id: id.clone() });
    }

    /// Passes a person's answer on.
    pub(super) fn answer(&mut self, id: Option<&PromptId>, question: Option<&str>, answer: &Value) -> Result<(), Problem> {
        let none = || Problem::new(StatusCode::NOT_FOUND, "no_question", "there is no such open question");
        let mut open = self
            .slots
            .iter()
            .flat_map(|(name, slot)| slot.session.questions().map(move |question| (name, slot, question)));
        let matches = |slot: &Slot, candidate: &str| {
            let of = slot.session.question(candidate).map(|(of, _)| of);
            question.is_none_or(|question| question == candidate) && (id.is_none() || id == of)
        };
        let (name, slot, question) = open.find(|(_, slot, candidate)| matches(slot, candidate)).ok_or_else(none)?;
        let (_, ask) = slot.session.question(question).ok_or_else(none)?;
        let response =
            permission::response(ask, answer).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_answer", error.to_string()))?;
        let answered = Event::Answered {
            question: question.to_owned(),
            response,
        };
        self.events.push_back((name.clone(), answered));
        Ok(())
    }
}
