//! The bounds of configuration keys: no value within them aborts the server at its start or at the first request of any
//! kind, and values beyond them are refused with the key's name.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;

use super::clients::{Http, get};
use super::server::{Server, command, eventually, publish};

/// A key whose value is a quantity, as docs/configuration.md describes it.
#[derive(Clone, Debug)]
struct Quantity {
    section: String,
    key: String,
    unit: &'static str,
    least: u64,
    most: u64,
}

/// A quantity's value, in bytes, milliseconds or things.
fn value(text: &str) -> u64 {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("", 1),
    ];
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).unwrap_or_else(|| panic!("{text}"));
    number.parse::<u64>().unwrap() * factor
}

/// Every key with bounds.
fn quantities() -> Vec<Quantity> {
    let mut found = Vec::new();
    let mut section = String::new();
    for line in include_str!("../../docs/configuration.md").lines() {
        if let Some(name) = line.strip_prefix("## `[") {
            section = name.trim_end_matches("]`").replace("NAME", "\"*\"");
        }
        let mut cells = line.split(" | ").map(|cell| cell.trim_matches(['|', '`', ' ']));
        let (Some(key), Some(_), Some(allowed)) = (cells.next(), cells.next(), cells.next()) else { continue };
        let Some((kind, bounds)) = allowed.split_once(", ") else { continue };
        let unit = match kind {
            "number" | "size" => "",
            "duration" => "ms",
            _ => continue,
        };
        let (least, most) = match bounds.split_once(" to ") {
            Some((least, most)) => (value(least.trim_start_matches("from ")), value(most)),
            None => (0, value(bounds.trim_start_matches("at most "))),
        };
        // The number of shards is a flag of these tests: a thousand threads would only be slow.
        if key != "shards" {
            found.push(Quantity { section: section.clone(), key: key.into(), unit, least, most });
        }
    }
    assert!(found.len() > 35, "only {} keys were found", found.len());
    found
}

/// A configuration with a value for each key.
fn configuration(quantities: &[Quantity], mut choose: impl FnMut(&Quantity) -> u64) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    for quantity in quantities {
        let Quantity { section, key, unit, .. } = quantity;
        let value = match *unit {
            "ms" => format!("\"{}ms\"", choose(quantity)),
            _ => choose(quantity).to_string(),
        };
        sections.entry(section).or_default().push_str(&format!("{key} = {value}\n"));
    }
    sections.iter().map(|(section, keys)| format!("[{section}]\n{keys}")).collect()
}

/// Sends a request of each kind. What is answered depends on the limits; that something is answered, or the connection
/// ends, does not.
fn use_server(config: &str) {
    let mut server = Server::start(config);
    let requests = [
        "GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /poll?channel=a&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /poll?channel=a&wait=100000000000000 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /ws?channel=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ];
    let mut feed = server.feed();
    for request in requests {
        let mut http = Http::connect(server.address);
        let _ = http.stream.write_all(request.as_bytes());
        http.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // A held poll ends with an event. A limit may close the connection instead of answering.
        eventually(&format!("{request} is answered with\n{config}"), || {
            publish(&mut feed, "a", "x");
            http.stream.read(&mut [0; 512]).is_ok().then_some(())
        });
        if request.contains("/ws") {
            // A masked text message, with a key of zeros.
            let _ = http.stream.write_all(b"\x81\x8d\0\0\0\0{\"publish\":1}");
        }
        let _ = feed.call(json!({ "op": "publish", "channel": "a", "data": "y", "key": "k" }));
    }
    let _ = feed.call(json!({ "op": "history", "channel": "a" }));
    assert_eq!(get(server.admin, "/healthz").status, 200);
    let resident = server.resident_bytes();
    assert!(resident < 256 << 20, "{resident} bytes with\n{config}");
    server.signal(libc::SIGTERM);
    // A long drain need not be waited for: the second signal ends it.
    server.signal(libc::SIGTERM);
    assert!(server.await_exit().success(), "{config}\n{:?}", server.log.lock().unwrap());
}

#[test]
fn no_value_within_its_bounds_aborts_the_server() {
    let quantities = quantities();
    use_server(&configuration(&quantities, |quantity| quantity.least));
    use_server(&configuration(&quantities, |quantity| quantity.most));
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = configuration(&quantities, |Quantity { least, most, .. }| {
            match rng.u8(..4) {
                0 => *least,
                1 => *most,
                // As many small values as large ones.
                _ => rng.u64(*least..=*most) >> rng.u32(..40),
            }
            .clamp(*least, *most)
        });
        use_server(&config);
    }
}

#[test]
fn a_value_beyond_its_bounds_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringcast.toml");
    for quantity in quantities() {
        let beyond = [Some(quantity.most + 1), quantity.least.checked_sub(1), Some(i64::MAX as u64)];
        for value in beyond.into_iter().flatten() {
            std::fs::write(&file, configuration(std::slice::from_ref(&quantity), |_| value)).unwrap();
            let output = command().args(["config", "check"]).arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // A quantity that is too large for its kind is refused with its line.
            let is_named =
                said.contains(&format!("{} must be", quantity.key)) || said.contains("line 2: invalid value");
            assert!(output.status.code() == Some(1) && is_named, "{quantity:?} = {value}: {said}");
        }
    }
}
