//! Any box that a command reaches: `docker exec -i X`, `ssh host`, `e2b sandbox exec X`.
//!
//! All that is asked of it is to run a command there with our standard input: one file is uploaded, one command is run, the environment
//! goes over standard input. The box itself is its owner's: it is neither made nor ended here.

mod pack;
mod via;

use super::process::{self, Input, LAUNCH, launched};
use super::{Answer, Command, Exit, Fault, Heard, Output, Provider, Reach, Sandbox, Settings, State, Stream, Upload, Wake, Wanted};
use crate::sandbox::fault::Code;
use crate::unit::duration;
use pack::{Packed, Packing};
use std::collections::BTreeMap;
use std::time::Duration;
use via::{Manner, Marks, Via};

/// How long the box may take to answer at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How long an upload may take.
const UPLOADED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How many bytes of what a failing transport says are shown.
const SHOWN: usize = 4000;

/// What is found out about a box, once.
#[derive(Clone, Copy, Debug)]
struct Facts {
    manner: Manner,
    packing: Packing,
}

/// Runs everything through one command.
#[derive(Debug)]
pub struct Exec {
    text: String,
    via: Via,
    url: Option<String>,
    facts: tokio::sync::OnceCell<Facts>,
}

impl Exec {
    /// Through this command; `url` says where ports are reachable, with `{port}` in it.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when it is no command, or the URL has no `{port}`.
    pub fn new(via: &str, url: Option<&str>) -> Result<Self, Fault> {
        if let Some(url) = url
            && !url.contains("{port}")
        {
            return Err(
                Fault::new(Code::BadRequest, format!("the URL `{url}` does not say where the port goes"))
                    .hint("write it with `{port}`, such as `https://{port}-box.example.com`"),
            );
        }
        Ok(Self {
            text: via.to_owned(),
            via: Via::parse(via)?,
            url: url.map(str::to_owned),
            facts: tokio::sync::OnceCell::new(),
        })
    }

    async fn facts(&self) -> Result<Facts, Fault> {
        let facts = self.facts.get_or_try_init(|| async {
            let manner = match self.via.manner() {
                Some(manner) => manner,
                None => self.probe().await?,
            };
            let (_, heard) = self.gather(manner, &Command::shell(pack::LOOK).within(ANSWERS_WITHIN)).await?;
            let packing = Packing::found(&heard.text());
            Ok(Facts { manner, packing })
        });
        facts.await.copied()
    }

    /// Whether the transport hands words on as they are, or a shell over there reads them again.
    async fn probe(&self) -> Result<Manner, Fault> {
        let mut process = self.via.process();
        process.args(["printf", "%s", "a  b"]);
        let mut heard = Heard::default();
        let mut take = |stream: Stream, chunk: &[u8]| heard.take(stream, chunk);
        let exit = process::run(process, Input::Nothing, ANSWERS_WITHIN, &mut take).await;
        let exit = exit.map_err(|fault| self.unreachable(&fault.message, &[]))?;
        match heard.stdout.as_slice() {
            b"a  b" => Ok(Manner::Words),
            b"ab" => Ok(Manner::Shell),
            _ => Err(self.unreachable(&format!("exit code {}", exit.0), &heard.stderr)),
        }
    }

    fn unreachable(&self, why: &str, errors: &[u8]) -> Fault {
        let errors = String::from_utf8_lossy(&errors[..errors.len().min(SHOWN)]);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty());
        let refused = errors.contains("Permission denied") || errors.contains("Host key verification failed");
        let code = if refused { Code::Unauthorized } else { Code::Unreachable };
        Fault::new(code, format!("`{}` runs no command: {}", self.text, last.unwrap_or(why)))
            .hint(format!("try `{} true` by hand; it must work without a question", self.text))
            .output(errors.clone())
    }

    /// Runs a command and keeps what it writes.
    async fn gather(&self, manner: Manner, command: &Command) -> Result<(Exit, Heard), Fault> {
        self.gather_from(manner, command, command.stdin.as_ref().into()).await
    }

    /// The same, with something else than its own standard input.
    async fn gather_from(&self, manner: Manner, command: &Command, input: Input<'_>) -> Result<(Exit, Heard), Fault> {
        let mut heard = Heard::default();
        let mut take = |stream: Stream, chunk: &[u8]| heard.take(stream, chunk);
        let exit = self.execute(manner, command, input, &mut take).await?;
        Ok((exit, heard))
    }

    async fn execute(&self, manner: Manner, command: &Command, input: Input<'_>, output: Output<'_>) -> Result<Exit, Fault> {
        let mut marks = Marks::new();
        let mut process = self.via.process();
        process.args(manner.words(&marks.wrap(command)));
        let mut noise = Vec::new();
        let mut take = |stream: Stream, chunk: &[u8]| match stream {
            Stream::Stdout => output(stream, chunk),
            Stream::Stderr => marks.filter(chunk, &mut |chunk, begun| {
                if begun {
                    output(Stream::Stderr, chunk);
                } else if noise.len() < SHOWN {
                    noise.extend_from_slice(chunk);
                }
            }),
        };
        let transport = process::run(process, input, command.limit, &mut take).await;
        marks.rest(&mut |chunk| noise.extend_from_slice(chunk));
        match (marks.ended(), marks.begun(), transport) {
            (Some(exit), ..) => Ok(exit),
            (None, true, Ok(exit)) => {
                let message = format!(
                    "the connection over `{}` broke while a command ran (exit code {})",
                    self.text, exit.0
                );
                Err(Fault::new(Code::Lost, message)
                    .hint("run the same again: it goes on where it was")
                    .output(String::from_utf8_lossy(&noise)))
            }
            (None, true, Err(_)) => Err(Fault::new(
                Code::CommandFailed,
                format!("a command did not end within {}", duration::format(command.limit)),
            )),
            (None, false, Ok(exit)) => Err(self.unreachable(&format!("exit code {}", exit.0), &noise)),
            (None, false, Err(fault)) => Err(self.unreachable(&fault.message, &noise)),
        }
    }

    fn sandbox(&self, name: &str) -> Sandbox {
        Sandbox {
            name: name.to_owned(),
            id: format!("{name}@{}", self.via.target()),
            session: String::new(),
            state: State::Running,
            directory: None,
            expires_at: None,
            urls: BTreeMap::new(),
        }
    }
}

impl Provider for Exec {
    fn settings(&self) -> Settings {
        Settings::Exec {
            via: self.text.clone(),
            url: self.url.clone(),
        }
    }

    fn reach(&self) -> Reach {
        if self.url.is_some() { Reach::Exposed } else { Reach::Nothing }
    }

    fn create<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Sandbox> {
        Box::pin(async move {
            crate::sandbox::record::check_name(&wanted.name)?;
            self.facts().await?;
            Ok(self.sandbox(&wanted.name))
        })
    }

    fn find<'a>(&'a self, name: &'a str, _wake: Wake) -> Answer<'a, Option<Sandbox>> {
        Box::pin(async move {
            crate::sandbox::record::check_name(name)?;
            self.facts().await?;
            Ok(Some(self.sandbox(name)))
        })
    }

    fn list(&self) -> Answer<'_, Vec<Sandbox>> {
        Box::pin(async move { Ok(Vec::new()) })
    }

    fn run<'a>(&'a self, _sandbox: &'a Sandbox, command: &'a Command, output: Output<'a>) -> Answer<'a, Exit> {
        Box::pin(async move {
            let manner = self.facts().await?.manner;
            self.execute(manner, command, command.stdin.as_ref().into(), output).await
        })
    }

    fn launch<'a>(&'a self, _sandbox: &'a Sandbox, command: &'a Command, log: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            let manner = self.facts().await?.manner;
            let mut launch = Command::shell(LAUNCH)
                .arg("launch")
                .arg(log)
                .arg(command.directory.clone().unwrap_or_default())
                .within(ANSWERS_WITHIN)
                .with_stdin(command.stdin.clone().unwrap_or_default());
            launch.argv.extend(command.argv.iter().cloned());
            let (exit, heard) = self.gather(manner, &launch).await?;
            launched(exit, &heard)
        })
    }

    fn upload<'a>(&'a self, _sandbox: &'a Sandbox, file: &'a Upload) -> Answer<'a, u64> {
        Box::pin(async move {
            let facts = self.facts().await?;
            let failed = |why: String| Fault::new(Code::UploadFailed, format!("uploading `{}`: {why}", file.path));
            let packed = Packed::start(&file.body, facts.packing).map_err(|error| failed(error.to_string()))?;
            let command = Command::shell(UPLOAD)
                .arg("upload")
                .arg(&file.path)
                .arg(format!("{:o}", file.mode))
                .arg(packed.size.to_string())
                .arg(facts.packing.unpack())
                .within(UPLOADED_WITHIN);
            let (exit, heard) = self.gather_from(facts.manner, &command, Input::Chunks(packed.chunks)).await?;
            let sent = packed.work.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            match sent {
                Ok(sent) if exit.is_success() => Ok(sent),
                // Why it was not read to its end is said over there.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(failed(error.to_string())),
                Ok(_) | Err(_) => Err(failed(format!("exit code {}", exit.0)).output(heard.both())),
            }
        })
    }

    fn expose<'a>(&'a self, _sandbox: &'a Sandbox, port: u16) -> Answer<'a, Option<String>> {
        let url = self.url.as_ref().map(|url| url.replace("{port}", &port.to_string()));
        Box::pin(async move { Ok(url) })
    }

    fn extend<'a>(&'a self, _sandbox: &'a Sandbox, until: jiff::Timestamp) -> Answer<'a, Option<jiff::Timestamp>> {
        // Only its user knows when it ends, and says it.
        Box::pin(async move { Ok(Some(until)) })
    }

    fn stop<'a>(&'a self, _sandbox: &'a Sandbox) -> Answer<'a, ()> {
        Box::pin(async move { Ok(()) })
    }

    fn remove<'a>(&'a self, _sandbox: &'a Sandbox) -> Answer<'a, ()> {
        Box::pin(async move { Ok(()) })
    }
}

/// Writes standard input to `$1` with mode `$2`, if it is `$3` bytes after `$4` has unpacked it.
const UPLOAD: &str = r#"new=$1.$$.new
mkdir -p "$(dirname "$1")" || exit 70
(umask 077 && $4 >"$new") && [ "$(wc -c <"$new")" -eq "$3" ] && chmod "$2" "$new" && mv -f "$new" "$1" && exit 0
rm -f "$new"
exit 71"#;
