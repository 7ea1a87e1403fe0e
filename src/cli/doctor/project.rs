//! What the configuration needs: variables, and commands with their versions.

use super::{Finding, Level, Patient, find_executable};
use crate::unit::{Command, Config, Main, Unit, Worker};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a command may take to tell its version.
const VERSION_TIME: Duration = Duration::from_secs(15);

pub(super) async fn findings(patient: &Patient) -> Vec<Finding> {
    let mut findings = keys(patient);
    if let Some(config) = &patient.config {
        findings.extend(agent(patient, config).await);
        findings.extend(commands(patient, config).await);
    }
    findings
}

/// Whose files these are, and where they are kept.
fn keys(patient: &Patient) -> Vec<Finding> {
    const R2: [&str; 4] = ["R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME"];
    let missing: Vec<&str> = R2.into_iter().filter(|name| patient.variable(name).is_none()).collect();
    let mut findings = Vec::new();
    let store = patient.config.as_ref().and_then(|config| config.sync.store.clone());
    findings.push(match (store, missing.len()) {
        (Some(_), _) => Finding::ok("store", "one is configured"),
        (None, 0) => Finding::ok("store", "the four R2_ variables are set"),
        (None, 4) => Finding::warn("store", "none is configured: files are lost with this box")
            .hint("set R2_ENDPOINT, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_BUCKET_NAME, or `[sync] store`"),
        (None, _) => Finding::fail("store", format!("{} not set, the other R2_ variables are", missing.join(" and "))),
    });
    if let Some(config) = &patient.config {
        findings.push(if config.project_id.is_empty() {
            Finding::warn("project id", "none: files cannot be kept without one").hint("set SANDKEEP_PROJECT_ID, or `[project] id`")
        } else {
            Finding::ok("project id", config.project_id.clone())
        });
    }
    findings
}

/// The agent's command and its credentials.
async fn agent(patient: &Patient, config: &Config) -> Vec<Finding> {
    let Some(unit) = config.units.iter().find(|unit| unit.main == Main::Worker(Worker::Agent)) else {
        return Vec::new();
    };
    // The sandbox is ready without an optional agent.
    let worst = if unit.optional { Level::Warn } else { Level::Fail };
    let command = &config.agent.command;
    let mut findings = vec![version(patient, command, "--version").await.unwrap_or_else(|| {
        Finding::new(worst, command.as_str(), "no such command").hint("`npm install -g @anthropic-ai/claude-code`, or `[agent] command`")
    })];
    let names = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"];
    let logged_in = patient
        .variable("HOME")
        .is_some_and(|home| std::path::Path::new(home).join(".claude/.credentials.json").exists());
    findings.push(match names.into_iter().find(|name| patient.variable(name).is_some()) {
        Some(name) => Finding::ok("agent's key", format!("{name} is set")),
        None if logged_in => Finding::ok("agent's key", "claude is logged in"),
        None => Finding::warn(
            "agent's key",
            "neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN is set, and claude is not logged in",
        ),
    });
    if patient.variable("CONVEX_URL").is_some() && patient.variable("SANDBOX_TOKEN").is_none() {
        findings.push(Finding::new(
            worst,
            "agent's inbox",
            "CONVEX_URL is set, SANDBOX_TOKEN is not: no prompt can be claimed",
        ));
    }
    findings
}

/// The commands that units execute, and what nearly everything needs.
async fn commands(patient: &Patient, config: &Config) -> Vec<Finding> {
    let mut names: BTreeSet<String> = config.units.iter().filter_map(|unit| first_word(unit)).collect();
    let mut findings = Vec::new();
    for (name, because) in [("node", "npm packages run on it"), ("git", "what Git tracks is always kept")] {
        names.remove(name);
        let missing = || Finding::warn(name, format!("no such command; {because}"));
        findings.push(version(patient, name, "--version").await.unwrap_or_else(missing));
    }
    for name in names {
        let missing = || Finding::fail(name.as_str(), "no such command, and a unit executes it");
        findings.push(version(patient, &name, "--version").await.unwrap_or_else(missing));
    }
    findings
}

/// The command's name where it is a plain word: a shell's own words and whole scripts are left alone.
fn first_word(unit: &Unit) -> Option<String> {
    const SHELL: [&str; 14] = [
        "cd", "exec", "echo", "export", "exit", "false", "for", "if", "set", "sleep", "test", "trap", "true", "while",
    ];
    let Main::Exec(command) = &unit.main else { return None };
    let word = match command {
        Command::Shell(text) => text.split_whitespace().next()?.to_owned(),
        Command::Argv(argv) => argv.first()?.clone(),
    };
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./+".contains(c));
    // A path may be made by a unit before this one.
    (plain && !word.contains('/') && !SHELL.contains(&word.as_str())).then_some(word)
}

/// The first line that a command says about its version; `None` when there is no such command.
async fn version(patient: &Patient, name: &str, argument: &str) -> Option<Finding> {
    let path = find_executable(name, patient.variable("PATH").unwrap_or_default())?;
    let mut command = tokio::process::Command::new(&path);
    command.arg(argument).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let shown = path.display();
    let said = match tokio::time::timeout(VERSION_TIME, command.output()).await {
        Err(_) => {
            return Some(Finding::warn(
                name,
                format!("{shown} does not tell its version within {VERSION_TIME:?}"),
            ));
        }
        Ok(Err(error)) => return Some(Finding::fail(name, format!("executing {shown}: {error}"))),
        Ok(Ok(output)) => output,
    };
    let text = String::from_utf8_lossy(&said.stdout);
    let first = text.lines().next().unwrap_or("").trim();
    Some(match (said.status.success(), first.is_empty()) {
        (true, false) => Finding::ok(name, format!("{first} ({shown})")),
        // Not every command knows `--version`.
        _ => Finding::ok(name, shown.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Name;

    fn word(command: &str) -> Option<String> {
        let main = Main::Exec(Command::Shell(command.into()));
        first_word(&Unit::new(Name::new("a").unwrap(), main))
    }

    #[test]
    fn only_plain_commands_are_looked_for() {
        assert_eq!(word("npm run dev").as_deref(), Some("npm"));
        assert_eq!(word("exec npm run dev"), None);
        assert_eq!(word("PORT=3 npm run dev"), None);
        assert_eq!(word("./start.sh"), None);
        assert_eq!(word(""), None);
    }
}
