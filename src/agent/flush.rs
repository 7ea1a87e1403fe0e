//! Asking sync, through the supervisor, to bring everything into the store.

use super::prompt::Durability;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Flushes and says how durable the files are. Without a supervisor or a sync there is nothing to say.
pub async fn flush(control: Option<&Path>, patience: Duration) -> Durability {
    let Some(control) = control else { return Durability::default() };
    match tokio::time::timeout(patience, ask(control, patience)).await {
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

async fn ask(control: &Path, patience: Duration) -> reqwest::Result<Durability> {
    let client = reqwest::Client::builder().unix_socket(control).build()?;
    let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let response = client
        .post("http://sandkeep/v1/sync/flush")
        .json(&serde_json::json!({"timeout_ms": timeout_ms}))
        .send()
        .await?;
    if !response.status().is_success() {
        tracing::debug!("flushing sync: {}", response.status());
        return Ok(Durability::default());
    }
    Ok(read(&response.json().await?))
}

fn read(answer: &Value) -> Durability {
    let pending = answer["pending"].as_u64();
    Durability {
        durable: answer["durable"].as_bool().or(pending.map(|pending| pending == 0)),
        generation: answer["generation"].as_u64(),
        pending,
    }
}
