//! A connection to the server: opening it, sending a request, and reading the answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::logic::protocol::http::{ResponseHead, ResponseHeadReader};

use super::secured::{self, Secured};

/// The parsed URL of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Url {
    /// `http://` or `ws://`, or with TLS `https://` or `wss://`.
    Tcp {
        /// The server speaks TLS.
        is_tls: bool,
        /// Host and port.
        authority: String,
        /// The path without the slash at its end; empty if there is none.
        path: String,
        /// The query as it was written; empty if there is none.
        query: String,
    },
    /// `unix:` and the path of a socket.
    Unix(PathBuf),
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Url::Unix(path.into()));
        }
        let after = |schemes: [&str; 2]| schemes.into_iter().find_map(|scheme| text.strip_prefix(scheme));
        let plain = after(["http://", "ws://"]).map(|rest| (rest, false));
        let (rest, is_tls) =
            plain.or_else(|| after(["https://", "wss://"]).map(|rest| (rest, true))).ok_or_else(|| {
                format!("{text:?} is not the URL of a server; write http://HOST:PORT, https://HOST:PORT or unix:PATH")
            })?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit(']').next().unwrap_or_default().contains(':');
        let port = if has_port {
            ""
        } else if is_tls {
            ":443"
        } else {
            ":80"
        };
        let path = path.trim_end_matches('/').to_string();
        Ok(Url::Tcp { is_tls, authority: format!("{authority}{port}"), path, query: query.to_string() })
    }
}

impl Url {
    /// The path to ask for: the URL's own, or the transport's.
    pub(super) fn path<'a>(&'a self, transport: &'a str) -> &'a str {
        match self {
            Url::Tcp { path, .. } if !path.is_empty() => path,
            _ => transport,
        }
    }

    /// The URL's own query.
    pub(super) fn query(&self) -> &str {
        match self {
            Url::Tcp { query, .. } => query,
            Url::Unix(_) => "",
        }
    }

    /// Whether the server speaks TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Url::Tcp { is_tls: true, .. })
    }

    fn authority(&self) -> &str {
        match self {
            Url::Tcp { authority, .. } => authority,
            Url::Unix(_) => "localhost",
        }
    }
}

/// A connection, and the bytes that were read but not used yet.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    waiting: Vec<u8>,
    /// The header line with the client's token, which goes with each request; empty without a token.
    authorization: String,
}

trait Stream: Read + Write {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }
}

impl Stream for Secured {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.sock.set_read_timeout(timeout)
    }
}

/// The time left until `until`; an error if there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    let too_late = || io::Error::new(io::ErrorKind::TimedOut, "the server has sent nothing for too long");
    Some(left).filter(|left| !left.is_zero()).ok_or_else(too_late)
}

fn connect_tcp(authority: &str, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{authority} has no address"));
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Connection {
    /// Connects; a token goes with each request. `trust` says which servers are trusted that speak TLS.
    pub(super) fn open(
        url: &Url,
        token: Option<&str>,
        trust: Option<&Arc<ClientConfig>>,
        until: Instant,
    ) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match url {
            Url::Tcp { is_tls, authority, .. } => {
                let stream = connect_tcp(authority, until)?;
                match trust.filter(|_| *is_tls) {
                    Some(trust) => Box::new(secured::connect(trust, authority, stream, left(until)?)?),
                    None => Box::new(stream),
                }
            }
            Url::Unix(path) => Box::new(UnixStream::connect(path)?),
        };
        let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        Ok(Connection { stream, waiting: Vec::new(), authorization })
    }

    /// Sends bytes to the server.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next bytes; an error if the connection has ended, or if nothing comes in time.
    pub(super) fn read(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        if !self.waiting.is_empty() {
            return Ok(std::mem::take(&mut self.waiting));
        }
        let mut buffer = vec![0; 64 * 1024];
        let length = loop {
            self.stream.set_timeout(Some(left(until)?))?;
            match self.stream.read(&mut buffer) {
                Ok(length) => break length,
                // The clock decides when it is too late: see `left`.
                Err(error) if is_to_be_tried_again(error.kind()) => {}
                Err(error) => return Err(error),
            }
        };
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the connection"));
        }
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Sends a GET and reads the head of the answer.
    pub(super) fn get(&mut self, url: &Url, target: &str, fields: &str, until: Instant) -> io::Result<ResponseHead> {
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ringcast/{version}\r\n{}{fields}\r\n",
            url.authority(),
            self.authorization
        );
        self.write(request.as_bytes())?;
        let mut head = ResponseHeadReader::default();
        loop {
            let mut bytes = self.read(until)?;
            if let Some((head, length)) = head.push(&bytes).map_err(io::Error::other)? {
                self.waiting = bytes.split_off(length);
                return Ok(head);
            }
        }
    }

    /// Reads a body of known length.
    pub(super) fn body(&mut self, length: usize, until: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while body.len() < length {
            body.extend(self.read(until)?);
        }
        self.waiting = body.split_off(length);
        Ok(body)
    }
}

fn is_to_be_tried_again(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let tcp = |text: &str| match text.parse().unwrap() {
            Url::Tcp { authority, path, query, .. } => (authority, path, query),
            Url::Unix(_) => panic!(),
        };
        assert_eq!(tcp("http://h"), ("h:80".into(), "".into(), "".into()));
        assert_eq!(tcp("http://h:8080/"), ("h:8080".into(), "".into(), "".into()));
        assert_eq!(tcp("ws://[::1]:1/events"), ("[::1]:1".into(), "/events".into(), "".into()));
        assert_eq!(tcp("http://[::1]"), ("[::1]:80".into(), "".into(), "".into()));
        assert_eq!(tcp("http://h/sse/?channel=a/b#c"), ("h:80".into(), "/sse".into(), "channel=a/b".into()));
        assert_eq!(tcp("http://h?channel=a"), ("h:80".into(), "".into(), "channel=a".into()));
        assert_eq!(tcp("https://h"), ("h:443".into(), "".into(), "".into()));
        assert_eq!(tcp("wss://h:8443/ws"), ("h:8443".into(), "/ws".into(), "".into()));
        assert!("wss://h".parse::<Url>().unwrap().is_tls() && !"ws://h".parse::<Url>().unwrap().is_tls());
        assert!("ftp://h".parse::<Url>().is_err());
    }
}
