use super::log::{JOIN_TIME, STRING_MAX};
use super::*;
use crate::agent::prompt::Verdict;
use serde_json::json;
use std::io::Write;

fn outbox(directory: &Path) -> Outbox {
    Outbox::open(directory, Masker::new(["hunter2-hunter2"])).unwrap()
}

fn id() -> PromptId {
    PromptId::new("p1").unwrap()
}

fn all(directory: &Path) -> Vec<Event> {
    read(&path_of(directory, &id()), 0, usize::MAX).unwrap()
}

#[test]
fn text_is_joined_and_secrets_are_masked() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut outbox = outbox(directory.path());
    outbox.begin(&id(), 1).unwrap();
    let texts = || {
        all(directory.path())
            .iter()
            .map(|event| event.data["text"].clone())
            .collect::<Vec<_>>()
    };
    outbox.record(now, &id(), Happening::Text("the first piece comes at once, ".into()));
    outbox.commit(now).unwrap();
    assert_eq!(texts().len(), 1);
    for piece in ["then ", "my ", "hunter2-", "hunter2 ", "is"] {
        outbox.record(now, &id(), Happening::Text(piece.into()));
        outbox.commit(now).unwrap();
    }
    assert_eq!(texts().len(), 1);
    outbox.commit(now + JOIN_TIME).unwrap();
    assert_eq!(texts()[1], "then my *** is");
    outbox.record(now, &id(), Happening::Message(json!({"deep": ["hunter2-hunter2"]})));
    outbox.commit(now).unwrap();
    let events = all(directory.path());
    assert_eq!(events[2].data, json!({"deep": ["***"]}));
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_secret_is_masked_wherever_its_pieces_come_apart() {
    for at in 1.."hunter2-hunter2".len() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut outbox = outbox(directory.path());
        outbox.begin(&id(), 1).unwrap();
        let (first, second) = "hunter2-hunter2".split_at(at);
        outbox.record(now, &id(), Happening::Text(format!("it is {first}")));
        outbox.commit(now).unwrap();
        assert!(outbox.next_deadline().is_none(), "what waits for more waits for nothing else");
        outbox.record(now, &id(), Happening::Text(second.into()));
        outbox.commit(now + JOIN_TIME).unwrap();
        outbox.record(now, &id(), Happening::Notice(json!(1)));
        outbox.commit(now).unwrap();
        let events = all(directory.path());
        let text: String = events.iter().filter_map(|event| event.data["text"].as_str()).collect();
        assert_eq!(text, "it is ***", "at {at}");
    }
}

#[test]
fn a_torn_line_is_cut_off_and_the_sequence_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut first = outbox(directory.path());
    first.begin(&id(), 1).unwrap();
    first.record(now, &id(), Happening::Notice(json!(1)));
    first.commit(now).unwrap();
    drop(first);
    let path = path_of(directory.path(), &id());
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"{\"seq\":2,\"at")
        .unwrap();
    let mut second = outbox(directory.path());
    assert_eq!(second.begin(&id(), 1).unwrap().last_seq, 1);
    let end = second
        .end(&id(), Outcome::without_claude(Verdict::Done, "completed", None))
        .unwrap();
    assert_eq!((end.last_seq, end.ended), (2, true));
    let again = second.end(&id(), Outcome::without_claude(Verdict::Failed, "late", None)).unwrap();
    assert_eq!(again.last_seq, 2);
    let events = all(directory.path());
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(events[1].data["status"], "done");
}

#[test]
fn long_strings_and_events_are_shortened() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut outbox = outbox(directory.path());
    outbox.begin(&id(), 1).unwrap();
    outbox.record(now, &id(), Happening::ToolResult(json!({"content": "é".repeat(STRING_MAX)})));
    outbox.record(now, &id(), Happening::ToolResult(json!(vec!["x".repeat(STRING_MAX); 8])));
    outbox.commit(now).unwrap();
    let events = all(directory.path());
    assert!(
        events[0].data["content"]
            .as_str()
            .unwrap()
            .ends_with(&format!("({STRING_MAX} bytes left out)"))
    );
    assert!(events[1].data["left_out_bytes"].as_u64().unwrap() > 400_000);
}

#[test]
fn a_reader_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut outbox = outbox(directory.path());
    outbox.begin(&id(), 5).unwrap();
    let mut reader = Reader::open(&path_of(directory.path(), &id())).unwrap();
    for round in 0..3u64 {
        outbox.record(now, &id(), Happening::Notice(json!(round)));
        outbox.commit(now).unwrap();
        assert_eq!(reader.next(10).unwrap().last().unwrap().seq, 5 + round);
    }
    assert_eq!(reader.next(10).unwrap(), []);
}

#[test]
fn open_questions_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut outbox = outbox(directory.path());
    outbox.begin(&id(), 1).unwrap();
    assert!(outbox.open_questions(&id()).is_empty());
    for question in ["q1", "q2", "q3"] {
        outbox.record(now, &id(), Happening::Question(json!({"question": question})));
    }
    outbox.record(now, &id(), Happening::Answer(json!({"question": "q2", "withdrawn": true})));
    outbox.commit(now).unwrap();
    assert_eq!(outbox.open_questions(&id()), ["q1", "q3"]);
}

#[test]
fn whoever_ends_writes_what_was_joined() {
    let directory = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut outbox = outbox(directory.path());
    outbox.begin(&id(), 1).unwrap();
    outbox.record(now, &id(), Happening::Text("first ".into()));
    outbox.commit(now).unwrap();
    outbox.record(now, &id(), Happening::Text("second".into()));
    outbox.rest().unwrap();
    assert_eq!(all(directory.path()).len(), 2);
}
