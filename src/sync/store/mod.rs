//! Where the files are kept: one small trait, and what implements it.
//!
//! A store holds objects under keys below its own prefix. Writes can be made conditional on an [`Etag`], a token that changes whenever
//! the object does; nothing else is read into it. Every implementation passes the suite in `tests/sync/conformance.rs`.

pub mod address;
pub mod file;
pub mod http;
pub mod s3;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A token that changes whenever the object does. Compared, never interpreted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Etag(pub String);

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a write may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// Nothing is there.
    Absent,
    /// Exactly this is there.
    Matches(Etag),
}

/// What is known of an object beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `Content-Type`; empty for none.
    pub content_type: String,
    /// User metadata: `sha256`, `mode`, `mtime-ns`, `link`, `generation`.
    pub metadata: BTreeMap<String, String>,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory: what was hashed is what is sent.
    Bytes(Bytes),
    /// Read while it is sent, in parts; refused with [`StoreError::Changed`] when it no longer has this digest.
    File {
        /// Open for reading.
        file: Arc<std::fs::File>,
        /// Its length.
        size: u64,
        /// What was hashed.
        sha256: super::content::Digest,
    },
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Below the store's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Its change token.
    pub etag: Etag,
    /// When it was last written by the store's clock, seconds since the epoch. Nothing is ordered by it.
    pub modified_s: i64,
}

/// A part of a listing. Keys may come in any order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// What to ask the next page with; `None` at the end.
    pub next: Option<String>,
}

/// An object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes.
    pub size: u64,
    /// Its change token.
    pub etag: Etag,
    /// What else is known.
    pub info: Info,
}

/// An object on its way.
pub struct Fetched {
    /// All but the bytes.
    pub head: Head,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Fetched {
    /// All of its bytes; an error when there are more than `most`, or fewer than announced.
    pub async fn bytes(mut self, most: u64) -> Result<(Head, Bytes), StoreError> {
        if self.head.size > most {
            return Err(StoreError::Refused(format!(
                "the object has {} bytes, more than the {most} expected",
                self.head.size
            )));
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(self.head.size).unwrap_or(0));
        while let Some(chunk) = self.body.next().await {
            whole.extend_from_slice(&chunk?);
            if whole.len() as u64 > self.head.size {
                return Err(StoreError::Unavailable("the body is longer than announced".into()));
            }
        }
        if whole.len() as u64 != self.head.size {
            return Err(StoreError::Unavailable("the body ended early".into()));
        }
        Ok((self.head, whole.freeze()))
    }
}

/// Requests that were made, by what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Class A: writes, copies, listings.
    pub writes: u64,
    /// Class B: reads.
    pub reads: u64,
    /// Free: deletes.
    pub free: u64,
    /// Of all these, repeated ones.
    pub retries: u64,
    /// Bytes sent.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
}

impl Requests {
    /// What they cost at R2's price, in US dollars.
    pub fn cost(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a sum of money for people")]
        let (writes, reads) = (self.writes as f64, self.reads as f64);
        (writes * 4.50 + reads * 0.36) / 1e6
    }
}

/// Why a request to the store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The condition did not hold. After a retry this may be the echo of one's own write.
    #[error("the object is not as it was expected to be")]
    Precondition,
    /// Wrong keys, or no right to do this. Final.
    #[error("the store refuses the credentials: {0}")]
    Denied(String),
    /// There is no such bucket or directory. Final.
    #[error("the store does not exist: {0}")]
    Missing(String),
    /// Out of reach, overloaded, or cut off in the middle; later it may work.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The file changed while it was read.
    #[error("the file changed while it was being read")]
    Changed,
    /// The store cannot hold such a key.
    #[error("the store cannot hold `{key}`: {why}")]
    Unrepresentable {
        /// The key.
        key: String,
        /// The reason.
        why: String,
    },
    /// Anything else; trying again will not help.
    #[error("the store refused: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether no later attempt can succeed without a person.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Missing(_))
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What every call of a store returns.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A place for objects. Calls may run side by side.
pub trait Store: fmt::Debug + Send + Sync {
    /// Where it is, for people; no secrets.
    fn name(&self) -> String;
    /// The object without its bytes; `None` when there is none.
    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Head>>;
    /// The object; `None` when there is none.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Fetched>>;
    /// Writes an object whole or not at all.
    fn put<'a>(&'a self, key: &'a str, body: Body, info: Info, condition: Condition) -> Answer<'a, Etag>;
    /// The objects whose key begins with `prefix`, a page at a time.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<String>) -> Answer<'a, Page>;
    /// Removes objects; such as are not there are no error.
    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()>;
    /// Copies an object that still has this token, with new information about it.
    fn copy<'a>(&'a self, from: &'a str, etag: &'a Etag, to: &'a str, info: Info) -> Answer<'a, Etag>;
    /// What was asked of it so far.
    fn requests(&self) -> Requests;
}

/// Every object whose key begins with `prefix`.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Listed>, StoreError> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(prefix, after).await?;
        all.extend(page.objects);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// A small object whole. A body that was cut off is fetched anew a few times.
pub async fn read_small(store: &dyn Store, key: &str, most: u64) -> Result<Option<(Head, Bytes)>, StoreError> {
    let mut attempt = 0;
    loop {
        let Some(fetched) = store.get(key).await? else { return Ok(None) };
        match fetched.bytes(most).await {
            Err(error) if error.is_temporary() && attempt < 5 => {
                attempt += 1;
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
            }
            result => return result.map(Some),
        }
    }
}

/// The media type of a file by its name, so that a browser shows it.
pub fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "xml" => "application/xml",
        "zip" => "application/zip",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "ts" | "tsx" | "jsx" | "md" | "mdx" | "txt" | "toml" | "yaml" | "yml" | "py" | "rs" | "go" | "rb" | "java" | "c" | "h" | "cpp"
        | "sh" | "sql" | "vue" | "svelte" | "astro" | "prisma" | "graphql" | "env" | "lock" | "csv" | "ini" | "cfg" | "scss" | "less" => {
            "text/plain; charset=utf-8"
        }
        _ if name.starts_with('.') || extension.is_empty() => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
