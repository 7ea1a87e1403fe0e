//! One HTTP/1.1 connection, of either side, over a Unix or a TCP socket.
//!
//! hyper's code is made anew for every kind of stream, body and service. Here each is of one kind, so that it is there once for who serves
//! and once for who asks.

use crate::tasks;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;
use tower::util::Oneshot;

/// What bytes go both ways on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Io = TokioIo<Box<dyn Stream>>;

type Note = dyn Fn(&mut Request<Incoming>) + Send;

/// A connection that is being served; it wants to be polled.
pub type Serving = hyper::server::conn::http1::Connection<Io, Routes>;

/// The routes, after something was noted on each request.
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Routes {
    router: Router,
    note: Box<Note>,
}

impl hyper::service::Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Oneshot<Router, Request<Body>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        (self.note)(&mut request);
        self.router.clone().oneshot(request.map(Body::new))
    }
}

/// Serves `router` on a connection. `note` sees each request first: who asks is noted among its extensions.
///
/// `header_time` bounds how long the headers of a request may take, and how long the connection may be idle between two.
pub fn serve(
    stream: impl Stream + 'static,
    router: Router,
    header_time: Duration,
    note: impl Fn(&mut Request<Incoming>) + Send + 'static,
) -> Serving {
    let routes = Routes {
        router,
        note: Box::new(note),
    };
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(Box::new(stream)), routes)
}

/// Sends a request on a connection of its own. The body of the answer streams; dropping it ends the connection.
///
/// # Errors
/// The connection broke before there was an answer.
pub async fn ask(stream: impl Stream + 'static, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
    ask_boxed(Box::new(stream), request).await
}

async fn ask_boxed(stream: Box<dyn Stream>, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection ended: {error}");
        }
    });
    sender.send_request(request).await
}
