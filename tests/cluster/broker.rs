//! A broker of a test's own: a Redis, or what `nats.rs` starts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::server::{Server, eventually};

/// What tests need that hold for every broker.
pub trait Broker {
    fn start() -> Self;
    fn url(&self) -> String;
    /// Publishes as a backend without a library does; returns the event's id.
    fn add(&self, channel: &str, data: &str) -> String;
    /// Removes everything that is in the log.
    fn trim(&self);
}

/// Runs functions of a module as tests, once for each broker.
macro_rules! on_each_broker {
    ($($name:ident),* $(,)?) => {
        mod on_redis {
            $(#[test] fn $name() { super::$name::<crate::broker::Redis>(); })*
        }
        mod on_nats {
            $(#[test] fn $name() { super::$name::<crate::nats_server::Nats>(); })*
        }
    };
}
pub(crate) use on_each_broker;

/// A Redis server on a free port.
pub struct Redis {
    child: Child,
    pub port: u16,
    folder: tempfile::TempDir,
    flags: Vec<String>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(folder: &Path, port: u16, flags: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server is needed: apt-get install redis-server")
}

impl Redis {
    pub fn start_with(flags: &[&str]) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let port = free_port();
        let child = spawn(folder.path(), port, &flags);
        let redis = Redis { child, port, folder, flags };
        redis.await_up();
        redis
    }

    fn await_up(&self) {
        eventually("redis answers", || {
            let answer = self.try_ask(&["PING"])?;
            (answer == "+PONG" || answer.starts_with("-NOAUTH")).then_some(())
        });
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0);
    }

    /// Kills the server and starts it again on the same port and folder.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.restart();
    }

    pub fn crash(&mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = spawn(self.folder.path(), self.port, &self.flags);
        self.await_up();
    }

    /// Sends a command, and returns the first line of the reply.
    pub fn try_ask(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
        }
        stream.write_all(&bytes).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) {
            let mut value = vec![0; length];
            reader.read_exact(&mut value).ok()?;
            return String::from_utf8(value).ok();
        }
        Some(line.trim_end().to_owned())
    }

    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap()
    }
}

impl Broker for Redis {
    fn start() -> Redis {
        Redis::start_with(&[])
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn add(&self, channel: &str, data: &str) -> String {
        self.ask(&["XADD", KEY, "*", "c", channel, "d", data])
    }

    fn trim(&self) {
        self.ask(&["XTRIM", KEY, "MAXLEN", "0"]);
    }
}

/// The key of the log.
pub const KEY: &str = "ringcast:{main}";

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node on a broker.
pub fn node(broker: &impl Broker, name: &str, config: &str) -> Server {
    node_in(tempfile::tempdir().unwrap(), broker, name, config)
}

/// A node on the state of an earlier one.
pub fn node_in(folder: tempfile::TempDir, broker: &impl Broker, name: &str, config: &str) -> Server {
    Server::start_in(folder, config, &["--backplane", &broker.url(), "--node", name])
}

/// A figure of the node as a whole.
pub fn figure(server: &Server, name: &str) -> u64 {
    let stats = server.stats();
    let of = |part: &str| stats[part][name].as_u64();
    of("node").or(of("process")).unwrap_or_else(|| panic!("no figure {name} in {stats}"))
}

/// A primary with a replica, and three Sentinels that watch over it.
pub struct Watched {
    pub primary: Redis,
    pub replica: Redis,
    sentinels: Vec<Redis>,
}

impl Watched {
    pub fn start() -> Watched {
        let primary = Redis::start();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
        eventually("the replica follows", || {
            let text = replica.try_ask(&["INFO", "replication"])?;
            text.contains("master_link_status:up").then_some(())
        });
        let sentinels: Vec<Redis> = (0..3).map(|_| Redis::start_sentinel(primary.port)).collect();
        let watched = Watched { primary, replica, sentinels };
        eventually("the sentinels know each other and the replica", || {
            let knows = |sentinel: &Redis| {
                let text = sentinel.try_ask(&["INFO", "sentinel"]).unwrap_or_default();
                text.contains("slaves=1,sentinels=3")
            };
            watched.sentinels.iter().all(knows).then_some(())
        });
        watched
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// Has a Sentinel make the replica the primary.
    pub fn fail_over(&self) {
        eventually("the failover begins", || {
            (self.sentinels[0].try_ask(&["SENTINEL", "FAILOVER", "main"])? == "+OK").then_some(())
        });
    }

    /// Waits until a server is the primary.
    pub fn await_primary(&self, server: &Redis) {
        eventually("it is the primary", || {
            server.try_ask(&["INFO", "replication"])?.contains("role:master").then_some(())
        });
    }
}

impl Redis {
    fn start_sentinel(primary: u16) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor main 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 5000\n"
        );
        std::fs::write(&file, text).unwrap();
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.arg(&file).args(["--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let redis = Redis { child, port, folder, flags: Vec::new() };
        redis.await_up();
        redis
    }
}

/// A node on the primary that Sentinels name.
pub fn watched_node(watched: &Watched, name: &str, config: &str) -> Server {
    Server::start_in(tempfile::tempdir().unwrap(), config, &["--backplane", &watched.url(), "--node", name])
}
