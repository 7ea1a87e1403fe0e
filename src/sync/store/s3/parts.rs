//! Large bodies: in equal parts, two at a time, each in memory and signed.

use super::answer::{Trouble, content_type, etag, headers, incomplete, metadata, trouble};
use super::{PART, S3Store};
use crate::sync::content::Digest;
use crate::sync::store::{Condition, Etag, Info, StoreError};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// R2 answers 500 to more parts of one upload at a time.
const PARTS_AT_ONCE: usize = 2;

/// A file, its size, and the digest that it has to have.
type Large = (Arc<File>, u64, Digest);

impl S3Store {
    pub(super) async fn put_parts(&self, key: &str, source: Large, info: &Info, condition: &Condition) -> Result<Etag, StoreError> {
        let upload = self
            .attempt(async |client| {
                self.counts.writes.fetch_add(1, Ordering::Relaxed);
                let request = client
                    .create_multipart_upload()
                    .bucket(&self.bucket)
                    .key(self.key(key))
                    .set_content_type(content_type(info))
                    .set_metadata(metadata(info));
                match request.send().await {
                    Ok(answer) => answer.upload_id.ok_or_else(|| incomplete("an upload id")),
                    Err(error) => Err(trouble("beginning to write", key, error)),
                }
            })
            .await?;
        let result = match self.send_parts(key, &upload, source).await {
            Ok(parts) => self.complete(key, &upload, parts, condition).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            let client = self.client().await?;
            let request = client
                .abort_multipart_upload()
                .bucket(&self.bucket)
                .key(self.key(key))
                .upload_id(&upload);
            // What stays behind is removed by the store itself after seven days.
            let _ = request.send().await;
        }
        result
    }

    async fn send_parts(&self, key: &str, upload: &str, source: Large) -> Result<Vec<CompletedPart>, StoreError> {
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
        let sent: Vec<_> = futures_util::stream::iter(parts)
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

    async fn send_part(&self, key: &str, upload: &str, number: i32, bytes: Bytes) -> Result<CompletedPart, StoreError> {
        let etag = self
            .attempt(async |client| {
                self.counts.writes.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes_up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let request = client
                    .upload_part()
                    .bucket(&self.bucket)
                    .key(self.key(key))
                    .upload_id(upload)
                    .part_number(number)
                    .body(ByteStream::from(bytes.clone()));
                match request.send().await {
                    Ok(answer) => answer.e_tag.ok_or_else(|| incomplete("an ETag")),
                    Err(error) => Err(trouble("writing a part of", key, error)),
                }
            })
            .await?;
        Ok(CompletedPart::builder().part_number(number).e_tag(etag).build())
    }

    async fn complete(&self, key: &str, upload: &str, parts: Vec<CompletedPart>, condition: &Condition) -> Result<Etag, StoreError> {
        self.attempt(async |client| {
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
            let (matches, absent) = headers(condition);
            let request = client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(self.key(key))
                .upload_id(upload)
                .set_if_match(matches)
                .set_if_none_match(absent)
                .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.clone())).build());
            match request.send().await {
                Ok(answer) => etag(answer.e_tag),
                // The first attempt was committed and its answer lost: whose object is there is for the caller to find out.
                Err(error) if error.code() == Some("NoSuchUpload") => Err(Trouble::Other(StoreError::Precondition)),
                Err(error) => Err(trouble("finishing to write", key, error)),
            }
        })
        .await
    }
}
