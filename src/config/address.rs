//! Addresses as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket, for a proxy on the same host.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether the address is one place, and not any free port.
    pub(super) fn has_port(&self) -> bool {
        !matches!(self, ListenAddress::Tcp(address) if address.port() == 0)
    }

    /// Whether only this host can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: must be followed by a path, as in unix:/run/ringcast/http.sock".into()),
            Some(path) => Ok(ListenAddress::Unix(path.into())),
            None => text.parse().map(ListenAddress::Tcp).map_err(|_| {
                format!("{text:?} is no address to listen on; write 127.0.0.1:8080, [::]:8080 or unix:/path")
            }),
        }
    }
}

/// The address of the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// There is no admin listener.
    Off,
    /// An address and port.
    At(SocketAddr),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Off => f.write_str("off"),
            AdminAddress::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<AdminAddress, String> {
        if text == "off" {
            return Ok(AdminAddress::Off);
        }
        let address = text.parse().map(AdminAddress::At);
        address.map_err(|_| format!("{text:?} is no address for the admin listener; write 127.0.0.1:8081 or off"))
    }
}

/// A set of peers: a range of IP addresses such as `10.0.0.0/8`, one address, or `unix:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The peers in a range of addresses.
    Ip(IpNet),
    /// The peers on a Unix socket. They have no address; the unspecified one stands for them.
    Unix,
}

impl Network {
    /// Whether a peer with the address `ip` is in the set. An IPv4 address in IPv6's form (`::ffff:10.0.0.1`) counts as
    /// the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Network::Ip(range) => range.contains(&ip.to_canonical()),
            Network::Unix => ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::Ip(range) => range.fmt(f),
            Network::Unix => f.write_str("unix:"),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        if text == "unix:" {
            return Ok(Network::Unix);
        }
        let range = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.map(Network::Ip).map_err(|_| format!("{text:?} is no network; write 10.0.0.0/8, an address, or unix:"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains("10.1.2.3".parse().unwrap()));
        assert!(!network.contains("10.2.0.0".parse().unwrap()));
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!network.contains("::ffff:10.2.0.0".parse().unwrap()));
        assert!("10.1.2.3/16".parse::<Network>().unwrap().contains("10.1.0.0".parse().unwrap()));
        assert!("fd00::/8".parse::<Network>().unwrap().contains("fd12::1".parse().unwrap()));
        assert!("::1".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!("unix:".parse::<Network>().unwrap().contains("::".parse().unwrap()));
        assert!(!"unix:".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
        for text in ["unix:", "10.1.2.3/16", "fd00::/8"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
        for bad in ["", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/", "10.0.0.0/+8", "unix"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses() {
        for good in ["127.0.0.1:80", "[::]:80", "unix:/run/x.sock"] {
            assert_eq!(good.parse::<ListenAddress>().unwrap().to_string(), good);
        }
        for bad in [":8080", "localhost:80", "unix:", "8080"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn admin_addresses() {
        for good in ["off", "127.0.0.1:8081"] {
            assert_eq!(good.parse::<AdminAddress>().unwrap().to_string(), good);
        }
        for bad in ["", "here", "OFF", "127.0.0.1"] {
            assert!(bad.parse::<AdminAddress>().is_err(), "{bad}");
        }
    }
}
