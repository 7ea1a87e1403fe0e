//! Probes.

use super::super::faults::{At, Faults, Span};
use super::super::file::ProbeFile;
use super::super::spec::{Probe, ProbeCheck};
use super::url_fault;

/// Checks the probe under this dotted key.
pub(super) fn check(at: &At<ProbeFile>, key: &str, faults: &mut Faults<'_>) -> Option<Probe> {
    let written = &at.value;
    let kinds = kinds(written);
    let check = match kinds.as_slice() {
        [(_, _)] => check_kind(written, key, faults)?,
        [] => {
            let faulty = ["http", "tcp", "exec", "log", "listen"]
                .iter()
                .any(|kind| faults.about(&format!("{key}.{kind}")));
            if !faulty {
                let hint = "give it one of `http`, `tcp`, `exec`, `log`, `listen`".to_owned();
                faults.error(&at.span, key, "the probe looks at nothing", Some(hint));
            }
            return None;
        }
        several => {
            let names: Vec<String> = several.iter().map(|(kind, _)| format!("`{kind}`")).collect();
            let message = format!("a probe looks at one thing, not at {}", names.join(" and "));
            faults.error(&several[1].1, key, message, None);
            return None;
        }
    };
    if let Some(always) = written.always.as_ref().filter(|_| !matches!(check, ProbeCheck::Http { .. })) {
        faults.error(&always.span, key, "`always` is for `http` probes alone", None);
    }
    let default = Probe::new(check);
    Some(Probe {
        interval: written.interval.as_ref().map_or(default.interval, |at| at.value.0),
        timeout: written.timeout.as_ref().map_or(default.timeout, |at| at.value.0),
        initial_delay: written.initial_delay.as_ref().map_or(default.initial_delay, |at| at.value.0),
        success_threshold: written
            .success_threshold
            .as_ref()
            .map_or(default.success_threshold, |at| at.value.to()),
        failure_threshold: written
            .failure_threshold
            .as_ref()
            .map_or(default.failure_threshold, |at| at.value.to()),
        check: default.check,
    })
}

fn kinds(written: &ProbeFile) -> Vec<(&'static str, Span)> {
    let spans = [
        ("http", written.http.as_ref().map(|at| at.span.clone())),
        ("tcp", written.tcp.as_ref().map(|at| at.span.clone())),
        ("exec", written.exec.as_ref().map(|at| at.span.clone())),
        ("log", written.log.as_ref().map(|at| at.span.clone())),
        ("listen", written.listen.as_ref().map(|at| at.span.clone())),
    ];
    spans.into_iter().filter_map(|(kind, span)| Some((kind, span?))).collect()
}

fn check_kind(written: &ProbeFile, key: &str, faults: &mut Faults<'_>) -> Option<ProbeCheck> {
    if let Some(http) = &written.http {
        let url = http.value.as_str();
        if let Some((message, hint)) = http_fault(url) {
            faults.error(&http.span, &format!("{key}.http"), message, Some(hint));
            return None;
        }
        return Some(ProbeCheck::Http {
            url: url.to_owned(),
            always: written.always.as_ref().is_some_and(|at| at.value),
        });
    }
    if let Some(tcp) = &written.tcp {
        let address = tcp.value.as_str();
        if !is_host_and_port(address) {
            let hint = "write `host:port`, such as `localhost:3000`".to_owned();
            faults.error(
                &tcp.span,
                &format!("{key}.tcp"),
                format!("`{address}` is not an address to connect to"),
                Some(hint),
            );
            return None;
        }
        return Some(ProbeCheck::Tcp(address.to_owned()));
    }
    let exec = written.exec.as_ref().map(|at| ProbeCheck::Exec(at.value.0.clone()));
    let log = written.log.as_ref().map(|at| ProbeCheck::Log(at.value.regex.clone()));
    let listen = written.listen.as_ref().map(|at| ProbeCheck::Listen(at.value.0));
    exec.or(log).or(listen)
}

fn http_fault(url: &str) -> Option<(String, String)> {
    let example = "write `http://localhost:3000/`".to_owned();
    if url.starts_with("https://") {
        let hint = "a unit's own port is asked without TLS: use `http://`, or `tcp`".to_owned();
        return Some((format!("`{url}` cannot be asked: probes speak no TLS"), hint));
    }
    if let Some(why) = url_fault(url) {
        return Some((format!("`{url}` is not a URL to ask: {why}"), example));
    }
    let host = url.trim_start_matches("http://").split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return Some((format!("`{url}` is not a URL to ask: it holds a user"), example));
    }
    let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let bad =
        port.is_some_and(|(name, port)| name.is_empty() || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err());
    bad.then(|| (format!("`{url}` is not a URL to ask: its port is none"), example))
}

fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.is_empty() && (bracketed || !host.contains([':', '/']));
        plain && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}
