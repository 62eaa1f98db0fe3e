//! Where a client behind proxies is: `X-Forwarded-For`, and `Forwarded` (RFC 7239).

use core::net::{IpAddr, SocketAddr};

use super::Request;

/// The client's address by what trusted proxies have written: the last one that is no trusted proxy itself.
///
/// What stands before an entry that is no address was written by nobody who is trusted. Where a request has
/// both fields, `Forwarded`, the standard one, counts.
pub fn last_untrusted(request: &Request<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    if request.forwarded.is_empty() {
        let entries = request.forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
        return entries.map_while(address).find(|address| !is_trusted(*address));
    }
    let elements = request.forwarded.iter().rev().flat_map(|line| elements(line).into_iter().rev());
    elements.map_while(forwarded_for).find(|address| !is_trusted(*address))
}

/// An address, which some proxies write with its port.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip())).ok()
}

/// The elements of a `Forwarded` field; commas within quotes part nothing.
fn elements(line: &str) -> Vec<&str> {
    let mut is_quoted = false;
    line.split(|c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    })
    .collect()
}

/// The `for` of an element: an address, one in quotes, or an IPv6 one in brackets within quotes. Names and
/// obfuscated identifiers (`unknown`, `_hidden`) are no addresses.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    let node = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    address(node)
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, Parsed, parse};
    use super::*;

    fn client(fields: &str) -> Option<String> {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let Parsed::Complete { request, .. } = parse(head.as_bytes(), &HeadLimits { head_bytes_max: 8192 }) else {
            panic!("{head}")
        };
        last_untrusted(&request, |ip| ip.to_string().starts_with("10.")).map(|ip| ip.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        for (fields, expected) in [
            ("X-Forwarded-For: 9.9.9.9, 8.8.8.8:1234, 10.0.0.1\r\n", Some("8.8.8.8")),
            ("X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 10.0.0.1\r\n", Some("9.9.9.9")),
            ("X-Forwarded-For: [2001:db8::1]:443,10.1.1.1\r\n", Some("2001:db8::1")),
            ("X-Forwarded-For: 9.9.9.9, unknown, 10.0.0.1\r\n", None),
            ("X-Forwarded-For: 10.0.0.1\r\n", None),
            ("", None),
            ("Forwarded: for=9.9.9.9;proto=http, For=\"8.8.8.8:80\" ; by=10.0.0.1\r\n", Some("8.8.8.8")),
            ("Forwarded: for=\"[2001:db8::7]:443\"\r\n", Some("2001:db8::7")),
            ("Forwarded: for=9.9.9.9\r\nForwarded: for=10.0.0.1\r\n", Some("9.9.9.9")),
            ("Forwarded: for=9.9.9.9, for=_hidden\r\n", None),
            ("Forwarded: for=9.9.9.9, proto=https\r\n", None),
            ("Forwarded: host=\"a,for=1.1.1.1\";for=9.9.9.9\r\n", Some("9.9.9.9")),
            ("Forwarded: for=9.9.9.9\r\nX-Forwarded-For: 1.1.1.1\r\n", Some("9.9.9.9")),
        ] {
            assert_eq!(client(fields).as_deref(), expected, "{fields}");
        }
    }
}
