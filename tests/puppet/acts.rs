//! What the puppet can do.
#![allow(unsafe_code, reason = "forks, and sets signal dispositions, as the programs do that it stands for")]
#![allow(clippy::exit, clippy::print_stderr, reason = "it ends and complains as programs do")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::time::Duration;

/// Does the words of a script one after the other, then exits with 0.
pub(crate) fn run(script: &[String]) {
    let mut words = script.iter().map(String::as_str);
    while let Some(word) = words.next() {
        act(word, &mut words);
    }
}

fn act<'a>(word: &str, words: &mut impl Iterator<Item = &'a str>) {
    let mut next = || words.next().unwrap_or_else(|| fail(&format!("`{word}` wants a word more")));
    match word {
        "--" => {}
        "install" => {}
        // Time.
        "sleep" => std::thread::sleep(milliseconds(next())),
        "forever" => forever(),
        "spin" => spin(milliseconds(next())),
        // Ends.
        "exit" => exit(number(next())),
        "raise" => raise(number(next())),
        "abort" => std::process::abort(),
        "stop" => raise(libc::SIGSTOP),
        // Signals.
        "ignore" => set_disposition(number(next()), libc::SIG_IGN),
        "exit-on" => exit_on(number(next()), number(next())),
        "echo-on" => echo_on(number(next()), next()),
        // Other processes; the rest of the script is the child's, up to a lone `--`.
        "background" => background(words),
        "setsid" => setsid(words),
        "orphan" => orphan(words),
        "orphan-bare" => orphan_bare(words),
        "fork-bomb" => fork_bomb(number(next())),
        "fork-storm" => fork_storm(),
        "unmark" => unmark(),
        "eat" => eat(number(next())),
        // Output.
        "print" => print(next()),
        "error" => eprintln!("{}", next()),
        "lines" => lines(number(next()), number(next())),
        "close-output" => close_output(),
        "env" => print(&environment()),
        "var" => print(&std::env::var(next()).unwrap_or_else(|_| "(unset)".to_owned())),
        "self" => print(&facts()),
        "start-time" => print(&start_time()),
        "write" => write_file(next(), next()),
        "append" => append_file(next(), next()),
        "touch-pid" => write_file(next(), &std::process::id().to_string()),
        "wait-file" => wait_file(next()),
        // The notify socket.
        "notify" => notify(&next().replace("\\n", "\n").replace("=PID", &format!("={}", std::process::id()))),
        "notify-every" => notify_every(milliseconds(next()), next()),
        // The network.
        "listen" => std::mem::forget(listener(next())),
        "http" => http(next(), next()),
        other => fail(&format!("there is no act `{other}`")),
    }
}

fn fail(why: &str) -> ! {
    eprintln!("puppet: {why}");
    exit(64)
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| fail(&format!("`{word}` is no number")))
}

fn milliseconds(word: &str) -> Duration {
    Duration::from_millis(number(word))
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn spin(time: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn raise(signal: i32) {
    // SAFETY: raise takes an integer.
    unsafe { libc::raise(signal) };
}

fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: the disposition is SIG_IGN, SIG_DFL or a handler that calls async-signal-safe functions alone.
    unsafe { libc::signal(signal, disposition) };
}

static EXIT_CODE: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

extern "C" fn exit_now(_: i32) {
    // SAFETY: _exit is async-signal-safe.
    unsafe { libc::_exit(EXIT_CODE.load(std::sync::atomic::Ordering::Relaxed)) }
}

fn exit_on(signal: i32, code: i32) {
    EXIT_CODE.store(code, std::sync::atomic::Ordering::Relaxed);
    let handler: extern "C" fn(i32) = exit_now;
    set_disposition(signal, handler as libc::sighandler_t);
}

fn echo_on(signal: i32, text: &str) {
    let text = text.to_owned();
    let mut signals = signal_hook::iterator::Signals::new([signal]).unwrap_or_else(|why| fail(&why.to_string()));
    std::thread::spawn(move || {
        for _ in signals.forever() {
            print(&text);
        }
    });
}

fn rest<'a>(words: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    words.take_while(|word| *word != "--").map(str::to_owned).collect()
}

fn fork() -> bool {
    // SAFETY: the puppet has one thread where it forks.
    unsafe { libc::fork() == 0 }
}

fn child(script: &[String]) -> ! {
    run(script);
    exit(0)
}

fn background<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let script = rest(words);
    if fork() {
        child(&script);
    }
}

fn setsid<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let script = rest(words);
    if fork() {
        let _ = nix::unistd::setsid();
        child(&script);
    }
}

/// Forks twice and begins a session in between, as daemons do. Returns once the one in the middle is gone.
fn orphan<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let script = rest(words);
    // SAFETY: as in `fork`.
    let middle = unsafe { libc::fork() };
    if middle == 0 {
        let _ = nix::unistd::setsid();
        if fork() {
            child(&script);
        }
        exit(0);
    }
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(middle, std::ptr::null_mut(), 0) };
}

/// An orphan that also begins a session of its own and executes itself with nothing in its environment.
fn orphan_bare<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let script = rest(words);
    let executable = std::env::current_exe().unwrap_or_else(|why| fail(&why.to_string()));
    // SAFETY: as in `fork`.
    let middle = unsafe { libc::fork() };
    if middle == 0 {
        let _ = nix::unistd::setsid();
        if fork() {
            let _ = nix::unistd::setsid();
            let why = Command::new(executable).args(script).env_clear().exec();
            fail(&why.to_string());
        }
        exit(0);
    }
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(middle, std::ptr::null_mut(), 0) };
}

/// As many processes as there may be.
fn fork_storm() -> ! {
    loop {
        // SAFETY: the child sleeps and ends, which touches nothing of ours.
        match unsafe { libc::fork() } {
            0 => {
                // Ends by itself should nobody end it.
                std::thread::sleep(Duration::from_secs(120));
                exit(0)
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Takes a limit back to what it mostly is, as root may: it may have been lowered to mark us.
fn unmark() {
    let limit = libc::rlimit {
        rlim_cur: 819_200,
        rlim_max: 819_200,
    };
    // SAFETY: the structure lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const limit) };
}

/// Uses so many MiB of memory.
fn eat(mebibytes: usize) {
    for _ in 0..mebibytes {
        std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

/// So many processes that fork one more each whenever they can.
fn fork_bomb(count: usize) {
    let begun = std::time::Instant::now();
    for _ in 0..count {
        if fork() {
            // Ends by itself should its test die before it: a minute of it is enough for any machine.
            while begun.elapsed() < Duration::from_secs(60) {
                if !fork() {
                    std::thread::sleep(Duration::from_millis(1));
                    exit(0);
                }
            }
            exit(0);
        }
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// So many numbered lines of so many bytes, in large writes.
fn lines(count: usize, size: usize) {
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    for number in 0..count {
        let mut line = format!("{number:010} ");
        while line.len() + 1 < size {
            line.push(char::from(b'a' + u8::try_from(line.len() % 26).unwrap_or(0)));
        }
        line.push('\n');
        if out.write_all(line.as_bytes()).is_err() {
            exit(74);
        }
    }
    let _ = out.flush();
}

fn close_output() {
    for descriptor in [1, 2] {
        // SAFETY: nothing of the puppet writes to them afterwards.
        unsafe { libc::close(descriptor) };
    }
}

fn environment() -> String {
    let mut all: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    all.sort();
    all.join("\n")
}

/// What its surroundings are, one `name=value` a line.
fn facts() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of_status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    let file = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let link = |path: &str| std::fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default();
    let limits = file("/proc/self/limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let open = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // The last one is the directory being read.
        let mut open: Vec<i32> = open.collect();
        open.sort_unstable();
        open.pop();
        open.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
    });
    // SAFETY: these take integers and cannot fail for the calling process.
    let (pid, group, session, nice) = unsafe {
        (
            libc::getpid(),
            libc::getpgrp(),
            libc::getsid(0),
            libc::getpriority(libc::PRIO_PROCESS, 0),
        )
    };
    [
        ("pid", pid.to_string()),
        ("group", group.to_string()),
        ("session", session.to_string()),
        ("nice", nice.to_string()),
        ("uid", of_status("Uid")),
        ("gid", of_status("Gid")),
        ("groups", of_status("Groups")),
        ("blocked", of_status("SigBlk")),
        ("ignored", of_status("SigIgn")),
        ("no_new_privs", of_status("NoNewPrivs")),
        ("umask", of_status("Umask")),
        ("oom_score_adj", file("/proc/self/oom_score_adj")),
        ("directory", link("/proc/self/cwd")),
        ("stdin", link("/proc/self/fd/0")),
        ("nofile", limit("Max open files")),
        ("core", limit("Max core file size")),
        ("descriptors", descriptors.unwrap_or_default()),
        ("death_signal", death_signal().to_string()),
    ]
    .map(|(name, value)| format!("{name}={value}"))
    .join("\n")
}

fn death_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: writes one int.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}

/// Nanoseconds of the monotonic clock.
fn start_time() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap_or_else(|why| fail(&why.to_string()));
    (i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())).to_string()
}

fn write_file(path: &str, text: &str) {
    let temporary = format!("{path}.{}", std::process::id());
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
    written.unwrap_or_else(|why| fail(&format!("writing {path}: {why}")));
}

fn append_file(path: &str, text: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
    written.unwrap_or_else(|why| fail(&format!("writing {path}: {why}")));
}

fn wait_file(path: &str) {
    while !std::path::Path::new(path).exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn notify(text: &str) {
    let address = std::env::var_os("NOTIFY_SOCKET").unwrap_or_else(|| fail("NOTIFY_SOCKET is not set"));
    send(&address, text).unwrap_or_else(|why| fail(&format!("notifying: {why}")));
}

fn send(address: &OsString, text: &str) -> std::io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    match address.to_str().and_then(|address| address.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            socket.send_to_addr(text.as_bytes(), &std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        None => socket.send_to(text.as_bytes(), address),
    }
}

fn notify_every(pause: Duration, text: &str) {
    let text = text.to_owned();
    std::thread::spawn(move || {
        loop {
            notify(&text);
            std::thread::sleep(pause);
        }
    });
}

/// `PORT` or `HOST:PORT`.
fn listener(address: &str) -> TcpListener {
    let address = if address.contains(':') {
        address.to_owned()
    } else {
        format!("127.0.0.1:{address}")
    };
    TcpListener::bind(&address).unwrap_or_else(|why| {
        eprintln!("puppet: listening on {address}: {why}");
        exit(98)
    })
}

/// Answers every request with the next of the status codes, the last one for ever. Serves until it is ended.
fn http(address: &str, codes: &str) {
    let listener = listener(address);
    let mut codes = codes.split(',').peekable();
    let mut code = "200";
    for connection in listener.incoming() {
        if let Some(next) = codes.next() {
            code = next;
        }
        if let Ok(connection) = connection {
            answer(connection, code);
        }
    }
}

fn answer(mut connection: TcpStream, code: &str) {
    let _ = connection.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = connection.read(&mut [0; 4096]);
    if code == "hang" {
        std::mem::forget(connection);
        return;
    }
    let location = if code.starts_with('3') { "location: /elsewhere\r\n" } else { "" };
    let _ = write!(
        connection,
        "HTTP/1.1 {code} X\r\n{location}content-length: 3\r\nconnection: close\r\n\r\nok\n"
    );
    let _ = nix::sys::socket::shutdown(connection.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}
