//! Opening: plaintext out of records, and what else records say.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN};

use super::alert::{Alert, Fatal, LEVEL_FATAL};
use super::keys::{Keys, as_nonce};
use super::seal::{ALERT, DATA, HANDSHAKE, associated};
use super::suite::{EXPLICIT, HEADER, TAG};

/// The most plaintext of a record (RFC 8446 §5.1).
const PLAIN_MAX: usize = 1 << 14;
/// The most bytes of a record after its header. TLS 1.2 would allow more (2^14 + 2048), which no AEAD needs.
const BODY_MAX: usize = PLAIN_MAX + 256;
/// The most bytes of a record.
pub const RECORD_MAX: usize = HEADER + BODY_MAX;
/// The most records without application data in a row, as in rustls.
const EMPTY_MAX: u8 = 32;
/// The most key updates without application data between them, as in rustls and BoringSSL.
const UPDATES_MAX: u8 = 32;
/// The most alerts that do not end the connection.
const WARNINGS_MAX: u8 = 4;

/// Alerts of this number say nothing (RFC 8446 §6.1).
const USER_CANCELED: u8 = 90;
/// TLS 1.2: the peer does not want to renegotiate.
const NO_RENEGOTIATION: u8 = 100;

/// What was made of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The bytes of application data, which stand at the beginning now.
    pub plain: usize,
    /// The bytes of whole records. Those behind them are the beginning of another one.
    pub consumed: usize,
}

impl Keys {
    /// Opens all whole records at the beginning of `bytes`, in place, and moves their application data together at the
    /// front. After the peer's `close_notify` everything is thrown away.
    ///
    /// # Errors
    /// If the connection cannot go on.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, Fatal> {
        let mut opened = Opened { plain: 0, consumed: 0 };
        let mut key = None;
        while !self.is_closed {
            let Some(length) = self.next_record(&bytes[opened.consumed..])? else { return Ok(opened) };
            let end = opened.consumed + length;
            let record = &mut bytes[opened.consumed..end];
            let expanded = match key.take() {
                Some(key) => key,
                None => self.receive.expanded(self.suite).map_err(|_| Fatal::Ours(Alert::InternalError))?,
            };
            let (kind, start, plain) = self.open_record(&expanded, record)?;
            let start = opened.consumed + start;
            opened.consumed = end;
            if kind == DATA {
                self.note_data(plain)?;
                bytes.copy_within(start..start + plain, opened.plain);
                opened.plain += plain;
                key = Some(expanded);
            } else if self.on_other(kind, &bytes[start..start + plain])? {
                key = Some(expanded);
            }
        }
        opened.consumed = bytes.len();
        Ok(opened)
    }

    /// The length of the record at the beginning of `bytes`; `None` if it is not whole yet.
    fn next_record(&self, bytes: &[u8]) -> Result<Option<usize>, Fatal> {
        // A wrong beginning is told at once, so that a peer that speaks something else does not wait for an answer.
        let is_known = |kind: u8| kind == DATA || !self.suite.is_13() && matches!(kind, ALERT | HANDSHAKE);
        if bytes.first().is_some_and(|kind| !is_known(*kind)) {
            return Err(Fatal::Ours(Alert::UnexpectedMessage));
        }
        if bytes.get(1).is_some_and(|major| *major != 3) {
            return Err(Fatal::Ours(Alert::DecodeError));
        }
        let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let body = usize::from(u16::from_be_bytes([high, low]));
        if body > BODY_MAX {
            return Err(Fatal::Ours(Alert::RecordOverflow));
        }
        if body < self.suite.overhead() - HEADER {
            return Err(Fatal::Ours(Alert::BadRecordMac));
        }
        Ok((bytes.len() >= HEADER + body).then_some(HEADER + body))
    }

    /// Opens one record in place; returns its kind, and where its plaintext begins and how long it is.
    fn open_record(&mut self, key: &LessSafeKey, record: &mut [u8]) -> Result<(u8, usize, usize), Fatal> {
        let suite = self.suite;
        let mut nonce = self.receive.nonce();
        let mut start = HEADER;
        if suite.has_explicit_nonce() {
            nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(&record[HEADER..HEADER + EXPLICIT]);
            start += EXPLICIT;
        }
        let kind = record[0];
        let plain = record.len().saturating_sub(start + TAG);
        let aad = associated(suite, &record[..HEADER], self.receive.sequence(), kind, plain);
        let opened = key.open_in_place(as_nonce(nonce), Aad::from(aad.bytes()), &mut record[start..]);
        let plain = opened.map_err(|_| Fatal::Ours(Alert::BadRecordMac))?;
        self.receive.advance();
        let (kind, length) = if suite.is_13() { without_padding(plain)? } else { (kind, plain.len()) };
        if length > PLAIN_MAX {
            return Err(Fatal::Ours(Alert::RecordOverflow));
        }
        Ok((kind, start, length))
    }

    /// Counts a record of application data.
    fn note_data(&mut self, plain: usize) -> Result<(), Fatal> {
        if plain > 0 {
            (self.empty, self.updates) = (0, 0);
            return Ok(());
        }
        self.empty += 1;
        if self.empty > EMPTY_MAX { Err(Fatal::Ours(Alert::UnexpectedMessage)) } else { Ok(()) }
    }

    /// Handles a record of another kind; returns whether the key is still the same.
    fn on_other(&mut self, kind: u8, plain: &[u8]) -> Result<bool, Fatal> {
        match kind {
            ALERT => self.on_alert(plain).map(|()| true),
            HANDSHAKE => self.on_handshake(plain).map(|()| false),
            _ => Err(Fatal::Ours(Alert::UnexpectedMessage)),
        }
    }

    fn on_alert(&mut self, plain: &[u8]) -> Result<(), Fatal> {
        let &[level, description] = plain else { return Err(Fatal::Ours(Alert::DecodeError)) };
        if description == Alert::CloseNotify as u8 {
            self.is_closed = true;
            return Ok(());
        }
        let may_pass = match description {
            USER_CANCELED => true,
            NO_RENEGOTIATION => !self.suite.is_13(),
            _ => !self.suite.is_13() && level != LEVEL_FATAL,
        };
        self.warnings += 1;
        if !may_pass {
            return Err(Fatal::Theirs(description));
        }
        if self.warnings > WARNINGS_MAX { Err(Fatal::Ours(Alert::UnexpectedMessage)) } else { Ok(()) }
    }

    /// Handles a message of the handshake. After it there is only KeyUpdate, which ends its record, because the key changes
    /// behind it. TLS 1.2 has renegotiation, which is refused.
    fn on_handshake(&mut self, plain: &[u8]) -> Result<(), Fatal> {
        let is_asked = match *plain {
            [24, 0, 0, 1, asked] if self.suite.is_13() && asked > 1 => {
                return Err(Fatal::Ours(Alert::IllegalParameter));
            }
            [24, 0, 0, 1, asked] if self.suite.is_13() => asked == 1,
            _ => return Err(Fatal::Ours(Alert::UnexpectedMessage)),
        };
        self.updates += 1;
        if self.updates > UPDATES_MAX {
            return Err(Fatal::Ours(Alert::UnexpectedMessage));
        }
        self.receive.update(self.suite).map_err(|_| Fatal::Ours(Alert::InternalError))?;
        self.owes_update |= is_asked;
        Ok(())
    }
}

/// The kind and the length of the content that stands before the zeros of the padding (RFC 8446 §5.4).
fn without_padding(plain: &[u8]) -> Result<(u8, usize), Fatal> {
    if plain.len() > PLAIN_MAX + 1 {
        return Err(Fatal::Ours(Alert::RecordOverflow));
    }
    match plain.iter().rposition(|byte| *byte != 0) {
        Some(length) => Ok((plain[length], length)),
        None => Err(Fatal::Ours(Alert::UnexpectedMessage)),
    }
}
