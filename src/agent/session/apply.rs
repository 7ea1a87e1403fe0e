//! What happened, and what it changes.

use super::*;

impl Session {
    pub(super) fn apply(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Offered(offer) => self.offered(now, *offer),
            Event::Claimed { id, attempt, text } => self.claimed(now, &id, attempt, text),
            Event::Refused { id } => self.refused(&id, actions),
            Event::Renewed { id, attempt, held } => self.renewed(&id, attempt, held, actions),
            Event::CancelAsked { id } => self.cancel_asked(&id),
            Event::Answered { question, response } => self.answered(now, &question, &response, actions),
            Event::Started { generation }
            | Event::Exited { generation, .. }
            | Event::StartFailed { generation, .. }
            | Event::Said { generation, .. }
                if generation != self.generation => {}
            Event::Started { .. } | Event::Tick => {}
            Event::StartFailed { error, .. } => self.start_failed(now, error),
            Event::Said { line, .. } => self.said(now, line, actions),
            Event::Exited { how, .. } => self.exited(how, actions),
            Event::Emptied { generation, ended } => {
                if generation == self.generation {
                    self.emptied(now, ended, actions);
                }
            }
            Event::Recovered { id, text } => self.recovered(now, &id, text, actions),
            Event::Flushed { id, durability } => self.flushed(&id, durability, actions),
            Event::Rest => self.rest(now, actions),
            Event::Drain => self.draining = true,
        }
    }

    fn rest(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.turn.is_none() && matches!(self.process, Process::On { .. }) {
            self.terminate(now, actions);
        }
    }

    fn offered(&mut self, now: Instant, offer: Offer) {
        let Offer {
            prompt,
            launch,
            time_limit,
            resumed,
        } = offer;
        if self.knows(&prompt.id) {
            return;
        }
        let turn = Turn {
            prompt,
            launch,
            attempt: 0,
            began: now,
            time_limit,
            spend_until: None,
            renew_at: now,
            phase: Phase::Claiming,
            heard: now,
            taken_in: false,
            tools: BTreeSet::new(),
            questions: BTreeMap::new(),
            asked_since: now,
            forgotten: 0,
            resumes: u32::from(resumed),
            setbacks: 0,
            announced: false,
            cancelled: false,
            retrying: false,
            last_error: String::new(),
        };
        match resumed {
            true => self.queue.push_front(turn),
            false => self.queue.push_back(turn),
        }
    }

    fn turn_of(&mut self, id: &PromptId) -> Option<&mut Turn> {
        self.turn.as_mut().filter(|turn| &turn.prompt.id == id)
    }

    fn claimed(&mut self, now: Instant, id: &PromptId, attempt: u32, text: Option<String>) {
        let renew_at = now + self.rules.renew_every;
        let spent = self.total_cost_usd;
        if let Some(turn) = self.turn_of(id)
            && turn.phase == Phase::Claiming
        {
            turn.attempt = attempt;
            turn.prompt.text = text.unwrap_or_else(|| std::mem::take(&mut turn.prompt.text));
            turn.spend_until = spend_until(&turn.launch, spent);
            turn.began = now;
            turn.heard = now;
            turn.renew_at = renew_at;
            turn.phase = Phase::Waiting { start_at: now };
        }
    }

    fn refused(&mut self, id: &PromptId, actions: &mut Vec<Action>) {
        self.queue.retain(|turn| &turn.prompt.id != id);
        if self.turn_of(id).is_some_and(|turn| turn.phase == Phase::Claiming) {
            self.turn = None;
            actions.push(Action::Drop(id.clone()));
        }
    }

    fn renewed(&mut self, id: &PromptId, attempt: u32, held: bool, actions: &mut Vec<Action>) {
        let generation = self.generation;
        let Some(turn) = self.turn_of(id).filter(|turn| turn.attempt == attempt && !held) else {
            return;
        };
        turn.phase = Phase::Lost;
        actions.push(Action::Abandon(id.clone()));
        if self.process != Process::Off {
            self.process = Process::Dying;
            actions.push(Action::KillTree(generation));
        }
    }

    fn cancel_asked(&mut self, id: &PromptId) {
        if let Some(turn) = self.turn.iter_mut().chain(&mut self.queue).find(|turn| &turn.prompt.id == id) {
            turn.cancelled = true;
        }
    }

    fn answered(&mut self, now: Instant, question: &str, response: &Value, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else { return };
        let Some(ask) = turn.questions.remove(question) else { return };
        turn.heard = now;
        actions.push(Action::Write(protocol::answer(&ask.request_id, response)));
        let told = json!({"question": question, "behavior": response["behavior"], "message": response["message"]});
        actions.push(Action::Record(turn.prompt.id.clone(), Happening::Answer(told)));
        if turn.questions.is_empty() {
            turn.forgive_wait(now);
            actions.push(Action::Record(turn.prompt.id.clone(), Happening::State("running", Value::Null)));
        }
    }

    fn start_failed(&mut self, now: Instant, error: String) {
        self.process = Process::Off;
        if let Some(turn) = self.turn.as_mut() {
            turn.last_error = error;
            turn.phase = Phase::Cut;
        }
        self.cut_to_waiting(now);
    }

    fn exited(&mut self, how: String, actions: &mut Vec<Action>) {
        let generation = self.generation;
        if let Some(turn) = self.turn.as_mut() {
            withdraw_questions(turn, &how, actions);
            // Whatever else cut it has said why: this is only how the kill looks from here.
            if matches!(turn.phase, Phase::Sent { .. }) {
                turn.last_error = how;
                turn.phase = Phase::Cut;
            }
        }
        if self.process != Process::Dying {
            self.process = Process::Dying;
            actions.push(Action::KillTree(generation));
        }
    }

    fn emptied(&mut self, now: Instant, ended: u32, actions: &mut Vec<Action>) {
        let all_gone = self.process == Process::Dying;
        if all_gone {
            self.process = Process::Off;
        }
        let Some(turn) = self.turn.as_mut() else { return };
        match turn.phase.clone() {
            Phase::Sweeping { mut outcome } => {
                outcome.strays_ended = ended;
                self.begin_flush(now, outcome, actions);
            }
            Phase::Cut => self.cut_to_waiting(now),
            Phase::Interrupted { verdict, reason, .. } if all_gone => {
                let outcome = self.outcome_without_result(now, verdict, reason, None);
                self.begin_flush(now, outcome, actions);
            }
            Phase::Lost => self.turn = None,
            Phase::Claiming
            | Phase::Waiting { .. }
            | Phase::Sent { .. }
            | Phase::Interrupted { .. }
            | Phase::Recovering
            | Phase::Flushing { .. }
            | Phase::Suspended => {}
        }
    }

    /// After a cut: another start, later and later, until the model says something again.
    fn cut_to_waiting(&mut self, now: Instant) {
        let Some(turn) = self.turn.as_mut() else { return };
        turn.resumes += 1;
        turn.setbacks += 1;
        turn.tools.clear();
        turn.retrying = false;
        let delay = Duration::from_millis(100) * 2u32.pow(turn.setbacks.min(8));
        turn.phase = Phase::Waiting { start_at: now + delay };
    }

    fn recovered(&mut self, now: Instant, id: &PromptId, text: Option<String>, actions: &mut Vec<Action>) {
        if self.turn_of(id).is_none_or(|turn| turn.phase != Phase::Recovering) {
            return;
        }
        // The turn was cut at a point where claude remembers the message but not that it owes an answer: it is asked anew. By another
        // process, so that the two messages can never both be with one.
        if let Some(turn) = self.turn.as_mut().filter(|turn| text.is_none() && turn.forgotten == 0) {
            turn.forgotten += 1;
            turn.last_error = "the message was taken for answered".into();
            turn.phase = Phase::Cut;
            match self.process {
                Process::Off => self.cut_to_waiting(now),
                Process::Dying => {}
                Process::On { .. } | Process::Terminating { .. } => self.kill(actions),
            }
            return;
        }
        let mut outcome = match &text {
            Some(_) => self.outcome_without_result(now, Verdict::Done, "recovered", None),
            None => {
                let error = "claude took the prompt for answered, but its transcript has no answer".to_owned();
                self.outcome_without_result(now, Verdict::Failed, "no_answer", Some(error))
            }
        };
        outcome.text = text.unwrap_or_default();
        self.begin_sweep(now, outcome, actions);
    }

    fn flushed(&mut self, id: &PromptId, durability: Durability, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn_of(id) else { return };
        let Phase::Flushing { outcome, .. } = &turn.phase else { return };
        let mut outcome = outcome.clone();
        outcome.durable = durability.durable;
        outcome.generation = durability.generation;
        outcome.pending = durability.pending;
        self.finish(outcome, actions);
    }
}

/// The budget of a session holds over all its processes, that of a prompt from here on.
fn spend_until(launch: &Launch, spent: f64) -> Option<f64> {
    let session = Some(launch.max_budget_usd).filter(|usd| *usd > 0.0);
    let prompt = Some(launch.prompt_budget_usd).filter(|usd| *usd > 0.0).map(|usd| spent + usd);
    session.into_iter().chain(prompt).reduce(f64::min)
}

pub(super) fn withdraw_questions(turn: &mut Turn, because: &str, actions: &mut Vec<Action>) {
    for (question, _) in std::mem::take(&mut turn.questions) {
        actions.push(Action::Record(turn.prompt.id.clone(), Happening::withdrawn(&question, because)));
    }
}
