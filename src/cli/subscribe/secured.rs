//! TLS for `ringcast subscribe`: which authorities are trusted, and the connection.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A connection whose bytes are sealed.
pub(super) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// What servers are trusted by: the certificates in `ca`, or else the host's authorities.
///
/// # Errors
/// If there are no such certificates.
pub(super) fn trust(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = certificate
                    .map_err(|error| error.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
                added.map_err(|error| format!("a certificate in {} cannot be used: {error}", path.display()))?;
            }
            if roots.is_empty() {
                return Err(format!("{} holds no certificate in PEM", path.display()));
            }
        }
        None => {
            // Hosts have certificates among the others that cannot be used.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this host has no certificate authorities; name the server's with --ca FILE".into());
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Shakes hands with the server at `authority`, for the longest time between two of its messages.
///
/// # Errors
/// If the server cannot be trusted, or the connection breaks.
pub(super) fn connect(
    config: &Arc<ClientConfig>,
    authority: &str,
    mut stream: TcpStream,
    patience: Duration,
) -> io::Result<Secured> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut client = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    stream.set_read_timeout(Some(patience))?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(client, stream))
}
