//! What a person would see who opened the preview: decided by who owns the port, where it is bound, and what one GET says.
//!
//! `decide` is pure; `Watcher` gathers the facts, and asks a dev server that has answered once no more than it must: it renders the
//! page at every GET.

use super::ports::{self, Listener};
use super::probe;
use crate::supervisor::{Invocation, Pid};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How long one GET may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one GET to the next while there was no good answer.
const AGAIN: Duration = Duration::from_secs(1);

/// `preview` in the status document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// What is to be seen.
    pub state: PreviewState,
    /// The port to open.
    pub port: Option<u16>,
    /// Why it is not ready, and what to do.
    pub reason: Option<String>,
}

/// What is to be seen at the preview's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// The page.
    Ready,
    /// Nothing yet: it starts, compiles, or answers with an error.
    Compiling,
    /// Nothing from outside: it listens on a loopback address alone.
    LoopbackOnly,
    /// Someone else's page.
    WrongOwner,
    /// Nothing: it listens on another port.
    PortDrift,
    /// Nothing: it has crashed.
    Crashed,
    /// Nothing is meant to be there.
    Off,
}

/// How the dev unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevState {
    /// There is none, or it was stopped or skipped.
    Off,
    /// It waits for what it requires, or starts.
    Starting(String),
    /// Its main process runs.
    Running,
    /// It failed, or waits to be started again: why.
    Crashed(String),
}

/// What one GET said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response with this status.
    Status(u16),
    /// None: refused, reset, too late.
    None(String),
}

impl Answer {
    /// Whether a browser shows something: every status under 500.
    pub fn is_page(&self) -> bool {
        matches!(self, Self::Status(status) if *status < 500)
    }
}

/// Someone who is not of the dev unit and listens on its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Where; its pid is 0 where it may not be looked at.
    pub listener: Listener,
    /// Who, for people: `agent › bash › npm run dev`.
    pub lineage: String,
}

/// All that decides.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The dev unit's name.
    pub unit: String,
    /// Its command, to know which flag to name.
    pub command: String,
    /// How it is.
    pub state: DevState,
    /// The port that the preview is expected on.
    pub expected: Option<u16>,
    /// What its processes listen on.
    pub own: Vec<Listener>,
    /// Who else listens on the expected port.
    pub strangers: Vec<Stranger>,
    /// What a GET to the port said; `None`: it was not asked.
    pub answer: Option<Answer>,
}

/// Decides what is to be seen.
pub fn decide(facts: &Facts) -> Preview {
    let unit = &facts.unit;
    let port = facts.expected.or_else(|| facts.own.first().map(|l| l.port));
    let preview = |state, reason: Option<String>| Preview { state, port, reason };
    if facts.state == DevState::Off {
        return preview(PreviewState::Off, None);
    }
    let here: Vec<&Listener> = facts.own.iter().filter(|l| Some(l.port) == port).collect();
    if let Some(stranger) = facts.strangers.iter().find(|s| hides(s, &here)) {
        return taken(facts, &here, stranger, port);
    }
    match &facts.state {
        DevState::Crashed(why) => return preview(PreviewState::Crashed, Some(why.clone())),
        DevState::Starting(why) if here.is_empty() => return preview(PreviewState::Compiling, Some(why.clone())),
        DevState::Off | DevState::Starting(_) | DevState::Running => {}
    }
    if here.is_empty() {
        return match (facts.own.first(), port) {
            (Some(other), Some(port)) => preview(PreviewState::PortDrift, Some(drift(facts, other.port, port))),
            _ => preview(PreviewState::Compiling, Some(format!("{unit} does not listen on any port yet"))),
        };
    }
    if here.iter().all(|l| l.is_loopback()) {
        return preview(PreviewState::LoopbackOnly, Some(loopback(facts, &here)));
    }
    match &facts.answer {
        Some(answer) if answer.is_page() => preview(PreviewState::Ready, None),
        Some(Answer::Status(status)) => preview(PreviewState::Compiling, Some(format!("{unit} answers GET / with {status}"))),
        Some(Answer::None(why)) => {
            let reason = format!("{unit} listens on port {}, but does not answer GET /: {why}", here[0].port);
            preview(PreviewState::Compiling, Some(reason))
        }
        None => preview(PreviewState::Compiling, Some(format!("{unit} was not asked yet"))),
    }
}

/// Whether who opens the port meets this stranger and not the unit.
fn hides(stranger: &Stranger, here: &[&Listener]) -> bool {
    let every_v4 = stranger.listener.address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    here.iter().all(|l| l.is_loopback() || every_v4 && l.address.is_ipv6())
}

fn taken(facts: &Facts, here: &[&Listener], stranger: &Stranger, port: Option<u16>) -> Preview {
    let unit = &facts.unit;
    let port_number = stranger.listener.port;
    let who = match stranger.listener.pid {
        0 => stranger.lineage.clone(),
        pid => format!("pid {pid} ({})", stranger.lineage),
    };
    let (state, reason) = match (here.first(), facts.own.first()) {
        (Some(own), _) => (
            PreviewState::WrongOwner,
            format!(
                "port {port_number} answers, but from {who}, not {unit}, which listens on {} alone",
                own.socket()
            ),
        ),
        (None, Some(other)) => (
            PreviewState::PortDrift,
            format!(
                "{unit} listens on port {}, since {who} holds port {port_number}: end that, then restart {unit}",
                other.port
            ),
        ),
        (None, None) => (
            PreviewState::WrongOwner,
            format!("port {port_number} answers, but from {who}, not {unit}"),
        ),
    };
    Preview {
        state,
        port,
        reason: Some(reason),
    }
}

fn drift(facts: &Facts, found: u16, expected: u16) -> String {
    let unit = &facts.unit;
    format!("{unit} listens on port {found}, not {expected}: set port = {found} in [project], or give it --port {expected}")
}

fn loopback(facts: &Facts, here: &[&Listener]) -> String {
    let sockets: Vec<String> = here.iter().map(|l| l.socket().to_string()).collect();
    format!(
        "{} listens on {} alone: {}",
        facts.unit,
        sockets.join(" and "),
        host_flag(&facts.command, here[0].port)
    )
}

/// What makes this command listen on every address.
pub fn host_flag(command: &str, port: u16) -> String {
    let has = |word: &str| command.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').any(|w| w == word);
    if has("next") {
        "add -H 0.0.0.0".to_owned()
    } else if has("runserver") {
        format!("add 0.0.0.0:{port}")
    } else if has("http.server") {
        "add --bind 0.0.0.0".to_owned()
    } else {
        "add --host 0.0.0.0".to_owned()
    }
}

/// Where these listeners are, if none is on this port: `listens on 127.0.0.1:5174 alone`. For `why` and `up`.
pub fn elsewhere(own: &[Listener], port: u16) -> Option<String> {
    if own.is_empty() || own.iter().any(|l| l.port == port) {
        return None;
    }
    let sockets: Vec<String> = own.iter().map(|l| l.socket().to_string()).collect();
    Some(format!("listens on {} alone", sockets.join(" and ")))
}

/// What the supervisor knows of the dev unit.
#[derive(Clone, Debug)]
pub struct Dev {
    /// Its name.
    pub unit: String,
    /// Its command.
    pub command: String,
    /// Its current run.
    pub invocation: Invocation,
    /// How it is.
    pub state: DevState,
    /// The expected port.
    pub expected: Option<u16>,
    /// All its processes.
    pub pids: Vec<Pid>,
}

/// Gathers the facts whenever it is asked and remembers a good answer as long as nothing changes.
#[derive(Debug, Default)]
pub struct Watcher {
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    invocation: Invocation,
    target: SocketAddr,
    at: Instant,
    answer: Answer,
}

impl Watcher {
    /// Looks and decides; takes at most five seconds. `unit_of` names the unit of a process, for the lineage of strangers.
    pub async fn look(&mut self, dev: Dev, unit_of: impl Fn(Pid) -> Option<String>) -> Preview {
        let own = ports::listeners(&dev.pids);
        let port = dev.expected.or_else(|| own.first().map(|l| l.port));
        let here = own.iter().filter(|l| Some(l.port) == port);
        let target = here
            .max_by_key(|l| (!l.is_loopback(), matches!(l.address, IpAddr::V4(_))))
            .map(Listener::target);
        let strangers = match dev.expected {
            Some(expected) if dev.state != DevState::Off => strangers(expected, &own, &unit_of),
            _ => Vec::new(),
        };
        let answer = match target {
            Some(target) => Some(self.ask(dev.invocation, target).await),
            None => None,
        };
        decide(&Facts {
            unit: dev.unit,
            command: dev.command,
            state: dev.state,
            expected: dev.expected,
            own,
            strangers,
            answer,
        })
    }

    async fn ask(&mut self, invocation: Invocation, target: SocketAddr) -> Answer {
        if let Some(asked) = &self.asked
            && (asked.invocation, asked.target) == (invocation, target)
            && (asked.answer.is_page() || asked.at.elapsed() < AGAIN)
        {
            return asked.answer.clone();
        }
        let answer = match tokio::time::timeout(PATIENCE, probe::get(target, &format!("localhost:{}", target.port()), "/")).await {
            Ok(Ok(status)) => Answer::Status(status),
            Ok(Err(why)) => Answer::None(why),
            Err(_) => Answer::None(format!("nothing within {} s", PATIENCE.as_secs())),
        };
        self.asked = Some(Asked {
            invocation,
            target,
            at: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }
}

fn strangers(port: u16, own: &[Listener], unit_of: &impl Fn(Pid) -> Option<String>) -> Vec<Stranger> {
    let holders = ports::holders(port);
    let known = |address, among: &[Listener]| among.iter().any(|l| (l.port, l.address) == (port, address));
    let unseen = ports::addresses(port)
        .into_iter()
        .filter(|&address| !known(address, own) && !known(address, &holders))
        .map(|address| Stranger {
            listener: Listener { port, address, pid: 0 },
            lineage: "a process that we may not look at, of another user".to_owned(),
        });
    let seen = holders.iter().filter(|h| !known(h.address, own)).map(|&listener| Stranger {
        listener,
        lineage: ports::lineage(listener.pid, unit_of),
    });
    seen.chain(unseen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(socket: &str) -> Listener {
        let socket: SocketAddr = socket.parse().unwrap();
        Listener {
            port: socket.port(),
            address: socket.ip(),
            pid: 41,
        }
    }

    fn facts(state: DevState, own: &[&str], stranger: Option<&str>, answer: Option<Answer>) -> Facts {
        let stranger = stranger.map(|socket| Stranger {
            listener: Listener { pid: 812, ..on(socket) },
            lineage: "agent › bash › npm run dev".to_owned(),
        });
        Facts {
            unit: "dev".to_owned(),
            command: "npm run dev".to_owned(),
            state,
            expected: Some(3000),
            own: own.iter().map(|s| on(s)).collect(),
            strangers: stranger.into_iter().collect(),
            answer,
        }
    }

    fn decided(facts: &Facts) -> (PreviewState, String) {
        let preview = decide(facts);
        (preview.state, preview.reason.unwrap_or_default())
    }

    #[test]
    fn each_state_has_its_reason() {
        use PreviewState as S;
        let page = Some(Answer::Status(404));
        let late = Some(Answer::None("nothing within 5 s".to_owned()));
        let crashed = || DevState::Crashed("dev failed: exit code 1".to_owned());
        let cases = [
            (facts(DevState::Running, &["0.0.0.0:3000"], None, page.clone()), S::Ready, ""),
            (
                facts(DevState::Running, &["[::]:3000"], None, Some(Answer::Status(200))),
                S::Ready,
                "",
            ),
            (
                facts(DevState::Running, &["[::]:3000"], None, Some(Answer::Status(503))),
                S::Compiling,
                "dev answers GET / with 503",
            ),
            (
                facts(DevState::Running, &["[::]:3000"], None, late),
                S::Compiling,
                "dev listens on port 3000, but does not answer GET /: nothing within 5 s",
            ),
            (
                facts(DevState::Running, &[], None, None),
                S::Compiling,
                "dev does not listen on any port yet",
            ),
            (
                facts(DevState::Starting("dev waits for install".to_owned()), &[], None, None),
                S::Compiling,
                "dev waits for install",
            ),
            (
                facts(DevState::Running, &["[::1]:3000"], None, page.clone()),
                S::LoopbackOnly,
                "dev listens on [::1]:3000 alone: add --host 0.0.0.0",
            ),
            (
                facts(DevState::Running, &["127.0.0.1:3000", "[::1]:3000"], None, page.clone()),
                S::LoopbackOnly,
                "dev listens on 127.0.0.1:3000 and [::1]:3000 alone: add --host 0.0.0.0",
            ),
            (facts(DevState::Running, &["192.168.1.2:3000"], None, page.clone()), S::Ready, ""),
            (
                facts(DevState::Running, &[], Some("0.0.0.0:3000"), None),
                S::WrongOwner,
                "port 3000 answers, but from pid 812 (agent › bash › npm run dev), not dev",
            ),
            (
                facts(crashed(), &[], Some("127.0.0.1:3000"), None),
                S::WrongOwner,
                "port 3000 answers, but from pid 812 (agent › bash › npm run dev), not dev",
            ),
            (
                facts(DevState::Running, &["[::1]:3000"], Some("0.0.0.0:3000"), page.clone()),
                S::WrongOwner,
                "port 3000 answers, but from pid 812 (agent › bash › npm run dev), not dev, which listens on [::1]:3000 alone",
            ),
            (
                facts(DevState::Running, &["0.0.0.0:3001"], Some("0.0.0.0:3000"), None),
                S::PortDrift,
                "dev listens on port 3001, since pid 812 (agent › bash › npm run dev) holds port 3000: end that, then restart dev",
            ),
            (
                facts(DevState::Running, &["0.0.0.0:5174"], None, None),
                S::PortDrift,
                "dev listens on port 5174, not 3000: set port = 5174 in [project], or give it --port 3000",
            ),
            (facts(crashed(), &[], None, None), S::Crashed, "dev failed: exit code 1"),
            (facts(DevState::Off, &[], Some("0.0.0.0:3000"), None), S::Off, ""),
        ];
        for (facts, state, reason) in cases {
            assert_eq!(decided(&facts), (state, reason.to_owned()), "{facts:?}");
        }
    }

    #[test]
    fn without_an_expected_port_any_will_do() {
        let mut facts = facts(DevState::Running, &["0.0.0.0:8080"], None, Some(Answer::Status(200)));
        facts.expected = None;
        let preview = decide(&facts);
        assert_eq!(
            (preview.state, preview.port, preview.reason),
            (PreviewState::Ready, Some(8080), None)
        );
    }

    #[test]
    fn the_flag_is_the_command_s_own() {
        for (command, flag) in [
            ("npm run dev", "add --host 0.0.0.0"),
            ("npx vite", "add --host 0.0.0.0"),
            ("next dev --turbo", "add -H 0.0.0.0"),
            ("./node_modules/.bin/next dev", "add -H 0.0.0.0"),
            ("python manage.py runserver", "add 0.0.0.0:3000"),
            ("python3 -m http.server 3000", "add --bind 0.0.0.0"),
            ("uv run nextcloud", "add --host 0.0.0.0"),
        ] {
            assert_eq!(host_flag(command, 3000), flag, "{command}");
        }
    }

    #[test]
    fn elsewhere_names_the_sockets() {
        assert_eq!(
            elsewhere(&[on("127.0.0.1:5174")], 3000).as_deref(),
            Some("listens on 127.0.0.1:5174 alone")
        );
        assert_eq!(elsewhere(&[on("127.0.0.1:3000")], 3000), None);
        assert_eq!(elsewhere(&[], 3000), None);
    }

    #[tokio::test]
    async fn a_good_answer_is_asked_for_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap();
            (listener, stream)
        });
        let dev = Dev {
            unit: "dev".to_owned(),
            command: "vite".to_owned(),
            invocation: 1,
            state: DevState::Running,
            expected: Some(port),
            pids: vec![Pid::try_from(std::process::id()).unwrap()],
        };
        let mut watcher = Watcher::default();
        let first = watcher.look(dev.clone(), |_| None).await;
        assert_eq!(first.state, PreviewState::LoopbackOnly);
        let (listener, _) = served.await.unwrap();
        // Nobody accepts any more: a second GET would wait for its patience's end.
        assert_eq!(watcher.look(dev.clone(), |_| None).await, first);
        let stranger = watcher.look(Dev { pids: Vec::new(), ..dev }, |_| None).await;
        assert_eq!(stranger.state, PreviewState::WrongOwner);
        drop(listener);
    }
}
