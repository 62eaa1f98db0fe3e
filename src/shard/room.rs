//! How many connections there may be, over all shards: in total, from one address, and of one user.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arcstr::ArcStr;

use crate::config;

use super::rates::{Address, AddressLimits, Refused, group};

/// The parts of each table; a shard rarely waits for another one.
const STRIPES: usize = 64;
/// Addresses in one part beyond which it is looked for those that need not be remembered.
const ADDRESSES_TIDIED: usize = 1024;

/// A table in parts, each with its own lock.
#[derive(Debug)]
struct Striped<K, V>(Vec<Mutex<HashMap<K, V>>>);

impl<K: Hash, V> Striped<K, V> {
    fn new(is_needed: bool) -> Striped<K, V> {
        Striped((0..if is_needed { STRIPES } else { 0 }).map(|_| Mutex::default()).collect())
    }

    /// The part that a key belongs to; none if nothing is counted.
    fn of(&self, key: &K) -> Option<MutexGuard<'_, HashMap<K, V>>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = self.0.get(hasher.finish() as usize % STRIPES)?;
        Some(stripe.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all shards share. Touched when a connection comes or goes, never for a delivery.
#[derive(Debug)]
pub struct Room {
    connections: AtomicUsize,
    connections_max: usize,
    addresses: Striped<IpAddr, Address>,
    address_limits: AddressLimits,
    users: Striped<ArcStr, u32>,
    per_user_max: u32,
    started: Instant,
    ready: AtomicBool,
    draining: AtomicBool,
    paused: AtomicBool,
}

impl Room {
    /// Room for as many as the configuration says.
    pub fn new(config: &config::Server) -> Room {
        let limits = AddressLimits { connections_max: config.per_address, per_second: config.connect_rate };
        Room {
            connections: AtomicUsize::new(0),
            connections_max: config.max_connections,
            addresses: Striped::new(limits.connections_max > 0 || limits.per_second > 0),
            address_limits: limits,
            users: Striped::new(config.per_user > 0),
            per_user_max: config.per_user,
            started: Instant::now(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            paused: AtomicBool::new(false),
        }
    }

    /// Takes one place; returns whether there was one.
    pub(super) fn enter(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.connections_max {
            self.leave();
            return false;
        }
        true
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether connections are counted per address.
    pub(super) fn counts_addresses(&self) -> bool {
        !self.addresses.0.is_empty()
    }

    /// Takes one of the address's places, if there is one and, for a new connection, it is not too soon.
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

    /// Says that everything is up.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Says that the server is going away.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Says that no new clients are to come for now, or that they may again; returns what held before.
    pub fn set_paused(&self, on: bool) -> bool {
        self.paused.swap(on, Ordering::Relaxed)
    }

    /// Whether no new clients are to come for now.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether new clients are welcome.
    pub fn is_ready(&self) -> bool {
        let is_leaving = self.draining.load(Ordering::Relaxed) || self.is_paused();
        self.ready.load(Ordering::Relaxed) && !is_leaving
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(max_connections: usize, per_address: u32, per_user: u32) -> Room {
        Room::new(&config::Server { max_connections, per_address, per_user, ..config::Server::default() })
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let room = room(2, 1, 1);
        assert!(room.enter() && room.enter());
        assert!(!room.enter());
        room.leave();
        assert!(room.enter());
        let address = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(room.enter_from(address, true), Ok(()));
        assert_eq!(room.enter_from(address, true), Err(Refused::TooMany));
        assert_eq!(room.enter_from(IpAddr::from([127, 0, 0, 2]), true), Ok(()));
        room.leave_from(address);
        assert_eq!(room.enter_from(address, true), Ok(()));
        let user = ArcStr::from("u");
        assert!(room.enter_as(&user) && !room.enter_as(&user));
        room.leave_as(&user);
        assert!(room.enter_as(&user));
    }

    #[test]
    fn no_limit_costs_no_table() {
        let room = room(1, 0, 0);
        assert!(!room.counts_addresses());
        assert!((0..100).all(|_| room.enter_from(IpAddr::from([127, 0, 0, 1]), true).is_ok()));
        assert!((0..100).all(|_| room.enter_as(&"u".into())));
    }
}
