//! The process that is measured: `ringcast serve`, or the bare loop.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::{ClientArgs, Common};
use super::report::Side;
use super::{BenchError, io_error, procfs};
use crate::feed::client::FeedClient;
use crate::sys::load;

/// How long a target may take to start.
const START_MAX: Duration = Duration::from_secs(20);

/// What the measured server is set to: nothing is logged per connection, and a client is given up only when it
/// is a second of events behind, as the bare loop never gives one up.
const CONFIG: &str = "[auth]\nallow_anonymous = true\n[log]\nlevel = \"warn\"\n[limits]\nbacklog = 65535\n\
                      [server]\nmax_connections = 2000000\n[namespace.\"*\"]\nmax_lag = \"1MiB\"\n";

/// A running target; ends when it is dropped.
pub(super) struct Target {
    child: Child,
    folder: PathBuf,
    pub(super) address: SocketAddrV4,
    pub(super) feed: PathBuf,
}

/// What kind of target to start.
pub(super) struct Kind {
    pub(super) side: Side,
    pub(super) clients: ClientArgs,
    pub(super) shards: u32,
    pub(super) pin: bool,
}

impl Target {
    pub(super) fn start(common: &Common, kind: &Kind) -> Result<Target, BenchError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ringcast-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(io_error("making a folder"))?;
        let feed = folder.join("feed.sock");
        let address = free_port()?;
        let exe = match &common.exe {
            Some(exe) => exe.clone(),
            None => std::env::current_exe().map_err(io_error("finding this program"))?,
        };
        let mut command = Command::new(exe);
        match kind.side {
            Side::Server => {
                let config = match &common.server_config {
                    Some(path) => path.clone(),
                    None => {
                        let path = folder.join("bench.toml");
                        std::fs::write(&path, CONFIG).map_err(io_error("writing the configuration"))?;
                        path
                    }
                };
                command.arg("serve").arg("--config").arg(config);
                command.args(["--listen", &address.to_string(), "--admin", "off", "--feed"]).arg(&feed);
                command.args(["--shards", &kind.shards.to_string(), if kind.pin { "--pin" } else { "--no-pin" }]);
            }
            Side::Limit => {
                command.args(["bench", "limit-server", "--listen", &address.to_string(), "--feed"]).arg(&feed);
                command.args(["--transport", kind.clients.transport.name(), "--format", kind.clients.format.name()]);
            }
        }
        for name in ["RINGCAST_CONFIG", "RINGCAST_LISTEN", "RINGCAST_SHARDS", "RINGCAST_FEED", "RINGCAST_ADMIN"] {
            command.env_remove(name);
        }
        let cores = procfs::cores();
        load::tie_child(&mut command, if kind.pin { &cores[..1] } else { &cores });
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(io_error("starting the measured server"))?;
        let mut target = Target { child, folder, address, feed };
        target.await_ready(kind.side)?;
        Ok(target)
    }

    fn await_ready(&mut self, side: Side) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            let is_ready = match side {
                Side::Server => self.stats().is_ok_and(|stats| stats["node"]["ready"] == true),
                Side::Limit => UnixStream::connect(&self.feed).is_ok(),
            };
            if is_ready {
                return Ok(());
            }
            let has_ended = self.child.try_wait().map_err(io_error("looking at the measured server"))?.is_some();
            if has_ended || begun.elapsed() > START_MAX {
                let mut text = String::new();
                let _ = self.child.kill();
                if let Some(mut stderr) = self.child.stderr.take() {
                    let _ = stderr.read_to_string(&mut text);
                }
                return Err(BenchError::Target(text));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server's own figures. The bare loop has none.
    pub(super) fn stats(&self) -> Result<Value, BenchError> {
        let call = || FeedClient::connect(&self.feed)?.call(json!({ "op": "stats" }));
        call().map(|mut answer| answer["stats"].take()).map_err(|error| BenchError::Harness(error.to_string()))
    }

    /// Nanoseconds of processor time used so far.
    pub(super) fn cpu_ns(&self) -> Result<u64, BenchError> {
        procfs::cpu_ns(self.pid())
    }

    /// Bytes of user-space memory.
    pub(super) fn memory(&self) -> Result<u64, BenchError> {
        procfs::rss_anon(self.pid())
    }

    pub(super) fn feed_path(&self) -> &Path {
        &self.feed
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> Result<SocketAddrV4, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io_error("finding a free port"))?;
    let port = listener.local_addr().map_err(io_error("finding a free port"))?.port();
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
