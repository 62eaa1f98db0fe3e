//! The handshake, made by rustls: bytes in, bytes out, and [`Keys`] at the end. This is the only file that knows how rustls
//! is driven.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ConnectionTrafficSecrets, KeyLog, ServerConfig};
use zeroize::Zeroize;

use super::alert::Alert;
use super::keys::{Direction, Keys, SECRET};
use super::suite::Suite;

/// The most bytes of a client's unfinished handshake that are held: its messages may be longer than a record, because they
/// may have certificates.
const INPUT_MAX: usize = 64 * 1024;

/// Why a handshake has failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client's messages cannot be accepted, or there is no common ground.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The client has sent too many bytes.
    #[error("the handshake is too long")]
    TooLong,
    /// The client has closed the connection within the handshake.
    #[error("the client has closed the connection")]
    Closed,
    /// The keys that were agreed on cannot be used.
    #[error("the handshake ended in keys that cannot be used")]
    Keys,
}

/// Whether a handshake goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes of the client are needed.
    Waits,
    /// Both sides have agreed; [`Handshake::finish`] gives the keys.
    Done,
}

/// What handshakes are made with: the server's certificates and rules.
#[derive(Clone, Debug)]
pub struct TlsSettings(Arc<ServerConfig>);

/// Prepares a configuration of rustls for handshakes whose secrets are taken out at the end.
pub fn prepare(mut config: ServerConfig) -> TlsSettings {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Catcher);
    TlsSettings(Arc::new(config))
}

/// The traffic secrets of TLS 1.3, which rustls gives to its key log alone.
struct Caught {
    client: [u8; SECRET],
    server: [u8; SECRET],
    client_length: usize,
    server_length: usize,
}

impl Default for Caught {
    fn default() -> Caught {
        Caught { client: [0; SECRET], server: [0; SECRET], client_length: 0, server_length: 0 }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
    }
}

thread_local! {
    /// The secrets of the handshake that this thread works on: rustls calls the log while it is called itself.
    static CAUGHT: RefCell<Caught> = RefCell::default();
}

/// Takes the traffic secrets that rustls would log. Nothing is written anywhere.
#[derive(Debug)]
struct Catcher;

const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for Catcher {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| {
            let (to, length) = match label {
                CLIENT_SECRET => (&mut caught.client, &mut caught.client_length),
                SERVER_SECRET => (&mut caught.server, &mut caught.server_length),
                _ => return,
            };
            if let Some(to) = to.get_mut(..secret.len()) {
                to.copy_from_slice(secret);
                *length = secret.len();
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT_SECRET || label == SERVER_SECRET
    }
}

/// A handshake that is under way.
pub struct Handshake {
    connection: UnbufferedServerConnection,
    /// The client's bytes that rustls has not taken.
    input: Vec<u8>,
    /// Application data that came with the last message of the handshake.
    plain: Vec<u8>,
    caught: Caught,
    /// The client was sent something, so that alerts are no longer plain bytes.
    has_answered: bool,
}

/// The outcome of a handshake.
pub struct Greeted {
    /// The secrets.
    pub keys: Keys,
    /// Application data that has come already.
    pub plain: Vec<u8>,
    /// The beginning of a record that has come already.
    pub partial: Vec<u8>,
    /// Both sides have agreed to speak HTTP/2 (ALPN).
    pub is_http_2: bool,
    /// The client's certificate, if it has shown one that is accepted.
    pub certificate: Option<Vec<u8>>,
}

impl Handshake {
    /// A handshake with a client that has sent nothing yet.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn new(settings: &TlsSettings) -> Result<Handshake, HandshakeError> {
        let connection = UnbufferedServerConnection::new(settings.0.clone())?;
        Ok(Handshake {
            connection,
            input: Vec::new(),
            plain: Vec::new(),
            caught: Caught::default(),
            has_answered: false,
        })
    }

    /// Takes bytes of the client, which [`Handshake::advance`] works off.
    ///
    /// # Errors
    /// If there are too many.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        if self.input.len() + bytes.len() > INPUT_MAX {
            return Err(HandshakeError::TooLong);
        }
        self.input.reserve_exact(bytes.len());
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    /// Goes on as far as the client's bytes reach, and appends what the client must be sent to `out`: also after an error,
    /// an alert then.
    ///
    /// # Errors
    /// If the handshake has failed.
    pub fn advance(&mut self, out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let start = out.len();
        let result = self.go_on(out);
        if result.is_err() {
            self.write_alert(out);
            // Of bytes that are no messages at all rustls tells its caller alone.
            if out.len() == start && !self.has_answered {
                out.extend_from_slice(&Alert::DecodeError.in_clear());
            }
        }
        self.has_answered |= out.len() > start;
        let caught = CAUGHT.take();
        if caught.client_length > 0 {
            (self.caught.client, self.caught.client_length) = (caught.client, caught.client_length);
        }
        if caught.server_length > 0 {
            (self.caught.server, self.caught.server_length) = (caught.server, caught.server_length);
        }
        result
    }

    fn go_on(&mut self, out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut self.input);
            let mut progress = None;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |to| data.encode(to))?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => progress = Some(Ok(Progress::Waits)),
                Ok(ConnectionState::WriteTraffic(_)) => progress = Some(Ok(Progress::Done)),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                }
                Ok(_) => progress = Some(Err(HandshakeError::Closed)),
                Err(error) => progress = Some(Err(error.into())),
            }
            self.input.drain(..discard.min(self.input.len()));
            if let Some(progress) = progress {
                return progress;
            }
        }
    }

    /// Appends the alert that rustls has for the client after an error, if it has one.
    fn write_alert(&mut self, out: &mut Vec<u8>) {
        // While there is something to write, rustls does not look at the client's bytes, which it cannot take any more.
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(&mut self.input).state
            else {
                return;
            };
            if encode(out, |to| data.encode(to)).is_err() {
                return;
            }
        }
    }

    /// The bytes of memory that the client's bytes take.
    pub fn memory_bytes(&self) -> usize {
        self.input.capacity() + self.plain.capacity()
    }

    /// Takes the secrets out of a handshake that is done.
    ///
    /// # Errors
    /// If there are none that can be used, because the client has changed its keys within the last message of the handshake,
    /// for instance.
    pub fn finish(self) -> Result<Greeted, HandshakeError> {
        let Handshake { connection, input, plain, caught, .. } = self;
        let certificate = connection.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        let is_http_2 = connection.alpn_protocol() == Some(b"h2");
        let suite = connection.negotiated_cipher_suite().and_then(|suite| known(suite.suite()));
        let suite = suite.ok_or(HandshakeError::Keys)?;
        let (secrets, _) = connection.dangerous_into_kernel_connection()?;
        let (send, receive) = (secrets.tx, secrets.rx);
        let send = direction(suite, send, &caught.server[..caught.server_length])?;
        let receive = direction(suite, receive, &caught.client[..caught.client_length])?;
        // Most often nothing is left, and then there is to be no memory either.
        let partial = input.into_boxed_slice().into_vec();
        Ok(Greeted { keys: Keys::new(suite, send, receive), plain, partial, is_http_2, certificate })
    }
}

/// Appends what rustls encodes to `out`.
fn encode(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), HandshakeError> {
    let start = out.len();
    let mut room = 0;
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(length) => {
                out.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => room = needed.required_size,
            Err(_) => {
                out.truncate(start);
                return Err(HandshakeError::Keys);
            }
        }
    }
}

/// The suite of this name.
fn known(suite: CipherSuite) -> Option<Suite> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Suite::Tls13Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Suite::Tls13Aes256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Suite::Tls13ChaCha20,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => {
            Suite::Tls12Aes128
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => {
            Suite::Tls12Aes256
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Suite::Tls12ChaCha20,
        _ => return None,
    })
}

/// A direction by what rustls gives of it, and by its traffic secret in TLS 1.3. The keys that are derived from the secret
/// must be those of rustls: they are others if the keys were changed already.
fn direction(
    suite: Suite,
    (sequence, secrets): (u64, ConnectionTrafficSecrets),
    secret: &[u8],
) -> Result<Direction, HandshakeError> {
    let (key, iv) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => return Err(HandshakeError::Keys),
    };
    if !suite.is_13() {
        return Direction::of_key(suite, key, iv, sequence).map_err(|_| HandshakeError::Keys);
    }
    let direction = Direction::of_secret(suite, secret, sequence).map_err(|_| HandshakeError::Keys)?;
    let is_same = direction.key[..suite.key_bytes()] == *key && direction.iv == *iv;
    if is_same { Ok(direction) } else { Err(HandshakeError::Keys) }
}
