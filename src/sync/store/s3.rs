//! A bucket as a store: R2, S3 and what speaks like them, through Amazon's own client.
//!
//! Bodies up to [`PART`] bytes are in memory and go with their signed SHA-256; larger ones in equal parts, two at a time, which is what R2
//! takes. A body in memory is first tried by a quicker way (`quick`). No trailing checksums, no chunked signing. Being told to slow down slows down and is never an error to the caller until
//! minutes have passed.

mod answer;
mod parts;
mod quick;

use super::address::decode;
use super::{Answer, Body, Condition, Etag, Fetched, Head, Info, Listed, Page, Requests, Store, StoreError};
use crate::sync::credentials::{Keys, Source};
use answer::{Trouble, content_type, encode, etag, headers, info, is_not_found, length, metadata, trouble};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, EncodingType, MetadataDirective, ObjectIdentifier};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::RwLock;

/// The largest body that is sent at once, and the size of a part.
pub const PART: usize = 8 << 20;
const ATTEMPTS: u32 = 6;
const ATTEMPTS_WHEN_SLOWED: u32 = 30;

/// A prefix in a bucket.
pub struct S3Store {
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
    region: String,
    source: Source,
    session: RwLock<Option<Arc<Session>>>,
    connector: SharedHttpConnector,
    counts: Counts,
    /// Milliseconds that every request waits before it is sent; doubled when the store is overloaded, halved when it answers.
    pace_ms: AtomicU64,
}

/// What goes on for as long as the keys do.
struct Session {
    client: Client,
    credentials: Credentials,
    keys: Keys,
    /// Whether the quick way was refused: then the client's, which knows about clocks that are off.
    no_quick_way: AtomicBool,
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
    /// A store below `prefix` (empty, or ending in `/`). No request is made yet.
    pub fn new(bucket: String, prefix: String, endpoint: Option<String>, region: String, source: Source) -> Self {
        let connector = super::roots::s3_connector(endpoint.as_deref());
        Self {
            bucket,
            prefix,
            endpoint,
            region,
            source,
            session: RwLock::new(None),
            connector,
            counts: Counts::default(),
            pace_ms: AtomicU64::new(0),
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
        let session = Arc::new(self.connect(keys));
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn client(&self) -> Result<Client, StoreError> {
        Ok(self.session().await?.client.clone())
    }

    fn connect(&self, keys: Keys) -> Session {
        let credentials = Credentials::new(
            &keys.access_key_id,
            &keys.secret_access_key,
            keys.session_token.clone(),
            keys.expires_at,
            "sandkeep",
        );
        let connector = self.connector.clone();
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(120));
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(credentials.clone())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(timeouts.build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Session {
            client: Client::from_conf(config.build()),
            credentials,
            keys,
            no_quick_way: AtomicBool::new(false),
        }
    }

    /// Makes attempts until one succeeds, the answer is clear, or patience ends.
    async fn attempt<T, F, Fut>(&self, act: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Trouble>>,
    {
        let mut tries = 0;
        loop {
            let pace = self.pace_ms.load(Ordering::Relaxed);
            if pace > 0 {
                tokio::time::sleep(Duration::from_millis(pace / 2 + fastrand::u64(0..=pace))).await;
            }
            let trouble = match act(self.client().await?).await {
                Ok(answer) => {
                    self.pace_ms.store(pace / 2, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            tries += 1;
            let (most, error) = match trouble {
                Trouble::Slow(why) => {
                    self.pace_ms.store((pace * 2).clamp(50, 4_000), Ordering::Relaxed);
                    (ATTEMPTS_WHEN_SLOWED, StoreError::Unavailable(why))
                }
                Trouble::Stale(why) => {
                    *self.session.write().await = None;
                    (2, StoreError::Denied(why))
                }
                Trouble::Other(error) if error.is_temporary() => (ATTEMPTS, error),
                Trouble::Other(error) => return Err(error),
            };
            if tries >= most {
                return Err(error);
            }
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            let most_ms = 100_u64 << tries.min(5);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(most_ms / 2..=most_ms))).await;
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn head(&self, key: &str) -> Result<Option<Head>, StoreError> {
        self.attempt(async |client| {
            self.counts.reads.fetch_add(1, Ordering::Relaxed);
            match client.head_object().bucket(&self.bucket).key(self.key(key)).send().await {
                Ok(answer) => Ok(Some(Head {
                    size: length(answer.content_length)?,
                    etag: etag(answer.e_tag)?,
                    info: info(answer.content_type, answer.metadata),
                })),
                Err(error) if is_not_found(&error) => Ok(None),
                Err(error) => Err(trouble("asking for", key, error)),
            }
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<Fetched>, StoreError> {
        let answer = self
            .attempt(async |client| {
                self.counts.reads.fetch_add(1, Ordering::Relaxed);
                match client.get_object().bucket(&self.bucket).key(self.key(key)).send().await {
                    Ok(answer) => Ok(Some(answer)),
                    Err(error) if is_not_found(&error) => Ok(None),
                    Err(error) => Err(trouble("reading", key, error)),
                }
            })
            .await?;
        let Some(answer) = answer else { return Ok(None) };
        let wrong = |_| StoreError::Unavailable("the answer is incomplete".into());
        let head = Head {
            size: length(answer.content_length).map_err(wrong)?,
            etag: etag(answer.e_tag).map_err(wrong)?,
            info: info(answer.content_type, answer.metadata),
        };
        let received = Arc::clone(&self.counts.bytes_down);
        let body = futures_util::stream::try_unfold(answer.body, move |mut body| {
            let received = Arc::clone(&received);
            async move {
                match body.try_next().await {
                    Ok(Some(chunk)) => {
                        received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        Ok(Some((chunk, body)))
                    }
                    Ok(None) => Ok(None),
                    Err(error) => Err(StoreError::Unavailable(format!("the body was cut off: {error}"))),
                }
            }
        });
        Ok(Some(Fetched { head, body: body.boxed() }))
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes, info: &Info, condition: &Condition) -> Result<Etag, StoreError> {
        if let Some(result) = self.put_quickly(key, &bytes, info, condition).await? {
            return result;
        }
        self.attempt(async |client| {
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
            self.counts.bytes_up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let (matches, absent) = headers(condition);
            let request = client
                .put_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .set_content_type(content_type(info))
                .set_metadata(metadata(info))
                .set_if_match(matches)
                .set_if_none_match(absent)
                .body(ByteStream::from(bytes.clone()));
            match request.send().await {
                Ok(answer) => etag(answer.e_tag),
                Err(error) => Err(trouble("writing", key, error)),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<String>) -> Result<Page, StoreError> {
        self.attempt(async |client| {
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
            let request = client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.key(prefix))
                .set_continuation_token(after.clone())
                .encoding_type(EncodingType::Url);
            let answer = request.send().await.map_err(|error| trouble("listing", prefix, error))?;
            let encoded = answer.encoding_type == Some(EncodingType::Url);
            let mut page = Page {
                objects: Vec::with_capacity(answer.contents.as_ref().map_or(0, Vec::len)),
                next: answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true)),
            };
            for object in answer.contents.unwrap_or_default() {
                let key = object.key.unwrap_or_default();
                let key = if encoded { decode(&key.replace('+', " ")) } else { key };
                if let Some(key) = key.strip_prefix(&self.prefix) {
                    page.objects.push(Listed {
                        key: key.to_owned(),
                        size: length(object.size)?,
                        etag: etag(object.e_tag)?,
                        modified_s: object.last_modified.map_or(0, |at| at.secs()),
                    });
                }
            }
            Ok(page)
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        // Single deletes are free and need no checksum; many together save time.
        if keys.len() <= 50 {
            let deletes = futures_util::stream::iter(keys.to_vec()).map(|key| async move { self.delete_one(&key).await });
            return deletes.buffer_unordered(16).try_collect().await;
        }
        for some in keys.chunks(1000) {
            self.delete_many(some).await?;
        }
        Ok(())
    }

    async fn delete_one(&self, key: &str) -> Result<(), StoreError> {
        self.attempt(async |client| {
            self.counts.free.fetch_add(1, Ordering::Relaxed);
            match client.delete_object().bucket(&self.bucket).key(self.key(key)).send().await {
                Ok(_) => Ok(()),
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(trouble("removing", key, error)),
            }
        })
        .await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        let identifiers: Result<Vec<_>, _> = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.key(key)).build())
            .collect();
        let identifiers = identifiers.expect("every identifier has its key");
        self.attempt(async |client| {
            self.counts.free.fetch_add(1, Ordering::Relaxed);
            let delete = Delete::builder().set_objects(Some(identifiers.clone())).quiet(true).build();
            let delete = delete.expect("the objects are set");
            let request = client.delete_objects().bucket(&self.bucket).delete(delete);
            let answer = request.send().await.map_err(|error| trouble("removing", &keys[0], error))?;
            match answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
                None => Ok(()),
                Some(error) => Err(Trouble::Other(StoreError::Unavailable(format!(
                    "removing `{}`: {}",
                    error.key().unwrap_or_default(),
                    error.message().unwrap_or_default()
                )))),
            }
        })
        .await
    }

    async fn copy(&self, from: &str, from_etag: &Etag, to: &str, info: &Info) -> Result<Etag, StoreError> {
        let source = encode(&format!("{}/{}", self.bucket, self.key(from)));
        self.attempt(async |client| {
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
            let request = client
                .copy_object()
                .bucket(&self.bucket)
                .key(self.key(to))
                .copy_source(&source)
                .copy_source_if_match(&from_etag.0)
                .metadata_directive(MetadataDirective::Replace)
                .set_content_type(content_type(info))
                .set_metadata(metadata(info));
            match request.send().await {
                Ok(answer) => etag(answer.copy_object_result.and_then(|result| result.e_tag)),
                Err(error) if is_not_found(&error) => Err(Trouble::Other(StoreError::Precondition)),
                Err(error) => Err(trouble("copying", from, error)),
            }
        })
        .await
    }
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
