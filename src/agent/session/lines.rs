//! What a line of claude's means for the turn.

use super::*;
use crate::agent::protocol::{Init, Message, TurnResult};

impl Session {
    pub(super) fn said(&mut self, now: Instant, line: Line, actions: &mut Vec<Action>) {
        self.spoke = true;
        if let Some(turn) = self.turn.as_mut() {
            turn.heard = now;
        }
        match line {
            Line::Init(init) => self.said_init(*init, actions),
            Line::SessionState(state) => self.said_state(now, &state),
            Line::Delta { nested: true, .. } => {}
            Line::Delta { thinking, text, .. } => {
                let happening = if thinking {
                    Happening::Thinking(text)
                } else {
                    Happening::Text(text)
                };
                self.record(happening, actions);
            }
            Line::Assistant(message) => self.said_assistant(*message, actions),
            Line::User(message) => self.said_user(*message, actions),
            Line::Retry(body) => self.said_retry(&body, actions),
            Line::Denied(body) => {
                let denied = json!({"denied": body["tool_name"], "tool_use": body["tool_use_id"], "because": body["message"]});
                self.record(Happening::Notice(denied), actions);
            }
            Line::Ask(ask) => self.said_ask(now, *ask, actions),
            Line::AskWithdrawn(request_id) => self.said_withdrawn(now, &request_id, actions),
            Line::Mirror { file, entries } => actions.push(Action::Mirror { file, entries }),
            Line::Result(result) => self.said_result(now, *result, actions),
            Line::System { subtype, body } => self.said_system(&subtype, &body, actions),
            Line::Malformed { bytes, error } => {
                self.record(Happening::Notice(json!({"malformed_line": error, "bytes": bytes})), actions);
            }
            Line::Lifecycle { uuid, .. } => self.said_lifecycle(&uuid),
            Line::Control { .. } | Line::Other(_) => {}
        }
    }

    fn record(&self, happening: Happening, actions: &mut Vec<Action>) {
        if let Some(turn) = &self.turn {
            actions.push(Action::Record(turn.prompt.id.clone(), happening));
        }
    }

    fn said_init(&mut self, init: Init, actions: &mut Vec<Action>) {
        self.forget_look();
        // A CLI that tells about a message's life also says which messages a result answers.
        self.fifo = !init.capabilities.iter().any(|capability| capability.starts_with("msg_lifecycle"));
        let told = json!({
            "session": init.session, "model": init.model, "version": init.version, "permission_mode": init.permission_mode,
            "tools": init.tools, "mcp_servers": init.mcp_servers,
        });
        self.record(Happening::Init(told), actions);
        actions.push(Action::Learn {
            version: init.version,
            capabilities: init.capabilities,
        });
    }

    fn said_lifecycle(&mut self, message: &str) {
        if let Some(turn) = self.turn.as_mut() {
            turn.taken_in |= message == turn.message_id();
        }
    }

    /// Idle without a result of ours: claude took the message for one that it had answered before. But an idle that is about the turn
    /// before may come late; a CLI that tells about a message's life has said of ours that it knows it.
    fn said_state(&mut self, now: Instant, state: &str) {
        match state {
            "idle" => {
                let Some(turn) = self.turn.as_mut().filter(|turn| self.fifo || turn.taken_in) else {
                    return;
                };
                if let Phase::Sent { look_at } = &mut turn.phase {
                    *look_at = Some(now + self.rules.recover_after);
                }
            }
            "running" => self.forget_look(),
            _ => {}
        }
    }

    fn forget_look(&mut self) {
        let Some(turn) = self.turn.as_mut() else { return };
        if let Phase::Sent { look_at } = &mut turn.phase {
            *look_at = None;
            turn.taken_in = true;
        }
    }

    fn said_assistant(&mut self, message: Message, actions: &mut Vec<Action>) {
        if let Some(turn) = self.turn.as_mut() {
            turn.setbacks = 0;
            turn.retrying = false;
            turn.tools.extend(message.tool_uses().map(str::to_owned));
        }
        let told = json!({"id": message.id, "parent": message.parent, "error": message.error, "content": message.content});
        self.record(Happening::Message(told), actions);
    }

    fn said_user(&mut self, message: Message, actions: &mut Vec<Action>) {
        if let Some(turn) = self.turn.as_mut() {
            for id in message.tool_results() {
                turn.tools.remove(id);
            }
        }
        let told = json!({"parent": message.parent, "content": message.content});
        self.record(Happening::ToolResult(told), actions);
    }

    fn said_retry(&mut self, body: &Value, actions: &mut Vec<Action>) {
        if let Some(turn) = self.turn.as_mut() {
            turn.retrying = true;
        }
        let detail = json!({
            "attempt": body["attempt"], "max": body["max_retries"], "delay_ms": body["retry_delay_ms"],
            "status": body["error_status"], "error": body["error"],
        });
        self.record(Happening::State("retrying", detail), actions);
    }

    fn said_ask(&mut self, now: Instant, ask: Ask, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else {
            let denial = json!({"behavior": "deny", "message": "no prompt is running"});
            return actions.push(Action::Write(protocol::answer(&ask.request_id, &denial)));
        };
        let question = json!({
            "question": ask.request_id, "tool": ask.tool, "input": ask.input, "description": ask.description,
            "suggestions": ask.suggestions, "tool_use": ask.tool_use_id,
        });
        let id = turn.prompt.id.clone();
        actions.push(Action::Record(id.clone(), Happening::Question(question)));
        if turn.questions.is_empty() {
            turn.asked_since = now;
            actions.push(Action::Record(id, Happening::State("requires_action", Value::Null)));
        }
        turn.questions.insert(ask.request_id.clone(), ask);
    }

    fn said_withdrawn(&mut self, now: Instant, request_id: &str, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else { return };
        if turn.questions.remove(request_id).is_some() {
            if turn.questions.is_empty() {
                turn.forgive_wait(now);
            }
            self.record(Happening::withdrawn(request_id, "claude took it back"), actions);
        }
    }

    fn said_system(&mut self, subtype: &str, body: &Value, actions: &mut Vec<Action>) {
        if matches!(subtype, "task_started" | "task_notification" | "compact_boundary") {
            let told = json!({"system": subtype, "task": body["task_id"], "status": body["status"], "summary": body["summary"]});
            self.record(Happening::Notice(told), actions);
        }
    }

    fn said_result(&mut self, now: Instant, result: TurnResult, actions: &mut Vec<Action>) {
        let cost_usd = (result.total_cost_usd - self.total_cost_usd).max(0.0);
        self.total_cost_usd = self.total_cost_usd.max(result.total_cost_usd);
        let Some(turn) = self.turn.as_mut() else { return };
        let interrupted = match turn.phase {
            Phase::Sent { .. } => None,
            Phase::Interrupted { verdict, reason, .. } => Some((verdict, reason)),
            Phase::Claiming
            | Phase::Waiting { .. }
            | Phase::Cut
            | Phase::Recovering
            | Phase::Sweeping { .. }
            | Phase::Flushing { .. }
            | Phase::Lost
            | Phase::Suspended => return,
        };
        let ours = match result.answers.is_empty() {
            true => self.fifo || !result.success(),
            false => result
                .answers
                .iter()
                .any(|id| id == turn.prompt.id.as_str() || *id == turn.message_id()),
        };
        if !ours {
            return;
        }
        withdraw_questions(turn, "the turn is over", actions);
        turn.tools.clear();
        turn.retrying = false;
        let (status, reason) = verdict_of(&result, interrupted);
        let mut outcome = Outcome::without_claude(status, reason, (status == Verdict::Failed).then(|| error_of(&result, reason)));
        outcome.text = result.text;
        outcome.turns = result.turns;
        outcome.cost_usd = cost_usd;
        outcome.usage = result.usage;
        self.fill(now, &mut outcome);
        self.begin_sweep(now, Box::new(outcome), actions);
    }
}

fn verdict_of(result: &TurnResult, interrupted: Option<(Verdict, &'static str)>) -> (Verdict, &'static str) {
    match (interrupted, result.subtype.as_str()) {
        (_, "success") if !result.is_error => (Verdict::Done, "completed"),
        (Some((verdict, reason)), _) => (verdict, reason),
        (None, "error_max_turns") => (Verdict::Failed, "max_turns"),
        (None, "error_max_budget_usd") => (Verdict::Failed, "max_budget"),
        (None, _) if result.aborted() => (Verdict::Failed, "interrupted"),
        (None, "success") => (Verdict::Failed, "api_error"),
        (None, _) => (Verdict::Failed, "error"),
    }
}

fn error_of(result: &TurnResult, reason: &str) -> String {
    match (reason, result.errors.as_slice(), result.api_status) {
        ("time_limit", _, _) => "the prompt's time is up".into(),
        ("max_turns", _, _) => format!("the limit of rounds was reached after {}", result.turns),
        ("max_budget", _, _) => format!("the budget is spent: {:.4} USD", result.total_cost_usd),
        (_, _, Some(status)) => format!("the API answered {status}: {}", result.text),
        (_, [], None) => result.text.clone(),
        (_, errors, None) => errors.join("; "),
    }
}
