//! From a command line to a supervisor: which one, and what its answers mean for the exit code.

use super::{CliError, Global};
use crate::control::client::{Client, ClientError};
use crate::control::problem::{Code, Problem};
use crate::host::runtime_dir::{PlaceError, Places};
use crate::tasks;
use std::future::Future;

impl Global {
    /// The directories of the instance.
    pub fn paths(&self) -> Result<Places, CliError> {
        Ok(Places::of(&self.instance)?)
    }

    /// The client of the instance; inside a unit, where none is named, of the supervisor that started it.
    pub fn client(&self) -> Result<Client, CliError> {
        let parent = if self.instance == "default" { Client::of_parent() } else { None };
        match parent {
            Some(client) => Ok(client),
            None => Ok(Client::new(self.paths()?.control_socket())),
        }
    }
}

/// Runs a future to its end on this thread.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("starting the I/O runtime: {error}")))?;
    tasks::block_on(&runtime, future)
}

impl From<PlaceError> for CliError {
    fn from(error: PlaceError) -> Self {
        let hint = error.hint();
        let code = if matches!(error, PlaceError::Instance(_)) { 2 } else { 1 };
        Self {
            message: error.to_string(),
            hint,
            code,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoSupervisor { ref source, .. } => {
                let unusual = !matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
                let message = if unusual { format!("{error}: {source}") } else { error.to_string() };
                Self {
                    message,
                    hint: Some("`sandkeep up --detach` starts one".to_owned()),
                    code: 3,
                }
            }
            ClientError::Problem(problem) => (*problem).into(),
            ClientError::Broken(_) | ClientError::Unreadable(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let code = match problem.code {
            Code::NoSuchUnit => 4,
            Code::BadRequest | Code::InvalidConfig => 2,
            _ => 1,
        };
        Self {
            message: problem.detail,
            hint: problem.hint.map(String::from),
            code,
        }
    }
}
