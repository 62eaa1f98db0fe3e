//! TLS clients that the server knows: by their certificates, and by tickets that outlive a restart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, SerialNumber};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use serde_json::json;

use crate::server::PATIENCE;
use crate::tls::{Secured, read_until};

/// An authority that signs clients' certificates.
struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// A new authority, whose certificate is written to a file.
    fn new(path: &Path) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        std::fs::write(path, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority(Issuer::new(params, key))
    }

    /// A client's certificate and key.
    fn issue(&self, user: &str, serial: u8) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::Rfc822Name(user.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

type Client = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;

/// A client's settings, which remember tickets.
fn settings(secured: &Secured, client: Client) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(secured.own.der.clone()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(match client {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// Sends a request and reads as far as a text; says how the handshake was made.
fn ask(
    address: std::net::SocketAddr,
    settings: &Arc<ClientConfig>,
    path: &str,
    until: &str,
) -> (String, HandshakeKind) {
    let client = ClientConnection::new(settings.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let answer = read_until(&mut stream, until);
    (answer, stream.conn.handshake_kind().unwrap())
}

fn start(auth: &str, more: &str) -> (Secured, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(&folder.path().join("clients.pem"));
    let tls = format!("client_ca = \"FOLDER/clients.pem\"\nclient_auth = \"{auth}\"\n{more}");
    (Secured::start_in(folder, &tls), authority)
}

#[test]
fn a_clients_certificate_names_its_user_and_allows_channels() {
    let (secured, authority) = start("optional", "client_channels = [\"user:{sub}\"]\n[namespace.open]\npublic = true");
    let ann = settings(&secured, Some(authority.issue("ann@example.org", 7)));
    let (answer, _) = ask(secured.address, &ann, "/poll?channel=user:ann@example.org&wait=0", "\"events\"");
    assert!(answer.contains("200 OK"), "{answer}");
    let (answer, _) = ask(secured.address, &ann, "/poll?channel=user:bob@example.org&wait=0", "}}");
    assert!(answer.contains("403 Forbidden"), "{answer}");
    // A client without a certificate has the public channels, over TLS and without it.
    let nobody = settings(&secured, None);
    let (answer, _) = ask(secured.address, &nobody, "/poll?channel=open:1&wait=0", "\"events\"");
    assert!(answer.contains("200 OK"), "{answer}");
    let (answer, _) = ask(secured.address, &nobody, "/poll?channel=user:x&wait=0", "}}");
    assert!(answer.contains("401 Unauthorized"), "{answer}");
    let plain = crate::clients::get(secured.server.address, "/poll?channel=user:x&wait=0");
    assert_eq!(plain.status, 401);
}

#[test]
fn a_client_with_a_certificate_is_kicked_by_its_user_and_its_certificate_is_revoked() {
    let (secured, authority) = start("required", "");
    let ann = settings(&secured, Some(authority.issue("ann@example.org", 0xab)));
    let client = ClientConnection::new(ann.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(secured.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(&mut stream, "ringcast.hello");
    let mut feed = secured.server.feed();
    assert_eq!(feed.call(json!({ "op": "kick", "user": "ann@example.org" })).unwrap()["kicked"], 1);
    read_until(&mut stream, "ringcast.bye");
    ask(secured.address, &ann, "/poll?channel=a&wait=0", "\"events\"");
    feed.call(json!({ "op": "kick", "jti": "cert:ab" })).unwrap();
    let (answer, _) = ask(secured.address, &ann, "/poll?channel=a&wait=0", "}}");
    assert!(answer.contains("401 Unauthorized") && answer.contains("revoked"), "{answer}");
}

#[test]
fn a_clients_certificate_goes_over_to_a_successor_with_its_connection() {
    let (mut secured, authority) = start("optional", "client_channels = [\"user:{sub}\"]");
    let ann = settings(&secured, Some(authority.issue("ann@example.org", 7)));
    let client = ClientConnection::new(ann, ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(secured.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    for round in 0..3 {
        if round > 0 {
            secured.server.take_over(&[]);
        }
        let request = "GET /poll?channel=user:ann@example.org&wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_until(&mut stream, "\"gap\":false}");
        assert!(answer.contains("200 OK"), "{round}: {answer}");
    }
}

#[test]
fn streams_of_http_2_have_the_identity_of_their_connections_certificate() {
    let (secured, authority) = start("optional", "client_channels = [\"user:{sub}\"]");
    let (certificate, key) = authority.issue("ann@example.org", 7);
    let folder = secured.server.folder.path();
    let [pem, private] = ["ann.der", "ann.key"].map(|name| folder.join(name));
    std::fs::write(&pem, &certificate).unwrap();
    std::fs::write(&private, key.secret_der()).unwrap();
    let [pem, private] = [&pem, &private].map(|path| path.to_str().unwrap());
    let flags = [
        "--http2",
        "--cert",
        pem,
        "--cert-type",
        "DER",
        "--key",
        private,
        "--key-type",
        "DER",
        "-w",
        " %{http_version} %{http_code}",
    ];
    let allowed = secured.curl(&flags, "/poll?channel=user:ann@example.org&wait=0");
    assert!(allowed.ends_with(" 2 200"), "{allowed}");
    let refused = secured.curl(&flags, "/poll?channel=user:bob@example.org&wait=0");
    assert!(refused.ends_with(" 2 403"), "{refused}");
}

#[test]
fn a_client_without_an_accepted_certificate_is_refused_in_the_handshake() {
    let (secured, _) = start("required", "");
    let folder = tempfile::tempdir().unwrap();
    let other = Authority::new(&folder.path().join("other.pem"));
    for client in [None, Some(other.issue("ann@example.org", 1))] {
        let settings = settings(&secured, client);
        let client = ClientConnection::new(settings, ServerName::try_from("localhost").unwrap()).unwrap();
        let stream = TcpStream::connect(secured.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(client, stream);
        // With TLS 1.3 the client learns of it with its first read.
        let result = stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .and_then(|()| stream.read(&mut [0; 100]).map(drop));
        assert!(result.is_err());
    }
    secured.server.await_figure("tls_errors", 2);
}

#[test]
fn tickets_outlive_a_restart_but_not_a_change_of_the_authorities() {
    let (secured, authority) = start("required", "");
    let ann = settings(&secured, Some(authority.issue("ann@example.org", 7)));
    let path = "/poll?channel=a&wait=0";
    let kind = |secured: &Secured| ask(secured.address, &ann, path, "\"events\"").1;
    assert_eq!(kind(&secured), HandshakeKind::Full);
    assert_eq!(kind(&secured), HandshakeKind::Resumed);
    let secured = secured.restart();
    assert_eq!(kind(&secured), HandshakeKind::Resumed);
    // The user is known by the ticket as by the certificate.
    let mut feed = secured.server.feed();
    assert_eq!(feed.call(json!({ "op": "kick", "user": "ann@example.org" })).unwrap()["kicked"], 0);
    Authority::new(&secured.server.folder.path().join("clients.pem"));
    secured.server.signal(libc::SIGHUP);
    crate::server::eventually("the authorities are read again", || {
        secured
            .server
            .log
            .lock()
            .unwrap()
            .iter()
            .find(|line| line["message"] == "the TLS certificates were read again")
            .cloned()
    });
    let client = ClientConnection::new(ann, ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(secured.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    let refused = stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .and_then(|()| stream.read(&mut [0; 100]).map(drop));
    assert!(refused.is_err(), "neither the ticket nor the certificate is accepted any more");
}

#[test]
fn handshakes_beyond_the_bound_wait_in_the_kernel() {
    let secured = Secured::start("handshakes_max = 2");
    let open = || TcpStream::connect(secured.address).unwrap();
    // The kernel hands a connection over with its first bytes.
    let begun: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = open();
            stream.write_all(&[22, 3, 1]).unwrap();
            stream
        })
        .collect();
    secured.server.await_figure("tls_handshakes_open", 2);
    let settings = settings(&secured, None);
    let (address, settings) = (secured.address, settings);
    let waiting = std::thread::spawn(move || ask(address, &settings, "/poll?channel=a&wait=0", "\"events\"").0);
    secured.server.await_fresh_figures();
    assert_eq!(secured.server.figure("tls_handshakes"), 0);
    drop(begun);
    assert!(waiting.join().unwrap().contains("200 OK"));
}
