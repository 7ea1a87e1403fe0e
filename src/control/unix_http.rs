//! One HTTP exchange over a Unix socket: for the client of the control socket and for the way through to the workers.

use crate::tasks;
use axum::http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
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
pub async fn exchange<B>(socket: &Path, request: Request<B>) -> Result<Response<Incoming>, ExchangeError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = || socket.display().to_string();
    let stream = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(socket))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ExchangeError::Connect { path: path(), source })?;
    let broken = |source| ExchangeError::Broken { path: path(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tasks::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection over a Unix socket ended: {error}");
        }
    });
    sender.send_request(request).await.map_err(broken)
}
