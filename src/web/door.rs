//! Taking connections.

use super::connection;
use crate::tasks;
use axum::Router;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, UnixListener};

/// After what `accept` refused, until it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the headers of a request may take at a Unix socket, and how long a connection may be idle between two.
const HEADER_TIME: Duration = Duration::from_secs(30);

/// The process at the other end of a Unix socket, where this side's PID namespace knows it: among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<i32>);

/// Serves a Unix socket that is for its owner alone, until it is dropped.
pub async fn serve_unix(listener: UnixListener, router: Router) {
    loop {
        let Some(stream) = accepted(listener.accept().await).await else {
            continue;
        };
        let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
        let connection = connection::serve(stream, router.clone(), HEADER_TIME, move |request| {
            request.extensions_mut().insert(Peer(pid));
        });
        tasks::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}

/// What came in; `None` after a pause when nothing could: out of descriptors or memory, the connection waits in the backlog until some
/// are free.
pub async fn accepted<S, A>(result: io::Result<(S, A)>) -> Option<S> {
    match result {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!("accepting a connection: {error}");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// A peer that has vanished without a word is found out by the kernel, so that what it followed ends.
pub fn keep_alive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &60);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &20);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &3);
}
