//! What is there: sandboxes, their sessions, their snapshots, as the API shows them.

use crate::command::Command;
use crate::faults::Faults;
use crate::reply::{self, Response};
use crate::vm::{Generation, Vm};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Who may come, and the plan's limits.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) token: String,
    pub(crate) team: String,
    pub(crate) project: String,
    pub(crate) max_timeout_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) settings: Settings,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) seen: Mutex<Vec<Value>>,
    pub(crate) world: Mutex<World>,
    pub(crate) resuming: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
}

/// A named sandbox: outlives its sessions.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) name: String,
    pub(crate) body: Value,
    pub(crate) generation: Generation,
    pub(crate) persistent: bool,
    pub(crate) timeout_ms: u64,
    pub(crate) ports: Vec<u16>,
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
    pub(crate) session: String,
    pub(crate) snapshot: Option<String>,
    /// Its next session begins with an empty disk: by order of a test.
    pub(crate) loses_disk: bool,
}

/// One life of its VM.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) status: &'static str,
    pub(crate) timeout_ms: u64,
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
    pub(crate) stopped_at: Option<u64>,
    pub(crate) source_snapshot: Option<String>,
    pub(crate) snapshotted_at: Option<u64>,
    pub(crate) network_policy: Option<Value>,
    pub(crate) vm: Option<Arc<Vm>>,
    pub(crate) commands: Vec<Arc<Command>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) session: String,
    pub(crate) status: &'static str,
    pub(crate) created_at: u64,
    pub(crate) parent: Option<String>,
    pub(crate) generation: Generation,
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}{:08x}", uuid::Uuid::new_v4().simple(), fastrand::u32(..))
}

impl Fake {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            faults: Mutex::default(),
            seen: Mutex::default(),
            world: Mutex::default(),
            resuming: tokio::sync::Mutex::default(),
        }
    }

    /// Notes how the last request of an operation was answered; 0: not at all.
    pub(crate) fn answered(&self, operation: &str, status: u16) {
        let mut seen = self.seen.lock().unwrap();
        if let Some(request) = seen
            .iter_mut()
            .rev()
            .find(|request| request["op"] == operation && request["status"].is_null())
        {
            request["status"] = status.into();
        }
    }

    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.settings.dir.join("disks").join(name)
    }

    pub(crate) fn snapshot_disk(&self, id: &str) -> PathBuf {
        self.settings.dir.join("snapshots").join(id)
    }

    /// Ends every VM, at the end of the fake.
    pub(crate) async fn end_all(&self) {
        let vms: Vec<_> = self
            .world
            .lock()
            .unwrap()
            .sessions
            .values_mut()
            .filter_map(|session| session.vm.take())
            .collect();
        for vm in vms {
            vm.off().await;
        }
    }

    /// A session that can be asked to do something, or the refusal that the service would give.
    pub(crate) fn running(&self, id: &str) -> Result<(Session, Arc<Vm>), Response> {
        let world = self.world.lock().unwrap();
        let session = world.sessions.get(id).ok_or_else(|| not_found("Session", id))?;
        match (session.status, &session.vm) {
            ("running", Some(vm)) => Ok((session.clone(), Arc::clone(vm))),
            ("stopping" | "snapshotting", _) => Err(reply::error(
                422,
                &format!("sandbox_{}", session.status),
                &format!("Sandbox is {}", session.status),
            )),
            _ => Err(reply::error(
                410,
                "sandbox_stopped",
                "Sandbox has stopped execution and is no longer available",
            )),
        }
    }
}

pub(crate) fn not_found(what: &str, which: &str) -> Response {
    reply::error(404, "not_found", &format!("{what} not found: {which}"))
}

impl World {
    /// A sandbox and its current session.
    pub(crate) fn sandbox(&self, name: &str) -> Result<(&Sandbox, &Session), Response> {
        let sandbox = self.sandboxes.get(name).ok_or_else(|| not_found("Sandbox", name))?;
        Ok((sandbox, self.sessions.get(&sandbox.session).expect("a sandbox has a session")))
    }
}

impl Sandbox {
    pub(crate) fn routes(&self) -> Value {
        let label: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let routes = self
            .ports
            .iter()
            .map(|port| json!({"url": format!("http://127.0.0.1:{port}"), "subdomain": format!("{label}-{port}"), "port": port}));
        routes.collect()
    }

    fn vcpus(&self) -> u64 {
        self.body["resources"]["vcpus"].as_u64().unwrap_or(2)
    }

    pub(crate) fn document(&self, session: &Session) -> Value {
        let mut document = json!({
            "name": self.name, "persistent": self.persistent, "region": "iad1",
            "vcpus": self.vcpus(), "memory": self.vcpus() * 2048, "timeout": self.timeout_ms,
            "createdAt": self.created_at, "updatedAt": self.updated_at, "statusUpdatedAt": session.updated_at,
            "currentSessionId": self.session, "status": session.status, "cwd": self.generation.cwd(),
        });
        match &self.generation {
            Generation::Runtime(runtime) => document["runtime"] = json!(runtime),
            Generation::Image(image) => document["image"] = json!(image),
        }
        if session.status == "running" {
            document["expiresAt"] = json!(session.created_at + session.timeout_ms);
        }
        for (key, value) in [
            ("currentSnapshotId", json!(self.snapshot)),
            ("tags", self.body["tags"].clone()),
            ("networkPolicy", policy(session.network_policy.as_ref())),
            ("snapshotExpiration", self.body["snapshotExpiration"].clone()),
            ("keepLastSnapshots", self.body["keepLastSnapshots"].clone()),
        ] {
            if !value.is_null() {
                document[key] = value;
            }
        }
        document
    }
}

/// How a policy is shown: by mode, for the SDK takes nothing else back.
fn policy(policy: Option<&Value>) -> Value {
    match policy {
        None => Value::Null,
        Some(policy) if policy["mode"].is_string() => json!({"mode": policy["mode"]}),
        Some(policy) => {
            let domains: Vec<String> = match &policy["allow"] {
                Value::Object(rules) => rules.keys().cloned().collect(),
                allow => serde_json::from_value(allow.clone()).unwrap_or_default(),
            };
            json!({"mode": "custom", "allowedDomains": domains})
        }
    }
}

impl Session {
    /// Whether its machine is being ended now, not only said to be by a test.
    pub(crate) fn is_stopping(&self) -> bool {
        self.status == "stopping" && self.vm.is_none()
    }

    pub(crate) fn document(&self, sandbox: &Sandbox) -> Value {
        let mut document = json!({
            "id": self.id, "memory": sandbox.vcpus() * 2048, "vcpus": sandbox.vcpus(), "region": "iad1",
            "timeout": self.timeout_ms, "status": self.status, "cwd": sandbox.generation.cwd(),
            "requestedAt": self.created_at, "startedAt": self.created_at, "createdAt": self.created_at, "updatedAt": self.updated_at,
            "projectId": sandbox.body["projectId"], "sourceSandboxName": self.sandbox,
        });
        if let Generation::Runtime(runtime) = &sandbox.generation {
            document["runtime"] = json!(runtime);
        }
        if sandbox.body["__interactive"] == true {
            document["interactivePort"] = json!(26661);
        }
        if let Some(stopped) = self.stopped_at {
            document["stoppedAt"] = json!(stopped);
            document["requestedStopAt"] = json!(stopped);
            document["duration"] = json!(stopped - self.created_at);
            document["activeCpuDurationMs"] = json!(0);
            document["networkTransfer"] = json!({"ingress": 0, "egress": 0});
        }
        for (key, value) in [
            ("sourceSnapshotId", json!(self.source_snapshot)),
            ("snapshottedAt", json!(self.snapshotted_at)),
            ("networkPolicy", policy(self.network_policy.as_ref())),
        ] {
            if !value.is_null() {
                document[key] = value;
            }
        }
        document
    }
}

impl Snapshot {
    pub(crate) fn document(&self) -> Value {
        let mut document = json!({
            "id": self.id, "sourceSessionId": self.session, "region": "iad1", "regions": ["iad1"], "status": self.status,
            "sizeBytes": 1, "createdAt": self.created_at, "updatedAt": self.created_at,
        });
        if let Some(parent) = &self.parent {
            document["parentId"] = json!(parent);
        }
        document
    }
}
