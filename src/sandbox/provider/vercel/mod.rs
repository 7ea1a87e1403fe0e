//! Vercel Sandbox over its REST API.

use super::{Fault, Provider};
use crate::sandbox::fault::Code;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which team and project; what a record keeps. No secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `team_…`; `None` to take it from the OIDC token.
    pub team: Option<String>,
    /// `prj_…`; `None` to take it from the OIDC token.
    pub project: Option<String>,
    /// Base URL of the API; `None` for Vercel's own.
    pub api: Option<String>,
    /// A runtime of the second generation (`node24`); `None` for the default image of the third.
    pub runtime: Option<String>,
}

/// Opens it with the credentials that `variable` finds.
pub(super) fn open(_settings: &Settings, _variable: &dyn Fn(&str) -> Option<String>) -> Result<Arc<dyn Provider>, Fault> {
    Err(Fault::new(Code::Unsupported, "the provider `vercel` is not built yet"))
}
