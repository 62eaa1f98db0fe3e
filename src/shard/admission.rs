//! Admission: the limits on connections over all shards, in total, from one address and of one user, and on the rate at
//! which an address makes new ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arcstr::ArcStr;

use crate::config;
use crate::figures::ServerState;
use crate::logic::code::Code;
use crate::logic::rate;
use crate::logic::refusal::Refusal;

/// The number of parts of each table. Each part has its own lock, so that a shard rarely waits for another one.
const STRIPES: usize = 64;
/// The number of addresses in one part beyond which forgettable addresses are removed before the part grows.
const ADDRESSES_TIDIED: usize = 1024;

/// The cause for which an address gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The address has as many connections as it may.
    TooMany,
    /// The address makes connections too fast.
    TooFast,
}

impl Refused {
    /// The answer to the refused client.
    pub(super) fn refusal(self) -> Refusal {
        let message = match self {
            Refused::TooMany => "there are too many connections from your address",
            Refused::TooFast => "your address connects too often",
        };
        Refusal::fatal(Code::TooMany, message)
    }
}

/// The limits of each address; 0 stands for no limit.
#[derive(Clone, Copy, Debug, Default)]
struct AddressLimits {
    /// The most connections at a time.
    connections_max: u32,
    /// The most new connections per second, after a burst of as many.
    per_second: u32,
}

/// The connections of one address.
#[derive(Debug)]
struct Address {
    connections: u32,
    /// The time at which the last connection would be due at the permitted rate, in microseconds.
    due_us: u64,
}

/// The address under which a client's connections are counted. IPv6 addresses of one /64 count as one, because a client
/// usually has a whole /64.
pub(super) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl Address {
    fn new() -> Address {
        Address { connections: 0, due_us: 0 }
    }

    /// Takes a place at `now_ms`, if the address has one left.
    fn enter(&mut self, limits: &AddressLimits, now_ms: u64) -> Result<(), Refused> {
        if limits.connections_max > 0 && self.connections >= limits.connections_max {
            return Err(Refused::TooMany);
        }
        if limits.per_second > 0 {
            // The burst is one second's worth.
            let each_us = 1_000_000 / u64::from(limits.per_second);
            let taken = rate::take(self.due_us, now_ms * 1000, each_us, 1_000_000);
            self.due_us = taken.map_err(|_| Refused::TooFast)?;
        }
        self.connections += 1;
        Ok(())
    }

    /// Gives a place back.
    fn leave(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }

    /// Whether the address may be forgotten: it has no connections, and its full burst is left.
    fn is_forgettable(&self, now_ms: u64) -> bool {
        self.connections == 0 && self.due_us <= now_ms * 1000
    }
}

/// A table in parts, each with a lock of its own.
#[derive(Debug)]
struct Striped<K, V>(Vec<Mutex<HashMap<K, V>>>);

impl<K: Hash, V> Striped<K, V> {
    /// An empty table; it has no parts if nothing is counted.
    fn new(is_needed: bool) -> Striped<K, V> {
        Striped((0..if is_needed { STRIPES } else { 0 }).map(|_| Mutex::default()).collect())
    }

    /// The part that a key belongs to; `None` if nothing is counted.
    fn of(&self, key: &K) -> Option<MutexGuard<'_, HashMap<K, V>>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = self.0.get(hasher.finish() as usize % STRIPES)?;
        Some(stripe.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The counters of connections, which all shards share. A connection touches them when it begins and when it ends; a
/// delivery never does.
#[derive(Debug)]
pub struct Admission {
    state: Arc<ServerState>,
    connections_max: usize,
    addresses: Striped<IpAddr, Address>,
    address_limits: AddressLimits,
    users: Striped<ArcStr, u32>,
    per_user_max: u32,
    started: Instant,
}

impl Admission {
    /// Counters with the limits of a configuration, and with a server state of their own.
    pub fn new(config: &config::Server) -> Admission {
        let limits = AddressLimits { connections_max: config.per_address, per_second: config.connect_rate };
        Admission {
            state: Arc::default(),
            connections_max: config.max_connections,
            addresses: Striped::new(limits.connections_max > 0 || limits.per_second > 0),
            address_limits: limits,
            users: Striped::new(config.per_user > 0),
            per_user_max: config.per_user,
            started: Instant::now(),
        }
    }

    /// The server's state, in which the connections are counted.
    pub fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// Whether the server takes new clients.
    pub(super) fn is_ready(&self) -> bool {
        self.state.is_ready()
    }

    /// Takes one of the server's places; returns whether there was one.
    pub(super) fn enter(&self) -> bool {
        self.state.add_connection(self.connections_max)
    }

    /// Gives one of the server's places back.
    pub(super) fn leave(&self) {
        self.state.remove_connection();
    }

    /// Whether connections are counted per address.
    pub(super) fn counts_addresses(&self) -> bool {
        !self.addresses.0.is_empty()
    }

    /// Takes one of the address's places. A new connection also counts towards the address's rate.
    ///
    /// # Errors
    /// If the address has as many connections as it may, or makes them too fast.
    pub(super) fn enter_from(&self, address: IpAddr, is_new: bool) -> Result<(), Refused> {
        let address = group(address);
        let Some(mut addresses) = self.addresses.of(&address) else { return Ok(()) };
        let now_ms = self.started.elapsed().as_millis() as u64;
        if addresses.len() >= ADDRESSES_TIDIED && addresses.len() == addresses.capacity() {
            addresses.retain(|_, address| !address.is_forgettable(now_ms));
        }
        let per_second = if is_new { self.address_limits.per_second } else { 0 };
        let limits = AddressLimits { per_second, ..self.address_limits };
        addresses.entry(address).or_insert_with(Address::new).enter(&limits, now_ms)
    }

    /// Gives one of the address's places back.
    pub(super) fn leave_from(&self, address: IpAddr) {
        let address = group(address);
        let Some(mut addresses) = self.addresses.of(&address) else { return };
        if let Entry::Occupied(mut entry) = addresses.entry(address) {
            entry.get_mut().leave();
            if entry.get().is_forgettable(self.started.elapsed().as_millis() as u64) {
                entry.remove();
            }
        }
    }

    /// Counts a connection of a predecessor, and its address if that is counted. No limit holds for it.
    pub(super) fn restore(&self, address: Option<IpAddr>) {
        self.state.add_connection(usize::MAX);
        let Some(address) = address.map(group) else { return };
        if let Some(mut addresses) = self.addresses.of(&address) {
            addresses.entry(address).or_insert_with(Address::new).connections += 1;
        }
    }

    /// Counts a connection of a predecessor among those of its user. No limit holds for it.
    pub(super) fn restore_as(&self, user: &ArcStr) {
        if let Some(mut users) = self.users.of(user) {
            *users.entry(user.clone()).or_insert(0) += 1;
        }
    }

    /// Takes one of the user's places; returns whether there was one.
    pub(super) fn enter_as(&self, user: &ArcStr) -> bool {
        let Some(mut users) = self.users.of(user) else { return true };
        let count = users.entry(user.clone()).or_insert(0);
        if *count >= self.per_user_max {
            return false;
        }
        *count += 1;
        true
    }

    /// Gives one of the user's places back.
    pub(super) fn leave_as(&self, user: &ArcStr) {
        let Some(mut users) = self.users.of(user) else { return };
        if let Entry::Occupied(mut count) = users.entry(user.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_connections: usize, per_address: u32, per_user: u32) -> Admission {
        Admission::new(&config::Server { max_connections, per_address, per_user, ..config::Server::default() })
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let admission = admission(2, 1, 1);
        assert!(admission.enter() && admission.enter());
        assert!(!admission.enter());
        admission.leave();
        assert!(admission.enter());
        let address = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(admission.enter_from(address, true), Ok(()));
        assert_eq!(admission.enter_from(address, true), Err(Refused::TooMany));
        assert_eq!(admission.enter_from(IpAddr::from([127, 0, 0, 2]), true), Ok(()));
        admission.leave_from(address);
        assert_eq!(admission.enter_from(address, true), Ok(()));
        let user = ArcStr::from("u");
        assert!(admission.enter_as(&user) && !admission.enter_as(&user));
        admission.leave_as(&user);
        assert!(admission.enter_as(&user));
    }

    #[test]
    fn no_limit_costs_no_table() {
        let admission = admission(1, 0, 0);
        assert!(!admission.counts_addresses());
        assert!((0..100).all(|_| admission.enter_from(IpAddr::from([127, 0, 0, 1]), true).is_ok()));
        assert!((0..100).all(|_| admission.enter_as(&"u".into())));
    }

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
    fn a_64_of_ipv6_is_one_address() {
        let ip = |text: &str| group(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }
}
