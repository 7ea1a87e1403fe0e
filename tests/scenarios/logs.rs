//! What units write is kept, found again and masked.

use crate::sandbox::Sandbox;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[test]
fn a_flood_is_captured_whole_and_starves_nobody() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[journal]\nmax_size = '64MiB'\n[unit.flood]\ntype = 'oneshot'\nexec = 'seq 1 1000000'\n[unit.b]\nexec = 'exec sleep 1000'\n",
    );
    sandbox.up().expect(0);
    assert_eq!(sandbox.unit("b")["ready"], true);
    sandbox.eventually("all is written", || {
        sandbox.run(&["logs", "flood", "-n", "1"]).stdout.contains("1000000")
    });
    let all = sandbox.run(&["logs", "flood", "--json"]).expect(0);
    let numbers = all
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut expected = 0;
    for line in numbers.filter(|line| line["stream"] == "stdout") {
        expected += 1;
        assert_eq!(line["text"], expected.to_string());
    }
    assert_eq!(expected, 1_000_000);
    sandbox.down();
}

#[test]
fn logs_of_all_units_come_merged_by_time() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\ntype = 'oneshot'\nexec = 'echo one; touch 1; while ! test -e 2; do sleep 0.02; done; echo three'\n\
         [unit.b]\ntype = 'oneshot'\nexec = 'while ! test -e 1; do sleep 0.02; done; sleep 0.1; echo two; sleep 0.1; touch 2'\n",
    );
    sandbox.up().expect(0);
    let text = sandbox.run(&["logs", "a", "b"]).expect(0).stdout;
    let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is missing: {text}"));
    assert!(at("one") < at("two") && at("two") < at("three"), "{text}");
    let grep = sandbox.run(&["logs", "--grep", "^tw"]).expect(0).stdout;
    assert!(grep.contains("two") && !grep.contains("one"), "{grep}");
    let last = sandbox.run(&["logs", "a", "-n", "1"]).expect(0).stdout;
    assert!(last.contains("three") && !last.contains("one"), "{last}");
    sandbox.down();
}

#[test]
fn logs_are_there_when_the_supervisor_is_not() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo remember me; exec sleep 1000'\n");
    sandbox.up().expect(0);
    sandbox.eventually("it was captured", || sandbox.run(&["logs", "a"]).stdout.contains("remember me"));
    sandbox.down();
    let text = sandbox.run(&["logs", "a"]).expect(0).stdout;
    assert!(text.contains("remember me"), "{text}");
}

#[test]
fn logs_follow() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo first; while ! test -e go; do sleep 0.02; done; echo second; exec sleep 1000'\n",
    );
    sandbox.up().expect(0);
    let mut child = sandbox.command(&["logs", "a", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("first"));
    std::fs::write(sandbox.project().join("go"), "").unwrap();
    assert!(lines.next().unwrap().unwrap().contains("second"));
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.down();
}

#[test]
fn binary_output_and_closed_pipes_harm_nothing() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.bin]\ntype = 'oneshot'\nexec = 'head -c 100000 /dev/urandom; printf \"no end\"'\n\
         [unit.closed]\nexec = 'exec >&- 2>&-; exec sleep 1000'\n",
    );
    sandbox.up().expect(0);
    assert_eq!(sandbox.unit("closed")["ready"], true);
    sandbox.eventually("all of it is captured", || {
        sandbox.run(&["logs", "bin", "-n", "1"]).expect(0).stdout.contains("no end")
    });
    sandbox.down();
}

#[test]
fn a_unit_that_never_stops_writing_is_shown_all_the_same() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.flood]\nexec = ['yes', 'a line of a flood']\n");
    sandbox.up().expect(0);
    sandbox.eventually("more is written than one page", || {
        sandbox
            .run(&["logs", "flood", "--plain", "-n", "1500"])
            .expect(0)
            .stdout
            .lines()
            .count()
            == 1500
    });
    let few = sandbox.run(&["logs", "flood", "--plain", "-n", "5"]).expect(0).stdout;
    // The last one may have been on its way.
    let whole = |line: &str| "a line of a flood".starts_with(line);
    assert!(few.lines().count() == 5 && few.lines().all(whole), "{few}");
    let why = sandbox.run(&["why", "flood"]).expect(0).stdout;
    assert!(why.contains("a line of a flood"), "{why}");
    sandbox.down();
}
