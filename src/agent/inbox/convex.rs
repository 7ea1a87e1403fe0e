//! The app's Convex deployment as an inbox.

use super::{Inbox, Notice};
use crate::agent::prompt::{Outcome, PromptId};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::UnboundedSender;

/// Which deployment, as whom.
#[derive(Clone, Debug)]
pub struct Account {
    /// `CONVEX_URL`.
    pub url: String,
    /// `SANDBOX_ID`.
    pub sandbox: String,
    /// `SANDBOX_TOKEN`.
    pub token: String,
}

/// The inbox.
#[derive(Debug)]
pub struct Convex {
    _notices: UnboundedSender<Notice>,
}

impl Convex {
    /// Starts it.
    pub fn start(_account: Account, _directory: PathBuf, notices: UnboundedSender<Notice>) -> io::Result<Self> {
        Ok(Self { _notices: notices })
    }
}

/// Whether a prompt's events have not all reached Convex.
pub fn undelivered(_outbox: &Path, _id: &PromptId) -> bool {
    false
}

impl Inbox for Convex {
    fn claim(&mut self, _id: &PromptId) {}
    fn renew(&mut self, _id: &PromptId, _attempt: u32) {}
    fn ask(&mut self, _id: &PromptId, _attempt: u32, _question: &str, _body: &Value) {}
    fn settle(&mut self, _id: &PromptId, _attempt: u32, _question: &str) {}
    fn finish(&mut self, _id: &PromptId, _outcome: &Outcome, _last_seq: u64) {}
    fn report(&mut self, _part: &Value) {}
    fn status(&self) -> Value {
        json!({})
    }
}
