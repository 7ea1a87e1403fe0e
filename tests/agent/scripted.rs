//! What claude never prints, and has to do no harm if it does: a script stands in for it.

use crate::support::Sandbox;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

const SCRIPT: &str = r#"#!/bin/bash
case "$*" in *--version*) echo "2.1.330 (a script)"; exit;; esac
while read -r line; do
    id=$(sed -E 's/.*"uuid":"([^"]*)".*/\1/' <<<"$line")
    echo 'not json'; printf '\xff\xfe\n'; echo '[1]'; echo
    echo '{"type":"assistant","message":3}'
    printf '{"type":"assistant","message":{"content":[{"type":"text","text":"'; head -c 20971520 /dev/zero | tr '\0' x; echo '"}]}}'
    head -c 40000000 /dev/zero | tr '\0' y; echo
    printf '{"type":"result","subtype":"success","is_error":false,"result":"ok","user_message_uuid":"%s"}\n' "$id"
done
"#;

#[test]
fn malformed_and_huge_lines_do_no_harm() {
    let sandbox = Sandbox::prepare(json!({}));
    let script = sandbox.path("claude");
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut sandbox = sandbox;
    sandbox.settings = json!({"command": script});
    sandbox.up();
    let id = sandbox.send("x");
    assert_eq!(sandbox.end_of(&id)["text"], "ok");
    let malformed: Vec<_> = sandbox
        .events(&id)
        .iter()
        .filter(|event| event["data"]["malformed_line"].is_string())
        .map(|event| event["data"]["bytes"].clone())
        .collect();
    assert_eq!(malformed.len(), 4, "{malformed:?}");
    assert_eq!(malformed[3], 40_000_001);
    let huge = sandbox.event(&id, "message", |data| data.to_string().contains("bytes left out"));
    assert!(huge.to_string().len() < 300_000);
    assert_eq!(sandbox.ask("y")["text"], "ok", "and the next prompt works as well");
}
