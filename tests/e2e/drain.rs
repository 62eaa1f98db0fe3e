use super::clients::{Http, Socket, Stream, get};
use super::server::{Server, eventually};

#[test]
fn a_stopping_server_says_goodbye_to_every_client() {
    let mut server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    let mut poll = Http::connect(server.address);
    poll.send("GET /poll?channel=a&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut idle = Http::connect(server.address);
    idle.get("/healthz");
    server.await_figure("connections_poll", 1);
    assert_eq!(get(server.admin, "/readyz").status, 200);
    let id = server.publish("a", "last");
    server.signal(libc::SIGTERM);
    assert_eq!(stream.next().unwrap().id, id);
    let bye = stream.next().unwrap();
    assert_eq!(bye.name, "ringcast.bye");
    let retry: u64 = bye.retry.parse().unwrap();
    assert!((1500..=31_500).contains(&retry), "{retry}");
    assert!(stream.next().is_none() && stream.is_over, "the stream was ended, not cut");
    assert_eq!(socket.json()["id"], id);
    assert!(socket.json()["bye"].is_object());
    assert_eq!(socket.close_code(), 1001);
    assert_eq!(poll.answer(false).json()["events"][0]["id"], id);
    drop(socket);
    assert!(server.await_exit().success());
    assert!(!server.feed_path.exists(), "the server removes its socket's file");
}

#[test]
fn a_draining_server_takes_no_new_clients_and_is_not_ready() {
    let server = Server::start("[server]\ndrain_timeout = \"10s\"");
    // The client does not close, so that draining takes a while.
    let stream = Stream::open(server.address, "/sse?channel=a");
    server.signal(libc::SIGINT);
    eventually("the server is not ready", || (get(server.admin, "/readyz").status == 503).then_some(()));
    assert_eq!(get(server.admin, "/healthz").status, 200);
    eventually("the listener is closed", || std::net::TcpStream::connect(server.address).err());
    drop(stream);
}

#[test]
fn the_drain_timeout_ends_the_remaining_connections() {
    let mut server = Server::start("[server]\ndrain_timeout = \"300ms\"");
    let stream = Stream::open(server.address, "/sse?channel=a");
    server.signal(libc::SIGTERM);
    assert!(server.await_exit().success());
    drop(stream);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start("[server]\ndrain_timeout = \"1h\"");
    // The client's socket is full: it cannot be sent a close frame, and does not leave.
    let clients: Vec<Stream> = (0..3).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    server.signal(libc::SIGTERM);
    eventually("draining has begun", || {
        server
            .log
            .lock()
            .unwrap()
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("going away"))
            .then_some(())
    });
    server.signal(libc::SIGTERM);
    server.await_exit();
    drop(clients);
}

#[test]
fn many_clients_are_disconnected_in_time_with_different_retry_times() {
    let mut server = Server::start_with("[server]\ndrain_timeout = \"4s\"", &["--shards", "2", "--no-pin"]);
    let streams: Vec<Stream> = (0..600).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    server.signal(libc::SIGTERM);
    let mut retries: Vec<u64> = Vec::new();
    for mut stream in streams {
        retries.push(stream.next().unwrap().retry.parse().unwrap());
        assert!(stream.next().is_none() && stream.is_over);
    }
    assert!(server.await_exit().success());
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 300, "{} different times", retries.len());
}
