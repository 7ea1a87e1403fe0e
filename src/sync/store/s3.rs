//! A bucket as a store: R2, S3 and what speaks like them.
//!
//! Requests are those that Amazon's own client makes (`tests/sync/wire.rs` holds them against it), with its signer, but put together here:
//! its way to one request costs several times the CPU, and its code an eighth of the binary. Bodies up to [`PART`] bytes are in memory and
//! go with their signed SHA-256; larger ones in equal parts, two at a time, which is what R2 takes. No trailing checksums, no chunked
//! signing. Being told to slow down slows down and is never an error to the caller until minutes have passed.

mod answer;
mod parts;
mod request;
mod xml;

use super::address::decode;
use super::{Answer, Body, Condition, Etag, Fetched, Head, Info, Listed, Page, Requests, Store, StoreError};
use crate::sync::credentials::{Keys, Source};
use answer::{METADATA, Refusal, Trouble, etag, head, length};
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use request::{Call, Cost, READ_WITHIN, Reply, encode};
use reqwest::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::RwLock;

/// The largest body that is sent at once, and the size of a part.
pub const PART: usize = 8 << 20;
const ATTEMPTS: u32 = 10;
const ATTEMPTS_WHEN_SLOWED: u32 = 60;
/// The type of a body that has none, as Amazon's client says it.
const OF_BYTES: &str = "application/octet-stream";
/// S3 refuses what was signed a quarter of an hour off its clock.
const CLOCKS_MAY_DIFFER_S: u64 = 240;

/// A prefix in a bucket.
pub struct S3Store {
    bucket: String,
    prefix: String,
    /// Without a `/` at its end.
    endpoint: String,
    region: String,
    source: Source,
    session: RwLock<Option<Arc<Session>>>,
    http: reqwest::Client,
    counts: Counts,
    /// Milliseconds that every request waits before it is sent; doubled when the store is overloaded, halved when it answers.
    pace_ms: AtomicU64,
    /// Seconds by which the store's clock is ahead of this machine's, once that was a reason to be refused.
    ahead_s: AtomicI64,
}

/// What goes on for as long as the keys do.
struct Session {
    identity: Identity,
    keys: Keys,
}

#[derive(Default)]
struct Counts {
    writes: AtomicU64,
    reads: AtomicU64,
    free: AtomicU64,
    retries: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: Arc<AtomicU64>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl S3Store {
    /// A store below `prefix` (empty, or ending in `/`). Without an endpoint it is Amazon's own in `region`. No request is made yet.
    pub fn new(bucket: String, prefix: String, endpoint: Option<String>, region: String, source: Source) -> Self {
        let endpoint = endpoint.map_or_else(|| amazon(&region), |endpoint| endpoint.trim_end_matches('/').to_owned());
        let http = super::http::client(&endpoint);
        Self {
            bucket,
            prefix,
            endpoint,
            region,
            source,
            session: RwLock::new(None),
            http,
            counts: Counts::default(),
            pace_ms: AtomicU64::new(0),
            ahead_s: AtomicI64::new(0),
        }
    }

    async fn session(&self) -> Result<Arc<Session>, StoreError> {
        let good = |slot: &Option<Arc<Session>>| slot.clone().filter(|session| !session.keys.are_stale(SystemTime::now()));
        if let Some(session) = good(&*self.session.read().await) {
            return Ok(session);
        }
        let mut slot = self.session.write().await;
        if let Some(session) = good(&slot) {
            return Ok(session);
        }
        let fresh = self.source.read().await;
        let keys = match (fresh, &*slot) {
            (Ok(keys), _) => keys,
            // They may still be good for minutes.
            (Err(_), Some(session)) if session.keys.expires_at.is_some_and(|end| SystemTime::now() < end) => {
                return Ok(Arc::clone(session));
            }
            (Err(error), _) => return Err(StoreError::Unavailable(error.to_string())),
        };
        let (id, secret, token) = (&keys.access_key_id, &keys.secret_access_key, keys.session_token.clone());
        let identity = Credentials::new(id, secret, token, keys.expires_at, "sandkeep").into();
        let session = Arc::new(Session { identity, keys });
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Makes attempts until one succeeds, the answer is clear, or patience ends. `None` when the object is not there. `name` is what
    /// people are told of.
    async fn ask(&self, name: &str, call: &Call) -> Result<Option<Reply>, StoreError> {
        let mut tries = 0;
        loop {
            let pace = self.pace_ms.load(Ordering::Relaxed);
            if pace > 0 {
                tokio::time::sleep(Duration::from_millis(pace / 2 + fastrand::u64(0..=pace))).await;
            }
            let session = self.session().await?;
            self.count(call);
            let refusal = match self.send(&session, call).await {
                Ok(reply) => {
                    self.pace_ms.store(pace / 2, Ordering::Relaxed);
                    return Ok(Some(reply));
                }
                Err(refusal) if refusal.is_not_found() => return Ok(None),
                Err(refusal) => refusal,
            };
            tries += 1;
            let clock_was_set = self.set_clock(&refusal);
            let trouble = refusal.trouble(call.act, name);
            // Being told to slow down is answered by the pace.
            let waits = !clock_was_set && !matches!(trouble, Trouble::Slow(_));
            let (most, error) = match trouble {
                Trouble::Slow(why) => {
                    self.pace_ms.store((pace * 2).clamp(50, 4_000), Ordering::Relaxed);
                    (ATTEMPTS_WHEN_SLOWED, StoreError::Unavailable(why))
                }
                Trouble::Stale(why) => {
                    *self.session.write().await = None;
                    (2, StoreError::Denied(why))
                }
                Trouble::Other(error) if error.is_temporary() || clock_was_set => (ATTEMPTS, error),
                Trouble::Other(error) => return Err(error),
            };
            if tries >= most {
                return Err(error);
            }
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            if waits {
                let most_ms = 100_u64 << tries.min(5);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(most_ms / 2..=most_ms))).await;
            }
        }
    }

    fn count(&self, call: &Call) {
        let requests = match call.cost {
            Cost::Write => &self.counts.writes,
            Cost::Read => &self.counts.reads,
            Cost::Free => &self.counts.free,
        };
        requests.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_up.fetch_add(call.body.len() as u64, Ordering::Relaxed);
    }

    /// Goes by the store's clock from now on, if this refusal can come of its being another than this machine's.
    fn set_clock(&self, refusal: &Refusal) -> bool {
        let here = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs().cast_signed());
        let Some(ahead) = refusal.date_s.filter(|_| refusal.is_forbidden()).map(|there| there - here) else {
            return false;
        };
        let before = self.ahead_s.load(Ordering::Relaxed);
        let differs = before.abs_diff(ahead) > CLOCKS_MAY_DIFFER_S;
        if differs {
            self.ahead_s.store(ahead, Ordering::Relaxed);
        }
        differs
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn call(&self, act: &'static str, method: Method, cost: Cost, key: &str) -> Call {
        Call::new(act, method, cost, Some(self.key(key)))
    }

    async fn head(&self, key: &str) -> Result<Option<Head>, StoreError> {
        let call = self.call("asking for", Method::HEAD, Cost::Read, key);
        self.ask(key, &call).await?.map(|reply| head(&reply)).transpose()
    }

    async fn get(&self, key: &str) -> Result<Option<Fetched>, StoreError> {
        let call = self.call("reading", Method::GET, Cost::Read, key);
        let Some(reply) = self.ask(key, &call).await? else {
            return Ok(None);
        };
        let head = head(&reply)?;
        let received = Arc::clone(&self.counts.bytes_down);
        let body = futures_util::stream::try_unfold(reply.response, move |mut response| {
            let received = Arc::clone(&received);
            async move {
                let cut = |why: String| StoreError::Unavailable(format!("the body was cut off: {why}"));
                let next = tokio::time::timeout(READ_WITHIN, response.chunk()).await;
                match next.map_err(|_| cut("it does not go on".into()))? {
                    Ok(Some(chunk)) => {
                        received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        Ok(Some((chunk, response)))
                    }
                    Ok(None) => Ok(None),
                    Err(error) => Err(cut(crate::web::tls::innermost(&error))),
                }
            }
        });
        Ok(Some(Fetched { head, body: body.boxed() }))
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes, info: &Info, condition: &Condition) -> Result<Etag, StoreError> {
        let put = self.call("writing", Method::PUT, Cost::Write, key).only_if(condition).body(bytes);
        let mut call = with_info(put, info);
        if info.content_type.is_empty() {
            call = call.header("content-type", OF_BYTES);
        }
        let reply = self.ask(key, &call).await?.ok_or_else(|| not_there(&call, key))?;
        etag(reply.header("etag"))
    }

    async fn list(&self, prefix: &str, after: Option<String>) -> Result<Page, StoreError> {
        let mut call = Call::new("listing", Method::GET, Cost::Write, None)
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", self.key(prefix))
            .with_document();
        if let Some(token) = after {
            call = call.query("continuation-token", token);
        }
        let reply = self.ask(prefix, &call).await?.ok_or_else(|| not_there(&call, prefix))?;
        self.page(&reply.document)
    }

    fn page(&self, document: &[u8]) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let (mut is_encoded, mut is_truncated, mut next) = (false, false, None);
        let mut object = [const { None }; 4];
        let mut whole = Ok(());
        let outermost = xml::read(document, &mut |leaf| match (leaf.around, leaf.name) {
            ("ListBucketResult", "EncodingType") => is_encoded = leaf.text == "url",
            ("ListBucketResult", "IsTruncated") => is_truncated = leaf.text == "true",
            ("ListBucketResult", "NextContinuationToken") => next = Some(leaf.text),
            ("Contents", "Key") => object[0] = Some(leaf.text),
            ("Contents", "Size") => object[1] = Some(leaf.text),
            ("Contents", "ETag") => object[2] = Some(leaf.text),
            ("Contents", "LastModified") => object[3] = Some(leaf.text),
            ("ListBucketResult", "Contents") => match listed(std::mem::take(&mut object)) {
                Ok(object) => page.objects.push(object),
                Err(error) => whole = Err(error),
            },
            _ => {}
        });
        whole?;
        if outermost.as_deref() != Some("ListBucketResult") {
            return Err(StoreError::Unavailable("the answer is no listing".into()));
        }
        page.next = next.filter(|_| is_truncated);
        page.objects.retain_mut(|object| {
            if is_encoded {
                object.key = decode(&object.key.replace('+', " "));
            }
            let Some(key) = object.key.strip_prefix(&self.prefix) else {
                return false;
            };
            object.key = key.to_owned();
            true
        });
        Ok(page)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        // Single deletes are free and need no checksum; many together save time.
        let (many, single): (Vec<&str>, Vec<&str>) = keys
            .iter()
            .map(String::as_str)
            .partition(|key| keys.len() > 50 && xml::can_say(&self.key(key)));
        for some in many.chunks(1000) {
            self.delete_many(some).await?;
        }
        let deletes = single.into_iter().map(|key| self.delete_one(key)).collect::<Vec<_>>();
        futures_util::stream::iter(deletes).buffer_unordered(16).try_collect().await
    }

    async fn delete_one(&self, key: &str) -> Result<(), StoreError> {
        let call = self.call("removing", Method::DELETE, Cost::Free, key);
        self.ask(key, &call).await.map(|_| ())
    }

    async fn delete_many(&self, keys: &[&str]) -> Result<(), StoreError> {
        let body = Bytes::from(xml::removal(keys.iter().map(|key| self.key(key))));
        let checksum = BASE64_STANDARD.encode(crc32fast::hash(&body).to_be_bytes());
        let call = Call::new("removing", Method::POST, Cost::Free, None)
            .query("delete", "")
            .header("content-type", "application/xml")
            .header("x-amz-sdk-checksum-algorithm", "CRC32")
            .header("x-amz-checksum-crc32", checksum)
            .body(body)
            .with_document();
        let reply = self.ask(keys[0], &call).await?.ok_or_else(|| not_there(&call, keys[0]))?;
        let (mut failed, mut error) = (None, [const { String::new() }; 3]);
        let outermost = xml::read(&reply.document, &mut |leaf| match (leaf.around, leaf.name) {
            ("Error", "Key") => error[0] = leaf.text,
            ("Error", "Code") => error[1] = leaf.text,
            ("Error", "Message") => error[2] = leaf.text,
            (_, "Error") => {
                let [key, code, message] = std::mem::take(&mut error);
                if code != "NoSuchKey" {
                    failed.get_or_insert(format!("removing `{key}`: {code}: {message}"));
                }
            }
            _ => {}
        });
        match failed {
            None if outermost.is_some() || reply.document.is_empty() => Ok(()),
            None => Err(StoreError::Unavailable("the answer to removing is none".into())),
            Some(why) => Err(StoreError::Unavailable(why)),
        }
    }

    async fn copy(&self, from: &str, from_etag: &Etag, to: &str, info: &Info) -> Result<Etag, StoreError> {
        let call = with_info(self.call("copying", Method::PUT, Cost::Write, to), info)
            .header("x-amz-copy-source", encode(&format!("{}/{}", self.bucket, self.key(from))))
            .header("x-amz-copy-source-if-match", &from_etag.0)
            .header("x-amz-metadata-directive", "REPLACE")
            .with_document();
        let reply = self.ask(from, &call).await?.ok_or(StoreError::Precondition)?;
        etag(leaf_named("ETag", &reply.document).as_deref())
    }
}

/// Amazon's own endpoint; the regions in China have a domain of their own.
fn amazon(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{china}")
}

fn with_info(mut call: Call, info: &Info) -> Call {
    if !info.content_type.is_empty() {
        call = call.header("content-type", &info.content_type);
    }
    let metadata = info
        .metadata
        .iter()
        .map(|(name, value)| (format!("{METADATA}{name}"), value.clone()));
    call.headers.extend(metadata);
    call
}

/// Where a store says that what is being made is not there.
fn not_there(call: &Call, key: &str) -> StoreError {
    StoreError::Refused(format!("{} `{key}`: not found", call.act))
}

/// One object of a listing, of its key, size, tag and time.
fn listed([key, size, tag, modified]: [Option<String>; 4]) -> Result<Listed, StoreError> {
    let modified = modified.and_then(|at| at.parse::<jiff::Timestamp>().ok());
    Ok(Listed {
        key: key.unwrap_or_default(),
        size: length(size.as_deref())?,
        etag: etag(tag.as_deref())?,
        modified_s: modified.map_or(0, jiff::Timestamp::as_second),
    })
}

/// The text of the last element of this name.
fn leaf_named(name: &str, document: &[u8]) -> Option<String> {
    let mut found = None;
    xml::read(document, &mut |leaf| {
        if leaf.name == name {
            found = Some(leaf.text);
        }
    })?;
    found
}

impl Store for S3Store {
    fn name(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Head>> {
        Box::pin(self.head(key))
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Fetched>> {
        Box::pin(self.get(key))
    }

    fn put<'a>(&'a self, key: &'a str, body: Body, info: Info, condition: Condition) -> Answer<'a, Etag> {
        Box::pin(async move {
            match body {
                Body::Bytes(bytes) => self.put_bytes(key, bytes, &info, &condition).await,
                Body::File { file, size, sha256 } => self.put_parts(key, (file, size, sha256), &info, &condition).await,
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<String>) -> Answer<'a, Page> {
        Box::pin(self.list(prefix, after))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(self.delete(keys))
    }

    fn copy<'a>(&'a self, from: &'a str, etag: &'a Etag, to: &'a str, info: Info) -> Answer<'a, Etag> {
        Box::pin(async move { self.copy(from, etag, to, &info).await })
    }

    fn requests(&self) -> Requests {
        let counts = &self.counts;
        Requests {
            writes: counts.writes.load(Ordering::Relaxed),
            reads: counts.reads.load(Ordering::Relaxed),
            free: counts.free.load(Ordering::Relaxed),
            retries: counts.retries.load(Ordering::Relaxed),
            bytes_up: counts.bytes_up.load(Ordering::Relaxed),
            bytes_down: counts.bytes_down.load(Ordering::Relaxed),
        }
    }
}
