//! `[agent]`: what the config says, and what of it a single prompt may change.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The permission modes of the CLI.
pub const PERMISSION_MODES: [&str; 7] = ["bypassPermissions", "acceptEdits", "dontAsk", "plan", "default", "manual", "auto"];

/// `[agent]`, defaults filled in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Path or name of the `claude` executable.
    pub command: String,
    /// The model; claude's own default where there is none.
    pub model: Option<String>,
    /// The model while the first is overloaded.
    pub fallback_model: Option<String>,
    /// The CLI's permission mode. `bypassPermissions` by default: the sandbox is the fence.
    pub permission_mode: String,
    /// Modes that a prompt may ask for, beside the configured one and `plan`.
    pub permission_modes: Vec<String>,
    /// Rules of tools that need no question.
    pub allowed_tools: Vec<String>,
    /// Rules of tools that are never used.
    pub disallowed_tools: Vec<String>,
    /// The tools that exist for the model; empty = all.
    pub tools: Vec<String>,
    /// Rounds with the model in one prompt; 0 = no limit.
    pub max_turns: u64,
    /// What a session may cost; 0 = no limit.
    pub max_budget_usd: f64,
    /// Instead of claude's own system prompt.
    pub system_prompt: Option<String>,
    /// Added to claude's own system prompt.
    pub append_system_prompt: Option<String>,
    /// Further MCP servers: paths of files, or the JSON itself.
    pub mcp_config: Vec<String>,
    /// Whether claude gets sandkeep's own MCP server.
    pub mcp: bool,
    /// `user,project,local`; claude's default where there is none.
    pub setting_sources: Option<String>,
    /// Options that a prompt may set.
    pub per_prompt: Vec<String>,
    /// The longest time for one prompt; 0 = no limit.
    #[serde(deserialize_with = "duration")]
    pub turn_timeout: Duration,
    /// The longest silence of the model before the turn is cut and resumed.
    #[serde(deserialize_with = "duration")]
    pub stall_timeout: Duration,
    /// The same while a tool runs.
    #[serde(deserialize_with = "duration")]
    pub tool_timeout: Duration,
    /// After which an idle `claude` is ended.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// Sessions that run at once.
    pub max_sessions: usize,
    /// Whether processes that a tool left in the background live on after the turn.
    pub background: bool,
    /// Whether text is reported as it is written.
    pub partial_messages: bool,
    /// claude's configuration directory; `~/.claude` where there is none.
    pub config_dir: Option<PathBuf>,
    /// Variables for claude and its tools.
    pub env: BTreeMap<String, String>,
    /// Names of the agent's own variables that are handed on.
    pub pass_environment: Vec<String>,
    /// The longest prompt, bytes.
    pub max_prompt_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            command: "claude".into(),
            model: None,
            fallback_model: None,
            permission_mode: "bypassPermissions".into(),
            permission_modes: Vec::new(),
            allowed_tools: Vec::new(),
            disallowed_tools: Vec::new(),
            tools: Vec::new(),
            max_turns: 0,
            max_budget_usd: 0.0,
            system_prompt: None,
            append_system_prompt: None,
            mcp_config: Vec::new(),
            mcp: true,
            setting_sources: None,
            per_prompt: names(&[
                "model",
                "permission_mode",
                "disallowed_tools",
                "max_turns",
                "max_budget_usd",
                "append_system_prompt",
                "timeout",
            ]),
            turn_timeout: Duration::from_secs(3600),
            stall_timeout: Duration::from_secs(120),
            tool_timeout: Duration::from_secs(900),
            idle_timeout: Duration::from_secs(900),
            max_sessions: 2,
            background: false,
            partial_messages: true,
            config_dir: None,
            env: BTreeMap::new(),
            pass_environment: Vec::new(),
            max_prompt_bytes: 4 << 20,
        }
    }
}

/// Reading `[agent]`: what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A key that is unknown, or a value of the wrong type.
    #[error("reading [agent]: {0}")]
    Shape(#[from] serde_json::Error),
    /// A mode that the CLI does not have.
    #[error("reading [agent]: `{0}` is no permission mode (there are {list})", list = PERMISSION_MODES.join(", "))]
    PermissionMode(String),
    /// An option that no prompt has.
    #[error("reading [agent]: `per_prompt` names `{0}`, which is no option of a prompt")]
    PerPrompt(String),
}

impl Settings {
    /// Reads the table as the supervisor hands it over.
    pub fn read(table: Value) -> Result<Self, SettingsError> {
        let settings: Self = if table.is_null() {
            Self::default()
        } else {
            serde_json::from_value(table)?
        };
        for mode in settings.permission_modes.iter().chain([&settings.permission_mode]) {
            if !PERMISSION_MODES.contains(&mode.as_str()) {
                return Err(SettingsError::PermissionMode(mode.clone()));
            }
        }
        if let Some(name) = settings.per_prompt.iter().find(|name| !OPTION_NAMES.contains(&name.as_str())) {
            return Err(SettingsError::PerPrompt(name.clone()));
        }
        Ok(settings)
    }

    /// How claude is to be started for a prompt that asks for `options`.
    pub fn launch(&self, options: &Options) -> Result<Launch, Refusal> {
        for name in options.names() {
            if !self.per_prompt.iter().any(|allowed| allowed == name) {
                return Err(Refusal::Option(name));
            }
        }
        let permission_mode = options.permission_mode.as_ref().unwrap_or(&self.permission_mode);
        if !PERMISSION_MODES.contains(&permission_mode.as_str()) {
            return Err(Refusal::UnknownMode(permission_mode.clone()));
        }
        let may = permission_mode == &self.permission_mode || permission_mode == "plan" || self.permission_modes.contains(permission_mode);
        if !may {
            return Err(Refusal::Mode(permission_mode.clone()));
        }
        let mut disallowed_tools = self.disallowed_tools.clone();
        disallowed_tools.extend(options.disallowed_tools.iter().flatten().cloned());
        let append: Vec<&str> = [&self.append_system_prompt, &options.append_system_prompt]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        Ok(Launch {
            model: options.model.clone().or_else(|| self.model.clone()),
            permission_mode: permission_mode.clone(),
            allowed_tools: options.allowed_tools.clone().unwrap_or_else(|| self.allowed_tools.clone()),
            disallowed_tools,
            max_turns: lower(options.max_turns, self.max_turns, 0),
            max_budget_usd: self.max_budget_usd,
            prompt_budget_usd: options.max_budget_usd.filter(|usd| *usd > 0.0).unwrap_or_default(),
            system_prompt: options.system_prompt.clone().or_else(|| self.system_prompt.clone()),
            append_system_prompt: (!append.is_empty()).then(|| append.join("\n\n")),
            mcp_config: self.mcp_config.iter().chain(options.mcp_config.iter().flatten()).cloned().collect(),
        })
    }

    /// The wall-clock limit of a prompt; `None` = none.
    pub fn time_limit(&self, options: &Options) -> Option<Duration> {
        let asked = options.timeout_ms.map(Duration::from_millis);
        let limit = lower(asked, self.turn_timeout, Duration::ZERO);
        (limit > Duration::ZERO).then_some(limit)
    }
}

/// What was asked for, but no more than the configured limit, where `none` stands for no limit.
fn lower<T: PartialOrd + Copy>(asked: Option<T>, limit: T, none: T) -> T {
    match asked {
        Some(asked) if asked > none && (limit <= none || asked < limit) => asked,
        _ => limit,
    }
}

const OPTION_NAMES: [&str; 10] = [
    "model",
    "permission_mode",
    "allowed_tools",
    "disallowed_tools",
    "max_turns",
    "max_budget_usd",
    "system_prompt",
    "append_system_prompt",
    "mcp_config",
    "timeout",
];

/// What a prompt may ask for, within what `per_prompt` and the limits of the config let it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Another permission mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    /// Rules of tools that need no question, instead of the configured ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    /// Further rules of tools that are never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disallowed_tools: Option<Vec<String>>,
    /// Fewer rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u64>,
    /// What this prompt alone may cost, within what is left of the session's budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// Another system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Added to the system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_system_prompt: Option<String>,
    /// Further MCP servers, beside the configured ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_config: Option<Vec<String>>,
    /// Less time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Options {
    fn names(&self) -> Vec<&'static str> {
        let Self {
            model,
            permission_mode,
            allowed_tools,
            disallowed_tools,
            max_turns,
            max_budget_usd,
            system_prompt,
            append_system_prompt,
            mcp_config,
            timeout_ms,
        } = self;
        let set = [
            model.is_some(),
            permission_mode.is_some(),
            allowed_tools.is_some(),
            disallowed_tools.is_some(),
            max_turns.is_some(),
            max_budget_usd.is_some(),
            system_prompt.is_some(),
            append_system_prompt.is_some(),
            mcp_config.is_some(),
            timeout_ms.is_some(),
        ];
        OPTION_NAMES
            .into_iter()
            .zip(set)
            .filter_map(|(name, set)| set.then_some(name))
            .collect()
    }
}

/// Why a prompt's options are not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The config does not let prompts set it.
    #[error("a prompt may not set `{0}` here: [agent] per_prompt does not name it")]
    Option(&'static str),
    /// There is no such mode.
    #[error("`{0}` is no permission mode (there are {list})", list = PERMISSION_MODES.join(", "))]
    UnknownMode(String),
    /// The config does not let prompts ask for that mode.
    #[error("a prompt may not ask for permission mode `{0}` here: [agent] permission_modes does not name it")]
    Mode(String),
}

/// What a running claude was started with that differs from prompt to prompt: another launch needs another process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launch {
    /// The model.
    pub model: Option<String>,
    /// The permission mode.
    pub permission_mode: String,
    /// Rules of tools that need no question.
    pub allowed_tools: Vec<String>,
    /// Rules of tools that are never used.
    pub disallowed_tools: Vec<String>,
    /// Rounds; 0 = no limit.
    pub max_turns: u64,
    /// What the session may cost; 0 = no limit. Told to claude as what is left of it, since each process counts from nothing.
    pub max_budget_usd: f64,
    /// What the prompt may cost; 0 = no limit of its own.
    pub prompt_budget_usd: f64,
    /// Instead of claude's own system prompt.
    pub system_prompt: Option<String>,
    /// Added to the system prompt.
    pub append_system_prompt: Option<String>,
    /// Further MCP servers.
    pub mcp_config: Vec<String>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::unit::duration::parse(&text).map_err(|why| serde::de::Error::custom(format!("`{text}` is no duration: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_table_is_the_defaults() {
        assert_eq!(Settings::read(json!({})).unwrap(), Settings::default());
        assert_eq!(Settings::read(Value::Null).unwrap(), Settings::default());
    }

    #[test]
    fn unknown_modes_and_keys_are_refused() {
        for table in [
            json!({"permission_mode": "yolo"}),
            json!({"modle": "x"}),
            json!({"per_prompt": ["x"]}),
            json!({"turn_timeout": "soon"}),
        ] {
            Settings::read(table.clone()).expect_err(&table.to_string());
        }
    }

    #[test]
    fn a_prompt_stays_within_the_limits() {
        let settings = Settings::read(json!({"max_turns": 10, "permission_mode": "acceptEdits", "turn_timeout": "1min"})).unwrap();
        let more = Options {
            max_turns: Some(50),
            timeout_ms: Some(90_000),
            ..Options::default()
        };
        assert_eq!(settings.launch(&more).unwrap().max_turns, 10);
        assert_eq!(settings.time_limit(&more), Some(Duration::from_secs(60)));
        let fewer = Options {
            max_turns: Some(5),
            ..Options::default()
        };
        assert_eq!(settings.launch(&fewer).unwrap().max_turns, 5);
        let mode = |mode: &str| {
            settings.launch(&Options {
                permission_mode: Some(mode.into()),
                ..Options::default()
            })
        };
        assert_eq!(mode("bypassPermissions"), Err(Refusal::Mode("bypassPermissions".into())));
        assert_eq!(mode("nonsense"), Err(Refusal::UnknownMode("nonsense".into())));
        assert!(mode("plan").is_ok());
        let tools = Options {
            allowed_tools: Some(vec!["Bash".into()]),
            ..Options::default()
        };
        assert_eq!(settings.launch(&tools), Err(Refusal::Option("allowed_tools")));
    }
}
