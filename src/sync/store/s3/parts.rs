//! Large bodies: in equal parts, two at a time, each in memory and signed.

use super::answer::etag;
use super::request::Cost;
use super::{OF_BYTES, PART, S3Store, leaf_named, not_there, with_info, xml};
use crate::sync::content::Digest;
use crate::sync::store::{Condition, Etag, Info, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::Method;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// R2 answers 500 to more parts of one upload at a time.
const PARTS_AT_ONCE: usize = 2;

/// A file, its size, and the digest that it has to have.
type Large = (Arc<File>, u64, Digest);

impl S3Store {
    pub(super) async fn put_parts(&self, key: &str, source: Large, info: &Info, condition: &Condition) -> Result<Etag, StoreError> {
        let begin = self.call("beginning to write", Method::POST, Cost::Write, key);
        let begin = with_info(begin, info).query("uploads", "").with_document();
        let reply = self.ask(key, &begin).await?.ok_or_else(|| not_there(&begin, key))?;
        let upload = leaf_named("UploadId", &reply.document);
        let upload = upload.ok_or_else(|| StoreError::Unavailable("the answer has no upload id".into()))?;
        let result = match self.send_parts(key, &upload, source).await {
            Ok(parts) => self.complete(key, &upload, &parts, condition).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            let abort = self.call("giving up", Method::DELETE, Cost::Free, key).query("uploadId", &upload);
            // What stays behind is removed by the store itself after seven days.
            let _ = self.send(&*self.session().await?, &abort).await;
        }
        result
    }

    async fn send_parts(&self, key: &str, upload: &str, source: Large) -> Result<Vec<String>, StoreError> {
        let (file, size, wanted) = source;
        let mut hasher = Sha256::new();
        let (mut number, mut at) = (0, 0);
        // Parts are read and hashed in their order, sent two at a time.
        let parts = std::iter::from_fn(|| {
            if at >= size {
                return None;
            }
            let length = usize::try_from(size - at).unwrap_or(PART).min(PART);
            let mut buffer = vec![0; length];
            let read = file.read_exact_at(&mut buffer, at);
            hasher.update(&buffer);
            at += length as u64;
            number += 1;
            Some((number, read.map(|()| Bytes::from(buffer)).map_err(|_| StoreError::Changed)))
        });
        let sent: Vec<String> = futures_util::stream::iter(parts)
            .map(|(number, bytes)| async move { self.send_part(key, upload, number, bytes?).await })
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        if Digest::finish(hasher) == wanted {
            Ok(sent)
        } else {
            Err(StoreError::Changed)
        }
    }

    async fn send_part(&self, key: &str, upload: &str, number: u32, bytes: Bytes) -> Result<String, StoreError> {
        let part = self
            .call("writing a part of", Method::PUT, Cost::Write, key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload)
            .header("content-type", OF_BYTES)
            .body(bytes);
        let reply = self.ask(key, &part).await?.ok_or_else(|| not_there(&part, key))?;
        etag(reply.header("etag")).map(|etag| etag.0)
    }

    async fn complete(&self, key: &str, upload: &str, parts: &[String], condition: &Condition) -> Result<Etag, StoreError> {
        let complete = self
            .call("finishing to write", Method::POST, Cost::Write, key)
            .query("uploadId", upload)
            .header("content-type", "application/xml")
            .only_if(condition)
            .body(xml::completion(parts))
            .with_document();
        // Not there: the first attempt was committed and its answer lost. Whose object is there is for the caller to find out.
        let reply = self.ask(key, &complete).await?.ok_or(StoreError::Precondition)?;
        etag(leaf_named("ETag", &reply.document).as_deref())
    }
}
