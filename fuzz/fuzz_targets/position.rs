//! Ids and queries: an id that was written out reads back as the same one and has a successor, and a query keeps to the
//! limit on channels and names each of them once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::id::Id;
use ringcast::logic::protocol::query;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string().parse::<Id>(), Ok(id));
        // The largest id has no successor. A client may name it, but the server never assigns it.
        assert!(id.next(0) > id || id.next(u64::MAX) == id);
    }
    if let Ok(found) = query::parse(text, 5) {
        assert!(found.channels.len() <= 5);
        for (place, name) in found.channels.iter().enumerate() {
            assert!(!name.is_empty() && !found.channels[..place].contains(name));
        }
    }
});
