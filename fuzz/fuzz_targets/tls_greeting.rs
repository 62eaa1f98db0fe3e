//! The first bytes of clients that want to speak TLS, or something else: the handshake neither panics nor takes memory
//! without a bound, whatever the pieces of the bytes.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use ringcast::logic::tls::{Handshake, TlsSettings, prepare};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A server without certificates: no handshake gets further than the answer to a ClientHello.
#[derive(Debug)]
struct None;

impl ResolvesServerCert for None {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Option::None
    }
}

fn settings() -> &'static TlsSettings {
    static SETTINGS: OnceLock<TlsSettings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has both versions");
        prepare(config.with_no_client_auth().with_cert_resolver(Arc::new(None)))
    })
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, sizes) = input;
    let mut handshake = Handshake::new(settings()).expect("the configuration is one");
    let (mut out, mut rest, mut turn) = (Vec::new(), &bytes[..], 0);
    while !rest.is_empty() {
        let size = sizes.get(turn % sizes.len().max(1)).map_or(rest.len(), |size| usize::from(*size).max(1));
        turn += 1;
        let (piece, others) = rest.split_at(size.min(rest.len()));
        rest = others;
        if handshake.take(piece).is_err() || handshake.advance(&mut out).is_err() {
            break;
        }
    }
    assert!(out.len() < 64 * 1024 && handshake.memory_bytes() <= 128 * 1024);
});
