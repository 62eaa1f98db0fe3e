//! Several entries in one message, for brokers that order messages at a cost per message.
//!
//! A message begins with a byte for the version. Each entry is the number of its fields in one byte, and each field its
//! name in one byte, its length in four bytes, the lowest first, and its value.

use bytes::Bytes;

use super::{Content, EntryError, Fields, Origin, field};

/// The version that is written.
const VERSION: u8 = 1;
/// The bytes of a field before its value.
const FIELD_HEAD: usize = 5;

/// The bytes of a message without entries.
pub fn begin(out: &mut Vec<u8>) {
    out.push(VERSION);
}

/// Appends an entry of a node.
pub fn push(out: &mut Vec<u8>, origin: &Origin, content: &Content) {
    push_fields(out, Some(origin), content);
}

/// Appends an entry that is no node's own.
pub fn push_unowned(out: &mut Vec<u8>, content: &Content) {
    push_fields(out, None, content);
}

fn push_fields(out: &mut Vec<u8>, origin: Option<&Origin>, content: &Content) {
    let count_at = out.len();
    out.push(0);
    let mut count = 0;
    let mut add = |name: &[u8], value: &[u8]| {
        out.push(name[0]);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
        count += 1;
    };
    content.write(|name, value| add(name, &value));
    if let Some(origin) = origin {
        add(field::ORIGIN, &origin.to_bytes());
    }
    out[count_at] = count;
}

/// Reads the entries of a message, in their order.
///
/// # Errors
/// If the message is of another version, or damaged. Nothing of it can be told apart then.
pub fn read(message: &Bytes) -> Result<Vec<(Option<Origin>, Content)>, EntryError> {
    let damaged = |at: usize| EntryError::Packed(at);
    if message.first() != Some(&VERSION) {
        return Err(damaged(0));
    }
    let mut at = 1;
    let mut entries = Vec::new();
    while at < message.len() {
        let count = message[at];
        at += 1;
        let mut fields = Fields::default();
        for _ in 0..count {
            let head = message.get(at..at + FIELD_HEAD).ok_or(damaged(at))?;
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let start = at + FIELD_HEAD;
            let end = start.checked_add(length).filter(|end| *end <= message.len()).ok_or(damaged(at))?;
            fields.take(&head[..1], message.slice(start..end));
            at = end;
        }
        entries.push(fields.read());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::entry::{Control, Logged, Part};
    use crate::logic::event::{Draft, Kind};
    use proptest::prelude::*;

    fn content(text: &str) -> Content {
        let draft = Draft { name: None, kind: Kind::Text, payload: Bytes::copy_from_slice(text.as_bytes()) };
        Content::Event(Logged { channel: "c".into(), draft, key: None, part: Part::ONLY, is_client: false })
    }

    #[test]
    fn entries_are_unpacked_as_they_were_packed() {
        let origin = |number| Origin { node: "a.1".into(), number };
        let contents = [content("x"), content(&"long ".repeat(1000)), Content::Control(Control::Hello {}), content("")];
        let mut message = Vec::new();
        begin(&mut message);
        for (number, content) in contents.iter().enumerate() {
            push(&mut message, &origin(number as u64), content);
        }
        let message = Bytes::from(message);
        let read = super::read(&message).unwrap();
        assert_eq!(read.len(), contents.len());
        for (number, (found, content)) in read.into_iter().enumerate() {
            assert_eq!((found, &content), (Some(origin(number as u64)), &contents[number]));
        }
        assert!(matches!(super::read(&message.slice(..message.len() - 1)), Err(EntryError::Packed(at)) if at > 1));
        assert_eq!(super::read(&Bytes::from_static(b"\x02")), Err(EntryError::Packed(0)));
        assert_eq!(super::read(&Bytes::new()), Err(EntryError::Packed(0)));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(mut bytes in any::<Vec<u8>>()) {
            bytes.insert(0, VERSION);
            let _ = super::read(&bytes.into());
        }
    }
}
