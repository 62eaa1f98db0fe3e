//! How many connections an address has, how fast it makes new ones, and how much WebSocket clients say.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::logic::code::Code;
use crate::logic::refusal::Refusal;
use crate::logic::wheel::Tick;

use super::settings::TICK_MS;

const TICKS_PER_SECOND: Tick = (1000 / TICK_MS) as Tick;

/// What one address has. A client has a whole /64 of IPv6 for itself, so that is one address here.
#[derive(Debug)]
pub(super) struct Address {
    connections: u32,
    /// When the connections that were made so far would have been due at the rate, in microseconds.
    due_us: u64,
}

/// What addresses may do; 0 for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressLimits {
    pub(super) connections_max: u32,
    /// New connections per second, after a burst of as many.
    pub(super) per_second: u32,
}

/// Why an address gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has as many as it may.
    TooMany,
    /// It makes them too fast.
    TooFast,
}

impl Refused {
    /// What the client is told.
    pub(super) fn refusal(self) -> Refusal {
        let message = match self {
            Refused::TooMany => "there are too many connections from your address",
            Refused::TooFast => "your address connects too often",
        };
        Refusal::fatal(Code::TooMany, message)
    }
}

/// What counts as one address.
pub(super) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl Address {
    pub(super) fn new() -> Address {
        Address { connections: 0, due_us: 0 }
    }

    /// Takes a place at `now_ms`, if there is one.
    pub(super) fn enter(&mut self, limits: &AddressLimits, now_ms: u64) -> Result<(), Refused> {
        if limits.connections_max > 0 && self.connections >= limits.connections_max {
            return Err(Refused::TooMany);
        }
        if limits.per_second > 0 {
            // A bucket that holds one second's worth, as the time until which it is used up.
            let each_us = 1_000_000 / u64::from(limits.per_second);
            let due = self.due_us.max(now_ms * 1000);
            if due + each_us > now_ms * 1000 + 1_000_000 {
                return Err(Refused::TooFast);
            }
            self.due_us = due + each_us;
        }
        self.connections += 1;
        Ok(())
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }

    /// Whether there is nothing to remember about it.
    pub(super) fn is_forgettable(&self, now_ms: u64) -> bool {
        self.connections == 0 && self.due_us <= now_ms * 1000
    }
}

/// What WebSocket clients may say in a second; 0 for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TalkLimits {
    pub(super) messages_max: u32,
    pub(super) bytes_max: u64,
}

/// What each client has said in the present second. Who says nothing takes no room.
#[derive(Debug, Default)]
pub(super) struct Talk {
    second: Tick,
    said: HashMap<u32, (u32, u64)>,
}

impl Talk {
    /// Counts a message of the client in a slot; returns whether it may still say that much.
    pub(super) fn count(&mut self, slot: u32, bytes: usize, limits: &TalkLimits, now: Tick) -> bool {
        if limits.messages_max == 0 && limits.bytes_max == 0 {
            return true;
        }
        let second = now / TICKS_PER_SECOND;
        if second != self.second {
            self.second = second;
            self.said.clear();
            self.said.shrink_to(1024);
        }
        let (messages, sum) = self.said.entry(slot).or_default();
        *messages += 1;
        *sum += bytes as u64;
        (limits.messages_max == 0 || *messages <= limits.messages_max)
            && (limits.bytes_max == 0 || *sum <= limits.bytes_max)
    }

    /// Forgets what a client has said: its slot is another's from here on.
    pub(super) fn forget(&mut self, slot: u32) {
        self.said.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_in_number() {
        let limits = AddressLimits { connections_max: 2, per_second: 0 };
        let mut address = Address::new();
        assert_eq!([0, 0, 0].map(|now| address.enter(&limits, now)), [Ok(()), Ok(()), Err(Refused::TooMany)]);
        address.leave();
        assert_eq!(address.enter(&limits, 0), Ok(()));
        assert!(!address.is_forgettable(0));
        address.leave();
        address.leave();
        assert!(address.is_forgettable(0));
    }

    #[test]
    fn connections_are_limited_in_rate_after_a_burst() {
        let limits = AddressLimits { connections_max: 0, per_second: 10 };
        let mut address = Address::new();
        let mut made = |now_ms: u64| (0..100).take_while(|_| address.enter(&limits, now_ms).is_ok()).count();
        assert_eq!(made(5_000), 10);
        assert_eq!(made(5_099), 0);
        assert_eq!(made(5_300), 3);
        assert_eq!(made(9_000), 10);
        for _ in 0..23 {
            address.leave();
        }
        assert!(!address.is_forgettable(9_500) && address.is_forgettable(10_000));
    }

    #[test]
    fn clients_may_say_so_much_in_a_second() {
        let mut talk = Talk::default();
        let limits = TalkLimits { messages_max: 2, bytes_max: 100 };
        assert!(talk.count(1, 10, &limits, 11) && talk.count(1, 10, &limits, 12));
        assert!(!talk.count(1, 10, &limits, 19));
        assert!(talk.count(2, 100, &limits, 19) && !talk.count(3, 101, &limits, 19));
        assert!(talk.count(1, 10, &limits, 20), "the next second");
        talk.forget(1);
        assert!(talk.count(1, 10, &limits, 20) && talk.count(1, 10, &limits, 20));
        assert!((0..100).all(|_| talk.count(9, 1000, &TalkLimits::default(), 20)));
    }

    #[test]
    fn a_64_of_ipv6_is_one_address() {
        let ip = |text: &str| group(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }
}
