//! The command line: one file a verb, and the only place that prints.

use std::process::ExitCode;

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
