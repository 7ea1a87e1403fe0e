//! The HTTP under the S3 store: the same reqwest that everything else here speaks with, so that there is one of it in the binary.

use std::time::Duration;

/// What carries requests to a store: rustls on ring, HTTP/1.1, proxies as the environment says. Certificates are read only where they are
/// needed. Five seconds to connect; how long an answer may take is for the request to say.
pub fn client(endpoint: &str) -> reqwest::Client {
    let trust = if needs_roots(endpoint) {
        crate::web::tls::config()
    } else {
        crate::web::tls::trusting(rustls::RootCertStore::empty())
    };
    crate::web::tls::client_that_trusts(trust)
        .connect_timeout(Duration::from_secs(5))
        .pool_idle_timeout(Duration::from_secs(60))
        .build()
        .expect("with TLS configured, a client takes these settings")
}

/// Not without TLS: reading a system's certificates takes as long as looking at a few thousand files. A proxy may speak TLS by itself.
fn needs_roots(endpoint: &str) -> bool {
    let proxied = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    !endpoint.starts_with("http://") || proxied.iter().any(|name| std::env::var_os(name).is_some())
}
