//! Laws of writing and reading together: whatever was written, in whatever pieces, is read back, from wherever one starts.

use super::Limits;
use super::files;
use super::format::Stream;
use super::read::{Cursor, Line, Query, Reader};
use super::writer::{Now, Tag, UnitLog};
use crate::host::mask::Masker;
use crate::unit::Name;
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// One thing that happens to a unit's log.
#[derive(Clone, Debug)]
enum Step {
    /// A source writes.
    Write(u32, String),
    /// A source ends.
    End(u32),
    /// So many microseconds pass.
    Wait(u32),
    /// The files are closed and opened again.
    Close,
    /// The supervisor is killed and started again: old sources are gone.
    Restart,
    /// Someone removes the file.
    Remove,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let text = "([a-c]|\n){1,12}";
    let step = prop_oneof![
        12 => (1u32..4, text).prop_map(|(source, text)| Step::Write(source, text)),
        1 => (1u32..4).prop_map(Step::End),
        3 => (1u32..3000).prop_map(Step::Wait),
        1 => Just(Step::Close),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..50)
}

/// What was written, as a reader should see it.
#[derive(Debug, Default)]
struct Model {
    lines: Vec<(u32, String)>,
    pending: BTreeMap<u32, String>,
}

impl Model {
    fn write(&mut self, source: u32, text: &str) {
        for c in text.chars() {
            let line = self.pending.entry(source).or_default();
            if c == '\n' {
                self.lines.push((source, std::mem::take(line)));
            } else {
                line.push(c);
            }
        }
    }

    fn end(&mut self, source: u32) {
        if let Some(line) = self.pending.remove(&source).filter(|line| !line.is_empty()) {
            self.lines.push((source, line));
        }
    }

    fn end_all(&mut self) {
        for source in [1, 2, 3] {
            self.end(source);
        }
    }
}

struct World<'a> {
    dir: &'a Path,
    max_size: u64,
    keep: u32,
    log: UnitLog,
    now: Now,
    restarted: bool,
    model: Model,
}

fn dev() -> Name {
    Name::new("dev").unwrap()
}

fn open(dir: &Path, max_size: u64, keep: u32) -> UnitLog {
    let rotated = files::units(dir).unwrap().remove(&dev()).unwrap_or_default();
    UnitLog::new(
        dev(),
        dir.into(),
        rotated.into(),
        Limits {
            max_size,
            keep,
            most: Limits::MOST,
        },
    )
}

fn tag(source: u32) -> Tag {
    let stream = if source == 2 { Stream::Stderr } else { Stream::Stdout };
    Tag {
        source,
        stream,
        invocation: u64::from(source),
    }
}

impl<'a> World<'a> {
    fn new(dir: &'a Path, max_size: u64, keep: u32) -> Self {
        let now = Now {
            wall: 1_000_000_000_000,
            monotonic: 5_000_000_000,
        };
        Self {
            dir,
            max_size,
            keep,
            log: open(dir, max_size, keep),
            now,
            restarted: false,
            model: Model::default(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(source, text) => {
                if std::mem::take(&mut self.restarted) {
                    self.model.end_all();
                }
                self.model.write(*source, text);
                self.log.append(tag(*source), text.as_bytes(), self.now);
            }
            Step::End(source) => {
                if !self.restarted {
                    self.model.end(*source);
                    self.log.ended(tag(*source), self.now);
                }
            }
            Step::Wait(us) => {
                self.now.wall += i64::from(*us) * 1000;
                self.now.monotonic += u64::from(*us) * 1000;
            }
            Step::Close => self.log.close(),
            Step::Restart => {
                self.restarted = true;
                self.log = open(self.dir, self.max_size, self.keep);
            }
            Step::Remove => {
                let _ = std::fs::remove_file(self.dir.join("dev.log"));
            }
        }
    }
}

fn reader(dir: &Path) -> Reader {
    Reader::new(dir.to_owned(), Masker::default())
}

fn read(dir: &Path, query: &Query) -> Vec<Line> {
    reader(dir).read(query).unwrap()
}

fn seen(lines: &[Line]) -> Vec<(u32, String)> {
    lines
        .iter()
        .map(|l| (u32::try_from(l.invocation).unwrap(), l.message.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn what_was_written_is_read(steps in steps(), max_size in 10u64..60) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path(), max_size, 1000);
        steps.iter().for_each(|step| world.step(step));
        let lines = read(dir.path(), &Query::default());
        let ended: Vec<Line> = lines.iter().filter(|l| !l.partial).cloned().collect();
        prop_assert_eq!(seen(&ended), world.model.lines.clone());
        let mut partial = seen(&lines[ended.len()..]);
        partial.sort();
        let pending: Vec<_> = world.model.pending.into_iter().filter(|(_, line)| !line.is_empty()).collect();
        prop_assert_eq!(partial, pending);

        // From any line's cursor on, the rest follows: nothing is lost, nothing comes twice.
        for (n, line) in ended.iter().enumerate() {
            let after = Query { after: Cursor::new(line.cursor.as_str()), ..Query::default() };
            let rest: Vec<Line> = read(dir.path(), &after).into_iter().filter(|l| !l.partial).collect();
            prop_assert_eq!(seen(&rest), seen(&ended[n + 1..]), "after {}", line.cursor.as_str());
        }
        // The last so many are the last so many.
        for n in [0, 1, 2, 5, 100] {
            let last = read(dir.path(), &Query { lines: Some(n), ..Query::default() });
            prop_assert_eq!(seen(&last), seen(&lines[lines.len().saturating_sub(n)..]));
        }
        // Times never go back, and select.
        if steps.iter().any(|step| matches!(step, Step::Restart)) {
            // But for lines whose end nobody saw.
            return Ok(());
        }
        prop_assert!(ended.iter().zip(ended.iter().skip(1)).all(|(a, b)| a.time <= b.time));
        for line in ended.iter().step_by(4) {
            let since = read(dir.path(), &Query { since: Some(line.time), ..Query::default() });
            let wanted: Vec<Line> = lines.iter().filter(|l| l.time >= line.time).cloned().collect();
            prop_assert_eq!(seen(&since), seen(&wanted));
            let until = read(dir.path(), &Query { until: Some(line.time), lines: Some(3), ..Query::default() });
            let wanted: Vec<Line> = ended.iter().filter(|l| l.time <= line.time).cloned().collect();
            let until: Vec<Line> = until.into_iter().filter(|l| !l.partial).collect();
            prop_assert_eq!(seen(&until), seen(&wanted[wanted.len() - until.len()..]));
        }
        // Files end with a line unless one is too long for any.
        for (_, rotated) in files::units(dir.path()).unwrap() {
            for id in rotated {
                let length = std::fs::metadata(dir.path().join(format!("dev.log.{id}"))).unwrap().len();
                prop_assert!(length <= max_size + 64 * 1024);
            }
        }
    }

    #[test]
    fn removed_files_and_old_ones_cost_only_what_was_in_them(steps in steps(), removed in 0usize..60) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path(), 40, 2);
        for (n, step) in steps.iter().enumerate() {
            world.step(step);
            if n == removed {
                world.step(&Step::Remove);
            }
        }
        world.step(&Step::Wait(2000));
        world.step(&Step::Write(1, "\nthe last line\n".to_owned()));
        let lines = read(dir.path(), &Query::default());
        let last = lines.iter().rfind(|l| !l.partial);
        prop_assert_eq!(last.map(|l| l.message.as_str()), Some("the last line"));
        prop_assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 6);
    }

    #[test]
    fn damaged_files_never_panic(log: Vec<u8>, mut index: Vec<u8>, header: bool, at in "[0-9]{1,20}:[0-9]{1,20}(\\+|![0-9])?") {
        let dir = tempfile::tempdir().unwrap();
        if header {
            index.splice(0..0, super::format::encode_header(7));
        }
        std::fs::write(dir.path().join("dev.log"), &log).unwrap();
        std::fs::write(dir.path().join("dev.idx"), &index).unwrap();
        std::fs::write(dir.path().join("dev.log.3"), &log).unwrap();
        let after = Cursor::new(&format!("dev:{at}"));
        let now = Some(Timestamp::now());
        for query in [
            Query::default(),
            Query { lines: Some(2), ..Query::default() },
            Query { after, ..Query::default() },
            Query { since: now, ..Query::default() },
            Query { until: now, ..Query::default() },
        ] {
            let _ = reader(dir.path()).read(&query);
        }
    }

    #[test]
    fn any_cursor_is_taken_or_refused(text in "\\PC{0,40}") {
        let _ = Cursor::new(&text);
    }
}

#[test]
fn units_are_merged_by_time_and_resumed_together() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<Name> = ["a", "b", "c"].into_iter().filter_map(Name::new).collect();
    let mut logs: Vec<UnitLog> = names
        .iter()
        .map(|name| {
            let limits = Limits {
                max_size: 200,
                keep: 1000,
                most: Limits::MOST,
            };
            UnitLog::new(name.clone(), dir.path().into(), [].into(), limits)
        })
        .collect();
    for n in 0..300u32 {
        let wall = 1_000_000_000 + i64::from(n) * 2_000_000;
        let now = Now { wall, monotonic: 0 };
        logs[n as usize % 3].append(tag(1), format!("line {n}\n").as_bytes(), now);
    }
    let lines = read(dir.path(), &Query::default());
    let numbers: Vec<String> = (0..300).map(|n| format!("line {n}")).collect();
    assert_eq!(lines.iter().map(|l| l.message.clone()).collect::<Vec<_>>(), numbers);
    for n in [0, 1, 2, 150, 298, 299] {
        let after = Query {
            after: Cursor::new(lines[n].cursor.as_str()),
            ..Query::default()
        };
        assert_eq!(read(dir.path(), &after), lines[n + 1..], "{n}");
    }
    let two = Query {
        units: names[..2].to_vec(),
        lines: Some(4),
        ..Query::default()
    };
    let last: Vec<String> = read(dir.path(), &two).into_iter().map(|l| l.message).collect();
    assert_eq!(last, ["line 294", "line 295", "line 297", "line 298"]);
}

#[test]
fn long_lines_come_in_pieces_that_cut_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "secret-secret-secret";
    let mut world = World::new(dir.path(), 1 << 30, 4);
    // The secret lies across the place where a piece would end, and the line across many reads.
    let text = format!("{}{secret}{}\nshort\n", "x".repeat(64 * 1024 - 10), "y".repeat(200_000));
    for piece in text.as_bytes().chunks(3000) {
        world.log.append(tag(1), piece, world.now);
    }
    let reader = Reader::new(dir.path().to_owned(), Masker::new([secret]));
    let lines = reader.read(&Query::default()).unwrap();
    assert!(lines.iter().all(|l| !l.message.contains("secret") && l.message.len() < 80 * 1024));
    let whole: String = lines.iter().map(|l| l.message.as_str()).collect();
    assert_eq!(whole, text.replace(secret, "***").replace('\n', ""));
    let partial: Vec<bool> = lines.iter().map(|l| l.partial).collect();
    assert_eq!(partial, [true, true, true, false, false]);
    for (n, line) in lines.iter().enumerate() {
        let after = Query {
            after: Cursor::new(line.cursor.as_str()),
            ..Query::default()
        };
        assert_eq!(reader.read(&after).unwrap(), lines[n + 1..], "after piece {n}");
    }
}

#[test]
fn bytes_that_are_no_text_and_colours_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), 1 << 20, 4);
    world
        .log
        .append(tag(1), b"a\xffb\n\x1b[31mred\x1b[0m hunt\x1b[1mer22222\x1b[0m\r\n", world.now);
    let reader = Reader::new(dir.path().to_owned(), Masker::new(["hunter22222"]));
    let messages = |ansi| {
        let query = Query { ansi, ..Query::default() };
        reader.read(&query).unwrap().into_iter().map(|l| l.message).collect::<Vec<_>>()
    };
    assert_eq!(messages(super::Ansi::Strip), ["a\u{fffd}b", "red ***"]);
    assert_eq!(messages(super::Ansi::Keep)[1], "\x1b[31mred\x1b[0m hunt\x1b[1mer22222\x1b[0m\r");
}

#[test]
fn grep_sees_what_its_reader_sees() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), 1 << 20, 4);
    world.log.append(tag(1), b"token hunter22222\nother\n", world.now);
    let reader = Reader::new(dir.path().to_owned(), Masker::new(["hunter22222"]));
    let grep = |pattern| {
        let query = Query {
            grep: regex::Regex::new(pattern).ok(),
            ..Query::default()
        };
        reader.read(&query).unwrap().len()
    };
    assert_eq!((grep("hunter"), grep(r"token \*\*\*"), grep("o")), (0, 1, 2));
}

#[test]
fn a_full_disk_is_survived_counted_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), 1 << 20, 4);
    let write = |world: &mut World<'_>, text: &str, ms: i64| {
        world.now.wall += ms * 1_000_000;
        world.now.monotonic += ms.unsigned_abs() * 1_000_000;
        world.log.append(tag(1), text.as_bytes(), world.now);
    };
    // Every write to it fails with ENOSPC.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("dev.log")).unwrap();
    write(&mut world, "one\ntwo\nthr", 0);
    assert_eq!(
        (world.log.loss().lines, world.log.loss().bytes, world.log.loss().ongoing),
        (2, 11, true)
    );
    write(&mut world, "ee\nfour\n", 10);
    // There is room again.
    world.log.close();
    std::fs::remove_file(dir.path().join("dev.log")).unwrap();
    write(&mut world, "five\nsi", 10);
    assert_eq!(world.log.loss().lines, 5, "not tried again at once");
    write(&mut world, "x\nseven\n", 1000);
    assert!(!world.log.loss().ongoing);
    let lines = read(dir.path(), &Query::default());
    let messages: Vec<&str> = lines.iter().map(|l| l.message.as_str()).collect();
    let marker = "[sandkeep: 6 lines, 28 bytes lost: No space left on device (os error 28)]";
    assert_eq!(messages, [marker, "seven"]);
    assert_eq!(lines[0].stream, Stream::Journal);
}

#[test]
fn the_last_lines_are_had_from_who_never_stops() {
    let dir = tempfile::tempdir().unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let text = "a line of a flood\n".repeat(3000);
    let (begun, begins) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut world = World::new(dir.path(), 4 << 20, 2);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                world.log.append(tag(1), text.as_bytes(), world.now);
                let _ = begun.send(());
            }
        });
        begins.recv().unwrap();
        let reader = Reader::new(dir.path().to_owned(), Masker::default());
        let (tell, told) = std::sync::mpsc::channel();
        let five = Query {
            lines: Some(5),
            ..Query::default()
        };
        let dev = Name::new("dev").unwrap();
        // On a thread of its own: what never ends must not hold up the test.
        std::thread::spawn(move || {
            let page = reader.page(&five, 512).unwrap().lines.len();
            let each = reader.last_of_each(std::slice::from_ref(&dev), 5).unwrap()[&dev].len();
            let _ = tell.send((page, each));
        });
        let told = told.recv_timeout(std::time::Duration::from_secs(60));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(told, Ok((5, 5)));
    });
}
