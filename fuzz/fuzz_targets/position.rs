//! Ids and queries: what is read is written the same, and order is the order of what is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::id::Id;
use ringcast::logic::protocol::query;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string().parse::<Id>(), Ok(id));
        // The last id there can be has none after it; a client may name it, the server never gets there.
        assert!(id.next(0) > id || id.next(u64::MAX) == id);
    }
    if let Ok(found) = query::parse(text, 5) {
        assert!(found.channels.len() <= 5);
        for (place, name) in found.channels.iter().enumerate() {
            assert!(!name.is_empty() && !found.channels[..place].contains(name));
        }
    }
});
