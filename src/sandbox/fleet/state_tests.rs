#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]

use super::super::heard::tests::document;
use super::*;
use proptest::prelude::*;

fn ready(started: i64) -> Heard {
    Heard::Document(document(Status::Ok, true, started))
}

fn fleet(policy: Policy) -> (Fleet, Instant) {
    (Fleet::new(policy, 7), Instant::now())
}

fn presence(fleet: &Fleet) -> Presence {
    fleet.presence("a").unwrap()
}

#[test]
fn a_sandbox_that_reports_is_not_asked() {
    let (mut fleet, start) = fleet(Policy::default());
    fleet.add(start, "a", true);
    let change = fleet.reported(start, "a", ready(1)).unwrap();
    assert_eq!((change.from, change.to), (Presence::Unknown, Presence::Ready));
    for seconds in (0..600).step_by(30) {
        let now = start + Duration::from_secs(seconds);
        fleet.reported(now, "a", ready(1));
        assert_eq!(fleet.take_due(now).0, []);
    }
    let silent = start + Duration::from_secs(570) + Policy::default().report_patience;
    assert_eq!(fleet.next_deadline(), Some(silent));
    assert_eq!(fleet.take_due(silent).0.len(), 1);
}

#[test]
fn one_that_does_not_answer_is_asked_later_and_later() {
    let (mut fleet, mut now) = fleet(Policy::default());
    fleet.add(now, "a", true);
    let mut waits = Vec::new();
    for failure in 1..=10 {
        let due = fleet.next_deadline().unwrap();
        waits.push(due - now);
        now = due;
        let polls = fleet.take_due(now).0;
        assert_eq!(polls.len(), 1);
        let change = fleet.polled(now, &polls[0], Err("no answer".into()));
        assert_eq!(change.map(|change| change.to), (failure == 3).then_some(Presence::Unreachable));
    }
    assert!(waits[1..].windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(waits[9], Policy::default().retry.max);
    // It comes back: at once ready, and in the lane of the living.
    now = fleet.next_deadline().unwrap();
    let poll = &fleet.take_due(now).0[0];
    assert_eq!(poll.lane(), Lane::Doubtful);
    let change = fleet.polled(now, poll, Ok(ready(1))).unwrap();
    assert_eq!((change.from, change.to), (Presence::Unreachable, Presence::Ready));
    now = fleet.next_deadline().unwrap();
    assert_eq!(fleet.take_due(now).0[0].lane(), Lane::Steady);
}

#[test]
fn the_dead_do_not_take_the_room_of_the_living() {
    let policy = Policy {
        steady_at_once: 4,
        doubtful_at_once: 2,
        ..Policy::default()
    };
    let (mut fleet, start) = fleet(policy.clone());
    for n in 0..100 {
        fleet.add(start, &format!("dead-{n}"), true);
    }
    // Each of them has failed once.
    let mut now = start + policy.period;
    loop {
        let polls = fleet.take_due(now).0;
        if polls.iter().all(|poll| poll.lane() == Lane::Doubtful) {
            break;
        }
        for poll in polls {
            fleet.polled(now, &poll, Err("no answer".into()));
        }
    }
    now += Duration::from_secs(600);
    fleet.take_due(now);
    assert_eq!(fleet.asked(), 2);
    // All of their room is taken, and the living is asked at once.
    fleet.add(now, "alive", true);
    now += policy.period;
    let polls = fleet.take_due(now).0;
    assert_eq!(polls.iter().map(|poll| &*poll.sandbox).collect::<Vec<_>>(), ["alive"]);
}

#[test]
fn one_that_only_pushes_is_missed() {
    let (mut fleet, start) = fleet(Policy::default());
    let change = fleet.reported(start, "a", ready(1)).unwrap();
    assert_eq!(change.from, Presence::Unknown);
    let late = start + Policy::default().report_patience;
    let (polls, changes) = fleet.take_due(late);
    assert_eq!((polls.len(), changes.len(), presence(&fleet)), (0, 1, Presence::Unreachable));
    fleet.reported(late, "a", ready(1));
    assert_eq!(presence(&fleet), Presence::Ready);
}

#[test]
fn a_stopped_one_is_left_alone_until_another_supervisor_reports() {
    let (mut fleet, start) = fleet(Policy::default());
    fleet.add(start, "a", true);
    fleet.reported(start, "a", ready(5));
    fleet.stopped("a");
    assert_eq!(fleet.next_deadline(), None);
    assert_eq!(fleet.reported(start, "a", ready(5)), None);
    assert_eq!(presence(&fleet), Presence::Stopped);
    assert_eq!(fleet.counts().reports_late, 1);
    fleet.reported(start, "a", ready(6));
    assert_eq!(presence(&fleet), Presence::Ready);
    // What an earlier supervisor says afterwards is late.
    fleet.reported(start, "a", Heard::Document(document(Status::Failed, false, 5)));
    assert_eq!(presence(&fleet), Presence::Ready);
}

#[test]
fn a_report_outweighs_a_poll_that_was_lost_meanwhile() {
    let (mut fleet, start) = fleet(Policy::default());
    fleet.add(start, "a", true);
    let now = fleet.next_deadline().unwrap();
    let poll = &fleet.take_due(now).0[0];
    fleet.reported(now, "a", ready(1));
    fleet.polled(now, poll, Err("no answer".into()));
    assert_eq!(presence(&fleet), Presence::Ready);
    assert_eq!(fleet.next_deadline(), Some(now + Policy::default().report_patience));
}

#[test]
fn an_answer_for_one_that_was_forgotten_changes_nothing() {
    let (mut fleet, start) = fleet(Policy::default());
    fleet.add(start, "a", true);
    let now = fleet.next_deadline().unwrap();
    let poll = &fleet.take_due(now).0[0];
    fleet.remove("a");
    fleet.add(now, "a", true);
    assert_eq!(fleet.polled(now, poll, Ok(ready(1))), None);
    assert_eq!((presence(&fleet), fleet.asked()), (Presence::Unknown, 0));
}

#[derive(Clone, Debug)]
enum Act {
    Add(u8, bool),
    Remove(u8),
    Stop(u8),
    Report(u8, i64),
    Wait(u64),
    Answer(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..6u8;
    prop_oneof![
        (who.clone(), any::<bool>()).prop_map(|(who, can)| Act::Add(who, can)),
        who.clone().prop_map(Act::Remove),
        who.clone().prop_map(Act::Stop),
        (who, 1..4i64).prop_map(|(who, started)| Act::Report(who, started)),
        (0..200u64).prop_map(Act::Wait),
        (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Act::Answer(which, ok)),
        (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Act::Answer(which, ok)),
    ]
}

proptest! {
    /// Whatever happens: room is kept, each sandbox that may be asked has exactly one place, and no deadline is in the past.
    #[test]
    fn random_lives(acts in proptest::collection::vec(act(), 0..200)) {
        let policy = Policy { steady_at_once: 2, doubtful_at_once: 1, ..Policy::default() };
        let (mut fleet, mut now) = fleet(policy);
        let mut open: Vec<Poll> = Vec::new();
        for act in acts {
            let name = |who: u8| format!("s{who}");
            match act {
                Act::Add(who, can) => { fleet.add(now, &name(who), can); }
                Act::Remove(who) => fleet.remove(&name(who)),
                Act::Stop(who) => { fleet.stopped(&name(who)); }
                Act::Report(who, started) => { fleet.reported(now, &name(who), ready(started)); }
                Act::Wait(seconds) => now += Duration::from_secs(seconds),
                Act::Answer(which, ok) if !open.is_empty() => {
                    let poll = open.swap_remove(which % open.len());
                    let answer = if ok { Ok(ready(2)) } else { Err("no answer".to_owned()) };
                    fleet.polled(now, &poll, answer);
                }
                Act::Answer(..) => {}
            }
            open.extend(fleet.take_due(now).0);
            prop_assert_eq!(fleet.asked(), open.len());
            prop_assert!(fleet.steady.asked <= 2 && fleet.doubtful.asked <= 1);
            prop_assert!(fleet.next_deadline().is_none_or(|at| at > now));
            let waiting = fleet.steady.waiting.len() + fleet.doubtful.waiting.len();
            let due = fleet.sandboxes.values().filter(|entry| matches!(entry.contact, Contact::Due { .. })).count();
            prop_assert_eq!(waiting, due);
            for entry in fleet.sandboxes.values() {
                prop_assert!(entry.stopped == matches!(entry.contact, Contact::Rest), "{:?}", entry);
            }
        }
    }
}
