//! The two doors: a Unix socket that knows who is there by the kernel's word, and TCP with a bearer token.
//!
//! Each connection is a task with limits on its headers, its time and its number: a client that is slow, silent or hostile takes its
//! own slot and nothing else.

use super::access::Who;
use super::api;
use super::daemon_handle::{DaemonHandle, UnitOf};
use super::page;
use super::token::Token;
use crate::tasks;
use crate::web::connection::{self, Serving, Stream};
use crate::web::door::{accepted, keep_alive};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// What one door takes upon itself.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Of these, from processes of one unit.
    pub connections_of_a_unit: usize,
    /// How long the headers of a request may take, and how long a connection may be idle between two.
    pub header_time: Duration,
}

/// How long a connection on which nothing is asked is kept when all are to end.
const ABOUT_TO_ASK: Duration = Duration::from_millis(30);
/// The same where nothing was asked yet.
const ABOUT_TO_ASK_FIRST: Duration = Duration::from_millis(400);

/// How many commands of units' processes may wait for their answer.
const ROOM_FOR_UNITS: usize = 64;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_of_a_unit: 48,
            header_time: Duration::from_secs(15),
        }
    }
}

/// Binds the Unix socket, 0600, in place of one that an earlier supervisor left. The caller holds the instance's lock.
pub fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the Unix socket until it is dropped.
pub async fn serve_unix(listener: UnixListener, daemon: DaemonHandle, unit_of: UnitOf, limits: Limits) {
    let for_units = api::router(daemon.with_room_for(ROOM_FOR_UNITS));
    let router = api::router(daemon.clone());
    let slots = Slots::default();
    loop {
        let stream = accepted(listener.accept().await).await;
        let Some(stream) = stream else { continue };
        let open = daemon.connection();
        let (unit_of, slots) = (unit_of.clone(), slots.clone());
        let (for_units, router, daemon) = (for_units.clone(), router.clone(), daemon.clone());
        // Who it is is found out beside the loop: when that ends, as for an upgrade, nobody who was let in may be forgotten.
        tasks::spawn(async move {
            if let Some(who) = peer(&stream, &unit_of).await {
                if let Some(_slot) = slots.take(&who, limits) {
                    let router = if matches!(who, Who::Unit(_)) { for_units } else { router };
                    serve(stream, router, who, limits, daemon).await;
                } else {
                    tracing::warn!("the Unix socket has no room for another connection of {}", who.header());
                }
            }
            drop(open);
        });
    }
}

/// Who is there, by the kernel's word; nobody if it is another user who is no unit's process.
async fn peer(stream: &UnixStream, unit_of: &UnitOf) -> Option<Who> {
    let peer = stream.peer_cred().ok()?;
    // A pid of 0 is outside our pid namespace, where none of our units is.
    let unit = match peer.pid().filter(|pid| *pid > 0) {
        Some(pid) => unit_of(pid).await.ok()?,
        None => None,
    };
    match unit {
        Some(unit) => Some(Who::Unit(unit)),
        None if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => Some(Who::Owner),
        None => {
            tracing::warn!("uid {} asked at the Unix socket and was sent away", peer.uid());
            None
        }
    }
}

/// Serves TCP until it is dropped.
pub async fn serve_tcp(listener: TcpListener, daemon: DaemonHandle, token: Token, limits: Limits) {
    let router = tcp_router(daemon.clone(), token);
    let slots = Slots::default();
    loop {
        let Some(stream) = accepted(listener.accept().await).await else {
            continue;
        };
        let Some(slot) = slots.take(&Who::Anybody, limits) else {
            tracing::warn!("the TCP door has no room for another connection");
            continue;
        };
        keep_alive(&stream);
        let open = daemon.connection();
        let connection = serve(stream, router.clone(), Who::Anybody, limits, daemon.clone());
        tasks::spawn(async move {
            connection.await;
            drop((slot, open));
        });
    }
}

/// The API as the TCP door serves it: with the token, the page, and the login.
pub fn tcp_router(daemon: DaemonHandle, token: Token) -> Router {
    let authenticate = middleware::from_fn_with_state(token.clone(), authenticate);
    api::router(daemon).merge(page::router(token)).layer(authenticate)
}

async fn authenticate(State(token): State<Token>, mut request: Request, next: Next) -> Response {
    let who = who(&token, request.headers());
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn who(token: &Token, headers: &HeaderMap) -> Who {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    match bearer {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && token.is(given.trim()) => return Who::Token,
        _ => {}
    }
    let mut cookies = text(header::COOKIE)
        .unwrap_or("")
        .split(';')
        .filter_map(|cookie| cookie.trim().split_once('='));
    if cookies.any(|(name, value)| name == page::COOKIE && token.is_cookie(value)) {
        Who::Cookie
    } else {
        Who::Anybody
    }
}

fn serve(stream: impl Stream + 'static, router: Router, who: Who, limits: Limits, daemon: DaemonHandle) -> impl Future<Output = ()> + Send {
    let asked = Arc::new(AtomicBool::new(false));
    let has_asked = Arc::clone(&asked);
    let connection = connection::serve(stream, router, limits.header_time, move |request| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(who.clone());
    });
    until_closing(connection, asked, daemon)
}

/// Polls a connection to its end, which is near when all are to end.
async fn until_closing(mut connection: Serving, asked: Arc<AtomicBool>, daemon: DaemonHandle) {
    let closing = async {
        daemon.closing().await;
        // Who has only just connected is about to ask, as soon as a busy machine lets it.
        let patience = if asked.load(Ordering::Relaxed) {
            ABOUT_TO_ASK
        } else {
            ABOUT_TO_ASK_FIRST
        };
        tokio::time::sleep(patience).await;
    };
    let served = tokio::select! {
        served = &mut connection => served,
        () = closing => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Connections by who made them. Only counted, and for no longer than a few instructions.
#[derive(Clone, Default)]
struct Slots(Arc<Mutex<BTreeMap<String, usize>>>);

struct Slot {
    of: Slots,
    who: String,
}

impl Slots {
    fn take(&self, who: &Who, limits: Limits) -> Option<Slot> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let name = who.header();
        let mine = taken.entry(name.clone()).or_default();
        let room = match who {
            Who::Unit(_) => limits.connections_of_a_unit,
            Who::Owner | Who::Token | Who::Cookie | Who::Anybody => limits.connections,
        };
        if *mine >= room || all >= limits.connections {
            return None;
        }
        *mine += 1;
        Some(Slot {
            of: self.clone(),
            who: name,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn tokens_and_cookies_are_told_apart() {
        let token = Token::new("t");
        let bearer = |value| who(&token, &headers(header::AUTHORIZATION, value));
        assert_eq!(bearer("Bearer t"), Who::Token);
        assert_eq!(bearer("bearer  t"), Who::Token);
        for wrong in ["Bearer", "Bearer ", "Bearer tt", "Basic t", "t", ""] {
            assert_eq!(bearer(wrong), Who::Anybody, "{wrong}");
        }
        let cookie = format!("a=b; sandkeep={}; c", token.cookie());
        assert_eq!(who(&token, &headers(header::COOKIE, &cookie)), Who::Cookie);
        assert_eq!(who(&token, &headers(header::COOKIE, "sandkeep=t")), Who::Anybody);
    }

    #[test]
    fn a_unit_cannot_take_all_the_room() {
        let limits = Limits {
            connections: 3,
            connections_of_a_unit: 2,
            ..Limits::default()
        };
        let slots = Slots::default();
        let agent = Who::Unit("agent".into());
        let first = slots.take(&agent, limits);
        let _second = slots.take(&agent, limits).unwrap();
        assert!(slots.take(&agent, limits).is_none());
        let _owner = slots.take(&Who::Owner, limits).unwrap();
        assert!(slots.take(&Who::Owner, limits).is_none());
        drop(first);
        assert!(slots.take(&Who::Owner, limits).is_some());
    }
}
