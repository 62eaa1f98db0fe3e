//! Sealing: records out of plaintext.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN};

use super::alert::Alert;
use super::keys::{Keys, as_nonce};
use super::suite::{EXPLICIT, HEADER, Suite};

/// The most plaintext of one record here: a record that the kernel takes in part is kept until it has the rest, so a long
/// one would cost a slow client memory.
pub const PLAIN_MAX: usize = 4096;

/// The kinds of records.
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;

/// A KeyUpdate that asks for none in return (RFC 8446 §4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// The cryptography has failed, which it does for lack of memory alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record cannot be sealed")]
pub struct Failed;

/// The sending direction with its key expanded, for one or several records.
pub struct Sealer<'a> {
    keys: &'a mut Keys,
    key: LessSafeKey,
}

impl<'a> Sealer<'a> {
    /// Expands the key.
    ///
    /// # Errors
    /// If the cryptography fails.
    pub fn new(keys: &'a mut Keys) -> Result<Sealer<'a>, Failed> {
        let key = keys.send.expanded(keys.suite)?;
        Ok(Sealer { keys, key })
    }

    /// Appends the records of application data to `out`, of [`PLAIN_MAX`] bytes each but the last.
    ///
    /// # Errors
    /// If the cryptography fails.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        plain.chunks(PLAIN_MAX).try_for_each(|part| self.record(DATA, part, out))
    }

    /// Appends one record of any kind; tests play peers with it that send what they must not. The number of the record goes
    /// up before anything can fail, so that no nonce is used twice.
    ///
    /// # Errors
    /// If the cryptography fails.
    pub fn record(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        let suite = self.keys.suite;
        let nonce = self.keys.send.nonce();
        let sequence = self.keys.send.sequence();
        self.keys.send.advance();
        let start = out.len();
        let total = plain.len() + suite.overhead();
        out.resize(start + total, 0);
        let record = &mut out[start..];
        let kind_sent = if suite.is_13() { DATA } else { kind };
        let [high, low] = ((total - HEADER) as u16).to_be_bytes();
        record[..HEADER].copy_from_slice(&[kind_sent, 3, 3, high, low]);
        let mut body = HEADER;
        if suite.has_explicit_nonce() {
            record[HEADER..HEADER + EXPLICIT].copy_from_slice(&nonce[NONCE_LEN - EXPLICIT..]);
            body += EXPLICIT;
        }
        let aad = associated(suite, &record[..HEADER], sequence, kind, plain.len());
        let extra = [kind];
        let extra: &[u8] = if suite.is_13() { &extra } else { &[] };
        let (sealed, rest) = record[body..].split_at_mut(plain.len());
        let done =
            self.key.seal_out_of_place_scatter(as_nonce(nonce), Aad::from(aad.bytes()), plain, sealed, extra, rest);
        if done.is_err() {
            out.truncate(start);
            return Err(Failed);
        }
        Ok(())
    }
}

/// The data that is verified with a record: 5 bytes in TLS 1.3, 13 in TLS 1.2.
pub(super) struct Associated {
    bytes: [u8; 13],
    length: usize,
}

impl Associated {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The data that is verified with a record, by its header, its number, its kind and the length of its plaintext.
pub(super) fn associated(suite: Suite, header: &[u8], sequence: u64, kind: u8, plain: usize) -> Associated {
    let mut bytes = [0; 13];
    if suite.is_13() {
        bytes[..HEADER].copy_from_slice(header);
        return Associated { bytes, length: HEADER };
    }
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..11].copy_from_slice(&[kind, 3, 3]);
    bytes[11..].copy_from_slice(&(plain as u16).to_be_bytes());
    Associated { bytes, length: bytes.len() }
}

impl Keys {
    /// Appends a record with an alert.
    ///
    /// # Errors
    /// If the cryptography fails.
    pub fn seal_alert(&mut self, alert: Alert, out: &mut Vec<u8>) -> Result<(), Failed> {
        Sealer::new(self)?.record(ALERT, &alert.bytes(), out)
    }

    /// Takes back the last records: the next ones are sealed with the same numbers. None of their bytes may have left the
    /// process.
    pub fn rewind(&mut self, records: u64) {
        self.send.rewind(records);
    }

    /// Whether the key must be replaced before `records` more are sealed, of which each key may seal `records_max`.
    pub fn is_worn(&self, records: u64, records_max: u64) -> bool {
        self.send.sequence().saturating_add(records) >= records_max.min(self.suite.records_max())
    }

    /// Whether the peer waits for new keys of this side.
    pub fn owes_update(&self) -> bool {
        self.owes_update
    }

    /// Appends the record that announces new keys, and takes them. The bytes must be sent before anything that is sealed
    /// later. TLS 1.2 has no such message: a connection whose key is worn ends.
    ///
    /// # Errors
    /// If the cryptography fails, or the version has no key updates.
    pub fn update(&mut self, out: &mut Vec<u8>) -> Result<(), Failed> {
        if !self.suite.is_13() {
            return Err(Failed);
        }
        Sealer::new(self)?.record(HANDSHAKE, &KEY_UPDATE, out)?;
        self.send.update(self.suite)?;
        self.owes_update = false;
        Ok(())
    }

    /// The bytes of the records of `plain` bytes of application data.
    pub fn sealed_bytes(&self, plain: usize) -> usize {
        plain + plain.div_ceil(PLAIN_MAX) * self.suite.overhead()
    }

    /// Divides sealed records of `plain` bytes of which `taken` bytes were sent: the plaintext of all records of which at
    /// least a byte was sent, the end of the last of these among the sealed bytes, and the number of records that were not
    /// touched.
    pub fn divide(&self, plain: usize, taken: usize) -> (usize, usize, u64) {
        let overhead = self.suite.overhead();
        let touched = taken.div_ceil(PLAIN_MAX + overhead);
        let committed = plain.min(touched * PLAIN_MAX);
        let untouched = plain.div_ceil(PLAIN_MAX) - committed.div_ceil(PLAIN_MAX);
        (committed, self.sealed_bytes(committed), untouched as u64)
    }
}
