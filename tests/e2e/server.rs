//! Starting and stopping the binary.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringcast::feed::client::{FeedClient, FeedError};
use serde_json::{Value, json};

/// The time that a step may take before its test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub feed_path: PathBuf,
    pub folder: tempfile::TempDir,
    pub log: Arc<Mutex<Vec<Value>>>,
}

/// Calls `look` until it returns a value; fails with the text `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "this did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

thread_local! {
    /// The descriptors of the servers that this thread starts; 0 for as many as the test itself has.
    pub static DESCRIPTORS: Cell<u64> = const { Cell::new(0) };
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    let descriptors = DESCRIPTORS.get();
    if descriptors > 0 {
        let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
        let set = move || {
            // SAFETY: reads a valid limit.
            match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(set) };
    }
    for name in ["RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR", "RINGCAST_FEED", "RINGCAST_CONFIG"] {
        command.env_remove(name);
    }
    command
}

/// Starts a server in a folder, with the configuration that lies there, and waits until it is ready. Returns the process, its log,
/// and the addresses for clients and for admins.
fn spawn(
    folder: &std::path::Path,
    flags: &[&str],
    environment: &[(&str, &std::path::Path)],
) -> (Child, Arc<Mutex<Vec<Value>>>, [SocketAddr; 2]) {
    let mut command = serve(folder, flags);
    command.envs(environment.iter().copied());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "message": line }));
            writer.lock().unwrap().push(value);
        }
    });
    let find = |message: &str| -> Option<Value> {
        log.lock().unwrap().iter().find(|line| line["message"] == message).cloned()
    };
    eventually("the server is ready", || {
        if let Some(status) = child.try_wait().unwrap() {
            std::thread::sleep(Duration::from_millis(50));
            panic!("the server ended with {status}: {:?}", log.lock().unwrap());
        }
        find("ready")
    });
    let address = |message: &str| find(message).unwrap()["address"].as_str().unwrap().parse().unwrap();
    let addresses = [address("listening"), address("admin listening")];
    (child, log, addresses)
}

/// The command of a server in a folder, with the configuration that lies there.
pub fn serve(folder: &std::path::Path, flags: &[&str]) -> Command {
    let mut command = command();
    command.arg("serve").arg("--config").arg(folder.join("ringcast.toml")).arg("--feed").arg(folder.join("feed.sock"));
    command.args(["--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    if !flags.contains(&"--shards") {
        command.args(["--shards", "1"]);
    }
    if let (Ok(redis), false) = (std::env::var("RINGCAST_TEST_REDIS"), flags.contains(&"--backplane")) {
        command.args(["--backplane", &format!("{redis}/{}", database(folder))]);
    }
    command.args(flags).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The number of the database of a Redis in which the server of a folder has its log, so that suites can run with a log of a cluster
/// too: `RINGCAST_TEST_REDIS=redis://127.0.0.1:PORT`, with as many databases as servers are started.
fn database(folder: &std::path::Path) -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let file = folder.join("database");
    if let Ok(text) = std::fs::read_to_string(&file) {
        return text.parse().unwrap();
    }
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::fs::write(file, number.to_string()).unwrap();
    number
}

impl Server {
    /// A server with one shard and this configuration.
    pub fn start(config: &str) -> Server {
        Server::start_with(config, &[])
    }

    pub fn start_with(config: &str, flags: &[&str]) -> Server {
        Server::start_in(tempfile::tempdir().unwrap(), config, flags)
    }

    /// A server on the state of an earlier one.
    pub fn start_in(folder: tempfile::TempDir, config: &str, flags: &[&str]) -> Server {
        Server::start_with_environment(folder, config, flags, &[])
    }

    pub fn start_with_environment(
        folder: tempfile::TempDir,
        config: &str,
        flags: &[&str],
        environment: &[(&str, &std::path::Path)],
    ) -> Server {
        std::fs::write(folder.path().join("ringcast.toml"), config).unwrap();
        let (child, log, [address, admin]) = spawn(folder.path(), flags, environment);
        let feed_path = folder.path().join("feed.sock");
        Server { child, address, admin, feed_path, folder, log }
    }

    /// Starts a successor with these flags, which takes everything over; the process before it ends in order.
    pub fn take_over(&mut self, flags: &[&str]) {
        let (child, log, [address, admin]) = spawn(self.folder.path(), &[flags, &["--take-over"]].concat(), &[]);
        let mut before = std::mem::replace(&mut self.child, child);
        let status = eventually("the predecessor has ended", || before.try_wait().unwrap());
        assert!(status.success(), "{status}: {:?}", self.log.lock().unwrap());
        assert_eq!((address, admin), (self.address, self.admin));
        self.log = log;
    }

    pub fn feed(&self) -> FeedClient {
        FeedClient::connect(&self.feed_path).unwrap()
    }

    /// Publishes a text and returns its id.
    pub fn publish(&self, channel: &str, data: &str) -> String {
        publish(&mut self.feed(), channel, data)
    }

    pub fn stats(&self) -> Value {
        self.feed().call(json!({ "op": "stats" })).unwrap()["stats"].clone()
    }

    /// A figure, summed over the shards.
    pub fn figure(&self, name: &str) -> u64 {
        let stats = self.stats();
        let pointer = format!("/{}", name.replace('.', "/"));
        stats["shards"].as_array().unwrap().iter().map(|shard| shard.pointer(&pointer).unwrap().as_u64().unwrap()).sum()
    }

    /// Waits until the figures include every event that clients have seen. A shard publishes its figures after each
    /// slice of work, which is shortly after clients get the events, and at least once a second.
    pub fn await_fresh_figures(&self) {
        let turns = || -> Vec<Value> {
            self.stats()["shards"].as_array().unwrap().iter().map(|shard| shard["turns"].clone()).collect()
        };
        let before = turns();
        eventually("every shard has had a turn", || {
            turns().iter().zip(&before).all(|(now, before)| now != before).then_some(())
        });
    }

    pub fn await_figure(&self, name: &str, expected: u64) {
        eventually(&format!("{name} is {expected}"), || (self.figure(name) == expected).then_some(()));
    }

    pub fn await_at_least(&self, name: &str, expected: u64) {
        eventually(&format!("{name} is {expected} or more"), || (self.figure(name) >= expected).then_some(()));
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0);
    }

    pub fn await_exit(&mut self) -> ExitStatus {
        eventually("the server has ended", || self.child.try_wait().unwrap())
    }

    /// Stops the server in order and returns the folder of its state.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.signal(libc::SIGTERM);
        assert!(self.await_exit().success());
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// Kills the server and returns the folder of its state.
    pub fn crash(mut self) -> tempfile::TempDir {
        self.signal(libc::SIGKILL);
        self.await_exit();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn publish(feed: &mut FeedClient, channel: &str, data: &str) -> String {
    let answer = feed.call(json!({ "op": "publish", "channel": channel, "data": data })).unwrap();
    answer["id"].as_str().unwrap().to_string()
}

pub fn code(error: FeedError) -> String {
    match error {
        FeedError::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}
