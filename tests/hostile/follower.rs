//! A client that follows channels over any transport, resumes after a cut, and reports errors as values: under attack a
//! cut is a result to be judged, where the clients of the end-to-end tests panic.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tungstenite::{Message, WebSocket};

/// What a client has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event, by its channel and its data.
    Event { id: String, channel: String, data: String },
    /// Events are lost.
    Gap,
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Sse,
    WebSocket,
    Poll,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Sse, Transport::WebSocket, Transport::Poll];
}

enum Connection {
    /// The connection, and the text that is no whole block yet: a proxy cuts chunks anew.
    Stream(Bytes, String),
    Socket(Box<WebSocket<TcpStream>>),
    Polls(Bytes),
}

/// A client that follows channels.
pub struct Follower {
    front: SocketAddr,
    source: [u8; 4],
    transport: Transport,
    channels: String,
    patience: Duration,
    /// The position from which the next connection resumes; empty before the first event or answer.
    pub position: String,
    connection: Option<Connection>,
}

impl Follower {
    /// A client that is not connected yet. A read that takes longer than `patience` is an error.
    pub fn new(
        front: SocketAddr,
        source: [u8; 4],
        transport: Transport,
        channels: String,
        patience: Duration,
    ) -> Follower {
        Follower { front, source, transport, channels, patience, position: String::new(), connection: None }
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Ends the connection, by a reset if `is_reset`.
    pub fn leave(&mut self, is_reset: bool) {
        if let Some(connection) = self.connection.take() {
            let stream = match &connection {
                Connection::Stream(bytes, _) | Connection::Polls(bytes) => &bytes.stream,
                Connection::Socket(socket) => socket.get_ref(),
            };
            if is_reset {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Connects and subscribes: the server has answered when this returns.
    pub fn connect(&mut self) -> io::Result<()> {
        self.connection = None;
        let stream = connect_from(self.source, self.front)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let since = match self.position.is_empty() {
            true => String::new(),
            false => format!("&last_event_id={}", self.position),
        };
        let connection = match self.transport {
            Transport::Sse => {
                let mut bytes = Bytes { stream, waiting: Vec::new() };
                bytes.ask(&format!("/sse?channel={}&envelope=1{since}", self.channels))?;
                let head = bytes.head()?;
                if !head.starts_with("http/1.1 200") {
                    return Err(refusal(&head));
                }
                Connection::Stream(bytes, String::new())
            }
            Transport::WebSocket => {
                let target = format!("ws://{}/ws?channel={}{since}", self.front, self.channels);
                let (socket, _) = tungstenite::client(target, stream).map_err(Error::other)?;
                Connection::Socket(Box::new(socket))
            }
            Transport::Poll => {
                let mut bytes = Bytes { stream, waiting: Vec::new() };
                if self.position.is_empty() {
                    bytes.ask(&format!("/poll?channel={}&wait=0", self.channels))?;
                    let answer = bytes.answer()?;
                    self.position = answer["next"].as_str().unwrap_or_default().to_owned();
                }
                Connection::Polls(bytes)
            }
        };
        self.connection = Some(connection);
        Ok(())
    }

    /// Waits for more; an error means that the connection has ended.
    pub fn next(&mut self) -> io::Result<Vec<Told>> {
        let told = self.read();
        if told.is_err() {
            self.connection = None;
        }
        told
    }

    fn read(&mut self) -> io::Result<Vec<Told>> {
        let mut told = Vec::new();
        match self.connection.as_mut().ok_or_else(|| Error::other("not connected"))? {
            Connection::Stream(bytes, text) => {
                text.push_str(std::str::from_utf8(&bytes.chunk()?).map_err(Error::other)?);
                let whole = text.rfind("\n\n").map_or(0, |end| end + 2);
                let blocks: String = text.drain(..whole).collect();
                for block in blocks.split("\n\n") {
                    told.extend(self.block(block)?);
                }
            }
            Connection::Socket(socket) => {
                if let Message::Text(text) = socket.read().map_err(Error::other)? {
                    let message: Value = serde_json::from_str(&text).map_err(Error::other)?;
                    if message.get("gap").is_some() {
                        told.push(Told::Gap);
                    } else if let Some(bye) = message.get("bye") {
                        return Err(Error::other(format!("bye: {bye}")));
                    } else if message.get("id").is_some() && message.get("channel").is_some() {
                        told.push(self.event(text_of(&message, "id"), &message));
                    }
                }
            }
            Connection::Polls(bytes) => {
                let since = std::mem::take(&mut self.position);
                let target = format!("/poll?channel={}&after={since}&wait=5", self.channels);
                self.position = since;
                bytes.ask(&target)?;
                let answer = bytes.answer()?;
                if answer["gap"] == true {
                    told.push(Told::Gap);
                }
                for event in answer["events"].as_array().into_iter().flatten() {
                    told.push(self.event(text_of(event, "id"), event));
                }
                self.position = text_of(&answer, "next");
            }
        }
        Ok(told)
    }

    /// What a block of an event stream tells.
    fn block(&mut self, block: &str) -> io::Result<Option<Told>> {
        let field = |name: &str| {
            block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
        };
        let data = block.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join("\n");
        match field("event").as_str() {
            "ringcast.gap" => Ok(Some(Told::Gap)),
            "ringcast.bye" => Err(Error::other(format!("bye: {data}"))),
            name if name.starts_with("ringcast.") || data.is_empty() => Ok(None),
            _ => {
                let envelope: Value = serde_json::from_str(&data).map_err(Error::other)?;
                Ok(Some(self.event(field("id"), &envelope)))
            }
        }
    }

    fn event(&mut self, id: String, members: &Value) -> Told {
        self.position.clone_from(&id);
        Told::Event { id, channel: text_of(members, "channel"), data: text_of(members, "data") }
    }
}

fn text_of(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn refusal(head: &str) -> Error {
    Error::other(format!("refused: {}", head.lines().next().unwrap_or_default()))
}

/// Connects from an address of the loopback network.
pub fn connect_from(source: [u8; 4], address: SocketAddr) -> io::Result<TcpStream> {
    connect_with(source, address, None)
}

/// Connects from an address of the loopback network, with room for so many bytes that have not been read.
pub fn connect_with(source: [u8; 4], address: SocketAddr, receive: Option<usize>) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// An HTTP connection.
struct Bytes {
    stream: TcpStream,
    waiting: Vec<u8>,
}

impl Bytes {
    fn ask(&mut self, target: &str) -> io::Result<()> {
        self.stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.waiting.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.waiting.len() < length {
            self.fill()?;
        }
        let rest = self.waiting.split_off(length);
        Ok(std::mem::replace(&mut self.waiting, rest))
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.waiting.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len());
            }
            self.fill()?;
        }
    }

    /// The head of an answer, in small letters.
    fn head(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.until(b"\r\n\r\n")?).to_ascii_lowercase())
    }

    /// One chunk; the last one is an error.
    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let size = self.until(b"\r\n")?;
        let size = std::str::from_utf8(&size).map_err(Error::other)?.trim_end();
        let size = usize::from_str_radix(size, 16).map_err(Error::other)?;
        if size == 0 {
            return Err(Error::other("the stream was ended"));
        }
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        Ok(chunk)
    }

    /// The JSON of an answer with status 200, in either framing.
    fn answer(&mut self) -> io::Result<Value> {
        let head = self.head()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = match length {
            Some(length) => self.take(length.trim().parse().map_err(Error::other)?)?,
            None => {
                let mut body = Vec::new();
                while let Ok(chunk) = self.chunk() {
                    body.extend(chunk);
                }
                self.take(2)?;
                body
            }
        };
        if !head.starts_with("http/1.1 200") {
            return Err(refusal(&head));
        }
        serde_json::from_slice(&body).map_err(Error::other)
    }
}

/// The token of the admin listener: where clients need tokens, the listener shows contents only to a request that carries it.
pub const ADMIN_TOKEN: &str = "hostile";

/// The body of a resource of the admin listener, within five seconds.
pub fn admin(address: SocketAddr, path: &str) -> io::Result<String> {
    ask(address, path, &format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"))
}

/// The body of an answer with status 200, within five seconds.
pub fn ask(address: SocketAddr, target: &str, fields: &str) -> io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    match head.starts_with("HTTP/1.1 200") {
        true => Ok(body.to_owned()),
        false => Err(refusal(head)),
    }
}
