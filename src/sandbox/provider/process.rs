//! A process on this machine, run to its end: what `local` and `exec` are made of.

use super::{Exit, Fault, Heard, Output, Secret, Stream};
use crate::sandbox::fault::Code;
use crate::tasks;
use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc::Receiver;

/// How long output is awaited once the process has ended: what it left behind may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// Ends the whole process group unless it was waited for.
struct Group(Option<Pid>);

impl Group {
    fn end(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a process reads on standard input, before its end.
pub(super) enum Input<'a> {
    Nothing,
    Bytes(&'a Secret),
    /// What comes while it runs.
    Chunks(Receiver<Bytes>),
}

impl<'a> From<Option<&'a Secret>> for Input<'a> {
    fn from(stdin: Option<&'a Secret>) -> Self {
        stdin.map_or(Self::Nothing, Self::Bytes)
    }
}

impl Input<'_> {
    /// Writes all of it. Who does not read it to its end says so with an exit code.
    async fn feed(self, mut pipe: impl AsyncWrite + Unpin) {
        match self {
            Self::Nothing => {}
            Self::Bytes(stdin) => {
                let _ = pipe.write_all(stdin.reveal()).await;
            }
            Self::Chunks(mut chunks) => {
                while let Some(chunk) = chunks.recv().await {
                    if pipe.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
            }
        }
        let _ = pipe.shutdown().await;
    }
}

/// Runs a command, feeds it, and hands over what it writes. Dropped, it kills the command with its group.
pub(super) async fn run(mut command: Command, stdin: Input<'_>, limit: Duration, output: Output<'_>) -> Result<Exit, Fault> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(match stdin {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) | Input::Chunks(_) => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        Fault::new(Code::CommandFailed, format!("starting `{name}`: {error}")).hint(format!("is `{name}` installed on this machine?"))
    })?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(pipe) = input {
            stdin.feed(pipe).await;
        }
    };
    let talk = async {
        tokio::pin!(feed);
        let (mut out, mut err) = (Pipe::new(out), Pipe::new(err));
        let mut fed = false;
        let mut ended = None;
        let late = tokio::time::sleep(Duration::MAX / 4);
        tokio::pin!(late);
        while ended.is_none() || out.is_open() || err.is_open() {
            tokio::select! {
                chunk = out.read(), if out.is_open() => chunk.iter().for_each(|chunk| output(Stream::Stdout, chunk)),
                chunk = err.read(), if err.is_open() => chunk.iter().for_each(|chunk| output(Stream::Stderr, chunk)),
                () = &mut feed, if !fed => fed = true,
                status = child.wait(), if ended.is_none() => {
                    ended = Some(status);
                    late.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                }
                () = &mut late, if ended.is_some() => break,
            }
        }
        ended
    };
    let ended = tokio::time::timeout(limit, talk).await;
    let status = match ended {
        Ok(Some(Ok(status))) => status,
        Ok(Some(Err(error))) => return Err(Fault::new(Code::CommandFailed, format!("waiting for `{name}`: {error}"))),
        Ok(None) | Err(_) => {
            return Err(Fault::new(
                Code::CommandFailed,
                format!("`{name}` did not end within {}", crate::unit::duration::format(limit)),
            ));
        }
    };
    // It has ended by itself; what it put into the background is not ours to end.
    group.0 = None;
    Ok(Exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
}

/// One end of a pipe, until it is closed.
struct Pipe<R> {
    reader: Option<R>,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(reader: Option<R>) -> Self {
        Self {
            reader,
            buffer: vec![0; CHUNK],
        }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// The next chunk; `None` at the end, and from then on it is closed.
    async fn read(&mut self) -> Option<&[u8]> {
        let reader = self.reader.as_mut()?;
        match reader.read(&mut self.buffer).await {
            Ok(length) if length > 0 => Some(&self.buffer[..length]),
            _ => {
                self.reader = None;
                None
            }
        }
    }
}

/// Runs what blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tasks::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Starts a command that stays: `$1` its log, `$2` its directory or nothing, then the command. What is read on standard input is handed on
/// without touching the disk. Prints the command's pid.
pub(super) const LAUNCH: &str = r#"log=$1 dir=$2
shift 2
mkdir -p "$(dirname "$log")" || exit 70
(umask 077 && : >"$log") || exit 70
if [ -n "$dir" ]; then cd "$dir" || exit 70; fi
data=$(cat; echo .)
if command -v setsid >/dev/null 2>&1; then set -- setsid "$@"; else set -- nohup "$@"; fi
printf %s "${data%.}" | "$@" >>"$log" 2>&1 &
echo $!"#;

/// The pid that [`LAUNCH`] prints.
pub(super) fn launched(exit: Exit, heard: &Heard) -> Result<String, Fault> {
    let pid = heard.text().trim().to_owned();
    if exit.is_success() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(pid);
    }
    let why = Fault::new(
        Code::CommandFailed,
        format!("starting a command in the background: exit code {}", exit.0),
    );
    Err(why.output(heard.both()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(script: &str, stdin: Option<&str>, limit: Duration) -> (Result<Exit, Fault>, String, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let stdin = stdin.map(|text| Secret::new(text.to_owned()));
        let exit = run(command, stdin.as_ref().into(), limit, &mut |stream, chunk| match stream {
            Stream::Stdout => out.extend_from_slice(chunk),
            Stream::Stderr => err.extend_from_slice(chunk),
        })
        .await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (exit, text(out), text(err))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn both_streams_the_input_and_the_exit_code_come_through() {
        let (exit, out, err) = told("cat; echo oops >&2; exit 3", Some("hello"), LONG).await;
        assert_eq!((exit.unwrap(), out.as_str(), err.as_str()), (Exit(3), "hello", "oops\n"));
        let (exit, ..) = told("kill -TERM $$", None, LONG).await;
        assert_eq!(exit.unwrap(), Exit(143));
    }

    #[tokio::test]
    async fn what_holds_the_pipe_delays_nothing_and_too_long_is_too_long() {
        let (exit, out, _) = told("sleep 50 & echo $!", None, LONG).await;
        assert_eq!(exit.unwrap(), Exit(0));
        let left: i32 = out.trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
        let (exit, ..) = told("sleep 50", None, Duration::from_millis(100)).await;
        assert_eq!(exit.unwrap_err().code, Code::CommandFailed);
    }

    #[tokio::test]
    async fn input_that_nobody_reads_is_no_failure() {
        let (exit, ..) = told("exit 0", Some(&"x".repeat(1 << 20)), LONG).await;
        assert_eq!(exit.unwrap(), Exit(0));
    }
}
