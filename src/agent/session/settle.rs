//! What is due, and what follows from where the session stands.

use super::*;

impl Session {
    /// Expires what is due and moves on until nothing moves.
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settle_process(now, actions);
        self.settle_turn(now, actions);
        if self.turn.is_none() && !self.draining {
            self.next_turn(actions);
        }
        if self.turn.is_none() || self.draining {
            self.settle_idle(now, actions);
        }
    }

    fn settle_process(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.process {
            Process::Terminating { until } if now >= until => self.kill(actions),
            Process::Off | Process::On { .. } | Process::Terminating { .. } | Process::Dying => {}
        }
    }

    pub(super) fn kill(&mut self, actions: &mut Vec<Action>) {
        self.process = Process::Dying;
        actions.push(Action::KillTree(self.generation));
    }

    /// Lets claude end: it has nothing to do, or is to be gone on with by another.
    pub(super) fn terminate(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.process = Process::Terminating {
            until: now + self.rules.grace,
        };
        actions.push(Action::Terminate);
    }

    fn next_turn(&mut self, actions: &mut Vec<Action>) {
        if let Some(turn) = self.queue.pop_front() {
            actions.push(Action::Claim(turn.prompt.id.clone(), turn.prompt.origin));
            self.turn = Some(turn);
        }
    }

    fn settle_idle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Process::On { idle_since, .. } = &self.process else { return };
        let tired = idle_since.is_some_and(|since| now >= since + self.rules.idle_timeout);
        let ending = self.draining && self.turn.as_ref().is_none_or(|turn| turn.phase == Phase::Suspended);
        if tired || ending {
            self.terminate(now, actions);
        }
    }

    pub(super) fn renews(&self, turn: &Turn) -> bool {
        let held = !matches!(turn.phase, Phase::Claiming | Phase::Lost | Phase::Suspended);
        held && turn.prompt.origin == Origin::Convex
    }

    /// A turn that waits for a person does not run out of time.
    pub(super) fn limit_at(&self, turn: &Turn) -> Option<Instant> {
        let runs = matches!(turn.phase, Phase::Waiting { .. } | Phase::Sent { .. });
        turn.time_limit
            .filter(|_| runs && turn.questions.is_empty())
            .map(|limit| turn.began + limit)
    }

    pub(super) fn stalls_at(&self, turn: &Turn) -> Option<Instant> {
        if !turn.questions.is_empty() {
            return None;
        }
        let patience = if turn.tools.is_empty() {
            self.rules.stall_timeout
        } else {
            self.rules.tool_timeout
        };
        let patience = if self.spoke {
            patience
        } else {
            patience.max(self.rules.start_timeout)
        };
        (patience > Duration::ZERO).then(|| turn.heard + patience)
    }

    fn settle_turn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else { return };
        if now >= turn.renew_at {
            turn.renew_at = now + self.rules.renew_every;
            let (id, attempt) = (turn.prompt.id.clone(), turn.attempt);
            if self.turn.as_ref().is_some_and(|turn| self.renews(turn)) {
                actions.push(Action::Renew(id, attempt));
            }
        }
        let Some(turn) = self.turn.as_ref() else { return };
        match turn.phase.clone() {
            Phase::Waiting { start_at } => self.settle_waiting(now, start_at, actions),
            Phase::Sent { look_at } => self.settle_sent(now, look_at, actions),
            Phase::Interrupted { until, .. } if now >= until => self.end_process(now, actions),
            Phase::Cut | Phase::Claiming if self.draining => self.suspend(),
            Phase::Flushing { outcome, until } if now >= until => self.finish(outcome, actions),
            Phase::Claiming
            | Phase::Cut
            | Phase::Interrupted { .. }
            | Phase::Recovering
            | Phase::Sweeping { .. }
            | Phase::Flushing { .. }
            | Phase::Lost
            | Phase::Suspended => {}
        }
    }

    fn suspend(&mut self) {
        match self.turn.as_mut() {
            Some(turn) if turn.phase == Phase::Claiming => self.turn = None,
            Some(turn) => turn.phase = Phase::Suspended,
            None => {}
        }
    }

    fn settle_waiting(&mut self, now: Instant, start_at: Instant, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_ref() else { return };
        if turn.cancelled {
            return self.end_without_process(now, Verdict::Cancelled, "cancelled", None, actions);
        }
        if self.limit_at(turn).is_some_and(|at| now >= at) {
            return self.end_without_process(now, Verdict::Failed, "time_limit", Some("the prompt's time is up".into()), actions);
        }
        if turn.setbacks > self.rules.setbacks_max {
            let error = format!("claude ended {} times in a row: {}", turn.setbacks, turn.last_error);
            return self.end_without_process(now, Verdict::Failed, "crashed", Some(error), actions);
        }
        if let Some((_, flaw)) = text_flaw(&turn.prompt.text, self.rules.prompt_bytes_max) {
            return self.end_without_process(now, Verdict::Failed, "refused", Some(flaw), actions);
        }
        if turn.spend_until.is_some_and(|until| self.total_cost_usd >= until) {
            let error = format!("the budget is spent: {:.4} USD", self.total_cost_usd);
            return self.end_without_process(now, Verdict::Failed, "max_budget", Some(error), actions);
        }
        if self.draining {
            return self.suspend();
        }
        if now < start_at {
            return;
        }
        match &self.process {
            Process::Off => self.start(now, actions),
            Process::On { launch, spend_until, .. } if **launch == turn.launch && spend_until == &turn.spend_until => {
                self.send(now, actions);
            }
            Process::On { .. } => self.end_process(now, actions),
            Process::Terminating { .. } | Process::Dying => {}
        }
    }

    fn start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_ref() else { return };
        self.generation += 1;
        self.spoke = false;
        self.process = Process::On {
            launch: Box::new(turn.launch.clone()),
            spend_until: turn.spend_until,
            idle_since: None,
        };
        let left = turn.spend_until.map_or(0.0, |until| until - self.total_cost_usd);
        let launch = Launch {
            max_budget_usd: left,
            prompt_budget_usd: 0.0,
            ..turn.launch.clone()
        };
        actions.push(Action::Start {
            generation: self.generation,
            launch,
            message: turn.message_id(),
            resumes: turn.resumes > 0,
        });
        self.send(now, actions);
    }

    fn send(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Process::On { idle_since, .. } = &mut self.process {
            *idle_since = None;
        }
        self.stalled = false;
        let Some(turn) = self.turn.as_mut() else { return };
        if !turn.announced {
            turn.announced = true;
            let started = Happening::Started {
                attempt: turn.attempt,
                resumed: turn.resumes > 0,
            };
            actions.push(Action::Record(turn.prompt.id.clone(), started));
        } else {
            let again = json!({"resumed": turn.resumes, "because": turn.last_error});
            actions.push(Action::Record(turn.prompt.id.clone(), Happening::State("running", again)));
        }
        turn.heard = now;
        turn.taken_in = false;
        turn.phase = Phase::Sent { look_at: None };
        actions.push(Action::Write(protocol::prompt(&turn.message_id(), &turn.prompt.text)));
    }

    fn settle_sent(&mut self, now: Instant, look_at: Option<Instant>, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_ref() else { return };
        if turn.cancelled {
            return self.interrupt(now, Verdict::Cancelled, "cancelled", actions);
        }
        if self.limit_at(turn).is_some_and(|at| now >= at) {
            return self.interrupt(now, Verdict::Failed, "time_limit", actions);
        }
        if self.draining {
            let Some(turn) = self.turn.as_mut() else { return };
            withdraw_questions(turn, "the agent is ending", actions);
            turn.phase = Phase::Suspended;
            return self.terminate(now, actions);
        }
        if look_at.is_some_and(|at| now >= at) {
            let id = turn.prompt.id.clone();
            self.set_phase(Phase::Recovering);
            actions.push(Action::Recover(id));
            return;
        }
        if self.stalls_at(turn).is_some_and(|at| now >= at) {
            self.stall(now, actions);
        }
    }

    /// Not an interrupt: that would count as the turn's end, and a resume would not run it again. A killed turn is run again.
    fn stall(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.stalled = true;
        let Some(turn) = self.turn.as_mut() else { return };
        let silent_ms = u64::try_from(now.saturating_duration_since(turn.heard).as_millis()).unwrap_or(u64::MAX);
        turn.last_error = format!("silent for {} s", silent_ms / 1000);
        turn.phase = Phase::Cut;
        actions.push(Action::Record(
            turn.prompt.id.clone(),
            Happening::State("stalled", json!({"silent_ms": silent_ms})),
        ));
        self.kill(actions);
    }

    fn interrupt(&mut self, now: Instant, verdict: Verdict, reason: &'static str, actions: &mut Vec<Action>) {
        let until = now + self.rules.grace;
        if let Some(turn) = self.turn.as_mut() {
            withdraw_questions(turn, reason, actions);
        }
        self.set_phase(Phase::Interrupted { until, verdict, reason });
        actions.push(Action::Write(protocol::interrupt(&format!("interrupt-{}", self.generation))));
    }

    /// Ends the process the hard way, since it did not end the turn by itself, or because another one is needed.
    fn end_process(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.process, Process::On { .. }) {
            self.terminate(now, actions);
        }
        if let Some(turn) = self.turn.as_mut()
            && let Phase::Interrupted { until, .. } = &mut turn.phase
        {
            *until = now + self.rules.grace * 4;
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(turn) = self.turn.as_mut() {
            turn.phase = phase;
        }
    }

    fn end_without_process(
        &mut self,
        now: Instant,
        verdict: Verdict,
        reason: &'static str,
        error: Option<String>,
        actions: &mut Vec<Action>,
    ) {
        let outcome = self.outcome_without_result(now, verdict, reason, error);
        self.begin_flush(now, outcome, actions);
    }

    pub(super) fn outcome_without_result(&self, now: Instant, verdict: Verdict, reason: &str, error: Option<String>) -> Box<Outcome> {
        let mut outcome = Outcome::without_claude(verdict, reason, error);
        self.fill(now, &mut outcome);
        Box::new(outcome)
    }

    /// What the turn itself knows of its end.
    pub(super) fn fill(&self, now: Instant, outcome: &mut Outcome) {
        let Some(turn) = self.turn.as_ref() else { return };
        outcome.attempt = turn.attempt;
        outcome.resumed = turn.resumes;
        outcome.duration_ms = u64::try_from(now.saturating_duration_since(turn.began).as_millis()).unwrap_or(u64::MAX);
    }

    pub(super) fn begin_sweep(&mut self, now: Instant, outcome: Box<Outcome>, actions: &mut Vec<Action>) {
        let living = matches!(self.process, Process::On { .. } | Process::Terminating { .. });
        if self.rules.keep_background || !living {
            return self.begin_flush(now, outcome, actions);
        }
        self.set_phase(Phase::Sweeping { outcome });
        actions.push(Action::Sweep(self.generation));
    }

    pub(super) fn begin_flush(&mut self, now: Instant, outcome: Box<Outcome>, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else { return };
        let until = now + self.rules.flush_timeout + Duration::from_secs(1);
        turn.phase = Phase::Flushing { outcome, until };
        actions.push(Action::Flush(turn.prompt.id.clone()));
    }

    pub(super) fn finish(&mut self, outcome: Box<Outcome>, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.take() else { return };
        self.stalled = false;
        if let Process::On { idle_since, .. } = &mut self.process {
            *idle_since = Some(turn.heard);
        }
        actions.push(Action::Finish(turn.prompt, outcome));
    }
}
