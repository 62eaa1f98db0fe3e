//! What the admin listener shows beside the API.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::Control;
use super::access::ApiError;
use super::metrics::{self, Format};

const DASHBOARD: &str = include_str!("dashboard.html");
const OPENAPI: &str = include_str!("openapi.json");

/// The process is alive.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// New clients are welcome.
pub(super) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, ApiError> {
    match control.stats.room.is_ready() {
        true => Ok("ready\n"),
        false => {
            let message = "this server is starting or going away";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message))
        }
    }
}

/// All figures, for Prometheus.
pub(super) async fn metrics(State(control): State<Arc<Control>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    ([("content-type", format.media_type())], metrics::encode(&control.stats, format)).into_response()
}

/// The dashboard. It shows nothing by itself: what it asks for needs the token.
pub(super) async fn dashboard() -> Response {
    ([("x-frame-options", "DENY")], Html(DASHBOARD)).into_response()
}

/// What the API is.
pub(super) async fn openapi() -> Response {
    ([("content-type", "application/json")], OPENAPI).into_response()
}
