//! The record layer and the handshake against a client of rustls, in all suites.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::seal::{ALERT, DATA};
use super::*;

const SUITES_13: [Suite; 3] = [Suite::Tls13Aes128, Suite::Tls13Aes256, Suite::Tls13ChaCha20];

/// A client of rustls, and the keys of a server that has shaken hands with it.
struct Pair {
    client: ClientConnection,
    keys: Keys,
}

fn key_of(suite: &SupportedCipherSuite) -> KeyPair {
    match format!("{suite:?}").contains("RSA") {
        true => KeyPair::from_pem(include_str!("../../../tests/keys/rsa.pem")).unwrap(),
        false => KeyPair::from_pem(include_str!("../../../tests/keys/es256.pem")).unwrap(),
    }
}

fn configurations(suite: SupportedCipherSuite) -> (TlsSettings, Arc<ClientConfig>) {
    let provider = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
    let key = key_of(&suite);
    let certificate = CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (prepare(server), Arc::new(client))
}

/// Shakes hands; the client's bytes come in pieces of `piece` bytes, and `early` comes with its last message.
fn shaken(suite: SupportedCipherSuite, piece: usize, early: &[u8]) -> (Pair, Vec<u8>) {
    let (server, client) = configurations(suite);
    let mut client = ClientConnection::new(client, ServerName::try_from("a.example").unwrap()).unwrap();
    let mut handshake = Handshake::new(&server).unwrap();
    let mut has_written = false;
    for _ in 0..20 {
        if !client.is_handshaking() && !has_written {
            has_written = true;
            client.writer().write_all(early).unwrap();
        }
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut done = handshake.advance(&mut to_client).unwrap() == Progress::Done;
        for part in to_server.chunks(piece) {
            handshake.take(part).unwrap();
            done = handshake.advance(&mut to_client).unwrap() == Progress::Done;
        }
        received(&mut client, &to_client);
        if done && has_written {
            let greeted = handshake.finish().unwrap();
            let mut keys = greeted.keys;
            let mut plain = greeted.plain;
            let mut partial = greeted.partial;
            let opened = keys.open(&mut partial).unwrap();
            plain.extend_from_slice(&partial[..opened.plain]);
            assert_eq!(opened.consumed, partial.len());
            return (Pair { client, keys }, plain);
        }
    }
    panic!("no handshake");
}

/// Gives a client bytes; returns the plaintext in them.
fn received(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let _ = client.reader().read_to_end(&mut plain);
    }
    plain
}

fn sealed(keys: &mut Keys, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Sealer::new(keys).unwrap().seal(plain, &mut out).unwrap();
    assert_eq!(out.len(), keys.sealed_bytes(plain.len()));
    out
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number * 31 % 251) as u8).collect()
}

/// Opens bytes that come in pieces, as a connection does.
fn open_in_pieces(keys: &mut Keys, bytes: &[u8], piece: usize) -> Result<Vec<u8>, Fatal> {
    let (mut plain, mut kept) = (Vec::new(), Vec::new());
    for part in bytes.chunks(piece) {
        kept.extend_from_slice(part);
        let opened = keys.open(&mut kept)?;
        plain.extend_from_slice(&kept[..opened.plain]);
        kept.drain(..opened.consumed);
    }
    assert!(kept.is_empty());
    Ok(plain)
}

#[test]
fn a_client_of_rustls_understands_every_suite() {
    let mut overheads = HashMap::new();
    for suite in aws_lc_rs::ALL_CIPHER_SUITES {
        for (piece, early) in [(usize::MAX, &b"GET / HTTP/1.1\r\n"[..]), (7, b"x"), (1, b"")] {
            let (Pair { mut client, mut keys }, plain) = shaken(*suite, piece, early);
            assert_eq!(plain, early, "{suite:?}");
            overheads.insert(keys.suite(), keys.suite().overhead());
            let long = noise(40_000);
            for round in 0..3 {
                assert_eq!(received(&mut client, &sealed(&mut keys, &long)), long, "{suite:?}");
                client.writer().write_all(&long).unwrap();
                assert_eq!(open_in_pieces(&mut keys, &sent(&mut client), 1000).unwrap(), long, "{suite:?}");
                if !keys.suite().is_13() {
                    assert!(keys.update(&mut Vec::new()).is_err(), "TLS 1.2 has no key update");
                    continue;
                }
                let mut update = Vec::new();
                match round {
                    0 => {
                        keys.update(&mut update).unwrap();
                        assert_eq!(keys.sealed(), 0);
                    }
                    _ => {
                        client.refresh_traffic_keys().unwrap();
                        assert_eq!(open_in_pieces(&mut keys, &sent(&mut client), usize::MAX).unwrap(), b"");
                        assert!(keys.owes_update());
                        keys.update(&mut update).unwrap();
                    }
                }
                assert!(!keys.owes_update());
                assert_eq!(received(&mut client, &update), b"");
            }
            client.send_close_notify();
            open_in_pieces(&mut keys, &sent(&mut client), usize::MAX).unwrap();
            assert!(keys.is_closed());
            let mut end = Vec::new();
            keys.seal_alert(Alert::CloseNotify, &mut end).unwrap();
            client.read_tls(&mut &end[..]).unwrap();
            assert!(client.process_new_packets().unwrap().peer_has_closed(), "{suite:?}");
        }
    }
    assert_eq!(overheads.len(), 6);
    let of = |suite| overheads[&suite];
    assert_eq!((of(Suite::Tls13Aes128), of(Suite::Tls12Aes128), of(Suite::Tls12ChaCha20)), (22, 29, 21));
}

#[test]
fn records_that_were_taken_back_are_sealed_to_the_same_bytes() {
    for suite in aws_lc_rs::ALL_CIPHER_SUITES {
        let (Pair { mut client, mut keys }, _) = shaken(*suite, usize::MAX, b"");
        let plain = noise(10_000);
        let first = sealed(&mut keys, &plain);
        // The kernel took five bytes of the second record: that record is kept, and the third is taken back.
        let record = PLAIN_MAX + keys.suite().overhead();
        let (committed, end, untouched) = keys.divide(plain.len(), record + 5);
        assert_eq!((committed, end, untouched), (2 * PLAIN_MAX, 2 * record, 1));
        keys.rewind(untouched);
        let again = sealed(&mut keys, &plain[committed..]);
        assert_eq!([&first[..end], &again].concat(), first, "{suite:?}");
        assert_eq!(received(&mut client, &first), plain);
    }
}

#[test]
fn a_failed_handshake_ends_with_an_alert() {
    let suites = aws_lc_rs::ALL_CIPHER_SUITES;
    let (server, _) = configurations(suites[0]);
    let (_, other) = configurations(suites[3]);
    let mut client = ClientConnection::new(other, ServerName::try_from("a.example").unwrap()).unwrap();
    let mut handshake = Handshake::new(&server).unwrap();
    handshake.take(&sent(&mut client)).unwrap();
    let mut out = Vec::new();
    handshake.advance(&mut out).unwrap_err();
    assert_eq!((out[0], out[5]), (21, 2), "{out:?}");
    let mut handshake = Handshake::new(&server).unwrap();
    handshake.take(b"SSH-2.0-client\r\n").unwrap();
    out.clear();
    handshake.advance(&mut out).unwrap_err();
    assert_eq!(out[0], 21);
    let error = (0..100).find_map(|_| handshake.take(&[0; 1000]).err()).unwrap();
    assert!(matches!(error, HandshakeError::TooLong));
}

/// The keys of both sides of a connection, server first.
fn sides(suite: Suite) -> (Keys, Keys) {
    let (ours, theirs) = ([1; 48], [2; 48]);
    let length = if suite == Suite::Tls13Aes256 { 48 } else { 32 };
    let keys = |send: &[u8], receive: &[u8]| match suite.is_13() {
        true => Keys::of_secrets(suite, send, receive).unwrap(),
        false => {
            let key = suite.key_bytes();
            let of = |secret: &[u8]| keys::Direction::of_key(suite, &secret[..key], &secret[..12], 1).unwrap();
            Keys::new(suite, of(send), of(receive))
        }
    };
    (keys(&ours[..length], &theirs[..length]), keys(&theirs[..length], &ours[..length]))
}

const ALL: [Suite; 6] = [
    Suite::Tls13Aes128,
    Suite::Tls13Aes256,
    Suite::Tls13ChaCha20,
    Suite::Tls12Aes128,
    Suite::Tls12Aes256,
    Suite::Tls12ChaCha20,
];

/// What a server makes of records of these kinds and contents.
fn outcome(suite: Suite, records: &[(u8, &[u8])]) -> Result<Opened, Fatal> {
    let (mut server, mut client) = sides(suite);
    let mut bytes = Vec::new();
    for (kind, plain) in records {
        Sealer::new(&mut client).unwrap().record(*kind, plain, &mut bytes).unwrap();
    }
    server.open(&mut bytes)
}

#[test]
fn peers_that_break_the_protocol_are_told_so() {
    let unexpected = Err(Fatal::Ours(Alert::UnexpectedMessage));
    for suite in ALL {
        let is_13 = suite.is_13();
        assert_eq!(outcome(suite, &[(22, &[1, 0, 0, 0])]), unexpected, "a new handshake");
        assert_eq!(outcome(suite, &[(20, &[1])]), unexpected, "a change of the cipher");
        let key_update = outcome(suite, &[(22, &[24, 0, 0, 1, 2])]);
        assert_eq!(key_update, if is_13 { Err(Fatal::Ours(Alert::IllegalParameter)) } else { unexpected });
        assert_eq!(outcome(suite, &[(22, &[24, 0, 0, 1])]), unexpected, "a part of a key update");
        assert_eq!(outcome(suite, &[(22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0])]), unexpected, "two in a record");
        assert_eq!(outcome(suite, &[(ALERT, &[2])]), Err(Fatal::Ours(Alert::DecodeError)));
        assert_eq!(outcome(suite, &[(ALERT, &[2, 40])]), Err(Fatal::Theirs(40)));
        assert_eq!(outcome(suite, &[(ALERT, &[1, 40])]).is_ok(), !is_13, "a warning");
        assert_eq!(outcome(suite, &[(ALERT, &[1, 90][..]); 5]), unexpected);
        assert!(outcome(suite, &[(ALERT, &[1, 90][..]); 4]).is_ok());
        assert_eq!(outcome(suite, &[(DATA, &[][..]); 33]), unexpected);
        let empty = [(DATA, &[][..]); 32];
        assert!(outcome(suite, &[&empty[..], &[(DATA, b"x")], &empty].concat()).is_ok());
        let long = vec![0; 16_385];
        assert_eq!(outcome(suite, &[(DATA, &long)]), Err(Fatal::Ours(Alert::RecordOverflow)));
        assert!(outcome(suite, &[(DATA, &long[1..])]).is_ok());
    }
    for suite in SUITES_13 {
        assert_eq!(outcome(suite, &[(0, b"")]), unexpected, "nothing but padding");
        assert_eq!(outcome(suite, &[(0, b"x\x17\0\0")]), Ok(Opened { plain: 1, consumed: 26 }), "padding");
        let (mut server, mut client) = sides(suite);
        let mut open = |client: &mut Keys| {
            let mut bytes = Vec::new();
            client.update(&mut bytes).unwrap();
            server.open(&mut bytes)
        };
        (0..32).for_each(|_| assert!(open(&mut client).is_ok()));
        assert_eq!(open(&mut client), unexpected, "key updates alone");
    }
}

#[test]
fn damaged_records_end_the_connection() {
    for suite in ALL {
        let (_, mut client) = sides(suite);
        let record = sealed(&mut client, b"hello");
        for byte in 0..record.len() {
            let (mut server, _) = sides(suite);
            let mut damaged = record.clone();
            damaged[byte] ^= 0x10;
            let result = server.open(&mut damaged);
            // A header that promises more bytes waits for them; everything else is noticed.
            let waits = matches!(result, Ok(Opened { plain: 0, consumed: 0 })) && (byte == 3 || byte == 4);
            // The minor version stands for nothing in TLS 1.2, where other bytes are verified.
            let is_minor = byte == 2 && !suite.is_13();
            assert!(waits || is_minor || result.is_err(), "{suite:?} {byte} {result:?}");
        }
        let (mut server, _) = sides(suite);
        let mut twice = [&record[..], &record].concat();
        assert_eq!(server.open(&mut twice), Err(Fatal::Ours(Alert::BadRecordMac)), "a record that comes again");
        let (mut server, _) = sides(suite);
        assert_eq!(server.open(&mut [23, 3, 3, 0xff, 0xff]), Err(Fatal::Ours(Alert::RecordOverflow)));
        assert_eq!(server.open(&mut [23, 3, 3, 0, 3]), Err(Fatal::Ours(Alert::BadRecordMac)));
        assert_eq!(server.open(&mut [b'G']), Err(Fatal::Ours(Alert::UnexpectedMessage)));
        assert_eq!(server.open(&mut [23, 2]), Err(Fatal::Ours(Alert::DecodeError)));
    }
}

#[test]
fn nothing_counts_after_the_end() {
    for suite in ALL {
        let (mut server, mut client) = sides(suite);
        let mut bytes = sealed(&mut client, b"last words");
        client.seal_alert(Alert::CloseNotify, &mut bytes).unwrap();
        bytes.extend_from_slice(b"anything");
        let length = bytes.len();
        assert_eq!(server.open(&mut bytes), Ok(Opened { plain: 10, consumed: length }));
        assert!(server.is_closed() && &bytes[..10] == b"last words");
        assert_eq!(server.open(&mut [1, 2, 3]), Ok(Opened { plain: 0, consumed: 3 }));
    }
}

#[test]
fn a_key_is_worn_before_its_limit() {
    let (mut server, _) = sides(Suite::Tls13Aes128);
    assert!(!server.is_worn(8, 1 << 24) && server.is_worn(8, 8));
    sealed(&mut server, b"x");
    assert!(server.is_worn(7, 8) && !server.is_worn(6, 8));
    assert!(server.is_worn(1 << 24, u64::MAX), "the suite's own limit");
    assert!(!sides(Suite::Tls13ChaCha20).0.is_worn(1 << 40, u64::MAX));
}

#[test]
fn secrets_can_be_overwritten() {
    let (mut server, _) = sides(Suite::Tls13Aes256);
    assert_ne!(server.pair(0).0, [0; 32]);
    server.wipe();
    for direction in [&server.send, &server.receive] {
        assert!(direction.secret.iter().chain(&direction.key).chain(&direction.iv).all(|byte| *byte == 0));
    }
}

#[test]
fn keys_follow_each_other_as_the_standard_says() {
    // RFC 8448 §3: the server's application traffic secret, and the key and IV that follow from it.
    let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let direction = keys::Direction::of_secret(Suite::Tls13Aes128, &secret, 0).unwrap();
    assert_eq!(direction.key[..16], hex("9f02283b6c9c07efc26bb9f2ac92e356"));
    assert_eq!(direction.iv[..], hex("cf782b88dd83549aadf1e984"));
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A step of a connection.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Update,
    Alert,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..20_000).prop_map(Step::Send),
        1 => Just(Step::Update),
        1 => Just(Step::Alert),
    ];
    prop::collection::vec(step, 0..12)
}

proptest! {
    #[test]
    fn bytes_arrive_whatever_their_pieces(steps in steps(), piece in 1usize..9000, suite in 0usize..6) {
        let (mut server, mut client) = sides(ALL[suite]);
        let (mut bytes, mut plain, mut alerts) = (Vec::new(), Vec::new(), 0);
        for step in steps {
            match step {
                Step::Send(length) => {
                    plain.extend_from_slice(&noise(length));
                    bytes.extend_from_slice(&sealed(&mut client, &noise(length)));
                }
                Step::Update if ALL[suite].is_13() => client.update(&mut bytes).unwrap(),
                Step::Alert if alerts < 4 => {
                    alerts += 1;
                    Sealer::new(&mut client).unwrap().record(ALERT, &[1, 90], &mut bytes).unwrap();
                }
                _ => {}
            }
        }
        prop_assert_eq!(open_in_pieces(&mut server, &bytes, piece).unwrap(), plain);
    }

    #[test]
    fn a_sender_never_uses_a_nonce_for_two_plaintexts(
        suite in 0usize..6,
        sends in prop::collection::vec((1usize..17_000, 0usize..17_000), 1..20),
    ) {
        // The kernel takes any part of what is sealed; what it takes must be one stream that the peer can open.
        let (mut server, mut client) = sides(ALL[suite]);
        let (mut wire, mut rest, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        let source = noise(400_000);
        for (length, takes) in sends {
            let mut bytes = rest.clone();
            bytes.extend_from_slice(&sealed(&mut server, &source[at..at + length]));
            let taken = takes.min(bytes.len());
            wire.extend_from_slice(&bytes[..taken]);
            let sealed_taken = taken.saturating_sub(rest.len());
            let (committed, end, untouched) = server.divide(length, sealed_taken);
            server.rewind(untouched);
            rest = bytes[taken..(rest.len() + end).max(taken)].to_vec();
            prop_assert!(rest.len() <= PLAIN_MAX + 29);
            plain.extend_from_slice(&source[at..at + committed]);
            at += committed;
        }
        wire.extend_from_slice(&rest);
        prop_assert_eq!(open_in_pieces(&mut client, &wire, 1 << 20).unwrap(), plain);
    }

    #[test]
    fn arbitrary_bytes_are_no_records(bytes in prop::collection::vec(any::<u8>(), 0..600), suite in 0usize..6) {
        let (mut server, _) = sides(ALL[suite]);
        let mut opened = bytes.clone();
        if let Ok(opened) = server.open(&mut opened) {
            prop_assert_eq!((opened.plain, opened.consumed), (0, 0));
        }
    }
}
