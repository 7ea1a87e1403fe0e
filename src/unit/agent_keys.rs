//! The keys of `[agent]`. A key that is added here is read, checked, suggested, and in the JSON Schema; nothing else needs to know it.
//! The worker finds its value in `config::Agent::settings` (`command` in a field of its own).

use super::keys::{Key, Kind, key};

/// Every key of `[agent]`.
pub(super) const AGENT_KEYS: &[Key] = &[
    key(
        "command",
        Kind::Text,
        "Path or name of the `claude` executable. Default: \"claude\".",
    ),
    key("model", Kind::Text, "The model, as `claude --model` takes it."),
    key(
        "permission_mode",
        Kind::Choice(&["default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "manual", "auto"]),
        "How tools are allowed, as `claude --permission-mode` takes it.",
    ),
    key("allowed_tools", Kind::Texts, "Tools that need no permission."),
    key("disallowed_tools", Kind::Texts, "Tools that are never run."),
    key("tools", Kind::Texts, "The tools that exist for the model; none named = all."),
    key("fallback_model", Kind::Text, "The model while the first is overloaded."),
    key(
        "permission_modes",
        Kind::Texts,
        "Modes that a prompt may ask for, beside `permission_mode` and `plan`.",
    ),
    key(
        "per_prompt",
        Kind::Texts,
        "Options that a prompt may set. Default: all but `allowed_tools`, `system_prompt`, `mcp_config`; numbers and times never exceed what is set here.",
    ),
    key("max_turns", Kind::Whole(0, 1_000_000), "The most turns of a prompt; 0 = no limit."),
    key(
        "max_budget_usd",
        Kind::Number,
        "The most dollars that a session may cost; 0 = no limit.",
    ),
    key("max_sessions", Kind::Whole(1, 64), "Sessions that run at once. Default: 2."),
    key(
        "max_prompt_bytes",
        Kind::Whole(1, 16 << 20),
        "The longest prompt. Default: 4194304.",
    ),
    key("system_prompt", Kind::Text, "Replaces the system prompt."),
    key("append_system_prompt", Kind::Text, "Is put after the system prompt."),
    key(
        "mcp",
        Kind::Bool,
        "Whether `claude` gets the tools of `sandkeep mcp`. Default: true.",
    ),
    key("mcp_config", Kind::Texts, "Files that name further MCP servers, or their JSON."),
    key(
        "setting_sources",
        Kind::Text,
        "Which settings `claude` reads, as `claude --setting-sources` takes it.",
    ),
    key(
        "config_dir",
        Kind::Text,
        "The directory of `claude`'s own files. Default: ~/.claude.",
    ),
    key(
        "partial_messages",
        Kind::Bool,
        "Whether text is reported as it is written. Default: true.",
    ),
    key(
        "idle_timeout",
        Kind::Duration,
        "After this long without a prompt the `claude` process is let go. Default: 15min.",
    ),
    key("turn_timeout", Kind::Duration, "The longest that a prompt may take. Default: 1h."),
    key(
        "stall_timeout",
        Kind::Duration,
        "The longest silence of the model, after which the turn is cut and resumed. Default: 2min.",
    ),
    key("tool_timeout", Kind::Duration, "The same while a tool runs. Default: 15min."),
    key("env", Kind::Variables, "Variables for `claude` and the tools that it runs."),
    key(
        "pass_environment",
        Kind::Texts,
        "Names of the unit's variables that `claude` gets as well.",
    ),
    key(
        "background",
        Kind::Bool,
        "Whether processes that a prompt leaves behind may go on. Default: false.",
    ),
];
