//! Reading Redis' replies.

use bytes::Bytes;
use redis::{RedisError, Value};

use crate::logic::entry::{Entry, Fields};
use crate::logic::id::Id;

/// An error as a sentence without the library's own words.
pub(super) fn sentence(error: &RedisError) -> String {
    let what = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    };
    format!("the broker: {what}")
}

/// The number that a reply is.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => text(value)?.parse().ok(),
    }
}

/// The text that a reply is.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The id that a reply is.
pub(super) fn id_of(value: &Value) -> Option<Id> {
    text(value)?.parse().ok()
}

/// A member of a reply that is a map, or a list of names and values.
pub(super) fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Map(pairs) => pairs.iter().find(|(key, _)| text(key) == Some(name)).map(|(_, value)| value),
        Value::Array(list) => list.chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1]),
        _ => None,
    }
}

/// The entries of a reply to `XREAD` of one stream.
pub(super) fn entries_of(reply: Value) -> Vec<Entry> {
    let stream = match reply {
        Value::Array(mut streams) if !streams.is_empty() => match streams.swap_remove(0) {
            Value::Array(mut pair) if pair.len() == 2 => pair.swap_remove(1),
            _ => return Vec::new(),
        },
        Value::Map(mut streams) if !streams.is_empty() => streams.swap_remove(0).1,
        _ => return Vec::new(),
    };
    let Value::Array(entries) = stream else { return Vec::new() };
    entries.into_iter().filter_map(entry_of).collect()
}

/// One entry, `[id, [name, value, …]]`.
fn entry_of(value: Value) -> Option<Entry> {
    let Value::Array(mut pair) = value else { return None };
    let id = id_of(pair.first()?)?;
    let mut fields = Fields::default();
    if let Some(Value::Array(list)) = pair.pop() {
        let mut list = list.into_iter();
        while let (Some(name), Some(value)) = (list.next(), list.next()) {
            if let (Value::BulkString(name), Value::BulkString(value)) = (name, value) {
                fields.take(&name, Bytes::from(value));
            }
        }
    }
    let (origin, content) = fields.read();
    Some(Entry { id, at_ms: id.ms(), origin, content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::entry::Content;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_read_from_a_reply() {
        let fields = Value::Array(["c", "a", "d", "1", "o", "n.5"].map(bulk).to_vec());
        let entry = Value::Array(vec![bulk("17-3"), fields]);
        let deleted = Value::Array(vec![bulk("18-0"), Value::Nil]);
        let reply = Value::Array(vec![Value::Array(vec![bulk("key"), Value::Array(vec![entry, deleted])])]);
        let entries = entries_of(reply);
        assert_eq!((entries.len(), entries[0].id, entries[0].at_ms), (2, Id::new(17, 3), 17));
        assert_eq!(entries[0].origin.as_ref().map(|origin| origin.number), Some(5));
        assert!(matches!(entries[1].content, Content::Bad(_)));
        assert_eq!(entries_of(Value::Nil), []);
        assert_eq!(entries_of(Value::Array(vec![Value::Int(1)])), []);
    }

    #[test]
    fn members_are_found_in_both_versions_of_the_protocol() {
        let list = Value::Array(vec![bulk("length"), Value::Int(3), bulk("last-generated-id"), bulk("5-1")]);
        let map = Value::Map(vec![(bulk("length"), Value::Int(3)), (bulk("last-generated-id"), bulk("5-1"))]);
        for value in [list, map] {
            assert_eq!(member(&value, "length").and_then(integer), Some(3));
            assert_eq!(member(&value, "last-generated-id").and_then(id_of), Some(Id::new(5, 1)));
            assert_eq!(member(&value, "groups"), None);
        }
    }
}
