//! Request heads from the literature on smuggling and on broken parsers, each with its one right answer: the status of
//! the first answer, and whether the connection stays open. After a refusal no later byte is taken for a request.

use std::io::Write;

use super::clients::Http;
use super::server::Server;

/// The right answer of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// The answer is 200, and the next request is answered with 200 too.
    Fine,
    /// The answer has this status, and the next request is answered too.
    Refused(u16),
    /// The answer has this status and the connection is closed, so that the next request is not read.
    Ends(u16),
}

use Right::{Ends, Fine, Refused};

/// The server's limit on heads in these cases.
const HEAD_BYTES_MAX: usize = 4096;

fn get(fields: &str) -> Vec<u8> {
    format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes()
}

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: x\r\n\r\n").into_bytes()
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

#[allow(clippy::too_many_lines)]
fn cases() -> Vec<(&'static str, Vec<u8>, Right)> {
    vec![
        // RFC 9112 §2.2, §3: lines and the request line.
        ("plain", get(""), Fine),
        ("empty lines before the request", raw(b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), Fine),
        ("bare LF after the request line", raw(b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n"), Ends(400)),
        ("bare LF after a field", get("A: b\nC: d\r\n"), Ends(400)),
        ("bare LF LF at the end", raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\n\n"), Ends(400)),
        ("bare CR in a field", get("A: b\rC: d\r\n"), Ends(400)),
        ("bare CR after the request line", raw(b"GET /healthz HTTP/1.1\rHost: x\r\n\r\n"), Ends(400)),
        ("CR CR LF", raw(b"GET /healthz HTTP/1.1\r\r\nHost: x\r\n\r\n"), Ends(400)),
        ("two spaces before the target", line("GET  /healthz HTTP/1.1"), Ends(400)),
        ("two spaces after the target", line("GET /healthz  HTTP/1.1"), Ends(400)),
        ("tab in the request line", line("GET\t/healthz HTTP/1.1"), Ends(400)),
        ("space before the request line", line(" GET /healthz HTTP/1.1"), Ends(400)),
        ("space after the version", line("GET /healthz HTTP/1.1 "), Ends(400)),
        ("no version", line("GET /healthz"), Ends(400)),
        ("HTTP/0.9", raw(b"GET /healthz\r\n\r\n"), Ends(400)),
        ("HTTP/1.2", line("GET /healthz HTTP/1.2"), Ends(505)),
        ("HTTP/2.0", line("GET /healthz HTTP/2.0"), Ends(505)),
        ("HTTP/2 preface", raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Ends(505)),
        ("lower case version", line("GET /healthz http/1.1"), Ends(400)),
        ("version with a leading nought", line("GET /healthz HTTP/01.1"), Ends(400)),
        ("TLS hello", raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), Ends(400)),
        ("NUL before the request", raw(b"\0GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), Ends(400)),
        ("NUL in the target", raw(b"GET /health\0z HTTP/1.1\r\nHost: x\r\n\r\n"), Ends(400)),
        ("empty method", line(" /healthz HTTP/1.1"), Ends(400)),
        ("method with a bracket", line("G(T /healthz HTTP/1.1"), Ends(400)),
        ("unknown method", line("BREW /healthz HTTP/1.1"), Refused(405)),
        ("lower case method", line("get /healthz HTTP/1.1"), Refused(405)),
        ("CONNECT", line("CONNECT x:80 HTTP/1.1"), Ends(400)),
        ("TRACE", line("TRACE /healthz HTTP/1.1"), Refused(405)),
        // Targets (§3.2).
        ("absolute target", line("GET http://x/healthz HTTP/1.1"), Fine),
        ("absolute target of another host", line("GET http://y/healthz HTTP/1.1"), Fine),
        ("absolute target, no path", line("GET http://x HTTP/1.1"), Refused(404)),
        ("another scheme", line("GET ftp://x/healthz HTTP/1.1"), Ends(400)),
        ("no slash", line("GET healthz HTTP/1.1"), Ends(400)),
        ("asterisk of a GET", line("GET * HTTP/1.1"), Ends(400)),
        ("fragment", line("GET /healthz#x HTTP/1.1"), Ends(400)),
        ("user in the authority", line("GET http://u@x/healthz HTTP/1.1"), Ends(400)),
        ("empty authority", line("GET http:///healthz HTTP/1.1"), Ends(400)),
        ("dots in the path", line("GET /a/../healthz HTTP/1.1"), Refused(404)),
        ("encoded path", line("GET /%68ealthz HTTP/1.1"), Refused(404)),
        ("two slashes", line("GET //healthz HTTP/1.1"), Refused(404)),
        ("malformed escape in a parameter that counts", line("GET /sse?channel=%zz HTTP/1.1"), Refused(400)),
        ("malformed escape elsewhere", line("GET /healthz?x=%zz HTTP/1.1"), Fine),
        ("non-ASCII target", line("GET /h\u{e9}althz HTTP/1.1"), Ends(400)),
        // Field lines (§5).
        ("space before the colon", get("A : b\r\n"), Ends(400)),
        ("tab before the colon", get("A\t: b\r\n"), Ends(400)),
        ("space before the first field", raw(b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n"), Ends(400)),
        ("folded line", get("A: b\r\n c\r\n"), Ends(400)),
        ("folded line with a tab", get("A: b\r\n\tc\r\n"), Ends(400)),
        ("folded length", get("Content-Length:\r\n 5\r\n"), Ends(400)),
        ("no colon", get("A\r\n"), Ends(400)),
        ("empty name", get(": b\r\n"), Ends(400)),
        ("name with a space", get("A B: c\r\n"), Ends(400)),
        ("name with a bracket", get("A[B]: c\r\n"), Ends(400)),
        ("name with NUL", get("A\0: c\r\n"), Ends(400)),
        ("non-ASCII name", get("\u{c4}: c\r\n"), Ends(400)),
        ("value with NUL", get("A: b\0c\r\n"), Ends(400)),
        ("value with a control character", get("A: b\x01c\r\n"), Ends(400)),
        ("value with DEL", get("A: b\x7fc\r\n"), Ends(400)),
        ("value with bytes beyond ASCII", get("A: caf\u{e9}\r\n"), Fine),
        ("value with a tab", get("A: b\tc\r\n"), Fine),
        ("empty value", get("A:\r\n"), Fine),
        ("spaces around a value", get("A:   b   \r\n"), Fine),
        ("field of 65 others", get(&"A: b\r\n".repeat(65)), Ends(431)),
        ("long field", get(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX))), Ends(431)),
        ("long target", line(&format!("GET /{} HTTP/1.1", "a".repeat(HEAD_BYTES_MAX))), Ends(414)),
        ("long method", line(&format!("{} / HTTP/1.1", "A".repeat(HEAD_BYTES_MAX))), Ends(414)),
        // Host (§3.2).
        ("no Host", raw(b"GET /healthz HTTP/1.1\r\n\r\n"), Ends(400)),
        ("two Hosts", get("Host: x\r\n"), Ends(400)),
        ("two different Hosts", get("Host: y\r\n"), Ends(400)),
        ("Host with a path", raw(b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n"), Ends(400)),
        ("Host with a user", raw(b"GET /healthz HTTP/1.1\r\nHost: u@x\r\n\r\n"), Ends(400)),
        ("Host with a space", raw(b"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n"), Ends(400)),
        ("Host with a comma", raw(b"GET /healthz HTTP/1.1\r\nHost: x,y\r\n\r\n"), Ends(400)),
        ("empty Host", raw(b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n"), Fine),
        ("Host with a port", raw(b"GET /healthz HTTP/1.1\r\nHost: x:8080\r\n\r\n"), Fine),
        ("Host with a port that is none", raw(b"GET /healthz HTTP/1.1\r\nHost: x:8o\r\n\r\n"), Ends(400)),
        ("Host of IPv6", raw(b"GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), Fine),
        // Lengths (§6): this server takes no bodies, so a request with a length is refused.
        ("length 0", get("Content-Length: 0\r\n"), Fine),
        ("length 0 twice", get("Content-Length: 0\r\nContent-Length: 0\r\n"), Fine),
        ("length", get("Content-Length: 5\r\n"), Ends(413)),
        ("two different lengths", get("Content-Length: 0\r\nContent-Length: 5\r\n"), Ends(400)),
        ("a list of lengths", get("Content-Length: 0, 0\r\n"), Ends(400)),
        ("a list of different lengths", get("Content-Length: 0, 5\r\n"), Ends(400)),
        ("length with a sign", get("Content-Length: +0\r\n"), Ends(400)),
        ("negative length", get("Content-Length: -1\r\n"), Ends(400)),
        ("hexadecimal length", get("Content-Length: 0x0\r\n"), Ends(400)),
        ("length with a space within", get("Content-Length: 0 0\r\n"), Ends(400)),
        ("length with an underscore", get("Content-Length: 1_0\r\n"), Ends(400)),
        ("empty length", get("Content-Length:\r\n"), Ends(400)),
        ("length beyond 64 bits", get("Content-Length: 18446744073709551616\r\n"), Ends(400)),
        ("length in other digits", get("Content-Length: \u{0660}\r\n"), Ends(400)),
        ("length with a vertical tab", get("Content-Length: \x0b0\r\n"), Ends(400)),
        ("misspelt length", get("Content_Length: 5\r\n"), Fine),
        ("length with a space before its colon", get("Content-Length : 5\r\n"), Ends(400)),
        ("chunked", get("Transfer-Encoding: chunked\r\n"), Ends(400)),
        ("chunked and a length", get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), Ends(400)),
        ("a length and chunked", get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Ends(400)),
        ("chunked in capitals", get("TRANSFER-ENCODING: CHUNKED\r\n"), Ends(400)),
        ("chunked after a tab", get("Transfer-Encoding:\tchunked\r\n"), Ends(400)),
        ("chunked after a vertical tab", get("Transfer-Encoding: \x0bchunked\r\n"), Ends(400)),
        ("xchunked", get("Transfer-Encoding: xchunked\r\n"), Ends(400)),
        ("identity", get("Transfer-Encoding: identity\r\n"), Ends(400)),
        ("chunked, identity", get("Transfer-Encoding: chunked, identity\r\n"), Ends(400)),
        ("chunked twice", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Ends(400)),
        ("chunked in quotes", get("Transfer-Encoding: \"chunked\"\r\n"), Ends(400)),
        ("empty encoding", get("Transfer-Encoding:\r\n"), Ends(400)),
        ("chunked in a folded line", get("Transfer-Encoding:\r\n chunked\r\n"), Ends(400)),
        ("encoding with a space before its colon", get("Transfer-Encoding : chunked\r\n"), Ends(400)),
        // A field that identifies the client must not be there twice.
        ("two Authorizations", get("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), Ends(400)),
        ("two Origins", get("Origin: https://a\r\nOrigin: https://b\r\n"), Ends(400)),
        ("two keys", get("Sec-WebSocket-Key: a\r\nSec-WebSocket-Key: b\r\n"), Ends(400)),
        ("Expect", get("Expect: 100-continue\r\n"), Fine),
        ("HTTP/1.1 closed", get("Connection: close\r\n"), Ends(200)),
        ("HTTP/1.0", raw(b"GET /healthz HTTP/1.0\r\n\r\n"), Ends(200)),
        ("HTTP/1.0 kept", raw(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), Fine),
    ]
}

#[test]
fn each_head_has_its_one_right_answer() {
    let server = Server::start(&format!("[http]\nmax_header = {HEAD_BYTES_MAX}"));
    let mut wrong = Vec::new();
    let cases = cases();
    let count = cases.len();
    for (name, bytes, right) in cases {
        let mut http = Http::connect(server.address);
        // The smuggled request must be answered exactly if the connection stays open after the first request.
        let next = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
        http.stream.write_all(&[&bytes[..], next].concat()).unwrap();
        let first = http.answer(false);
        let expected = match right {
            Fine => 200,
            Refused(status) | Ends(status) => status,
        };
        let goes_on = (!http.waiting.is_empty() || http.fill()) && http.answer(false).body == "ready\n";
        let should_go_on = !matches!(right, Ends(_));
        if first.status != expected || goes_on != should_go_on {
            wrong.push(format!(
                "{name}: {} and {}, not {right:?}",
                first.status,
                if goes_on { "open" } else { "closed" }
            ));
        }
    }
    assert!(wrong.is_empty(), "of {count}:\n{}", wrong.join("\n"));
    assert!(count >= 115, "{count} cases");
}
