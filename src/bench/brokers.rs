//! Brokers for `bench cluster`, which the harness starts: a Redis alone or with replicas and Sentinels, or a NATS server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::scenario_args::BrokerKind;
use super::target::free_port;
use super::{BenchError, io_error, procfs};
use crate::sys::load;

/// The time that a broker has to start.
const START_MAX: Duration = Duration::from_secs(20);
/// Replicas of a Redis that Sentinels watch over: after the primary's death one is left to confirm entries.
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;

/// Running servers. Dropping it ends them.
pub(super) struct Broker {
    /// The first one is that which nodes write to.
    servers: Vec<Child>,
    folder: PathBuf,
    /// The URL for nodes.
    pub(super) url: String,
}

impl BrokerKind {
    /// The name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Nats => "NATS",
        }
    }
}

impl Broker {
    fn empty() -> Result<Broker, BenchError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ringcast-bench-broker-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(io_error("making a folder"))?;
        Ok(Broker { servers: Vec::new(), folder, url: String::new() })
    }

    /// Starts one server.
    pub(super) fn start(kind: BrokerKind) -> Result<Broker, BenchError> {
        let mut broker = Broker::empty()?;
        match kind {
            BrokerKind::Redis => {
                let port = broker.add_redis(&[])?;
                broker.url = format!("redis://127.0.0.1:{port}");
            }
            BrokerKind::Nats => {
                let port = free_port()?.port();
                let mut command = Command::new("nats-server");
                command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
                command.arg(broker.folder.join("store"));
                broker.add(command, "nats-server")?;
                await_answer("the NATS server", || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
                broker.url = format!("nats://127.0.0.1:{port}");
            }
        }
        Ok(broker)
    }

    /// Starts a Redis with replicas, and Sentinels that replace it one second after its death.
    pub(super) fn start_watched() -> Result<Broker, BenchError> {
        let mut broker = Broker::empty()?;
        let primary = broker.add_redis(&[])?;
        for _ in 0..REPLICAS {
            broker.add_redis(&["--replicaof", "127.0.0.1", &primary.to_string()])?;
        }
        let is_followed = || {
            let text = ask(primary, &["INFO", "replication"])?;
            Ok(text.contains(&format!("connected_slaves:{REPLICAS}")) && !text.contains("state=wait"))
        };
        await_answer("the replicas", is_followed)?;
        let mut hosts = Vec::new();
        for number in 0..SENTINELS {
            let file = broker.folder.join(format!("sentinel-{number}.conf"));
            let text = format!(
                "sentinel monitor main 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 5000\n"
            );
            std::fs::write(&file, text).map_err(io_error("writing a Sentinel's configuration"))?;
            let port = broker.add_redis(&[&file.display().to_string(), "--sentinel"])?;
            hosts.push(port);
        }
        for port in &hosts {
            let knows = || {
                let text = ask(*port, &["INFO", "sentinel"])?;
                Ok(text.contains(&format!("slaves={REPLICAS},sentinels={SENTINELS}")))
            };
            await_answer("the Sentinels", knows)?;
        }
        let hosts: Vec<String> = hosts.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        broker.url = format!("redis+sentinel://{}/main", hosts.join(","));
        Ok(broker)
    }

    /// Starts a Redis or a Sentinel; returns its port.
    fn add_redis(&mut self, flags: &[&str]) -> Result<u16, BenchError> {
        let port = free_port()?.port();
        let mut command = Command::new("redis-server");
        command.args(flags).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        if !flags.contains(&"--sentinel") {
            command.args(["--save", "", "--dbfilename", &format!("{port}.rdb"), "--dir"]).arg(&self.folder);
        }
        self.add(command, "redis-server")?;
        await_answer("the Redis", || Ok(ask(port, &["PING"])?.contains("PONG")))?;
        Ok(port)
    }

    fn add(&mut self, mut command: Command, name: &str) -> Result<(), BenchError> {
        load::tie_child(&mut command, &[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let missing = |source| BenchError::Io { doing: format!("starting {name}, which Debian's package has"), source };
        self.servers.push(command.spawn().map_err(missing)?);
        Ok(())
    }

    /// Nanoseconds of processor time of the server that nodes write to.
    pub(super) fn cpu_ns(&self) -> Result<u64, BenchError> {
        self.servers.first().map_or(Ok(0), |server| procfs::cpu_ns(server.id()))
    }

    /// Kills the server that nodes write to.
    pub(super) fn kill_first(&mut self) {
        if let Some(server) = self.servers.first_mut() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
}

/// Sends a command to a Redis, and returns the reply as text.
fn ask(port: u16, command: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("{}\r\n", command.join(" ")).as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(length) = line.strip_prefix('$').and_then(|length| length.trim_end().parse().ok()) else {
        return Ok(line);
    };
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Waits until a server answers as it should.
fn await_answer(what: &str, mut is_ready: impl FnMut() -> std::io::Result<bool>) -> Result<(), BenchError> {
    let begun = Instant::now();
    while !is_ready().unwrap_or(false) {
        if begun.elapsed() > START_MAX {
            return Err(BenchError::Timeout { what: format!("{what} to start"), limit: START_MAX });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
