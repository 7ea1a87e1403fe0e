//! One unit: its keys become values of `spec::Unit`, its impossible combinations are noted.

use super::super::faults::{At, Faults};
use super::super::file::UnitFile;
use super::super::spec::{
    Command, ExitStatuses, KillMode, Limits, Main, Name, Probe, ProbeKind, Restart, Service, StartLimitAction, Unit, Worker,
};
use super::super::values::{ActionChoice, Execs, ExitStatus, Glob, KillChoice, Plain, RestartChoice, TypeChoice, UnitName, WorkerChoice};
use super::probe;
use crate::ordered::IntoMap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Checks a unit. When something is wrong with it the result only stands in for it.
pub(super) fn check(name: &At<Name>, at: &At<UnitFile>, root: &Path, secret_names: &[String], faults: &mut Faults<'_>) -> Unit {
    let written = &at.value;
    let key = format!("unit.{}", name.value);
    let main = main(name, written, &key, faults);
    let mut unit = Unit::new(name.value.clone(), main);
    unit.service = service(written, &unit, &key, faults);
    unit.start_timeout = Unit::default_start_timeout(unit.service);
    fill_commands(&mut unit, written);
    fill_relations(&mut unit, written);
    fill_conditions(&mut unit, written, root, &key, faults);
    fill_restart(&mut unit, written);
    fill_times_and_signals(&mut unit, written);
    fill_surroundings(&mut unit, written, root);
    unit.probes = probes(written, &key, faults);
    combinations(&unit, written, &key, faults);
    words(written, &key, secret_names, faults);
    unit
}

fn main(name: &At<Name>, written: &UnitFile, key: &str, faults: &mut Faults<'_>) -> Main {
    match (&written.exec, &written.worker) {
        (Some(exec), None) => Main::Exec(exec.value.0.clone()),
        (None, Some(worker)) => Main::Worker(match worker.value {
            WorkerChoice::Restore => Worker::Restore,
            WorkerChoice::Sync => Worker::Sync,
            WorkerChoice::Agent => Worker::Agent,
        }),
        (Some(exec), Some(worker)) => {
            let message = format!("`{}` has both `exec` and `worker`", name.value);
            faults.error(
                &worker.span,
                &format!("{key}.worker"),
                message,
                Some("take one of them out".to_owned()),
            );
            Main::Exec(exec.value.0.clone())
        }
        (None, None) => {
            let short_form = format!("project.{}", name.value);
            let faulty = [key, &format!("{key}.exec"), &format!("{key}.worker"), &short_form]
                .iter()
                .any(|one| faults.about(one));
            if !faulty {
                let hint = "give it a command: `exec = \"…\"`".to_owned();
                faults.error(&name.span, key, format!("`{}` has nothing to execute", name.value), Some(hint));
            }
            Main::Exec(Command::Shell(":".to_owned()))
        }
    }
}

fn service(written: &UnitFile, unit: &Unit, key: &str, faults: &mut Faults<'_>) -> Service {
    let stays = written.remain_after_exit.as_ref();
    let remain_after_exit = stays.is_none_or(|at| at.value);
    let service = match written.r#type.as_ref().map(|at| at.value) {
        Some(TypeChoice::Simple) => Service::Simple,
        Some(TypeChoice::Notify) => Service::Notify,
        Some(TypeChoice::Oneshot) => Service::Oneshot { remain_after_exit },
        None => match unit.service {
            Service::Oneshot { .. } => Service::Oneshot { remain_after_exit },
            Service::Simple | Service::Notify => unit.service,
        },
    };
    if let (Main::Worker(_), Some(at)) = (&unit.main, &written.r#type)
        && std::mem::discriminant(&service) != std::mem::discriminant(&unit.service)
    {
        let message = "a worker has its own type".to_owned();
        faults.error(&at.span, &format!("{key}.type"), message, Some("take `type` out".to_owned()));
    }
    if let (Some(at), Service::Simple | Service::Notify) = (stays, service) {
        let hint = Some("`type = \"oneshot\"` is what it belongs to".to_owned());
        faults.error(
            &at.span,
            &format!("{key}.remain_after_exit"),
            "`remain_after_exit` is for oneshots alone",
            hint,
        );
    }
    service
}

fn fill_commands(unit: &mut Unit, written: &UnitFile) {
    let commands = |at: &Option<At<Execs>>| at.iter().flat_map(|at| &at.value.0).map(|exec| exec.0.clone()).collect::<Vec<_>>();
    unit.exec_start_pre = commands(&written.exec_start_pre);
    unit.exec_start_post = commands(&written.exec_start_post);
    unit.exec_reload = commands(&written.exec_reload);
    unit.exec_stop = commands(&written.exec_stop);
    unit.exec_stop_post = commands(&written.exec_stop_post);
    unit.optional = written.optional.as_ref().is_some_and(|at| at.value);
    unit.description = written
        .description
        .as_ref()
        .map(|at| at.value.as_str().to_owned())
        .unwrap_or_default();
}

fn fill_relations(unit: &mut Unit, written: &UnitFile) {
    let names = |list: &Option<At<Vec<At<UnitName>>>>| {
        let mut names: Vec<Name> = Vec::new();
        for at in list.iter().flat_map(|at| &at.value) {
            if !names.contains(&at.value.0) {
                names.push(at.value.0.clone());
            }
        }
        names
    };
    unit.requires = names(&written.requires);
    unit.wants = names(&written.wants);
    unit.binds_to = names(&written.binds_to);
    unit.after = names(&written.after);
    unit.part_of = names(&written.part_of);
}

fn strings(list: &Option<At<Vec<At<Plain>>>>) -> Vec<String> {
    list.iter()
        .flat_map(|at| &at.value)
        .map(|at| at.value.as_str().to_owned())
        .collect()
}

fn globs(list: &Option<At<Vec<At<Glob>>>>) -> Vec<String> {
    list.iter()
        .flat_map(|at| &at.value)
        .map(|at| at.value.0.as_str().to_owned())
        .collect()
}

fn fill_conditions(unit: &mut Unit, written: &UnitFile, root: &Path, key: &str, faults: &mut Faults<'_>) {
    unit.condition_environment = strings(&written.condition_environment);
    for at in written.condition_environment.iter().flat_map(|at| &at.value) {
        let condition = at.value.as_str().trim_start_matches('!');
        let name = condition.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            let hint = Some("write `NAME`, `NAME=value`, or either with a `!` before it".to_owned());
            let message = format!("`{}` is not a condition on a variable", at.value.as_str());
            faults.error(&at.span, &format!("{key}.condition_environment"), message, hint);
        }
    }
    let paths = strings(&written.condition_path_exists).into_iter();
    unit.condition_path_exists = paths
        .map(|path| match path.strip_prefix('!') {
            Some(path) => (false, root.join(path)),
            None => (true, root.join(path)),
        })
        .collect();
    unit.creates = strings(&written.creates).into_iter().map(|path| root.join(path)).collect();
}

fn exit_statuses(list: &Option<At<Vec<At<ExitStatus>>>>) -> ExitStatuses {
    let mut statuses = ExitStatuses::default();
    for at in list.iter().flat_map(|at| &at.value) {
        match at.value {
            ExitStatus::Code(code) => statuses.codes.push(code),
            ExitStatus::Signal(signal) => statuses.signals.push(signal),
        }
    }
    statuses
}

fn fill_restart(unit: &mut Unit, written: &UnitFile) {
    unit.restart = match written.restart.as_ref().map(|at| at.value) {
        Some(RestartChoice::No) | None => Restart::No,
        Some(RestartChoice::OnSuccess) => Restart::OnSuccess,
        Some(RestartChoice::OnFailure) => Restart::OnFailure,
        Some(RestartChoice::OnAbnormal) => Restart::OnAbnormal,
        Some(RestartChoice::OnWatchdog) => Restart::OnWatchdog,
        Some(RestartChoice::Always) => Restart::Always,
    };
    unit.restart_delay = written.restart_delay.as_ref().map_or(unit.restart_delay, |at| at.value.0);
    // A delay that is longer than the default maximum raises it: it was asked for.
    let max_delay = unit.restart_max_delay.max(unit.restart_delay);
    unit.restart_max_delay = written.restart_max_delay.as_ref().map_or(max_delay, |at| at.value.0);
    unit.restart_steps = written.restart_steps.as_ref().map_or(unit.restart_steps, |at| at.value.to());
    unit.start_limit_burst = written
        .start_limit_burst
        .as_ref()
        .map_or(unit.start_limit_burst, |at| at.value.to());
    unit.start_limit_interval = written
        .start_limit_interval
        .as_ref()
        .map_or(unit.start_limit_interval, |at| at.value.0);
    unit.start_limit_action = match written.start_limit_action.as_ref().map(|at| at.value) {
        Some(ActionChoice::Shutdown) => StartLimitAction::Shutdown,
        Some(ActionChoice::None) | None => StartLimitAction::None,
    };
    unit.success_exit_status = exit_statuses(&written.success_exit_status);
    unit.restart_prevent_exit_status = exit_statuses(&written.restart_prevent_exit_status);
    unit.watch = globs(&written.watch);
    unit.retry_on_change = globs(&written.retry_on_change);
}

fn fill_times_and_signals(unit: &mut Unit, written: &UnitFile) {
    unit.start_timeout = written.start_timeout.as_ref().map_or(unit.start_timeout, |at| at.value.0);
    unit.stop_timeout = written.stop_timeout.as_ref().map_or(unit.stop_timeout, |at| at.value.0);
    unit.runtime_max = written.runtime_max.as_ref().and_then(|at| at.value.0);
    unit.watchdog = written.watchdog.as_ref().and_then(|at| at.value.0);
    unit.kill_mode = match written.kill_mode.as_ref().map(|at| at.value) {
        Some(KillChoice::Mixed) => KillMode::Mixed,
        Some(KillChoice::ControlGroup) | None => KillMode::ControlGroup,
    };
    unit.kill_signal = written.kill_signal.as_ref().map_or(unit.kill_signal, |at| at.value.0);
    unit.drain_signal = written.drain_signal.as_ref().map(|at| at.value.0);
    unit.reload_signal = written.reload_signal.as_ref().map(|at| at.value.0);
}

fn fill_surroundings(unit: &mut Unit, written: &UnitFile, root: &Path) {
    let directory = written.working_directory.as_ref().map_or(".", |at| at.value.as_str());
    unit.working_directory = root
        .join(directory)
        .components()
        .filter(|part| *part != std::path::Component::CurDir)
        .collect();
    let environment = written.environment.iter().flat_map(|at| &at.value.0);
    unit.environment = environment
        .map(|(name, at)| (name.clone(), at.value.as_str().to_owned()))
        .into_map();
    unit.environment_file = written
        .environment_file
        .iter()
        .flat_map(|at| &at.value.0)
        .map(|at| environment_file(at.value.as_str(), root))
        .collect();
    unit.secrets = strings(&written.secrets);
    unit.user = written.user.as_ref().map(|at| at.value.as_str().to_owned());
    unit.group = written.group.as_ref().map(|at| at.value.as_str().to_owned());
    unit.umask = written.umask.as_ref().map(|at| at.value.0);
    unit.nice = written.nice.as_ref().map(|at| at.value.to());
    unit.oom_score_adjust = written.oom_score_adjust.as_ref().map(|at| at.value.to());
    unit.limits = limits(written);
    unit.no_new_privileges = written.no_new_privileges.as_ref().is_some_and(|at| at.value);
    unit.strict = written.strict.as_ref().is_some_and(|at| at.value);
}

fn environment_file(text: &str, root: &Path) -> (bool, PathBuf) {
    match text.strip_prefix('-') {
        Some(path) => (true, root.join(path)),
        None => (false, root.join(text)),
    }
}

fn limits(written: &UnitFile) -> Limits {
    Limits {
        rlimits: written.limits().into_map(),
        memory_max: written.memory_max.as_ref().and_then(|at| at.value.0),
        tasks_max: written.tasks_max.as_ref().and_then(|at| at.value.0),
        cpu_weight: written.cpu_weight.as_ref().map(|at| at.value.to()),
    }
}

fn probes(written: &UnitFile, key: &str, faults: &mut Faults<'_>) -> BTreeMap<ProbeKind, Probe> {
    let kinds = [
        (ProbeKind::Startup, "startup", &written.startup),
        (ProbeKind::Readiness, "readiness", &written.readiness),
        (ProbeKind::Liveness, "liveness", &written.liveness),
    ];
    let mut probes = BTreeMap::new();
    for (kind, word, at) in kinds {
        if let Some(probe) = at.as_ref().and_then(|at| probe::check(at, &format!("{key}.{word}"), faults)) {
            probes.insert(kind, probe);
        }
    }
    probes
}

/// What cannot be meant together.
fn combinations(unit: &Unit, written: &UnitFile, key: &str, faults: &mut Faults<'_>) {
    if let (Main::Worker(Worker::Sync | Worker::Restore), Some(at)) = (&unit.main, &written.user)
        && at.value.as_str() == "auto"
    {
        let hint = Some("give `user = \"auto\"` to the units that run the project's own code".to_owned());
        let message = "what keeps the files must read them all: it runs as the supervisor's user";
        faults.error(&at.span, &format!("{key}.user"), message, hint);
    }
    let oneshot = matches!(unit.service, Service::Oneshot { .. });
    if oneshot {
        let probes = [
            ("startup", &written.startup),
            ("readiness", &written.readiness),
            ("liveness", &written.liveness),
        ];
        for (word, at) in probes.into_iter().filter_map(|(word, at)| Some((word, at.as_ref()?))) {
            let message = format!("a oneshot has no {word} probe: it is ready when its run has succeeded");
            faults.error(&at.span, &format!("{key}.{word}"), message, None);
        }
        if let Some(at) = written
            .restart
            .as_ref()
            .filter(|at| matches!(at.value, RestartChoice::Always | RestartChoice::OnSuccess))
        {
            let hint = Some("`on-failure` runs it again until it succeeds".to_owned());
            faults.error(
                &at.span,
                &format!("{key}.restart"),
                "a oneshot that is run again after success never ends",
                hint,
            );
        }
        if let Some(at) = written.watchdog.as_ref().filter(|at| at.value.0.is_some()) {
            faults.error(
                &at.span,
                &format!("{key}.watchdog"),
                "a oneshot has no watchdog",
                Some("`start_timeout` ends a run that hangs".to_owned()),
            );
        }
        if let Some(at) = &written.runtime_max {
            let hint = Some("`start_timeout` ends a run that takes too long".to_owned());
            faults.error(&at.span, &format!("{key}.runtime_max"), "a oneshot has no `runtime_max`", hint);
        }
    } else if let Some(at) = &written.creates {
        let hint = Some("`type = \"oneshot\"` is what it belongs to".to_owned());
        faults.error(&at.span, &format!("{key}.creates"), "`creates` is for oneshots alone", hint);
    }
    if let Some(at) = written.restart_max_delay.as_ref().filter(|at| at.value.0 < unit.restart_delay) {
        faults.error(
            &at.span,
            &format!("{key}.restart_max_delay"),
            "`restart_max_delay` is shorter than `restart_delay`",
            None,
        );
    }
    if let Some(at) = written
        .start_limit_action
        .as_ref()
        .filter(|at| at.value == ActionChoice::Shutdown && unit.start_limit_burst == 0)
    {
        let message = "`start_limit_action` can never happen: `start_limit_burst` is 0";
        faults.error(&at.span, &format!("{key}.start_limit_action"), message, None);
    }
    if let (Some(at), false) = (&written.reload_signal, unit.exec_reload.is_empty()) {
        let hint = Some("take one of them out".to_owned());
        faults.error(
            &at.span,
            &format!("{key}.reload_signal"),
            "`reload_signal` and `exec_reload` both say how to reload",
            hint,
        );
    }
    let duplicate = unit.requires.iter().find(|name| unit.binds_to.contains(name));
    if let (Some(name), Some(at)) = (duplicate, &written.binds_to) {
        faults.warning(
            &at.span,
            &format!("{key}.binds_to"),
            format!("`binds_to` says all that `requires` says of `{name}`"),
            None,
        );
    }
}

/// Texts that must not be empty, and secrets that are none.
fn words(written: &UnitFile, key: &str, secret_names: &[String], faults: &mut Faults<'_>) {
    let texts = [
        ("user", &written.user),
        ("group", &written.group),
        ("working_directory", &written.working_directory),
    ];
    for (word, at) in texts.into_iter().filter_map(|(word, at)| Some((word, at.as_ref()?))) {
        let text = at.value.as_str();
        if text.is_empty() || (word != "working_directory" && text.contains([':', '/', ' '])) {
            let message = format!("`{text}` is not a {}", if word == "working_directory" { "directory" } else { word });
            faults.error(&at.span, &format!("{key}.{word}"), message, None);
        }
    }
    let empty_path = |list: &Option<At<Vec<At<Plain>>>>| {
        list.iter()
            .flat_map(|at| &at.value)
            .find(|at| at.value.as_str().trim_start_matches(['!', '-']).is_empty())
            .map(|at| at.span.clone())
    };
    let lists = [
        ("condition_path_exists", &written.condition_path_exists),
        ("creates", &written.creates),
    ];
    for (word, span) in lists.into_iter().filter_map(|(word, list)| Some((word, empty_path(list)?))) {
        faults.error(&span, &format!("{key}.{word}"), format!("a path of `{word}` is empty"), None);
    }
    for at in written.secrets.iter().flat_map(|at| &at.value).filter(|at| at.span.is_some()) {
        let name = at.value.as_str();
        let covered = secret_names
            .iter()
            .any(|pattern| super::super::expand::matches(pattern, name) || pattern == name);
        if !covered {
            let message = format!("`{name}` is no secret: `[secrets] names` does not have it, so every unit gets it");
            let hint = Some(format!("add `\"{name}\"` to `[secrets] names`"));
            faults.warning(&at.span, &format!("{key}.secrets"), message, hint);
        }
    }
}
