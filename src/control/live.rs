//! The figures as they change: published once a second on the server's own channel while somebody looks, and brought
//! to the dashboard over an event stream of a shard's, like any client's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::link::HubMessage;
use crate::logic::event::{Draft, Kind};
use crate::sys::socket;

use super::Control;
use super::access::ApiError;

const EVERY: Duration = Duration::from_secs(1);
/// Of these, how many until channels and connections are asked for again.
const LISTS_EVERY: u32 = 3;
/// Rows of each list.
const ROWS: usize = 10;
/// How many may look at a time.
const VIEWERS_MAX: usize = 100;
/// How long the shard may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Bytes of a response's head at most.
const HEAD_MAX: usize = 4096;

/// Publishes the figures while somebody looks.
pub(super) async fn publish(control: Arc<Control>) {
    let mut ticks = tokio::time::interval(EVERY);
    let (mut channels, mut slowest) = ("[]".to_owned(), "[]".to_owned());
    let mut round = 0u32;
    loop {
        ticks.tick().await;
        if control.viewers.load(Ordering::Relaxed) == 0 {
            round = 0;
            continue;
        }
        if round.is_multiple_of(LISTS_EVERY) {
            channels = list(&control, "channels", &json!({ "limit": ROWS })).await;
            slowest = list(&control, "connections", &json!({ "limit": ROWS, "order": "slowest" })).await;
        }
        round = round.wrapping_add(1);
        let mut payload = b"{\"stats\":".to_vec();
        control.stats.write_json(&mut payload);
        payload.extend_from_slice(format!(",\"channels\":{channels},\"slowest\":{slowest}}}").as_bytes());
        let draft = Draft { name: None, kind: Kind::Json, payload: payload.into() };
        control.to_hub.send(HubMessage::Figures(draft));
        control.to_hub.ring();
    }
}

/// What the hub lists; nothing if it does not answer.
async fn list(control: &Control, what: &str, members: &Value) -> String {
    let answer = control.ask.call(what, members).await.unwrap_or_default();
    answer.get(what).map_or("[]", |list| list.get()).to_owned()
}

/// Counts one who looks.
struct Viewer(Arc<Control>);

impl Viewer {
    fn new(control: Arc<Control>) -> Viewer {
        control.viewers.fetch_add(1, Ordering::Relaxed);
        Viewer(control)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An event stream of the figures.
pub(super) async fn live(State(control): State<Arc<Control>>) -> Response {
    let viewer = Viewer::new(control.clone());
    if control.viewers.load(Ordering::Relaxed) > VIEWERS_MAX {
        let message = format!("{VIEWERS_MAX} look at the figures already");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "full", message).into_response();
    }
    let connected = tokio::time::timeout(CONNECT_MAX, connect(&control)).await;
    match connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
        Ok((stream, rest)) => {
            let body = Body::from_stream(bytes_of(stream, rest, viewer));
            ([("content-type", "text/event-stream")], body).into_response()
        }
        Err(error) => {
            let message = format!("the shard that serves the figures does not: {error}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).into_response()
        }
    }
}

/// Opens the stream and returns it with what came after the response's head.
async fn connect(control: &Control) -> std::io::Result<(UnixStream, Vec<u8>)> {
    let mut stream = UnixStream::from_std(socket::connect_privately(&control.own_listener)?)?;
    // HTTP/1.0: its body has no chunks that would have to be taken off again.
    stream.write_all(b"GET /figures HTTP/1.0\r\nHost: own\r\n\r\n").await?;
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        match end {
            Some(end) if bytes.starts_with(b"HTTP/1.1 200") || bytes.starts_with(b"HTTP/1.0 200") => {
                return Ok((stream, bytes.split_off(end + 4)));
            }
            None if bytes.len() < HEAD_MAX && stream.read_buf(&mut bytes).await? > 0 => {}
            _ => {
                return Err(std::io::Error::other(String::from_utf8_lossy(&bytes).lines().next().unwrap_or("nothing")));
            }
        }
    }
}

type Part = Result<Vec<u8>, std::io::Error>;

/// What comes, until either side ends.
fn bytes_of(stream: UnixStream, rest: Vec<u8>, viewer: Viewer) -> impl futures_util::Stream<Item = Part> {
    futures_util::stream::unfold((stream, rest, viewer), |(mut stream, mut rest, viewer)| async move {
        if rest.is_empty() {
            match stream.read_buf(&mut rest).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some((Err(error), (stream, Vec::new(), viewer))),
            }
        }
        Some((Ok(rest), (stream, Vec::new(), viewer)))
    })
}
