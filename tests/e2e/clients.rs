//! Plain clients that share no code with the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use super::server::PATIENCE;

/// The fields of a request for a WebSocket.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An HTTP connection.
pub struct Http {
    pub stream: TcpStream,
    pub waiting: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Http {
    pub fn connect(address: SocketAddr) -> Http {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http { stream, waiting: Vec::new() }
    }

    /// Connects from another address of the loopback network.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> Http {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http { stream, waiting: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, "")
    }

    pub fn request(&mut self, method: &str, target: &str, fields: &str) -> Answer {
        self.send(&format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        self.answer(method == "HEAD")
    }

    /// Reads more bytes; `false` at the end of the connection.
    pub fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(length) => {
                self.waiting.extend_from_slice(&buffer[..length]);
                length > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came in time: {error}"),
        }
    }

    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.waiting.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.waiting.split_off(end + 4);
                return String::from_utf8(std::mem::replace(&mut self.waiting, rest)).unwrap();
            }
            assert!(self.fill(), "the connection ended within a head: {:?}", String::from_utf8_lossy(&self.waiting));
        }
    }

    pub fn answer(&mut self, is_head: bool) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
        if !is_head {
            while self.waiting.len() < length {
                assert!(self.fill(), "the connection ended within a body");
            }
            let rest = self.waiting.split_off(length);
            answer.body = String::from_utf8(std::mem::replace(&mut self.waiting, rest)).unwrap();
        }
        answer
    }

    /// Whether the server closes the connection after the body, which stays to be read.
    pub fn is_closed_after_body(&mut self) -> bool {
        let length = self.waiting.len();
        !self.fill() && self.waiting.len() == length
    }

    /// Whether the server has closed the connection and sent nothing more.
    pub fn is_closed(&mut self) -> bool {
        !self.fill() && self.waiting.is_empty()
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> Answer {
    Http::connect(address).get(target)
}

/// An event stream.
pub struct Stream {
    pub http: Http,
    pub head: String,
    /// The first event, which says where the stream begins.
    pub hello: StreamEvent,
    body: String,
    pub is_over: bool,
    /// The id of the last event that had one.
    pub last_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEvent {
    pub id: String,
    pub name: String,
    pub data: String,
    pub retry: String,
}

impl Stream {
    pub fn open(address: SocketAddr, target: &str) -> Stream {
        Stream::open_with(address, target, "")
    }

    pub fn open_with(address: SocketAddr, target: &str, fields: &str) -> Stream {
        Stream::over(Http::connect(address), target, fields)
    }

    /// Opens a stream over an existing connection.
    pub fn over(mut http: Http, target: &str, fields: &str) -> Stream {
        http.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        Stream::of(http)
    }

    /// Opens a stream of the admin listener, which begins without a hello.
    pub fn open_admin(address: SocketAddr, target: &str) -> Stream {
        let mut http = Http::connect(address);
        http.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        Stream::without_hello(http)
    }

    fn without_hello(mut http: Http) -> Stream {
        let head = http.head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let hello = StreamEvent::default();
        Stream { http, head, hello, body: String::new(), is_over: false, last_id: String::new() }
    }

    /// Reads the head of the stream that was requested on a connection.
    pub fn of(http: Http) -> Stream {
        let mut stream = Stream::without_hello(http);
        stream.hello = stream.next().unwrap();
        assert_eq!(stream.hello.name, "ringcast.hello");
        assert!(!stream.hello.retry.is_empty() && !stream.hello.id.is_empty());
        stream
    }

    /// The next event without comment lines; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(end) = self.body.find("\n\n") {
                let text: String = self.body.drain(..end + 2).collect();
                let mut event = StreamEvent::default();
                let mut is_event = false;
                for line in text.lines().filter(|line| !line.starts_with(':') && !line.is_empty()) {
                    is_event = true;
                    let (field, value) = line.split_once(": ").unwrap();
                    match field {
                        "id" => {
                            event.id = value.into();
                            self.last_id = value.into();
                        }
                        "event" => event.name = value.into(),
                        "retry" => event.retry = value.into(),
                        "data" if event.data.is_empty() => event.data = value.into(),
                        "data" => event.data = format!("{}\n{value}", event.data),
                        other => panic!("an unknown field: {other}"),
                    }
                }
                if is_event {
                    return Some(event);
                }
                continue;
            }
            if self.is_over || !self.read_chunk() {
                return None;
            }
        }
    }

    /// Reads one chunk; `false` if the connection ended without the last one.
    fn read_chunk(&mut self) -> bool {
        loop {
            if let Some(end) = self.http.waiting.windows(2).position(|two| two == b"\r\n") {
                let size = std::str::from_utf8(&self.http.waiting[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let whole = end + 2 + size + 2;
                if self.http.waiting.len() >= whole {
                    assert_eq!(&self.http.waiting[whole - 2..whole], b"\r\n", "a chunk ends with a line break");
                    let rest = self.http.waiting.split_off(whole);
                    let chunk = std::mem::replace(&mut self.http.waiting, rest);
                    self.body.push_str(std::str::from_utf8(&chunk[end + 2..end + 2 + size]).unwrap());
                    self.is_over = size == 0;
                    return true;
                }
            }
            if !self.http.fill() {
                return false;
            }
        }
    }
}

/// A WebSocket.
pub struct Socket {
    pub socket: WebSocket<TcpStream>,
    /// What the server has said first, once it is read.
    pub hello: Value,
}

impl Socket {
    pub fn open(address: SocketAddr, target: &str) -> Socket {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}{target}"), stream).unwrap();
        Socket { socket, hello: Value::Null }
    }

    /// The next message after the server's first words, which are kept.
    pub fn next(&mut self) -> Message {
        match self.socket.read().unwrap() {
            Message::Text(text) if text.starts_with("{\"hello\":") => {
                assert_eq!(self.hello, Value::Null, "the first words come once");
                self.hello = serde_json::from_str::<Value>(&text).unwrap()["hello"].take();
                self.next()
            }
            message => message,
        }
    }

    /// Reads up to the server's first words, and returns them.
    pub fn hello(&mut self) -> Value {
        while self.hello == Value::Null {
            match self.socket.read().unwrap() {
                Message::Text(text) => {
                    let mut message: Value = serde_json::from_str(&text).unwrap();
                    assert!(message["hello"].is_object(), "{message} comes before the first words");
                    self.hello = message["hello"].take();
                }
                Message::Ping(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
        self.hello.clone()
    }

    pub fn json(&mut self) -> Value {
        loop {
            match self.next() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    pub fn say(&mut self, text: &str) {
        self.socket.send(Message::Text(text.into())).unwrap();
    }

    /// The code of the close frame, which must be the next message.
    pub fn close_code(&mut self) -> u16 {
        match self.next() {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("no close: {other:?}"),
        }
    }
}
