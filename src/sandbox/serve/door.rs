//! The TCP door. Each connection is a task with limits on its headers, its time and its number.

use crate::web::connection;
use crate::web::door::{accepted, keep_alive};
use axum::Router;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at a time; the rest wait in the backlog.
const CONNECTIONS: usize = 2048;
/// How long the headers of a request may take, and how long a connection may be idle between two.
const HEADER_TIME: Duration = Duration::from_secs(30);

/// Serves the router until it is dropped; the connections with it.
pub async fn serve(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(slot) = room.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Some(stream) = accepted(listener.accept().await).await else {
            continue;
        };
        keep_alive(&stream);
        let router = router.clone();
        connections.spawn(async move {
            if let Err(error) = connection::serve(stream, router, HEADER_TIME, |_| {}).await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(slot);
        });
    }
}
