//! The quick way to write a small object: the request that the client would make, put together and signed here, through the same
//! connections.
//!
//! The first upload of a project is thousands of these, and the client's own way to one request (endpoint rules, interceptors, layers of
//! configuration) takes several times the CPU that the request does. Only a clear answer counts: whatever else comes back, the client
//! makes the request anew, and what it makes of errors stays the only truth about them.

use super::answer::{encode, headers};
use super::{S3Store, Session};
use crate::sync::content::Digest;
use crate::sync::store::{Condition, Etag, Info, StoreError};
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::primitives::SdkBody;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

impl S3Store {
    /// `None` where the client has to do it.
    pub(super) async fn put_quickly(
        &self,
        key: &str,
        bytes: &Bytes,
        info: &Info,
        condition: &Condition,
    ) -> Result<Option<Result<Etag, StoreError>>, StoreError> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let session = self.session().await?;
        if session.no_quick_way.load(Ordering::Relaxed) || self.pace_ms.load(Ordering::Relaxed) > 0 {
            return Ok(None);
        }
        let uri = format!("{}/{}/{}", endpoint.trim_end_matches('/'), self.bucket, encode(&self.key(key)));
        let Some(request) = request(uri, &session, &self.region, (bytes, info, condition)) else {
            return Ok(None);
        };
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let answer = self.connector.call(request).await;
        let result = match answer.as_ref().map(|answer| answer.status().as_u16()) {
            Ok(200) => answer.ok().as_ref().and_then(etag).map(Ok),
            Ok(412) => Some(Err(StoreError::Precondition)),
            Ok(401 | 403) => {
                session.no_quick_way.store(true, Ordering::Relaxed);
                None
            }
            _ => None,
        };
        if result.is_none() {
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(result)
    }
}

fn etag(answer: &HttpResponse) -> Option<Etag> {
    answer.headers().get("etag").map(|etag| Etag(etag.to_owned()))
}

/// `None` when it cannot be put together, which the client will have words for.
fn request(uri: String, session: &Session, region: &str, (bytes, info, condition): (&Bytes, &Info, &Condition)) -> Option<HttpRequest> {
    let (matches, absent) = headers(condition);
    let mut said: Vec<(String, String)> = info
        .metadata
        .iter()
        .map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone()))
        .collect();
    let named = [
        ("if-match", matches),
        ("if-none-match", absent),
        ("content-type", super::answer::content_type(info)),
    ];
    said.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let identity = session.credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .ok()?
        .into();
    let pairs = said.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = SignableBody::Precomputed(Digest::of(bytes).to_string());
    let signable = SignableRequest::new("PUT", uri.as_str(), pairs, body).ok()?;
    let (instructions, _) = sign(signable, &parameters).ok()?.into_parts();
    let mut request = HttpRequest::new(SdkBody::from(bytes.clone()));
    request.set_method("PUT").ok()?;
    request.set_uri(uri).ok()?;
    let signed = instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in said.into_iter().chain(signed) {
        request.headers_mut().try_insert(name, value).ok()?;
    }
    Some(request)
}
