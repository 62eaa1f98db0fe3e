//! How many connections there may be, over all shards: in total and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The parts of the table of addresses; a shard rarely waits for another one.
const STRIPES: usize = 64;

/// What all shards share. Touched when a connection comes or goes, never for a delivery.
#[derive(Debug)]
pub struct Room {
    connections: AtomicUsize,
    connections_max: usize,
    /// Empty if there is no limit per address.
    addresses: Vec<Mutex<HashMap<IpAddr, u32>>>,
    per_address_max: u32,
    ready: AtomicBool,
    draining: AtomicBool,
}

impl Room {
    /// Room for `connections_max` connections and `per_address_max` from each address; 0 for no such limit.
    pub fn new(connections_max: usize, per_address_max: u32) -> Room {
        let stripes = if per_address_max == 0 { 0 } else { STRIPES };
        Room {
            connections: AtomicUsize::new(0),
            connections_max,
            addresses: (0..stripes).map(|_| Mutex::default()).collect(),
            per_address_max,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
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
        !self.addresses.is_empty()
    }

    fn stripe(&self, address: IpAddr) -> Option<&Mutex<HashMap<IpAddr, u32>>> {
        let low = match address {
            IpAddr::V4(address) => u32::from(address) as usize,
            IpAddr::V6(address) => u128::from(address) as usize ^ (u128::from(address) >> 64) as usize,
        };
        self.addresses.get(low % STRIPES)
    }

    /// Takes one of the address's places; returns whether there was one.
    pub(super) fn enter_from(&self, address: IpAddr) -> bool {
        let Some(stripe) = self.stripe(address) else { return true };
        let mut counts = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= self.per_address_max {
            return false;
        }
        *count += 1;
        true
    }

    /// Gives one of the address's places back.
    pub(super) fn leave_from(&self, address: IpAddr) {
        let Some(stripe) = self.stripe(address) else { return };
        let mut counts = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(address) {
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

    /// Whether new clients are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let room = Room::new(2, 1);
        assert!(room.enter() && room.enter());
        assert!(!room.enter());
        room.leave();
        assert!(room.enter());
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(room.enter_from(address));
        assert!(!room.enter_from(address));
        assert!(room.enter_from(IpAddr::from([127, 0, 0, 2])));
        room.leave_from(address);
        assert!(room.enter_from(address));
    }

    #[test]
    fn no_limit_per_address_costs_no_table() {
        let room = Room::new(1, 0);
        assert!(!room.counts_addresses());
        assert!((0..100).all(|_| room.enter_from(IpAddr::from([127, 0, 0, 1]))));
    }
}
