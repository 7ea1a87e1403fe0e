//! The thread that reads the pipes: one epoll for all of them, so that neither a flood nor a slow disk ever holds up the supervisor's loop.
//!
//! A round takes at most one read from each pipe that has something, which is what keeps a flooding unit from starving the others.
//! Without output nothing wakes it.

use super::matcher::{LogMatch, Matcher, Watch};
use super::merge;
use super::read::{Query, Reader};
use super::writer::{JOURNAL, Now, Tag, UnitLog};
use super::{Handed, Health, Limits, format::Stream};
use crate::host::mask::Masker;
use crate::ordered::{IntoMap, Order};
use crate::unit::Name;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use regex::Regex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The most that is read at once.
const READ: usize = 64 * 1024;
/// What a pipe is raised to once it was found full.
const PIPE: i32 = 256 * 1024;
/// Units whose files stay open.
const OPEN_FILES: usize = 128;
/// From telling that something was written to telling it again, nanoseconds.
const PACE: u64 = 10_000_000;
/// Rounds that found less than this are too small to follow each other at once.
const WORTHWHILE: usize = 16 * 1024;
/// How long small rounds in a row wait for more, so that a child that writes line by line does not cost a wakeup a line. Its pipe holds
/// more than it writes in that time.
const NAP: Duration = Duration::from_micros(200);
/// So many small rounds in a row, each within a millisecond of the one before, are a flood.
const HOT: u32 = 8;
/// From a line without an end to telling that it has been waited for long enough, nanoseconds.
const AGE: u64 = merge::PATIENCE.cast_unsigned() + 50_000_000;
/// Pipes of finished runs of a unit that are still read, for whatever outlived them.
const LINGERING: usize = 16;
/// The eventfd's token; sources count from 1.
const WAKE: u64 = 0;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    Capture(Name, Tag, OwnedFd),
    Watch(Name, u64, Regex, LogMatch),
    Note(Name, String),
    Finish(Name, u64, oneshot::Sender<()>),
    Limit(Limits),
    Adopt(Vec<Handed>),
    Handover(oneshot::Sender<Vec<Handed>>),
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Source {
    unit: Name,
    tag: Tag,
    fd: OwnedFd,
    /// The beginning of a line whose rest is still in the pipe.
    carry: Vec<u8>,
    raised: bool,
    lingering: bool,
    matcher: Matcher,
}

#[derive(Debug)]
struct Unit {
    log: UnitLog,
    watches: BTreeMap<u64, Vec<Watch>>,
    /// The round in which it was last written.
    used: u64,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// A full buffer: there may be more.
    Full,
    /// All that was there.
    Drained,
    /// The end.
    Ended,
}

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct Capture {
    epoll: Epoll,
    wake: Arc<super::Wake>,
    commands: Receiver<Command>,
    dir: Arc<Path>,
    limits: Limits,
    rotated: BTreeMap<Name, Vec<u64>>,
    sources: BTreeMap<u64, Source>,
    units: BTreeMap<Name, Unit>,
    carrying: Vec<u64>,
    buffer: Vec<u8>,
    round: u64,
    /// Bytes read in this round.
    found: usize,
    /// When the last round ended, CLOCK_MONOTONIC, and how many in a row were small.
    last: (u64, u32),
    /// Something was written that nobody was told of.
    wrote: bool,
    /// When that was last told, CLOCK_MONOTONIC.
    told: u64,
    /// When lines without an end have been waited for long enough.
    aged: Option<u64>,
    /// Some unit has lost output and not said so yet.
    losing: bool,
    changes: watch::Sender<u64>,
    health: watch::Sender<Health>,
}

impl Capture {
    pub(super) fn new(
        dir: Arc<Path>,
        limits: Limits,
        rotated: BTreeMap<Name, Vec<u64>>,
        wake: Arc<super::Wake>,
        commands: Receiver<Command>,
        changes: watch::Sender<u64>,
        health: watch::Sender<Health>,
    ) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&wake.event, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self {
            epoll,
            wake,
            commands,
            dir,
            limits,
            rotated,
            sources: BTreeMap::new(),
            units: BTreeMap::new(),
            carrying: Vec::new(),
            buffer: vec![0; 2 * READ],
            round: 0,
            found: 0,
            last: (0, 0),
            wrote: false,
            told: 0,
            aged: None,
            losing: false,
            changes,
            health,
        })
    }

    /// Runs until it is closed, handed over, or its handle is gone.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!("journal: waiting for output: {error}");
                    return;
                }
            };
            self.round += 1;
            let carrying = std::mem::take(&mut self.carrying);
            let mut told = false;
            for event in &events[..ready] {
                match event.data() {
                    WAKE => told = true,
                    token => self.turn(token),
                }
            }
            for token in carrying {
                if !events[..ready].iter().any(|e| e.data() == token) {
                    self.turn(token);
                }
            }
            self.recover();
            if self.aged.is_some_and(|at| at <= now().monotonic) {
                self.aged = None;
                self.wrote = true;
            }
            // Output that was there before a command is written before it is obeyed.
            if told && !self.obey() {
                return;
            }
            if self.wrote && now().monotonic >= self.told + PACE {
                self.publish();
            }
            self.nap();
        }
    }

    /// Lets a flood of small writes gather.
    fn nap(&mut self) {
        let found = std::mem::take(&mut self.found);
        let now = now().monotonic;
        let (last, small) = self.last;
        let small = if found > 0 && found < WORTHWHILE && now < last + 1_000_000 {
            small + 1
        } else {
            0
        };
        self.last = (now, small);
        if small >= HOT {
            std::thread::sleep(NAP);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.carrying.is_empty() {
            return EpollTimeout::ZERO;
        }
        let retry = if self.losing {
            self.units.values().filter_map(|u| u.log.retry_at()).min()
        } else {
            None
        };
        let tell = self.wrote.then_some(self.told + PACE);
        let Some(at) = [retry, tell, self.aged].into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let ms = at.saturating_sub(now().monotonic) / 1_000_000 + 1;
        EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
    }

    /// One read for one source.
    fn turn(&mut self, token: u64) {
        match self.read(token) {
            Found::Ended => self.end(token),
            Found::Full => self.raise(token),
            Found::Drained => {}
        }
    }

    fn read(&mut self, token: u64) -> Found {
        let Some(source) = self.sources.get_mut(&token) else {
            return Found::Drained;
        };
        let carried = source.carry.len();
        self.buffer[..carried].copy_from_slice(&source.carry);
        source.carry.clear();
        let (length, found) = match nix::unistd::read(&source.fd, &mut self.buffer[carried..carried + READ]) {
            Ok(0) => (carried, Found::Ended),
            Ok(READ) => (carried + READ, Found::Full),
            Ok(n) => (carried + n, Found::Drained),
            Err(Errno::EAGAIN | Errno::EINTR) => (carried, Found::Drained),
            Err(_) => (carried, Found::Ended),
        };
        self.found += length - carried;
        let text = &self.buffer[..length];
        // Of a full read the last line's beginning waits for its rest, so that lines of two streams stay whole in the file.
        let whole = match found {
            Found::Full => memchr::memrchr(b'\n', text).map_or(length, |at| at + 1),
            Found::Drained | Found::Ended => length,
        };
        if whole < length {
            source.carry.extend_from_slice(&text[whole..]);
            self.carrying.push(token);
        } else {
            source.carry = Vec::new();
        }
        if whole > 0 {
            let unit = unit(&mut self.units, &mut self.rotated, &self.dir, self.limits, &source.unit);
            unit.used = self.round;
            unit.log.append(source.tag, &text[..whole], now());
            self.losing |= unit.log.retry_at().is_some();
            if text[whole - 1] != b'\n' {
                self.aged = Some(now().monotonic + AGE);
            }
            if let Some(watches) = unit.watches.get_mut(&source.tag.invocation) {
                source.matcher.feed(&text[..whole], watches);
                if watches.is_empty() {
                    unit.watches.remove(&source.tag.invocation);
                }
            }
            self.wrote = true;
        }
        found
    }

    fn end(&mut self, token: u64) {
        if let Some(source) = self.sources.remove(&token) {
            // Closing the descriptor takes it out of the epoll as well.
            let _ = self.epoll.delete(&source.fd);
            if let Some(unit) = self.units.get_mut(&source.unit) {
                unit.log.ended(source.tag, now());
                self.wrote = true;
            }
        }
    }

    /// A pipe that was full once gets more room; an unprivileged user may have used up his.
    fn raise(&mut self, token: u64) {
        if let Some(source) = self.sources.get_mut(&token)
            && !source.raised
        {
            source.raised = true;
            let _ = fcntl(&source.fd, FcntlArg::F_SETPIPE_SZ(PIPE));
        }
    }

    /// Reads what is there, at most what fits into the pipe, so that something that writes for ever does not keep it here.
    fn drain(&mut self, token: u64) {
        let capacity = match self.sources.get(&token) {
            Some(source) => fcntl(&source.fd, FcntlArg::F_GETPIPE_SZ).unwrap_or(PIPE),
            None => return,
        };
        for _ in 0..=usize::try_from(capacity).unwrap_or(READ).div_ceil(READ) {
            match self.read(token) {
                Found::Full => {}
                Found::Drained => return,
                Found::Ended => return self.end(token),
            }
        }
    }

    /// Does what it was told; false when that ends it.
    fn obey(&mut self) -> bool {
        self.wake.seen();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Capture(unit, tag, fd)) => self.capture(unit, tag, fd, false),
                Ok(Command::Watch(name, invocation, regex, found)) => {
                    self.watch(&name, invocation, Watch { regex, found });
                }
                Ok(Command::Note(name, text)) => self.note(&name, &text),
                Ok(Command::Finish(name, invocation, done)) => {
                    self.finish(&name, invocation);
                    self.publish();
                    let _ = done.send(());
                }
                Ok(Command::Limit(limits)) => self.limit(limits),
                Ok(Command::Adopt(handed)) => handed.into_iter().for_each(|handed| self.adopt(handed)),
                Ok(Command::Handover(reply)) => {
                    let handed = self.hand_over();
                    self.publish();
                    let _ = reply.send(handed);
                    return false;
                }
                Ok(Command::Close(done)) => {
                    self.drain_all();
                    self.publish();
                    let _ = done.send(());
                    return false;
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    self.drain_all();
                    return false;
                }
            }
        }
    }

    fn watch(&mut self, name: &Name, invocation: u64, watch: Watch) {
        let runs = self.sources.values().any(|s| s.unit == *name && s.tag.invocation == invocation);
        if runs && self.was_written(name, invocation, &watch.regex) {
            watch.found.set();
            return;
        }
        let watches = &mut self.unit(name).watches;
        watches.retain(|i, _| *i >= invocation);
        watches.entry(invocation).or_default().push(watch);
    }

    /// Whether such a line was written before it was looked for: a configuration may change under a unit that runs.
    fn was_written(&self, name: &Name, invocation: u64, regex: &Regex) -> bool {
        let query = Query {
            units: vec![name.clone()],
            invocation: Some(invocation),
            grep: Some(regex.clone()),
            lines: Some(1),
            ..Query::default()
        };
        let reader = Reader::new(self.dir.to_path_buf(), Masker::default());
        reader.read(&query).is_ok_and(|lines| !lines.is_empty())
    }

    /// Reads this pipe from now on.
    fn capture(&mut self, name: Name, tag: Tag, fd: OwnedFd, pending: bool) {
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).unwrap_or(OFlag::empty());
        let nonblocking = fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK));
        let token = u64::from(tag.source);
        let added = nonblocking.and_then(|_| self.epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, token)));
        if let Err(error) = added {
            tracing::error!("journal: reading the output of unit `{name}`: {error}");
            return;
        }
        if pending {
            self.unit(&name).log.inherit(Some(tag.source));
        }
        let source = Source {
            unit: name,
            tag,
            fd,
            carry: Vec::new(),
            raised: false,
            lingering: false,
            matcher: Matcher::default(),
        };
        self.sources.insert(token, source);
    }

    /// Takes over a source of the image before this one: the unit's files are this process's own, although something wrote to them already.
    fn adopt(&mut self, handed: Handed) {
        self.unit(&handed.unit).log.inherit(None);
        let tag = tag(handed.source, handed.stream, handed.invocation);
        self.capture(handed.unit, tag, handed.pipe, handed.pending);
    }

    fn note(&mut self, name: &Name, text: &str) {
        let round = self.round;
        let unit = unit(&mut self.units, &mut self.rotated, &self.dir, self.limits, name);
        unit.used = round;
        unit.log.append(JOURNAL, text.as_bytes(), now());
        self.losing |= unit.log.retry_at().is_some();
        self.wrote = true;
    }

    fn finish(&mut self, name: &Name, invocation: u64) {
        let of_run = |s: &Source| s.unit == *name && s.tag.invocation == invocation;
        let tokens: Vec<u64> = self.sources.iter().filter(|(_, s)| of_run(s)).map(|(t, _)| *t).collect();
        for token in tokens {
            self.drain(token);
            if let Some(source) = self.sources.get_mut(&token) {
                source.lingering = true;
            }
        }
        if let Some(unit) = self.units.get_mut(name) {
            unit.watches.remove(&invocation);
        }
        let lingering: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, s)| s.lingering && s.unit == *name)
            .map(|(t, _)| *t)
            .collect();
        for token in &lingering[..lingering.len().saturating_sub(LINGERING)] {
            self.end(*token);
        }
    }

    fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        for unit in self.units.values_mut() {
            unit.log.limit(limits);
        }
    }

    fn hand_over(&mut self) -> Vec<Handed> {
        for token in std::mem::take(&mut self.carrying) {
            self.drain(token);
        }
        let sources = std::mem::take(&mut self.sources);
        let handed = sources.into_values().map(|mut source| {
            let carry = std::mem::take(&mut source.carry);
            let unit = unit(&mut self.units, &mut self.rotated, &self.dir, self.limits, &source.unit);
            unit.log.append(source.tag, &carry, now());
            Handed {
                unit: source.unit,
                invocation: source.tag.invocation,
                stream: source.tag.stream,
                source: source.tag.source,
                pending: unit.log.is_pending(source.tag.source),
                pipe: source.fd,
            }
        });
        handed.collect()
    }

    fn drain_all(&mut self) {
        for token in self.sources.keys().copied().collect::<Vec<_>>() {
            self.drain(token);
        }
        for source in std::mem::take(&mut self.sources).into_values() {
            let unit = unit(&mut self.units, &mut self.rotated, &self.dir, self.limits, &source.unit);
            unit.log.append(source.tag, &source.carry, now());
            unit.log.ended(source.tag, now());
        }
    }

    /// Says what was lost where there is room again.
    fn recover(&mut self) {
        if !self.losing {
            return;
        }
        let now = now();
        for unit in self.units.values_mut() {
            unit.log.recover(now);
        }
        self.losing = self.units.values().any(|u| u.log.retry_at().is_some());
        self.wrote = true;
        let lost = self.units.iter().filter(|(_, u)| u.log.lost.bytes > 0);
        let lost = lost.map(|(name, unit)| (name.clone(), unit.log.loss())).into_map();
        self.health.send_if_modified(|health| {
            let changed = health.lost != lost;
            health.lost = lost;
            changed
        });
    }

    fn publish(&mut self) {
        self.wrote = false;
        self.told = now().monotonic;
        self.changes.send_modify(|sequence| *sequence += 1);
        if self.units.len() > OPEN_FILES && self.round.is_multiple_of(16) {
            self.close_files();
        }
    }

    /// Closes the files of those that were not written for longest.
    fn close_files(&mut self) {
        let mut open: Vec<(u64, &mut Unit)> = self.units.values_mut().filter(|u| u.log.is_open()).map(|u| (u.used, u)).collect();
        let surplus = open.len().saturating_sub(OPEN_FILES);
        open.order_by_key(|(used, _)| *used);
        for (_, unit) in open.iter_mut().take(surplus) {
            unit.log.close();
        }
    }

    fn unit(&mut self, name: &Name) -> &mut Unit {
        unit(&mut self.units, &mut self.rotated, &self.dir, self.limits, name)
    }
}

fn unit<'a>(
    units: &'a mut BTreeMap<Name, Unit>,
    rotated: &mut BTreeMap<Name, Vec<u64>>,
    dir: &Arc<Path>,
    limits: Limits,
    name: &Name,
) -> &'a mut Unit {
    if !units.contains_key(name) {
        let rotated = rotated.remove(name).unwrap_or_default();
        let unit = Unit {
            log: UnitLog::new(name.clone(), Arc::clone(dir), rotated.into(), limits),
            watches: BTreeMap::new(),
            used: 0,
        };
        units.insert(name.clone(), unit);
    }
    units.get_mut(name).expect("inserted above")
}

fn now() -> Now {
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    Now {
        wall: i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX),
        monotonic: u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// The stream's own tag for a source.
pub(super) fn tag(source: u32, stream: Stream, invocation: u64) -> Tag {
    Tag {
        source,
        stream,
        invocation,
    }
}
