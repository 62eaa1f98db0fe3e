//! A common first implementation: axum, a tokio broadcast channel, and a task per connection. It runs on one thread, and
//! `ringcast bench compare` compares it with one shard.
//!
//!     axum_broadcast 127.0.0.1:9000
//!     curl -N 'http://127.0.0.1:9000/sse?channel=a' &
//!     curl -d hello 'http://127.0.0.1:9000/publish?channel=a'

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::broadcast;

/// The number of messages by which a subscriber may be behind before it loses some.
const BEHIND_MAX: usize = 16 * 1024;

type Channels = Arc<Mutex<HashMap<String, broadcast::Sender<Arc<str>>>>>;

fn sender(channels: &Channels, query: &HashMap<String, String>) -> broadcast::Sender<Arc<str>> {
    let name = query.get("channel").cloned().unwrap_or_default();
    let mut channels = channels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    channels.entry(name).or_insert_with(|| broadcast::channel(BEHIND_MAX).0).clone()
}

async fn sse(State(channels): State<Channels>, Query(query): Query<HashMap<String, String>>) -> impl IntoResponse {
    let receiver = sender(&channels, &query).subscribe();
    Sse::new(futures_util::stream::unfold(receiver, |mut receiver| async {
        loop {
            match receiver.recv().await {
                Ok(text) => return Some((Ok::<_, Infallible>(Event::default().data(&*text)), receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }))
}

async fn websocket(
    State(channels): State<Channels>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let mut receiver = sender(&channels, &query).subscribe();
    upgrade.on_upgrade(|mut socket| async move {
        loop {
            match receiver.recv().await {
                Ok(text) => {
                    if socket.send(Message::text(&*text)).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    })
}

async fn publish(State(channels): State<Channels>, Query(query): Query<HashMap<String, String>>, body: String) {
    // A channel without subscribers is no error.
    let _ = sender(&channels, &query).send(body.into());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let app = Router::new()
        .route("/sse", get(sse))
        .route("/ws", get(websocket))
        .route("/publish", post(publish))
        .with_state(Channels::default());
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().map_err(std::io::Error::other)?)?;
    axum::serve(socket.listen(65_535)?, app).await
}
