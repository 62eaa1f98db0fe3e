//! The opening handshake (RFC 6455 §4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::logic::code::Code;
use crate::logic::protocol::http::{Method, Request};
use crate::logic::refusal::Refusal;

/// The subprotocol of the JSON format.
pub const SUBPROTOCOL: &str = "ringcast.v1";

/// A request for a WebSocket that is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Accept`; empty on a stream of HTTP/2, which needs no proof (RFC 8441 §5).
    pub accept: String,
}

/// The proof that the server has read the key: the key and a fixed GUID, hashed.
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Whether a request offers a subprotocol (RFC 6455 §11.3.4).
pub fn offers(request: &Request<'_>, subprotocol: &str) -> bool {
    let mut offered = request.ws_protocols.iter().flat_map(|names| names.split(','));
    offered.any(|name| name.trim() == subprotocol)
}

/// Checks a request on a WebSocket's path.
///
/// # Errors
/// If the request does not ask for a WebSocket of version 13 with a proper key.
pub fn check_upgrade(request: &Request<'_>) -> Result<Upgrade, Refusal> {
    let can_upgrade = request.is_http_1_1 || request.is_http_2;
    if request.method != Method::Get || !can_upgrade || !request.wants_websocket {
        let message = "this path speaks WebSocket: send an HTTP/1.1 GET with Upgrade: websocket";
        return Err(Refusal::new(Code::UpgradeRequired, message));
    }
    if request.ws_version != Some("13") {
        return Err(Refusal::new(Code::WebSocketVersion, "only WebSocket version 13 is spoken here"));
    }
    if request.is_http_2 {
        return Ok(Upgrade { accept: String::new() });
    }
    let is_key = |key: &&str| STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let key = request.ws_key.filter(is_key);
    let key = key.ok_or_else(|| Refusal::new(Code::WebSocketKey, "Sec-WebSocket-Key must be 16 bytes in base64"))?;
    Ok(Upgrade { accept: accept_key(key) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::protocol::http::{HeadLimits, Parsed, parse};

    fn with<T>(fields: &str, see: impl FnOnce(&Request<'_>) -> T) -> T {
        let text = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        match parse(text.as_bytes(), &HeadLimits { head_bytes_max: 8192, fields_max: 64 }) {
            Parsed::Complete { request, .. } => see(&request),
            other => panic!("{other:?}"),
        }
    }

    fn check(fields: &str) -> Result<Upgrade, u16> {
        with(fields, |request| check_upgrade(request).map_err(|refusal| refusal.code.status()))
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_missing_is_named() {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let version = "Sec-WebSocket-Version: 13\r\n";
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_string();
        let good = format!("{upgrade}{version}{key}");
        assert_eq!(check(&good), Ok(Upgrade { accept }));
        with(&good, |request| {
            let others = [
                Request { method: Method::Head, ..request.clone() },
                Request { is_http_1_1: false, ..request.clone() },
            ];
            let codes = others.map(|request| check_upgrade(&request).map_err(|refusal| refusal.code));
            assert_eq!(codes, [Err(Code::UpgradeRequired), Err(Code::UpgradeRequired)]);
        });
        assert_eq!(check(&format!("{version}{key}")), Err(426));
        assert_eq!(check(&format!("{upgrade}{key}")), Err(426));
        assert_eq!(check(&format!("{upgrade}{version}")), Err(400));
        assert_eq!(check(&format!("{upgrade}{version}Sec-WebSocket-Key: abc\r\n")), Err(400));
    }

    #[test]
    fn a_subprotocol_may_be_offered_in_any_of_several_fields() {
        let offered = |fields: &str| with(fields, |request| offers(request, SUBPROTOCOL));
        let (first, second) = ("Sec-WebSocket-Protocol: x, ringcast.v1\r\n", "Sec-WebSocket-Protocol: y\r\n");
        assert!(offered(first) && offered(&format!("{first}{second}")) && offered(&format!("{second}{first}")));
        assert!(!offered(second) && !offered("") && !offered("Sec-WebSocket-Protocol: ringcast.v10\r\n"));
    }
}
