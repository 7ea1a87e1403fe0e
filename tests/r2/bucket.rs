//! A bucket in memory with R2's rules, on the s3s trait: conditional writes are atomic, listings in byte order, names normalised, equal
//! parts, at most two parts at a time, and where asked for one write a second of one key.

use base64::Engine as _;
use futures_util::TryStreamExt;
use hyper::body::Bytes;
use md5::{Digest as _, Md5};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use unicode_normalization::UnicodeNormalization;

const PART_LEAST: usize = 5 << 20;
const PARTS_AT_ONCE: usize = 2;

#[derive(Clone)]
struct Object {
    body: Bytes,
    etag: String,
    modified: SystemTime,
    metadata: Option<Metadata>,
    content_type: Option<String>,
}

#[derive(Default)]
struct Upload {
    key: String,
    parts: BTreeMap<i32, (Bytes, String)>,
    metadata: Option<Metadata>,
    content_type: Option<String>,
    /// Parts on their way.
    sending: usize,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Object>,
    uploads: HashMap<String, Upload>,
    number: u64,
    written: HashMap<String, Instant>,
}

/// The bucket, shared by both doors.
#[derive(Clone)]
pub(crate) struct Shared {
    name: Arc<str>,
    rate: bool,
    inner: Arc<Mutex<Inner>>,
}

/// What the admin says of an object.
#[derive(serde::Serialize)]
pub(crate) struct Summary {
    size: usize,
    sha256: String,
    etag: String,
    content_type: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Shared {
    pub(crate) fn new(name: &str, rate: bool) -> Self {
        Self {
            name: name.into(),
            rate,
            inner: Arc::default(),
        }
    }

    pub(crate) fn summary(&self) -> BTreeMap<String, Summary> {
        let inner = self.inner.lock().unwrap();
        let summary = inner.objects.iter().map(|(key, object)| {
            let summary = Summary {
                size: object.body.len(),
                sha256: hex(&<sha2::Sha256 as sha2::Digest>::digest(&object.body)),
                etag: object.etag.clone(),
                content_type: object.content_type.clone(),
                metadata: object
                    .metadata
                    .iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            };
            (key.clone(), summary)
        });
        summary.collect()
    }

    pub(crate) fn clear(&self) {
        self.inner.lock().unwrap().objects.clear();
    }

    pub(crate) fn read(&self, key: &str) -> Option<Bytes> {
        self.inner.lock().unwrap().objects.get(key).map(|object| object.body.clone())
    }

    pub(crate) fn write(&self, key: &str, body: Bytes) {
        let object = Object {
            etag: hex(&Md5::digest(&body)),
            body,
            modified: SystemTime::now(),
            metadata: None,
            content_type: None,
        };
        self.inner.lock().unwrap().objects.insert(key.to_owned(), object);
    }

    pub(crate) fn remove(&self, key: &str) {
        self.inner.lock().unwrap().objects.remove(key);
    }

    fn check(&self, bucket: &str) -> S3Result<()> {
        if bucket == &*self.name {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    fn pace(&self, inner: &mut Inner, key: &str) -> S3Result<()> {
        let now = Instant::now();
        let before = inner.written.insert(key.to_owned(), now);
        if self.rate && before.is_some_and(|before| now - before < Duration::from_secs(1)) {
            let mut error = s3_error!(SlowDown, "Reduce your concurrent request rate for the same object.");
            error.set_status_code(hyper::StatusCode::TOO_MANY_REQUESTS);
            return Err(error);
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn normal(key: &str) -> String {
    key.nfc().collect()
}

fn check_key(key: &str, metadata: &Option<Metadata>) -> S3Result<()> {
    if key.len() > 1024 {
        return Err(s3_error!(KeyTooLongError));
    }
    let size: usize = metadata.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    if size > 8192 { Err(s3_error!(MetadataTooLarge)) } else { Ok(()) }
}

async fn all(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let chunks: Vec<Bytes> = body.map_err(|_| s3_error!(IncompleteBody)).try_collect().await?;
    Ok(chunks.concat().into())
}

fn check_md5(header: Option<&String>, body: &[u8]) -> S3Result<()> {
    let Some(header) = header else { return Ok(()) };
    let wanted = base64::engine::general_purpose::STANDARD
        .decode(header)
        .map_err(|_| s3_error!(InvalidDigest))?;
    if wanted == Md5::digest(body).as_slice() {
        Ok(())
    } else {
        Err(s3_error!(BadDigest))
    }
}

fn check_condition(current: Option<&Object>, matches: &Option<ETagCondition>, none_match: &Option<ETagCondition>) -> S3Result<()> {
    let hit = |condition: &ETagCondition| match (condition, current) {
        (_, None) => false,
        (ETagCondition::Any, Some(_)) => true,
        (ETagCondition::ETag(etag), Some(object)) => etag.value() == object.etag,
    };
    if matches.as_ref().is_some_and(|condition| !hit(condition)) || none_match.as_ref().is_some_and(hit) {
        return Err(s3_error!(PreconditionFailed));
    }
    Ok(())
}

fn encode(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[async_trait::async_trait]
impl S3 for Shared {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(&self, request: S3Request<GetBucketLocationInput>) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.check(&request.input.bucket)?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        check_key(&input.key, &input.metadata)?;
        let body = all(input.body).await?;
        check_md5(input.content_md5.as_ref(), &body)?;
        let key = normal(&input.key);
        let mut inner = self.inner.lock().unwrap();
        check_condition(inner.objects.get(&key), &input.if_match, &input.if_none_match)?;
        self.pace(&mut inner, &key)?;
        let etag = hex(&Md5::digest(&body));
        let object = Object {
            body,
            etag: etag.clone(),
            modified: SystemTime::now(),
            metadata: input.metadata,
            content_type: input.content_type,
        };
        inner.objects.insert(key, object);
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check(&request.input.bucket)?;
        let inner = self.inner.lock().unwrap();
        let object = inner.objects.get(&normal(&request.input.key)).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.body.len() as i64),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(Timestamp::from(object.modified)),
            metadata: object.metadata.clone(),
            content_type: object.content_type.clone(),
            accept_ranges: Some("bytes".into()),
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        let object = {
            let inner = self.inner.lock().unwrap();
            inner.objects.get(&normal(&input.key)).ok_or_else(|| s3_error!(NoSuchKey))?.clone()
        };
        check_condition(Some(&object), &input.if_match, &None)?;
        if let Some(ETagCondition::ETag(etag)) = &input.if_none_match
            && etag.value() == object.etag
        {
            return Err(s3_error!(NotModified));
        }
        let size = object.body.len() as u64;
        let (body, range) = match input.range {
            None => (object.body.clone(), None),
            Some(range) => {
                let range = range.check(size)?;
                let part = object.body.slice(range.start as usize..range.end as usize);
                (part, Some(format!("bytes {}-{}/{size}", range.start, range.end - 1)))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(body.len() as i64),
            content_range: range,
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(Timestamp::from(object.modified)),
            metadata: object.metadata,
            content_type: object.content_type,
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check(&request.input.bucket)?;
        self.inner.lock().unwrap().objects.remove(&normal(&request.input.key));
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check(&request.input.bucket)?;
        let delete = request.input.delete;
        if delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        let mut inner = self.inner.lock().unwrap();
        let mut deleted = Vec::new();
        for object in delete.objects {
            inner.objects.remove(&normal(&object.key));
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (delete.quiet != Some(true)).then_some(deleted),
            ..Default::default()
        }))
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        self.check(bucket)?;
        self.check(&input.bucket)?;
        check_key(&input.key, &input.metadata)?;
        let to = normal(&input.key);
        let mut inner = self.inner.lock().unwrap();
        let mut object = inner.objects.get(&normal(key)).ok_or_else(|| s3_error!(NoSuchKey))?.clone();
        check_condition(Some(&object), &input.copy_source_if_match, &None)?;
        self.pace(&mut inner, &to)?;
        object.modified = SystemTime::now();
        if input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == "REPLACE")
        {
            object.metadata.clone_from(&input.metadata);
            object.content_type.clone_from(&input.content_type);
        }
        let etag = object.etag.clone();
        inner.objects.insert(to, object);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(ETag::Strong(etag)),
                last_modified: Some(Timestamp::from(SystemTime::now())),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check(&input.bucket)?;
        let most = usize::try_from(input.max_keys.unwrap_or(1000).clamp(0, 1000)).expect("positive");
        let (prefix, delimiter) = (
            input.prefix.clone().unwrap_or_default(),
            input.delimiter.clone().unwrap_or_default(),
        );
        let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
        let encoded = input.encoding_type.is_some();
        let shown = |key: &str| if encoded { encode(key) } else { key.to_owned() };
        let inner = self.inner.lock().unwrap();
        let (mut contents, mut prefixes): (Vec<(String, Object)>, Vec<String>) = (Vec::new(), Vec::new());
        let (mut last, mut truncated) = (None, false);
        let start = if after >= prefix {
            Bound::Excluded(after.clone())
        } else {
            Bound::Included(prefix.clone())
        };
        for (key, object) in inner.objects.range::<String, _>((start, Bound::Unbounded)) {
            if !key.starts_with(&prefix) {
                break;
            }
            let folder = (!delimiter.is_empty()).then(|| key[prefix.len()..].find(&delimiter)).flatten();
            let folder = folder.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned());
            if folder
                .as_ref()
                .is_some_and(|folder| prefixes.last() == Some(folder) || (!after.is_empty() && *folder == after))
            {
                continue;
            }
            if contents.len() + prefixes.len() >= most {
                truncated = true;
                break;
            }
            last = Some(folder.clone().unwrap_or_else(|| key.clone()));
            match folder {
                Some(folder) => prefixes.push(folder),
                None => contents.push((shown(key), object.clone())),
            }
        }
        let contents: Vec<_> = contents
            .into_iter()
            .map(|(key, object)| s3s::dto::Object {
                key: Some(key),
                size: Some(object.body.len() as i64),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(Timestamp::from(object.modified)),
                storage_class: Some(ObjectStorageClass::from_static("STANDARD")),
                ..Default::default()
            })
            .collect();
        let prefixes = prefixes.into_iter().map(|prefix| CommonPrefix {
            prefix: Some(shown(&prefix)),
        });
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.as_deref().map(shown),
            delimiter: input.delimiter,
            max_keys: input.max_keys,
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            common_prefixes: Some(prefixes.collect()),
            contents: Some(contents),
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        check_key(&input.key, &input.metadata)?;
        let mut inner = self.inner.lock().unwrap();
        inner.number += 1;
        let id = format!("upload-{}", inner.number);
        let upload = Upload {
            key: normal(&input.key),
            metadata: input.metadata,
            content_type: input.content_type,
            ..Default::default()
        };
        inner.uploads.insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        {
            let mut inner = self.inner.lock().unwrap();
            let upload = inner.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            if upload.sending >= PARTS_AT_ONCE {
                return Err(s3_error!(InternalError, "too many parts of one upload at a time"));
            }
            upload.sending += 1;
        }
        let body = all(input.body).await;
        let mut inner = self.inner.lock().unwrap();
        let upload = inner.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.sending -= 1;
        let body = body?;
        check_md5(input.content_md5.as_ref(), &body)?;
        let etag = hex(&Md5::digest(&body));
        upload.parts.insert(input.part_number, (body, etag.clone()));
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let mut inner = self.inner.lock().unwrap();
        inner
            .uploads
            .remove(&request.input.upload_id)
            .ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut inner = self.inner.lock().unwrap();
        let upload = inner.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let wanted = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .ok_or_else(|| s3_error!(MalformedXML))?;
        let (mut body, mut sums, mut first) = (Vec::new(), Vec::new(), None);
        for (at, part) in wanted.iter().enumerate() {
            let number = part.part_number.unwrap_or(0);
            let (bytes, etag) = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().map(ETag::value) != Some(etag) {
                return Err(s3_error!(InvalidPart));
            }
            let length = *first.get_or_insert(bytes.len());
            let is_last = at + 1 == wanted.len();
            if !is_last && bytes.len() < PART_LEAST {
                return Err(s3_error!(EntityTooSmall));
            }
            if (!is_last && bytes.len() != length) || bytes.len() > length {
                return Err(s3_error!(InvalidPart, "All non-trailing parts must have the same length."));
            }
            body.extend_from_slice(bytes);
            sums.extend_from_slice(&Md5::digest(bytes));
        }
        let (key, metadata, content_type) = (upload.key.clone(), upload.metadata.clone(), upload.content_type.clone());
        check_condition(inner.objects.get(&key), &input.if_match, &input.if_none_match)?;
        self.pace(&mut inner, &key)?;
        let etag = format!("{}-{}", hex(&Md5::digest(&sums)), wanted.len());
        let object = Object {
            body: body.into(),
            etag: etag.clone(),
            modified: SystemTime::now(),
            metadata,
            content_type,
        };
        inner.objects.insert(key, object);
        inner.uploads.remove(&input.upload_id);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }
}
