//! How each task is done.

use super::config::{choose, made_path};
use super::run::Run;
use super::survey::{Survey, Wanted as Look};
use crate::control::document::StatusDocument;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::inside::{failed, with_environment};
use crate::sandbox::plan::{Inside, Task};
use crate::sandbox::provider::{Body, Command, Exit, Reach, Secret, State, Upload, Wake, Wanted, hear};
use crate::sandbox::verdict::Until;
use crate::sandbox::{http, repo};
use std::net::TcpListener;
use std::time::Duration;

/// The health endpoint's port where the sandbox has all ports to itself.
const HEALTH_PORT: u16 = 7878;
/// The preview's port until it is known.
const USUAL_PORT: u16 = 3000;
/// How long npm may take.
const CLAUDE_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long a supervisor may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long what is ready inside may take to be reachable from outside.
const REACHABLE_WITHIN: Duration = Duration::from_secs(10);
/// How much of a log is shown.
const LAST_LINES: usize = 40;

/// Installs Claude Code below `$1`.
const CLAUDE: &str = r#"command -v npm >/dev/null 2>&1 || exit 127
npm install --global --prefix "$1" --no-fund --no-audit --loglevel=error @anthropic-ai/claude-code >&2 || exit 1
[ -x "$1/bin/claude" ] && printf '%s\n' "$1/bin/claude""#;

/// Becomes the supervisor: `$1` our directory, then the command. Its pid is written down, to tell "not yet" from "no longer".
const LAUNCH: &str = r#"place=$1
shift
echo $$ >"$place/supervisor.pid"
exec "$@""#;

/// Waits until the binary `$1` of the instance `$2` answers, while the process of `$3/supervisor.pid` lives, for `$4` tenths of a second.
///
/// One that ended may have found another that an earlier start had launched, and that does not answer yet.
const ANSWERS: &str = r#"i=0 gone=0
while [ $i -lt "$4" ]; do
  "$1" --instance "$2" status --json 2>/dev/null && exit 0
  if [ -s "$3/supervisor.pid" ] && ! kill -0 "$(cat "$3/supervisor.pid")" 2>/dev/null; then
    gone=$((gone+1))
    [ $gone -lt 15 ] || exit 10
  fi
  sleep 0.1
  i=$((i+1))
done
exit 11"#;

impl Run<'_> {
    /// Does one thing. What is about to be made is written down before it is made.
    pub(super) async fn perform(&mut self, task: Task) -> Result<Option<Inside>, Fault> {
        match task {
            Task::Make => self.make().await?,
            Task::Wake => self.wake().await?,
            Task::Look => return self.look().await.map(Some),
            Task::Clone => self.clone_repository().await?,
            Task::InstallClaude => self.install_claude().await?,
            Task::Upload => self.upload().await?,
            Task::Configure => self.configure().await?,
            Task::CheckEnvironment => self.check_environment().await?,
            Task::Launch => self.launch().await?,
            Task::Reload => self.reload().await?,
            Task::AwaitAnswer => self.await_answer().await?,
            Task::AwaitInstalled => self.await_installed().await?,
            Task::AwaitReady => self.await_ready().await?,
        }
        Ok(None)
    }

    async fn make(&mut self) -> Result<(), Fault> {
        let mut ports = vec![self.record.port.or(self.request.port).unwrap_or(USUAL_PORT)];
        ports.push(self.request.health_port.unwrap_or(HEALTH_PORT));
        ports.dedup();
        // Another one than that of an earlier record has nothing of it.
        self.record.complete = false;
        self.complete_before = false;
        self.record.expires_at = None;
        self.record.made.sandbox = true;
        self.records.save(&self.record)?;
        let wanted = Wanted {
            name: self.request.name.clone(),
            ports,
            timeout: self.request.timeout,
        };
        let made = self.provider.create(&wanted).await.inspect_err(|fault| {
            let refused = matches!(
                fault.code,
                Code::Unauthorized | Code::PlanLimit | Code::Quota | Code::BadRequest | Code::Unsupported
            );
            self.record.made.sandbox = !refused;
        })?;
        self.detail(format!("made {}", made.id));
        self.is_in(made);
        self.records.save(&self.record)
    }

    async fn wake(&mut self) -> Result<(), Fault> {
        let woken = self.provider.find(&self.request.name, Wake::Yes).await?;
        let Some(sandbox) = woken.filter(|sandbox| sandbox.state == State::Running) else {
            return Err(
                Fault::new(Code::SandboxGone, format!("the sandbox `{}` does not come back", self.request.name))
                    .hint("run `sandbox start` again: it makes a new one"),
            );
        };
        self.detail(format!("woke {}", sandbox.id));
        self.is_in(sandbox);
        self.records.save(&self.record)
    }

    async fn look(&mut self) -> Result<Inside, Fault> {
        self.keep_alive().await?;
        let sandbox = self.sandbox();
        let place = self.provider.place(sandbox);
        let wanted = Look {
            directory: self.request.directory.as_deref(),
            place: place.as_deref(),
            address: self.address.as_ref(),
            instance: &self.record.instance,
        };
        let survey = Survey::take(self.provider, sandbox, wanted).await?;
        self.record.user.clone_from(&survey.user);
        self.record.home.clone_from(&survey.home);
        self.record.place.clone_from(&survey.place);
        self.record.directory.clone_from(&survey.directory);
        self.binary.check(&survey.machine)?;
        let inside = survey.inside(self.address.as_ref(), &self.binary.sha256);
        if inside.supervisor && inside.binary != crate::sandbox::plan::Binary::Same {
            self.warn("another version of sandkeep runs in the sandbox: `sandkeep sandbox upgrade` brings this one in");
        }
        if let (Some(wanted), Some(found)) = (self.request.repo.as_ref().and_then(|repo| repo.branch.clone()), &survey.branch)
            && wanted != *found
        {
            self.warn(format!(
                "the checkout is on branch `{found}`, not on `{wanted}`: what is in it is left as it is"
            ));
        }
        self.detail(format!("{} in {}", survey.user, survey.directory));
        self.survey = survey;
        Ok(inside)
    }

    /// Has the sandbox live as long as was asked for.
    async fn keep_alive(&mut self) -> Result<(), Fault> {
        let Some(timeout) = self.request.timeout else { return Ok(()) };
        let until = jiff::SignedDuration::try_from(timeout)
            .ok()
            .and_then(|timeout| jiff::Timestamp::now().checked_add(timeout).ok());
        let Some(until) = until else { return Ok(()) };
        match self.provider.extend(self.sandbox(), until).await {
            Ok(ends) => self.record.expires_at = ends.or(self.record.expires_at),
            Err(fault) => self.warn(format!("the sandbox keeps its deadline: {fault}")),
        }
        Ok(())
    }

    async fn clone_repository(&mut self) -> Result<(), Fault> {
        let (Some(address), Some(wanted)) = (&self.address, &self.request.repo) else {
            return Ok(());
        };
        if !self.complete_before {
            self.record.made.checkout = true;
        }
        self.record.repo = Some(address.url.clone());
        self.record.branch.clone_from(&wanted.branch);
        self.records.save(&self.record)?;
        self.note(format!("cloning {}", address.url));
        let command = repo::clone(
            address,
            wanted.token.as_ref(),
            wanted.branch.as_deref(),
            &self.survey.directory,
            wanted.depth,
        );
        let (exit, heard) = hear(self.provider, self.sandbox(), &command).await?;
        if !exit.is_success() {
            let with_token = wanted.token.is_some() || address.login.is_some();
            return Err(repo::explain(
                &address.url,
                wanted.branch.as_deref(),
                with_token,
                exit.0,
                &heard.both(),
            ));
        }
        let (url, supervisor) = (address.url.clone(), self.survey.supervisor);
        let claude = self.survey.claude.clone();
        let place = self.survey.place.clone();
        let look = Look {
            directory: Some(&self.survey.directory),
            place: Some(&place),
            address: None,
            instance: &self.record.instance,
        };
        let mut survey = Survey::take(self.provider, self.sandbox(), look).await?;
        survey.claude = claude.or(survey.claude);
        survey.supervisor = supervisor;
        self.survey = survey;
        let commit = self
            .survey
            .commit
            .as_deref()
            .and_then(|commit| commit.get(..8))
            .unwrap_or("nothing")
            .to_owned();
        self.detail(format!("cloned {url} at {commit}"));
        Ok(())
    }

    async fn install_claude(&mut self) -> Result<(), Fault> {
        if !self.survey.has("npm") {
            return Err(
                Fault::new(Code::MissingProgram, "there is no npm in the sandbox to install Claude Code with")
                    .hint("install Node.js there, or leave Claude Code out with `--no-claude`"),
            );
        }
        self.record.made.place |= !self.complete_before;
        self.records.save(&self.record)?;
        let command = Command::shell(CLAUDE)
            .arg("claude")
            .arg(format!("{}/npm", self.survey.place))
            .within(CLAUDE_WITHIN);
        let (exit, heard) = hear(self.provider, self.sandbox(), &command).await?;
        if !exit.is_success() {
            return Err(Fault::new(
                Code::ClaudeFailed,
                format!("installing Claude Code: npm ended with exit code {}", exit.0),
            )
            .hint("`--no-claude` leaves it out")
            .output(heard.both()));
        }
        let claude = heard.text().trim().to_owned();
        self.detail(format!("installed {claude}"));
        self.survey.claude = Some(claude);
        Ok(())
    }

    async fn upload(&mut self) -> Result<(), Fault> {
        self.record.made.place |= !self.complete_before;
        self.records.save(&self.record)?;
        let upload = Upload {
            path: self.record.binary(),
            mode: 0o755,
            body: Body::File(self.binary.path.clone()),
        };
        self.note(format!("{} bytes", self.binary.size));
        let sent = self.provider.upload(self.sandbox(), &upload).await?;
        self.bytes_uploaded += sent;
        self.detail(format!("{sent} bytes sent"));
        Ok(())
    }

    async fn configure(&mut self) -> Result<(), Fault> {
        let listen = self.listen();
        self.configuration = choose(self.request, &self.survey, &listen);
        self.record.up.clone_from(&self.configuration.up);
        if let Some(text) = self.configuration.made.clone() {
            let upload = Upload {
                path: made_path(&self.survey.place),
                mode: 0o600,
                body: Body::Bytes(Secret::new(text)),
            };
            self.bytes_uploaded += self.provider.upload(self.sandbox(), &upload).await?;
        }
        self.detail(self.configuration.said.clone());
        self.records.save(&self.record)
    }

    /// The health endpoint's address.
    fn listen(&mut self) -> String {
        let reach = self.provider.reach();
        let port = match (self.request.health_port, reach) {
            (Some(port), _) => Some(port),
            (None, Reach::Exposed) => Some(self.record.health_port.unwrap_or(HEALTH_PORT)),
            (None, Reach::Loopback) => self
                .record
                .health_port
                .filter(|port| self.survey.supervisor || TcpListener::bind(("127.0.0.1", *port)).is_ok())
                .or_else(free_port),
            (None, Reach::Nothing) => None,
        };
        self.record.health_port = port;
        let address = if reach == Reach::Loopback { "127.0.0.1" } else { "0.0.0.0" };
        port.map_or_else(|| "off".to_owned(), |port| format!("{address}:{port}"))
    }

    /// The environment that the supervisor gets.
    fn complete_environment(&mut self) {
        let random = || Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
        self.health_token = Some(self.environment.default("SANDKEEP_TOKEN", random));
        let id = self.record.id.clone();
        self.environment.default("SANDBOX_ID", || Secret::new(id));
        if let Some(at) = self.record.expires_at {
            self.environment.default("SANDBOX_EXPIRES_AT", || Secret::new(at.to_string()));
        }
        self.record.variables = self.environment.names();
    }

    fn script(&self) -> Secret {
        let directory = self.survey.claude.as_deref().and_then(|claude| claude.rsplit_once('/'));
        let path: Vec<String> = directory.map(|(directory, _)| directory.to_owned()).into_iter().collect();
        self.environment.script(&path)
    }

    async fn check_environment(&mut self) -> Result<(), Fault> {
        self.complete_environment();
        let checked = self.inside().check(self.script()).await?;
        for note in &checked.notes {
            self.note(note.clone());
        }
        self.record.port = checked.port.or(self.request.port);
        self.detail(format!(
            "{} variables, units {}",
            self.record.variables.len(),
            checked.units.join(" ")
        ));
        self.records.save(&self.record)
    }

    async fn launch(&mut self) -> Result<(), Fault> {
        let place = &self.survey.place;
        let mut command = Command::shell(LAUNCH).arg("launch").arg(place);
        command
            .argv
            .extend([self.record.binary(), "--instance".to_owned(), self.record.instance.clone()]);
        command.argv.extend(["up".to_owned(), "--detached".to_owned()]);
        command.argv.extend(self.record.up.iter().cloned());
        let command = with_environment(command.in_directory(&self.survey.directory).once(), self.script());
        self.record.made.supervisor = true;
        self.records.save(&self.record)?;
        let id = self.provider.launch(self.sandbox(), &command, &self.log()).await?;
        self.survey.supervisor = true;
        self.detail(format!("launched as {id}"));
        Ok(())
    }

    /// What the supervisor itself writes.
    fn log(&self) -> String {
        format!("{}/supervisor.log", self.survey.place)
    }

    async fn reload(&mut self) -> Result<(), Fault> {
        let reloaded = self.inside().reload().await?;
        self.changed = reloaded.changed;
        let new: Vec<String> = self
            .environment
            .names()
            .into_iter()
            .filter(|name| !self.record.variables.contains(name))
            .collect();
        if !new.is_empty() && !self.record.variables.is_empty() {
            self.warn(format!(
                "{} reaches the supervisor when it is started the next time",
                new.join(", ")
            ));
        }
        self.detail(if self.changed {
            "another configuration was taken over"
        } else {
            "it runs"
        });
        Ok(())
    }

    async fn await_answer(&mut self) -> Result<(), Fault> {
        let tenths = ANSWERS_WITHIN.as_millis() / 100;
        let command = Command::shell(ANSWERS)
            .arg("answers")
            .arg(self.record.binary())
            .arg(&self.record.instance)
            .arg(&self.survey.place)
            .arg(tenths.to_string())
            .within(ANSWERS_WITHIN * 3);
        let (exit, heard) = hear(self.provider, self.sandbox(), &command).await?;
        if !exit.is_success() {
            return Err(self.no_answer(exit).await);
        }
        let status: serde_json::Value = serde_json::from_slice(&heard.stdout).unwrap_or_default();
        self.pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = self.pid.unwrap_or_default();
        self.detail(format!("pid {pid}"));
        if let Some(port) = self.record.health_port {
            self.record.health_url = self.provider.expose(self.sandbox(), port).await?;
        }
        if let Some(url) = self.record.health_url.clone() {
            match http::answers(&format!("{url}/livez"), REACHABLE_WITHIN).await {
                Ok(()) => self.detail(format!("health at {url}")),
                Err(why) => self.warn(format!("the health endpoint {url} is not reachable from here: {why}")),
            }
        }
        self.ready_by = std::time::Instant::now() + self.request.wait;
        self.records.save(&self.record)
    }

    /// Why the supervisor does not answer.
    async fn no_answer(&self, exit: Exit) -> Fault {
        let tail = Command::shell(format!("tail -n {LAST_LINES} \"$0\"")).arg(self.log());
        let said = hear(self.provider, self.sandbox(), &tail)
            .await
            .map(|(_, heard)| heard.text())
            .unwrap_or_default();
        let mut fault = failed("starting the supervisor", exit, &said);
        fault.code = Code::SupervisorFailed;
        if said.trim().is_empty() {
            fault.message = match exit.0 {
                10 => "the supervisor ended before it answered".to_owned(),
                _ => format!("the supervisor did not answer within {ANSWERS_WITHIN:?}"),
            };
        }
        fault
    }

    async fn await_installed(&mut self) -> Result<(), Fault> {
        let status = self.wait_inside(Until::Installed).await?;
        let install = status.units.iter().find(|unit| unit.name == "install");
        let detail = match install {
            Some(unit) if unit.ready => "installed",
            Some(_) => "install is skipped",
            None => "nothing to install",
        };
        self.detail(detail);
        Ok(())
    }

    async fn await_ready(&mut self) -> Result<(), Fault> {
        let status = self.wait_inside(Until::Ready).await?;
        self.pid = Some(status.pid);
        self.record.port = status.preview.port.or(self.record.port);
        self.record.url = match self.record.port {
            Some(port) => self.provider.expose(self.sandbox(), port).await?,
            None => None,
        };
        self.detail("ready");
        if let Some(url) = self.record.url.clone() {
            match http::answers(&url, REACHABLE_WITHIN).await {
                Ok(()) => self.detail(format!("preview at {url}")),
                Err(why) => {
                    let reason = status
                        .preview
                        .reason
                        .clone()
                        .map_or_else(String::new, |reason| format!(" ({reason})"));
                    self.warn(format!("the preview {url} is not reachable from here: {why}{reason}"));
                }
            }
        }
        self.records.save(&self.record)
    }

    async fn wait_inside(&self, until: Until) -> Result<StatusDocument, Fault> {
        let mut note = |line: String| self.note(line);
        self.inside().wait(until, self.left(), &mut note).await
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> Option<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .ok()?
        .local_addr()
        .ok()
        .map(|address| address.port())
}
