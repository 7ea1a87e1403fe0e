//! Asks a sandbox over HTTP how it does.

use super::heard::Heard;
use super::keeper::Target;
use crate::control::document::{Healthz, StatusDocument};
use crate::web::tls;
use reqwest::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// The largest status document that is read.
const DOCUMENT_LIMIT: usize = 4 << 20;

/// Asks over HTTP.
#[derive(Clone, Debug)]
pub struct HttpPolls {
    client: reqwest::Client,
}

impl HttpPolls {
    /// With the system's certificates, or built-in ones where there are none.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new() -> reqwest::Result<Self> {
        // Nothing is kept open: a thousand sandboxes would hold a thousand descriptors for one question a quarter of a minute.
        let client = tls::client()
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(3))
            .no_proxy()
            .build()?;
        Ok(Self { client })
    }

    /// Asks; an error says why there is no answer.
    pub async fn ask(&self, base: &str, token: Option<&str>) -> Result<Heard, String> {
        if let Some(token) = token {
            let request = self.client.get(format!("{base}/v1/status")).bearer_auth(token);
            let (status, body) = answer(request).await?;
            match status {
                StatusCode::OK => return read::<StatusDocument>(&body).map(|document| Heard::Document(Arc::new(document))),
                // Its supervisor was started by another, with another token: what it tells anybody is better than nothing.
                StatusCode::UNAUTHORIZED => {}
                other => return Err(format!("it answered {other}")),
            }
        }
        let (status, body) = answer(self.client.get(format!("{base}/healthz"))).await?;
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => read::<Healthz>(&body).map(Heard::Healthz),
            other => Err(format!("it answered {other}")),
        }
    }

    /// Asks a target; one without HTTP gives no answer.
    pub async fn ask_target(&self, target: &Target) -> Result<Heard, String> {
        match target {
            Target::Http { base, token } => self.ask(base, token.as_deref()).await,
            Target::Provider => Err("it has no address".to_owned()),
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(StatusCode, Vec<u8>), String> {
    let failed = |error: reqwest::Error| tls::innermost(&error.without_url());
    let mut answer = request.send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > DOCUMENT_LIMIT {
            return Err(format!("it answered with more than {DOCUMENT_LIMIT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((answer.status(), body))
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("its answer is not what it should be: {error}"))
}
