//! One start on its way: what it was asked, what it knows, what it has done.

use super::config::Configuration;
use super::survey::Survey;
use super::{Claude, StartRequest, Started};
use crate::sandbox::binary::Binary;
use crate::sandbox::environment::Environment;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::inside::Inside;
use crate::sandbox::plan::{Goal, Known, Presence, Step, Task, action, next};
use crate::sandbox::progress::{Progress, StepDone, Told};
use crate::sandbox::provider::{Provider, Sandbox, Secret, State, Wake};
use crate::sandbox::record::{Record, Records};
use crate::sandbox::repo::Address;
use crate::tasks;
use std::time::{Duration, Instant};

/// A step that has begun.
struct Current {
    step: Step,
    began: Instant,
    details: Vec<String>,
    skipped: bool,
}

/// One start on its way.
pub(super) struct Run<'a> {
    pub(super) request: &'a StartRequest,
    pub(super) provider: &'a dyn Provider,
    pub(super) records: &'a Records,
    pub(super) progress: &'a dyn Progress,
    pub(super) address: Option<Address>,
    pub(super) token: Option<Secret>,
    pub(super) environment: Environment,
    pub(super) binary: Binary,
    pub(super) record: Record,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) survey: Survey,
    pub(super) configuration: Configuration,
    pub(super) done: Vec<Task>,
    pub(super) changed: bool,
    pub(super) bytes_uploaded: u64,
    pub(super) health_token: Option<Secret>,
    pub(super) warnings: Vec<String>,
    pub(super) ready_by: Instant,
    pub(super) pid: Option<i32>,
    /// An earlier start of this name had come to its end.
    pub(super) complete_before: bool,
    known: Known,
    current: Option<Current>,
}

impl<'a> Run<'a> {
    /// Checks the request, and looks for what is there already.
    pub(super) async fn new(
        request: &'a StartRequest,
        provider: &'a dyn Provider,
        records: &'a Records,
        progress: &'a dyn Progress,
    ) -> Result<Self, Fault> {
        let address = request.repo.as_ref().map(|repo| Address::parse(&repo.url)).transpose()?;
        if let Some(branch) = request.repo.as_ref().and_then(|repo| repo.branch.as_deref())
            && (branch.is_empty() || branch.starts_with('-') || branch.chars().any(|c| c.is_control() || c == ' '))
        {
            return Err(Fault::new(Code::BadRequest, format!("`{branch}` is no name of a branch")));
        }
        if request.port == Some(0) || request.health_port == Some(0) {
            return Err(Fault::new(Code::BadRequest, "port 0 is none"));
        }
        let environment = Environment::new(&request.environment)?;
        let path = request.binary.clone();
        let binary = tasks::spawn_blocking(move || Binary::read(path.as_deref()));
        let binary = binary.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let settings = provider.settings();
        let earlier = records.load(&request.name)?;
        if let Some(earlier) = &earlier
            && earlier.provider != settings
        {
            let message = format!(
                "a sandbox `{}` is with the provider `{}` already",
                request.name,
                earlier.provider.kind()
            );
            return Err(Fault::new(Code::BadRequest, message).hint("take another `--name`, or stop that one with `--remove` first"));
        }
        if let (Some(address), Some(held)) = (&address, earlier.as_ref().and_then(|earlier| earlier.repo.as_deref()))
            && !address.is(held)
        {
            return Err(
                Fault::new(Code::DirectoryTaken, format!("the sandbox `{}` is for `{held}`", request.name))
                    .hint("take another `--name`, or stop that one with `--remove` first"),
            );
        }
        let mut record = earlier.unwrap_or_else(|| Record::new(&request.name, settings, jiff::Timestamp::now()));
        record.steps.clear();
        record.stopped = false;
        record.fault = None;
        Ok(Self {
            request,
            provider,
            records,
            progress,
            token: request.repo.as_ref().and_then(|repo| repo.token.clone()),
            address,
            environment,
            binary,
            complete_before: record.complete,
            record,
            sandbox: None,
            survey: Survey::default(),
            configuration: Configuration::default(),
            done: Vec::new(),
            changed: false,
            bytes_uploaded: 0,
            health_token: None,
            warnings: Vec::new(),
            ready_by: Instant::now() + request.wait,
            pid: None,
            known: Known::new(Presence::Absent),
            current: None,
        })
    }

    /// Does what is missing, task by task.
    pub(super) async fn finish(&mut self) -> Result<Started, Fault> {
        self.begin(Step::Create, "looking for the sandbox");
        self.known = Known::new(self.find().await?);
        let goal = Goal {
            repo: self.address.is_some(),
            claude: self.request.claude == Claude::Install,
        };
        while let Some(task) = next(goal, &self.known).map_err(|fault| self.explain(fault))? {
            self.enter(task.step());
            let seen = self.perform(task).await?;
            self.known = self.known.after(task, seen);
            self.done.push(task);
        }
        self.end_step();
        self.record.complete = true;
        self.records.save(&self.record)?;
        Ok(self.started())
    }

    /// The sandbox as it is, without waking it.
    async fn find(&mut self) -> Result<Presence, Fault> {
        let found = self.provider.find(&self.request.name, Wake::No).await?;
        let presence = match found.as_ref().map(|found| found.state) {
            None | Some(State::Ended) => Presence::Absent,
            Some(State::Stopped) => Presence::Stopped,
            Some(State::Running) => Presence::Running,
        };
        if let Some(sandbox) = found.filter(|_| presence != Presence::Absent) {
            self.is_in(sandbox);
        }
        Ok(presence)
    }

    /// Takes a sandbox over into what is known.
    pub(super) fn is_in(&mut self, sandbox: Sandbox) {
        self.record.id.clone_from(&sandbox.id);
        self.record.session.clone_from(&sandbox.session);
        self.record.expires_at = sandbox.expires_at.or(self.record.expires_at);
        self.record.instance = self.provider.instance(&sandbox);
        self.sandbox = Some(sandbox);
    }

    /// The sandbox, once there is one.
    pub(super) fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().expect("every task but the first has one")
    }

    /// Our binary in there.
    pub(super) fn inside(&self) -> Inside<'_> {
        Inside {
            provider: self.provider,
            sandbox: self.sandbox(),
            record: &self.record,
        }
    }

    /// How much time is left for the project to get ready.
    pub(super) fn left(&self) -> Duration {
        self.ready_by.saturating_duration_since(Instant::now())
    }

    /// Says something about the step that goes on.
    pub(super) fn note(&self, line: impl Into<String>) {
        if let Some(current) = &self.current {
            let line = self.mask(&line.into());
            self.progress.tell(Told::Note { step: current.step, line });
        }
    }

    /// What the step came to, in words.
    pub(super) fn detail(&mut self, detail: impl Into<String>) {
        if let Some(current) = &mut self.current {
            current.skipped = false;
            current.details.push(detail.into());
        }
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        let message = self.mask(&message.into());
        self.progress.tell(Told::Warning { message: message.clone() });
        self.warnings.push(message);
    }

    /// Takes secrets out of a text.
    pub(super) fn mask(&self, text: &str) -> String {
        let login = self
            .address
            .as_ref()
            .and_then(|address| address.login.as_ref())
            .map(|(_, password)| password);
        let secrets = self.environment.values().chain(&self.token).chain(login).chain(&self.health_token);
        let values = secrets.map(|secret| String::from_utf8_lossy(secret.reveal()).into_owned());
        crate::host::mask::Masker::new(values).mask(text).into_owned()
    }

    /// The step that goes on.
    pub(super) fn step(&self) -> Step {
        self.current.as_ref().map_or(Step::Create, |current| current.step)
    }

    /// Goes on to a step; those on the way to it had nothing to do.
    fn enter(&mut self, step: Step) {
        let now = self.step();
        if now == step {
            return;
        }
        self.end_step();
        for skipped in Step::ALL.into_iter().filter(|other| *other > now && *other < step) {
            let detail = self.nothing_to_do(skipped);
            self.begin(skipped, &detail);
            self.end_step();
        }
        self.begin(step, what_it_does(step));
    }

    fn nothing_to_do(&self, step: Step) -> String {
        match step {
            Step::Claude => match (&self.survey.claude, self.request.claude) {
                (Some(claude), _) => format!("{claude} is there"),
                (None, _) => "left out".to_owned(),
            },
            Step::Upload => "the same binary is there".to_owned(),
            _ => "nothing to do".to_owned(),
        }
    }

    fn begin(&mut self, step: Step, detail: &str) {
        self.current = Some(Current {
            step,
            began: Instant::now(),
            details: vec![detail.to_owned()],
            skipped: true,
        });
        self.progress.tell(Told::Began {
            step,
            detail: detail.to_owned(),
        });
    }

    fn end_step(&mut self) {
        let Some(Current {
            step,
            began,
            details,
            skipped,
        }) = self.current.take()
        else {
            return;
        };
        // The first says what it was about to do.
        let said = details.len().min(usize::from(!skipped));
        let detail = self.mask(&details[said..].join(", "));
        let done = StepDone {
            step,
            detail,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            skipped,
        };
        self.record.steps.push(done.clone());
        self.progress.tell(Told::Done(done));
    }

    /// Says what stands in the way by its name.
    fn explain(&self, mut fault: Fault) -> Fault {
        if matches!(fault.code, Code::DirectoryTaken | Code::BadRequest) {
            fault.message = format!("{}: `{}`", fault.message, self.survey.directory);
        }
        fault
    }

    fn started(&self) -> Started {
        Started {
            action: action(&self.done, self.complete_before, self.changed),
            name: self.record.name.clone(),
            provider: self.record.provider.kind().to_owned(),
            sandbox_id: self.record.id.clone(),
            user: self.record.user.clone(),
            home: self.record.home.clone(),
            directory: self.record.directory.clone(),
            commit: self.survey.commit.clone(),
            pid: self.pid,
            url: self.record.url.clone(),
            health_url: self.record.health_url.clone(),
            expires_at: self.record.expires_at,
            ready: true,
            steps: self.record.steps.clone(),
            bytes_uploaded: self.bytes_uploaded,
            warnings: self.warnings.clone(),
            token: self.health_token.clone(),
        }
    }
}

fn what_it_does(step: Step) -> &'static str {
    match step {
        Step::Create => "making the sandbox",
        Step::Claude => "installing Claude Code",
        Step::Upload => "uploading",
        Step::Environment => "checking the configuration and the environment",
        Step::Start => "starting the supervisor",
        Step::Check => "waiting for the supervisor to answer",
        Step::Project => "installing the project",
        Step::Ready => "waiting for the project to be ready",
    }
}
