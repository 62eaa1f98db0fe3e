//! The admin API. What a backend can ask and command over the feed is asked and commanded here in the same words.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::link::HubMessage;

use super::Control;
use super::access::ApiError;
use super::calls::{self, CallError, Feed};

type Answer = Result<Json<calls::Answer>, ApiError>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Named = Result<Path<String>, PathRejection>;

impl From<CallError> for ApiError {
    fn from(error: CallError) -> ApiError {
        let message = error.to_string();
        let (status, code) = match &error {
            CallError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            CallError::Late | CallError::Gone => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            CallError::Refused { code, .. } => match code.as_str() {
                "no_channel" | "no_connection" => (StatusCode::NOT_FOUND, code.as_str()),
                // The server's own fault, not the request's.
                "channels" | "state" | "not_kept" => (StatusCode::SERVICE_UNAVAILABLE, code.as_str()),
                _ => (StatusCode::BAD_REQUEST, code.as_str()),
            },
        };
        ApiError::new(status, code, message)
    }
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_field", message)
}

/// Asks the hub something in the feed's words; the answer is the feed's.
async fn ask(feed: &Feed, op: &str, members: &impl Serialize) -> Answer {
    Ok(Json(feed.call(op, members).await?))
}

fn asked<T>(query: Asked<T>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|error| bad(error.body_text()))
}

fn named(path: Named) -> Result<String, ApiError> {
    path.map(|Path(name)| name).map_err(|error| bad(error.body_text()))
}

/// All figures.
pub(super) async fn stats(State(control): State<Arc<Control>>) -> Response {
    let mut body = Vec::new();
    control.stats.write_json(&mut body);
    ([("content-type", "application/json")], body).into_response()
}

/// Which channels to show.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelsQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// Channels: the busiest, or all by name.
pub(super) async fn channels(State(control): State<Arc<Control>>, query: Asked<ChannelsQuery>) -> Answer {
    ask(&control.ask, "channels", &asked(query)?).await
}

/// Which events to show.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// From the path.
    #[serde(skip_deserializing)]
    channel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// A channel's history.
pub(super) async fn history(State(control): State<Arc<Control>>, channel: Named, query: Asked<HistoryQuery>) -> Answer {
    ask(&control.ask, "history", &HistoryQuery { channel: named(channel)?, ..asked(query)? }).await
}

/// Who is on a channel.
pub(super) async fn presence(State(control): State<Arc<Control>>, channel: Named) -> Answer {
    ask(&control.ask, "presence", &json!({ "channel": named(channel)? })).await
}

/// Which connections to show.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionsQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// Connections.
pub(super) async fn connections(State(control): State<Arc<Control>>, query: Asked<ConnectionsQuery>) -> Answer {
    ask(&control.ask, "connections", &asked(query)?).await
}

/// All about one connection.
pub(super) async fn connection(State(control): State<Arc<Control>>, name: Named) -> Answer {
    ask(&control.ask, "connection", &json!({ "conn": named(name)? })).await
}

/// A command's members as they were written: what is published must reach subscribers as it came.
fn body(bytes: &Bytes) -> Result<calls::Answer, ApiError> {
    let body: Result<calls::Answer, _> = serde_json::from_slice(bytes);
    let body = body.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string()))?;
    match body.keys().find(|name| matches!(name.as_str(), "op" | "ref")) {
        Some(name) => Err(bad(format!("the field {name} belongs to the feed; here the path says what to do"))),
        None => Ok(body),
    }
}

/// Publishes an event, or several at once if there are `items`.
pub(super) async fn publish(State(control): State<Arc<Control>>, headers: HeaderMap, bytes: Bytes) -> Answer {
    let mut body = body(&bytes)?;
    let is_batch = body.contains_key("items");
    if let Some(key) = headers.get("idempotency-key") {
        let key = key.to_str().map_err(|_| bad("the header Idempotency-Key is no text"))?;
        if is_batch || body.contains_key("key") {
            return Err(bad("the header Idempotency-Key goes with one event that has no key of its own"));
        }
        let key = serde_json::value::to_raw_value(key).map_err(|error| bad(error.to_string()))?;
        body.insert("key".into(), key);
    }
    ask(&control.publish, if is_batch { "batch" } else { "publish" }, &body).await
}

/// Ends connections.
pub(super) async fn kick(State(control): State<Arc<Control>>, bytes: Bytes) -> Answer {
    ask(&control.ask, "kick", &body(&bytes)?).await
}

/// Whether clients are sent away.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    draining: bool,
}

/// A body that is read into a type, with the server's own errors.
fn read<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))
}

/// Whether clients are sent away.
pub(super) async fn drain(State(control): State<Arc<Control>>) -> Json<Drain> {
    Json(Drain { draining: control.stats.room.is_paused() })
}

/// Sends clients away and takes no new ones, or takes them again.
pub(super) async fn set_drain(State(control): State<Arc<Control>>, bytes: Bytes) -> Result<Json<Drain>, ApiError> {
    let wanted: Drain = read(&bytes)?;
    if control.stats.room.set_paused(wanted.draining) != wanted.draining {
        tracing::info!(draining = wanted.draining, "set over the admin listener");
        control.to_hub.send(HubMessage::Pause(wanted.draining));
        control.to_hub.ring();
    }
    Ok(Json(wanted))
}

/// What is logged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    level: String,
}

/// What is logged.
pub(super) async fn log(State(control): State<Arc<Control>>) -> Json<Log> {
    Json(Log { level: control.log_filter.get() })
}

/// Changes what is logged, until the server ends.
pub(super) async fn set_log(State(control): State<Arc<Control>>, bytes: Bytes) -> Result<Json<Value>, ApiError> {
    let wanted: Log = read(&bytes)?;
    control.log_filter.set(&wanted.level).map_err(bad)?;
    tracing::info!(level = wanted.level, "the log's level was set over the admin listener");
    Ok(Json(json!({ "level": control.log_filter.get() })))
}
