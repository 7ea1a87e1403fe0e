//! What somebody may have meant: near misses, systemd's spellings, the words of other supervisors.

/// The nearest of the candidates, if it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let scored = candidates
        .into_iter()
        .map(|candidate| (score(&word, &candidate.to_lowercase()), candidate));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= 0.7).then_some(best.1)
}

fn score(word: &str, candidate: &str) -> f64 {
    if word.len() >= 2 && candidate.len() > word.len() && candidate.starts_with(word) && !candidate[word.len()..].starts_with('_') {
        return 0.9;
    }
    let one_slip = word.len() >= 3 && strsim::damerau_levenshtein(word, candidate) == 1;
    let slip_score = if one_slip { 0.8 } else { 0.0 };
    strsim::normalized_damerau_levenshtein(word, candidate)
        .max(slip_score)
        .max(tail_score(word, candidate))
}

/// `db` is near `db-proxy`: one name is the other and a part of its own.
fn tail_score(word: &str, candidate: &str) -> f64 {
    let whole_part = |long: &str, short: &str| {
        let rest = long.strip_prefix(short).or_else(|| long.strip_suffix(short));
        short.len() >= 2 && rest.is_some_and(|rest| rest.starts_with(['-', '_', '.']) || rest.ends_with(['-', '_', '.']))
    };
    if whole_part(candidate, word) || whole_part(word, candidate) {
        0.75
    } else {
        0.0
    }
}

/// Other spellings of a unit's keys, lower case and without underscores.
const SYNONYMS: [(&str, &str); 92] = [
    // systemd.service(5)
    ("execstart", "exec"),
    ("restartsec", "restart_delay"),
    ("restartmaxdelaysec", "restart_max_delay"),
    ("restartsteps", "restart_steps"),
    ("timeoutstartsec", "start_timeout"),
    ("timeoutstopsec", "stop_timeout"),
    ("timeoutsec", "start_timeout"),
    ("runtimemaxsec", "runtime_max"),
    ("watchdogsec", "watchdog"),
    ("restartpreventexitstatus", "restart_prevent_exit_status"),
    ("successexitstatus", "success_exit_status"),
    ("remainafterexit", "remain_after_exit"),
    ("execcondition", "exec_start_pre"),
    ("restartsignal", "kill_signal"),
    // systemd.unit(5)
    ("startlimitintervalsec", "start_limit_interval"),
    ("startlimitinterval", "start_limit_interval"),
    ("startlimitburst", "start_limit_burst"),
    ("startlimitaction", "start_limit_action"),
    ("bindsto", "binds_to"),
    ("partof", "part_of"),
    ("requisite", "requires"),
    ("upholds", "wants"),
    ("conditionpathexists", "condition_path_exists"),
    ("conditionenvironment", "condition_environment"),
    ("assertpathexists", "condition_path_exists"),
    // systemd.exec(5), systemd.kill(5), systemd.resource-control(5)
    ("workingdirectory", "working_directory"),
    ("environmentfile", "environment_file"),
    ("killmode", "kill_mode"),
    ("killsignal", "kill_signal"),
    ("oomscoreadjust", "oom_score_adjust"),
    ("nonewprivileges", "no_new_privileges"),
    ("memorymax", "memory_max"),
    ("memorylimit", "memory_max"),
    ("tasksmax", "tasks_max"),
    ("cpuweight", "cpu_weight"),
    ("limitnofile", "limit_nofile"),
    ("limitnproc", "limit_nproc"),
    ("limitcore", "limit_core"),
    ("loadcredential", "secrets"),
    ("passenvironment", "environment"),
    // compose, process-compose, supervisord, pm2, Kubernetes, circus
    ("command", "exec"),
    ("cmd", "exec"),
    ("run", "exec"),
    ("script", "exec"),
    ("entrypoint", "exec"),
    ("start", "exec"),
    ("args", "exec"),
    ("dependson", "requires"),
    ("depends", "requires"),
    ("needs", "requires"),
    ("env", "environment"),
    ("envs", "environment"),
    ("envvars", "environment"),
    ("envfile", "environment_file"),
    ("dotenv", "environment_file"),
    ("cwd", "working_directory"),
    ("dir", "working_directory"),
    ("workdir", "working_directory"),
    ("workingdir", "working_directory"),
    ("directory", "working_directory"),
    ("autorestart", "restart"),
    ("restartpolicy", "restart"),
    ("backoff", "restart_delay"),
    ("backoffseconds", "restart_delay"),
    ("maxrestarts", "start_limit_burst"),
    ("maxretries", "start_limit_burst"),
    ("startretries", "start_limit_burst"),
    ("stopsignal", "kill_signal"),
    ("stopwaitsecs", "stop_timeout"),
    ("stoptimeout", "stop_timeout"),
    ("killtimeout", "stop_timeout"),
    ("gracetime", "stop_timeout"),
    ("startsecs", "start_timeout"),
    ("timeout", "start_timeout"),
    ("healthcheck", "readiness"),
    ("health", "readiness"),
    ("ready", "readiness"),
    ("readinessprobe", "readiness"),
    ("livenessprobe", "liveness"),
    ("startupprobe", "startup"),
    ("port", "readiness"),
    ("mem", "memory_max"),
    ("memory", "memory_max"),
    ("maxmemoryrestart", "memory_max"),
    ("disabled", "enabled"),
    ("autostart", "enabled"),
    ("uid", "user"),
    ("gid", "group"),
    ("ulimits", "limit_nofile"),
    ("nofile", "limit_nofile"),
    ("desc", "description"),
    ("prestart", "exec_start_pre"),
];

/// The key of a unit that another program calls so.
pub(super) fn unit_key(word: &str) -> Option<&'static str> {
    let plain: String = word
        .chars()
        .filter(|c| *c != '_' && *c != '-')
        .flat_map(char::to_lowercase)
        .collect();
    SYNONYMS.iter().find(|(other, _)| *other == plain).map(|(_, key)| *key)
}

/// `RestartDelay` as `restart_delay`.
pub(super) fn snake_case(word: &str) -> String {
    let mut out = String::new();
    let mut after_lower = false;
    for c in word.chars() {
        if c.is_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = c.is_lowercase() || c.is_ascii_digit();
        out.extend(if c == '-' { '_' } else { c }.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_was_meant() {
        assert_eq!(unit_key("RestartSec"), Some("restart_delay"));
        assert_eq!(unit_key("restart_sec"), Some("restart_delay"));
        assert_eq!(unit_key("depends_on"), Some("requires"));
        assert_eq!(unit_key("frobnicate"), None);
        assert_eq!(snake_case("KillMode"), "kill_mode");
        assert_eq!(snake_case("kill-mode"), "kill_mode");
        assert_eq!(nearest("db", ["web", "db-proxy"]), Some("db-proxy"));
        assert_eq!(nearest("requries", ["requires", "restart"]), Some("requires"));
        assert_eq!(nearest("zebra", ["requires", "restart"]), None);
        assert_eq!(nearest("", ["requires"]), None);
    }

    #[test]
    fn every_synonym_leads_to_a_key() {
        for (_, key) in SYNONYMS {
            assert!(super::super::file::unit_keys().contains(&key), "{key}");
        }
    }
}
