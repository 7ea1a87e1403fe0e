//! What is found out rather than counted: ports, memory, CPU time, the machine, the preview. Looked at when somebody asks.

use super::publish::DEV;
use crate::control::document::{self, BoxFacts, Port};
use crate::control::why::PortHolder;
use crate::host::preview::{Dev, DevState, Watcher};
use crate::host::{Host, Usage, ports};
use crate::supervisor::{Goal, Invocation, Pid, Supervisor, UnitStatus};
use crate::unit::{Command, Config, Main, Name};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A unit's part.
#[derive(Clone, Debug, Default)]
pub(super) struct UnitFacts {
    pub(super) invocation: Invocation,
    pub(super) ports: Vec<Port>,
    pub(super) memory_bytes: u64,
    pub(super) cpu_usec: u64,
    pub(super) oom_kills: Option<u64>,
}

/// All of it, but the preview.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) units: BTreeMap<Name, UnitFacts>,
    pub(super) machine: BoxFacts,
}

/// What was to be seen at the preview's address, and what is remembered of it.
#[derive(Debug, Default)]
pub(super) struct Preview {
    pub(super) shown: document::Preview,
    pub(super) watcher: Watcher,
}

/// Whose processes are whose.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(BTreeMap<Pid, Name>);

impl Owners {
    pub(super) fn new<'a>(host: &mut Host, runs: impl Iterator<Item = &'a (Name, Invocation)>) -> Self {
        let mut owners = BTreeMap::new();
        for (name, invocation) in runs {
            owners.extend(host.processes(name, *invocation).into_iter().map(|pid| (pid, name.clone())));
        }
        Self(owners)
    }

    fn unit_of(&self, pid: Pid) -> Option<String> {
        self.0.get(&pid).map(|name| name.as_str().to_owned())
    }
}

/// The processes of a unit.
#[derive(Debug)]
struct Processes {
    unit: Name,
    invocation: Invocation,
    pids: Vec<Pid>,
    /// Where the kernel counts for all of them.
    cgroup: Option<PathBuf>,
}

/// What is to be looked at.
#[derive(Debug)]
pub(super) struct Wanted {
    units: Vec<Processes>,
    pub(super) dev: Option<Dev>,
    mains: BTreeMap<Pid, Name>,
    root: PathBuf,
}

impl Wanted {
    pub(super) fn new(supervisor: &mut Supervisor, host: &mut Host, config: &Config) -> Self {
        let mut units = Vec::new();
        let mut mains = BTreeMap::new();
        let mut dev = None;
        for unit in supervisor.status().units {
            let name = unit.spec.name.clone();
            let pids = if unit.pid.is_some() {
                host.processes(&name, unit.invocation)
            } else {
                Vec::new()
            };
            if name.as_str() == DEV {
                dev = Some(dev_of(&unit, config, pids.clone()));
            }
            mains.extend(unit.pid.map(|pid| (pid, name.clone())));
            if !pids.is_empty() {
                units.push(Processes {
                    cgroup: host.cgroup(&name, unit.invocation),
                    unit: name,
                    invocation: unit.invocation,
                    pids,
                });
            }
        }
        Self {
            units,
            dev,
            mains,
            root: config.root.clone(),
        }
    }

    /// Tells main processes, where the lineage of a stranger begins.
    pub(super) fn mains(&self) -> Owners {
        Owners(self.mains.clone())
    }
}

fn dev_of(unit: &UnitStatus, config: &Config, pids: Vec<Pid>) -> Dev {
    let state = match unit.state {
        _ if unit.goal == Goal::Down => DevState::Off,
        "skipped" => DevState::Off,
        "failed" => DevState::Crashed(unit.reason.clone()),
        _ if unit.sub_state == "auto-restart" => DevState::Crashed(unit.reason.clone()),
        _ if unit.pid.is_some() => DevState::Running,
        _ => DevState::Starting(if unit.reason.is_empty() {
            "it starts".to_owned()
        } else {
            unit.reason.clone()
        }),
    };
    let command = match &unit.spec.main {
        Main::Exec(Command::Shell(text)) => text.clone(),
        Main::Exec(Command::Argv(words)) => words.join(" "),
        Main::Worker(_) => String::new(),
    };
    Dev {
        unit: unit.spec.name.as_str().to_owned(),
        command,
        invocation: unit.invocation,
        state,
        expected: config.port,
        pids,
    }
}

/// Looks at everything but the preview.
pub(super) fn gather(wanted: &Wanted) -> Facts {
    let mut units = BTreeMap::new();
    let mut seen = ports::Ports::default();
    for of_unit in &wanted.units {
        let listeners = seen.listeners(&of_unit.pids);
        let (memory_bytes, cpu_usec, oom_kills) = used(of_unit);
        let ports = listeners.iter().map(|listener| Port {
            port: listener.port,
            address: listener.address.to_string(),
        });
        let facts = UnitFacts {
            invocation: of_unit.invocation,
            ports: ports.collect(),
            memory_bytes,
            cpu_usec,
            oom_kills,
        };
        units.insert(of_unit.unit.clone(), facts);
    }
    Facts {
        units,
        machine: machine(&wanted.root),
    }
}

/// Looks at the preview. Blocks for a moment, waits for at most five seconds.
pub(super) async fn look(mut watcher: Watcher, dev: Option<Dev>, mains: Owners) -> Preview {
    let Some(dev) = dev else { return Preview::default() };
    let seen = watcher.look(dev, |pid| mains.unit_of(pid)).await;
    let state = serde_json::to_value(seen.state)
        .ok()
        .and_then(|state| state.as_str().map(str::to_owned));
    let shown = document::Preview {
        state: state.unwrap_or_default(),
        port: seen.port,
        reason: seen.reason,
    };
    Preview { shown, watcher }
}

/// Everybody who listens on these ports. Looks at every process of the machine.
pub(super) fn holders(ports: Vec<u16>, owners: &Owners) -> Vec<PortHolder> {
    let mut found = Vec::new();
    for port in ports {
        let listeners = ports::holders(port);
        if listeners.is_empty() && ports::is_taken(port) {
            found.push(PortHolder {
                port,
                address: String::new(),
                pid: None,
                command: "a process that we may not look at".to_owned(),
                unit: None,
            });
        }
        found.extend(listeners.into_iter().map(|listener| PortHolder {
            port,
            address: listener.address.to_string(),
            pid: Some(listener.pid),
            command: ports::lineage(listener.pid, |pid| owners.unit_of(pid)),
            unit: owners.unit_of(listener.pid),
        }));
    }
    found
}

/// What a unit uses: by its cgroup as far as that counts, else by its processes.
fn used(unit: &Processes) -> (u64, u64, Option<u64>) {
    let counted = unit.cgroup.as_deref().map(Usage::of).unwrap_or_default();
    let (memory, cpu) = match (counted.memory_bytes, counted.cpu_usec) {
        (Some(memory), Some(cpu)) => (memory, cpu),
        (memory, cpu) => {
            let each = unit.pids.iter().filter_map(|pid| usage(*pid));
            let (of_all, time) = each.fold((0, 0), |(m, c), (memory, cpu)| (m + memory, c + cpu));
            (memory.unwrap_or(of_all), cpu.unwrap_or(time))
        }
    };
    (memory, cpu, counted.oom_kills)
}

/// Resident memory in bytes and CPU time in microseconds. proc(5).
fn usage(pid: Pid) -> Option<(u64, u64)> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((pages * 4096, (user + system) * 10_000))
}

fn machine(root: &std::path::Path) -> BoxFacts {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let total = kilobytes("MemTotal:").unwrap_or(0) * 1024;
    let limit = read_number("/sys/fs/cgroup/memory.max").or_else(|| read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let memory_total = limit.map_or(total, |limit| limit.min(total));
    let used = total.saturating_sub(kilobytes("MemAvailable:").unwrap_or(0) * 1024);
    let memory_bytes = read_number("/sys/fs/cgroup/memory.current").unwrap_or(used);
    let disk_free = nix::sys::statvfs::statvfs(root).map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let oom_kills = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    BoxFacts {
        memory_bytes,
        memory_total,
        disk_free,
        oom_kills: oom_kills.unwrap_or(0),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
