//! The figures as they change: put together once a second while somebody looks, and sent to every viewer.
//!
//! The figures do not go through a shard, so that a viewer is no client and changes none of the figures that it sees.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Control;
use super::access::{self, ApiError};

/// How often the figures are sent.
const EVERY: Duration = Duration::from_secs(1);
/// How many rounds of figures pass until the lists of channels and connections are asked for again.
const LISTS_EVERY: u32 = 3;
/// Rows of each list.
const ROWS: usize = 10;
/// Viewers at a time.
const VIEWERS_MAX: usize = 100;

/// The newest figures, as an event of a stream. A viewer that is slow gets the newest ones next.
pub(super) type Figures = watch::Sender<Bytes>;

/// Sends the figures while there are viewers.
pub(super) async fn publish(control: Arc<Control>) {
    let mut ticks = tokio::time::interval(EVERY);
    let (mut channels, mut slowest) = ("[]".to_owned(), "[]".to_owned());
    let may = json!({ "see": access::may_see_contents(&control), "change": access::may_change(&control) });
    let mut round = 0u32;
    loop {
        ticks.tick().await;
        if control.figures.receiver_count() == 0 {
            round = 0;
            continue;
        }
        // The lists show names and addresses, which nobody may see here where clients are checked and there is no token.
        if round.is_multiple_of(LISTS_EVERY) && access::may_see_contents(&control) {
            channels = list(&control, "channels", &json!({ "limit": ROWS })).await;
            slowest = list(&control, "connections", &json!({ "limit": ROWS, "order": "slowest" })).await;
        }
        round = round.wrapping_add(1);
        let mut event = b"data: {\"stats\":".to_vec();
        control.stats.write_json(&mut event);
        let rest = format!(",\"channels\":{channels},\"slowest\":{slowest},\"may\":{may}}}\n\n");
        event.extend_from_slice(rest.as_bytes());
        control.figures.send_replace(event.into());
    }
}

/// A list of the hub's as JSON; an empty one if the hub does not answer.
async fn list(control: &Control, what: &str, members: &Value) -> String {
    let answer = control.ask.call(what, members).await.unwrap_or_default();
    answer.get(what).map_or("[]", |list| list.get()).to_owned()
}

/// An event stream of the figures.
pub(super) async fn live(State(control): State<Arc<Control>>) -> Response {
    if control.figures.receiver_count() >= VIEWERS_MAX {
        let message = format!("{VIEWERS_MAX} viewers follow the figures already");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "full", message).into_response();
    }
    let events = stream::unfold(control.figures.subscribe(), async |mut figures| {
        figures.changed().await.ok()?;
        let event = figures.borrow_and_update().clone();
        Some((Ok::<_, std::convert::Infallible>(event), figures))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}
