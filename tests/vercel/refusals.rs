//! What cannot work says so in one line, with a code that stays, and leaves nothing.

use crate::double::Double;
use sandkeep::sandbox::Code;
use sandkeep::sandbox::provider::{Settings, Wanted, vercel};
use serde_json::json;
use std::time::Duration;

fn wanted(timeout: Option<Duration>) -> Wanted {
    Wanted {
        name: "refused".to_owned(),
        ports: vec![3000],
        timeout,
    }
}

#[tokio::test]
async fn each_refusal_has_its_code_and_a_hint() {
    skip!("needs-sandbox-namespaces");
    let double = Double::start();
    let provider = double.provider(None);
    for (status, code) in [
        (402, Code::PlanLimit),
        (403, Code::Unauthorized),
        (400, Code::BadRequest),
        (404, Code::Unauthorized),
    ] {
        double.order(&json!([{"on": "create", "do": "status", "status": status}]));
        let fault = provider.create(&wanted(None)).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(!fault.message.contains('\n') && fault.hint.is_some(), "{fault}");
        assert_eq!(double.asked(Some("create")).len(), 1, "{status} is no reason to ask again");
    }
    double.order(&json!([{"on": "create", "do": "status", "status": 500, "times": 9}]));
    let fault = provider.create(&wanted(None)).await.unwrap_err();
    assert_eq!(fault.code, Code::ProviderFailed, "{fault}");
    double.order(&json!([]));
    let fault = provider.create(&wanted(Some(Duration::from_secs(48 * 3600)))).await.unwrap_err();
    assert_eq!(fault.code, Code::PlanLimit, "{fault}");
    assert!(double.sandboxes().is_empty());
}

#[tokio::test]
async fn a_wrong_token_a_wrong_project_and_nobody_there() {
    let double = Double::start();
    let fault = double
        .provider_with(None, &[("VERCEL_TOKEN", "wrong")])
        .create(&wanted(None))
        .await
        .unwrap_err();
    assert_eq!(fault.code, Code::Unauthorized);
    assert!(fault.hint.unwrap().contains("revoked"));
    assert!(!fault.message.contains("wrong"), "the token is not shown");

    let open = |team: &str, project: &str, api: &str| {
        let settings = vercel::Settings {
            team: Some(team.to_owned()),
            project: Some(project.to_owned()),
            api: Some(api.to_owned()),
            runtime: None,
        };
        Settings::Vercel(settings).open(&|name: &str| (name == "VERCEL_TOKEN").then(|| "token".to_owned()))
    };
    for (team, project) in [("team_other", "prj_test"), ("team_test", "prj_other")] {
        let fault = open(team, project, &double.api).unwrap().create(&wanted(None)).await.unwrap_err();
        assert_eq!(fault.code, Code::Unauthorized, "{fault}");
    }
    let fault = open("t", "p", "http://127.0.0.1:1").unwrap().list().await.unwrap_err();
    assert_eq!(fault.code, Code::Unreachable, "{fault}");
    assert_eq!(open("t", "p", "no address").unwrap_err().code, Code::BadRequest);
    let none = Settings::Vercel(vercel::Settings::default()).open(&|_| None).unwrap_err();
    assert_eq!(none.code, Code::Unauthorized);
}
