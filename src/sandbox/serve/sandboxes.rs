//! The seam between the server and the sandboxes: what it asks of them, so that its own part can be tested without any.

use super::order::{Environment, Order};
use crate::control::document::Time;
use crate::sandbox::fault::Fault;
use crate::sandbox::fleet::Target;
use crate::sandbox::look::Report;
use crate::sandbox::progress::Progress;
use crate::sandbox::start::Started;
use crate::sandbox::stop::Stopped;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// What is known of a sandbox without asking it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its id.
    pub sandbox_id: String,
    /// `local`, `exec` or `vercel`.
    pub provider: String,
    /// The repository.
    pub repo: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
    /// The preview.
    pub preview_url: Option<String>,
    /// When it was asked for first.
    pub created_at: Time,
    /// When the provider ends it.
    pub expires_at: Option<Time>,
    /// The last start came to its end.
    pub complete: bool,
    /// It was stopped on request, and not started since.
    pub stopped: bool,
    /// Its provider ends it, and may give it more time.
    pub extendable: bool,
    /// Where it is asked how it does.
    pub target: Target,
}

/// Starts, looks at and stops sandboxes. All of it may be called at any time and be dropped at any time.
pub trait Sandboxes: Send + Sync + 'static {
    /// Starts a sandbox, or finds that it is there already.
    fn start(
        &self,
        sandbox: String,
        order: Order,
        environment: Environment,
        progress: Arc<dyn Progress>,
    ) -> BoxFuture<'static, Result<Started, Fault>>;

    /// Looks how a sandbox does.
    fn look(&self, sandbox: String) -> BoxFuture<'static, Result<Report, Fault>>;

    /// The last lines that its units wrote, as one text.
    fn lines(&self, sandbox: String, lines: usize) -> BoxFuture<'static, Result<String, Fault>>;

    /// Drains a sandbox and ends it.
    fn stop(&self, sandbox: String) -> BoxFuture<'static, Result<Stopped, Fault>>;

    /// Has a sandbox live until then at least, as far as its provider allows; answers its deadline as it is afterwards.
    fn extend(&self, sandbox: String, until: jiff::Timestamp) -> BoxFuture<'static, Result<Option<jiff::Timestamp>, Fault>>;

    /// All sandboxes that were started from here, by this server or by the command line.
    ///
    /// # Errors
    /// When the records cannot be read.
    fn known(&self) -> Result<Vec<Known>, Fault>;
}
