//! The doors, over real sockets, and who may do what.

use crate::sandbox::{Sandbox, free_port};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

fn request(port: u16, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {text:?}"))
        .parse()
        .unwrap();
    (code, body.to_owned())
}

#[test]
fn health_is_open_and_the_rest_is_not() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = '127.0.0.1:{port}'\ntoken = 'a-token-of-my-own'\n[unit.a]\nexec = 'exec sleep 1000'\n"
    ));
    sandbox.up().expect(0);
    let readyz = request(port, "GET", "/readyz", "");
    assert_eq!(readyz.0, 200);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&readyz.1).unwrap(),
        serde_json::json!({"ready": true, "units": {"a": "ready"}})
    );
    assert_eq!(request(port, "GET", "/livez", "").0, 200);
    assert_eq!(request(port, "GET", "/healthz", "").0, 200);
    assert_eq!(request(port, "GET", "/v1/status", "").0, 401);
    assert_eq!(request(port, "GET", "/v1/status", "Authorization: Bearer wrong\r\n").0, 401);
    assert_eq!(request(port, "POST", "/v1/units/a/stop", "Content-Length: 0\r\n").0, 401);
    let token = "Authorization: Bearer a-token-of-my-own\r\n";
    let (code, body) = request(port, "GET", "/v1/status", token);
    assert_eq!((code, body.contains("\"units\"")), (200, true));
    assert_eq!(
        request(port, "POST", "/v1/units/a/stop", &format!("{token}Content-Length: 0\r\n")).0,
        200
    );
    assert_eq!(request(port, "GET", "/readyz", "").0, 503);
    assert_eq!(request(port, "GET", "/v1/units/nobody", token).0, 404);
    assert_eq!(request(port, "GET", "/no/such/route", token).0, 404);
    sandbox.down();
}

#[test]
fn without_a_token_one_is_made() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = '127.0.0.1:{port}'\n[unit.a]\nexec = 'exec sleep 1000'\n"
    ));
    let up = sandbox.up().expect(0);
    let path = sandbox.runtime_dir().join("default/token");
    let token = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(token.len() >= 32 && !up.stdout.contains(&token) && !up.stderr.contains(&token));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(
        request(port, "GET", "/v1/status", &format!("Authorization: Bearer {token}\r\n")).0,
        200
    );
    sandbox.down();
}

#[test]
fn processes_of_a_unit_may_do_what_the_config_allows() {
    let sandkeep = crate::sandbox::binary().display().to_string();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[control]\nallow = {{ friend = ['status', 'restart:dev'] }}\n[unit.dev]\nexec = 'exec sleep 1000'\n\
         [unit.friend]\ntype = 'oneshot'\nafter = ['dev']\nexec = '{sandkeep} status > /dev/null; echo status $?; {sandkeep} restart dev; echo restart $?; {sandkeep} stop dev; echo stop $?'\n\
         [unit.stranger]\ntype = 'oneshot'\nafter = ['friend']\nexec = '{sandkeep} status > /dev/null; echo status $?; {sandkeep} restart dev; echo restart $?'\n"
    ));
    sandbox.up().expect(0);
    let friend = sandbox.run(&["logs", "friend"]).expect(0).stdout;
    for expected in ["status 0", "restart 0", "stop 1"] {
        assert!(friend.contains(expected), "{expected}: {friend}");
    }
    let stranger = sandbox.run(&["logs", "stranger"]).expect(0).stdout;
    for expected in ["status 1", "restart 1"] {
        assert!(stranger.contains(expected), "{expected}: {stranger}");
    }
    assert_eq!(sandbox.unit("dev")["ready"], true);
    sandbox.down();
}

#[test]
fn a_port_in_use_is_named_and_nothing_starts() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = '127.0.0.1:{port}'\n[unit.a]\nexec = 'touch started; exec sleep 1000'\n"
    ));
    let answer = sandbox.up().expect(1);
    assert!(
        answer.stderr.contains(&port.to_string()) && answer.stderr.contains("hint"),
        "{answer:#?}"
    );
    assert!(!sandbox.project().join("started").exists());
    sandbox.nothing_left();
}
