//! What the driver and a turn tell each other.

use std::time::Duration;

/// Something that the driver has noticed since the last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The queue from the shards was rung.
    Inbox,
    /// The feed's listener can be accepted from.
    Listener,
    /// A time that was asked for has come.
    Tick,
    /// The publisher of this number has sent bytes, or has gone.
    Readable(usize),
    /// The kernel takes bytes for the publisher of this number again, or the publisher has gone.
    Writable(usize),
    /// The publisher of this number cannot be watched.
    Broken(usize),
}

/// Something that a turn wants the driver to do. A want brings one mark: the turn asks again for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Notice when the queue from the shards is rung.
    Inbox,
    /// Notice when the feed's listener can be accepted from.
    Listener,
    /// Notice when this much time has passed.
    Tick(Duration),
    /// A publisher has this number from now on.
    Opened(usize),
    /// Notice when the publisher of this number has sent bytes.
    Readable(usize),
    /// Notice when the kernel takes bytes for the publisher of this number.
    Writable(usize),
    /// The publisher of this number has gone, and the number may be given to another one.
    Closed(usize),
}

/// What comes after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another turn at once, after the driver has looked what is ready: the turn's budget was spent before its work was.
    Again,
    /// A wait, until the driver notices something.
    Wait,
    /// The end of the hub.
    Stop,
}
