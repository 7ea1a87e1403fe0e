//! Asks a probe once: an answer within its timeout, and nothing left behind.
//!
//! The daemon resolves what a unit's `ProbeCheck` needs of its surroundings into a `Check` and awaits `run`; dropping the future gives
//! the probe up and closes or ends whatever it opened.

use super::journal::LogMatch;
use super::ports;
use crate::supervisor::Pid;
use crate::supervisor::event::{ExitStatus, ProbeResult};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest beginning of a response that is looked at for its status.
const HEAD: usize = 16 * 1024;
/// How much of a response is taken in, so that the server does not see its answer refused.
const BODY: usize = 1024 * 1024;
/// For how long.
const BODY_TIME: Duration = Duration::from_millis(500);

/// What a command that a probe ran came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecAnswer {
    /// How it ended.
    pub status: ExitStatus,
    /// The last line that it wrote, where it wrote one.
    pub last_line: Option<String>,
}

/// A command that runs: the host makes it when it spawns the process. **Dropping it ends the process's whole session**; that is what
/// happens at the probe's timeout. An error says why it could not be started.
pub type ExecFuture = Pin<Box<dyn Future<Output = Result<ExecAnswer, String>> + Send>>;

/// A probe with everything that it needs.
pub enum Check {
    /// A GET that answers 200 to 399, or only a connection.
    Http {
        /// `http://host:port/path`.
        url: String,
        /// Whether a connection is enough.
        connect_only: bool,
    },
    /// A connection to `host:port`.
    Tcp(String),
    /// A command that exits with 0.
    Exec(ExecFuture),
    /// A line that matched since the start of this run.
    Log(LogMatch),
    /// One of these processes listens on this port; on any where there is none.
    Listen {
        /// Which port.
        port: Option<u16>,
        /// The unit's processes.
        pids: Vec<Pid>,
    },
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, connect_only } => f
                .debug_struct("Http")
                .field("url", url)
                .field("connect_only", connect_only)
                .finish(),
            Self::Tcp(address) => f.debug_tuple("Tcp").field(address).finish(),
            Self::Exec(_) => f.write_str("Exec"),
            Self::Log(found) => f.debug_tuple("Log").field(found).finish(),
            Self::Listen { port, pids } => f.debug_struct("Listen").field("port", port).field("pids", pids).finish(),
        }
    }
}

/// Asks once. Answers when it knows, at the timeout at the latest.
pub async fn run(check: Check, timeout: Duration) -> ProbeResult {
    let nothing = match &check {
        Check::Log(_) => "no line has matched yet".to_owned(),
        Check::Http { .. } | Check::Tcp(_) | Check::Exec(_) | Check::Listen { .. } => {
            format!("no answer within {}", humane(timeout))
        }
    };
    match tokio::time::timeout(timeout, ask(check)).await {
        Ok(Ok(message)) => ProbeResult { passed: true, message },
        Ok(Err(message)) => ProbeResult { passed: false, message },
        Err(_) => ProbeResult {
            passed: false,
            message: nothing,
        },
    }
}

async fn ask(check: Check) -> Result<String, String> {
    match check {
        Check::Http { url, connect_only } => http(&url, connect_only).await,
        Check::Tcp(address) => {
            let stream = connect(&address).await?;
            drop(stream);
            Ok(format!("{address} accepts"))
        }
        Check::Exec(running) => exec(running).await,
        Check::Log(found) => {
            found.matched().await;
            Ok("a line matched".to_owned())
        }
        Check::Listen { port, pids } => listen(port, &pids),
    }
}

async fn http(url: &str, connect_only: bool) -> Result<String, String> {
    let (authority, path) = parse_url(url)?;
    let host_port = with_port(authority);
    if connect_only {
        drop(connect(&host_port).await?);
        return Ok(format!("{host_port} accepts"));
    }
    let stream = connect(&host_port).await?;
    let status = request(stream, authority, path).await?;
    let message = format!("GET {path} → {status}");
    if (200..400).contains(&status) { Ok(message) } else { Err(message) }
}

/// One GET to this address: the response's status.
pub(crate) async fn get(target: SocketAddr, host: &str, path: &str) -> Result<u16, String> {
    let stream = TcpStream::connect(target).await.map_err(|e| reason(&e))?;
    request(stream, host, path).await
}

async fn request(mut stream: TcpStream, host: &str, path: &str) -> Result<u16, String> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sandkeep-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|e| reason(&e))?;
    let mut text = Vec::new();
    let status = loop {
        if let Some(status) = status(&text)? {
            break status;
        }
        if text.len() >= HEAD {
            return Err("the answer is no HTTP".to_owned());
        }
        if stream.read_buf(&mut text).await.map_err(|e| reason(&e))? == 0 {
            return Err("the connection was closed before an answer".to_owned());
        }
    };
    let _ = tokio::time::timeout(BODY_TIME, swallow(&mut stream)).await;
    Ok(status)
}

async fn swallow(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let mut length = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        length += n;
        if length >= BODY {
            return;
        }
    }
}

/// The final status in the beginning of a response; `None` when more is needed. RFC 9112.
fn status(mut text: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let no_http = || Err("the answer is no HTTP".to_owned());
        let Some(end) = memchr::memchr(b'\n', text) else {
            let start = &text[..text.len().min(5)];
            return if b"HTTP/".starts_with(start) { Ok(None) } else { no_http() };
        };
        let line = String::from_utf8_lossy(&text[..end]);
        let mut words = line.split_ascii_whitespace();
        let version = words.next().is_some_and(|w| w.starts_with("HTTP/"));
        let code = words.next().and_then(|w| w.parse().ok()).filter(|c| (100..1000).contains(c));
        match (version, code) {
            (true, Some(code)) if code >= 200 || code == 101 => return Ok(Some(code)),
            (true, Some(_)) => {}
            _ => return no_http(),
        }
        // An interim response: the real one follows its empty line.
        let Some(next) = memchr::memmem::find(text, b"\r\n\r\n") else {
            return Ok(None);
        };
        text = &text[next + 4..];
        if text.is_empty() {
            return Ok(None);
        }
    }
}

fn parse_url(url: &str) -> Result<(&str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} is no http:// URL"))?;
    let rest = rest.split('#').next().unwrap_or(rest);
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let bad = |c: char| c.is_control() || c == ' ';
    if authority.is_empty() || url.contains(bad) || path.starts_with('?') {
        return Err(format!("{url} is no http:// URL"));
    }
    Ok((authority, if path.is_empty() { "/" } else { path }))
}

fn with_port(authority: &str) -> String {
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    if after_host.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    }
}

/// Connects to the first address that accepts.
async fn connect(host_port: &str) -> Result<TcpStream, String> {
    let mut last = format!("{host_port}: no address");
    for address in resolve(host_port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = format!("{address}: {}", reason(&e)),
        }
    }
    Err(last)
}

/// `localhost` is both loopback addresses, whatever the resolver thinks; other names are looked up.
async fn resolve(host_port: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host_port.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = host_port.rsplit_once(':').ok_or_else(|| format!("{host_port} has no port"))?;
    let port: u16 = port.parse().map_err(|_| format!("{host_port} has no valid port"))?;
    if host.eq_ignore_ascii_case("localhost") || host.is_empty() || host == "*" {
        let both = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
    }
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| format!("{host}: {}", reason(&e)))?;
    Ok(found.collect())
}

async fn exec(running: ExecFuture) -> Result<String, String> {
    let answer = running.await?;
    let line = answer.last_line.map(|l| format!(": {l}")).unwrap_or_default();
    match answer.status {
        ExitStatus::Code(0) => Ok(format!("exit code 0{line}")),
        ExitStatus::Code(code) => Err(format!("exit code {code}{line}")),
        ExitStatus::Signal { signal, .. } => Err(format!("killed by signal {signal}{line}")),
    }
}

fn listen(port: Option<u16>, pids: &[Pid]) -> Result<String, String> {
    let own = ports::listeners(pids);
    let wanted = own.iter().find(|l| port.is_none_or(|p| p == l.port));
    match (wanted, own.is_empty(), port) {
        (Some(listener), _, _) => Ok(format!("listens on {}", listener.socket())),
        (None, false, Some(port)) => Err(super::preview::elsewhere(&own, port).unwrap_or_default()),
        (None, _, Some(port)) => Err(format!("does not listen on port {port}")),
        (None, _, None) => Err("does not listen on any port".to_owned()),
    }
}

fn humane(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// Without the number that std adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_lowercase().collect::<String>() + chars.as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;
    use tokio::net::TcpListener;

    const PATIENT: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(200);

    async fn bind(address: &str) -> (TcpListener, String) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// Answers one request with these pieces, some time apart, then holds the connection as long as it is asked to.
    async fn serve(pieces: &'static [&'static str]) -> String {
        let (listener, address) = bind("127.0.0.1:0").await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /"));
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        address
    }

    async fn http_to(address: &str, timeout: Duration) -> ProbeResult {
        let url = format!("http://{address}/health?x=1");
        run(Check::Http { url, connect_only: false }, timeout).await
    }

    #[tokio::test]
    async fn http_passes_on_200_to_399_and_follows_nothing() {
        for (answer, passed) in [
            (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"][..], true),
            (&["HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"], true),
            (&["HTTP/1.0 399 Odd\r\n\r\n"], true),
            (&["HTTP/1.1 404 Not Found\r\n\r\n"], false),
            (&["HTTP/1.1 503 Busy\r\n\r\n"], false),
            (&["HT", "TP/1.1 2", "00 OK\r", "\n\r\n"], true),
            (&["HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"], true),
            (&["SSH-2.0-OpenSSH_9\r\n"], false),
            (&[], false),
        ] {
            let address = serve(answer).await;
            let result = http_to(&address, PATIENT).await;
            assert_eq!(result.passed, passed, "{answer:?}: {}", result.message);
        }
    }

    #[tokio::test]
    async fn messages_say_what_was_seen() {
        let address = serve(&["HTTP/1.1 503 Busy\r\n\r\n"]).await;
        assert_eq!(http_to(&address, PATIENT).await.message, "GET /health?x=1 → 503");
        let (listener, address) = bind("127.0.0.1:0").await;
        drop(listener);
        assert_eq!(http_to(&address, PATIENT).await.message, format!("{address}: connection refused"));
        assert_eq!(run(Check::Tcp("127.0.0.1".into()), PATIENT).await.message, "127.0.0.1 has no port");
    }

    #[tokio::test]
    async fn what_never_answers_or_drips_ends_at_the_timeout() {
        let (silent, address) = bind("127.0.0.1:0").await;
        let before = Instant::now();
        let result = http_to(&address, SHORT).await;
        assert_eq!((result.passed, result.message.as_str()), (false, "no answer within 200 ms"));
        assert!(before.elapsed() < PATIENT);
        let dripping = serve(&["H"; 10_000]).await;
        assert!(!http_to(&dripping, SHORT).await.passed);
        let endless = serve(&["HTTP/1.1 200 OK\r\n\r\n", "and so on, and so on, and so on"]).await;
        assert!(http_to(&endless, PATIENT).await.passed);
        drop(silent);
    }

    #[tokio::test]
    async fn a_connection_is_enough_where_only_that_is_asked() {
        let (listener, address) = bind("127.0.0.1:0").await;
        let connect = |connect_only| {
            let url = format!("http://{address}");
            run(Check::Http { url, connect_only }, SHORT)
        };
        assert!(connect(true).await.passed);
        assert!(!connect(false).await.passed);
        assert!(run(Check::Tcp(address.clone()), PATIENT).await.passed);
        drop(listener);
        assert!(!connect(true).await.passed);
        assert!(!run(Check::Tcp(address), PATIENT).await.passed);
    }

    #[tokio::test]
    async fn localhost_is_both_families() {
        if let Ok(listener) = TcpListener::bind("[::1]:0").await {
            let port = listener.local_addr().unwrap().port();
            assert!(run(Check::Tcp(format!("localhost:{port}")), PATIENT).await.passed);
            assert!(run(Check::Tcp(format!("[::1]:{port}")), PATIENT).await.passed);
        }
        let (listener, _) = bind("127.0.0.1:0").await;
        let port = listener.local_addr().unwrap().port();
        assert!(run(Check::Tcp(format!("LOCALHOST:{port}")), PATIENT).await.passed);
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_dropped() {
        struct Session(tokio::sync::oneshot::Sender<()>);
        let (ended, end) = tokio::sync::oneshot::channel();
        let session = Session(ended);
        let running = Box::pin(async move {
            let _session = &session.0;
            std::future::pending().await
        });
        assert!(!run(Check::Exec(running), SHORT).await.passed);
        assert!(end.await.is_err(), "its session was dropped");
        let answer = |status| ExecAnswer {
            status,
            last_line: Some("all well".to_owned()),
        };
        let done = run(Check::Exec(Box::pin(std::future::ready(Ok(answer(ExitStatus::Code(0)))))), PATIENT).await;
        assert_eq!((done.passed, done.message.as_str()), (true, "exit code 0: all well"));
        let failed = run(Check::Exec(Box::pin(std::future::ready(Ok(answer(ExitStatus::Code(3)))))), PATIENT).await;
        assert_eq!((failed.passed, failed.message.as_str()), (false, "exit code 3: all well"));
    }

    #[tokio::test]
    async fn listening_is_seen_and_said() {
        let pids = vec![Pid::try_from(std::process::id()).unwrap()];
        let (_listener, address) = bind("127.0.0.1:0").await;
        let port = address.rsplit_once(':').unwrap().1.parse().ok();
        let ask = |port, pids: &[Pid]| Check::Listen { port, pids: pids.to_vec() };
        let found = run(ask(port, &pids), PATIENT).await;
        assert_eq!((found.passed, found.message), (true, format!("listens on {address}")));
        assert!(run(ask(None, &pids), PATIENT).await.passed);
        assert!(run(ask(Some(1), &pids), PATIENT).await.message.starts_with("listens on "));
        assert_eq!(
            run(ask(port, &[]), PATIENT).await.message,
            format!("does not listen on port {}", port.unwrap())
        );
        assert_eq!(run(ask(None, &[]), PATIENT).await.message, "does not listen on any port");
    }

    #[tokio::test]
    async fn a_log_probe_waits_for_its_line() {
        let waiting = run(Check::Log(LogMatch::default()), SHORT).await;
        assert_eq!((waiting.passed, waiting.message.as_str()), (false, "no line has matched yet"));
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(parse_url("http://localhost:3000"), Ok(("localhost:3000", "/")));
        assert_eq!(parse_url("http://[::1]:3000/a?b#c"), Ok(("[::1]:3000", "/a?b")));
        for bad in ["https://x", "http://", "http:///x", "x", "http://a b/", "http://a/\r\nX: y"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        assert_eq!(with_port("[::1]"), "[::1]:80");
        assert_eq!(with_port("localhost:3000"), "localhost:3000");
    }

    proptest! {
        #[test]
        fn any_answer_is_taken_or_refused(text: Vec<u8>) {
            let _ = status(&text);
            let _ = status(&[b"HTTP/1.1 100\r\n", &text[..]].concat());
        }

        #[test]
        fn any_url_is_taken_or_refused(url in "(http://)?\\PC{0,40}") {
            if let Ok((authority, path)) = parse_url(&url) {
                let _ = with_port(authority);
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
