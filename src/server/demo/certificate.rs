//! The demo's certificate, made on the spot and signed by itself: browsers ask whether to trust it.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The names that the certificate is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A new certificate for this host, with its key.
///
/// # Errors
/// If the cryptography fails.
pub(in crate::server) fn certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let names: Vec<String> = NAMES.map(str::to_owned).into();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
    Ok((cert.der().clone(), key))
}
