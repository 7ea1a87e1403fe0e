//! The provider `exec` over a real sshd, which runs here as an ordinary process on a port of its own.

use crate::contract::{Kind, holds};
use crate::support::{Home, eventually, free_port, get, served};
use sandkeep::sandbox::provider::exec::Exec;
use sandkeep::sandbox::provider::{Command as Run, Provider, Wanted, hear};
use sandkeep::sandbox::{Code, Fault};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Sshd {
    child: Child,
    via: String,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

impl Sshd {
    /// Whoever logs in finds a home of its own in this directory.
    fn start(dir: &Path) -> Self {
        let port = free_port();
        let file = |name: &str| dir.join(name).display().to_string();
        for key in ["host_key", "user_key"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
        }
        fs::copy(dir.join("user_key.pub"), dir.join("authorized_keys")).unwrap();
        fs::create_dir_all(dir.join("home")).unwrap();
        let path = std::env::var("PATH").unwrap();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nMaxSessions 100\n\
             SetEnv HOME={} PATH={path} SANDKEEP_RUNTIME_DIR={} SANDKEEP_STATE_DIR={}\n",
            file("host_key"),
            file("authorized_keys"),
            file("home"),
            file("there-run"),
            file("there-state"),
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        if nix::unistd::geteuid().is_root() {
            // Where sshd gives up its privileges.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let log = fs::File::create(dir.join("sshd.log")).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &file("sshd_config")])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -F none";
        let via = format!("ssh -p {port} -i {} {options} {user}@127.0.0.1", file("user_key"));
        Self { child, via }
    }
}

#[tokio::test]
async fn ssh_holds_the_contract() {
    let home = Home::new();
    let sshd = Sshd::start(home.path());
    holds(&Exec::new(&sshd.via, None).unwrap(), Kind { makes: false }).await;
}

#[test]
fn a_project_over_ssh_from_its_repository_to_its_preview() {
    let home = Home::new();
    let sshd = Sshd::start(home.path());
    let url = home.repository("app", &[("index.html", "over ssh\n")]);
    let port = free_port();
    let (dev, port_text) = (served(port), port.to_string());
    let start = |more: &[&str]| {
        let head = [
            "start",
            "--repo",
            &url,
            "--via",
            &sshd.via,
            "--install",
            "",
            "--dev",
            &dev,
            "--port",
            &port_text,
            "--no-claude",
        ];
        home.run(&[&head, more].concat())
    };
    assert!(
        home.start_and_kill_after(
            "upload",
            &[
                &["start", "--repo", &url, "--via", &sshd.via],
                &["--install", "", "--dev", &dev, "--port", &port_text, "--no-claude"][..]
            ]
            .concat()
        )
    );
    let created = start(&["--json"]).expect(0).json();
    assert_eq!(
        (&created["action"], &created["provider"], &created["url"]),
        (&"created".into(), &"exec".into(), &serde_json::Value::Null)
    );
    assert_eq!(created["directory"], home.path().join("home/app").display().to_string());
    assert_eq!(created["steps"][2]["skipped"], false);
    assert!(home.path().join("home/.sandkeep/app/sandkeep").exists());
    assert_eq!(get(&format!("http://127.0.0.1:{port}/index.html")), "over ssh\n");
    let url_template = ["--url", "http://127.0.0.1:{port}", "--json"];
    assert_eq!(
        start(&url_template).expect(2).json()["error"]["code"],
        "bad-request",
        "another provider of that name"
    );
    let again = start(&["--json"]).expect(0).json();
    assert_eq!((&again["action"], &again["pid"]), (&"running".into(), &created["pid"]));
    home.run(&["status", "app"]).expect(0);
    assert_eq!(home.run(&["exec", "app", "--", "cat", "index.html"]).expect(0).stdout, "over ssh\n");
    assert!(home.run(&["stop", "app", "--remove"]).expect(0).stdout.contains("drained"));
    assert!(
        !home.path().join("home/app").exists() && !home.path().join("home/.sandkeep").exists(),
        "what we made is gone"
    );
    assert!(get(&format!("http://127.0.0.1:{port}/")).is_empty());
    home.run(&["status", "app"]).expect(4);
}

#[tokio::test]
async fn a_host_that_is_not_there_and_a_key_that_is_not_taken() {
    let home = Home::new();
    let sshd = Sshd::start(home.path());
    let wanted = Wanted {
        name: "a".to_owned(),
        ports: Vec::new(),
        timeout: None,
    };
    let refused = sshd.via.replace("user_key", "host_key");
    let nobody = format!("ssh -o BatchMode=yes -F none -p {} 127.0.0.1", free_port());
    for (via, code) in [(refused, Code::Unauthorized), (nobody, Code::Unreachable)] {
        let fault: Fault = Exec::new(&via, None).unwrap().create(&wanted).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
    }
}

/// A connection that breaks while a command runs is neither its success nor its failure.
#[tokio::test]
async fn a_connection_that_breaks_is_told_from_a_command_that_fails() {
    let wanted = Wanted {
        name: "a".to_owned(),
        ports: Vec::new(),
        timeout: None,
    };
    let provider = Exec::new("timeout -s KILL 2 env --", None).unwrap();
    let sandbox = provider.create(&wanted).await.unwrap();
    let fault = hear(&provider, &sandbox, &Run::shell("exec sleep 6")).await.unwrap_err();
    assert_eq!(fault.code, Code::Lost);
    let (exit, _) = hear(&provider, &sandbox, &Run::shell("exit 137")).await.unwrap();
    assert_eq!(exit.0, 137);
}
