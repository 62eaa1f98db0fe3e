//! Addresses of peers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A peer's address in 18 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct Peer {
    ip: [u8; 16],
    port: u16,
}

impl Peer {
    pub(in crate::shard) fn new(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer { ip: ip.octets(), port: address.port() }
    }

    /// The address as one of IPv6, and the port.
    pub(in crate::shard) fn parts(self) -> ([u8; 16], u16) {
        (self.ip, self.port)
    }

    /// The peer of these parts.
    pub(in crate::shard) fn of_parts(ip: [u8; 16], port: u16) -> Peer {
        Peer { ip, port }
    }

    /// The address; unspecified for peers on a Unix socket.
    pub(in crate::shard) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            peer if peer == Peer::default() => f.write_str("unix"),
            peer => SocketAddr::new(peer.ip(), peer.port).fmt(f),
        }
    }
}
