//! Looks at a sandbox from outside, as its user would.

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
            Err(error) => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                cause.to_string()
            }
        };
        if Instant::now() + PAUSE > end {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn client() -> Result<reqwest::Client, Box<dyn std::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("sandkeep/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(client)
}
