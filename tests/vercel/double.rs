//! The double as a process, and its door for tests.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A running double; it ends with this value, and every sandbox with it.
pub(crate) struct Double {
    child: Child,
    /// The API's base URL.
    pub(crate) api: String,
    /// The admin door's base URL.
    pub(crate) admin: String,
}

impl Double {
    pub(crate) fn start() -> Self {
        let sandkeep = std::path::Path::new(env!("CARGO_BIN_EXE_sandkeep"));
        let program = sandkeep.parent().expect("a directory").join("examples/vercel");
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the double is built: cargo build --example vercel");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it is");
        let (api, admin) = line.trim().split_once(" admin=").expect("both addresses");
        Self {
            child,
            api: api.trim_start_matches("api=").to_owned(),
            admin: admin.to_owned(),
        }
    }

    #[expect(dead_code, reason = "for the tests of our own client")]
    /// Asks the admin door; `Null` where it has nothing to say.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let address = self.admin.trim_start_matches("http://");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(address).expect("the double listens");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it hears");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 20"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_default()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        // The end of its standard input ends it, in order: it takes its sandboxes down first.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
