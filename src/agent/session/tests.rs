use super::*;
use crate::agent::protocol::parse;

struct World {
    session: Session,
    now: Instant,
    log: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self {
            session: Session::new(Rules::default(), true, 0.0),
            now: Instant::now(),
            log: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let actions = self.session.step(self.now, event);
        self.log.extend(actions.clone());
        actions
    }

    fn wait(&mut self, duration: Duration) -> Vec<Action> {
        self.now += duration;
        self.step(Event::Tick)
    }

    fn say(&mut self, line: &str) -> Vec<Action> {
        let generation = self.session.generation;
        self.step(Event::Said {
            generation,
            line: parse(line.as_bytes()),
        })
    }

    fn offer(&mut self, id: &str) -> Vec<Action> {
        self.step(Event::Offered(Box::new(Offer {
            prompt: prompt(id),
            launch: Launch::default(),
            time_limit: Some(Duration::from_secs(600)),
            resumed: false,
        })))
    }

    /// Offers and claims: the prompt is with claude.
    fn sent(&mut self, id: &str) {
        self.offer(id);
        let actions = self.step(Event::Claimed {
            id: pid(id),
            attempt: 1,
            text: None,
        });
        assert!(actions.iter().any(|action| matches!(action, Action::Write(_))), "{actions:?}");
    }

    /// The same with a process that is there already.
    fn sent_warm(&mut self, id: &str) {
        self.sent(id);
        assert_eq!(self.session.generation, 1);
    }

    fn result(&mut self, id: &str) -> Vec<Action> {
        self.say(&format!(
            r#"{{"type":"result","subtype":"success","is_error":false,"result":"ok","user_message_uuid":"{id}"}}"#
        ))
    }

    fn emptied(&mut self) -> Vec<Action> {
        let generation = self.session.generation;
        self.step(Event::Emptied { generation, ended: 0 })
    }

    fn exited(&mut self) -> Vec<Action> {
        let generation = self.session.generation;
        self.step(Event::Exited {
            generation,
            how: "signal 9".into(),
        })
    }

    fn flushed(&mut self, id: &str) -> Vec<Action> {
        self.step(Event::Flushed {
            id: pid(id),
            durability: Durability::default(),
        })
    }

    fn finishes(&self) -> Vec<(String, Verdict, String)> {
        let ends = self.log.iter().filter_map(|action| match action {
            Action::Finish(prompt, outcome) => Some((prompt.id.to_string(), outcome.status, outcome.reason.clone())),
            _ => None,
        });
        ends.collect()
    }
}

fn pid(id: &str) -> PromptId {
    PromptId::new(id).unwrap()
}

fn prompt(id: &str) -> Prompt {
    Prompt {
        id: pid(id),
        origin: Origin::Convex,
        session: "s".into(),
        text: "do".into(),
        options: Default::default(),
    }
}

/// Why a turn is run again, as the event says it.
fn because(actions: &[Action]) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        Action::Record(_, Happening::State("running", detail)) => detail["because"].as_str(),
        _ => None,
    })
}

fn has(actions: &[Action], wanted: impl Fn(&Action) -> bool) -> bool {
    actions.iter().any(wanted)
}

#[test]
fn a_prompt_ends_once_and_the_next_one_uses_the_warm_process() {
    let mut world = World::new();
    world.sent("a");
    world.offer("b");
    world.result("other");
    assert!(has(&world.result("a"), |action| matches!(action, Action::Sweep(1))));
    world.result("a");
    assert!(has(&world.emptied(), |action| matches!(action, Action::Flush(_))));
    let actions = world.flushed("a");
    assert!(has(&actions, |action| matches!(action, Action::Claim(id, _) if id.as_str() == "b")));
    world.flushed("a");
    let actions = world.step(Event::Claimed {
        id: pid("b"),
        attempt: 1,
        text: None,
    });
    assert!(!has(&actions, |action| matches!(action, Action::Start { .. })));
    assert_eq!(world.finishes(), [("a".into(), Verdict::Done, "completed".into())]);
}

#[test]
fn a_crash_is_resumed_and_the_end_says_so() {
    let mut world = World::new();
    world.sent("a");
    assert!(has(&world.exited(), |action| matches!(action, Action::KillTree(1))));
    world.emptied();
    let actions = world.wait(Duration::from_secs(1));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Start {
            generation: 2,
            resumes: true,
            ..
        }
    )));
    assert!(has(&actions, |action| matches!(action, Action::Write(_))));
    world.result("a");
    world.emptied();
    let actions = world.flushed("a");
    assert!(has(
        &actions,
        |action| matches!(action, Action::Finish(_, outcome) if outcome.resumed == 1)
    ));
}

#[test]
fn crashes_without_end_fail_the_prompt() {
    let mut world = World::new();
    world.sent("a");
    for _ in 0..20 {
        world.exited();
        world.emptied();
        world.wait(Duration::from_secs(60));
    }
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Failed, "crashed".into())]);
    assert_eq!(world.session.generation, 6);
}

#[test]
fn cancel_interrupts_then_terminates_then_kills() {
    let mut world = World::new();
    world.sent("a");
    let actions = world.step(Event::CancelAsked { id: pid("a") });
    assert!(has(
        &actions,
        |action| matches!(action, Action::Write(line) if line.contains("interrupt"))
    ));
    assert!(has(&world.wait(Duration::from_secs(5)), |action| action == &Action::Terminate));
    assert!(has(&world.wait(Duration::from_secs(5)), |action| matches!(
        action,
        Action::KillTree(_)
    )));
    world.emptied();
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Cancelled, "cancelled".into())]);
}

#[test]
fn a_waiting_prompt_is_cancelled_without_claude() {
    let mut world = World::new();
    world.offer("a");
    world.step(Event::CancelAsked { id: pid("a") });
    world.step(Event::Claimed {
        id: pid("a"),
        attempt: 1,
        text: None,
    });
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Cancelled, "cancelled".into())]);
    assert_eq!(world.session.generation, 0);
}

#[test]
fn silence_is_a_stall_unless_a_tool_runs_or_a_person_is_asked() {
    let mut world = World::new();
    world.sent("a");
    world.say(r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t1"}]}}"#);
    assert!(!has(&world.wait(Duration::from_secs(200)), |action| matches!(
        action,
        Action::KillTree(_)
    )));
    world.say(r#"{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{}}}"#);
    assert_eq!(world.session.activity(), Activity::RequiresAction);
    assert!(!has(&world.wait(Duration::from_secs(100_000)), |action| matches!(
        action,
        Action::KillTree(_)
    )));
    world.step(Event::Answered {
        question: "q".into(),
        response: json!({"behavior": "allow"}),
    });
    world.say(r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}"#);
    assert!(has(&world.wait(Duration::from_secs(121)), |action| matches!(
        action,
        Action::KillTree(_)
    )));
    assert_eq!(world.session.activity(), Activity::Stalled);
    world.exited();
    world.emptied();
    assert_eq!(because(&world.wait(Duration::from_secs(1))), Some("silent for 121 s"));
}

#[test]
fn the_time_limit_fails_the_prompt() {
    let mut world = World::new();
    world.sent("a");
    world.say(r#"{"type":"system","subtype":"status"}"#);
    world.session.rules.stall_timeout = Duration::ZERO;
    let actions = world.wait(Duration::from_secs(601));
    assert!(has(
        &actions,
        |action| matches!(action, Action::Write(line) if line.contains("interrupt"))
    ));
    world.say(r#"{"type":"result","subtype":"error_during_execution","is_error":true,"terminal_reason":"aborted_streaming","user_message_uuid":"a"}"#);
    world.emptied();
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Failed, "time_limit".into())]);
}

#[test]
fn an_answered_prompt_is_looked_up_in_the_transcript() {
    let mut world = World::new();
    world.sent("a");
    world.say(r#"{"type":"command_lifecycle","command_uuid":"a","state":"completed"}"#);
    world.say(r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#);
    assert!(has(&world.wait(Duration::from_secs(2)), |action| matches!(
        action,
        Action::Recover(_)
    )));
    world.step(Event::Recovered {
        id: pid("a"),
        text: Some("42".into()),
    });
    world.emptied();
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Done, "recovered".into())]);
}

#[test]
fn a_message_that_was_forgotten_is_sent_anew_under_another_id() {
    let mut world = World::new();
    world.sent("a");
    let idle = r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
    world.say(idle);
    world.wait(Duration::from_secs(2));
    let none = || Event::Recovered { id: pid("a"), text: None };
    let actions = world.step(none());
    assert!(
        has(&actions, |action| matches!(action, Action::KillTree(1))),
        "one message with one process"
    );
    world.exited();
    world.emptied();
    let actions = world.wait(Duration::from_secs(1));
    assert_eq!(
        because(&actions),
        Some("the message was taken for answered"),
        "not how it was killed"
    );
    assert!(has(
        &actions,
        |action| matches!(action, Action::Start { message, .. } if message == "a-2")
    ));
    assert!(has(
        &actions,
        |action| matches!(action, Action::Write(line) if line.contains("\"a-2\""))
    ));
    world.result("a-2");
    world.emptied();
    world.flushed("a");
    assert_eq!(world.finishes(), [("a".into(), Verdict::Done, "completed".into())]);
}

#[test]
fn an_idle_that_comes_late_is_not_about_the_next_prompt() {
    let mut world = World::new();
    world.session.fifo = false;
    world.sent("a");
    world.result("a");
    world.emptied();
    world.flushed("a");
    world.sent_warm("b");
    let idle = r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
    world.say(r#"{"type":"command_lifecycle","command_uuid":"a","state":"completed"}"#);
    world.say(idle);
    assert!(!has(&world.wait(Duration::from_secs(5)), |action| matches!(
        action,
        Action::Recover(_)
    )));
    world.say(r#"{"type":"command_lifecycle","command_uuid":"b","state":"completed"}"#);
    world.say(idle);
    assert!(has(&world.wait(Duration::from_secs(2)), |action| matches!(
        action,
        Action::Recover(_)
    )));
}

#[test]
fn an_empty_or_a_long_prompt_ends_without_claude() {
    for text in ["", " \n", &"x".repeat((4 << 20) + 1)] {
        let mut world = World::new();
        world.offer("a");
        let text = Some(text.to_owned());
        let actions = world.step(Event::Claimed {
            id: pid("a"),
            attempt: 1,
            text,
        });
        assert!(!has(&actions, |action| matches!(action, Action::Start { .. })));
        world.flushed("a");
        assert_eq!(world.finishes(), [("a".into(), Verdict::Failed, "refused".into())]);
    }
}

#[test]
fn a_lost_claim_ends_nothing() {
    let mut world = World::new();
    world.sent("a");
    assert!(has(&world.wait(Duration::from_secs(20)), |action| matches!(
        action,
        Action::Renew(_, 1)
    )));
    world.step(Event::Renewed {
        id: pid("a"),
        attempt: 7,
        held: false,
    });
    assert!(world.session.running());
    let actions = world.step(Event::Renewed {
        id: pid("a"),
        attempt: 1,
        held: false,
    });
    assert!(has(&actions, |action| matches!(action, Action::Abandon(_))));
    world.result("a");
    world.emptied();
    assert!(!world.session.busy());
    assert_eq!(world.finishes(), []);
}

#[test]
fn draining_leaves_the_turn_to_be_resumed() {
    let mut world = World::new();
    world.sent("a");
    world.offer("b");
    assert!(has(&world.step(Event::Drain), |action| action == &Action::Terminate));
    assert!(!world.session.drained());
    world.exited();
    world.emptied();
    assert!(world.session.drained());
    assert_eq!(
        world.session.open().map(|(prompt, attempt)| (prompt.id.to_string(), attempt)),
        Some(("a".into(), 1))
    );
    assert_eq!(world.finishes(), []);
}

#[test]
fn late_words_of_an_old_process_are_dropped() {
    let mut world = World::new();
    world.sent("a");
    world.exited();
    world.emptied();
    world.wait(Duration::from_secs(1));
    let line = parse(br#"{"type":"result","subtype":"success","user_message_uuid":"a"}"#);
    assert_eq!(world.step(Event::Said { generation: 1, line }), []);
    assert_eq!(world.step(Event::Emptied { generation: 1, ended: 3 }), []);
}

/// Random lives: whatever happens in whatever order, a prompt ends at most once, and when the dust settles exactly once.
#[test]
fn random_lives_end_each_prompt_exactly_once() {
    for seed in 0..3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let ids = ["a", "b", "c"];
        for id in ids {
            world.offer(id);
        }
        for _ in 0..random.usize(0..60) {
            let id = ids[random.usize(0..3)];
            chance(&mut world, &mut random, id);
        }
        settle(&mut world, seed);
        let mut ended: Vec<String> = world.finishes().into_iter().map(|(id, _, _)| id).collect();
        ended.sort();
        assert_eq!(ended, ids, "seed {seed}: {:#?}", world.log);
        let kills = world.log.iter().filter(|action| matches!(action, Action::Start { .. })).count();
        assert_eq!(u64::try_from(kills).unwrap(), world.session.generation, "seed {seed}");
    }
}

fn chance(world: &mut World, random: &mut fastrand::Rng, id: &str) {
    match random.u8(0..12) {
        0 => drop(world.step(Event::Claimed {
            id: pid(id),
            attempt: 1,
            text: None,
        })),
        1 => drop(world.result(id)),
        2 => drop(world.exited()),
        3 | 4 => drop(world.emptied()),
        5 => drop(world.flushed(id)),
        6 if random.u8(0..4) == 0 => drop(world.step(Event::CancelAsked { id: pid(id) })),
        7 => drop(world.wait(Duration::from_secs(random.u64(0..200)))),
        8 => drop(world.say(r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t"}]}}"#)),
        9 => drop(world.say(r#"{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool"}}"#)),
        10 => drop(world.say(r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#)),
        _ => drop(world.say("garbage")),
    }
}

/// Everything from here on goes well.
fn settle(world: &mut World, seed: u64) {
    for _ in 0..200 {
        let Some(turn) = world.session.turn.clone() else {
            if world.session.queue.is_empty() {
                return;
            }
            world.wait(Duration::from_secs(1));
            continue;
        };
        let id = turn.prompt.id.to_string();
        match turn.phase {
            Phase::Claiming => drop(world.step(Event::Claimed {
                id: pid(&id),
                attempt: 1,
                text: None,
            })),
            Phase::Recovering => drop(world.step(Event::Recovered { id: pid(&id), text: None })),
            Phase::Flushing { .. } => drop(world.flushed(&id)),
            Phase::Sent { .. } if world.session.process != Process::Dying => drop(world.result(&id)),
            _ if world.session.process == Process::Dying => drop(world.emptied()),
            Phase::Sweeping { .. } => drop(world.emptied()),
            _ => drop(world.wait(Duration::from_secs(5))),
        }
    }
    panic!("seed {seed} does not settle: {:?} {:?}", world.session.turn, world.session.process);
}

/// A result after which the session has cost so much.
fn costly(world: &mut World, id: &str, total: f64) {
    world.say(&format!(
        r#"{{"type":"result","subtype":"success","is_error":false,"result":"ok","total_cost_usd":{total},"user_message_uuid":"{id}"}}"#
    ));
    world.emptied();
    world.flushed(id);
}

fn with_budget(world: &mut World, id: &str, max_budget_usd: f64, prompt_budget_usd: f64) -> Vec<Action> {
    let launch = Launch {
        max_budget_usd,
        prompt_budget_usd,
        ..Launch::default()
    };
    world.step(Event::Offered(Box::new(Offer {
        prompt: prompt(id),
        launch,
        time_limit: None,
        resumed: false,
    })));
    world.step(Event::Claimed {
        id: pid(id),
        attempt: 1,
        text: None,
    })
}

fn budgets_told(actions: &[Action]) -> Vec<f64> {
    let starts = actions.iter().filter_map(|action| match action {
        Action::Start { launch, .. } => Some(launch.max_budget_usd),
        _ => None,
    });
    starts.collect()
}

#[test]
fn a_budget_is_the_sessions_not_the_process_es() {
    let mut world = World::new();
    assert_eq!(budgets_told(&with_budget(&mut world, "a", 2.0, 0.0)), [2.0]);
    costly(&mut world, "a", 0.5);
    assert_eq!(
        budgets_told(&with_budget(&mut world, "b", 2.0, 0.0)),
        [0.0; 0],
        "the warm process goes on"
    );
    costly(&mut world, "b", 1.5);
    world.step(Event::Rest);
    world.exited();
    world.emptied();
    assert_eq!(budgets_told(&with_budget(&mut world, "c", 2.0, 0.0)), [0.5], "what is left of it");
    costly(&mut world, "c", 2.25);
    assert_eq!(budgets_told(&with_budget(&mut world, "d", 2.0, 0.0)), [0.0; 0]);
    world.flushed("d");
    assert_eq!(world.finishes().last().unwrap().2, "max_budget");
}

#[test]
fn a_prompts_own_budget_is_its_own() {
    let mut world = World::new();
    assert_eq!(budgets_told(&with_budget(&mut world, "a", 0.0, 0.25)), [0.25]);
    costly(&mut world, "a", 0.25);
    let actions = with_budget(&mut world, "b", 0.0, 0.25);
    assert!(
        has(&actions, |action| matches!(action, Action::Terminate)),
        "the process counts on: {actions:?}"
    );
    world.exited();
    assert_eq!(budgets_told(&world.emptied()), [0.25]);
}
