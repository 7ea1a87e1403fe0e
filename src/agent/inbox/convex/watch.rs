//! Hearing of new prompts: a subscription through the official client, and asking again and again while it has no connection.
//!
//! The client's defects that are met here: it may hang for ever while it connects (it is thrown away and made anew), and it tells
//! nobody why (what HTTP answers to the same question does). Writes never go through it.

use super::Account;
use super::http::{Api, CallError, Counts, failure};
use crate::ordered::IntoMap;
use crate::tasks;
use convex::{ConvexClient, ConvexClientBuilder, FunctionResult, QuerySubscription, WebSocketState};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{Sender, UnboundedSender, channel};
use tokio::time::{Instant, sleep_until};

/// After which a client that connects is thrown away.
pub(super) const HANG: Duration = Duration::from_secs(60);
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

/// Watches until whoever listens has gone. A client that connects for longer than `hang` is thrown away.
pub async fn watch(account: Account, api: Api, counts: Arc<Counts>, link: Arc<Link>, heard: UnboundedSender<Heard>, hang: Duration) {
    while !heard.is_closed() {
        // In a task of its own: a panic in the client ends that alone.
        let session = tasks::spawn(session(
            account.clone(),
            api.clone(),
            counts.clone(),
            link.clone(),
            heard.clone(),
            hang,
        ));
        if let Err(error) = session.await {
            tracing::warn!("watching Convex: {error}");
        }
        link.connected.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One life of the official client.
async fn session(account: Account, api: Api, counts: Arc<Counts>, link: Arc<Link>, heard: UnboundedSender<Heard>, hang: Duration) {
    let (state, mut states) = channel(16);
    // Not awaited before the loop: the client answers a subscription only once it is connected.
    let values = stream::once(subscribe(&account, state)).flat_map(|begun| match begun {
        Ok((client, subscription)) => subscription
            .map(move |value| {
                // It lives as long as its subscription.
                let _ = &client;
                Ok(value)
            })
            .boxed(),
        Err(error) => stream::iter([Err(error)]).boxed(),
    });
    let mut values = pin!(values);
    let mut connecting_since = Some(Instant::now());
    let mut poll_at = Instant::now() + POLL_AFTER;
    let mut pause = POLL_BUSY;
    while !heard.is_closed() {
        link.connected.store(connecting_since.is_none(), Ordering::Relaxed);
        let give_up = connecting_since.map_or(Instant::now() + hang, |since| since + hang);
        tokio::select! {
            value = values.next() => {
                let value = match value {
                    Some(Ok(value)) => value,
                    Some(Err(error)) => return complain(&heard, &error),
                    None => return,
                };
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

async fn subscribe(account: &Account, state: Sender<WebSocketState>) -> Result<(ConvexClient, QuerySubscription), String> {
    let client = ConvexClientBuilder::new(&account.url)
        .with_client_id(concat!("sandkeep-", env!("CARGO_PKG_VERSION")))
        .with_on_state_change(state)
        .build()
        .await;
    let args = [
        ("sandboxId".to_owned(), account.sandbox.clone().into()),
        ("token".to_owned(), account.token.clone().into()),
    ];
    let args = args.into_iter().into_map();
    let mut client = client.map_err(|error| error.to_string())?;
    let subscription = client.subscribe(INBOX, args).await.map_err(|error| error.to_string())?;
    Ok((client, subscription))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc::unbounded_channel;

    /// A server that takes connections and never answers: the client alone would wait for ever.
    #[tokio::test]
    async fn a_client_that_hangs_while_it_connects_is_made_anew() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let account = Account {
            url: format!("http://{}", listener.local_addr().unwrap()),
            sandbox: "sb1".into(),
            token: "token".into(),
        };
        let counts = Arc::new(Counts::default());
        let api = Api::new(account.clone(), counts.clone()).unwrap();
        let (heard, _hears) = unbounded_channel();
        let watching = tokio::spawn(watch(account, api, counts, Arc::default(), heard, Duration::from_millis(200)));
        let twice = async {
            let mut sockets = Vec::new();
            while sockets.len() < 2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut start = [0; 5];
                // Questions over HTTP come, too, and those are POST.
                if stream.read_exact(&mut start).await.is_ok() && start == *b"GET /" {
                    sockets.push(stream);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), twice).await.expect("a second client");
        watching.abort();
    }
}
