//! Commands: started detached and once, heard to their end however often the stream is cut.

use super::api::{Api, Call, Trouble};
use super::lines::{Heard, Line, Lines};
use super::wire::{Anything, Command as Known, Commands, OfCommand};
use super::{archive, boxes};
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::provider::{Body, Command, Exit, Output, Repeat, Sandbox, Upload};
use crate::tasks;
use crate::web::tls::innermost;
use serde_json::json;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A stream that says nothing for so long is opened anew: the edge may have forgotten it.
const QUIET: Duration = Duration::from_secs(120);
/// A stream that lived so long may have been ended by the edge, as if it were whole.
const SUSPECT: Duration = Duration::from_secs(60);
/// Between two looks at a command that has not ended; grows from the one to the other.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// What the service gives a command beyond its limit: it ends what we no longer can.
const BEYOND: Duration = Duration::from_secs(60);
/// How long before its deadline a sandbox in use gets more time,
const RESERVE: Duration = Duration::from_secs(120);
/// and how much it has then.
const IN_USE: Duration = Duration::from_secs(600);
/// How often a request that may have been done is looked for and made again.
const ROUNDS: u32 = 4;
/// For a file to be sent.
const SENDING: Duration = Duration::from_secs(600);
/// A command that was started before.
const TAKEN: i32 = 121;

/// What every command begins as: `$0` is its mark, then its input, its log, whether it may run once alone, its directory.
const BEGIN: &str = r#"
once=/tmp/.sandkeep-once-$0
[ -z "$3" ] || mkdir "$once" 2>/dev/null || [ ! -d "$once" ] || exit 121
if [ -n "$1" ]; then exec <"$1" || exit 121; rm -f "$1"; else exec </dev/null; fi
if [ -n "$2" ]; then mkdir -p "${2%/*}" && rm -f "$2" && exec >"$2" 2>&1 || exit 1; fi
[ -z "$4" ] || cd "$4" || exit 1
shift 4
exec "$@"
"#;

/// Moves a file from where it came in to where it goes; done twice it is the same.
const PLACE: &str = r#"
set -e
beside="$2/.sandkeep-$1"
mkdir -p "$2"
[ ! -e "$3" ] || mv -f "$3" "$beside"
if [ -e "$beside" ]; then chmod "$4" "$beside"; mv -fT "$beside" "$5"; fi
"#;

/// Runs a command to its end.
pub(super) async fn run(api: &Api, sandbox: &Sandbox, command: &Command, output: Output<'_>) -> Result<Exit, Fault> {
    let started = Instant::now();
    let mark = mark();
    let mut abandoned = Abandoned::new(api, &sandbox.session, &mark);
    let Posted { id: posted, surely_once } = post(api, sandbox, command, &mark, None, Some(command.limit + BEYOND)).await?;
    abandoned.command = Some(posted.clone());
    let followed = async {
        let exit = follow(api, sandbox, &posted, output).await?;
        if exit != Exit(TAKEN) || command.repeat == Repeat::Harmless {
            return Ok(exit);
        }
        // Ours came second: the first is the one.
        match of_mark(api, &sandbox.session, &mark, Some(&posted)).await {
            Ok(Some(first)) => follow(api, sandbox, &first.id, output).await,
            _ => Ok(exit),
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout_at(started + command.limit, followed) => ended,
        never = keep_alive(api, sandbox) => match never {},
    };
    match ended {
        Ok(exit) => {
            abandoned.is_over();
            if surely_once && command.repeat == Repeat::Never {
                take_mark_away(api, &sandbox.session, &mark).await;
            }
            exit
        }
        Err(_) => {
            end(api, &sandbox.session, &posted).await;
            abandoned.is_over();
            let program = command.argv.first().map_or("", String::as_str);
            Err(Fault::new(
                Code::CommandFailed,
                format!(
                    "`{program}` in the sandbox `{}` did not end within {} s",
                    sandbox.name,
                    command.limit.as_secs()
                ),
            ))
        }
    }
}

/// Moves the deadline as long as a command runs, so that the sandbox does not end under it.
async fn keep_alive(api: &Api, sandbox: &Sandbox) -> Infallible {
    let mut deadline = sandbox.expires_at;
    while let Some(at) = deadline {
        let left = Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default();
        sleep(left.saturating_sub(RESERVE)).await;
        let until = jiff::Timestamp::now() + jiff::SignedDuration::try_from(IN_USE).unwrap_or(jiff::SignedDuration::ZERO);
        deadline = match boxes::extend(api, sandbox, until).await {
            // No later than it was: the plan has no more.
            Ok(moved) => moved.filter(|moved| *moved > at),
            Err(fault) => {
                tracing::debug!("{fault}");
                None
            }
        };
    }
    std::future::pending().await
}

/// Starts a command that goes on by itself.
pub(super) async fn launch(api: &Api, sandbox: &Sandbox, command: &Command, log: &str) -> Result<String, Fault> {
    let once = Command {
        repeat: Repeat::Never,
        ..command.clone()
    };
    let mark = mark();
    let Posted { id, surely_once } = post(api, sandbox, &once, &mark, Some(log), None).await?;
    if surely_once {
        take_mark_away(api, &sandbox.session, &mark).await;
    }
    Ok(id)
}

/// Brings a file in: first to where nobody looks, then at once to where it goes.
pub(super) async fn upload(api: &Api, sandbox: &Sandbox, file: &Upload) -> Result<u64, Fault> {
    let mark = mark();
    let doing = format!("bringing `{}` into the sandbox `{}`", file.path, sandbox.name);
    let arrival = format!("/tmp/.sandkeep-file-{mark}");
    let sent = send(api, sandbox, &arrival, file.body.clone(), &doing).await?;
    let parent = file.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let parent = if parent.is_empty() { "/" } else { parent };
    let mode = format!("{:o}", file.mode & 0o7777);
    let place = [mark.as_str(), parent, &arrival, &mode, &file.path];
    let place = place.into_iter().fold(Command::shell(PLACE).arg("place"), Command::arg);
    let mut said = Vec::new();
    let exit = run(api, sandbox, &place, &mut |_, text| said.extend_from_slice(text)).await?;
    if !exit.is_success() {
        return Err(Fault::new(Code::UploadFailed, format!("{doing}: exit {}", exit.0))
            .hint("look at the directory's owner, and whether the disk is full")
            .output(String::from_utf8_lossy(&said)));
    }
    Ok(sent)
}

/// Sends one file, for its owner's eyes.
async fn send(api: &Api, sandbox: &Sandbox, path: &str, body: Body, doing: &str) -> Result<u64, Fault> {
    let at = path.to_owned();
    let packed = tasks::spawn_blocking(move || match body {
        Body::Bytes(bytes) => archive::pack(&at, 0o600, bytes.reveal().len() as u64, bytes.reveal().as_ref()),
        Body::File(file) => {
            let file = std::fs::File::open(file)?;
            archive::pack(&at, 0o600, file.metadata()?.len(), file)
        }
    });
    let packed = packed.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let packed = packed.map_err(|error| Fault::new(Code::UploadFailed, format!("{doing}: reading it here: {error}")))?;
    let sent = packed.len() as u64;
    let call = Call::archive(&["v2", "sandboxes", "sessions", &sandbox.session, "fs", "write"], packed.into());
    api.ask::<Anything>(&call.within(SENDING))
        .await
        .map_err(|trouble| trouble.fault(doing))?;
    Ok(sent)
}

/// A command that was started.
struct Posted {
    id: String,
    /// No request for it is without an answer: none can begin late.
    surely_once: bool,
}

/// Starts a command exactly once.
async fn post(
    api: &Api,
    sandbox: &Sandbox,
    command: &Command,
    mark: &str,
    log: Option<&str>,
    limit: Option<Duration>,
) -> Result<Posted, Fault> {
    let program = command.argv.first().map_or("", String::as_str);
    let doing = format!("running `{program}` in the sandbox `{}`", sandbox.name);
    let input = match &command.stdin {
        Some(stdin) if !stdin.reveal().is_empty() => format!("/tmp/.sandkeep-in-{mark}"),
        _ => String::new(),
    };
    if let Some(stdin) = command.stdin.as_ref().filter(|_| !input.is_empty()) {
        send(api, sandbox, &input, Body::Bytes(stdin.clone()), &doing).await?;
    }
    let once = if command.repeat == Repeat::Never { "once" } else { "" };
    let directory = command.directory.as_deref().unwrap_or_default();
    let mut args = vec!["-c", BEGIN, mark, &input, log.unwrap_or_default(), once, directory];
    args.extend(command.argv.iter().map(String::as_str));
    let mut body = json!({"command": "/bin/sh", "args": args, "env": {}, "sudo": false});
    if let Some(limit) = limit {
        body["timeout"] = json!(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    }
    let started = begin(api, &sandbox.session, &body, mark).await;
    if started.is_err() && !input.is_empty() {
        forget(api, &sandbox.session, &input);
    }
    started.map_err(|trouble| trouble.fault(&doing))
}

async fn begin(api: &Api, session: &str, body: &serde_json::Value, mark: &str) -> Result<Posted, Trouble> {
    let call = Call::post(&["v2", "sandboxes", "sessions", session, "cmd"], body.clone()).once();
    let mut round = 0;
    loop {
        round += 1;
        match api.ask::<OfCommand>(&call).await {
            Ok(answer) => {
                return Ok(Posted {
                    id: answer.command.id,
                    surely_once: round == 1,
                });
            }
            Err(Trouble::Unknown(trouble)) => {
                if let Some(known) = of_mark(api, session, mark, None).await? {
                    return Ok(Posted {
                        id: known.id,
                        surely_once: round == 1,
                    });
                }
                if round >= ROUNDS {
                    return Err(*trouble);
                }
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

/// The first command with this mark, other than one.
async fn of_mark(api: &Api, session: &str, mark: &str, other_than: Option<&str>) -> Result<Option<Known>, Trouble> {
    let call = Call::get(&["v2", "sandboxes", "sessions", session, "cmd"]);
    let all = api.ask::<Commands>(&call).await?.commands;
    let mut ours = all.into_iter().filter(|known| known.args.get(2).is_some_and(|arg| arg == mark));
    // The newest comes first.
    Ok(ours.rfind(|known| other_than != Some(known.id.as_str())))
}

/// How a stream ended.
enum End {
    /// As if it were whole.
    Closed,
    /// In the middle.
    Cut(String),
}

/// Hears a command to its end.
async fn follow(api: &Api, sandbox: &Sandbox, id: &str, output: Output<'_>) -> Result<Exit, Fault> {
    let path = ["v2", "sandboxes", "sessions", &sandbox.session, "cmd", id];
    let mut heard = Heard::default();
    let mut code = None;
    let mut pause = PAUSES[0];
    loop {
        let opened = Instant::now();
        let end = listen(api, &path, &mut heard, &mut *output)
            .await
            .map_err(|trouble| lost(&trouble, sandbox))?;
        // What ends after the exit was known is whole; so is what ends with it, unless it is old enough to have been cut.
        if let (End::Closed, Some(code)) = (&end, code) {
            return Ok(Exit(code));
        }
        code = exit_code(api, &path, sandbox).await?;
        match (&end, code) {
            (End::Closed, Some(code)) if opened.elapsed() < SUSPECT => return Ok(Exit(code)),
            (_, Some(_)) => {}
            (End::Closed, None) => tracing::debug!("the stream of {id} ended before the command"),
            (End::Cut(why), None) => tracing::debug!("the stream of {id} was cut: {why}"),
        }
        if opened.elapsed() > PAUSES[1] {
            pause = PAUSES[0];
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

async fn exit_code(api: &Api, path: &[&str], sandbox: &Sandbox) -> Result<Option<i32>, Fault> {
    let answer = api.ask::<OfCommand>(&Call::get(path)).await;
    Ok(answer.map_err(|trouble| lost(&trouble, sandbox))?.command.exit_code)
}

/// Reads the output from its beginning, and hands over what is new.
async fn listen(api: &Api, path: &[&str], heard: &mut Heard, output: Output<'_>) -> Result<End, Trouble> {
    let mut response = api.open(&Call::get(&[path, &["logs"]].concat())).await?;
    let mut lines = Lines::default();
    heard.begin();
    loop {
        let chunk = match tokio::time::timeout(QUIET, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(End::Closed),
            Ok(Err(error)) => return Ok(End::Cut(innermost(&error))),
            Err(_) => return Ok(End::Cut("it was quiet for long".to_owned())),
        };
        for line in lines.take(&chunk) {
            match line {
                Line::Said(stream, said) => {
                    let new = heard.new_part(stream, &said);
                    if !new.is_empty() {
                        output(stream, new);
                    }
                }
                // What it means shows when the command is asked for.
                Line::Broken { code, message } => return Ok(End::Cut(format!("{code}: {message}"))),
                Line::Other => {}
            }
        }
    }
}

/// The fault of a command that ran when its session, or the connection, was lost.
fn lost(trouble: &Trouble, sandbox: &Sandbox) -> Fault {
    let doing = format!("waiting for a command in the sandbox `{}`", sandbox.name);
    let mut fault = trouble.fault(&doing);
    let over = trouble
        .refusal()
        .is_some_and(|refusal| refusal.is_session_over() || refusal.status == 404);
    if over || fault.code == Code::Unreachable {
        fault.code = Code::Lost;
    }
    fault
}

/// Asks a command to end, and then makes it.
async fn end(api: &Api, session: &str, id: &str) {
    let path = ["v2", "sandboxes", "sessions", session, "cmd", id];
    for signal in [15, 9] {
        let kill = Call::post(&[&path[..], &["kill"]].concat(), json!({"signal": signal}));
        if api.ask::<Anything>(&kill).await.is_err() {
            return;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            match api.ask::<OfCommand>(&Call::get(&path)).await {
                Ok(answer) if answer.command.exit_code.is_none() => sleep(Duration::from_millis(200)).await,
                _ => return,
            }
        }
    }
}

/// Removes an input that no command took.
fn forget(api: &Api, session: &str, input: &str) {
    let call = plain(session, "rm", &["-f", input]);
    let api = api.clone();
    tasks::spawn(async move {
        let _ = api.ask::<Anything>(&call).await;
    });
}

/// Removes what a command that may run once alone makes to be known by ([`BEGIN`]), which may be a moment after it was started.
async fn take_mark_away(api: &Api, session: &str, mark: &str) {
    const REMOVE: &str = r#"i=0; while [ $i -lt 100 ] && ! rmdir "$0" 2>/dev/null; do sleep 0.1; i=$((i+1)); done"#;
    let call = plain(session, "/bin/sh", &["-c", REMOVE, &format!("/tmp/.sandkeep-once-{mark}")]);
    // What is left behind then is an empty directory.
    let _ = api.ask::<Anything>(&call).await;
}

/// A command that nobody waits for, and that does no harm done twice.
fn plain(session: &str, program: &str, args: &[&str]) -> Call {
    let body = json!({"command": program, "args": args, "env": {}, "sudo": false});
    Call::post(&["v2", "sandboxes", "sessions", session, "cmd"], body)
}

/// Ends a command that nobody waits for any more.
struct Abandoned {
    api: Api,
    session: String,
    mark: String,
    command: Option<String>,
    over: bool,
}

impl Abandoned {
    fn new(api: &Api, session: &str, mark: &str) -> Self {
        Self {
            api: api.clone(),
            session: session.to_owned(),
            mark: mark.to_owned(),
            command: None,
            over: false,
        }
    }

    fn is_over(&mut self) {
        self.over = true;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.over {
            return;
        }
        let (api, session, mark) = (self.api.clone(), self.session.clone(), self.mark.clone());
        let known = self.command.take();
        runtime.spawn(async move {
            let id = match known {
                Some(id) => Some(id),
                None => of_mark(&api, &session, &mark, None).await.ok().flatten().map(|known| known.id),
            };
            if let Some(id) = id {
                end(&api, &session, &id).await;
            }
        });
    }
}

fn mark() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
