//! Sandboxes that do as they are told.

use futures_util::future::BoxFuture;
use sandkeep::control::document::{StatusDocument, Time};
use sandkeep::sandbox::fault::{Code, Fault};
use sandkeep::sandbox::fleet::{Heard, Prober, Target};
use sandkeep::sandbox::look::{Condition, Report, Unsaved};
use sandkeep::sandbox::plan::{Action, Step};
use sandkeep::sandbox::progress::{Progress, StepDone, Told};
use sandkeep::sandbox::serve::order::{Environment, Order};
use sandkeep::sandbox::serve::sandboxes::{Known, Sandboxes};
use sandkeep::sandbox::start::Started;
use sandkeep::sandbox::stop::Stopped;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// How a start goes.
#[derive(Clone, Debug)]
pub enum Mood {
    Willing,
    /// Waits after its first step until the gate opens.
    Gated,
    Failing(Fault),
    /// Fails so often, then goes well.
    FailingOnce(Fault),
}

#[derive(Debug)]
struct Of {
    mood: Mood,
    running: BTreeMap<String, bool>,
    asked: Vec<String>,
    environment: Vec<(String, String)>,
    /// When each ends, of those that a provider ends.
    ends: BTreeMap<String, jiff::Timestamp>,
    /// What the agent in each does.
    agent: BTreeMap<String, &'static str>,
    /// The last moment that the plan allows.
    most: Option<jiff::Timestamp>,
}

#[derive(Clone)]
pub struct Fake {
    of: Arc<Mutex<Of>>,
    gate: watch::Sender<bool>,
}

pub fn document(sandbox: &str, ready: bool) -> StatusDocument {
    let status = if ready { "ok" } else { "starting" };
    let text = format!(
        r#"{{"project":"p","sandbox":"{sandbox}","boot_id":"b","version":"0.1.0","config_hash":"c","pid":41,
        "started_at":"2026-02-03T04:05:06.000Z","expires_at":null,"status":"{status}","ready":{ready},
        "capabilities":{{"pid1":false,"subreaper":true,"root":true,"cgroup2":false}},"secret_isolation":"none",
        "box":{{"memory_bytes":1000,"memory_total":2000,"disk_free":3000,"oom_kills":0}},"units":[],
        "preview":{{"state":"ready","port":3000,"reason":null}},"sync":{{}},"agent":{{}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

impl Fake {
    pub fn new(mood: Mood) -> Self {
        Self {
            of: Arc::new(Mutex::new(Of {
                mood,
                running: BTreeMap::new(),
                asked: Vec::new(),
                environment: Vec::new(),
                ends: BTreeMap::new(),
                agent: BTreeMap::new(),
                most: None,
            })),
            gate: watch::Sender::new(false),
        }
    }

    pub fn set_mood(&self, mood: Mood) {
        self.of.lock().unwrap().mood = mood;
    }

    /// As the command line does it, beside the server.
    pub fn is_started_elsewhere(&self, sandbox: &str) {
        self.of.lock().unwrap().running.insert(sandbox.to_owned(), true);
    }

    pub fn is_stopped_elsewhere(&self, sandbox: &str) {
        self.of.lock().unwrap().running.insert(sandbox.to_owned(), false);
    }

    pub fn is_removed_elsewhere(&self, sandbox: &str) {
        self.of.lock().unwrap().running.remove(sandbox);
    }

    /// Its provider ends it then.
    pub fn set_end(&self, sandbox: &str, ends: jiff::Timestamp) {
        self.of.lock().unwrap().ends.insert(sandbox.to_owned(), ends);
    }

    pub fn end(&self, sandbox: &str) -> jiff::Timestamp {
        self.of.lock().unwrap().ends[sandbox]
    }

    pub fn set_most(&self, most: jiff::Timestamp) {
        self.of.lock().unwrap().most = Some(most);
    }

    pub fn set_agent(&self, sandbox: &str, state: &'static str) {
        self.of.lock().unwrap().agent.insert(sandbox.to_owned(), state);
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// What was asked, in order: `start sb-1`, `stop sb-1`.
    pub fn asked(&self) -> Vec<String> {
        self.of.lock().unwrap().asked.clone()
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        self.of.lock().unwrap().environment.clone()
    }

    fn note(&self, what: String) {
        self.of.lock().unwrap().asked.push(what);
    }
}

fn done(step: Step, duration_ms: u64) -> Told {
    Told::Done(StepDone {
        step,
        detail: format!("{step} done"),
        duration_ms,
        skipped: step == Step::Claude,
    })
}

impl Sandboxes for Fake {
    fn start(
        &self,
        sandbox: String,
        _order: Order,
        environment: Environment,
        progress: Arc<dyn Progress>,
    ) -> BoxFuture<'static, Result<Started, Fault>> {
        let this = self.clone();
        this.note(format!("start {sandbox}"));
        let text = |secret: &sandkeep::sandbox::provider::Secret| String::from_utf8(secret.reveal().to_vec()).unwrap();
        this.of.lock().unwrap().environment = environment.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        Box::pin(async move {
            progress.tell(Told::Began {
                step: Step::Create,
                detail: "making it".into(),
            });
            progress.tell(done(Step::Create, 7));
            let mood = this.of.lock().unwrap().mood.clone();
            match mood {
                Mood::Willing => {}
                Mood::Gated => {
                    let mut gate = this.gate.subscribe();
                    gate.wait_for(|open| *open).await.unwrap();
                }
                Mood::Failing(fault) => return Err(fault),
                Mood::FailingOnce(fault) => {
                    this.set_mood(Mood::Willing);
                    return Err(fault);
                }
            }
            progress.tell(done(Step::Claude, 0));
            progress.tell(Told::Note {
                step: Step::Project,
                line: "added 1 package".into(),
            });
            progress.tell(done(Step::Ready, 9));
            this.of.lock().unwrap().running.insert(sandbox.clone(), true);
            Ok(Started {
                action: Action::Created,
                name: sandbox.clone(),
                provider: "local".into(),
                sandbox_id: sandbox,
                user: "app".into(),
                home: "/home/app".into(),
                directory: "/home/app/shop".into(),
                commit: None,
                pid: Some(41),
                url: Some("http://127.0.0.1:3000".into()),
                health_url: None,
                expires_at: None,
                ready: true,
                steps: Vec::new(),
                bytes_uploaded: 5,
                warnings: vec!["something".into()],
                token: None,
            })
        })
    }

    fn look(&self, sandbox: String) -> BoxFuture<'static, Result<Report, Fault>> {
        let running = self.of.lock().unwrap().running.get(&sandbox).copied();
        Box::pin(async move {
            let Some(running) = running else {
                return Err(Fault::new(Code::NoSuchSandbox, format!("no sandbox is called `{sandbox}`")));
            };
            Ok(Report {
                name: sandbox.clone(),
                condition: if running { Condition::Ready } else { Condition::NoSupervisor },
                reason: (!running).then(|| "it was stopped".to_owned()),
                provider: "local".into(),
                sandbox_id: sandbox.clone(),
                url: Some("http://127.0.0.1:3000".into()),
                health_url: None,
                expires_at: None,
                unsaved: Some(Unsaved {
                    unpushed_commits: 2,
                    changed_files: 1,
                    unsynced_files: None,
                }),
                status: running.then(|| document(&sandbox, true)),
            })
        })
    }

    fn lines(&self, sandbox: String, lines: usize) -> BoxFuture<'static, Result<String, Fault>> {
        Box::pin(async move { Ok(format!("{sandbox}: the last {lines} lines")) })
    }

    fn stop(&self, sandbox: String) -> BoxFuture<'static, Result<Stopped, Fault>> {
        let this = self.clone();
        this.note(format!("stop {sandbox}"));
        Box::pin(async move {
            let mut of = this.of.lock().unwrap();
            let Some(running) = of.running.get_mut(&sandbox) else {
                return Err(Fault::new(Code::NoSuchSandbox, format!("no sandbox is called `{sandbox}`")));
            };
            let already = !std::mem::replace(running, false);
            Ok(Stopped {
                name: sandbox,
                drained: !already,
                already,
                warnings: vec!["2 commits are on no remote".into()],
                ..Stopped::default()
            })
        })
    }

    fn extend(&self, sandbox: String, until: jiff::Timestamp) -> BoxFuture<'static, Result<Option<jiff::Timestamp>, Fault>> {
        self.note(format!("extend {sandbox}"));
        let mut of = self.of.lock().unwrap();
        let allowed = of.most.map_or(until, |most| most.min(until));
        let ends = of.ends.get_mut(&sandbox).unwrap();
        *ends = allowed.max(*ends);
        let ends = *ends;
        Box::pin(async move { Ok(Some(ends)) })
    }

    fn known(&self) -> Result<Vec<Known>, Fault> {
        let of = self.of.lock().unwrap();
        let known = |id: &String| Known {
            sandbox_id: id.clone(),
            provider: "local".into(),
            repo: Some("https://github.com/acme/shop".into()),
            branch: None,
            preview_url: None,
            created_at: Time(jiff::Timestamp::UNIX_EPOCH),
            expires_at: of.ends.get(id).copied().map(Time),
            complete: true,
            stopped: !of.running[id],
            extendable: of.ends.contains_key(id),
            target: Target::Provider,
        };
        Ok(of.running.keys().map(known).collect())
    }
}

impl Prober for Fake {
    fn probe(&self, sandbox: Arc<str>, _target: Target) -> BoxFuture<'static, Result<Heard, String>> {
        let of = self.of.lock().unwrap();
        let running = of.running.get(sandbox.as_ref()).copied();
        let agent = of.agent.get(sandbox.as_ref()).copied();
        Box::pin(async move {
            match running {
                Some(true) => {
                    let mut document = document(&sandbox, true);
                    if let Some(state) = agent {
                        document.agent.state = state.to_owned();
                    }
                    Ok(Heard::Document(Arc::new(document)))
                }
                _ => Err("nobody answers".to_owned()),
            }
        })
    }
}
