//! Vercel's Sandbox API on loopback, for tests: a real process over TCP whose sandboxes really run the commands, each in a root
//! directory, a process namespace and a user of its own, with faults on demand.
//!
//! `vercel [--dir D] [--token T] [--team T] [--project P] [--port N] [--admin-port N] [--max-timeout MS]` prints
//! `api=http://ADDRESS/api admin=http://ADDRESS` and serves until its standard input ends or it is killed; every sandbox ends with it.
//! Through the admin address a test orders faults, reads which requests came, and does to a sandbox what the platform may do.
//!
//! What it does and does not vouch for is in `tests/vercel/README.md`.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::exit,
    clippy::result_large_err,
    reason = "a program of the tests' own"
)]

mod admin;
mod command;
mod faults;
mod files;
mod model;
mod reply;
mod sandboxes;
mod sessions;
mod snapshots;
mod vm;

use faults::Fault;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::Fake;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower::ServiceExt;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--init") => vm::init(),
        Some("--exec") => vm::exec(&arguments[1..]),
        _ => serve_alone(&arguments),
    }
}

fn serve_alone(arguments: &[String]) {
    vm::forget_ignored();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(serve(arguments));
}

async fn serve(arguments: &[String]) {
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_owned(), Clone::clone)
    };
    let own = value("--dir", "").is_empty();
    let dir = if own {
        std::env::temp_dir().join(format!("vercel-fake-{}", std::process::id()))
    } else {
        value("--dir", "").into()
    };
    std::fs::create_dir_all(&dir).expect("a directory for the sandboxes");
    let fake = Arc::new(Fake::new(model::Settings {
        dir: dir.canonicalize().expect("it is there"),
        token: value("--token", "token"),
        team: value("--team", "team_test"),
        project: value("--project", "prj_test"),
        max_timeout_ms: value("--max-timeout", "86400000").parse().expect("milliseconds"),
    }));
    let listen = async |name| {
        TcpListener::bind(format!("127.0.0.1:{}", value(name, "0")))
            .await
            .expect("the port is free")
    };
    let (api, admin) = (listen("--port").await, listen("--admin-port").await);
    println!(
        "api=http://{}/api admin=http://{}",
        api.local_addr().expect("bound"),
        admin.local_addr().expect("bound")
    );
    tokio::spawn(serve_api(api, Arc::clone(&fake)));
    let admin_routes = admin::routes(Arc::clone(&fake));
    tokio::spawn(async move { axum::serve(admin, admin_routes).await });
    let mut rest = Vec::new();
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler");
    tokio::select! {
        _ = async { tokio::io::stdin().read_to_end(&mut rest).await } => {}
        _ = terminated.recv() => {}
    }
    fake.end_all().await;
    if own {
        let _ = std::fs::remove_dir_all(&dir);
    }
    std::process::exit(0);
}

async fn serve_api(listener: TcpListener, fake: Arc<Fake>) {
    // Both bases are in use: the SDK's ends in /api, the documented one has nothing.
    let routes = axum::Router::new()
        .merge(sandboxes::routes())
        .merge(sessions::routes())
        .merge(files::routes())
        .merge(snapshots::routes())
        .fallback(reply::no_route)
        .with_state(Arc::clone(&fake));
    let router = axum::Router::new().nest("/api", routes.clone()).merge(routes);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (router, fake) = (router.clone(), Arc::clone(&fake));
        tokio::spawn(async move {
            let serve = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (router, fake) = (router.clone(), Arc::clone(&fake));
                async move { answer(router, &fake, request.map(axum::body::Body::new)).await }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}

/// One request: an ordered fault first, then who asks, then what is asked. An error closes the connection.
async fn answer(router: axum::Router, fake: &Fake, request: reply::Request) -> Result<reply::Response, std::io::Error> {
    let (operation, request) = faults::see(fake, request).await;
    let fault = fake.faults.lock().unwrap().meet(operation);
    match &fault {
        Some(Fault::Delay { ms }) => tokio::time::sleep(std::time::Duration::from_millis(*ms)).await,
        Some(Fault::DropBefore) => return Err(std::io::Error::other("ordered by the test")),
        Some(Fault::Status { .. }) => {
            let response = fault.as_ref().and_then(Fault::response).expect("a status");
            fake.answered(operation, response.status().as_u16());
            return Ok(response);
        }
        _ => {}
    }
    let response = match reply::refuse_stranger(fake, &request) {
        Some(refusal) => refusal,
        None => router.oneshot(request).await.expect("a router answers"),
    };
    match fault {
        // It was done, and nobody will know.
        Some(Fault::DropAfter) => {
            fake.answered(operation, 0);
            Err(std::io::Error::other("ordered by the test"))
        }
        Some(fault @ Fault::StatusAfter { .. }) => {
            let response = fault.response().expect("a status");
            fake.answered(operation, response.status().as_u16());
            Ok(response)
        }
        fault => {
            fake.answered(operation, response.status().as_u16());
            Ok(faults::spoil(response, fault))
        }
    }
}
