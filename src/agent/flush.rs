//! Asking sync, through the supervisor, to bring everything into the store.

use super::prompt::Durability;
use crate::control::client::{Client, ClientError};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Flushes and says how durable the files are. Without a supervisor or a sync there is nothing to say.
pub async fn flush(control: Option<&Path>, patience: Duration) -> Durability {
    let Some(control) = control else { return Durability::default() };
    match tokio::time::timeout(patience, ask(control)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!("flushing sync: {error}");
            Durability::default()
        }
        Err(_) => Durability {
            durable: Some(false),
            ..Durability::default()
        },
    }
}

async fn ask(control: &Path) -> Result<Durability, ClientError> {
    let answer = Client::new(control).post("/v1/sync/flush", None::<&()>).await?;
    Ok(read(&answer))
}

fn read(answer: &Value) -> Durability {
    let pending = answer["pending"].as_u64();
    Durability {
        durable: answer["durable"].as_bool().or(pending.map(|pending| pending == 0)),
        generation: answer["generation"].as_u64(),
        pending,
    }
}
