//! The pages of the admin listener beside the API: health, metrics, the dashboard and the API's document.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::Control;
use super::access::ApiError;
use super::metrics::{self, Format};

/// The dashboard's page. Its body says whether a token is needed, so that it asks for one instead of being refused.
const DASHBOARD: &str = concat!(
    include_str!("page/head.html"),
    "<title>ringcast dashboard</title>\n<style>\n",
    include_str!("page/base.css"),
    include_str!("page/dashboard.css"),
    "</style>\n",
    include_str!("page/dashboard.html"),
    "<script>\n",
    include_str!("page/chart.js"),
    include_str!("page/dashboard.js"),
    include_str!("page/detail.js"),
    "</script>\n"
);
const TOKEN_NONE: &str = "data-token=\"none\"";
const TOKEN_NEEDED: &str = "data-token=\"needed\"";
const OPENAPI: &str = include_str!("openapi.json");

/// The answer to a check that the process is alive. It is alive also while the log's reader stands still, because nothing
/// waits for that reader; a second line says so.
pub(super) async fn live(State(control): State<Arc<Control>>) -> String {
    let Some(standstill) = control.stats.server.log_standstill() else { return "ok\n".into() };
    let dropped = control.stats.server.log_lines_dropped.load(Ordering::Relaxed);
    format!("ok\n{standstill}; {dropped} log lines were dropped since the start\n")
}

/// The answer to a check that new clients are welcome.
pub(super) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, ApiError> {
    match control.stats.state.is_ready() {
        true => Ok("ready\n"),
        false => {
            let message = match control.stats.state.is_broker_lost() {
                true => "the broker of the cluster's log is away",
                false => "this server is starting or going away",
            };
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message))
        }
    }
}

/// Every figure, for Prometheus.
pub(super) async fn metrics(State(control): State<Arc<Control>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    ([("content-type", format.media_type())], metrics::encode(&control.stats, format)).into_response()
}

/// The dashboard. The page itself has no figures; the requests that it makes need the token.
pub(super) async fn dashboard(State(control): State<Arc<Control>>) -> Response {
    let headers = [("x-frame-options", "DENY")];
    if control.token.is_empty() {
        return (headers, Html(DASHBOARD)).into_response();
    }
    (headers, Html(DASHBOARD.replace(TOKEN_NONE, TOKEN_NEEDED))).into_response()
}

/// The API's OpenAPI document.
pub(super) async fn openapi() -> Response {
    ([("content-type", "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{HubFigures, Measure, ShardTable};

    /// The identifiers that stand after a marker in the dashboard.
    fn after(marker: &str) -> impl Iterator<Item = &'static str> {
        DASHBOARD.split(marker).skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
    }

    #[test]
    fn the_dashboard_has_one_place_that_says_whether_a_token_is_needed() {
        assert_eq!((DASHBOARD.matches(TOKEN_NONE).count(), DASHBOARD.matches(TOKEN_NEEDED).count()), (1, 0));
    }

    #[test]
    fn the_dashboard_asks_for_counters_that_exist() {
        let is_shards = |name: &str| {
            // A part of a name is made up with the transport.
            let mut names = ShardTable::<u64>::FIGURES.iter().map(|figure| figure.name);
            names.any(|other| other == name || name.ends_with('_') && other.starts_with(name))
        };
        let mut counters: Vec<&str> =
            ["sum(shards, \"", "sum(s.shards, \"", "per(\""].into_iter().flat_map(after).collect();
        counters.extend(after("shard.").filter(|name| *name != "measures"));
        let unknown: Vec<_> = counters.iter().filter(|name| !is_shards(name)).collect();
        assert!(counters.len() > 10 && unknown.is_empty(), "{unknown:?}");
        let nodes: Vec<&str> = after("node.").filter(|name| !matches!(*name, "ready" | "connections")).collect();
        let is_hubs = |name: &&&str| HubFigures::FIGURES.iter().any(|figure| figure.name == **name);
        assert!(nodes.len() > 3 && nodes.iter().all(|name| is_hubs(&name)), "{nodes:?}");
        let mut measures = after("measures.").chain(after("merged(shards, \""));
        assert!(measures.all(|name| Measure::ALL.iter().any(|measure| measure.name() == name)));
    }
}
