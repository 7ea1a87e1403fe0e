//! The orchestrator's side: puts sandkeep into a sandbox and serves the app's three actions.
