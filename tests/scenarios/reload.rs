//! Reload by difference.

use crate::sandbox::Sandbox;

const BASE: &str = "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n[unit.b]\nexec = 'exec sleep 1001'\n";

#[test]
fn only_what_changed_is_restarted() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    let (a, b) = (sandbox.pid("a"), sandbox.pid("b"));
    sandbox.write_config(
        &BASE
            .replace("1001", "1002")
            .replace("[unit.a]", "[unit.a]\ndescription = 'another'\nstop_timeout = '3s'"),
    );
    sandbox.run(&["reload"]).expect(0);
    let unit = sandbox.until_unit("b", "another process", |unit| {
        unit["pid"].is_i64() && unit["pid"] != b && unit["ready"] == true
    });
    assert_ne!(unit["pid"], b);
    assert_eq!(sandbox.pid("a"), a, "description and timeouts apply live");
    sandbox.down();
}

#[test]
fn removed_units_stop_and_stopped_units_stay_stopped() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    sandbox.write_config("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1003'\n");
    sandbox.run(&["reload"]).expect(0);
    sandbox.eventually("b is gone", || sandbox.status()["units"].as_array().unwrap().len() == 1);
    assert_eq!(sandbox.unit("a")["sub_state"], "dead");
    sandbox.eventually("b's process is gone", || {
        !sandbox.processes().iter().any(|(_, line)| line.contains("1001"))
    });
    sandbox.down();
}

#[test]
fn an_invalid_file_changes_nothing() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    let a = sandbox.pid("a");
    sandbox.write_config("[unit.a]\nexce = 'exec sleep 1000'\n");
    let answer = sandbox.run(&["reload"]).expect(2);
    assert!(answer.stderr.contains("exce"), "{answer:#?}");
    assert_eq!(sandbox.pid("a"), a);
    sandbox.down();
}

#[test]
fn a_changed_root_is_refused() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    sandbox.write_config(&format!("[project]\nroot = '..'\n{BASE}"));
    let answer = sandbox.run(&["reload"]).expect(1);
    assert!(answer.stderr.contains("root"), "{answer:#?}");
    sandbox.down();
}

#[test]
fn the_health_endpoint_moves() {
    let port = crate::sandbox::free_port();
    let open = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let config = |port: u16| format!("[health]\nlisten = '127.0.0.1:{port}'\n[unit.a]\nexec = 'exec sleep 1000'\n");
    let sandbox = Sandbox::new(&config(port));
    sandbox.up().expect(0);
    assert!(open(port));
    let other = crate::sandbox::free_port();
    sandbox.write_config(&config(other));
    sandbox.run(&["reload"]).expect(0);
    sandbox.eventually("it listens there alone", || open(other) && !open(port));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    sandbox.write_config(&config(taken.local_addr().unwrap().port()));
    sandbox.run(&["reload"]).expect(0);
    assert!(open(other), "stays where it was");
    let events = sandbox.run(&["events"]).expect(0).stdout;
    assert!(events.contains("the health endpoint stays where it was"), "{events}");
    sandbox.down();
}

#[test]
fn the_health_endpoint_moves_to_all_addresses_of_its_port_and_back() {
    let port = crate::sandbox::free_port();
    // Who listens on 127.0.0.1 alone is not to be had on 127.0.0.2.
    let open = |address: &str| std::net::TcpStream::connect((address, port)).is_ok();
    let config =
        |address: &str| format!("[health]\nlisten = '{address}:{port}'\ntoken = 'a-token-of-my-own'\n[unit.a]\nexec = 'exec sleep 1000'\n");
    let sandbox = Sandbox::new(&config("127.0.0.1"));
    sandbox.up().expect(0);
    assert!(open("127.0.0.1") && !open("127.0.0.2"));
    let reload = |address: &str| {
        sandbox.write_config(&config(address));
        sandbox.run(&["reload"]).expect(0);
    };
    reload("0.0.0.0");
    sandbox.eventually("it listens on all", || open("127.0.0.1") && open("127.0.0.2"));
    reload("127.0.0.1");
    sandbox.eventually("on one again", || open("127.0.0.1") && !open("127.0.0.2"));
    let taken = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
    reload("0.0.0.0");
    let answers = || {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let mut answer = String::new();
        std::io::Write::write_all(&mut stream, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        std::io::Read::read_to_string(&mut stream, &mut answer).is_ok_and(|_| answer.starts_with("HTTP/1.1 200"))
    };
    sandbox.eventually("it answers where it was", answers);
    let events = sandbox.run(&["events"]).expect(0).stdout;
    assert!(events.contains("the health endpoint stays where it was"), "{events}");
    drop(taken);
    sandbox.down();
}
