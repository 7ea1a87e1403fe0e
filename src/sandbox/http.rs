//! Looks at a sandbox from outside, as its user would.

use crate::web::tls;
use std::time::{Duration, Instant};

/// For one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a URL answers with something under 500 within this time; else why not.
pub(super) async fn answers(url: &str, limit: Duration) -> Result<(), String> {
    let client = client().map_err(|error| error.to_string())?;
    let end = Instant::now() + limit;
    loop {
        let why = match client.get(url).send().await {
            Ok(answer) if answer.status().as_u16() < 500 => return Ok(()),
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) if error.is_timeout() => format!("no answer within {ANSWER_WITHIN:?}"),
            Err(error) => tls::innermost(&error),
        };
        if Instant::now() + PAUSE > end {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn client() -> reqwest::Result<reqwest::Client> {
    tls::client().timeout(ANSWER_WITHIN).pool_max_idle_per_host(0).build()
}
