//! The model of delivery over TLS, and single cases of it: the far ends are clients of rustls.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, RwLock};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::super::account::Buffers;
use super::super::connection::Flags;
use super::super::tls::tests::records;
use super::*;
use crate::logic::tls::{TlsSettings, prepare};

/// The client's side of a connection.
#[derive(Debug)]
pub(super) struct Secured(ClientConnection);

impl Secured {
    pub(super) fn new(config: &Arc<ClientConfig>) -> Secured {
        Secured(ClientConnection::new(config.clone(), ServerName::try_from("a.example").unwrap()).unwrap())
    }

    /// Sends plaintext, as soon as hands are shaken.
    pub(super) fn send(&mut self, stream: &UnixStream, bytes: &[u8]) {
        self.0.writer().write_all(bytes).unwrap();
        self.flush(stream);
    }

    fn flush(&mut self, mut stream: &UnixStream) {
        while self.0.wants_write() && self.0.write_tls(&mut stream).is_ok() {}
    }

    /// Opens received bytes, and answers what must be answered.
    pub(super) fn receive(&mut self, stream: &UnixStream, bytes: &[u8], plain: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.0.read_tls(&mut rest).unwrap();
            self.0.process_new_packets().unwrap();
            let _ = self.0.reader().read_to_end(plain);
        }
        self.flush(stream);
    }
}

/// A certificate and its key, made once.
fn certificate() -> &'static (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static MADE: OnceLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        (cert.der().clone(), PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap())
    })
}

fn settings(versions_of_http: &[&[u8]]) -> TlsSettings {
    let (certificate, key) = certificate();
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap();
    config.alpn_protocols = versions_of_http.iter().map(|name| name.to_vec()).collect();
    prepare(config)
}

fn client(is_13: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().0.clone()).unwrap();
    let versions = if is_13 { &TLS13 } else { &TLS12 };
    let config = ClientConfig::builder_with_protocol_versions(&[versions]);
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// The model with clients that speak TLS, whose keys are used up soon.
pub(super) fn over_tls(mut model: Model, is_13: bool) -> Model {
    model.shard.tls = Some(Arc::new(RwLock::new(settings(&[]))));
    model.shard.slots.tls.records_max = Some(200);
    model.tls = Some(client(is_13));
    model
}

/// The model with clients that agree on HTTP/2 in the handshake.
pub(super) fn over_tls_and_http_2(model: Model, is_13: bool) -> Model {
    let mut model = over_tls(model, is_13);
    model.shard.tls = Some(Arc::new(RwLock::new(settings(&[b"h2", b"http/1.1"]))));
    let mut config = (*client(is_13)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    model.tls = Some(Arc::new(config));
    model
}

#[test]
fn the_model_of_delivery_holds_over_tls() {
    let before = records();
    assert_eq!(run_all(100, false, |seed| over_tls(Model::new(seed), seed % 4 != 0)).len(), 9);
    let sealed = records() - before;
    println!("{sealed} records, and no nonce twice");
    assert!(sealed > 10_000, "{sealed} records");
}

#[test]
fn the_model_of_delivery_holds_over_tls_with_a_kernel_that_has_faults() {
    assert_eq!(run_all(100, false, |seed| over_tls(Model::with_faults(seed), seed % 4 != 0)).len(), 16);
}

#[test]
fn the_model_of_delivery_holds_over_tls_with_little_memory() {
    assert_eq!(run_all(100, true, |seed| over_tls(Model::with_little_memory(seed), seed % 4 != 0)).len(), 17);
}

/// A client that has shaken hands and asked for something; its plaintext is in the last place.
fn shaken(model: &mut Model, head: &str) -> (u32, UnixStream, Secured, Vec<u8>) {
    let (slot, stream) = model.come(None);
    let mut secured = Secured::new(model.tls.as_ref().unwrap());
    let mut plain = Vec::new();
    secured.send(&stream, head.as_bytes());
    exchange(model, &stream, &mut secured, &mut plain);
    (slot, stream, secured, plain)
}

/// Has the shard turn and the client read until nothing more comes; returns whether the connection has ended.
fn exchange(model: &mut Model, stream: &UnixStream, secured: &mut Secured, plain: &mut Vec<u8>) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    for _ in 0..60 {
        model.turn();
        match (&*stream).read(&mut buffer) {
            Ok(0) => return true,
            Ok(length) => secured.receive(stream, &buffer[..length], plain),
            Err(_) => {}
        }
    }
    false
}

const STREAM: &str = "GET /sse?channel=d:1 HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_request_without_tls_is_told_to_use_it() {
    let mut model = over_tls(Model::new(1), true);
    let (slot, stream) = model.ask("GET / HTTP/1.1\r\nHost: x\r\n");
    let answer = take(&stream, 4096);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("this port speaks TLS"), "{answer}");
    assert_eq!(model.shard.slots[slot].state, State::Lingering);
}

#[test]
fn a_handshake_that_never_ends_is_over_after_a_while() {
    let mut model = over_tls(Model::new(2), true);
    let (slot, stream) = model.come(None);
    (&stream).write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    model.turns(5);
    assert_eq!((model.shard.slots[slot].state, model.shard.slots.tls.greetings()), (State::Greeting, 1));
    model.shard.deadlines.pass(Duration::from_secs(11));
    model.shard.note_tick();
    model.turns(5);
    assert_eq!(model.shard.slots.tls.greetings(), 0);
    assert_eq!(model.shard.cx.counters.closed[Reason::HandshakeTimeout as usize], 1);
}

#[test]
fn bytes_that_are_no_handshake_are_answered_with_an_alert() {
    let mut model = over_tls(Model::new(3), true);
    let (_, stream) = model.come(None);
    (&stream).write_all(&[22, 3, 1, 0, 5, 9, 9, 9, 9, 9]).unwrap();
    model.turns(5);
    let mut alert = [0; 7];
    (&stream).read_exact(&mut alert).unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2), "{alert:?}");
    assert_eq!(model.shard.cx.counters.closed[Reason::Tls as usize], 1);
    assert_eq!((model.shard.slots.tls.greetings(), model.shard.cx.counters.tls_errors), (0, 1));
}

#[test]
fn an_idle_stream_has_nothing_beside_its_secrets() {
    let mut model = over_tls(Model::new(4), true);
    let (slot, _stream, _secured, plain) = shaken(&mut model, STREAM);
    assert!(plain.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&plain));
    let Shard { slots, .. } = &model.shard;
    assert!(slots[slot].extra.is_none() && slots[slot].flags.intersects(Flags::SEALED));
    assert_eq!((slots.held(slot), slots.tls.secured()), (Buffers::default(), 1));
}

#[test]
fn a_client_that_asks_for_new_keys_gets_them() {
    let mut model = over_tls(Model::new(5), true);
    let (_, stream, mut secured, mut plain) = shaken(&mut model, STREAM);
    for round in 0..3 {
        secured.0.refresh_traffic_keys().unwrap();
        secured.flush(&stream);
        assert!(!exchange(&mut model, &stream, &mut secured, &mut plain));
        plain.clear();
        model.publish_on("d:1", &format!("round {round}"));
        exchange(&mut model, &stream, &mut secured, &mut plain);
        let text = String::from_utf8_lossy(&plain);
        assert!(text.contains(&format!("round {round}")), "{text}");
    }
}

#[test]
fn the_end_is_told_before_tcp_tells_it() {
    let mut model = over_tls(Model::new(6), true);
    let (_, stream, mut secured, mut plain) = shaken(&mut model, STREAM);
    model.say(r#"{"op":"kick","channel":"d:1"}"#);
    assert!(exchange(&mut model, &stream, &mut secured, &mut plain));
    assert!(secured.0.process_new_packets().unwrap().peer_has_closed(), "close_notify has come");
    drop(stream);
    model.turns(10);
    assert_eq!((model.shard.slots.tls.secured(), model.shard.slots.used()), (0, 0));
}

#[test]
fn a_client_that_says_goodbye_has_gone() {
    let mut model = over_tls(Model::new(7), true);
    let (_, stream, mut secured, mut plain) = shaken(&mut model, STREAM);
    secured.0.send_close_notify();
    secured.flush(&stream);
    assert!(exchange(&mut model, &stream, &mut secured, &mut plain));
    assert_eq!(model.shard.cx.counters.closed[Reason::Client as usize], 1);
}

#[test]
fn a_damaged_record_ends_the_connection() {
    let mut model = over_tls(Model::new(8), true);
    let (_, stream, mut secured, mut plain) = shaken(&mut model, STREAM);
    (&stream).write_all(&[&[23, 3, 3, 0, 30][..], &[7; 30]].concat()).unwrap();
    let mut buffer = [0; 256];
    model.turns(5);
    let length = (&stream).read(&mut buffer).unwrap();
    let mut rest = &buffer[..length];
    secured.0.read_tls(&mut rest).unwrap();
    let error = secured.0.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)), "{error}");
    assert!(exchange(&mut model, &stream, &mut secured, &mut plain));
    assert_eq!(model.shard.cx.counters.closed[Reason::Tls as usize], 1);
}

#[test]
fn a_record_that_is_never_finished_ends_the_connection() {
    let mut model = over_tls(Model::new(9), true);
    let (slot, stream, _secured, _) = shaken(&mut model, STREAM);
    (&stream).write_all(&[23, 3, 3, 0x40, 0, 1, 2, 3]).unwrap();
    model.turns(5);
    assert_eq!(model.shard.slots.held(slot).input, 8);
    model.shard.deadlines.pass(Duration::from_secs(11));
    model.shard.note_tick();
    model.turns(5);
    assert_eq!(model.shard.cx.counters.closed[Reason::HandshakeTimeout as usize], 1);
}
