//! Probes in flight: each a task that answers into the loop, none of which outlives its run.

use super::facts::{Facts, Preview};
use super::isolation::Finding;
use super::last_words::LastWords;
use crate::host::journal::{Journal, LogMatch};
use crate::host::probe::{self, Check, ExecAnswer, ExecFuture};
use crate::host::{Host, ProbeChild};
use crate::supervisor::{Event, ExitStatus, Invocation, Pid, ProbeResult};
use crate::tasks;
use crate::unit::{Command, Name, ProbeCheck, ProbeKind, Unit};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How much of a probe's output is kept for its last line.
const TAIL: usize = 4096;
/// What fits into a pipe, as it is made.
const PIPE: usize = 64 * 1024;

/// What tasks tell the loop.
#[derive(Debug)]
pub(super) enum Answer {
    /// A probe answered.
    Probed(Event),
    /// A step of an upgrade is over.
    Upgrade(super::upgrade::Step),
    /// A probe's command was given up.
    KillProbe(Pid),
    /// Ports and memory were looked at.
    Facts(Box<Facts>),
    /// So was the preview.
    Preview(Box<Preview>),
    /// It was measured what keeps secrets apart.
    Isolation(Finding),
    /// The postmortem of the drain is written.
    Drained,
    /// What a process said before its exit failed was found.
    LastWords(LastWords),
}

/// One run of a unit.
type Run = (Name, Invocation);

/// The probes of all units.
#[derive(Debug)]
pub(super) struct Probes {
    answers: mpsc::UnboundedSender<Answer>,
    in_flight: BTreeMap<(Run, ProbeKind), AbortHandle>,
    lines: BTreeMap<(Run, ProbeKind), LogMatch>,
}

impl Probes {
    pub(super) fn new(answers: mpsc::UnboundedSender<Answer>) -> Self {
        Self {
            answers,
            in_flight: BTreeMap::new(),
            lines: BTreeMap::new(),
        }
    }

    /// Looks for the lines that `log` probes want, from before the first line on.
    pub(super) fn watch_log(&mut self, journal: &Journal, unit: &Unit, invocation: Invocation) {
        for (kind, probe) in &unit.probes {
            if let ProbeCheck::Log(regex) = &probe.check {
                let found = journal.watch(&unit.name, invocation, regex.clone());
                self.lines.insert(((unit.name.clone(), invocation), *kind), found);
            }
        }
    }

    /// Asks once; the answer comes as `Event::Probed`.
    pub(super) fn ask(&mut self, host: &mut Host, unit: &Unit, invocation: Invocation, kind: ProbeKind, connect_only: bool) {
        let Some(probe) = unit.probes.get(&kind) else { return };
        let run = (unit.name.clone(), invocation);
        let check = match &probe.check {
            ProbeCheck::Http { url, .. } => Check::Http {
                url: url.clone(),
                connect_only,
            },
            ProbeCheck::Tcp(address) => Check::Tcp(address.clone()),
            ProbeCheck::Listen(port) => Check::Listen {
                port: *port,
                pids: host.processes(&unit.name, invocation),
            },
            ProbeCheck::Log(_) => Check::Log(self.lines.get(&(run.clone(), kind)).cloned().unwrap_or_default()),
            ProbeCheck::Exec(command) => Check::Exec(self.execute(host, unit, invocation, command)),
        };
        let (answers, limit) = (self.answers.clone(), probe.timeout);
        let (name, of) = (unit.name.clone(), invocation);
        let task = tasks::spawn(async move {
            let result: ProbeResult = probe::run(check, limit).await;
            let _ = answers.send(Answer::Probed(Event::Probed {
                unit: name,
                invocation: of,
                kind,
                result,
            }));
        });
        self.in_flight.insert((run, kind), task.abort_handle());
    }

    /// The run is over: what is in flight for it is given up.
    pub(super) fn forget(&mut self, unit: &Name, invocation: Invocation) {
        let of = |(run, _): &(Run, ProbeKind)| run.0 == *unit && run.1 <= invocation;
        self.lines.retain(|key, _| !of(key));
        self.in_flight.retain(|key, task| {
            let over = of(key);
            if over {
                task.abort();
            }
            !over
        });
    }

    fn execute(&self, host: &mut Host, unit: &Unit, invocation: Invocation, command: &Command) -> ExecFuture {
        match start(host, unit, invocation, command) {
            Err(why) => Box::pin(std::future::ready(Err(why))),
            Ok((child, output)) => {
                let guard = KillOnDrop {
                    pid: child.pid,
                    answers: self.answers.clone(),
                };
                Box::pin(finish(child, output, guard))
            }
        }
    }
}

fn start(host: &mut Host, unit: &Unit, invocation: Invocation, command: &Command) -> Result<(ProbeChild, Receiver), String> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| format!("making a pipe: {error}"))?;
    let output = Receiver::from_owned_fd(read).map_err(|error| format!("reading its output: {error}"))?;
    let child = host
        .spawn_probe(unit, invocation, command, write.as_fd())
        .map_err(|error| error.message)?;
    Ok((child, output))
}

/// A command of our own that runs: how it ended and the last that it said.
pub(super) type Helper = Pin<Box<dyn Future<Output = Result<(ExitStatus, Vec<u8>), String>> + Send>>;

/// Starts a command of our own.
pub(super) fn help(
    host: &mut Host,
    answers: &mpsc::UnboundedSender<Answer>,
    command: &[OsString],
    input: BorrowedFd<'_>,
) -> Result<Helper, String> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| format!("making a pipe: {error}"))?;
    let output = Receiver::from_owned_fd(read).map_err(|error| format!("reading its output: {error}"))?;
    let child = host.spawn_helper(command, input, write.as_fd()).map_err(|error| error.message)?;
    let guard = KillOnDrop {
        pid: child.pid,
        answers: answers.clone(),
    };
    Ok(Box::pin(collect(child, output, guard)))
}

async fn finish(child: ProbeChild, output: Receiver, guard: KillOnDrop) -> Result<ExecAnswer, String> {
    let (status, tail) = collect(child, output, guard).await?;
    let text = String::from_utf8_lossy(&tail);
    let last_line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    Ok(ExecAnswer { status, last_line })
}

async fn collect(child: ProbeChild, mut output: Receiver, _guard: KillOnDrop) -> Result<(ExitStatus, Vec<u8>), String> {
    let mut exit = child.exit;
    let mut tail = Vec::new();
    let mut buffer = [0; TAIL];
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = &mut exit => break status,
            read = output.read(&mut buffer), if open => match read {
                Ok(length @ 1..) => keep_tail(&mut tail, &buffer[..length]),
                Ok(0) | Err(_) => open = false,
            },
        }
    };
    // Straight from the pipe: nobody may have told the runtime yet that there is something in it. No more than fits into one, for what the
    // command left behind may go on writing.
    for _ in 0..PIPE / TAIL {
        match nix::unistd::read(&output, &mut buffer) {
            Ok(length @ 1..) => keep_tail(&mut tail, &buffer[..length]),
            Ok(0) | Err(_) => break,
        }
    }
    let status = status.map_err(|_| "its end was not seen".to_owned())?;
    Ok((status, tail))
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let surplus = tail.len().saturating_sub(TAIL);
    tail.drain(..surplus);
}

/// Ends a probe's command and its session when the probe is given up; of one that has ended there is nothing to end.
#[derive(Debug)]
struct KillOnDrop {
    pid: Pid,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.answers.send(Answer::KillProbe(self.pid));
    }
}
