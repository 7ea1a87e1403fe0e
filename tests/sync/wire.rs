//! What our S3 store sends is what Amazon's own client sends: request by request, on one server that only listens.

use crate::server::{ID, SECRET};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective, ObjectIdentifier};
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sandkeep::sync::content::Digest;
use sandkeep::sync::credentials::{Keys, Source};
use sandkeep::sync::store::s3::{PART, S3Store};
use sandkeep::sync::store::{Body, Condition, Etag, Info, Store};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A request without what differs from one client, moment or try to the next.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    line: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: String,
}

type Listener = Arc<Mutex<Vec<Seen>>>;

async fn answer(State(seen): State<Listener>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 32 << 20).await.expect("a body");
    let query = head.uri.query().unwrap_or_default();
    let has = |word: &str| query.split('&').any(|pair| pair.split('=').next() == Some(word));
    let tag = [("etag", "\"tag\"")];
    let answer = match head.method {
        Method::POST if has("uploads") => {
            "<InitiateMultipartUploadResult><UploadId>an/id</UploadId></InitiateMultipartUploadResult>".into_response()
        }
        Method::POST if has("uploadId") => {
            "<CompleteMultipartUploadResult><ETag>\"tag\"</ETag></CompleteMultipartUploadResult>".into_response()
        }
        Method::POST => "<DeleteResult/>".into_response(),
        Method::PUT if head.headers.contains_key("x-amz-copy-source") => {
            "<CopyObjectResult><ETag>\"tag\"</ETag></CopyObjectResult>".into_response()
        }
        Method::GET if has("list-type") => "<ListBucketResult/>".into_response(),
        Method::DELETE => StatusCode::NO_CONTENT.into_response(),
        _ => (tag, "x").into_response(),
    };
    let parts = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("x-id="));
    let pairs = parts.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    seen.lock().expect("no panic").push(Seen {
        line: format!("{} {}", head.method, head.uri.path()),
        query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        headers: told(&head.headers),
        body: if body.len() < 10_000 {
            String::from_utf8_lossy(&body).into_owned()
        } else {
            Digest::of(&body).to_string()
        },
    });
    answer
}

/// Every header that means something to a store.
fn told(headers: &HeaderMap) -> BTreeMap<String, String> {
    let own = ["x-amz-date", "x-amz-user-agent"];
    let plain = ["if-match", "if-none-match", "content-type", "content-length"];
    headers
        .iter()
        .filter(|(name, _)| plain.contains(&name.as_str()) || (name.as_str().starts_with("x-amz-") && !own.contains(&name.as_str())))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        // Said, or not said and meant.
        .filter(|(name, value)| name != "content-length" || value != "0")
        .collect()
}

async fn listen() -> (String, Listener) {
    let seen = Listener::default();
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&seen));
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let endpoint = format!("http://{}", door.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(door, router).await });
    (endpoint, seen)
}

fn theirs(endpoint: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("auto"))
        .credentials_provider(Credentials::new(ID, SECRET, Some("a token".into()), None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .endpoint_url(endpoint);
    aws_sdk_s3::Client::from_conf(config.build())
}

fn ours(endpoint: &str) -> S3Store {
    let keys = Keys {
        access_key_id: ID.into(),
        secret_access_key: SECRET.into(),
        session_token: Some("a token".into()),
        expires_at: None,
    };
    S3Store::new(
        "a-bucket".into(),
        "p/".into(),
        Some(endpoint.into()),
        "auto".into(),
        Source::Fixed(keys),
    )
}

/// Everything a key may hold: what is encoded in a path, in a query, in a header and in XML, and what is not.
const KEY: &str = "a b+c/&<>\"'=?#%25-_.~:@$,;!*()[]/ü€😀";
const ENCODED: &str = "a%20b%2Bc/%26%3C%3E%22%27%3D%3F%23%2525-_.~%3A%40%24%2C%3B%21%2A%28%29%5B%5D/%C3%BC%E2%82%AC%F0%9F%98%80";

fn info() -> Info {
    Info {
        content_type: "text/plain; charset=utf-8".into(),
        metadata: [("mode".to_owned(), "755".to_owned()), ("sha256".to_owned(), "0a".to_owned())].into(),
    }
}

#[tokio::test]
async fn reading_removing_and_listing() {
    let (endpoint, seen) = listen().await;
    let (theirs, ours) = (theirs(&endpoint), ours(&endpoint));
    let key = format!("p/{KEY}");
    theirs.head_object().bucket("a-bucket").key(&key).send().await.expect("answered");
    theirs.get_object().bucket("a-bucket").key(&key).send().await.expect("answered");
    theirs.delete_object().bucket("a-bucket").key(&key).send().await.expect("answered");
    let list = || {
        theirs
            .list_objects_v2()
            .bucket("a-bucket")
            .prefix(&key)
            .encoding_type(EncodingType::Url)
    };
    list().send().await.expect("answered");
    list().continuation_token("1/a+b=c&d").send().await.expect("answered");
    let many: Vec<_> = (0..60).map(|at| format!("{KEY}{at}")).collect();
    let named = many
        .iter()
        .map(|key| ObjectIdentifier::builder().key(format!("p/{key}")).build().expect("a key"));
    let delete = Delete::builder()
        .set_objects(Some(named.collect()))
        .quiet(true)
        .build()
        .expect("some");
    theirs
        .delete_objects()
        .bucket("a-bucket")
        .delete(delete)
        .send()
        .await
        .expect("answered");
    let wanted = std::mem::take(&mut *seen.lock().expect("no panic"));

    ours.head(KEY).await.expect("answered");
    ours.get(KEY).await.expect("answered");
    ours.delete(&[KEY.to_owned()]).await.expect("answered");
    ours.list(KEY, None).await.expect("answered");
    ours.list(KEY, Some("1/a+b=c&d".into())).await.expect("answered");
    ours.delete(&many).await.expect("answered");
    compare(&wanted, &seen);
}

#[tokio::test]
async fn writing_and_copying() {
    let (endpoint, seen) = listen().await;
    let (theirs, ours) = (theirs(&endpoint), ours(&endpoint));
    let key = format!("p/{KEY}");
    let Info { content_type, metadata } = info();
    let metadata: std::collections::HashMap<_, _> = metadata.into_iter().collect();
    let put = || {
        let request = theirs
            .put_object()
            .bucket("a-bucket")
            .key(&key)
            .body(ByteStream::from_static(b"bytes"));
        request.content_type(&content_type).set_metadata(Some(metadata.clone()))
    };
    put().send().await.expect("answered");
    put().if_match("\"old\"").send().await.expect("answered");
    put().if_none_match("*").send().await.expect("answered");
    let empty = theirs.put_object().bucket("a-bucket").key(&key).body(ByteStream::from_static(b""));
    empty.send().await.expect("answered");
    let copy = theirs.copy_object().bucket("a-bucket").key("p/to").copy_source_if_match("\"old\"");
    // The client takes this one as it is; what is to be encoded in it is for its user.
    let copy = copy.copy_source(format!("a-bucket/p/{ENCODED}"));
    let copy = copy.metadata_directive(MetadataDirective::Replace);
    let copy = copy.content_type(&content_type).set_metadata(Some(metadata.clone()));
    copy.send().await.expect("answered");
    let wanted = std::mem::take(&mut *seen.lock().expect("no panic"));

    let bytes = || Body::Bytes(Bytes::from_static(b"bytes"));
    ours.put(KEY, bytes(), info(), Condition::Always).await.expect("answered");
    let old = Etag("\"old\"".into());
    ours.put(KEY, bytes(), info(), Condition::Matches(old.clone()))
        .await
        .expect("answered");
    ours.put(KEY, bytes(), info(), Condition::Absent).await.expect("answered");
    let nothing = Body::Bytes(Bytes::new());
    ours.put(KEY, nothing, Info::default(), Condition::Always).await.expect("answered");
    ours.copy(KEY, &old, "to", info()).await.expect("answered");
    compare(&wanted, &seen);
}

#[tokio::test]
async fn large_bodies_in_parts() {
    let (endpoint, seen) = listen().await;
    let (theirs, ours) = (theirs(&endpoint), ours(&endpoint));
    let (key, whole) = (format!("p/{KEY}"), vec![7_u8; PART + 5]);
    let Info { content_type, metadata } = info();
    let begin = theirs
        .create_multipart_upload()
        .bucket("a-bucket")
        .key(&key)
        .content_type(content_type);
    let begun = begin
        .set_metadata(Some(metadata.into_iter().collect()))
        .send()
        .await
        .expect("answered");
    let upload = begun.upload_id().expect("an id");
    for (number, part) in (1..).zip(whole.chunks(PART)) {
        let request = theirs
            .upload_part()
            .bucket("a-bucket")
            .key(&key)
            .upload_id(upload)
            .part_number(number);
        request.body(ByteStream::from(part.to_vec())).send().await.expect("answered");
    }
    let part = |number| CompletedPart::builder().part_number(number).e_tag("\"tag\"").build();
    let parts = CompletedMultipartUpload::builder().set_parts(Some(vec![part(1), part(2)])).build();
    let complete = theirs
        .complete_multipart_upload()
        .bucket("a-bucket")
        .key(&key)
        .upload_id(upload)
        .multipart_upload(parts);
    complete.if_none_match("*").send().await.expect("answered");
    let abort = theirs.abort_multipart_upload().bucket("a-bucket").key(&key).upload_id(upload);
    abort.send().await.expect("answered");
    let wanted = std::mem::take(&mut *seen.lock().expect("no panic"));

    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &whole).expect("written");
    let file = Arc::new(file);
    let body = |sha256| Body::File {
        file: Arc::clone(&file),
        size: whole.len() as u64,
        sha256,
    };
    ours.put(KEY, body(Digest::of(&whole)), info(), Condition::Absent)
        .await
        .expect("answered");
    let mine = std::mem::take(&mut *seen.lock().expect("no panic"));
    // One that fails, for the sake of how it is given up.
    assert!(ours.put(KEY, body(Digest::of(b"else")), info(), Condition::Absent).await.is_err());
    let last = seen.lock().expect("no panic").pop().expect("given up");
    *seen.lock().expect("no panic") = mine.into_iter().chain([last]).collect();
    compare(&wanted, &seen);
}

#[tokio::test]
async fn a_name_that_no_url_can_have_is_refused_before_anything_is_sent() {
    let (endpoint, seen) = listen().await;
    for name in ["a/../b", "./a", ".."] {
        let refused = ours(&endpoint).head(name).await.expect_err("no such name");
        assert!(refused.to_string().contains("`.` or `..`") && !refused.is_temporary(), "{refused}");
    }
    assert!(seen.lock().expect("no panic").is_empty());
    let refused = ours("https://exämple.invalid").head("a").await.expect_err("no such host");
    assert!(refused.to_string().contains("xn--") && !refused.is_temporary(), "{refused}");
}

fn compare(wanted: &[Seen], seen: &Listener) {
    // Parts go two at a time.
    let part = |request: &Seen| request.line.starts_with("PUT").then(|| request.query.get("partNumber").cloned());
    let mut mine = std::mem::take(&mut *seen.lock().expect("no panic"));
    mine.sort_by_key(part);
    let mut wanted: Vec<_> = wanted.iter().collect();
    wanted.sort_by_key(|request| part(request));
    for (wanted, mine) in wanted.iter().zip(&mine) {
        assert_eq!(mine, *wanted);
    }
    assert_eq!(mine.len(), wanted.len());
}
