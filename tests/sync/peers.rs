//! Second voices: official clients on the R2 double, so that it counts, and another server under our client.

use crate::server::{BUCKET, ID, R2, SECRET};
use crate::tree::{Sandbox, differences, text, tree};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn aws(r2: &R2, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("aws");
    command
        .args(["--endpoint-url", &r2.endpoint(), "--region", "auto"])
        .args(arguments)
        .env("HOME", home)
        .env("AWS_ACCESS_KEY_ID", ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        .stdin(Stdio::null());
    command
}

fn rclone(r2: &R2, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("rclone");
    command
        .args(arguments)
        .env("HOME", home)
        .env("RCLONE_CONFIG_R2_TYPE", "s3")
        .env("RCLONE_CONFIG_R2_PROVIDER", "Cloudflare")
        .env("RCLONE_CONFIG_R2_REGION", "auto")
        .env("RCLONE_CONFIG_R2_NO_CHECK_BUCKET", "true")
        .env("RCLONE_CONFIG_R2_ENDPOINT", r2.endpoint())
        .env("RCLONE_CONFIG_R2_ACCESS_KEY_ID", ID)
        .env("RCLONE_CONFIG_R2_SECRET_ACCESS_KEY", SECRET)
        .stdin(Stdio::null());
    command
}

fn project(sandbox: &Sandbox) {
    sandbox.write("package.json", "{}");
    sandbox.write("src/[id]/page ü.tsx", "x");
    sandbox.write("empty", "");
    sandbox.write("big.bin", vec![3; 20 << 20]);
}

#[test]
fn official_clients_read_what_we_wrote_and_we_what_they_wrote() {
    skip!("needs-peers");
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    project(&a);
    a.flush();
    let place = format!("s3://{BUCKET}/p1/");
    for (name, mut client) in [
        (
            "aws",
            aws(&r2, a.home.path(), &["s3", "sync", "--exclude", ".sandkeep/*", &place, "."]),
        ),
        (
            "rclone",
            rclone(
                &r2,
                a.home.path(),
                &["sync", "--exclude", ".sandkeep/**", &format!("r2:{BUCKET}/p1"), "."],
            ),
        ),
    ] {
        let target = tempfile::tempdir().expect("a directory");
        run(client.current_dir(target.path()));
        assert_eq!(differences(&tree(&a.root), &tree(target.path())), Vec::<String>::new(), "{name}");
    }
    for (project_id, mut client) in [
        ("p2", aws(&r2, a.home.path(), &["s3", "sync", ".", &format!("s3://{BUCKET}/p2/")])),
        ("p3", rclone(&r2, a.home.path(), &["sync", ".", &format!("r2:{BUCKET}/p3")])),
    ] {
        run(client.current_dir(&a.root));
        let mut b = Sandbox::on(&r2);
        b.project = project_id.into();
        b.restore();
        assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new(), "{project_id}");
    }
}

#[test]
fn the_double_keeps_r2s_rules_against_an_official_client() {
    skip!("needs-peers");
    let r2 = R2::start();
    let home = tempfile::tempdir().expect("a directory");
    let body = home.path().join("body");
    std::fs::write(&body, "x").expect("written");
    let body = body.to_string_lossy();
    let put = |extra: &[&str]| {
        aws(
            &r2,
            home.path(),
            &[&["s3api", "put-object", "--bucket", BUCKET, "--key", "k", "--body", &body], extra].concat(),
        )
        .output()
    };
    let refused = |extra: &[&str], code: &str| {
        let output = put(extra).expect("it is installed");
        assert!(
            !output.status.success() && text(&output.stderr).contains(code),
            "{extra:?}: {}",
            text(&output.stderr)
        );
    };
    assert!(put(&["--if-none-match", "*"]).expect("it is installed").status.success());
    refused(&["--if-none-match", "*"], "PreconditionFailed");
    refused(&["--if-match", "\"0123\""], "PreconditionFailed");
    refused(&["--content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="], "BadDigest");
    let wrong = aws(&r2, home.path(), &["s3api", "head-object", "--bucket", BUCKET, "--key", "k"])
        .env("AWS_SECRET_ACCESS_KEY", "no")
        .output();
    assert!(!wrong.expect("it is installed").status.success());
}

/// SeaweedFS; it ends with this value.
struct Weed(Child);

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Weed {
    /// A server of which every door is named: those that it opens unasked would meet other servers of this machine.
    fn start(home: &Path) -> (Self, String) {
        // Freed again at once; another process could take them, which ends the server and is told by `serves`.
        let ports: Vec<_> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").expect("bound")).collect();
        let ports: Vec<_> = ports
            .into_iter()
            .map(|listener| listener.local_addr().expect("bound").port())
            .collect();
        let log = std::fs::File::create(home.join("log")).expect("created");
        let mut command = Command::new("weed");
        command
            .args(["server", "-ip=127.0.0.1", "-s3", "-volume.max=50", "-master.volumeSizeLimitMB=64"])
            .args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg(format!("-dir={}", home.display()))
            .arg(format!("-s3.config={}", home.join("s3.json").display()));
        let doors = ["s3", "filer", "master", "volume"]
            .into_iter()
            .flat_map(|part| [format!("{part}.port"), format!("{part}.port.grpc")]);
        for (door, port) in doors.zip(&ports) {
            command.arg(format!("-{door}={port}"));
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("it is installed");
        (Self(child), format!("http://127.0.0.1:{}", ports[0]))
    }

    /// Waits until a bucket could be made. False if the server ended, or let half a minute pass.
    fn serves(&mut self, endpoint: &str, home: &Path) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) && matches!(self.0.try_wait(), Ok(None)) {
            let made = Command::new("aws")
                .args(["--endpoint-url", endpoint, "--region", "us-east-1", "--cli-connect-timeout", "5"])
                .args(["--cli-read-timeout", "10", "s3api", "create-bucket", "--bucket", BUCKET])
                .env("AWS_ACCESS_KEY_ID", ID)
                .env("AWS_SECRET_ACCESS_KEY", SECRET)
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .env("AWS_MAX_ATTEMPTS", "1")
                .env("HOME", home)
                .output()
                .expect("it is installed");
            if made.status.success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        false
    }
}

#[tokio::test]
async fn the_suite_holds_on_seaweedfs_too() {
    skip!("needs-peers");
    let identities = r#"{"identities":[{"name":"t","credentials":[{"accessKey":"test-id","secretKey":"test-secret"}],"actions":["Admin","Read","Write","List"]}]}"#;
    let begun = Instant::now();
    loop {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("s3.json"), identities).expect("written");
        let (mut weed, endpoint) = Weed::start(home.path());
        if weed.serves(&endpoint, home.path()) {
            crate::conformance::on_a_third_server(&endpoint, BUCKET, ID, SECRET).await;
            return;
        }
        let log = std::fs::read_to_string(home.path().join("log")).unwrap_or_default();
        assert!(begun.elapsed() < crate::tree::DEADLINE, "SeaweedFS does not serve:\n{log}");
    }
}
