//! The control thread: the admin listener with health, metrics, the API and the dashboard. It runs on tokio, beside
//! the threads that serve clients, reads what those publish, and commands the hub through the feed like any backend.

mod access;
mod api;
mod calls;
mod live;
mod metrics;
mod pages;
pub mod stats;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::link::ToHub;

use calls::Feed;
use stats::Stats;

/// How log lines are filtered, for whoever wants to change it while the server runs.
pub trait LogFilter: Send + Sync {
    /// The directives that hold.
    fn get(&self) -> String;
    /// Sets others.
    ///
    /// # Errors
    /// If they make no sense, with a sentence that says why.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// Everything the control thread is made of.
pub struct ControlParts {
    /// The admin listener.
    pub listener: TcpListener,
    /// What must be presented there; empty for nothing.
    pub token: String,
    /// The figures.
    pub stats: Stats,
    /// Two connections to the feed: one to ask on, one to publish on, which may be held up.
    pub feeds: [UnixStream; 2],
    /// Where a shard serves this process.
    pub own_listener: SocketAddr,
    /// What the server tells the hub.
    pub to_hub: ToHub,
    /// The log's level.
    pub log_filter: Arc<dyn LogFilter>,
    /// The longest command, in bytes.
    pub max_line: usize,
}

/// What requests need.
struct Control {
    token: String,
    stats: Stats,
    ask: Feed,
    publish: Feed,
    own_listener: SocketAddr,
    to_hub: ToHub,
    log_filter: Arc<dyn LogFilter>,
    /// Who looks at the figures as they change.
    viewers: AtomicUsize,
    /// Requests that are being answered; more wait.
    permits: Semaphore,
}

/// Requests that are answered at a time.
const REQUESTS_MAX: usize = 64;

/// Starts the thread, which serves until the process ends.
///
/// # Errors
/// If there can be no thread, or no runtime for it.
pub fn start(parts: ControlParts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        if let Err(error) = runtime.block_on(run(parts)) {
            tracing::error!(%error, "the admin listener cannot go on; clients are served all the same");
        }
    })?;
    Ok(())
}

async fn run(parts: ControlParts) -> io::Result<()> {
    let [ask, publish] = parts.feeds;
    let control = Arc::new(Control {
        token: parts.token,
        stats: parts.stats,
        ask: Feed::new(ask)?,
        publish: Feed::new(publish)?,
        own_listener: parts.own_listener,
        to_hub: parts.to_hub,
        log_filter: parts.log_filter,
        viewers: AtomicUsize::new(0),
        permits: Semaphore::new(REQUESTS_MAX),
    });
    tokio::spawn(live::publish(control.clone()));
    parts.listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(parts.listener)?;
    axum::serve(listener, router(control, parts.max_line)).await
}

fn router(control: Arc<Control>, max_line: usize) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(pages::metrics))
        .route("/stats", get(api::stats))
        .route("/v1/stats", get(api::stats))
        .route("/v1/channels", get(api::channels))
        .route("/v1/channels/{channel}/history", get(api::history))
        .route("/v1/channels/{channel}/presence", get(api::presence))
        .route("/v1/connections", get(api::connections))
        .route("/v1/connections/{conn}", get(api::connection))
        .route("/v1/publish", post(api::publish))
        .route("/v1/kick", post(api::kick))
        .route("/v1/drain", get(api::drain).put(api::set_drain))
        .route("/v1/log", get(api::log).put(api::set_log))
        .route("/v1/live", get(live::live))
        .layer(DefaultBodyLimit::max(max_line))
        .layer(from_fn_with_state(control.clone(), access::check));
    Router::new()
        .route("/", get(pages::dashboard))
        .route("/v1/openapi.json", get(pages::openapi))
        .route("/healthz", get(pages::live))
        .route("/readyz", get(pages::ready))
        .merge(guarded)
        .fallback(access::not_found)
        .method_not_allowed_fallback(access::wrong_method)
        .layer(from_fn(access::add_headers))
        .with_state(control)
}
