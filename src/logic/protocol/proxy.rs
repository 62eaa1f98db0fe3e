//! The PROXY protocol, versions 1 and 2: the header in which a proxy says where a connection is from
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The beginning of a header.
    Partial,
    /// A whole header.
    Whole {
        /// The client's address; `None` if the proxy speaks for itself or does not know it.
        client: Option<SocketAddr>,
        /// The bytes that the header took; the client's own bytes start after them.
        consumed: usize,
    },
    /// No header. The bytes after it cannot be trusted.
    Malformed,
}

/// The longest line of version 1, with CR LF (§2.1).
const LINE_BYTES_MAX: usize = 107;
/// The first bytes of version 2 (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 2 that the server waits for: addresses, and room for extensions.
const BINARY_BYTES_MAX: usize = 16 + 1024;

/// Reads a header from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> ProxyHeader {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, other)| byte == other);
    if begins(SIGNATURE) {
        return if bytes.len() < 16 { ProxyHeader::Partial } else { parse_binary(bytes) };
    }
    if !begins(b"PROXY ") {
        return ProxyHeader::Malformed;
    }
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match memchr::memmem::find(line, b"\r\n") {
        Some(end) => match parse_line(&line[..end]) {
            Some(client) => ProxyHeader::Whole { client, consumed: end + 2 },
            None => ProxyHeader::Malformed,
        },
        None if line.len() < LINE_BYTES_MAX => ProxyHeader::Partial,
        None => ProxyHeader::Malformed,
    }
}

fn parse_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ').skip(1);
    let protocol = words.next()?;
    if protocol == "UNKNOWN" {
        // The rest of the line is to be ignored (§2.1).
        return Some(None);
    }
    let mut address = || words.next()?.parse::<IpAddr>().ok();
    let (from, to) = (address()?, address()?);
    let mut port = || {
        let word = words.next()?;
        let is_canonical = word == "0" || !word.starts_with('0') && word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse::<u16>().ok().filter(|_| is_canonical)
    };
    let (from_port, _) = (port()?, port()?);
    let fits = match protocol {
        "TCP4" => from.is_ipv4() && to.is_ipv4(),
        "TCP6" => from.is_ipv6() && to.is_ipv6(),
        _ => false,
    };
    (fits && words.next().is_none()).then(|| Some(SocketAddr::new(from, from_port)))
}

fn parse_binary(bytes: &[u8]) -> ProxyHeader {
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let (version, command) = (bytes[12] >> 4, bytes[12] & 15);
    let whole = 16 + length;
    if version != 2 || command > 1 || whole > BINARY_BYTES_MAX {
        return ProxyHeader::Malformed;
    }
    let Some(rest) = bytes.get(16..whole) else { return ProxyHeader::Partial };
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let client = match (command, bytes[13] >> 4) {
        // LOCAL: the connection is a health check of the proxy's own.
        (0, _) => None,
        (_, 1) if length >= 12 => {
            Some(SocketAddr::new(Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]).into(), port(8)))
        }
        (_, 2) if length >= 36 => {
            let octets: [u8; 16] = std::array::from_fn(|at| rest[at]);
            Some(SocketAddr::new(Ipv6Addr::from(octets).into(), port(32)))
        }
        (_, 1 | 2) => return ProxyHeader::Malformed,
        // Unix sockets and unspecified families have no address of use here.
        _ => None,
    };
    ProxyHeader::Whole { client, consumed: whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn client(bytes: &[u8]) -> Option<String> {
        match parse(bytes) {
            ProxyHeader::Whole { client, consumed } => {
                assert_eq!(consumed, bytes.len());
                Some(client.map_or("none".into(), |client| client.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn both_versions_are_read() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 9, 7);
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), "192.0.2.1:12345"),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "[2001:db8::1]:1"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "none"),
            (b"PROXY UNKNOWN what ever\r\n".to_vec(), "none"),
            (binary(1, 0x11, &v4), "192.0.2.1:12345"),
            (binary(1, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), "192.0.2.1:12345"),
            (binary(1, 0x21, &v6), "[2001::9]:7"),
            (binary(0, 0x00, b""), "none"),
            (binary(0, 0x11, &v4), "none"),
            (binary(1, 0x31, &[0; 216]), "none"),
            (binary(1, 0x00, b""), "none"),
            (binary(1, 0x00, &[0; 1024]), "none"),
        ] {
            assert_eq!(client(&bytes).as_deref(), Some(expected), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), ProxyHeader::Partial, "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn whatever_else_is_no_header() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 x\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 012 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +12 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 70000 80\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 ::1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat(),
            b"\r\n\r\n\0\r\nQUIX".to_vec(),
            binary(2, 0x11, &[0; 12]),
            binary(1, 0x00, &[0; 1025]),
            binary(1, 0x11, &[0; 11]),
            binary(1, 0x21, &[0; 35]),
            [&SIGNATURE[..], &[0x11, 0x11, 0, 12], &[0; 12]].concat(),
            [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            assert_eq!(parse(&bytes), ProxyHeader::Malformed, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), signed: bool) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            if let ProxyHeader::Whole { consumed, .. } = parse(&bytes) {
                prop_assert!(consumed <= bytes.len());
            }
        }
    }
}
