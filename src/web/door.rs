//! Taking connections.

use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// After what `accept` refused, until it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

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
