//! The providers that need no account pass the contract.

use crate::contract::{Kind, holds};
use sandkeep::sandbox::Code;
use sandkeep::sandbox::provider::Provider;
use sandkeep::sandbox::provider::Wanted;
use sandkeep::sandbox::provider::exec::Exec;
use sandkeep::sandbox::provider::local::Local;

#[tokio::test]
async fn local_holds_the_contract() {
    let root = tempfile::tempdir().unwrap();
    holds(&Local::new(root.path()), Kind { makes: true }).await;
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left");
}

/// Words as they are.
#[tokio::test]
async fn exec_through_env_holds_the_contract() {
    holds(&Exec::new("env --", None).unwrap(), Kind { makes: false }).await;
}

/// Words that a shell reads again, as over ssh.
#[tokio::test]
async fn exec_through_a_shell_holds_the_contract() {
    holds(&Exec::new("sh -c 'eval \"$*\"' shell", None).unwrap(), Kind { makes: false }).await;
}

#[tokio::test]
async fn a_box_that_is_not_there_is_told_from_a_command_that_fails() {
    let wanted = Wanted {
        name: "a".to_owned(),
        ports: Vec::new(),
        timeout: None,
    };
    for (via, code) in [
        ("sh -c 'echo no such container >&2; exit 1' x", Code::Unreachable),
        ("sh -c 'echo Permission denied >&2; exit 255' x", Code::Unauthorized),
        ("/nonexistent/program", Code::Unreachable),
    ] {
        let fault = Exec::new(via, None).unwrap().create(&wanted).await.unwrap_err();
        assert_eq!(fault.code, code, "{via}: {fault}");
        assert!(fault.hint.is_some() && !fault.message.contains('\n'), "{fault}");
    }
}
