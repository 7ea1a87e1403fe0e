//! Worker: runs Claude Code for prompts and reports what it says.
