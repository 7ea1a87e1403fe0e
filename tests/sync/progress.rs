//! What a person sees while files come back: one line that is overwritten, on a terminal alone.

use crate::server::R2;
use crate::tree::{Sandbox, text};
use std::fs::File;
use std::io::Read;
use std::process::Stdio;

/// What a command says to a terminal that stands for its stderr, what it prints, and whether it went well.
fn on_a_terminal(mut command: std::process::Command) -> (String, String, bool) {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    command.stdout(Stdio::piped()).stderr(File::from(terminal.slave));
    let child = command.spawn().expect("it starts");
    // It holds the terminal's other end.
    drop(command);
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    let mut master = File::from(terminal.master);
    // EIO says that nobody has the other end any more.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        said.extend(&buffer[..length]);
    }
    let output = child.wait_with_output().expect("it ends");
    (text(&said), text(&output.stdout), output.status.success())
}

/// Of `3/20 files, 12 B/80 B, 40 B/s`: how many of how many.
fn files_of(line: &str) -> Option<(u64, u64)> {
    let [files, bytes, rate] = line.split(", ").collect::<Vec<_>>()[..] else {
        return None;
    };
    let (done, all) = files.strip_suffix(" files")?.split_once('/')?;
    (bytes.contains(" B/80 B") && rate.ends_with("/s")).then_some(())?;
    Some((done.parse().ok()?, all.parse().ok()?))
}

#[test]
fn a_terminal_shows_files_bytes_and_rate_and_a_pipe_nothing() {
    let r2 = R2::start();
    let from = Sandbox::on(&r2);
    // Too few for a pack: each comes by itself.
    for n in 0..20 {
        from.write(&format!("f{n}"), format!("{n:04}"));
    }
    from.flush();
    // The line is drawn once a tenth of a second has passed.
    let slowly = r#"[{"operation":"GetObject","kind":"delay:300","count":40}]"#;
    r2.faults(slowly);
    let to = Sandbox::on(&r2);
    let (said, printed, went_well) = on_a_terminal(to.command(&["restore"]));
    assert!(went_well, "{said}");
    let lines: Vec<_> = said.split("\r\x1b[K").collect();
    let drawn: Vec<_> = lines.iter().filter_map(|line| files_of(line)).collect();
    assert!(!drawn.is_empty(), "{said:?}");
    assert!(drawn.iter().all(|(done, all)| (1..=20).contains(done) && *all == 20), "{said:?}");
    assert!(drawn.is_sorted(), "{said:?}");
    assert_eq!(lines.last(), Some(&""), "the line is wiped at the end: {said:?}");
    assert!(printed.contains("20 files brought (80 B)"), "{printed}");

    r2.faults(slowly);
    let output = Sandbox::on(&r2).sync(&["restore"]);
    assert!(output.status.success());
    assert!(!text(&output.stderr).contains(" files, "), "{}", text(&output.stderr));
}
