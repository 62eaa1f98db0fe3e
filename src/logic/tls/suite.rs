//! The cipher suites, as far as records differ by them.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use aws_lc_rs::hkdf;

/// The bytes of an AEAD's tag.
pub(super) const TAG: usize = 16;
/// The bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// The bytes of the nonce that TLS 1.2 sends with AES-GCM.
pub(super) const EXPLICIT: usize = 8;

/// The records of one key after which AES-GCM must have another one (RFC 8446 §5.5, with the margin that rustls keeps).
pub(super) const GCM_RECORDS: u64 = 1 << 24;

/// An AEAD and the version of the protocol: what records look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// TLS 1.3 with AES-128-GCM and SHA-256.
    Tls13Aes128,
    /// TLS 1.3 with AES-256-GCM and SHA-384.
    Tls13Aes256,
    /// TLS 1.3 with ChaCha20-Poly1305 and SHA-256.
    Tls13ChaCha20,
    /// TLS 1.2 with AES-128-GCM.
    Tls12Aes128,
    /// TLS 1.2 with AES-256-GCM.
    Tls12Aes256,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Tls12ChaCha20,
}

impl Suite {
    /// Every suite, each at the place that is its number.
    pub(super) const ALL: [Suite; 6] = [
        Suite::Tls13Aes128,
        Suite::Tls13Aes256,
        Suite::Tls13ChaCha20,
        Suite::Tls12Aes128,
        Suite::Tls12Aes256,
        Suite::Tls12ChaCha20,
    ];

    /// Whether the version is TLS 1.3.
    pub fn is_13(self) -> bool {
        matches!(self, Suite::Tls13Aes128 | Suite::Tls13Aes256 | Suite::Tls13ChaCha20)
    }

    /// The suite's AEAD.
    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Suite::Tls13Aes128 | Suite::Tls12Aes128 => &AES_128_GCM,
            Suite::Tls13Aes256 | Suite::Tls12Aes256 => &AES_256_GCM,
            Suite::Tls13ChaCha20 | Suite::Tls12ChaCha20 => &CHACHA20_POLY1305,
        }
    }

    /// The hash by which TLS 1.3 derives further keys.
    pub(super) fn hash(self) -> hkdf::Algorithm {
        match self {
            Suite::Tls13Aes256 => hkdf::HKDF_SHA384,
            _ => hkdf::HKDF_SHA256,
        }
    }

    /// The bytes of a traffic secret of TLS 1.3.
    pub(super) fn secret_bytes(self) -> usize {
        if self == Suite::Tls13Aes256 { 48 } else { 32 }
    }

    /// The bytes of a key.
    pub(super) fn key_bytes(self) -> usize {
        self.algorithm().key_len()
    }

    /// Whether records carry a part of their nonce.
    pub(super) fn has_explicit_nonce(self) -> bool {
        matches!(self, Suite::Tls12Aes128 | Suite::Tls12Aes256)
    }

    /// The bytes that a record has beside its plaintext.
    pub fn overhead(self) -> usize {
        match self {
            suite if suite.is_13() => HEADER + 1 + TAG,
            suite if suite.has_explicit_nonce() => HEADER + EXPLICIT + TAG,
            _ => HEADER + TAG,
        }
    }

    /// The records that one key may seal.
    pub fn records_max(self) -> u64 {
        match self {
            Suite::Tls13ChaCha20 | Suite::Tls12ChaCha20 => u64::MAX,
            _ => GCM_RECORDS,
        }
    }
}
