//! NATS servers of a test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::{Broker, free_port};
use crate::server::eventually;

/// A NATS server on a free port, with JetStream.
pub struct Nats {
    child: Child,
    pub port: u16,
    folder: tempfile::TempDir,
}

fn spawn(folder: &Path, port: u16) -> Child {
    let mut command = Command::new("nats-server");
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--config"]).arg(folder.join("nats.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("nats-server is needed: apt-get install nats-server")
}

impl Nats {
    /// A server with more lines in its configuration.
    pub fn start_with(lines: &str) -> Nats {
        let nats = Nats::start_without_waiting(free_port(), lines);
        nats.await_up();
        nats
    }

    /// A server that asks who comes, so that a test cannot ask it.
    pub fn start_locked(lines: &str) -> Nats {
        let nats = Nats::start_without_waiting(free_port(), lines);
        eventually("nats-server listens", || TcpStream::connect(("127.0.0.1", nats.port)).ok());
        nats
    }

    fn start_without_waiting(port: u16, lines: &str) -> Nats {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let text = format!("jetstream {{ store_dir: {store:?} }}\n{lines}\n");
        std::fs::write(folder.path().join("nats.conf"), text).unwrap();
        Nats { child: spawn(folder.path(), port), port, folder }
    }

    pub fn await_up(&self) {
        eventually("nats-server answers", || {
            let answer = self.try_ask("$JS.API.INFO", "", "")?;
            answer["error"].is_null().then_some(())
        });
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0);
    }

    pub fn crash(&mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = spawn(self.folder.path(), self.port);
        self.await_up();
    }

    /// The folder of the log.
    pub fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    /// Sends a request with headers, which are lines, and returns the answer.
    pub fn try_ask(&self, subject: &str, headers: &str, payload: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let message = match headers {
            "" => format!("PUB {subject} answers {}\r\n{payload}\r\n", payload.len()),
            _ => {
                let head = format!("NATS/1.0\r\n{headers}\r\n\r\n");
                let all = head.len() + payload.len();
                format!("HPUB {subject} answers {} {all}\r\n{head}{payload}\r\n", head.len())
            }
        };
        let hello = "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB answers 1\r\n";
        stream.write_all(format!("{hello}{message}").as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix("MSG ") {
                let mut answer = vec![0; rest.trim_end().rsplit(' ').next()?.parse().ok()?];
                reader.read_exact(&mut answer).ok()?;
                return serde_json::from_slice(&answer).ok();
            }
        }
    }

    /// Sends a request to JetStream, which must succeed.
    pub fn ask(&self, subject: &str, payload: &Value) -> Value {
        let answer = self.try_ask(&format!("$JS.API.{subject}"), "", &payload.to_string()).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer
    }

    pub fn stream(&self) -> Value {
        self.ask(&format!("STREAM.INFO.{STREAM}"), &json!({}))
    }

    pub fn delete(&self) {
        self.ask(&format!("STREAM.DELETE.{STREAM}"), &json!({}));
    }

    /// Publishes a message with headers; returns the id of its first entry.
    pub fn publish(&self, subject: &str, headers: &str, payload: &str) -> String {
        let answer = self.try_ask(subject, headers, payload).unwrap();
        let sequence = answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        let stream = self.stream();
        let description = stream["config"]["description"].as_str().unwrap();
        let base: u64 = description.strip_prefix("ringcast base=").unwrap().parse().unwrap();
        id_of((base << 20) + (sequence << 14))
    }
}

/// The text of an id by its number.
pub fn id_of(number: u64) -> String {
    format!("{}-{}", number >> 20, number & 0xf_ffff)
}

/// The number of an id.
pub fn number_of(id: &str) -> u64 {
    let (ms, n) = id.split_once('-').unwrap();
    (ms.parse::<u64>().unwrap() << 20) + n.parse::<u64>().unwrap()
}

/// The stream of the log.
pub const STREAM: &str = "RC_main";

impl Broker for Nats {
    fn start() -> Nats {
        Nats::start_with("")
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn add(&self, channel: &str, data: &str) -> String {
        self.publish(&format!("rc.main.e.{channel}"), "", data)
    }

    fn trim(&self) {
        self.ask(&format!("STREAM.PURGE.{STREAM}"), &json!({}));
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three servers that keep the log together.
pub struct Three {
    pub servers: Vec<Nats>,
}

impl Three {
    pub fn start() -> Three {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let start = |at: usize| {
            let cluster = format!(
                "server_name: s{at}\ncluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [{}] }}",
                ports[at],
                routes.join(", ")
            );
            Nats::start_without_waiting(free_port(), &cluster)
        };
        let servers: Vec<Nats> = (0..3).map(start).collect();
        let three = Three { servers };
        three.servers.iter().for_each(Nats::await_up);
        three
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("nats://{}", hosts.join(","))
    }

    /// The server that leads the stream.
    pub fn leader(&self) -> usize {
        eventually("the stream has a leader", || {
            let answers = |server: &Nats| server.try_ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), "", "{}");
            let info = self.servers.iter().find_map(answers)?;
            info["cluster"]["leader"].as_str()?.strip_prefix('s')?.parse().ok()
        })
    }
}
