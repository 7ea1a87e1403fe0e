//! kill -9 at any request: the worker is killed by the server before or after a request was done, at seeded points, while the tree
//! changes. Afterwards tree, store and a fresh restore are compared by this test's own reading; sandkeep is never asked.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, tree};
use std::fs;

fn change(sandbox: &Sandbox, random: &mut fastrand::Rng, round: usize) {
    for _ in 0..random.usize(3..12) {
        let name = format!("d{}/f{}", random.usize(0..4), random.usize(0..8));
        match random.usize(0..10) {
            0 => {
                let _ = fs::remove_file(sandbox.path(&name));
            }
            1 => {
                let _ = fs::rename(sandbox.path(&name), sandbox.path(&format!("{name}-moved{round}")));
            }
            2 => sandbox.write("package.json", format!("{{\"round\":{round}}}")),
            3 => sandbox.write(
                &format!("large{}", random.usize(0..2)),
                vec![random.u8(..); random.usize(0..2 << 20)],
            ),
            _ => sandbox.write(&name, format!("{round} {}", random.u64(..))),
        }
    }
}

fn life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let r2 = R2::start();
    let mut sandbox = Sandbox::on(&r2);
    sandbox.settings["batch_interval"] = "100ms".into();
    sandbox.settings["batch_files"] = 3.into();
    for n in 0..20 {
        sandbox.write(&format!("d{}/f{}", n % 4, n % 8), format!("{n}"));
    }
    for round in 0..8 {
        sandbox.start_with(&["run"]);
        let kind = if random.bool() { "kill-before" } else { "kill-after" };
        let pid = sandbox.pid();
        // The first four requests are the start; what comes then differs from round to round.
        let skip = random.usize(0..18);
        r2.faults(&format!(r#"[{{"operation":"*","kind":"{kind}:{pid}","skip":{skip},"count":1}}]"#));
        change(&sandbox, &mut random, round);
        let mut touched = 0;
        let begun = std::time::Instant::now();
        while !sandbox.has_ended() {
            // Enough work for it to come to the fatal request.
            touched += 1;
            sandbox.write("package.json", format!("{{\"round\":{round},\"touched\":{touched}}}"));
            if begun.elapsed() > std::time::Duration::from_secs(20) {
                sandbox.kill();
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        change(&sandbox, &mut random, round);
    }
    r2.faults("[]");
    let flushed = sandbox.json(&["flush", "--confirm-deletes", "--json"]);
    assert_eq!(flushed["durable"], true, "seed {seed}: {flushed}");
    assert_eq!(
        differences(&tree(&sandbox.root), &store(&r2, "p1")),
        Vec::<String>::new(),
        "seed {seed}: the store is as the tree"
    );
    let fresh = Sandbox::on(&r2);
    fresh.restore();
    assert_eq!(
        differences(&tree(&sandbox.root), &tree(&fresh.root)),
        Vec::<String>::new(),
        "seed {seed}: a restore is as the tree"
    );
    let conflicts: Vec<_> = r2
        .objects()
        .into_keys()
        .filter(|key| key.contains("/.sandkeep/conflicts/"))
        .collect();
    assert_eq!(
        conflicts,
        Vec::<String>::new(),
        "seed {seed}: one's own half-finished writes are no conflicts"
    );
}

#[test]
fn killed_at_any_request_it_converges() {
    for seed in [1, 2, 3] {
        life(seed);
    }
}

#[test]
fn a_restore_that_was_killed_goes_on() {
    let r2 = R2::start();
    let from = Sandbox::on(&r2);
    for n in 0..25 {
        from.write(&format!("src/f{n}"), format!("{n}"));
    }
    from.flush();
    let mut to = Sandbox::on(&r2);
    for skip in [2, 5, 11] {
        to.start_with(&["restore"]);
        let pid = to.pid();
        r2.faults(&format!(
            r#"[{{"operation":"*","kind":"kill-after:{pid}","skip":{skip},"count":1}}]"#
        ));
        to.ended();
        assert!(
            tree(&to.root)
                .into_iter()
                .all(|(name, digest)| name.contains(".sandkeep-tmp-") || tree(&from.root).get(&name) == Some(&digest))
        );
    }
    r2.faults("[]");
    to.restore();
    let left: Vec<_> = differences(&tree(&from.root), &tree(&to.root))
        .into_iter()
        .filter(|line| !line.contains(".sandkeep-tmp-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn lost_state_costs_a_comparison_and_no_data() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..10 {
        a.write(&format!("f{n}"), format!("{n}"));
    }
    a.start();
    a.flush();
    a.kill();
    fs::remove_dir_all(a.home.path().join("state")).expect("removed");
    r2.forget_counts();
    a.start();
    a.wait_in_step(&r2);
    let copies = r2.objects().into_keys().filter(|key| key.contains("/conflicts/")).count();
    assert_eq!(
        (copies, r2.counts().get("PutObject")),
        (0, Some(&1)),
        "the lease alone: {:?}",
        r2.counts()
    );
    // A damaged log and index count as lost.
    a.kill();
    for path in walk_files(&a.home.path().join("state")) {
        if path.ends_with("index") || path.ends_with("intents") {
            fs::write(path, b"garbage\nmore").expect("written");
        }
    }
    a.write("f3", "changed meanwhile");
    a.start();
    a.wait("both versions are there", |sandbox| {
        let kept = r2
            .objects()
            .into_iter()
            .any(|(key, object)| key.contains("/conflicts/") && object.sha256 == crate::tree::sha256(b"changed meanwhile"));
        kept || sandbox.read("f3") == "changed meanwhile"
    });
    assert_eq!(a.stop(), Some(0));
}

fn walk_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { walk_files(&path) } else { vec![path] })
        .collect()
}
