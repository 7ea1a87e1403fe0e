//! The R2 double as a process, and a stranger's view of what is in it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

pub(crate) const ID: &str = "test-id";
pub(crate) const SECRET: &str = "test-secret";
pub(crate) const BUCKET: &str = "bucket";

/// An object as the admin door describes it.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Object {
    pub(crate) sha256: String,
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// A running server; it ends with this value.
pub(crate) struct R2 {
    child: Child,
    pub(crate) s3: String,
    admin: String,
}

impl R2 {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(["--bucket", BUCKET, "--access-key", ID, "--secret-key", SECRET])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server is built: cargo build --example r2");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it is");
        let (s3, admin) = line.trim().split_once(" admin=").expect("both addresses");
        Self {
            child,
            s3: s3.trim_start_matches("s3=").to_owned(),
            admin: admin.to_owned(),
        }
    }

    /// The store's address below a prefix.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://{}&region=auto", self.s3)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.s3)
    }

    /// Everything in the bucket.
    pub(crate) fn objects(&self) -> BTreeMap<String, Object> {
        serde_json::from_slice(&self.ask("GET", "/objects", b"").1).expect("a list")
    }

    /// The user's objects of a project, without what is sandkeep's own.
    pub(crate) fn files(&self, prefix: &str) -> BTreeMap<String, Object> {
        let own = self
            .objects()
            .into_iter()
            .filter_map(|(key, object)| Some((key.strip_prefix(prefix)?.to_owned(), object)));
        own.filter(|(key, _)| !key.starts_with(".sandkeep/")).collect()
    }

    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        let (status, body) = self.ask("GET", &format!("/objects/{}", encode(key)), b"");
        (status == 200).then_some(body)
    }

    pub(crate) fn write(&self, key: &str, body: &[u8]) {
        assert_eq!(self.ask("PUT", &format!("/objects/{}", encode(key)), body).0, 200);
    }

    pub(crate) fn remove(&self, key: &str) {
        self.ask("DELETE", &format!("/objects/{}", encode(key)), b"");
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        serde_json::from_slice(&self.ask("GET", "/counts", b"").1).expect("counts")
    }

    pub(crate) fn forget_counts(&self) {
        self.ask("DELETE", "/counts", b"");
    }

    /// Orders faults: `[{"operation":"PutObject","kind":"status:503","count":3}]`.
    pub(crate) fn faults(&self, orders: &str) {
        assert_eq!(self.ask("PUT", "/faults", orders.as_bytes()).0, 200, "{orders}");
    }

    pub(crate) fn clock_ahead(&self, seconds: i64) {
        assert_eq!(self.ask("PUT", "/clock", seconds.to_string().as_bytes()).0, 200);
    }

    /// Requests need one of these session tokens from now on.
    pub(crate) fn accept_tokens(&self, tokens: &[&str]) {
        let tokens = serde_json::to_vec(tokens).expect("JSON");
        assert_eq!(self.ask("PUT", "/tokens", &tokens).0, 200);
    }

    /// Every session token that was seen.
    pub(crate) fn seen_tokens(&self) -> Vec<String> {
        serde_json::from_slice(&self.ask("GET", "/tokens", b"").1).expect("a list")
    }

    /// Keys and listings have to begin with this from now on.
    pub(crate) fn allow_below(&self, prefix: &str) {
        assert_eq!(self.ask("PUT", "/prefix", prefix.as_bytes()).0, 200);
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin door is open");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(body).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer[end + 4..].to_vec())
    }
}

impl Drop for R2 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encode(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~/".contains(&byte);
    key.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Where cargo puts examples.
fn program() -> std::path::PathBuf {
    let sandkeep = std::path::Path::new(env!("CARGO_BIN_EXE_sandkeep"));
    sandkeep.parent().expect("a directory").join("examples/r2")
}
