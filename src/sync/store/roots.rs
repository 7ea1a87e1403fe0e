//! Which certificate authorities are trusted: the system's where there are any, Mozilla's as built in otherwise.

use aws_sdk_s3::config::{AsyncSleep, Sleep};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, proxy::ProxyConfig};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use std::time::Duration;

/// The HTTP client under the S3 client: rustls on ring, proxies as the environment says. Certificates are read only where they are needed.
pub fn s3_connector(endpoint: Option<&str>) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(30));
    let connector = Connector::builder()
        .enable_tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(60))
        .proxy_config(ProxyConfig::from_env())
        .connector_settings(settings.build())
        .sleep_impl(TokioSleep)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context(needs_roots(endpoint)))
        .build();
    SharedHttpConnector::new(connector)
}

#[derive(Debug)]
struct TokioSleep;

impl AsyncSleep for TokioSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(tokio::time::sleep(duration))
    }
}

/// Not without TLS: reading a system's certificates takes as long as looking at a few thousand files. A proxy may speak TLS by itself.
fn needs_roots(endpoint: Option<&str>) -> bool {
    let proxied = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    !is_plain || proxied.iter().any(|name| std::env::var_os(name).is_some())
}

fn context(needs_roots: bool) -> TlsContext {
    let store = if !needs_roots {
        TrustStore::empty()
    } else if rustls_native_certs::load_native_certs().certs.is_empty() {
        let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        certificates.fold(TrustStore::empty(), |store, certificate| {
            store.with_pem_certificate(pem(certificate))
        })
    } else {
        TrustStore::empty().with_native_roots(true)
    };
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .expect("a trust store alone makes a valid context")
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for at in 0..4 {
                let index = (bits >> (18 - 6 * at)) & 63;
                text.push(if at > group.len() {
                    '='
                } else {
                    char::from(ALPHABET[index as usize])
                });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_base64() {
        let text = pem(b"any carnal pleas");
        assert_eq!(text.lines().nth(1), Some("YW55IGNhcm5hbCBwbGVhcw=="));
        assert_eq!(pem(b"any carnal pleasur").lines().nth(1), Some("YW55IGNhcm5hbCBwbGVhc3Vy"));
    }

    #[test]
    fn built_in_roots_are_usable() {
        let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned();
        let mut roots = rustls::RootCertStore::empty();
        let (good, bad) = roots.add_parsable_certificates(certificates);
        assert!(good > 100 && bad == 0);
    }
}
