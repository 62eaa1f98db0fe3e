use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use super::server::{PATIENCE, command};

struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    /// Waits for a line among those after the last line that was waited for.
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

/// Starts the server with inherited sockets, as a service manager does.
fn start_with_sockets(sockets: &[(&str, i32)], config: &str, folder: &std::path::Path) -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let file = folder.join("ringcast.toml");
    std::fs::write(&file, config).unwrap();
    let descriptors: Vec<i32> = sockets.iter().map(|(_, fd)| *fd).collect();
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let binary = command().get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    // LISTEN_PID must be the process's own number after exec.
    shell.arg("-c").arg("export LISTEN_PID=$$; exec \"$0\" \"$@\"").arg(binary);
    shell.args(["serve", "--shards", "2", "--no-pin", "--log-format", "json", "--config"]).arg(file);
    shell.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    shell.env("STATE_DIRECTORY", folder).env("RUNTIME_DIRECTORY", folder);
    // SAFETY: between fork and exec only two system calls are made, on numbers that the closure owns.
    unsafe {
        shell.pre_exec(move || {
            for (index, fd) in descriptors.iter().enumerate() {
                // The descriptors are first copied to high numbers, so that none is overwritten before it is copied.
                if libc::dup2(*fd, 200 + index as i32) < 0 || libc::dup2(200 + index as i32, 3 + index as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    shell.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn sockets_of_the_service_manager_outlive_the_server() {
    use super::clients::{Http, Stream, get};
    use super::server::eventually;
    use ringcast::feed::client::FeedClient;
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let clients = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let feed_path = folder.path().join("elsewhere.sock");
    let feed = std::os::unix::net::UnixListener::bind(&feed_path).unwrap();
    let address = clients.local_addr().unwrap();
    let sockets = [("clients", clients.as_raw_fd()), ("feed", feed.as_raw_fd())];
    for round in 0..2 {
        // Clients of the second server connect before it starts, and wait.
        let early = std::thread::spawn(move || get(address, "/healthz").status);
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!("[admin]\nlisten = \"{admin}\"");
        let mut child = start_with_sockets(&sockets, &config, folder.path());
        assert_eq!(early.join().unwrap(), 200);
        let mut stream = Stream::open(address, "/sse?channel=a");
        let mut feed = FeedClient::connect(&feed_path).unwrap();
        feed.call(serde_json::json!({ "op": "publish", "channel": "a", "data": round })).unwrap();
        assert_eq!(stream.next().unwrap().data, round.to_string());
        assert!(!folder.path().join("feed.sock").exists(), "the feed is the one that was handed over");
        // The socket unit says which users may publish, so the admin API without a token may change nothing.
        let mut http =
            eventually("it listens", || std::net::TcpStream::connect(admin).is_ok().then(|| Http::connect(admin)));
        http.send("POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(http.answer(false).json()["error"]["code"], "no_token");
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        assert_eq!(stream.next().unwrap().name, "ringcast.bye");
        assert!(child.wait().unwrap().success());
        assert!(feed_path.exists(), "what the service manager has made is not the server's to remove");
    }
}

#[test]
fn a_connection_goes_to_the_shard_of_its_core() {
    use super::clients::Stream;
    let server = super::server::Server::start_with("[server]\nsteer = true", &["--shards", "2", "--pin"]);
    let cores: Vec<usize> = ringcast::sys::affinity::usable_cores();
    assert!(cores.len() >= 2, "this takes two cores");
    let address = server.address;
    for (shard, core) in cores.into_iter().take(2).enumerate() {
        // On the loopback network a packet arrives on the core from which it was sent.
        let open = move || -> Vec<Stream> {
            assert!(ringcast::sys::affinity::pin_to(core));
            (0..20).map(|_| Stream::open(address, "/sse?channel=a")).collect()
        };
        let streams = std::thread::spawn(open).join().unwrap();
        super::server::eventually("they are counted", || (server.figure("connections_sse") == 20).then_some(()));
        assert_eq!(server.stats()["shards"][shard]["connections_sse"], 20, "core {core}");
        drop(streams);
        server.await_figure("connections_sse", 0);
    }
}

#[test]
fn inherited_sockets_are_checked_like_own_ones() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let pair = std::os::unix::net::UnixStream::pair().unwrap();
    for (name, fd, says) in
        [("clients", open.as_raw_fd(), "allow_anonymous"), ("x", pair.0.as_raw_fd(), "no listening")]
    {
        let mut child = start_with_sockets(&[(name, fd)], "", folder.path());
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains(says), "{said}");
    }
}

/// Starts the server with a limit of descriptors.
fn start_with_descriptors(limit: u32, admin: &str, folder: &std::path::Path) -> std::process::Child {
    let script = format!(
        "ulimit -n {limit}; exec {} serve --shards 1 --admin {admin} --listen 127.0.0.1:0 --feed {}",
        env!("CARGO_BIN_EXE_ringcast"),
        folder.join("feed.sock").display()
    );
    let mut shell = std::process::Command::new("bash");
    shell.arg("-c").arg(script).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn too_few_descriptors_to_serve_anybody_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for limit in [60, 130, 190] {
        let mut child = start_with_descriptors(limit, "off", folder.path());
        let status = super::server::eventually("the start is refused", || child.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("the limit of open files is {limit}")), "{said}");
    }
}

#[test]
fn publishers_that_take_all_descriptors_leave_some_for_the_admin_listener() {
    use super::clients::get;
    use super::server::eventually;
    let folder = tempfile::tempdir().unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child = start_with_descriptors(300, &admin.to_string(), folder.path());
    let mut log = child.stderr.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    eventually("it is ready", || {
        let is_open = std::net::TcpStream::connect(admin).is_ok();
        (is_open && get(admin, "/readyz").status == 200).then_some(())
    });
    let connect = |_| std::os::unix::net::UnixStream::connect(folder.path().join("feed.sock")).ok();
    let publishers: Vec<_> = (0..400).map(connect).collect();
    for path in ["/healthz", "/metrics", "/v1/stats"] {
        for _ in 0..20 {
            assert_eq!(get(admin, path).status, 200, "{path}");
        }
    }
    drop(publishers);
    child.kill().unwrap();
    child.wait().unwrap();
}
