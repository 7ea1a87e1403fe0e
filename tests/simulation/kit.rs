//! Units and configurations to try things with.
#![allow(dead_code, reason = "a kit, not every piece of which is in use")]

use sandkeep::unit::config::{Agent, Sync};
use sandkeep::unit::{
    Command, Config, ExitStatuses, KillMode, Limits, Main, Name, Probe, ProbeCheck, ProbeKind, Restart, Service, StartLimitAction, Unit,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

pub(crate) fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|n| name(n)).collect()
}

/// A simple unit with the defaults of the config.
pub(crate) fn unit(called: &str) -> Unit {
    Unit {
        name: name(called),
        description: String::new(),
        service: Service::Simple,
        main: Main::Exec(Command::Shell(called.into())),
        exec_start_pre: vec![],
        exec_start_post: vec![],
        exec_reload: vec![],
        exec_stop: vec![],
        exec_stop_post: vec![],
        optional: false,
        requires: vec![],
        wants: vec![],
        binds_to: vec![],
        after: vec![],
        part_of: vec![],
        condition_environment: vec![],
        condition_path_exists: vec![],
        creates: vec![],
        restart: Restart::No,
        restart_delay: ms(100),
        restart_max_delay: secs(30),
        restart_steps: 6,
        start_limit_burst: 5,
        start_limit_interval: secs(10),
        start_limit_action: StartLimitAction::None,
        success_exit_status: ExitStatuses::default(),
        restart_prevent_exit_status: ExitStatuses::default(),
        start_timeout: None,
        stop_timeout: secs(10),
        runtime_max: None,
        watchdog: None,
        kill_mode: KillMode::ControlGroup,
        kill_signal: 15,
        drain_signal: None,
        reload_signal: None,
        probes: BTreeMap::new(),
        working_directory: "/".into(),
        environment: BTreeMap::new(),
        environment_file: vec![],
        secrets: vec![],
        user: None,
        group: None,
        umask: None,
        nice: None,
        oom_score_adjust: None,
        limits: Limits::default(),
        no_new_privileges: false,
        strict: false,
        watch: vec![],
        retry_on_change: vec![],
    }
}

pub(crate) fn oneshot(called: &str) -> Unit {
    Unit {
        service: Service::Oneshot { remain_after_exit: true },
        ..unit(called)
    }
}

pub(crate) fn notify(called: &str) -> Unit {
    Unit {
        service: Service::Notify,
        ..unit(called)
    }
}

pub(crate) fn probe(kind: ProbeKind) -> (ProbeKind, Probe) {
    let probe = Probe {
        check: ProbeCheck::Listen(Some(3000)),
        interval: ms(250),
        timeout: secs(2),
        initial_delay: Duration::ZERO,
        success_threshold: 1,
        failure_threshold: 3,
    };
    (kind, probe)
}

pub(crate) fn shell(command: &str) -> Command {
    Command::Shell(command.into())
}

pub(crate) fn config(units: Vec<Unit>) -> Arc<Config> {
    Arc::new(Config {
        file: None,
        hash: "h".into(),
        project_id: String::new(),
        root: "/project".into(),
        port: None,
        sandbox_id: String::new(),
        expires_at: None,
        listen: None,
        token: None,
        report_url: None,
        journal_max_size: 1 << 24,
        journal_keep: 4,
        shutdown_budget: None,
        secret_names: vec![],
        sync: Sync {
            store: None,
            batch_files: 10,
            batch_interval: secs(30),
            include: vec![],
            exclude: vec![],
            env_files: false,
        },
        agent: Agent {
            command: "claude".into(),
            settings: toml::Table::new(),
        },
        allow: BTreeMap::new(),
        units,
    })
}
