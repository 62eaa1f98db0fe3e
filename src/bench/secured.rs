//! TLS between the measured server and its clients: a certificate made for the run, and what clients trust.

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{BenchError, io_error};

const CHAIN: &str = "tls.pem";
const KEY: &str = "tls.key";
const NAME: &str = "localhost";

/// Makes a certificate (ECDSA P-256) in a folder. Returns what the clients shake hands with: a client trusts that certificate and
/// makes a whole handshake each time.
pub(super) fn prepare(folder: &Path) -> Result<Arc<ClientConfig>, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Harness(format!("preparing TLS: {error}"));
    let made = generate_simple_self_signed([NAME.to_owned()]).map_err(|error| failed(&error))?;
    let CertifiedKey { cert, signing_key } = made;
    std::fs::write(folder.join(CHAIN), cert.pem()).map_err(io_error("writing a certificate"))?;
    std::fs::write(folder.join(KEY), signing_key.serialize_pem()).map_err(io_error("writing a key"))?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).map_err(|error| failed(&error))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|error| failed(&error))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The flags of a server that speaks TLS with the certificate in a folder.
pub(super) fn flags(folder: &Path, address: SocketAddrV4) -> [OsString; 6] {
    let (chain, key) = (folder.join(CHAIN).into(), folder.join(KEY).into());
    ["--tls".into(), address.to_string().into(), "--cert".into(), chain, "--key".into(), key]
}

/// A client's connection, before its handshake.
pub(super) fn client(config: &Arc<ClientConfig>) -> std::io::Result<Box<ClientConnection>> {
    let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
    ClientConnection::new(config.clone(), name).map(Box::new).map_err(std::io::Error::other)
}
