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
        Kind::Choice(&["default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "auto"]),
        "How tools are allowed, as `claude --permission-mode` takes it.",
    ),
    key("allowed_tools", Kind::Texts, "Tools that need no permission."),
    key("disallowed_tools", Kind::Texts, "Tools that are never run."),
    key("max_turns", Kind::Whole(0, 1_000_000), "The most turns of a prompt; 0 = no limit."),
    key("max_budget_usd", Kind::Number, "The most dollars that a prompt may cost."),
    key("system_prompt", Kind::Text, "Replaces the system prompt."),
    key("append_system_prompt", Kind::Text, "Is put after the system prompt."),
    key("mcp_config", Kind::Texts, "Files that name further MCP servers."),
    key(
        "idle_timeout",
        Kind::Duration,
        "After this long without a prompt the `claude` process is let go.",
    ),
    key("turn_timeout", Kind::Duration, "The longest that a prompt may take."),
    key("stall_timeout", Kind::Duration, "The longest silence within a prompt."),
    key("env", Kind::Variables, "Variables for `claude` and the tools that it runs."),
    key("background", Kind::Bool, "Whether processes that a prompt leaves behind may go on."),
];
