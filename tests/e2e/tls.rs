//! TLS with the real binary: curl, OpenSSL and rustls as clients, certificates that change, and those that cannot be used.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::server::{PATIENCE, Server, command, eventually};

/// A self-signed certificate for a name, as files.
pub struct Identity {
    pub chain: PathBuf,
    key: PathBuf,
    pub der: rustls::pki_types::CertificateDer<'static>,
}

fn identity(folder: &Path, file: &str, name: &str, years: std::ops::Range<i32>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.into()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
    let certificate = params.self_signed(&key).unwrap();
    let (chain, private) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
    std::fs::write(&private, key.serialize_pem()).unwrap();
    std::fs::write(&chain, certificate.pem()).unwrap();
    Identity { chain, key: private, der: certificate.der().clone() }
}

const YEARS: std::ops::Range<i32> = 2020..2090;

pub struct Secured {
    pub server: Server,
    pub address: SocketAddr,
    pub own: Identity,
}

impl Secured {
    pub fn start(more: &str) -> Secured {
        Secured::start_in(tempfile::tempdir().unwrap(), more)
    }

    /// Starts a server in a folder that may have files already.
    pub fn start_in(folder: tempfile::TempDir, more: &str) -> Secured {
        let own = identity(folder.path(), "own", "localhost", YEARS);
        let config = format!(
            "[server]\nlisten_tls = [\"127.0.0.1:0\"]\n[tls]\nchain = {:?}\nkey = {:?}\n{}",
            own.chain,
            own.key,
            more.replace("FOLDER", folder.path().to_str().unwrap())
        );
        Secured::serve(folder, &config, own)
    }

    fn serve(folder: tempfile::TempDir, config: &str, own: Identity) -> Secured {
        let server = Server::start_in(folder, config, &[]);
        let address = server.log.lock().unwrap().iter().find_map(|line| {
            (line["message"] == "listening" && line["tls"] == true).then(|| line["address"].as_str().unwrap().parse())
        });
        Secured { server, address: address.unwrap().unwrap(), own }
    }

    /// Stops the server and starts it again, with the same state.
    pub fn restart(self) -> Secured {
        let Secured { server, own, .. } = self;
        let folder = server.stop();
        let config = std::fs::read_to_string(folder.path().join("ringcast.toml")).unwrap();
        Secured::serve(folder, &config, own)
    }

    /// A connection of a rustls client that trusts one certificate.
    fn connect(&self, trusted: &Identity, name: &str) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.der.clone()).unwrap();
        let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let mut client = ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(client, stream))
    }

    pub fn curl(&self, arguments: &[&str], path: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(&self.own.chain).args(arguments);
        let output = curl.arg(format!("https://localhost:{}{path}", self.address.port())).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

/// Reads until a text has come; returns everything.
pub fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 4096];
    while !all.contains(text) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection ended before {text:?}: {all}");
        all.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    all
}

fn open_stream(stream: &mut StreamOwned<ClientConnection, TcpStream>) {
    stream.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(stream, "ringcast.hello");
}

#[test]
fn open_connections_go_on_in_a_successor() {
    let mut secured = Secured::start("");
    let mut stream = secured.connect(&secured.own, "localhost").unwrap();
    open_stream(&mut stream);
    for round in 0..3 {
        secured.server.take_over(&[]);
        secured.server.publish("a", &format!("after {round}"));
        read_until(&mut stream, &format!("after {round}"));
        assert!(secured.curl(&[], "/poll?channel=a&wait=0").contains("\"next\""), "new clients come");
    }
    // The client's keys go on, too.
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    secured.server.await_figure("tls_connections", 0);
    assert_eq!(secured.server.figure("tls_errors"), 0);
}

#[test]
fn curl_gets_events_in_both_versions() {
    let secured = Secured::start("");
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        let id = secured.server.publish("a", "first");
        secured.server.publish("a", "second");
        let path = format!("/poll?channel=a&last_event_id={id}");
        let answer = secured.curl(version, &path);
        assert!(answer.contains("second") && !answer.contains("first"), "{answer}");
    }
    secured.server.await_figure("tls_handshakes", 2);
    secured.server.await_figure("tls_connections", 0);
}

#[test]
fn a_request_without_tls_is_told_to_use_it() {
    let secured = Secured::start("");
    let mut stream = TcpStream::connect(secured.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("use https://"), "{answer}");
}

/// OpenSSL's own client, whose commands are lines on its input.
struct OpenSsl {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl OpenSsl {
    fn connect(secured: &Secured, version: &str) -> OpenSsl {
        let mut client = Command::new("openssl");
        client.args(["s_client", version, "-connect", &secured.address.to_string(), "-CAfile"]).arg(&secured.own.chain);
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut output in outputs {
            let said = said.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            });
        }
        let client = OpenSsl { child, said };
        client.await_text("Verify return code", 1);
        client
    }

    /// Waits until a text was said as often as this.
    fn await_text(&self, text: &str, count: usize) {
        let times = || self.said.lock().unwrap().matches(text).count();
        eventually(&format!("OpenSSL says {text} {count} times"), || (times() >= count).then_some(()));
    }

    fn write(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn openssl_changes_its_keys_and_cannot_renegotiate() {
    let secured = Secured::start("");
    let mut client = OpenSsl::connect(&secured, "-tls1_3");
    // `K` asks the server for new keys too, `k` does not.
    for (count, command) in [(1, "K\n"), (2, "k\n"), (3, "K\n")] {
        client.write(command);
        client.await_text("KEYUPDATE", count);
    }
    client.write("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client.await_text("HTTP/1.1 200 OK", 1);
    let mut client = OpenSsl::connect(&secured, "-tls1_2");
    client.write("R\n");
    client.await_text("RENEGOTIATING", 1);
    client.await_text("alert", 1);
    secured.server.await_figure("tls_errors", 1);
}

#[test]
fn certificates_are_chosen_by_name_and_strangers_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = identity(folder.path(), "other", "*.b.example", YEARS);
    let more = format!("strict_sni = true\ncertificates = [{{ chain = {:?}, key = {:?} }}]\n", other.chain, other.key);
    let secured = Secured::start(&more);
    secured.connect(&secured.own, "localhost").unwrap();
    secured.connect(&other, "x.b.example").unwrap();
    let error = secured.connect(&other, "y.x.b.example").unwrap_err().to_string();
    assert!(error.contains("alert"), "{error}");
    secured.server.await_at_least("tls_errors", 1);
}

#[test]
fn certificates_are_read_again_and_nobody_is_dropped() {
    let secured = Secured::start("");
    let folder = secured.server.folder.path();
    let mut before = secured.connect(&secured.own, "localhost").unwrap();
    open_stream(&mut before);
    let next = identity(folder, "next", "localhost", YEARS);
    std::fs::rename(&next.key, &secured.own.key).unwrap();
    std::fs::rename(&next.chain, &secured.own.chain).unwrap();
    eventually("the new certificate is used", || secured.connect(&next, "localhost").ok());
    // A key that does not fit is not used; the log and the figures say so.
    let stray = identity(folder, "stray", "localhost", YEARS);
    std::fs::rename(&stray.key, &secured.own.key).unwrap();
    eventually("the failure is told", || {
        let log = secured.server.log.lock().unwrap();
        log.iter()
            .any(|line| line["error"].as_str().is_some_and(|e| e.contains("is not that of the certificate in")))
            .then_some(())
    });
    let mut after = secured.connect(&next, "localhost").unwrap();
    open_stream(&mut after);
    secured.server.publish("a", "for all");
    read_until(&mut before, "for all");
    read_until(&mut after, "for all");
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = identity(folder.path(), "good", "localhost", YEARS);
    let stray = identity(folder.path(), "stray", "localhost", YEARS);
    let old = identity(folder.path(), "old", "localhost", 2000..2001);
    let early = identity(folder.path(), "early", "localhost", 2080..2090);
    let text = folder.path().join("text");
    std::fs::write(&text, "no certificate").unwrap();
    let none = folder.path().join("none");
    for (chain, key, named, sentence) in [
        (&good.chain, &stray.key, &stray.key, "is not that of the certificate in"),
        (&old.chain, &old.key, &old.chain, "has expired on"),
        (&early.chain, &early.key, &early.chain, "is valid only from"),
        (&text, &good.key, &text, "holds no certificate in PEM"),
        (&good.chain, &text, &text, "holds no private key in PEM"),
        (&none, &good.key, &none, "cannot read"),
    ] {
        let file = folder.path().join("x.toml");
        let tls = format!("[server]\nlisten_tls = [\"127.0.0.1:0\"]\n[tls]\nchain = {chain:?}\nkey = {key:?}\n");
        std::fs::write(&file, &tls).unwrap();
        let serve = command()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--feed"])
            .arg(folder.path().join("f.sock"))
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let check = command().args(["config", "check"]).arg(&file).output().unwrap();
        for output in [serve, check] {
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!output.status.success(), "{said}");
            assert!(said.contains(sentence) && said.contains(named.to_str().unwrap()), "{said}");
        }
    }
}

#[test]
fn subscribe_speaks_tls_over_every_transport() {
    let secured = Secured::start("");
    let id = secured.server.publish("a", "first");
    secured.server.publish("a", "second");
    for (scheme, transport) in [("https", "sse"), ("wss", "ws"), ("https", "poll")] {
        let url = format!("{scheme}://localhost:{}", secured.address.port());
        let output = command()
            .args(["subscribe", &url, "--channel", "a", "--since", &id, "--count", "1", "--transport", transport])
            .args(["--format", "data", "--timeout", "20", "--ca"])
            .arg(&secured.own.chain)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "second\n", "{transport} {output:?}");
    }
    let url = format!("https://127.0.0.1:{}", secured.address.port());
    let mut subscribe = command();
    subscribe.args(["subscribe", &url, "--channel", "a", "--no-reconnect", "--ca"]);
    let output = subscribe.arg(&secured.own.chain).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("certificate"), "{output:?}");
}

#[test]
fn the_demo_makes_a_certificate_of_its_own() {
    let server = Server::start_with("", &["--demo", "--tls", "127.0.0.1:0"]);
    let told = eventually("the demo has an address", || {
        let log = server.log.lock().unwrap();
        log.iter().find_map(|line| line["message"].as_str()?.strip_prefix("the demo is at https://").map(str::to_owned))
    });
    let url = format!("https://{told}");
    let output = Command::new("curl").args(["-sSk", "--max-time", "20", &url]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("ringcast demo"), "{output:?}");
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let own = identity(folder.path(), "own", "localhost", YEARS);
    let socket = folder.path().join("tls.sock");
    let config = format!(
        "[server]\nlisten_tls = [\"unix:{}\"]\nproxy_protocol = true\ntrusted_proxies = [\"unix:\"]\n[tls]\nchain = {:?}\nkey = {:?}\n",
        socket.display(),
        own.chain,
        own.key,
    );
    let server = Server::start_in(folder, &config, &[]);
    let mut roots = RootCertStore::empty();
    roots.add(own.der.clone()).unwrap();
    let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The header and the first bytes of the handshake come in one piece, as a proxy sends them.
    let mut first = b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 443\r\n".to_vec();
    client.write_tls(&mut first).unwrap();
    stream.write_all(&first).unwrap();
    while client.is_handshaking() {
        client.complete_io(&mut stream).unwrap();
    }
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(&mut stream, "ringcast.hello");
    eventually("the log has the client's address", || {
        let log = server.log.lock().unwrap();
        log.iter().any(|line| line["message"] == "connected" && line["address"] == "203.0.113.9:4242").then_some(())
    });
}

#[test]
fn a_server_that_stops_says_goodbye() {
    let secured = Secured::start("");
    let mut stream = secured.connect(&secured.own, "localhost").unwrap();
    open_stream(&mut stream);
    secured.server.signal(libc::SIGTERM);
    let mut rest = String::new();
    // An end without `close_notify` would be an error here.
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("ringcast.bye"), "{rest}");
}
