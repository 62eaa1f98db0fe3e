//! Alerts: how one side tells the other why a connection ends (RFC 8446 §6).

/// The reason that an alert gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The sender will send nothing more.
    CloseNotify = 0,
    /// A message came that had no place there.
    UnexpectedMessage = 10,
    /// A record could not be verified.
    BadRecordMac = 20,
    /// A record was too long.
    RecordOverflow = 22,
    /// A parameter had a value that it must not have.
    IllegalParameter = 47,
    /// A message could not be read.
    DecodeError = 50,
    /// The sender cannot go on, for reasons of its own.
    InternalError = 80,
}

/// The level of an alert that ends the connection.
pub(super) const LEVEL_FATAL: u8 = 2;
/// The level of the others. In TLS 1.3 the level has no meaning.
pub(super) const LEVEL_WARNING: u8 = 1;

impl Alert {
    /// The alert's two bytes.
    pub(super) fn bytes(self) -> [u8; 2] {
        let level = if self == Alert::CloseNotify { LEVEL_WARNING } else { LEVEL_FATAL };
        [level, self as u8]
    }

    /// A whole record with the alert, for a peer with which no keys are agreed yet.
    pub fn in_clear(self) -> [u8; 7] {
        let [level, description] = self.bytes();
        [21, 3, 3, 0, 2, level, description]
    }
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The peer has broken the protocol and is told so with this alert.
    Ours(Alert),
    /// The peer has sent a fatal alert of this number.
    Theirs(u8),
}
