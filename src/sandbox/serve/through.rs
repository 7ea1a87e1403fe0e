//! What stands behind the seam: the sandboxes' own functions, with what the server knows and gives to each of them.

use super::keys::Keys;
use super::order::{Environment, Order};
use super::sandboxes::{Known, Sandboxes};
use crate::control::document::Time;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::fleet::poll::HttpPolls;
use crate::sandbox::fleet::{Heard, Prober, Target};
use crate::sandbox::look::{self, LogsWanted, Report};
use crate::sandbox::progress::Progress;
use crate::sandbox::provider::{Provider, Secret, Settings};
use crate::sandbox::record::{Record, Records};
use crate::sandbox::start::{self, Claude, Repo, StartRequest, Started};
use crate::sandbox::stop::{self, Files, StopRequest, Stopped};
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// For how long a stop may drain.
const DRAIN: Duration = Duration::from_secs(30);
/// The largest text of a worker's last lines.
const TEXT_LIMIT: usize = 1 << 20;

/// What every sandbox of this server gets, and where they are.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where new sandboxes are made.
    pub provider: Settings,
    /// What is remembered of them.
    pub records: Records,
    /// Variables for every supervisor.
    pub environment: Environment,
    /// A token for private repositories.
    pub repo_token: Option<Secret>,
    /// How long a sandbox should live; `None` for what the provider gives.
    pub timeout: Option<Duration>,
    /// How long to wait for a project to be ready.
    pub wait: Duration,
    /// The binary to bring in; `None` for the one that runs here.
    pub binary: Option<PathBuf>,
    /// Whether Claude Code has to be there.
    pub claude: Claude,
    /// The port of their health endpoints; `None` for one that suits the provider.
    pub health_port: Option<u16>,
    /// Where sandboxes reach this server, without a slash at the end; `None` when they cannot.
    pub reports_to: Option<String>,
}

/// Finds an environment variable.
pub type Variable = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The sandboxes themselves. Cheap to clone.
#[derive(Clone)]
pub struct Through {
    given: Arc<Given>,
    provider: Arc<dyn Provider>,
    keys: Arc<Keys>,
    variable: Variable,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through").field("given", &self.given).finish_non_exhaustive()
    }
}

impl Through {
    /// Opens the provider. `variable` finds its credentials.
    ///
    /// # Errors
    /// When the provider cannot be opened.
    pub fn new(given: Given, keys: Arc<Keys>, variable: Variable) -> Result<Self, Fault> {
        let provider = given.provider.open(variable.as_ref())?;
        Ok(Self {
            given: Arc::new(given),
            provider,
            keys,
            variable,
        })
    }

    /// Where a sandbox is asked how it does.
    pub fn target(&self, sandbox: &str, health_url: Option<&str>) -> Target {
        match health_url {
            Some(url) => Target::Http {
                base: url.trim_end_matches('/').to_owned(),
                token: Some(self.keys.health_token(sandbox)),
            },
            None => Target::Provider,
        }
    }

    /// The provider that a sandbox was made by, which need not be that of new ones.
    fn provider_of(&self, record: &Record) -> Result<Arc<dyn Provider>, Fault> {
        if record.provider == self.given.provider {
            Ok(self.provider.clone())
        } else {
            record.provider.open(self.variable.as_ref())
        }
    }

    fn request(&self, sandbox: String, order: Order, environment: Environment) -> StartRequest {
        let given = &self.given;
        let mut variables = given.environment.clone();
        let mut set = |name: &str, value: Secret| {
            variables.retain(|(known, _)| known != name);
            variables.push((name.to_owned(), value));
        };
        for (name, value) in environment {
            set(&name, value);
        }
        set("SANDBOX_ID", Secret::new(sandbox.clone()));
        set("SANDKEEP_TOKEN", Secret::new(self.keys.health_token(&sandbox)));
        if let Some(base) = &given.reports_to {
            let key = self.keys.report_key(&sandbox);
            set(
                "SANDKEEP_REPORT_URL",
                Secret::new(format!("{base}/v1/sandboxes/{sandbox}/report?key={key}")),
            );
        }
        StartRequest {
            repo: Some(Repo {
                url: order.github_repo_url,
                branch: order.branch_name,
                token: given.repo_token.clone(),
                depth: None,
            }),
            install: order.install_command,
            dev: order.development_command,
            port: order.port,
            project_id: order.project_id,
            environment: variables,
            timeout: given.timeout,
            wait: given.wait,
            binary: given.binary.clone(),
            claude: given.claude,
            health_port: given.health_port,
            ..StartRequest::new(sandbox)
        }
    }
}

impl Sandboxes for Through {
    fn start(
        &self,
        sandbox: String,
        order: Order,
        environment: Environment,
        progress: Arc<dyn Progress>,
    ) -> BoxFuture<'static, Result<Started, Fault>> {
        let request = self.request(sandbox, order, environment);
        let (provider, given) = (self.provider.clone(), self.given.clone());
        Box::pin(async move { start::start(&request, provider.as_ref(), &given.records, progress.as_ref()).await })
    }

    fn look(&self, sandbox: String) -> BoxFuture<'static, Result<Report, Fault>> {
        let this = self.clone();
        Box::pin(async move {
            let record = this.given.records.known(&sandbox)?;
            let provider = this.provider_of(&record)?;
            look::status(&record, provider.as_ref()).await
        })
    }

    fn lines(&self, sandbox: String, lines: usize) -> BoxFuture<'static, Result<String, Fault>> {
        let this = self.clone();
        Box::pin(async move {
            let record = this.given.records.known(&sandbox)?;
            let provider = this.provider_of(&record)?;
            let wanted = LogsWanted {
                lines: Some(lines),
                ..LogsWanted::default()
            };
            let mut text = Vec::new();
            let mut take = |_, bytes: &[u8]| {
                if text.len() < TEXT_LIMIT {
                    text.extend_from_slice(bytes);
                }
            };
            let exit = look::logs(&record, provider.as_ref(), &wanted, &mut take).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            if !exit.is_success() && text.is_empty() {
                return Err(Fault::new(
                    Code::CommandFailed,
                    format!("`sandkeep logs` in there exited with {}", exit.0),
                ));
            }
            Ok(last(&text, lines))
        })
    }

    fn stop(&self, sandbox: String) -> BoxFuture<'static, Result<Stopped, Fault>> {
        let this = self.clone();
        Box::pin(async move {
            let record = this.given.records.known(&sandbox)?;
            let provider = this.provider_of(&record)?;
            let request = StopRequest {
                drain: DRAIN,
                files: Files::Keep,
            };
            stop::stop(&sandbox, request, provider.as_ref(), &this.given.records).await
        })
    }

    fn extend(&self, sandbox: String, until: jiff::Timestamp) -> BoxFuture<'static, Result<Option<jiff::Timestamp>, Fault>> {
        let this = self.clone();
        Box::pin(async move {
            let record = this.given.records.known(&sandbox)?;
            let provider = this.provider_of(&record)?;
            look::extend(&sandbox, until, provider.as_ref(), &this.given.records).await
        })
    }

    fn known(&self) -> Result<Vec<Known>, Fault> {
        let known = |record: Record| Known {
            target: self.target(&record.name, record.health_url.as_deref()),
            provider: record.provider.kind().to_owned(),
            repo: record.repo,
            branch: record.branch,
            preview_url: record.url,
            created_at: Time(record.created_at),
            expires_at: record.expires_at.map(Time),
            complete: record.complete,
            stopped: record.stopped,
            extendable: record.provider.ends_sandboxes(),
            sandbox_id: record.name,
        };
        Ok(self.given.records.all()?.into_iter().map(known).collect())
    }
}

/// The last so many lines.
fn last(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Asks sandboxes over HTTP where they have an address, and through their provider where they have none.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Over HTTP.
    pub http: HttpPolls,
    /// Through the provider.
    pub through: Through,
}

impl Prober for Asking {
    fn probe(&self, sandbox: Arc<str>, target: Target) -> BoxFuture<'static, Result<Heard, String>> {
        let this = self.clone();
        Box::pin(async move {
            if target != Target::Provider {
                return this.http.ask_target(&target).await;
            }
            let report = this.through.look(sandbox.as_ref().to_owned()).await;
            let report = report.map_err(|fault| fault.message)?;
            let said = || report.reason.unwrap_or_else(|| "no supervisor answers".to_owned());
            report.status.map(|document| Heard::Document(Arc::new(document))).ok_or_else(said)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(reports_to: Option<&str>) -> Through {
        let given = Given {
            provider: Settings::Local {
                root: "/nonexistent".into(),
            },
            records: Records::new("/nonexistent"),
            environment: vec![("A".into(), Secret::new("server")), ("SANDBOX_ID".into(), Secret::new("wrong"))],
            repo_token: None,
            timeout: None,
            wait: Duration::from_secs(1),
            binary: None,
            claude: Claude::LeaveOut,
            health_port: None,
            reports_to: reports_to.map(str::to_owned),
        };
        Through::new(given, Arc::new(Keys::new("t")), Arc::new(|_| None)).unwrap()
    }

    #[test]
    fn a_sandbox_gets_keys_of_its_own_and_never_the_token() {
        let order: Order = serde_json::from_str(r#"{"githubRepoUrl":"https://github.com/a/b","port":3000}"#).unwrap();
        let environment = vec![("A".to_owned(), Secret::new("request"))];
        let request = through(Some("http://10.0.0.1:7879")).request("sb-1".into(), order, environment);
        let value = |name: &str| {
            let found: Vec<_> = request.environment.iter().filter(|(known, _)| known == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            String::from_utf8(found[0].1.reveal().to_vec()).unwrap()
        };
        assert_eq!(value("A"), "request");
        assert_eq!(value("SANDBOX_ID"), "sb-1");
        let keys = Keys::new("t");
        assert_eq!(value("SANDKEEP_TOKEN"), keys.health_token("sb-1"));
        let url = value("SANDKEEP_REPORT_URL");
        let key = url.strip_prefix("http://10.0.0.1:7879/v1/sandboxes/sb-1/report?key=").unwrap();
        assert!(keys.is_report_key("sb-1", key));
        assert_eq!((request.name.as_str(), request.port), ("sb-1", Some(3000)));
    }

    #[test]
    fn lines_are_the_last_ones() {
        assert_eq!(last("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last("", 2), "");
    }
}
