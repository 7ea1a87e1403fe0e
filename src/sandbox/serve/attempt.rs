//! One start, as a task of its own does it.

use super::desk::News;
use super::order::{Environment, Order};
use super::sandboxes::Sandboxes;
use crate::backoff::full_jitter;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::progress::Told;
use crate::sandbox::start::Started;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// How often a start is tried that failed for a reason that may pass by itself.
const ATTEMPTS: u32 = 4;

/// A start as its own task does it.
pub(super) struct Start {
    pub(super) operation_id: String,
    pub(super) sandbox_id: String,
    pub(super) order: Order,
    pub(super) environment: Environment,
    pub(super) sandboxes: Arc<dyn Sandboxes>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) retry: Duration,
    pub(super) tell: mpsc::UnboundedSender<News>,
}

impl Start {
    /// Waits for its turn, then starts; again when what went wrong may pass by itself.
    pub(super) async fn run(self) -> Result<Started, Fault> {
        // The semaphore is never closed.
        let _turn = self.permits.acquire().await;
        let _ = self.tell.send(News::Began(self.operation_id.clone()));
        let mut attempt = 1;
        loop {
            let fault = match self.once().await {
                Ok(started) => return Ok(started),
                Err(fault) => fault,
            };
            if attempt >= ATTEMPTS || !may_pass(&fault) {
                return Err(fault);
            }
            let jitter = full_jitter(self.retry, self.retry * 8, attempt, fastrand::u64(..));
            let wait = fault.retry_after.unwrap_or(self.retry / 2 + jitter);
            let message = format!("{}; trying again in {} s", fault.message, wait.as_secs_f32().ceil());
            let _ = self.tell.send(News::Told(self.operation_id.clone(), Told::Warning { message }));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn once(&self) -> Result<Started, Fault> {
        let (id, tell) = (self.operation_id.clone(), self.tell.clone());
        let progress = move |told: Told| {
            let _ = tell.send(News::Told(id.clone(), told));
        };
        let sandbox = self.sandbox_id.clone();
        self.sandboxes
            .start(sandbox, self.order.clone(), self.environment.clone(), Arc::new(progress))
            .await
    }
}

/// Whether a start that failed so goes on where it was when it is called again.
fn may_pass(fault: &Fault) -> bool {
    let brief = fault.retry_after.is_none_or(|wait| wait <= Duration::from_secs(60));
    matches!(fault.code, Code::Unreachable | Code::Lost | Code::Busy | Code::Record)
        || (fault.code == Code::Quota && fault.retry_after.is_some() && brief)
}
