//! What every store has to do, on each of them: a directory, the R2 double, and any endpoint that the environment names
//! (`SANDKEEP_TEST_STORE=s3://…` with keys in `R2_ACCESS_KEY_ID`, `R2_SECRET_ACCESS_KEY`).

use crate::server::{BUCKET, ID, R2, SECRET};
use bytes::Bytes;
use sandkeep::sync::content::Digest;
use sandkeep::sync::credentials::{Keys, Source};
use sandkeep::sync::store::address::Address;
use sandkeep::sync::store::file::FileStore;
use sandkeep::sync::store::s3::{PART, S3Store};
use sandkeep::sync::store::{Body, Condition, Etag, Info, Store, StoreError, list_all, read_small};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

/// What a store cannot hold, and is known not to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limits {
    None,
    /// `a` beside `a/b`, components over 255 bytes.
    FileSystem,
    /// A backslash becomes a slash; components over 255 bytes.
    SeaweedFs,
}

fn info(pairs: &[(&str, &str)]) -> Info {
    Info {
        content_type: "text/plain; charset=utf-8".into(),
        metadata: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

async fn put(store: &dyn Store, key: &str, bytes: &str, condition: Condition) -> Result<Etag, StoreError> {
    store
        .put(key, Body::Bytes(Bytes::from(bytes.to_owned())), info(&[("mode", "644")]), condition)
        .await
}

async fn text(store: &dyn Store, key: &str) -> Option<String> {
    let read = read_small(store, key, 1 << 30).await.expect("read");
    read.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
}

async fn suite(store: Arc<dyn Store>, limits: Limits) {
    reading_and_writing(&*store).await;
    conditions(&*store).await;
    races(&store).await;
    listing(&*store).await;
    names(&*store, limits).await;
    copies_and_removals(&*store).await;
    large(&*store).await;
}

async fn reading_and_writing(store: &dyn Store) {
    assert_eq!(text(store, "none").await, None);
    assert!(store.head("none").await.expect("asked").is_none());
    let etag = put(store, "src/a.ts", "one", Condition::Always).await.expect("written");
    let (head, bytes) = read_small(store, "src/a.ts", 100).await.expect("read").expect("there");
    assert_eq!((head.size, &*bytes, &head.etag), (3, &b"one"[..], &etag));
    assert_eq!(head.info.metadata.get("mode").map(String::as_str), Some("644"));
    assert!(head.info.content_type.starts_with("text/"), "{}", head.info.content_type);
    assert_eq!(store.head("src/a.ts").await.expect("asked").expect("there"), head);
    let other = put(store, "src/a.ts", "two!", Condition::Always).await.expect("written");
    assert_ne!(etag, other);
    put(store, "empty", "", Condition::Always).await.expect("written");
    assert_eq!(text(store, "empty").await.as_deref(), Some(""));
    assert!(read_small(store, "src/a.ts", 2).await.is_err(), "more than was asked for");
}

async fn conditions(store: &dyn Store) {
    let first = put(store, "cas", "1", Condition::Absent).await.expect("written");
    assert_eq!(put(store, "cas", "x", Condition::Absent).await, Err(StoreError::Precondition));
    let second = put(store, "cas", "22", Condition::Matches(first.clone())).await.expect("written");
    assert_eq!(
        put(store, "cas", "x", Condition::Matches(first.clone())).await,
        Err(StoreError::Precondition)
    );
    assert_eq!(text(store, "cas").await.as_deref(), Some("22"));
    assert_eq!(
        put(store, "not-there", "x", Condition::Matches(second)).await,
        Err(StoreError::Precondition)
    );
    assert_eq!(text(store, "not-there").await, None);
}

async fn races(store: &Arc<dyn Store>) {
    for round in 0..4 {
        let key = format!("race-{round}");
        let writers = (0..16).map(|n| {
            let (store, key) = (Arc::clone(store), key.clone());
            tokio::spawn(async move { put(&*store, &key, &format!("writer {n}"), Condition::Absent).await.is_ok() })
        });
        let mut winners = 0;
        for writer in writers.collect::<Vec<_>>() {
            winners += usize::from(writer.await.expect("it ended"));
        }
        assert_eq!(winners, 1, "one of sixteen creates it");
    }
}

async fn listing(store: &dyn Store) {
    let mut wanted = BTreeSet::new();
    let names: Vec<_> = (0..1203).map(|n| format!("many/{:02}/f{n:04}", n % 40)).collect();
    for some in names.chunks(64) {
        futures_util::future::join_all(some.iter().map(|name| put(store, name, "x", Condition::Always))).await;
        wanted.extend(some.iter().cloned());
    }
    put(store, "many.txt", "x", Condition::Always).await.expect("written");
    let listed = list_all(store, "many/").await.expect("listed");
    let keys: BTreeSet<_> = listed.iter().map(|object| object.key.clone()).collect();
    assert_eq!(listed.len(), keys.len(), "every key once");
    assert_eq!(keys, wanted);
    let head = store.head(&listed[7].key).await.expect("asked").expect("there");
    assert_eq!(
        (head.etag, head.size),
        (listed[7].etag.clone(), listed[7].size),
        "the token is the same wherever it is asked for"
    );
    assert_eq!(list_all(store, "nothing-here").await.expect("listed"), []);
    store.delete(&names).await.expect("removed");
    assert_eq!(list_all(store, "many/").await.expect("listed"), []);
}

async fn names(store: &dyn Store, limits: Limits) {
    let odd = [
        "odd/with space",
        "odd/plus+and%25",
        "odd/ü/é.ts",
        "odd/日本.md",
        "odd/a&b=c?d#e",
        "odd/quote'\"",
        "odd/back\\slash",
        "odd/[id].tsx",
        "odd/(group)/page.tsx",
        "odd/@scope/x",
        "odd/~tilde",
        "odd/.hidden",
        "odd/tab\there",
        "odd/star*",
        "odd/semi;colon,",
        "odd/<angle>",
        "odd/$dollar",
    ]
    .into_iter()
    .filter(|name| limits != Limits::SeaweedFs || !name.contains('\\'))
    .collect::<Vec<_>>();
    for name in odd.iter().copied() {
        put(store, name, name, Condition::Always)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(text(store, name).await.as_deref(), Some(name));
    }
    let listed: BTreeSet<_> = list_all(store, "odd/")
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key)
        .collect();
    assert_eq!(listed, odd.iter().map(|name| (*name).to_owned()).collect());
    put(store, "x/a", "file", Condition::Always).await.expect("written");
    let beside = put(store, "x/a/b", "below", Condition::Always).await;
    let long = put(store, &format!("x/{}", "n".repeat(300)), "long", Condition::Always).await;
    match limits {
        Limits::None | Limits::SeaweedFs => {
            beside.expect("both are kept");
            match limits {
                Limits::SeaweedFs => assert!(matches!(long, Err(StoreError::Unrepresentable { .. })), "{long:?}"),
                Limits::None | Limits::FileSystem => drop(long.expect("it is kept")),
            }
            assert_eq!(text(store, "x/a").await.as_deref(), Some("file"));
        }
        Limits::FileSystem => {
            assert!(matches!(beside, Err(StoreError::Unrepresentable { .. })), "{beside:?}");
            assert!(matches!(long, Err(StoreError::Unrepresentable { .. })), "{long:?}");
        }
    }
}

async fn copies_and_removals(store: &dyn Store) {
    let etag = put(store, "copy/from", "content", Condition::Always).await.expect("written");
    store
        .copy("copy/from", &etag, "copy/ü to", info(&[("mode", "755")]))
        .await
        .expect("copied");
    let head = store.head("copy/ü to").await.expect("asked").expect("there");
    assert_eq!(head.info.metadata.get("mode").map(String::as_str), Some("755"));
    assert_eq!(text(store, "copy/ü to").await.as_deref(), Some("content"));
    let stale = Etag("\"stale\"".into());
    assert_eq!(
        store.copy("copy/from", &stale, "copy/x", Info::default()).await,
        Err(StoreError::Precondition)
    );
    assert_eq!(
        store.copy("copy/none", &etag, "copy/x", Info::default()).await,
        Err(StoreError::Precondition)
    );
    store.delete(&["copy/from".into(), "copy/never-was".into()]).await.expect("removed");
    assert_eq!(text(store, "copy/from").await, None);
}

async fn large(store: &dyn Store) {
    let bytes: Vec<u8> = (0..PART * 2 + 12345).map(|n| u8::try_from(n * 31 % 251).expect("small")).collect();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&bytes).expect("written");
    let body = |sha256| Body::File {
        file: Arc::new(file.try_clone().expect("cloned")),
        size: bytes.len() as u64,
        sha256,
    };
    let etag = store
        .put("large", body(Digest::of(&bytes)), info(&[]), Condition::Absent)
        .await
        .expect("written");
    let (head, read) = read_small(store, "large", 1 << 30).await.expect("read").expect("there");
    assert_eq!((head.etag, head.size), (etag, bytes.len() as u64));
    assert!(read == bytes, "the same bytes");
    let changed = store.put("large-2", body(Digest::of(b"other")), info(&[]), Condition::Always).await;
    assert_eq!(changed, Err(StoreError::Changed), "what is not what was hashed is not stored");
    assert_eq!(text(store, "large-2").await, None);
    let again = store.put("large", body(Digest::of(&bytes)), info(&[]), Condition::Absent).await;
    assert_eq!(again, Err(StoreError::Precondition));
}

pub(crate) async fn on_a_third_server(endpoint: &str, bucket: &str, id: &str, secret: &str) {
    let store = S3Store::new(
        bucket.into(),
        "some/prefix/".into(),
        Some(endpoint.into()),
        "auto".into(),
        keys(id, secret),
    );
    suite(Arc::new(store), Limits::SeaweedFs).await;
}

fn keys(id: &str, secret: &str) -> Source {
    Source::Fixed(Keys {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: None,
        expires_at: None,
    })
}

fn s3(r2: &R2, bucket: &str, source: Source) -> S3Store {
    S3Store::new(bucket.into(), "some/prefix/".into(), Some(r2.endpoint()), "auto".into(), source)
}

#[tokio::test]
async fn a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(&directory.path().join("made")).expect("opened");
    suite(Arc::new(store), Limits::FileSystem).await;
    assert_eq!(
        std::fs::read_to_string(directory.path().join("made/src/a.ts")).expect("a plain file"),
        "two!"
    );
}

#[tokio::test]
async fn a_link_in_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(directory.path()).expect("opened");
    let body = Body::Bytes(Bytes::from_static(b"../target"));
    store
        .put("d/link", body, info(&[("link", "1")]), Condition::Absent)
        .await
        .expect("written");
    let (head, bytes) = read_small(&store, "d/link", 100).await.expect("read").expect("there");
    assert_eq!((&*bytes, head.info.metadata.contains_key("link")), (&b"../target"[..], true));
    assert_eq!(
        std::fs::read_link(directory.path().join("d/link")).expect("a link"),
        std::path::Path::new("../target")
    );
}

#[tokio::test]
async fn the_r2_double() {
    let r2 = R2::start();
    suite(Arc::new(s3(&r2, BUCKET, keys(ID, SECRET))), Limits::None).await;
    assert!(r2.objects().keys().all(|key| key.starts_with("some/prefix/")));
}

#[tokio::test]
async fn a_real_endpoint_where_the_environment_names_one() {
    skip!("needs-real-store");
    let url = std::env::var("SANDKEEP_TEST_STORE").expect("it is set");
    let address = Address::parse(&url).and_then(|address| address.for_project(&format!("conformance-{:x}", std::process::id())));
    let store = sandkeep::sync::project::connect(address.expect("a store"), |name| std::env::var(name).ok()).expect("opened");
    suite(Arc::clone(&store), Limits::None).await;
    let left: Vec<_> = list_all(&*store, "")
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key)
        .collect();
    store.delete(&left).await.expect("removed");
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_final() {
    let r2 = R2::start();
    for source in [keys(ID, "wrong"), keys("nobody", SECRET)] {
        let error = s3(&r2, BUCKET, source).head("x").await.expect_err("refused");
        assert!(matches!(error, StoreError::Denied(_)), "{error}");
    }
    let error = list_all(&s3(&r2, "no-such-bucket", keys(ID, SECRET)), "")
        .await
        .expect_err("refused");
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    let nowhere = S3Store::new(
        "b".into(),
        String::new(),
        Some("http://127.0.0.1:1".into()),
        "auto".into(),
        keys(ID, SECRET),
    );
    assert!(nowhere.head("x").await.expect_err("nobody is there").is_temporary());
}

#[tokio::test]
async fn being_told_to_slow_down_is_not_a_failure() {
    let r2 = R2::start();
    let store = s3(&r2, BUCKET, keys(ID, SECRET));
    r2.faults(r#"[{"operation":"PutObject","kind":"status:429","count":8},{"operation":"GetObject","kind":"status:503","count":5}]"#);
    put(&store, "a", "x", Condition::Absent).await.expect("written in the end");
    assert_eq!(text(&store, "a").await.as_deref(), Some("x"));
    assert!(store.requests().retries >= 6);
}

#[tokio::test]
async fn a_lost_answer_shows_as_a_condition_that_does_not_hold() {
    let r2 = R2::start();
    let store = s3(&r2, BUCKET, keys(ID, SECRET));
    r2.faults(r#"[{"operation":"PutObject","kind":"lost","count":1}]"#);
    assert_eq!(put(&store, "a", "x", Condition::Absent).await, Err(StoreError::Precondition));
    assert_eq!(text(&store, "a").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_body_that_is_cut_is_no_short_body() {
    let r2 = R2::start();
    let store = s3(&r2, BUCKET, keys(ID, SECRET));
    put(&store, "a", &"long ".repeat(1000), Condition::Always).await.expect("written");
    r2.faults(r#"[{"operation":"GetObject","kind":"reset","count":1}]"#);
    let fetched = store.get("a").await.expect("begun").expect("there");
    assert!(fetched.bytes(1 << 20).await.expect_err("cut").is_temporary());
    assert_eq!(text(&store, "a").await.map(|text| text.len()), Some(5000));
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_corrected() {
    let r2 = R2::start();
    for ahead in [3600, -3600] {
        r2.clock_ahead(ahead);
        let store = s3(&r2, BUCKET, keys(ID, SECRET));
        put(&store, "a", "x", Condition::Always).await.expect("written");
    }
}

#[tokio::test]
async fn temporary_keys_are_read_again_before_they_end() {
    let r2 = R2::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    let keys = |secret: &str, end: &str| format!(r#"{{"accessKeyId":"{ID}","secretAccessKey":"{secret}","expiration":"{end}"}}"#);
    std::fs::write(&path, keys("stale", "2020-01-01T00:00:00Z")).expect("written");
    let store = s3(&r2, BUCKET, Source::File(path.clone()));
    assert!(put(&store, "a", "x", Condition::Always).await.is_err());
    std::fs::write(&path, keys(SECRET, "2099-01-01T00:00:00Z")).expect("written");
    put(&store, "a", "x", Condition::Always).await.expect("written");
}
