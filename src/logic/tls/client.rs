//! What a client's certificate says about the client. The certificate itself was verified in the handshake.

use std::fmt::Write as _;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The longest name that is taken for a user's, in bytes: that of a token's `sub`.
const NAME_BYTES_MAX: usize = 255;
/// The longest serial number, in bytes (RFC 5280 §4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

/// A client by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedClient {
    /// The client's name: the first alternative name of the subject (DNS name, e-mail address or URI), or else the common
    /// name. `None` if the certificate has none of them, or one that is too long or has control characters.
    pub user: Option<String>,
    /// `cert:` and the serial number in lower-case hexadecimal digits: the id under which the certificate is revoked.
    pub id: String,
    /// The time at which the certificate expires, in seconds since 1970.
    pub expires_s: u64,
}

impl CertifiedClient {
    /// Reads a certificate in DER; `None` if it is none.
    pub fn read(der: &[u8]) -> Option<CertifiedClient> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let serial = certificate.raw_serial();
        if serial.len() > SERIAL_BYTES_MAX {
            return None;
        }
        let mut id = "cert:".to_owned();
        serial.iter().skip_while(|byte| **byte == 0).for_each(|byte| _ = write!(id, "{byte:02x}"));
        let expires_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative = alternative.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some(*name),
            _ => None,
        });
        let common = || certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let is_fit = |name: &&str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
        let user = alternative.or_else(common).filter(is_fit).map(str::to_owned);
        Some(CertifiedClient { user, id, expires_s })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn read(change: impl FnOnce(&mut CertificateParams)) -> CertifiedClient {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff]));
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        CertifiedClient::read(certificate.der()).unwrap()
    }

    fn named(name: &str) -> Option<String> {
        read(|params| params.distinguished_name.push(DnType::CommonName, name)).user
    }

    #[test]
    fn the_alternative_name_comes_before_the_common_name() {
        let client = read(|params| {
            params.distinguished_name.push(DnType::CommonName, "common");
            params.subject_alt_names = vec![
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::Rfc822Name("ann@example.org".try_into().unwrap()),
            ];
        });
        assert_eq!((client.user.as_deref(), client.id.as_str()), (Some("ann@example.org"), "cert:0aff"));
        assert!(client.expires_s > 1_700_000_000);
        assert_eq!(named("device 7").as_deref(), Some("device 7"));
    }

    #[test]
    fn names_that_are_no_users_are_left_out() {
        assert_eq!(named(""), None);
        assert_eq!(named("a\nb"), None);
        assert_eq!(named(&"x".repeat(256)), None);
        assert_eq!(read(|_| ()).user, None);
        assert_eq!(CertifiedClient::read(b"x"), None);
    }
}
