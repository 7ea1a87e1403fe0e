//! An S3 server that keeps R2's rules, for tests: a real process over TCP with SigV4, in memory, with faults on demand.
//!
//! `r2 --bucket B --access-key ID --secret-key KEY [--rate]` prints `s3=ADDRESS admin=ADDRESS` and serves until it is killed. Through the
//! admin address a test reads what is there without any S3 client, counts requests, writes as a stranger would, and orders faults.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a program of the tests' own"
)]

mod admin;
mod bucket;
mod faults;
mod rights;

use faults::{Fault, Faults};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rights::Rights;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use std::sync::Arc;
use tokio::net::TcpListener;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_owned(), Clone::clone)
    };
    let state = bucket::Shared::new(&value("--bucket", "bucket"), arguments.iter().any(|argument| argument == "--rate"));
    let mut builder = S3ServiceBuilder::new(state.clone());
    builder.set_auth(SimpleAuth::from_single(
        value("--access-key", "id"),
        value("--secret-key", "secret").as_str(),
    ));
    let mut config = S3Config::default();
    // The clock is checked in front, where a test can move it.
    config.presigned_url_max_skew_time_secs = 7 * 24 * 3600;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    let service = builder.build();
    let (faults, rights) = (Arc::new(Faults::default()), Arc::new(Rights::default()));
    let address = |name| format!("127.0.0.1:{}", value(name, "0"));
    let (s3, admin) = (
        TcpListener::bind(address("--port")).await.expect("the port is free"),
        TcpListener::bind(address("--admin-port")).await.expect("the port is free"),
    );
    println!(
        "s3={} admin={}",
        s3.local_addr().expect("bound"),
        admin.local_addr().expect("bound")
    );
    tokio::spawn(admin::serve(admin, state.clone(), Arc::clone(&faults), Arc::clone(&rights)));
    loop {
        let Ok((stream, _)) = s3.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (service, faults, rights) = (service.clone(), Arc::clone(&faults), Arc::clone(&rights));
        tokio::spawn(async move {
            let serve = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (service, faults, rights) = (service.clone(), Arc::clone(&faults), Arc::clone(&rights));
                async move {
                    if let Some((status, code)) = rights.refuse(request.uri(), request.headers()) {
                        return Ok(refusal(status, code));
                    }
                    answer(&service, &faults, request).await
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}

async fn answer(
    service: &s3s::service::S3Service,
    faults: &Faults,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let operation = faults::operation(request.method().as_str(), request.uri(), request.headers());
    let key = request.uri().path().to_owned();
    let fault = faults.meet(operation, &key);
    if let Some(response) = faults.check_clock(request.headers()) {
        faults.count(operation, 403);
        return Ok(response.map(|text| whole(text.into())));
    }
    match fault {
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Status(status)) => {
            faults.count(operation, status);
            return Ok(refusal(status, if status == 429 { "TooManyRequests" } else { "SlowDown" }));
        }
        // Nothing of it was done.
        Some(Fault::Reset) if operation != "GetObject" => {
            faults.count(operation, 0);
            return Err(std::io::Error::other("reset"));
        }
        Some(Fault::KillBefore(pid)) => {
            kill(pid);
            return Err(std::io::Error::other("killed"));
        }
        Some(Fault::Reset | Fault::Lost | Fault::KillAfter(_)) | None => {}
    }
    let response = service
        .call(request.map(s3s::Body::from))
        .await
        .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    faults.count(operation, response.status().as_u16());
    match fault {
        // It was done, and nobody will know.
        Some(Fault::Lost) => Err(std::io::Error::other("lost")),
        Some(Fault::Reset) => {
            let (parts, body) = response.into_parts();
            let bytes = BodyExt::collect(body).await.map_err(std::io::Error::other)?.to_bytes();
            let half = bytes.slice(..bytes.len() / 2);
            let frames = futures_util::stream::iter([Ok(Frame::data(half)), Err(())]).then(async |frame| match frame {
                Ok(frame) => Ok(frame),
                Err(()) => {
                    // Long enough for the head and the half to be on their way.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    Err(std::io::Error::other("cut"))
                }
            });
            let body = http_body_util::StreamBody::new(frames);
            Ok(Response::from_parts(parts, BodyExt::boxed_unsync(body)))
        }
        Some(Fault::KillAfter(pid)) => {
            kill(pid);
            Err(std::io::Error::other("killed"))
        }
        Some(Fault::Delay(_) | Fault::Status(_) | Fault::KillBefore(_)) | None => {
            Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
        }
    }
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>ordered by the test</Message></Error>");
    let response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    let response = response.header("content-type", "application/xml");
    response.body(whole(text.into())).expect("a response")
}

fn whole(bytes: Bytes) -> Body {
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}
