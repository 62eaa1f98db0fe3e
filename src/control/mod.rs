//! The control thread: the admin listener with health, metrics, the API and the dashboard. It runs on tokio beside the
//! threads that serve clients, reads the figures that those publish, and commands the hub over the feed as a backend does.

mod access;
mod api;
mod calls;
mod live;
mod metrics;
mod pages;
mod trace;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use crate::figures::Stats;
use crate::link::ToHub;
use crate::sys::fdtable;

use calls::Feed;
use trace::Traces;

/// The filter of log lines, which can be changed while the server runs.
pub trait LogFilter: Send + Sync {
    /// The present directives.
    fn get(&self) -> String;
    /// Sets other directives.
    ///
    /// # Errors
    /// If the directives are malformed, with a sentence that says why.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// What the control thread is made of.
pub struct ControlParts {
    /// The admin listener.
    pub listener: TcpListener,
    /// The token that requests must present; empty if they need none.
    pub token: String,
    /// The server's figures.
    pub stats: Arc<Stats>,
    /// Three connections to the feed: one for questions, one for publishing, which the hub may hold up, and one for traces.
    pub feeds: [UnixStream; 3],
    /// The queue to the hub.
    pub to_hub: ToHub,
    /// The filter of log lines.
    pub log_filter: Arc<dyn LogFilter>,
    /// The longest command on the feed, in bytes.
    pub max_line: usize,
    /// Whether the feed is for certain users only, so that changes need a token.
    pub feed_is_narrowed: bool,
    /// Whether clients need tokens or the backend's consent, so that what they see needs a token here.
    pub clients_are_checked: bool,
    /// The names that requests may call this host by, beside its addresses and `localhost`.
    pub names: Vec<String>,
}

/// What the handlers of requests share.
struct Control {
    token: String,
    stats: Arc<Stats>,
    ask: Feed,
    publish: Feed,
    traces: Traces,
    to_hub: ToHub,
    log_filter: Arc<dyn LogFilter>,
    /// What the viewers of the figures get.
    figures: live::Figures,
    /// Permits of requests that only look; requests beyond them wait.
    looking: Semaphore,
    /// Permits of requests that change something.
    changing: Semaphore,
    max_line: usize,
    feed_is_narrowed: bool,
    clients_are_checked: bool,
    names: Vec<String>,
}

/// Requests of each kind that are answered at a time.
const REQUESTS_MAX: usize = 64;

/// Bounds for connections. Their memory and their descriptors are those of the hub as well.
#[derive(Clone, Copy)]
struct Bounds {
    /// How many connections there may be; others wait in the kernel's queue.
    connections: usize,
    /// How long a request's head may take, and how long a connection may be idle.
    head: Duration,
    /// How long a client may take no bytes of its answer.
    deaf: Duration,
}

const BOUNDS: Bounds = Bounds { connections: 512, head: Duration::from_secs(10), deaf: Duration::from_secs(30) };

/// Starts the control thread, which serves until the process ends. The thread has a descriptor table of its own, so that it
/// has descriptors left when publishers have taken all of the hub's.
///
/// # Errors
/// If the thread, its table or its runtime cannot be made.
pub fn start(parts: ControlParts) -> io::Result<()> {
    let (started_sender, started) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name("control".into()).spawn(move || {
        let runtime = match begin(&parts) {
            Ok(runtime) => runtime,
            Err(error) => return drop(started_sender.send(Err(error))),
        };
        let _ = started_sender.send(Ok(()));
        if let Err(error) = runtime.block_on(run(parts)) {
            tracing::error!(%error, "the admin listener has failed; clients are still served");
        }
    })?;
    started.recv().unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Gives the calling thread its own descriptor table and its runtime.
fn begin(parts: &ControlParts) -> io::Result<tokio::runtime::Runtime> {
    let [ask, publish, trace] = &parts.feeds;
    let feeds = [ask.as_fd(), publish.as_fd(), trace.as_fd()];
    fdtable::isolate(&[&feeds[..], &[parts.listener.as_fd(), parts.to_hub.descriptor()]].concat())?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn run(parts: ControlParts) -> io::Result<()> {
    let [ask, publish, trace] = parts.feeds;
    let control = Arc::new(Control {
        token: parts.token,
        stats: parts.stats,
        ask: Feed::new(ask, parts.max_line, drop)?,
        publish: Feed::new(publish, parts.max_line, drop)?,
        traces: Traces::new(trace, parts.max_line)?,
        to_hub: parts.to_hub,
        log_filter: parts.log_filter,
        figures: live::Figures::default(),
        looking: Semaphore::new(REQUESTS_MAX),
        changing: Semaphore::new(REQUESTS_MAX),
        max_line: parts.max_line,
        feed_is_narrowed: parts.feed_is_narrowed,
        clients_are_checked: parts.clients_are_checked,
        names: parts.names,
    });
    tokio::spawn(live::publish(control.clone()));
    parts.listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(parts.listener)?;
    serve(listener, router(control), BOUNDS).await
}

/// Accepts connections and serves each in a task of its own.
async fn serve(mut listener: tokio::net::TcpListener, router: Router, bounds: Bounds) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head);
    let connections = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let room = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
        // `accept` of `Listener` waits and tries again when the kernel has no descriptor left.
        let (stream, _) = Listener::accept(&mut listener).await;
        // Without this time-out, a client that reads nothing would keep its connection for ever.
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.deaf)) {
            tracing::debug!(%error, "a connection to the admin listener broke");
            continue;
        }
        let (builder, service) = (builder.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(error, "a connection to the admin listener broke");
            }
            drop(room);
        });
    }
}

fn router(control: Arc<Control>) -> Router {
    let contents = Router::new()
        .route("/v1/channels", get(api::channels))
        .route("/v1/channels/{channel}/history", get(api::history))
        .route("/v1/channels/{channel}/presence", get(api::presence))
        .route("/v1/channels/{channel}/trace", get(trace::trace))
        .route("/v1/connections", get(api::connections))
        .route("/v1/connections/{conn}", get(api::connection))
        .layer(from_fn_with_state(control.clone(), access::guard_contents));
    let guarded = Router::new()
        .route("/metrics", get(pages::metrics))
        .route("/stats", get(api::stats))
        .route("/v1/stats", get(api::stats))
        .route("/v1/publish", post(api::publish))
        .route("/v1/kick", post(api::kick))
        .route("/v1/drain", get(api::drain).put(api::set_drain))
        .route("/v1/log", get(api::log).put(api::set_log))
        .route("/v1/live", get(live::live))
        .merge(contents)
        // `access::guard` has read the body, with a limit of its own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(control.clone(), access::guard));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    const LONG: Duration = Duration::from_secs(20);

    /// A listener in a thread of its own; `/long` answers with more than a socket's buffer holds.
    fn start(bounds: Bounds) -> impl Fn() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let router = Router::new().route("/", get(async || "ok")).route("/long", get(async || vec![0; 64 << 20]));
            let listen = async { serve(tokio::net::TcpListener::from_std(listener).unwrap(), router, bounds).await };
            runtime.block_on(listen)
        });
        move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream
        }
    }

    /// Sends a request, and reads the answer to its end.
    fn is_answered(stream: &mut TcpStream) -> bool {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\nok") {
            if stream.read_exact(&mut byte).is_err() {
                return false;
            }
            answer.push(byte[0]);
        }
        answer.starts_with(b"HTTP/1.1 200")
    }

    #[test]
    fn half_a_head_is_not_waited_for() {
        let connect = start(Bounds { connections: 512, head: Duration::from_millis(50), deaf: LONG });
        for sent in ["", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            let mut stream = connect();
            stream.write_all(sent.as_bytes()).unwrap();
            assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0, "{sent}");
        }
        assert!(is_answered(&mut connect()));
    }

    #[test]
    fn connections_beyond_the_limit_wait() {
        let connect = start(Bounds { connections: 1, head: LONG, deaf: LONG });
        let mut first = connect();
        assert!(is_answered(&mut first));
        let mut second = connect();
        second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        // The second connection is not served while the first one is open, however often the first one asks.
        second.set_nonblocking(true).unwrap();
        for _ in 0..20 {
            assert!(is_answered(&mut first));
            assert_eq!(second.peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        second.set_nonblocking(false).unwrap();
        drop(first);
        assert!(second.read(&mut [0; 12]).unwrap() > 0);
    }

    #[test]
    fn a_client_that_never_reads_is_given_up() {
        let connect = start(Bounds { connections: 1, head: LONG, deaf: Duration::from_millis(200) });
        let mut deaf = connect();
        deaf.write_all(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(is_answered(&mut connect()));
    }
}
