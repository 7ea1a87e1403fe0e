//! `sandkeep.toml` as it is written: every section, every key, its type and what it means. The JSON Schema comes from here.

use super::faults::At;
use super::keys::{AgentTable, SyncTable};
use super::reader::{Node, Reader, Section, Value, section};
use super::values::{
    ActionChoice, Amount, Confidential, Count, Environment, Exec, Execs, ExitStatus, Glob, KillChoice, Limit, Listen, NAME_RULE, OneOrMore,
    Pattern, Plain, Port, RestartChoice, Signal, Size, Span, Time, Times, Token, TypeChoice, Umask, UnitName, Whole, WorkerChoice,
};
use super::{Name, spelling};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeMap;
use toml::de::DeValue;

type List<T> = Vec<At<T>>;

section!(
    /// The configuration of a sandbox: what runs in it, whose files these are and where they are kept.
    File, "a table" {
        /// The project: whose files these are, and in short what installs and serves them.
        project: Project,
        /// This box.
        sandbox: Sandbox,
        /// The health endpoint.
        health: Health,
        /// Where the status document is pushed to.
        report: Report,
        /// The units' logs.
        journal: Journal,
        /// The end of everything.
        shutdown: Shutdown,
        /// Which variables are secret.
        secrets: Secrets,
        /// How files are kept in the store.
        sync: SyncTable,
        /// How Claude Code is run.
        agent: AgentTable,
        /// Who may ask for what.
        control: Control,
        /// The units by name.
        unit: Units,
    }
);

section!(
    /// The project. With `install` or `dev` it stands for the standard units restore, sync, install, dev and agent.
    Project, "a table, `[project]`" {
        /// Whose files these are: the prefix in the store. Default: SANDKEEP_PROJECT_ID, else SANDBOX_ID.
        id: Plain,
        /// The project's directory, relative to this file. Default: the file's own.
        root: Plain,
        /// The command that installs what the project needs; makes the unit `install`.
        install: Exec,
        /// The command of the dev server; makes the unit `dev`.
        dev: Exec,
        /// The port of the dev server.
        port: Port,
    }
);

section!(
    /// This box.
    Sandbox, "a table, `[sandbox]`" {
        /// Its id. Empty: the hostname, for display alone. Default: SANDBOX_ID.
        id: Plain,
        /// When it ends: RFC 3339, or seconds or milliseconds since the epoch. Default: SANDBOX_EXPIRES_AT.
        expires_at: Plain,
    }
);

section!(
    /// The health endpoint.
    Health, "a table, `[health]`" {
        /// The address it listens on, or "off". An address that others can reach needs a token of your own.
        listen: Plain,
        /// The bearer token for everything but /livez, /readyz and /healthz. Default: SANDKEEP_TOKEN, else a random one.
        token: Token,
    }
);

section!(
    /// Where the status document is pushed to.
    Report, "a table, `[report]`" {
        /// An http or https URL; empty: nowhere.
        url: Confidential,
    }
);

section!(
    /// The units' logs.
    Journal, "a table, `[journal]`" {
        /// The largest size of one file of a unit.
        max_size: Size,
        /// How many old files of a unit are kept.
        keep: Count,
    }
);

section!(
    /// The end of everything.
    Shutdown, "a table, `[shutdown]`" {
        /// The time in which everything has to be drained. Default: 30s, as PID 1 of a container 8s.
        budget: Span,
    }
);

section!(
    /// Which variables are secret.
    Secrets, "a table, `[secrets]`" {
        /// Names of variables, with `*` and `?`. What matches reaches only units that name it, and is masked wherever text leaves.
        names: List<Plain>,
    }
);

section!(
    /// Who may ask for what.
    Control, "a table, `[control]`" {
        /// What processes of a unit may ask for: unit → verbs, each alone or as verb:unit.
        allow: Allow,
    }
);

section!(
    /// A probe: one of http, tcp, exec, log, listen.
    ProbeFile, "a table such as `{ listen = 3000 }`" {
        /// The URL of a GET that passes on 200 to 399.
        http: Plain,
        /// `host:port` that takes a connection.
        tcp: Plain,
        /// A command that exits with 0.
        exec: Exec,
        /// A regular expression that matches a line of the unit's output.
        log: Pattern,
        /// The port that the unit's own processes listen on; true for any.
        listen: Listen,
        /// With `http`: go on with whole GETs after readiness instead of connecting alone.
        always: bool,
        /// From one probe's end to the next one's start, until the first pass; afterwards at least 10s.
        interval: Span,
        /// After which an answer counts as failed.
        timeout: Span,
        /// Before the first.
        initial_delay: Time,
        /// Passes in a row that count as passing.
        success_threshold: Times,
        /// Failures in a row, once passed, that count as failing.
        failure_threshold: Times,
    }
);

section!(
    /// A unit: something that is started, watched and stopped.
    UnitFile, "a table, `[unit.NAME]`" {
        /// For people.
        description: Plain,
        /// Whether there is this unit at all.
        enabled: bool,
        /// Whether the sandbox is ready without it.
        optional: bool,
        /// When it counts as started.
        r#type: TypeChoice,
        /// For a oneshot: whether it counts as active after it has ended.
        remain_after_exit: bool,
        /// What is executed: a string goes through /bin/sh -c, an array is executed as it is.
        exec: Exec,
        /// One of sandkeep's own programs instead of `exec`.
        worker: WorkerChoice,
        /// Run before it; a failure fails the start.
        exec_start_pre: Execs,
        /// Run once it is started.
        exec_start_post: Execs,
        /// Run for `reload`.
        exec_reload: Execs,
        /// Run first at a stop.
        exec_stop: Execs,
        /// Run when everything of the unit has ended.
        exec_stop_post: Execs,
        /// Start after these are ready; wait while they fail; stop with them.
        requires: List<UnitName>,
        /// Start after these, but do without them.
        wants: List<UnitName>,
        /// As `requires`, and stop when one of them stops by itself.
        binds_to: List<UnitName>,
        /// Start after these.
        after: List<UnitName>,
        /// Start before these.
        before: List<UnitName>,
        /// Stopped and restarted with these.
        part_of: List<UnitName>,
        /// Variables that must be set (NAME) or have a value (NAME=value); a leading ! turns it round. Else the unit is skipped.
        condition_environment: List<Plain>,
        /// Paths that must exist; a leading ! turns it round. Else the unit is skipped.
        condition_path_exists: List<Plain>,
        /// Products of a oneshot: while they exist and what it watches is the same it is not run again.
        creates: List<Plain>,
        /// Which ends are followed by another start.
        restart: RestartChoice,
        /// Before the first restart. Default: 100ms.
        restart_delay: Time,
        /// The longest wait before a restart. Default: 30s.
        restart_max_delay: Time,
        /// Steps from the one to the other. Default: 6.
        restart_steps: Whole<0, 1000>,
        /// Starts within the interval that are let through; 0 = no limit. Default: 5.
        start_limit_burst: Count,
        /// The window of the start limit. Default: 10s.
        start_limit_interval: Span,
        /// What the start limit does when it is hit.
        start_limit_action: ActionChoice,
        /// Exit codes and signals that count as clean beside 0.
        success_exit_status: List<ExitStatus>,
        /// Exit codes and signals after which there is no restart. 78 always is one.
        restart_prevent_exit_status: List<ExitStatus>,
        /// Globs whose changed content starts it at once from backoff or failed.
        retry_on_change: List<Glob>,
        /// From the first process to ready. Default: 90s, none for a oneshot.
        start_timeout: Limit,
        /// From the stop signal to SIGKILL. Default: 10s.
        stop_timeout: Time,
        /// The longest run.
        runtime_max: Limit,
        /// The longest silence between two WATCHDOG=1.
        watchdog: Limit,
        /// Who gets the stop signal first: all, or the main process alone.
        kill_mode: KillChoice,
        /// The stop signal. Default: SIGTERM.
        kill_signal: Signal,
        /// Sent as soon as the whole sandbox begins to shut down.
        drain_signal: Signal,
        /// Sent for `reload`, and when what it watches has changed.
        reload_signal: Signal,
        /// Decides whether it is ready.
        readiness: ProbeFile,
        /// Restarts it when it fails.
        liveness: ProbeFile,
        /// Holds the other two back until it has passed once.
        startup: ProbeFile,
        /// Where it runs, relative to the project's root.
        working_directory: Plain,
        /// Set for its processes, over the files.
        environment: Environment,
        /// Files of NAME=value lines; a leading - lets one be missing.
        environment_file: OneOrMore,
        /// Patterns of the secrets that it gets.
        secrets: List<Plain>,
        /// User name or number.
        user: Plain,
        /// Group name or number.
        group: Plain,
        /// File mode creation mask, octal.
        umask: Umask,
        /// -20 to 19.
        nice: Whole<-20, 19>,
        /// -1000 to 1000.
        oom_score_adjust: Whole<-1000, 1000>,
        /// RLIMIT_AS.
        limit_as: Size,
        /// RLIMIT_CORE.
        limit_core: Size,
        /// RLIMIT_CPU, seconds.
        limit_cpu: Amount,
        /// RLIMIT_DATA.
        limit_data: Size,
        /// RLIMIT_FSIZE.
        limit_fsize: Size,
        /// RLIMIT_LOCKS.
        limit_locks: Amount,
        /// RLIMIT_MEMLOCK.
        limit_memlock: Size,
        /// RLIMIT_MSGQUEUE.
        limit_msgqueue: Size,
        /// RLIMIT_NOFILE.
        limit_nofile: Amount,
        /// RLIMIT_NPROC.
        limit_nproc: Amount,
        /// RLIMIT_RSS.
        limit_rss: Size,
        /// RLIMIT_SIGPENDING.
        limit_sigpending: Amount,
        /// RLIMIT_STACK.
        limit_stack: Size,
        /// The most memory (cgroup v2).
        memory_max: Size,
        /// The most tasks (cgroup v2).
        tasks_max: Amount,
        /// Share of the CPU (cgroup v2). Default of the kernel: 100.
        cpu_weight: Whole<1, 10_000>,
        /// Forbids gaining privileges through execve(2).
        no_new_privileges: bool,
        /// Makes what cannot be had an error instead of a warning.
        strict: bool,
        /// Globs whose changed content runs or restarts it.
        watch: List<Glob>,
    }
);

impl UnitFile {
    /// The `limit_*` keys that are given: the resource's name, and its limit or `None` for none.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&'static str, Option<u64>)> {
        let size = |at: &Option<At<Size>>| at.as_ref().map(|at| at.value.0);
        let amount = |at: &Option<At<Amount>>| at.as_ref().map(|at| at.value.0);
        let limits = [
            ("as", size(&self.limit_as)),
            ("core", size(&self.limit_core)),
            ("cpu", amount(&self.limit_cpu)),
            ("data", size(&self.limit_data)),
            ("fsize", size(&self.limit_fsize)),
            ("locks", amount(&self.limit_locks)),
            ("memlock", size(&self.limit_memlock)),
            ("msgqueue", size(&self.limit_msgqueue)),
            ("nofile", amount(&self.limit_nofile)),
            ("nproc", amount(&self.limit_nproc)),
            ("rss", size(&self.limit_rss)),
            ("sigpending", amount(&self.limit_sigpending)),
            ("stack", size(&self.limit_stack)),
        ];
        limits.into_iter().filter_map(|(name, limit)| Some((name, limit?)))
    }
}

/// The keys of a unit.
#[cfg(test)]
pub(super) fn unit_keys() -> Vec<&'static str> {
    UnitFile::keys()
}

/// The section whose key this is, where it is the key of just one that people reach for.
pub(super) fn home_of(key: &str) -> Option<&'static str> {
    let homes: [(&str, Vec<&str>); 11] = [
        ("[project]", Project::keys()),
        ("[sandbox]", Sandbox::keys()),
        ("[health]", Health::keys()),
        ("[report]", Report::keys()),
        ("[journal]", Journal::keys()),
        ("[shutdown]", Shutdown::keys()),
        ("[control]", Control::keys()),
        ("[unit.NAME]", UnitFile::keys()),
        ("[sync]", SyncTable::keys()),
        ("[agent]", AgentTable::keys()),
        ("a probe", ProbeFile::keys()),
    ];
    homes.iter().find(|(_, keys)| keys.contains(&key)).map(|(home, _)| *home)
}

/// `[unit.*]`, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Units(pub(super) Vec<(At<Name>, At<UnitFile>)>);

impl Units {
    pub(super) fn find(&self, name: &str) -> Option<&At<UnitFile>> {
        self.0.iter().find(|(found, _)| found.value.as_str() == name).map(|(_, unit)| unit)
    }
}

impl JsonSchema for Units {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Units".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let unit = generator.subschema_for::<UnitFile>();
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$" },
            "additionalProperties": unit
        })
    }
}

impl Value for Units {
    const EXPECTED: &'static str = "tables, `[unit.NAME]`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            reader.mismatch::<Self>(node, None);
            return None;
        };
        let mut units = Self::default();
        for (key, node) in table {
            let text: &str = key.get_ref();
            let span = reader.placed_span(key.span());
            let Some(name) = Name::new(text) else {
                let dotted = format!("unit.{text}");
                reader.faults.error(
                    &span,
                    &dotted,
                    format!("`{text}` cannot be the name of a unit"),
                    Some(NAME_RULE.to_owned()),
                );
                continue;
            };
            if !node.get_ref().is_table() && UnitFile::keys().contains(&text) {
                let message = format!("`{text}` is a key of a unit, not a unit");
                reader.faults.error(
                    &span,
                    "unit",
                    message,
                    Some(format!("put it into a table of its own: `[unit.NAME]`, `{text} = …`")),
                );
                continue;
            }
            let unit = reader
                .within(text, |reader| reader.value::<UnitFile>(node))
                .unwrap_or_else(|| At::nowhere(UnitFile::default()));
            units.0.push((
                At {
                    value: name,
                    span: span.clone(),
                },
                At { span, ..unit },
            ));
        }
        Some(units)
    }

    fn write(&self) -> toml::Value {
        let table: toml::Table = self
            .0
            .iter()
            .map(|(name, unit)| (name.value.to_string(), unit.value.write()))
            .collect();
        table.into()
    }

    fn overlay(&mut self, over: Self) {
        for (name, unit) in over.0 {
            match self.0.iter_mut().find(|(known, _)| known.value == name.value) {
                Some((_, under)) => {
                    under.value.overlay(unit.value);
                    under.span = unit.span;
                }
                None => self.0.push((name, unit)),
            }
        }
    }
}

/// `[control] allow`: unit → verbs.
#[derive(Clone, Debug, Default)]
pub(super) struct Allow(pub(super) BTreeMap<String, At<List<Plain>>>);

impl JsonSchema for Allow {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Allow".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "array", "items": { "type": "string" } } })
    }
}

impl Value for Allow {
    const EXPECTED: &'static str = "a table such as `{ agent = [\"status\"] }`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            reader.mismatch::<Self>(node, None);
            return None;
        };
        let mut allow = Self::default();
        for (key, node) in table {
            let name: &str = key.get_ref();
            if let Some(mut verbs) = reader.within(name, |reader| reader.value::<List<Plain>>(node)) {
                verbs.span = reader.placed_span(key.span());
                allow.0.insert(name.to_owned(), verbs);
            }
        }
        Some(allow)
    }

    fn write(&self) -> toml::Value {
        let table: toml::Table = self.0.iter().map(|(name, verbs)| (name.clone(), verbs.value.write())).collect();
        table.into()
    }
}

/// The verbs that `[control] allow` takes, and whether each names a unit after a colon.
const VERBS: [(&str, bool); 19] = [
    ("status", false),
    ("why", true),
    ("logs", true),
    ("events", false),
    ("wait", true),
    ("start", true),
    ("stop", true),
    ("restart", true),
    ("reload", true),
    ("kill", true),
    ("down", false),
    ("upgrade", false),
    ("sync:flush", false),
    ("sync:pull", false),
    ("agent:ask", false),
    ("agent:answer", false),
    ("agent:cancel", false),
    ("agent:events", false),
    ("*", false),
];

/// What is wrong with an entry of `[control] allow`, and what may have been meant.
pub(super) fn verb_fault(entry: &str) -> Option<(String, Option<String>)> {
    if VERBS.iter().any(|(verb, _)| *verb == entry) {
        return None;
    }
    let verb = entry.split_once(':').map_or(entry, |(verb, _)| verb);
    match VERBS.iter().find(|(known, _)| *known == verb) {
        Some((_, true)) => None,
        Some((_, false)) => Some((format!("`{verb}` takes no unit"), Some(format!("write `{verb}`")))),
        None => {
            let near = spelling::nearest(entry, VERBS.iter().map(|(verb, _)| *verb));
            Some((
                format!("`{entry}` is nothing that can be asked for"),
                near.map(|near| format!("did you mean `{near}`?")),
            ))
        }
    }
}
