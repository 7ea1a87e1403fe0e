//! Whether what the configuration needs can be reached: names resolved, a connection accepted. Nothing is sent.

use super::{Finding, Level, Patient};
use crate::unit::{Main, Worker};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, lookup_host};

/// How long each step may take.
const STEP_TIME: Duration = Duration::from_secs(5);

/// What a sandbox can be without.
const OPTIONAL: [&str; 3] = ["model", "inbox", "report"];

pub(super) async fn findings(patient: &Patient) -> Vec<Finding> {
    let wanted = wanted(patient);
    let mut findings = join_all(wanted.iter().map(|(what, url)| reach(what, url))).await;
    for finding in &mut findings {
        if finding.level == Level::Fail && OPTIONAL.contains(&finding.about.as_str()) {
            finding.level = Level::Warn;
        }
    }
    findings
}

/// What is needed, and where it is.
fn wanted(patient: &Patient) -> Vec<(&'static str, String)> {
    // Behind a proxy only the proxy is reached from here.
    if let Some(proxy) = ["HTTPS_PROXY", "https_proxy"].into_iter().find_map(|name| patient.variable(name)) {
        return vec![("proxy", proxy.to_owned())];
    }
    let config = patient.config.as_ref();
    let mut wanted = Vec::new();
    let mut want = |what, url: Option<&str>| wanted.extend(url.map(|url| (what, url.to_owned())));
    want("store host", endpoint(patient).as_deref());
    if config.is_some_and(|config| config.units.iter().any(|unit| unit.main == Main::Worker(Worker::Agent))) {
        want(
            "model",
            Some(patient.variable("ANTHROPIC_BASE_URL").unwrap_or("https://api.anthropic.com")),
        );
        want("inbox", patient.variable("CONVEX_URL"));
    }
    want("report", config.and_then(|config| config.report_url.as_deref()));
    wanted
}

/// Where the store's bucket is, if it is not a directory.
fn endpoint(patient: &Patient) -> Option<String> {
    let store = patient.config.as_ref().and_then(|config| config.sync.store.as_deref());
    match store {
        Some(store) => {
            let (_, query) = store.strip_prefix("s3://")?.split_once('?')?;
            let endpoint = query.split('&').find_map(|pair| pair.strip_prefix("endpoint="))?;
            Some(endpoint.replace("%3A", ":").replace("%2F", "/"))
        }
        None => patient.variable("R2_ENDPOINT").map(ToOwned::to_owned),
    }
}

async fn reach(what: &str, url: &str) -> Finding {
    let Some((host, port)) = host_and_port(url) else {
        return Finding::fail(what, format!("`{url}` is no URL"));
    };
    let shown = format!("{host}:{port}");
    let begin = Instant::now();
    let resolved = match tokio::time::timeout(STEP_TIME, lookup_host((host.as_str(), port))).await {
        Err(_) => {
            return Finding::fail(what, format!("the name {host} is not resolved within {STEP_TIME:?}"))
                .hint("is there a network, and a DNS server in /etc/resolv.conf?");
        }
        Ok(Err(error)) => {
            return Finding::fail(what, format!("resolving {host}: {error}"))
                .hint("is there a network, and a DNS server in /etc/resolv.conf?");
        }
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
    };
    let mut last = "it has no address".to_owned();
    for address in resolved {
        match tokio::time::timeout(STEP_TIME, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Finding::ok(what, format!("{shown} is reached within {} ms", begin.elapsed().as_millis())),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("no answer within {STEP_TIME:?}"),
        }
    }
    Finding::fail(what, format!("connecting to {shown}: {last}")).hint("a firewall, or the sandbox's network policy, may be in the way")
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: axum::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let default = match uri.scheme_str()? {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        _ => return None,
    };
    Some((host, uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_a_port() {
        assert_eq!(host_and_port("https://a.example/x?y"), Some(("a.example".into(), 443)));
        assert_eq!(host_and_port("http://[::1]:81"), Some(("::1".into(), 81)));
        for url in ["", "a.example", "ftp://a", "https://", "\u{0}"] {
            assert_eq!(host_and_port(url), None, "{url}");
        }
    }

    #[tokio::test]
    async fn what_listens_is_reached_and_what_does_not_is_said() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert_eq!(reach("store host", &url).await.level, Level::Ok);
        drop(listener);
        let finding = reach("store host", &url).await;
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.message.contains("connecting to 127.0.0.1"), "{finding:?}");
    }
}
