//! Hearing of new prompts: a subscription through the official client, and asking again and again while it has no connection.
//!
//! The client's defects that are met here: it may hang for ever while it connects (it is thrown away and made anew), and it tells
//! nobody why (what HTTP answers to the same question does). Writes never go through it.

use super::Account;
use super::http::{Api, CallError, Counts, failure};
use convex::{ConvexClientBuilder, FunctionResult, WebSocketState};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, channel};
use tokio::time::{Instant, sleep_until};

/// After which a client that connects is thrown away.
const HANG: Duration = Duration::from_secs(60);
/// From the loss of the connection to the first question over HTTP.
const POLL_AFTER: Duration = Duration::from_secs(3);
/// Between questions, while a prompt runs, and at most.
const POLL_BUSY: Duration = Duration::from_secs(1);
const POLL_IDLE: Duration = Duration::from_secs(10);

const INBOX: &str = "agent:inbox";

/// How the watch stands, for those who look.
#[derive(Debug, Default)]
pub struct Link {
    /// Whether the socket is connected.
    pub connected: AtomicBool,
    /// Whether a prompt runs.
    pub busy: AtomicBool,
}

/// What is heard: the inbox, or why not.
pub type Heard = Result<Value, CallError>;

/// Watches until whoever listens has gone.
pub async fn watch(account: Account, api: Api, counts: Arc<Counts>, link: Arc<Link>, heard: UnboundedSender<Heard>) {
    while !heard.is_closed() {
        // In a task of its own: a panic in the client ends that alone.
        let session = tokio::spawn(session(account.clone(), api.clone(), counts.clone(), link.clone(), heard.clone()));
        if let Err(error) = session.await {
            tracing::warn!("watching Convex: {error}");
        }
        link.connected.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One life of the official client.
async fn session(account: Account, api: Api, counts: Arc<Counts>, link: Arc<Link>, heard: UnboundedSender<Heard>) {
    let (state, mut states) = channel(16);
    let client = ConvexClientBuilder::new(&account.url)
        .with_client_id(concat!("sandkeep-", env!("CARGO_PKG_VERSION")))
        .with_on_state_change(state)
        .build()
        .await;
    let args = BTreeMap::from([
        ("sandboxId".to_owned(), account.sandbox.clone().into()),
        ("token".to_owned(), account.token.clone().into()),
    ]);
    let mut client = match client {
        Ok(client) => client,
        Err(error) => return complain(&heard, &error),
    };
    let mut subscription = match client.subscribe(INBOX, args).await {
        Ok(subscription) => subscription,
        Err(error) => return complain(&heard, &error),
    };
    let mut connecting_since = Some(Instant::now());
    let mut poll_at = Instant::now() + POLL_AFTER;
    let mut pause = POLL_BUSY;
    while !heard.is_closed() {
        link.connected.store(connecting_since.is_none(), Ordering::Relaxed);
        let give_up = connecting_since.map_or(Instant::now() + HANG, |since| since + HANG);
        tokio::select! {
            value = subscription.next() => {
                let Some(value) = value else { return };
                connecting_since = None;
                counts.count();
                let _ = heard.send(read(value));
            }
            state = states.recv() => match state {
                Some(WebSocketState::Connected) => connecting_since = None,
                Some(WebSocketState::Connecting) => {
                    connecting_since.get_or_insert_with(Instant::now);
                    pause = POLL_BUSY;
                    poll_at = Instant::now() + POLL_AFTER;
                }
                None => return,
            },
            () = sleep_until(poll_at), if connecting_since.is_some() => {
                let answer = api.query(INBOX, json!({})).await;
                pause = if link.busy.load(Ordering::Relaxed) { POLL_BUSY } else { (pause * 2).min(POLL_IDLE) };
                poll_at = Instant::now() + pause.mul_f64(0.8 + fastrand::f64() * 0.4);
                let _ = heard.send(answer);
            }
            () = sleep_until(give_up) => {
                if connecting_since.is_some() {
                    tracing::info!("the connection to Convex hangs: starting it anew");
                    return;
                }
            }
        }
    }
}

fn complain(heard: &UnboundedSender<Heard>, error: &dyn std::fmt::Display) {
    let _ = heard.send(Err(CallError::Unavailable(error.to_string())));
}

fn read(value: FunctionResult) -> Heard {
    match value {
        FunctionResult::Value(value) => Ok(value.export()),
        FunctionResult::ErrorMessage(message) => Err(failure(INBOX, &message, &Value::Null)),
        FunctionResult::ConvexError(error) => Err(failure(INBOX, &error.message, &error.data.export())),
    }
}
