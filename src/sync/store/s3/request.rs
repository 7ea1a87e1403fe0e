//! A request to a bucket: put together, signed by Amazon's own signer, sent, and what comes back.

use super::answer::Refusal;
use super::{S3Store, Session, xml};
use crate::sync::content::Digest;
use crate::sync::store::Condition;
use crate::web::tls::innermost;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response, StatusCode};
use std::time::{Duration, SystemTime};

/// What a request costs.
#[derive(Clone, Copy)]
pub(super) enum Cost {
    /// Class A.
    Write,
    /// Class B.
    Read,
    /// Nothing.
    Free,
}

/// One request, not yet signed.
pub(super) struct Call {
    /// What it is for, for people: "writing".
    pub(super) act: &'static str,
    pub(super) method: Method,
    pub(super) cost: Cost,
    /// The object's whole key; `None` for the bucket.
    pub(super) key: Option<String>,
    /// Names, and values as they are meant.
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Whether the answer is a document, to be read to its end with the request.
    pub(super) has_document: bool,
}

impl Call {
    pub(super) fn new(act: &'static str, method: Method, cost: Cost, key: Option<String>) -> Self {
        let (query, headers, body) = (Vec::new(), Vec::new(), Bytes::new());
        Self {
            act,
            method,
            cost,
            key,
            query,
            headers,
            body,
            has_document: false,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// RFC 9110, section 13.
    pub(super) fn only_if(self, condition: &Condition) -> Self {
        match condition {
            Condition::Always => self,
            Condition::Absent => self.header("if-none-match", "*"),
            Condition::Matches(etag) => self.header("if-match", &etag.0),
        }
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn with_document(mut self) -> Self {
        self.has_document = true;
        self
    }

    /// Until the answer begins: at 64 KiB/s the body is through.
    fn patience(&self) -> Duration {
        READ_WITHIN + Duration::from_secs(self.body.len() as u64 / (64 << 10))
    }
}

/// What came back, with its document where one was asked for.
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) document: Bytes,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }
}

/// How long an answer may take to go on.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(30);
/// No document that S3 sends is larger: a thousand keys of a kilobyte, each byte written as `%XX`.
const LARGEST_DOCUMENT: usize = 16 << 20;

impl S3Store {
    /// Makes one attempt.
    pub(super) async fn send(&self, session: &Session, call: &Call) -> Result<Reply, Refusal> {
        let request = self.signed(session, call).map_err(Refusal::impossible)?;
        let answer = tokio::time::timeout(call.patience(), self.http.execute(request)).await;
        let mut response = answer.map_err(|_| Refusal::silence())?.map_err(|error| Refusal::cut(&error))?;
        let status = response.status();
        let document = if status.is_success() && !call.has_document {
            Bytes::new()
        } else {
            document(&mut response).await?
        };
        // Copying and completing may fail after the answer has begun.
        match status.is_success().then(|| error_in(&document)) {
            Some(None) => Ok(Reply { response, document }),
            Some(Some(error)) => Err(Refusal::said(StatusCode::INTERNAL_SERVER_ERROR, response.headers(), Some(error))),
            None => Err(Refusal::said(status, response.headers(), error_in(&document))),
        }
    }

    fn signed(&self, session: &Session, call: &Call) -> Result<reqwest::Request, String> {
        if !self.endpoint.is_ascii() {
            return Err("the host of its endpoint is not ASCII: write it as `xn--…`".into());
        }
        let key = call.key.as_deref().map(encode).unwrap_or_default();
        let path = format!("/{}/{key}", encode(&self.bucket));
        let mut uri = format!("{}{path}", self.endpoint);
        for (at, (name, value)) in call.query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(name);
            if !value.is_empty() {
                uri.push('=');
                uri.push_str(&encode(value).replace('/', "%2F"));
            }
        }
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let parameters = v4::SigningParams::builder()
            .identity(&session.identity)
            .region(&self.region)
            .name("s3")
            .time(self.time())
            .settings(settings)
            .build()
            .map_err(|error| innermost(&error))?
            .into();
        let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let body = SignableBody::Precomputed(Digest::of(&call.body).to_string());
        let signable = SignableRequest::new(call.method.as_str(), uri.as_str(), headers, body).map_err(|error| innermost(&error))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| innermost(&error))?.into_parts();
        let mut request = self.http.request(call.method.clone(), uri);
        let said = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in said.chain(instructions.headers()) {
            request = request.header(name, value);
        }
        if call.method == Method::PUT || call.method == Method::POST {
            request = request.header("content-length", call.body.len()).body(call.body.clone());
        }
        let request = request.build().map_err(|error| innermost(&error))?;
        // What is signed is what is sent: `.` and `..` are resolved in every URL (RFC 3986, section 5.2.4).
        if request.url().path().ends_with(&path) {
            Ok(request)
        } else {
            Err("a part of its name is `.` or `..`".into())
        }
    }

    /// By the store's clock, as far as it is known.
    fn time(&self) -> SystemTime {
        let ahead = self.ahead_s.load(std::sync::atomic::Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 {
            SystemTime::now() - by
        } else {
            SystemTime::now() + by
        }
    }
}

async fn document(response: &mut Response) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    loop {
        let next = tokio::time::timeout(READ_WITHIN, response.chunk()).await;
        match next.map_err(|_| Refusal::silence())?.map_err(|error| Refusal::cut(&error))? {
            Some(chunk) if whole.len() + chunk.len() <= LARGEST_DOCUMENT => whole.extend_from_slice(&chunk),
            Some(_) => return Err(Refusal::impossible("the answer is longer than any that S3 gives".into())),
            None => return Ok(whole.freeze()),
        }
    }
}

/// The code and the message of an error document.
fn error_in(document: &[u8]) -> Option<(String, String)> {
    let (mut code, mut message) = (String::new(), String::new());
    let outermost = xml::read(document, &mut |leaf| match leaf.name {
        "Code" => code = leaf.text,
        "Message" => message = leaf.text,
        _ => {}
    });
    (outermost.as_deref() == Some("Error")).then_some((code, message))
}

/// Percent encoding of all but RFC 3986's unreserved characters and `/`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
