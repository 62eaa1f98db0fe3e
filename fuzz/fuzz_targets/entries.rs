//! Entries of a cluster's log: packed messages and lists of fields from anybody are read without harm, and what was read is
//! written and read again as the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringcast::logic::entry::{Content, Fields, Origin, packed};

fuzz_target!(|bytes: &[u8]| {
    // The names and the values of fields as a Redis stream has them: a length, and so many bytes.
    let mut fields = Fields::default();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (part, after) = after.split_at((*length as usize).min(after.len()));
        let (name, value) = part.split_at(part.len().min(1));
        fields.take(name, Bytes::copy_from_slice(value));
        rest = after;
    }
    let mut found = vec![fields.read()];
    found.extend(packed::read(&Bytes::copy_from_slice(bytes)).unwrap_or_default());
    let readable = |(origin, content): &(Option<Origin>, Content)| origin.is_some() && !matches!(content, Content::Bad(_));
    found.retain(readable);
    let mut message = Vec::new();
    packed::begin(&mut message);
    for (origin, content) in &found {
        packed::push(&mut message, origin.as_ref().unwrap(), content);
    }
    assert_eq!(packed::read(&message.into()).unwrap(), found);
});
