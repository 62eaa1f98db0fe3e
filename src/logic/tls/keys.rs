//! The secrets of a connection: all that is kept of TLS after the handshake.

use aws_lc_rs::aead::{LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroize;

use crate::logic::handover::clients as record;

use super::seal::Failed;
use super::suite::Suite;

/// The most bytes of a traffic secret.
pub(super) const SECRET: usize = 48;
/// The most bytes of a key.
pub(super) const KEY: usize = 32;

/// The secrets of one direction.
#[derive(Clone)]
pub(super) struct Direction {
    /// The traffic secret, from which TLS 1.3 derives the next one.
    pub(super) secret: [u8; SECRET],
    pub(super) key: [u8; KEY],
    pub(super) iv: [u8; NONCE_LEN],
    /// The number of the next record, as it stands in nonces. It is also the number of records under this key.
    sequence: [u8; 8],
}

/// The secrets of a connection and what must be remembered of its records. There is no `Debug` for it, and the memory is
/// overwritten when it is dropped.
pub struct Keys {
    pub(super) send: Direction,
    pub(super) receive: Direction,
    pub(super) suite: Suite,
    /// The peer has sent `close_notify`.
    pub(super) is_closed: bool,
    /// The peer has asked for new keys of this side, and has not got them yet.
    pub(super) owes_update: bool,
    /// Records without application data in a row.
    pub(super) empty: u8,
    /// Key updates of the peer without application data between them.
    pub(super) updates: u8,
    /// Alerts that were let pass.
    pub(super) warnings: u8,
}

const _: () = assert!(size_of::<Keys>() == 206, "each TLS connection has one");

impl Drop for Keys {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// A number of bytes that HKDF is asked for.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Fills `out` with HKDF-Expand-Label of a secret and an empty context (RFC 8446 §7.1).
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), Failed> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = (out.len() as u16).to_be_bytes();
    let label_length = [(PREFIX.len() + label.len()) as u8];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    let prk = hkdf::Prk::new_less_safe(suite.hash(), secret);
    let okm = prk.expand(&info, Length(out.len())).map_err(|_| Failed)?;
    okm.fill(out).map_err(|_| Failed)
}

impl Direction {
    /// A direction of TLS 1.3, by its traffic secret and the number of its next record.
    pub(super) fn of_secret(suite: Suite, secret: &[u8], sequence: u64) -> Result<Direction, Failed> {
        let mut direction =
            Direction { secret: [0; SECRET], key: [0; KEY], iv: [0; NONCE_LEN], sequence: sequence.to_be_bytes() };
        direction.secret.get_mut(..suite.secret_bytes()).filter(|to| to.len() == secret.len()).ok_or(Failed)?;
        direction.secret[..secret.len()].copy_from_slice(secret);
        expand_label(suite, secret, b"key", &mut direction.key[..suite.key_bytes()])?;
        expand_label(suite, secret, b"iv", &mut direction.iv)?;
        Ok(direction)
    }

    /// A direction of TLS 1.2, which has no traffic secret.
    pub(super) fn of_key(suite: Suite, key: &[u8], iv: &[u8], sequence: u64) -> Result<Direction, Failed> {
        let mut direction = Direction {
            secret: [0; SECRET],
            key: [0; KEY],
            iv: iv.try_into().map_err(|_| Failed)?,
            sequence: sequence.to_be_bytes(),
        };
        let own = direction.key.get_mut(..suite.key_bytes()).filter(|own| own.len() == key.len()).ok_or(Failed)?;
        own.copy_from_slice(key);
        Ok(direction)
    }

    /// The next keys, which begin with record 0 (RFC 8446 §7.2).
    pub(super) fn update(&mut self, suite: Suite) -> Result<(), Failed> {
        let mut next = [0; SECRET];
        let length = suite.secret_bytes();
        expand_label(suite, &self.secret[..length], b"traffic upd", &mut next[..length])?;
        let after = Direction::of_secret(suite, &next[..length], 0);
        next.zeroize();
        self.secret.zeroize();
        self.key.zeroize();
        *self = after?;
        Ok(())
    }

    /// The number of the next record.
    pub(super) fn sequence(&self) -> u64 {
        u64::from_be_bytes(self.sequence)
    }

    /// Goes on to the next record.
    pub(super) fn advance(&mut self) {
        // 2^64 records would take longer than the universe has existed.
        self.sequence = self.sequence().wrapping_add(1).to_be_bytes();
    }

    /// Goes back over records that have not left the process.
    pub(super) fn rewind(&mut self, records: u64) {
        debug_assert!(records <= self.sequence(), "only records of this key are taken back");
        self.sequence = self.sequence().saturating_sub(records).to_be_bytes();
    }

    /// The nonce of the next record: the only place where nonces are made.
    pub(super) fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence).for_each(|(byte, part)| *byte ^= part);
        nonce
    }

    /// The key, expanded for use.
    pub(super) fn expanded(&self, suite: Suite) -> Result<LessSafeKey, Failed> {
        let key = UnboundKey::new(suite.algorithm(), &self.key[..suite.key_bytes()]).map_err(|_| Failed)?;
        Ok(LessSafeKey::new(key))
    }
}

/// A nonce in the form in which the AEAD takes it.
pub(super) fn as_nonce(bytes: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

impl Keys {
    pub(super) fn new(suite: Suite, send: Direction, receive: Direction) -> Keys {
        Keys { send, receive, suite, is_closed: false, owes_update: false, empty: 0, updates: 0, warnings: 0 }
    }

    /// Keys of TLS 1.3 by the traffic secrets of both directions, from record 0 on.
    ///
    /// # Errors
    /// If a secret is not as long as the suite's.
    pub fn of_secrets(suite: Suite, send: &[u8], receive: &[u8]) -> Result<Keys, Failed> {
        Ok(Keys::new(suite, Direction::of_secret(suite, send, 0)?, Direction::of_secret(suite, receive, 0)?))
    }

    /// The secrets as they are handed to a successor.
    pub fn record(&self) -> record::Tls {
        let of = |direction: &Direction| record::Direction {
            secret: direction.secret.to_vec(),
            key: direction.key.to_vec(),
            iv: direction.iv.to_vec(),
            sequence: direction.sequence(),
        };
        record::Tls {
            suite: Suite::ALL.iter().position(|suite| *suite == self.suite).map_or(0, |place| place as u32 + 1),
            send: Some(of(&self.send)),
            receive: Some(of(&self.receive)),
            is_closed: self.is_closed,
            owes_update: self.owes_update,
            counts: vec![self.empty.into(), self.updates.into(), self.warnings.into()],
            ..record::Tls::default()
        }
    }

    /// The secrets that a predecessor has handed over, unless they make no sense.
    pub fn of_record(record: &record::Tls) -> Option<Keys> {
        let suite = *Suite::ALL.get((record.suite as usize).checked_sub(1)?)?;
        let of = |direction: &Option<record::Direction>| {
            let direction = direction.as_ref()?;
            Some(Direction {
                secret: direction.secret.as_slice().try_into().ok()?,
                key: direction.key.as_slice().try_into().ok()?,
                iv: direction.iv.as_slice().try_into().ok()?,
                sequence: direction.sequence.to_be_bytes(),
            })
        };
        let count = |place: usize| record.counts.get(place).and_then(|count| u8::try_from(*count).ok()).unwrap_or(0);
        let mut keys = Keys::new(suite, of(&record.send)?, of(&record.receive)?);
        (keys.is_closed, keys.owes_update) = (record.is_closed, record.owes_update);
        (keys.empty, keys.updates, keys.warnings) = (count(0), count(1), count(2));
        Some(keys)
    }

    /// Overwrites the secrets. A table that gives the value away afterwards keeps no copy of them in its memory.
    pub fn wipe(&mut self) {
        for direction in [&mut self.send, &mut self.receive] {
            direction.secret.zeroize();
            direction.key.zeroize();
            direction.iv.zeroize();
        }
    }

    /// The connection's suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether the peer has said that it will send nothing more.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The key and the nonce of the record that is the `back`th before the next one, for tests that look for pairs that are
    /// used twice.
    #[cfg(test)]
    pub(crate) fn pair(&self, back: u64) -> ([u8; KEY], [u8; NONCE_LEN]) {
        let mut direction = self.send.clone();
        direction.rewind(back);
        (direction.key, direction.nonce())
    }

    /// The number of records that were sealed with the present key.
    pub fn sealed(&self) -> u64 {
        self.send.sequence()
    }
}
