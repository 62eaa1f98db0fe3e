//! The measured servers: `ringcast serve`, the bare loop, a peer, or a server that runs already.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::{Value, json};

use super::args::{ClientArgs, Common};
use super::publisher::{Feed, parse_url};
use super::report::Side;
use super::{BenchError, io_error, peers, procfs, secured};
use crate::feed::client::FeedClient;
use crate::sys::affinity::usable_cores;
use crate::sys::load;

/// The time that a target has to start.
const START_MAX: Duration = Duration::from_secs(20);
/// The time that a successor has to start and to take over.
const SUCCEED_MAX: Duration = Duration::from_secs(60);

/// The beginning of the measured server's configuration: no log lines for connections, and limits above those of every
/// scenario.
const CONFIG: &str = "[auth]\nallow_anonymous = true\n[log]\nlevel = \"warn\"\n[limits]\nbacklog = 65535\n\
                      subscriptions = 2000\nchannels = 3000000\n\
                      [http]\nmax_header = \"64KiB\"\n[server]\nmax_connections = 2000000\n";
/// The end of the configuration, which a scenario may add lines to. The bare loop never disconnects a slow client, so
/// the server does so late.
const NAMESPACE: &str = "[namespace.\"*\"]\nmax_lag = \"1MiB\"\n";

/// A running target. Dropping it ends a target that the harness has started.
pub(super) struct Target {
    child: Option<Child>,
    folder: PathBuf,
    /// The address for clients.
    pub(super) address: SocketAddrV4,
    /// The path that clients request, if it is not ringcast's.
    pub(super) path: Option<String>,
    /// The way to publish.
    pub(super) feed: Feed,
    /// How clients shake hands, if the target speaks TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pids: Vec<u32>,
}

/// The cores of the server and of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The server on the first core, its clients on the others.
    Apart,
    /// Each shard on a core of its own with its part of the clients, whose packets arrive on that core, as with a
    /// network card that has a queue for each shard.
    Together,
    /// Any core for either.
    Anywhere,
}

impl Place {
    /// The cores of the server, of `cores`.
    pub(super) fn of_server(self, cores: &[usize], shards: u32) -> &[usize] {
        match self {
            Place::Apart => &cores[..1],
            Place::Together => &cores[..(shards as usize).min(cores.len())],
            Place::Anywhere => cores,
        }
    }

    /// The cores of the harness and its clients, of `cores`.
    pub(super) fn of_load(self, cores: &[usize], shards: u32) -> &[usize] {
        match self {
            Place::Apart => &cores[1..],
            Place::Together | Place::Anywhere => self.of_server(cores, shards),
        }
    }
}

/// A target to start.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) side: Side,
    pub(super) clients: ClientArgs,
    pub(super) shards: u32,
    pub(super) place: Place,
    /// Lines for the server's configuration, after [`NAMESPACE`].
    pub(super) config: &'static str,
    /// More flags of the server.
    pub(super) flags: Vec<String>,
}

impl Target {
    pub(super) fn start(common: &Common, kind: &Kind) -> Result<Target, BenchError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if kind.side == Side::Other {
            return Target::join(common);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ringcast-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(io_error("making a folder"))?;
        let socket = folder.join("feed.sock");
        let address = free_port()?;
        let tls = (common.tls && kind.side == Side::Server).then(|| secured::prepare(&folder)).transpose()?;
        let mut command = match kind.side {
            Side::Nchan => peers::nchan(address, &folder)?,
            Side::Axum => peers::axum(address)?,
            _ => own(common, kind, address, &folder, &socket)?,
        };
        let feed = match kind.side {
            Side::Server | Side::Limit => Feed::Socket(socket),
            _ => Feed::Post { address, path: "/publish?channel={channel}".to_owned() },
        };
        let cores = usable_cores();
        load::tie_child(&mut command, kind.place.of_server(&cores, kind.shards));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(io_error("starting the measured server"))?;
        let pids = vec![child.id()];
        let mut target = Target { child: Some(child), folder, address, path: None, feed, tls, pids };
        target.await_ready(kind.side)?;
        if !matches!(kind.side, Side::Server | Side::Limit) {
            target.pids = procfs::listeners(address.port());
        }
        Ok(target)
    }

    /// Takes the server of `--against`.
    fn join(common: &Common) -> Result<Target, BenchError> {
        let (address, path) = parse_url(common.against.as_deref().unwrap_or_default())?;
        let pids = procfs::listeners(address.port());
        if pids.is_empty() {
            return Err(BenchError::Target(format!("no process of this host listens on port {}", address.port())));
        }
        let feed = Feed::parse(common.publish.as_deref().unwrap_or_default())?;
        Ok(Target { child: None, folder: PathBuf::new(), address, path: Some(path), feed, tls: None, pids })
    }

    fn await_ready(&mut self, side: Side) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            let is_ready = match (side, &self.feed) {
                (Side::Server, _) => self.stats().is_ok_and(|stats| stats["node"]["ready"] == true),
                (_, Feed::Socket(path)) => UnixStream::connect(path).is_ok(),
                _ => TcpStream::connect(self.address).is_ok(),
            };
            if is_ready {
                return Ok(());
            }
            let Some(child) = &mut self.child else { return Ok(()) };
            let has_ended = child.try_wait().map_err(io_error("looking at the measured server"))?.is_some();
            if has_ended || begun.elapsed() > START_MAX {
                let mut text = String::new();
                let _ = child.kill();
                if let Some(mut stderr) = child.stderr.take() {
                    let _ = stderr.read_to_string(&mut text);
                }
                return Err(BenchError::Target(text));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has a successor of the same configuration take over, and waits until the server before it has ended with success.
    pub(super) fn succeed(&mut self, common: &Common, kind: &Kind) -> Result<(), BenchError> {
        let mut command = own(common, kind, self.address, &self.folder, self.feed_path())?;
        let cores = usable_cores();
        load::tie_child(&mut command, kind.place.of_server(&cores, kind.shards));
        command.arg("--take-over").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut successor = command.spawn().map_err(io_error("starting the successor"))?;
        let begun = Instant::now();
        let Some(before) = &mut self.child else { return Ok(()) };
        let status = loop {
            if let Some(status) = before.try_wait().map_err(io_error("looking at the measured server"))? {
                break status;
            }
            let has_ended = successor.try_wait().map_err(io_error("looking at the successor"))?.is_some();
            if has_ended || begun.elapsed() > SUCCEED_MAX {
                let _ = successor.kill();
                let mut text = String::new();
                if let Some(mut stderr) = successor.stderr.take() {
                    let _ = stderr.read_to_string(&mut text);
                }
                return Err(BenchError::Target(text));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.pids = vec![successor.id()];
        self.child = Some(successor);
        match status.success() {
            true => self.await_ready(kind.side),
            false => Err(BenchError::Target(format!("the server that was taken over from ended with {status}"))),
        }
    }

    /// The figures of `stats`, which ringcast alone has.
    pub(super) fn stats(&self) -> Result<Value, BenchError> {
        let call = || FeedClient::connect(self.feed_path())?.call(json!({ "op": "stats" }));
        call().map(|mut answer| answer["stats"].take()).map_err(|error| BenchError::Harness(error.to_string()))
    }

    /// The sum of a figure of `stats` over all shards.
    pub(super) fn shards_sum(&self, figure: &str) -> Result<u64, BenchError> {
        let stats = self.stats()?;
        let shards = stats["shards"].as_array().into_iter().flatten();
        Ok(shards.map(|shard| figure.split('.').fold(shard, |at, name| &at[name]).as_u64().unwrap_or(0)).sum())
    }

    /// Nanoseconds of processor time since the start.
    pub(super) fn cpu_ns(&self) -> Result<u64, BenchError> {
        self.pids.iter().map(|pid| procfs::cpu_ns(*pid)).sum()
    }

    /// Nanoseconds of processor time of the threads with a name.
    pub(super) fn thread_cpu_ns(&self, name: &str) -> Result<u64, BenchError> {
        self.pids.iter().map(|pid| procfs::thread_cpu_ns(*pid, name)).sum()
    }

    /// Bytes of user-space memory.
    pub(super) fn memory(&self) -> Result<u64, BenchError> {
        self.pids.iter().map(|pid| procfs::rss_anon(*pid)).sum()
    }

    /// The Unix socket of ringcast's feed.
    pub(super) fn feed_path(&self) -> &Path {
        match &self.feed {
            Feed::Socket(path) => path,
            _ => Path::new(""),
        }
    }
}

/// The command of `ringcast serve` or of the bare loop.
fn own(common: &Common, kind: &Kind, address: SocketAddrV4, folder: &Path, feed: &Path) -> Result<Command, BenchError> {
    let exe = match &common.exe {
        Some(exe) => exe.clone(),
        None => std::env::current_exe().map_err(io_error("finding this program"))?,
    };
    let mut command = Command::new(exe);
    if kind.side == Side::Limit {
        command.args(["bench", "limit-server", "--listen", &address.to_string(), "--feed"]).arg(feed);
        command.args(["--transport", kind.clients.transport.name(), "--format", kind.clients.format.name()]);
        command.args(["--loops", &kind.shards.to_string()]);
        if kind.place == Place::Together {
            command.arg("--steer");
        }
        return Ok(command);
    }
    let config = match &common.server_config {
        Some(path) => path.clone(),
        None => {
            let path = folder.join("bench.toml");
            let steer = format!("steer = {}\n", kind.place == Place::Together);
            // With TLS clients come to another listener.
            let listen = if common.tls { "listen = []\n" } else { "" };
            let config = [CONFIG, &steer, listen, NAMESPACE, kind.config].concat();
            std::fs::write(&path, config).map_err(io_error("writing the configuration"))?;
            path
        }
    };
    command.arg("serve").arg("--config").arg(config);
    match common.tls {
        true => command.args(secured::flags(folder, address)),
        false => command.args(["--listen", &address.to_string()]),
    };
    command.args(["--admin", "off", "--feed"]).arg(feed);
    command.args([
        "--shards",
        &kind.shards.to_string(),
        if kind.place == Place::Anywhere { "--no-pin" } else { "--pin" },
    ]);
    command.args(&kind.flags);
    for name in [
        "RINGCAST_BACKPLANE",
        "RINGCAST_NODE",
        "RINGCAST_CONFIG",
        "RINGCAST_LISTEN",
        "RINGCAST_SHARDS",
        "RINGCAST_FEED",
        "RINGCAST_ADMIN",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}

impl Drop for Target {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let children = self.pids.iter().copied().filter(|pid| *pid != child.id()).collect::<Vec<_>>();
        let _ = child.kill();
        let _ = child.wait();
        // The workers of a killed master process live on.
        for pid in children {
            load::kill(pid);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(super) fn free_port() -> Result<SocketAddrV4, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io_error("finding a free port"))?;
    let port = listener.local_addr().map_err(io_error("finding a free port"))?.port();
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
