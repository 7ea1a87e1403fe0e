//! One HTTP exchange over a Unix socket: for the client of the control socket and for the way through to the workers.

use crate::web::connection;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody is there.
    #[error("connecting to {path}: {source}")]
    Connect {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke before there was an answer.
    #[error("asking {path}: {source}")]
    Broken {
        /// Where.
        path: String,
        /// Why.
        source: hyper::Error,
    },
}

/// How long a connect may take: a local socket whose backlog is full, and no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Sends a request on a connection of its own. The body of the answer streams; dropping it ends the connection.
pub async fn exchange(socket: &Path, request: Request<Body>) -> Result<Response<Incoming>, ExchangeError> {
    let path = || socket.display().to_string();
    let stream = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(socket))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ExchangeError::Connect { path: path(), source })?;
    let answer = connection::ask(stream, request).await;
    answer.map_err(|source| ExchangeError::Broken { path: path(), source })
}
