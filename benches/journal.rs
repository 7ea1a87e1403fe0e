//! The log path: one child writes 1 GiB of numbered 100-byte lines into a pipe, the journal keeps them all, and every line is checked.
//!
//! `cargo bench --bench journal [-- MIB [lines]]` prints the rate and this process's CPU time; with `lines` the child makes one write(2)
//! a line, otherwise writes of 4,000 bytes. Files go to `$TMPDIR`; a tmpfs there keeps the disk out of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use nix::sys::resource::{UsageWho, getrusage};
use sandkeep::host::journal::{Journal, Limits};
use sandkeep::unit::Name;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LINE: usize = 100;
const WRITE: usize = 4000;
const CHILD: &str = "SANDKEEP_BENCH_CHILD";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mib: u64 = arguments.first().map_or(1024, |n| n.parse().unwrap());
    let lines = mib * 1024 * 1024 / LINE as u64;
    let write = if arguments.iter().any(|a| a == "lines") { LINE } else { WRITE };
    if std::env::var_os(CHILD).is_some() {
        return child(lines, write);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(lines, mib, write));
}

fn child(lines: u64, write: usize) {
    let mut out = BufWriter::with_capacity(write, std::io::stdout().lock());
    for n in 0..lines {
        out.write_all(&line(n)).unwrap();
        if write == LINE {
            out.flush().unwrap();
        }
    }
    out.flush().unwrap();
}

fn line(n: u64) -> [u8; LINE] {
    let mut line = [b'.'; LINE];
    write!(&mut line[..], "{n:012} ").unwrap();
    line[LINE - 1] = b'\n';
    line
}

async fn measure(lines: u64, mib: u64, write: usize) {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_size: 10 * 1024 * 1024,
        keep: 10_000,
        most: Limits::MOST,
    };
    let journal = Journal::open(dir.path().to_owned(), limits).unwrap();
    let (stdout, out) = std::io::pipe().unwrap();
    let (stderr, err) = std::io::pipe().unwrap();
    let name = Name::new("bench").unwrap();
    let before = (Instant::now(), cpu());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args().skip(1))
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap();
    journal.capture(&name, 1, stdout.into(), stderr.into());
    assert!(tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap().success());
    journal.finish(&name, 1).await;
    let (wall, cpu) = (before.0.elapsed(), cpu() - before.1);
    journal.close().await;
    let index = check(dir.path(), lines);
    let rate = (lines * LINE as u64) as f64 / 1e6 / wall.as_secs_f64();
    println!(
        "{lines} lines, {write} bytes a write: {rate:.0} MB/s, {:.2} CPU s for {mib} MiB, index {index} bytes, none lost, repeated or reordered",
        cpu.as_secs_f64()
    );
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec().cast_unsigned(), u32::try_from(t.tv_usec() * 1000).unwrap());
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Reads the plain files in order of age, as `cat` would, and checks each line. Returns the length of all indices.
fn check(dir: &Path, lines: u64) -> u64 {
    let mut files: Vec<(u64, std::path::PathBuf)> = Vec::new();
    let mut index = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match name.strip_prefix("bench.log") {
            Some("") => files.push((u64::MAX, path)),
            Some(generation) => files.push((generation[1..].parse().unwrap(), path)),
            None => index += path.metadata().unwrap().len(),
        }
    }
    files.sort();
    let mut n = 0;
    let mut text = Vec::new();
    for (_, path) in files {
        text.clear();
        std::fs::File::open(path).unwrap().read_to_end(&mut text).unwrap();
        for found in text.chunks(LINE) {
            assert_eq!(found, line(n), "line {n}");
            n += 1;
        }
    }
    assert_eq!(n, lines);
    index
}
