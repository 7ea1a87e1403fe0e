//! The test's own way in: no S3, no signatures.
//!
//! `GET /objects` lists key, size, SHA-256; `GET`, `PUT`, `DELETE /objects/KEY` are a stranger's hand; `DELETE /objects` empties the bucket;
//! `GET`, `DELETE /counts`; `PUT /faults` takes a JSON list of orders; `PUT /clock` the seconds by which this server is ahead;
//! `PUT /tokens` a JSON list of the session tokens that count, `GET /tokens` lists those that were seen; `PUT /prefix` the prefix that keys
//! are limited to.

use crate::bucket::Shared;
use crate::faults::Faults;
use crate::rights::Rights;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use std::sync::Arc;
use tokio::net::TcpListener;

type Both = State<(Shared, Arc<Faults>)>;

pub(crate) async fn serve(listener: TcpListener, bucket: Shared, faults: Arc<Faults>, rights: Arc<Rights>) {
    let of_rights = Router::new()
        .route("/tokens", get(seen).put(accept))
        .route("/prefix", put(allow))
        .with_state(rights);
    let router = Router::new()
        .route("/objects", get(list).delete(empty))
        .route("/objects/{*key}", get(read).put(write).delete(remove))
        .route("/counts", get(counts).delete(forget))
        .route("/faults", put(order))
        .route("/clock", put(clock))
        .with_state((bucket, faults))
        .merge(of_rights);
    let _ = axum::serve(listener, router).await;
}

async fn list(State((bucket, _)): Both) -> String {
    serde_json::to_string(&bucket.summary()).expect("JSON")
}

async fn empty(State((bucket, _)): Both) {
    bucket.clear();
}

async fn read(State((bucket, _)): Both, Path(key): Path<String>) -> Result<Bytes, StatusCode> {
    bucket.read(&key).ok_or(StatusCode::NOT_FOUND)
}

async fn write(State((bucket, _)): Both, Path(key): Path<String>, body: Bytes) {
    bucket.write(&key, body);
}

async fn remove(State((bucket, _)): Both, Path(key): Path<String>) {
    bucket.remove(&key);
}

async fn counts(State((_, faults)): Both) -> String {
    serde_json::to_string(&faults.counts()).expect("JSON")
}

async fn forget(State((_, faults)): Both) {
    faults.forget_counts();
}

async fn order(State((_, faults)): Both, body: Bytes) -> StatusCode {
    match serde_json::from_slice(&body) {
        Ok(orders) => {
            faults.order(orders);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn clock(State((_, faults)): Both, body: String) -> StatusCode {
    match body.trim().parse() {
        Ok(ahead) => {
            faults.set_clock(ahead);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn seen(State(rights): State<Arc<Rights>>) -> String {
    serde_json::to_string(&rights.seen_tokens()).expect("JSON")
}

async fn accept(State(rights): State<Arc<Rights>>, body: Bytes) -> StatusCode {
    match serde_json::from_slice(&body) {
        Ok(tokens) => {
            rights.accept_tokens(tokens);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn allow(State(rights): State<Arc<Rights>>, body: String) {
    rights.allow_below(&body);
}
