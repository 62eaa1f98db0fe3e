//! Why a connection ends: one list for log lines, figures and the feed.

macro_rules! reasons {
    ($($(#[doc = $about:literal])+ $reason:ident = $name:literal,)*) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $about])+ $reason,)*
        }

        impl Reason {
            /// Every reason, each at the index of its number (`reason as usize`).
            pub const ALL: &'static [Reason] = &[$(Reason::$reason,)*];
            /// The name of every reason, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];
        }
    };
}

reasons! {
    /// The client closed the connection.
    Client = "client",
    /// The network or the client's host broke the connection.
    Broken = "broken",
    /// The answer was complete, and the connection was not to be kept.
    Answered = "answered",
    /// The request broke the protocol.
    BadRequest = "bad_request",
    /// No whole request came in time.
    HandshakeTimeout = "handshake_timeout",
    /// No further request came in time.
    Idle = "idle",
    /// The client read too slowly for its namespace's policy.
    Slow = "slow",
    /// The WebSocket client broke the protocol.
    Violation = "violation",
    /// The WebSocket client answered no ping.
    Unresponsive = "unresponsive",
    /// The connection's last channel was ended.
    Ended = "ended",
    /// The backend ended the connection.
    Kicked = "kicked",
    /// The server is going away.
    Drained = "drained",
    /// The server had no room for the connection.
    Refused = "refused",
    /// The client did not close a finished connection in time.
    Lingered = "lingered",
    /// The connection's token expired.
    Expired = "expired",
    /// The client sent no token in time.
    Unauthorized = "unauthorized",
    /// The client sent more than clients may.
    Flooding = "flooding",
}

impl Reason {
    /// The name in log lines, figures and the feed.
    pub fn name(self) -> &'static str {
        Reason::NAMES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(!Reason::NAMES[..index].contains(&reason.name()), "{reason:?}");
        }
    }
}
