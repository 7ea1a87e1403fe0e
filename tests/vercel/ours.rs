//! Our client holds the contract of all providers, with both generations of images.

use crate::contract::{Kind, holds};
use crate::double::{Double, create};
use sandkeep::sandbox::provider::{Command, Secret, Settings, hear, vercel};
use serde_json::json;

#[tokio::test]
async fn holds_the_contract_with_the_default_image() {
    skip!("needs-sandbox-namespaces");
    let double = Double::start();
    holds(&*double.provider(None), Kind { makes: true }).await;
    assert!(double.sandboxes().is_empty(), "nothing is left");
    let created = double.asked(Some("create"));
    assert!(
        created.iter().all(|one| one["path"].as_str().unwrap().ends_with("/v3/sandboxes")),
        "{created:?}"
    );
}

#[tokio::test]
async fn holds_the_contract_with_an_older_runtime() {
    skip!("needs-sandbox-namespaces");
    let double = Double::start();
    holds(&*double.provider(Some("node24")), Kind { makes: true }).await;
    let created = double.asked(Some("create"));
    assert!(created.iter().all(|one| one["body"]["runtime"] == "node24"), "{created:?}");
}

/// The same against the service, for whoever has an account.
#[tokio::test]
async fn the_service_itself_holds_the_contract() {
    skip!("needs-vercel-token");
    let variable = |name: &str| std::env::var(name).ok();
    let provider = Settings::Vercel(vercel::Settings::default()).open(&variable).unwrap();
    holds(&*provider, Kind { makes: true }).await;
}

#[tokio::test]
async fn an_oidc_token_is_enough() {
    skip!("needs-sandbox-namespaces");
    use base64::Engine;
    let double = Double::start();
    let claims = json!({"owner_id": "team_test", "project_id": "prj_test", "exp": 4_000_000_000_u64});
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    let variable = |name: &str| (name == "VERCEL_OIDC_TOKEN").then(|| format!("e30.{claims}.c2ln"));
    let settings = vercel::Settings {
        api: Some(double.api.clone()),
        ..vercel::Settings::default()
    };
    let provider = Settings::Vercel(settings).open(&variable).unwrap();
    assert_eq!(provider.list().await.unwrap(), []);
    let Settings::Vercel(kept) = provider.settings() else {
        panic!("it is ours")
    };
    assert_eq!(kept.team.as_deref(), Some("team_test"), "a record finds it again");
    assert!(!serde_json::to_string(&kept).unwrap().contains(&claims), "without the token");
}

#[tokio::test]
async fn an_input_is_in_no_request_but_its_own_file() {
    skip!("needs-sandbox-namespaces");
    let double = Double::start();
    let provider = double.provider(None);
    let sandbox = create(&*provider, "quiet").await;
    let command = Command::shell("wc -c; ls -A /tmp").with_stdin(Secret::new("the-secret-value"));
    let (exit, heard) = hear(&*provider, &sandbox, &command).await.unwrap();
    assert_eq!((exit.0, heard.text().trim()), (0, "16"), "and its file is gone");
    let asked = double.asked(None);
    assert!(!format!("{asked:?}").contains("the-secret-value"));
    let paths: Vec<_> = asked
        .iter()
        .filter(|one| one["op"] == "write")
        .map(|one| one["x-cwd"].clone())
        .collect();
    assert_eq!(paths, ["/"]);
}
