//! The admin API. A request is turned into a command of the feed, with the same members and the same answer.

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
pub(super) type Named = Result<Path<String>, PathRejection>;

impl From<CallError> for ApiError {
    fn from(error: CallError) -> ApiError {
        let message = error.to_string();
        let (status, code) = match &error {
            CallError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            CallError::Late | CallError::Gone => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            CallError::Refused { code, .. } => match code.as_str() {
                "no_channel" | "no_connection" => (StatusCode::NOT_FOUND, code.as_str()),
                // The server has failed, not the request.
                "channels" | "state" | "not_kept" => (StatusCode::SERVICE_UNAVAILABLE, code.as_str()),
                _ => (StatusCode::BAD_REQUEST, code.as_str()),
            },
        };
        ApiError::new(status, code, message)
    }
}

/// The error for a field that makes no sense.
fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_field", message)
}

/// Sends the hub a command of the feed, and answers with the feed's answer.
async fn ask(feed: &Feed, op: &str, members: &impl Serialize) -> Answer {
    Ok(Json(feed.call(op, members).await?))
}

/// A query's parameters, with the server's own errors.
fn asked<T>(query: Asked<T>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|error| bad(error.body_text()))
}

/// A path's name, with the server's own errors.
pub(super) fn named(path: Named) -> Result<String, ApiError> {
    path.map(|Path(name)| name).map_err(|error| bad(error.body_text()))
}

/// Answers with every figure.
pub(super) async fn stats(State(control): State<Arc<Control>>) -> Response {
    let mut body = Vec::new();
    control.stats.write_json(&mut body);
    ([("content-type", "application/json")], body).into_response()
}

/// The parameters of [`channels`].
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

/// The busiest channels, or all channels by name.
pub(super) async fn channels(State(control): State<Arc<Control>>, query: Asked<ChannelsQuery>) -> Answer {
    ask(&control.ask, "channels", &asked(query)?).await
}

/// The parameters of [`history`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// The channel, from the path.
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

/// The users on a channel.
pub(super) async fn presence(State(control): State<Arc<Control>>, channel: Named) -> Answer {
    ask(&control.ask, "presence", &json!({ "channel": named(channel)? })).await
}

/// The parameters of [`connections`].
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

/// Connections, by channel, user or address, or the slowest ones.
pub(super) async fn connections(State(control): State<Arc<Control>>, query: Asked<ConnectionsQuery>) -> Answer {
    ask(&control.ask, "connections", &asked(query)?).await
}

/// One connection in detail.
pub(super) async fn connection(State(control): State<Arc<Control>>, name: Named) -> Answer {
    ask(&control.ask, "connection", &json!({ "conn": named(name)? })).await
}

/// A command's members as the client wrote them, because subscribers must get published data unchanged.
fn body(bytes: &Bytes) -> Result<calls::Answer, ApiError> {
    let body: Result<calls::Answer, _> = serde_json::from_slice(bytes);
    let body = body.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string()))?;
    match body.keys().find(|name| matches!(name.as_str(), "op" | "ref")) {
        Some(name) => Err(bad(format!("the field {name} belongs to the feed; in this API the path names the command"))),
        None => Ok(body),
    }
}

/// Publishes an event, or several if the body has `items`.
pub(super) async fn publish(State(control): State<Arc<Control>>, headers: HeaderMap, bytes: Bytes) -> Answer {
    let mut body = body(&bytes)?;
    let is_batch = body.contains_key("items");
    if let Some(key) = headers.get("idempotency-key") {
        let key = key.to_str().map_err(|_| bad("the header Idempotency-Key is not text"))?;
        if is_batch || body.contains_key("key") {
            return Err(bad("the header Idempotency-Key goes with a single event without a key"));
        }
        let key = serde_json::value::to_raw_value(key).map_err(|error| bad(error.to_string()))?;
        body.insert("key".into(), key);
    }
    ask(&control.publish, if is_batch { "batch" } else { "publish" }, &body).await
}

/// Ends connections, or subscriptions of a user.
pub(super) async fn kick(State(control): State<Arc<Control>>, bytes: Bytes) -> Answer {
    ask(&control.ask, "kick", &body(&bytes)?).await
}

/// The body of [`drain`] and [`set_drain`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    draining: bool,
}

/// Reads a body into a type, with the server's own errors.
fn read<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))
}

/// Whether clients are let go and new ones refused.
pub(super) async fn drain(State(control): State<Arc<Control>>) -> Json<Drain> {
    Json(Drain { draining: control.stats.state.is_paused() })
}

/// Lets all clients go and refuses new ones, or welcomes them again.
pub(super) async fn set_drain(State(control): State<Arc<Control>>, bytes: Bytes) -> Result<Json<Drain>, ApiError> {
    let wanted: Drain = read(&bytes)?;
    if control.stats.state.set_paused(wanted.draining) != wanted.draining {
        tracing::info!(draining = wanted.draining, "draining was switched over the admin listener");
        control.to_hub.send(HubMessage::Pause(wanted.draining));
        control.to_hub.ring();
    }
    Ok(Json(wanted))
}

/// The body of [`log`] and [`set_log`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    level: String,
}

/// The present filter of log lines.
pub(super) async fn log(State(control): State<Arc<Control>>) -> Json<Log> {
    Json(Log { level: control.log_filter.get() })
}

/// Changes the filter of log lines, until the server ends.
pub(super) async fn set_log(State(control): State<Arc<Control>>, bytes: Bytes) -> Result<Json<Value>, ApiError> {
    let wanted: Log = read(&bytes)?;
    control.log_filter.set(&wanted.level).map_err(bad)?;
    tracing::info!(level = wanted.level, "the log's level was set over the admin listener");
    Ok(Json(json!({ "level": control.log_filter.get() })))
}
