//! The marks and orders between the driver and a turn.

use std::time::Duration;

/// An event that the driver has noticed since the last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The queue from the shards was rung.
    Inbox,
    /// The feed's listener can be accepted from.
    Listener,
    /// The time of an ordered tick has come.
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
    /// The driver must mark when the queue from the shards is rung.
    Inbox,
    /// The driver must mark when the feed's listener can be accepted from.
    Listener,
    /// The feed's socket was bound again, and the new listener takes the place of the old one.
    Rebind,
    /// The driver must mark when this much time has passed.
    Tick(Duration),
    /// A publisher has this number from now on.
    Opened(usize),
    /// Notice when the publisher of this number has sent bytes.
    Readable(usize),
    /// The driver must mark when the kernel takes bytes for the publisher of this number.
    Writable(usize),
    /// The publisher of this number has gone, and the number may be given to another one.
    Closed(usize),
}

/// The hub's next step after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another turn follows at once, after the driver's look at the kernel, because a budget was spent before all work
    /// was done.
    Again,
    /// A wait, until the driver notices something.
    Wait,
    /// The hub stops.
    Stop,
}
