//! What a machine that dies leaves behind: files that are empty or end early are restored again, never sent.
//!
//! The machine's death is played: a file is cut with its time as it was, and the index says that another boot wrote it.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, tree};
use sandkeep::sync::index::Index;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Cuts a file as a disk that never got the rest.
fn cut(sandbox: &Sandbox, name: &str, length: u64) {
    let path = sandbox.path(name);
    let mtime = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
    let file = fs::File::options().write(true).open(&path).expect("opened");
    file.set_len(length).expect("cut");
    file.set_modified(mtime).expect("set");
}

/// An edit, whatever the clock's grain.
fn edit(sandbox: &Sandbox, name: &str, bytes: &str) {
    sandbox.write(name, bytes);
    let file = fs::File::options().write(true).open(sandbox.path(name)).expect("opened");
    let later = file.metadata().and_then(|meta| meta.modified()).expect("a time") + Duration::from_secs(1);
    file.set_modified(later).expect("set");
}

fn index_of(sandbox: &Sandbox) -> PathBuf {
    let states = fs::read_dir(sandbox.home.path().join("state/sync")).expect("read");
    let mut indexes = states.map(|state| state.expect("an entry").path().join("index"));
    indexes.find(|path| path.exists()).expect("an index")
}

/// The machine has started anew since; `complete` says whether the last restore had ended.
fn reboot(sandbox: &Sandbox, complete: bool) {
    let path = index_of(sandbox);
    let mut index = Index::load(&path).expect("it is whole");
    assert!(index.boot.is_some(), "a restore says under which boot it was");
    index.boot = Some("another boot".into());
    index.restored = complete;
    index.save(&path).expect("saved");
}

fn conflicts(r2: &R2) -> Vec<String> {
    let objects = r2.objects().into_keys();
    objects.filter(|key| key.starts_with("p1/.sandkeep/conflicts/")).collect()
}

fn source(r2: &R2) -> Sandbox {
    let from = Sandbox::on(r2);
    for name in ["whole", "empty.ts", "short.ts", "edited.ts", "emptied.ts"] {
        from.write(name, format!("what is in {name}"));
    }
    from.flush();
    from
}

#[test]
fn what_a_power_loss_has_left_is_restored_again_and_edits_stay() {
    for complete in [false, true] {
        let r2 = R2::start();
        let (from, to) = (source(&r2), Sandbox::on(&r2));
        to.restore();
        cut(&to, "empty.ts", 0);
        cut(&to, "short.ts", 4);
        edit(&to, "edited.ts", "an edit");
        edit(&to, "emptied.ts", "");
        reboot(&to, complete);
        let arrived = to.restore();
        assert_eq!((&arrived["downloaded"], &arrived["kept"]), (&2.into(), &2.into()), "{arrived}");
        for name in ["whole", "empty.ts", "short.ts"] {
            assert_eq!(to.read(name), from.read(name), "{name}");
        }
        assert_eq!((to.read("edited.ts"), to.read("emptied.ts")), ("an edit".into(), String::new()));
        // Nothing is thrown away that has bytes in it.
        let kept = conflicts(&r2);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].ends_with("/short.ts"), "{kept:?}");
        to.flush();
        assert_eq!(differences(&tree(&to.root), &store(&r2, "p1")), Vec::<String>::new());
        assert_eq!(r2.read("p1/empty.ts").as_deref(), Some(&b"what is in empty.ts"[..]));
    }
}

#[test]
fn a_restore_whose_index_was_lost_too_is_done_again() {
    let r2 = R2::start();
    let (from, to) = (source(&r2), Sandbox::on(&r2));
    to.restore();
    cut(&to, "empty.ts", 0);
    cut(&to, "short.ts", 4);
    fs::remove_file(index_of(&to)).expect("removed");
    assert_eq!(to.restore()["downloaded"], 2);
    assert_eq!(differences(&tree(&from.root), &tree(&to.root)), Vec::<String>::new());
    assert_eq!(conflicts(&r2).len(), 1);
}

#[test]
fn a_worker_that_starts_after_a_power_loss_sends_nothing_of_it() {
    let r2 = R2::start();
    let (from, mut to) = (source(&r2), Sandbox::on(&r2));
    to.restore();
    cut(&to, "empty.ts", 0);
    edit(&to, "edited.ts", "an edit");
    reboot(&to, true);
    to.start();
    to.flush();
    assert_eq!(to.stop(), Some(0));
    assert_eq!(to.read("empty.ts"), from.read("empty.ts"));
    assert_eq!(r2.read("p1/edited.ts").as_deref(), Some(&b"an edit"[..]));
    assert_eq!(differences(&tree(&to.root), &store(&r2, "p1")), Vec::<String>::new());
    assert_eq!(conflicts(&r2), Vec::<String>::new());
}

#[test]
fn what_was_sent_before_the_disk_had_it_comes_back() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("old", "old");
    a.start();
    a.write("new.ts", "an hour's work");
    let transcript = a.home.path().join("state/transcripts/0b1c.jsonl");
    fs::create_dir_all(transcript.parent().expect("a parent")).expect("made");
    fs::write(&transcript, "{\"n\":1}\n{\"n\":2}\n").expect("written");
    a.flush();
    assert_eq!(a.stop(), Some(0));
    cut(&a, "new.ts", 0);
    let mtime = fs::metadata(&transcript).and_then(|meta| meta.modified()).expect("a time");
    let file = fs::File::options().write(true).open(&transcript).expect("opened");
    file.set_len(8).and_then(|()| file.set_modified(mtime)).expect("cut");
    reboot(&a, true);
    a.start();
    a.flush();
    assert_eq!(a.stop(), Some(0));
    assert_eq!(a.read("new.ts"), "an hour's work");
    assert_eq!(r2.read("p1/new.ts").as_deref(), Some(&b"an hour's work"[..]));
    assert_eq!(fs::read_to_string(&transcript).expect("read"), "{\"n\":1}\n{\"n\":2}\n");
}
