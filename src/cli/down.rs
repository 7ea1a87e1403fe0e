//! `sandkeep down`.

use super::connect::block_on;
use super::{CliError, Global};
use crate::control::client::{Client, ClientError};
use crate::control::params;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Stops everything, drained, in reverse order
///
/// Waits until it is done. Exits with 0 also when it was down already.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// One drain deadline for everything, instead of the configured one
    #[arg(long, value_name = "TIME", value_parser = params::duration)]
    pub timeout: Option<Duration>,
}

/// How long the supervisor's process may take to end once everything is down.
const LAST_STEPS: Duration = Duration::from_secs(10);

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    block_on(async {
        let pid = client.peer().await;
        match client.status().await {
            Ok(_) => {}
            Err(ClientError::NoSupervisor { .. }) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error.into()),
        }
        match client.shutdown(args.timeout).await {
            // It was asked by somebody else too, or was so quick that its answer did not get through: what counts is that it ends.
            Ok(_) | Err(ClientError::NoSupervisor { .. } | ClientError::Broken(_)) => {}
            Err(error) => return Err(error.into()),
        }
        ended(&client, pid).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Returns when the supervisor's process has ended.
async fn ended(client: &Client, pid: Option<i32>) -> Result<(), CliError> {
    let deadline = Instant::now() + LAST_STEPS;
    while pid.is_some_and(is_alive) || client.socket().exists() && client.status().await.is_ok() {
        if Instant::now() > deadline {
            let left = format!("the units are down, but the supervisor has not ended within {LAST_STEPS:?}");
            let error = CliError::failed(left);
            return Err(match pid {
                Some(pid) => error.hint(format!("`kill -9 {pid}`")),
                None => error,
            });
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Whether the process runs, as far as it can be seen: one of another PID namespace cannot.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat")));
    // The state is the first field after the command's name, which is in parentheses and may contain any.
    let state = stat
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()));
    !matches!(state, None | Some('Z' | 'X'))
}
