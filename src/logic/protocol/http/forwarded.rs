//! The address of a client behind proxies: `X-Forwarded-For`, and `Forwarded` (RFC 7239).

use core::net::{IpAddr, SocketAddr};
use std::borrow::Cow;

use super::Request;

/// The client's address as trusted proxies have written it: the last address that is no trusted proxy's.
///
/// An entry that is no address ends the search, because entries before it were not written by a trusted proxy. Where a
/// request has both fields, `Forwarded`, the standard one, counts.
pub fn last_untrusted(request: &Request<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    if request.forwarded.is_empty() {
        let entries = request.forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
        // A list may have empty members (RFC 9110 §5.6.1.2).
        let mut entries = entries.filter(|entry| !entry.trim().is_empty());
        return entries.by_ref().map_while(address).find(|address| !is_trusted(*address));
    }
    let elements = request.forwarded.iter().rev().flat_map(|line| elements(line).into_iter().rev());
    elements.map_while(forwarded_for).find(|address| !is_trusted(*address))
}

/// Reads an address, which some proxies write with a port. An IPv4 address in IPv6's form (`::ffff:192.0.2.1`) is the
/// IPv4 address.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip())).ok();
    address.map(|address: IpAddr| address.to_canonical())
}

/// The elements of a `Forwarded` field, which are parted by commas outside of quotes.
///
/// Quotes count only if the whole line follows the grammar; else every comma parts. A client could open a quote and never
/// close it, and the proxy's own element would count as quoted text.
fn elements(line: &str) -> Vec<&str> {
    split(line, ',').unwrap_or_else(|| line.split(',').collect())
}

/// The place of a character within an element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a parameter's name, or before the name.
    Name,
    /// Right after the `=`, where a value may begin with a quote.
    Start,
    /// In a value without quotes.
    Bare,
    /// In a quoted value (RFC 9110 §5.6.4).
    Quoted,
    /// After a backslash in a quoted value.
    Escaped,
    /// After the closing quote.
    Closed,
}

/// Splits at a separator, `,` or `;`, outside of quoted values. `None` if a quote or a backslash stands where the grammar
/// has none, or a quoted value does not end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut at, mut start) = (At::Name, 0);
    for (index, c) in text.char_indices() {
        at = match (at, c) {
            (At::Quoted, '"') => At::Closed,
            (At::Quoted, '\\') => At::Escaped,
            (At::Quoted | At::Escaped, _) => At::Quoted,
            (_, ',' | ';') => {
                if c == separator {
                    parts.push(&text[start..index]);
                    start = index + 1;
                }
                At::Name
            }
            (At::Start, '"') => At::Quoted,
            (_, '"' | '\\') => return None,
            (At::Name, '=') => At::Start,
            (At::Name, _) => At::Name,
            (At::Closed, ' ' | '\t') => At::Closed,
            (At::Closed, _) => return None,
            (At::Start | At::Bare, _) => At::Bare,
        };
    }
    parts.push(&text[start..]);
    (!matches!(at, At::Quoted | At::Escaped)).then_some(parts)
}

/// The address in the `for` of an element, which may stand in quotes, and an IPv6 address in brackets within them. Names
/// and obfuscated identifiers (`unknown`, `_hidden`) are no addresses.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = split(element, ';')?;
    let (_, node) = pairs
        .into_iter()
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    address(&unquoted(node))
}

/// A value without its quotes and without the backslashes between them.
fn unquoted(value: &str) -> Cow<'_, str> {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(inner) if inner.contains('\\') => {
            let mut is_escaped = false;
            let is_kept = |c: &char| {
                is_escaped = *c == '\\' && !is_escaped;
                !is_escaped
            };
            Cow::Owned(inner.chars().filter(is_kept).collect())
        }
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, Parsed, parse};
    use super::*;

    fn client(fields: &str) -> Option<String> {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let Parsed::Complete { request, .. } =
            parse(head.as_bytes(), &HeadLimits { head_bytes_max: 8192, fields_max: 64 })
        else {
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
            ("X-Forwarded-For: 9.9.9.9, ::ffff:10.0.0.2\r\n", Some("9.9.9.9")),
            ("X-Forwarded-For: 9.9.9.9, [::ffff:10.0.0.2]:443, ::ffff:a00:3\r\n", Some("9.9.9.9")),
            ("X-Forwarded-For: ::ffff:9.9.9.9\r\n", Some("9.9.9.9")),
            ("", None),
            ("Forwarded: for=9.9.9.9;proto=http, For=\"8.8.8.8:80\" ; by=10.0.0.1\r\n", Some("8.8.8.8")),
            ("Forwarded: for=\"[2001:db8::7]:443\"\r\n", Some("2001:db8::7")),
            ("Forwarded: for=9.9.9.9\r\nForwarded: for=10.0.0.1\r\n", Some("9.9.9.9")),
            ("Forwarded: for=9.9.9.9, for=_hidden\r\n", None),
            ("Forwarded: for=9.9.9.9, proto=https\r\n", None),
            ("Forwarded: host=\"a,for=1.1.1.1\";for=9.9.9.9\r\n", Some("9.9.9.9")),
            ("Forwarded: for=9.9.9.9\r\nX-Forwarded-For: 1.1.1.1\r\n", Some("9.9.9.9")),
            ("Forwarded: for=\"[::ffff:9.9.9.9]:80\", for=\"[::ffff:10.0.0.2]\"\r\n", Some("9.9.9.9")),
        ] {
            assert_eq!(client(fields).as_deref(), expected, "{fields}");
        }
    }

    #[test]
    fn quotes_hide_nothing_that_a_proxy_has_written() {
        for (line, expected) in [
            // As they should be.
            (r#"for=9.9.9.9;host="a\"b, for=1.1.1.1""#, Some("9.9.9.9")),
            (r#"for="9.9.9.9";host="a;for=1.1.1.1;b""#, Some("9.9.9.9")),
            (r#"host="a;for=1.1.1.1;b";for=9.9.9.9"#, Some("9.9.9.9")),
            (r#"for="\[2001:db8::7\]:443" , for=10.0.0.1"#, Some("2001:db8::7")),
            (r#"for=1.1.1.1;host="", for="9.9.9.9:80""#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host="x\\", for=9.9.9.9"#, Some("9.9.9.9")),
            // A client's quote that never ends; the proxy's own element comes last.
            (r#"for=1.1.1.1;host=", for=9.9.9.9"#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host=", for="9.9.9.9:80""#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host=", for=9.9.9.9, for=10.0.0.1"#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host="\, for=9.9.9.9"#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host="x\", for=9.9.9.9"#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host="x\", for="9.9.9.9""#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host=", for=9.9.9.9;host="a\"b""#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host=", for=9.9.9.9;host="h";proto=http"#, Some("9.9.9.9")),
            (r#"for=1.1.1.1;host=a", for=9.9.9.9;host="h""#, Some("9.9.9.9")),
            (r#"for=1.1.1.1", for=9.9.9.9"#, Some("9.9.9.9")),
            // An element that cannot be told from the next one any more names no address.
            (r#"for=1.1.1.1;host=", for=9.9.9.9;host="a,b""#, None),
            (r#"for=9.9.9.9, for="1.1.1.1"#, None),
            (r#"for=9.9.9.9, for=1.1.1.1;x=\a"#, None),
        ] {
            assert_eq!(client(&format!("Forwarded: {line}\r\n")).as_deref(), expected, "{line}");
        }
        assert!(matches!(unquoted(r#""a""#), Cow::Borrowed("a")) && unquoted(r#""\\\a""#) == r"\a");
        let lines = "Forwarded: for=1.1.1.1;host=\"\r\nForwarded: for=9.9.9.9\r\n";
        assert_eq!(client(lines).as_deref(), Some("9.9.9.9"));
    }
}
