//! The figures as they change: published once a second on the server's own channel while the dashboard has viewers. A
//! shard delivers that channel as an event stream, and this module passes the stream on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::link::HubMessage;
use crate::logic::event::{Draft, Kind};
use crate::sys::socket;

use super::Control;
use super::access::{self, ApiError};

/// How often the figures are published.
const EVERY: Duration = Duration::from_secs(1);
/// How many rounds of figures pass until the lists of channels and connections are asked for again.
const LISTS_EVERY: u32 = 3;
/// Rows of each list.
const ROWS: usize = 10;
/// Viewers at a time.
const VIEWERS_MAX: usize = 100;
/// How long the shard may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Publishes the figures while there are viewers.
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
        // The lists show names and addresses, which nobody may see here where clients are checked and there is no token.
        if round.is_multiple_of(LISTS_EVERY) && access::may_see_contents(&control) {
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

/// A list of the hub's as JSON; an empty one if the hub does not answer.
async fn list(control: &Control, what: &str, members: &Value) -> String {
    let answer = control.ask.call(what, members).await.unwrap_or_default();
    answer.get(what).map_or("[]", |list| list.get()).to_owned()
}

/// One viewer of the figures, counted until it is dropped.
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
        let message = format!("{VIEWERS_MAX} viewers follow the figures already");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "full", message).into_response();
    }
    let opened = tokio::time::timeout(ANSWER_MAX, open(&control)).await;
    match opened.unwrap_or_else(|_| Err("it did not answer in time".into())) {
        Ok(stream) => {
            // The viewer counts for as long as its stream is there.
            let parts = stream.into_data_stream().map(move |part| {
                let _ = &viewer;
                part
            });
            ([("content-type", "text/event-stream")], Body::from_stream(parts)).into_response()
        }
        Err(error) => {
            let message = format!("the shard that serves the figures gives none: {error}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).into_response()
        }
    }
}

/// Opens the event stream of the server's own channel at the shard that serves it.
async fn open(control: &Control) -> Result<Body, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::from_std(socket::connect_privately(&control.own_listener)?)?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with the body that is read from it.
    tokio::spawn(connection);
    let request = Request::get("/figures").header(header::HOST, "own").body(Body::empty())?;
    let answer = requests.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => Ok(Body::new(answer.into_body())),
        status => Err(format!("it answers {status}").into()),
    }
}
