use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use super::server::{PATIENCE, command};

struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    /// Waits until a line has been told, counted from the last one that was waited for.
    fn hears(&mut self, line: &str) -> String {
        loop {
            if let Some(index) = self.told.iter().position(|told| told.starts_with(line)) {
                return self.told.drain(..=index).next_back().unwrap();
            }
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line}: {error}"));
            self.told.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
    }
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_alive_and_going() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut manager = Manager { socket, told: Vec::new() };
    let mut server = command();
    server.args(["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--shards", "2", "--no-pin", "--feed"]);
    server.arg(folder.path().join("feed.sock")).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "4000000");
    let mut child = server.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    manager.hears("READY=1");
    assert_eq!(manager.hears("STATUS="), "STATUS=0 connections on 2 shards, 0 channels");
    for _ in 0..2 {
        manager.hears("WATCHDOG=1");
    }
    // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    manager.hears("STOPPING=1");
    assert!(child.wait().unwrap().success());
}
