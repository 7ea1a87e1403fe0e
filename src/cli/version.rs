//! `sandkeep --version --json`: version, target and features, for scripts and the orchestrator.

use crate::ordered::Order;
use serde_json::{Value, json};
use std::ffi::OsString;

/// Prints the document if exactly this was asked for; clap itself answers a plain `--version`.
#[expect(clippy::print_stdout, reason = "the command line is what prints")]
pub(super) fn answered(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut arguments: Vec<_> = arguments.skip(1).collect();
    arguments.order();
    let asked = arguments == ["--json", "--version"] || arguments == ["--json", "-V"];
    if asked {
        println!("{}", document());
    }
    asked
}

fn document() -> Value {
    let features = [
        ("sync", cfg!(feature = "sync")),
        ("agent", cfg!(feature = "agent")),
        ("sandbox", cfg!(feature = "sandbox")),
    ];
    json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "target": target(),
        "features": features.iter().filter(|(_, on)| *on).map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

fn target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> bool {
        answered(std::iter::once("sandkeep").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn only_the_pair_is_answered() {
        assert!(asked(&["--version", "--json"]) && asked(&["--json", "-V"]));
        assert!(!asked(&["--version"]) && !asked(&["status", "--json"]) && !asked(&[]));
    }

    #[test]
    fn the_document_tells_version_target_and_features() {
        let document = document();
        assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
        assert!(document["target"].as_str().is_some_and(|target| target.contains("-unknown-linux-")));
        assert!(document["features"].is_array());
    }
}
