//! TLS towards others: the system's roots and, where there are none, Mozilla's as they are built in. rustls on ring.

use std::sync::Arc;

/// Whom a client trusts.
pub fn config() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    trusting(roots)
}

/// A client's side of TLS that trusts these roots.
pub fn trusting(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A client with that trust, that says who it is and follows no redirects.
#[cfg(feature = "http-client")]
pub fn client() -> reqwest::ClientBuilder {
    client_that_trusts(config())
}

/// [`client`] with another trust.
#[cfg(feature = "http-client")]
pub fn client_that_trusts(trust: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sandkeep/", env!("CARGO_PKG_VERSION")))
}

/// The innermost cause of an error says what it was; the outer ones say that a request failed.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
