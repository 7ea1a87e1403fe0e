//! Faults that a test orders, and the count of requests.

use hyper::http::{HeaderMap, Uri};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It takes longer.
    Delay(Duration),
    /// It is refused with this status.
    Status(u16),
    /// The connection breaks: before a write is done, in the middle of a body that is read.
    Reset,
    /// It is done, and the connection breaks before the answer.
    Lost,
    /// The client is killed before it is done.
    KillBefore(i32),
    /// The client is killed after it was done, before the answer.
    KillAfter(i32),
}

/// An order: `kind` is `delay:MS`, `status:CODE`, `reset`, `lost`, `kill-before:PID` or `kill-after:PID`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Order {
    /// The operation, or `*`.
    operation: String,
    /// Part of the path; empty for all.
    #[serde(default)]
    key: String,
    kind: String,
    /// Requests that are let through first.
    #[serde(default)]
    skip: u64,
    /// How many are hit.
    count: u64,
}

#[derive(Default)]
pub(crate) struct Faults {
    orders: Mutex<Vec<Order>>,
    counts: Mutex<BTreeMap<String, u64>>,
    clock_ahead_s: Mutex<i64>,
}

impl Faults {
    pub(crate) fn order(&self, orders: Vec<Order>) {
        *self.orders.lock().unwrap() = orders;
    }

    pub(crate) fn set_clock(&self, ahead_s: i64) {
        *self.clock_ahead_s.lock().unwrap() = ahead_s;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub(crate) fn forget_counts(&self) {
        self.counts.lock().unwrap().clear();
    }

    pub(crate) fn count(&self, operation: &str, status: u16) {
        let name = if (200..400).contains(&status) {
            operation.to_owned()
        } else {
            format!("{operation}!{status}")
        };
        *self.counts.lock().unwrap().entry(name).or_insert(0) += 1;
    }

    pub(crate) fn meet(&self, operation: &str, path: &str) -> Option<Fault> {
        let mut orders = self.orders.lock().unwrap();
        let fits =
            |order: &&mut Order| (order.operation == "*" || order.operation == operation) && path.contains(&order.key) && order.count > 0;
        let order = orders.iter_mut().find(fits)?;
        if order.skip > 0 {
            order.skip -= 1;
            return None;
        }
        order.count -= 1;
        Some(match order.kind.split_once(':') {
            Some(("delay", ms)) => Fault::Delay(Duration::from_millis(ms.parse().expect("milliseconds"))),
            Some(("status", code)) => Fault::Status(code.parse().expect("a status")),
            Some(("kill-before", pid)) => Fault::KillBefore(pid.parse().expect("a pid")),
            Some(("kill-after", pid)) => Fault::KillAfter(pid.parse().expect("a pid")),
            _ if order.kind == "lost" => Fault::Lost,
            _ => Fault::Reset,
        })
    }

    /// Refuses a request that was signed a quarter of an hour off this server's clock, and tells what time it is here.
    pub(crate) fn check_clock(&self, headers: &HeaderMap) -> Option<Response<String>> {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs().cast_signed() + *self.clock_ahead_s.lock().unwrap();
        let signed = headers.get("x-amz-date")?.to_str().ok()?;
        let signed = jiff::fmt::strtime::parse("%Y%m%dT%H%M%S", signed.trim_end_matches('Z'))
            .ok()?
            .to_datetime()
            .ok()?;
        let signed = jiff::tz::TimeZone::UTC.to_timestamp(signed).ok()?.as_second();
        if (here - signed).abs() <= 900 {
            return None;
        }
        let date = jiff::Timestamp::from_second(here)
            .ok()?
            .strftime("%a, %d %b %Y %H:%M:%S GMT")
            .to_string();
        let text = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>the clocks differ</Message></Error>";
        let response = Response::builder()
            .status(StatusCode::FORBIDDEN)
            .header("date", date)
            .header("content-type", "application/xml");
        response.body(text.to_owned()).ok()
    }
}

/// The S3 operation that a request is.
pub(crate) fn operation(method: &str, uri: &Uri, headers: &HeaderMap) -> &'static str {
    let path = uri.path().trim_start_matches('/');
    let key = path.split_once('/').map_or("", |(_, key)| key);
    let query = uri.query().unwrap_or("");
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match (method, key.is_empty()) {
        ("GET", true) if has("list-type") => "ListObjectsV2",
        ("POST", true) if has("delete") => "DeleteObjects",
        (_, true) => "Bucket",
        ("PUT", false) if has("partNumber") => "UploadPart",
        ("PUT", false) if headers.contains_key("x-amz-copy-source") => "CopyObject",
        ("PUT", false) => "PutObject",
        ("GET", false) => "GetObject",
        ("HEAD", false) => "HeadObject",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) => "CompleteMultipartUpload",
        _ => "Other",
    }
}
