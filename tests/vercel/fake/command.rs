//! A command of a session: runs, is read, and is read again from its beginning by whoever asks.

use crate::model::{Session, new_id, now};
use crate::reply::{self, Response};
use crate::vm::{Generation, Vm, child_of};
use axum::body::{Body, Bytes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// What to run, as the request says.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Order {
    pub(crate) command: String,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    cwd: Option<String>,
    #[serde(default)]
    env: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    sudo: bool,
    #[serde(default)]
    pub(crate) wait: bool,
    #[serde(default)]
    pub(crate) logs: bool,
    timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum End {
    #[default]
    Not,
    Exit(i32),
    /// Its machine stopped under it.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) id: String,
    name: String,
    args: Vec<String>,
    cwd: String,
    session: String,
    started_at: u64,
    /// The `nsenter` whose child it is.
    entry: i32,
    state: Mutex<State>,
    /// Counts what happens.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(&'static str, String)>,
    end: End,
    duration_ms: Option<u64>,
}

impl Command {
    pub(crate) fn start(vm: &Vm, session: &Session, generation: &Generation, env: &Value, order: &Order) -> std::io::Result<Arc<Self>> {
        let cwd = order.cwd.clone().unwrap_or_else(|| generation.cwd().to_owned());
        let mut command = vm.command(generation, &cwd, order.sudo);
        for (name, value) in env.as_object().into_iter().flatten() {
            command.env(name, value.as_str().unwrap_or_default());
        }
        command.envs(&order.env).arg(&order.command).args(&order.args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let this = Arc::new(Self {
            id: new_id("cmd"),
            name: order.command.clone(),
            args: order.args.clone(),
            cwd,
            session: session.id.clone(),
            started_at: now(),
            entry: i32::try_from(child.id().expect("it runs")).expect("a pid"),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let out = tokio::spawn(Arc::clone(&this).read("stdout", stdout));
        let err = tokio::spawn(Arc::clone(&this).read("stderr", stderr));
        let timeout = order.timeout.map(Duration::from_millis);
        let command = Arc::clone(&this);
        tokio::spawn(async move {
            let limit = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let status = tokio::select! {
                status = child.wait() => status,
                () = limit => {
                    command.signal(Signal::SIGKILL as i32);
                    child.wait().await
                }
            };
            // A child in the background may keep the pipes: what it says comes later, the command has ended.
            let _ = tokio::time::timeout(Duration::from_millis(200), async {
                let _ = tokio::join!(out, err);
            })
            .await;
            let code = status.map_or(1, |status| {
                status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
            });
            command.finish(End::Exit(code));
        });
        Ok(this)
    }

    async fn read(self: Arc<Self>, stream: &'static str, mut pipe: impl tokio::io::AsyncRead + Unpin) {
        let (mut buffer, mut rest) = (vec![0; 16 * 1024], Vec::new());
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            rest.extend_from_slice(&buffer[..length]);
            // A character that comes in two reads is one.
            let whole = match std::str::from_utf8(&rest) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => rest.len(),
            };
            let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
            rest.drain(..whole);
            if !text.is_empty() {
                self.state.lock().unwrap().lines.push((stream, text));
                self.changed.send_modify(|count| *count += 1);
            }
        }
    }

    /// Notes its end, the first one.
    pub(crate) fn finish(&self, end: End) {
        let mut state = self.state.lock().unwrap();
        if state.end == End::Not {
            state.end = end;
            state.duration_ms = Some(now() - self.started_at);
        }
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Signals its main process, not what that started.
    pub(crate) fn signal(&self, signal: i32) {
        if self.end() != End::Not {
            return;
        }
        if let (Some(pid), Ok(signal)) = (child_of(self.entry), Signal::try_from(signal)) {
            let _ = kill(Pid::from_raw(pid), signal);
            if signal == Signal::SIGCONT {
                // `nsenter` stops with its child.
                let _ = kill(Pid::from_raw(self.entry), signal);
            }
        }
    }

    pub(crate) fn end(&self) -> End {
        self.state.lock().unwrap().end
    }

    pub(crate) fn document(&self) -> Value {
        let state = self.state.lock().unwrap();
        let code = match state.end {
            End::Exit(code) => Some(code),
            End::Not | End::Gone => None,
        };
        let mut document = json!({
            "id": self.id, "name": self.name, "args": self.args, "cwd": self.cwd, "sessionId": self.session,
            "exitCode": code, "startedAt": self.started_at,
        });
        if let (Some(duration), Some(_)) = (state.duration_ms, code) {
            document["durationMs"] = json!(duration);
        }
        document
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> End {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let end = self.end();
            if end != End::Not || changed.changed().await.is_err() {
                return end;
            }
        }
    }

    /// Everything that it says, from its beginning to its end, as NDJSON; with `framed` between itself at the start and at the end.
    pub(crate) fn stream(self: &Arc<Self>, logs: bool, framed: bool) -> Response {
        let first = framed.then(|| {
            let mut document = self.document();
            document["exitCode"] = Value::Null;
            line(&json!({"command": document}))
        });
        let start = (Arc::clone(self), self.changed.subscribe(), 0, false);
        let rest = futures_util::stream::unfold(start, move |(command, mut changed, next, over)| async move {
            if over {
                return None;
            }
            loop {
                changed.borrow_and_update();
                let (text, count, end) = command.since(if logs { next } else { usize::MAX });
                if !text.is_empty() {
                    return Some((text, (command, changed, count, false)));
                }
                match end {
                    End::Not => changed.changed().await.ok()?,
                    End::Exit(_) if framed => {
                        return Some((line(&json!({"command": command.document()})), (command, changed, count, true)));
                    }
                    End::Exit(_) => return None,
                    End::Gone => {
                        let error = json!({"stream": "error", "data": {"code": "sandbox_stopped", "message": "Sandbox was stopped"}});
                        return Some((line(&error), (command, changed, count, true)));
                    }
                }
            }
        });
        let all = futures_util::StreamExt::chain(futures_util::stream::iter(first), rest);
        let body = Body::from_stream(futures_util::StreamExt::map(all, |text| Ok::<_, std::io::Error>(Bytes::from(text))));
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert("content-type", axum::http::HeaderValue::from_static("application/x-ndjson"));
        response
    }

    fn since(&self, next: usize) -> (String, usize, End) {
        let state = self.state.lock().unwrap();
        let lines = state.lines.get(next..).unwrap_or_default();
        let text = lines
            .iter()
            .map(|(stream, data)| line(&json!({"stream": stream, "data": data})))
            .collect();
        (text, if next == usize::MAX { next } else { state.lines.len() }, state.end)
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// The refusal of a request that says nothing runnable.
pub(crate) fn bad(message: &str) -> Response {
    reply::error(400, "bad_request", message)
}
