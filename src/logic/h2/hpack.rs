//! HPACK (RFC 7541): fields out of a block, and blocks out of fields.
//!
//! The server allows clients no table of their own (HEADER_TABLE_SIZE 0). Until a client has seen that it may use one of 4096
//! bytes, which is kept as long as the client has it and dropped when the client says so. The server itself writes no entries.

use std::collections::VecDeque;

use super::error::ErrorCode;
use super::{fixed, huffman};

/// The size that a client's table may have before the client knows better (RFC 9113 §6.5.2).
pub(super) const TABLE_MAX: u16 = 4096;
/// What an entry costs beside its bytes (RFC 7541 §4.1).
const ENTRY: usize = 32;
/// The changes of the table's size at the beginning of one block (RFC 7541 §4.2).
const CHANGES_MAX: usize = 2;

/// A name and its value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// The table of entries that a client keeps.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    /// The newest entry first.
    entries: VecDeque<Entry>,
    size: usize,
}

/// The state of decoding that lasts from block to block.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The client's table, if something is in it.
    table: Option<Box<Dynamic>>,
    /// The size that the client has given its table.
    size_max: u16,
    /// The client has acknowledged that it may have no table.
    pub(super) is_told: bool,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: None, size_max: TABLE_MAX, is_told: false }
    }
}

/// Takes the fields of a block one by one.
pub(super) trait Sink {
    /// Takes a field.
    ///
    /// # Errors
    /// If the block is not to be decoded any further.
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ErrorCode>;
}

/// A text of a block: as it stands there, or behind the texts that were decoded before.
enum Text {
    Plain(usize, usize),
    Decoded(usize, usize),
}

/// The block that is being decoded, and memory for its texts.
struct Block<'a> {
    bytes: &'a [u8],
    at: usize,
    decoded: Vec<u8>,
}

const BAD: ErrorCode = ErrorCode::Compression;

impl Block<'_> {
    fn byte(&mut self) -> Result<u8, ErrorCode> {
        let byte = *self.bytes.get(self.at).ok_or(BAD)?;
        self.at += 1;
        Ok(byte)
    }

    /// A number whose first bits stand in the lower `bits` of `first` (RFC 7541 §5.1), of five bytes at most.
    fn number(&mut self, first: u8, bits: u32) -> Result<usize, ErrorCode> {
        let most = (1u32 << bits) - 1;
        let mut number = u32::from(first) & most;
        if number < most {
            return Ok(number as usize);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number = number.checked_add(u32::from(byte & 0x7f) << shift).ok_or(BAD)?;
            if byte & 0x80 == 0 {
                return Ok(number as usize);
            }
        }
        Err(BAD)
    }

    fn text(&mut self) -> Result<Text, ErrorCode> {
        let first = self.byte()?;
        let length = self.number(first, 7)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(BAD)?;
        let start = std::mem::replace(&mut self.at, end);
        if first & 0x80 == 0 {
            return Ok(Text::Plain(start, end));
        }
        let before = self.decoded.len();
        huffman::decode(&self.bytes[start..end], &mut self.decoded).map_err(|_| BAD)?;
        Ok(Text::Decoded(before, self.decoded.len()))
    }

    fn get(&self, text: &Text) -> &[u8] {
        match text {
            Text::Plain(start, end) => &self.bytes[*start..*end],
            Text::Decoded(start, end) => &self.decoded[*start..*end],
        }
    }
}

impl Dynamic {
    fn insert(&mut self, name: &[u8], value: &[u8], size_max: usize) {
        let cost = name.len() + value.len() + ENTRY;
        self.shrink(size_max.saturating_sub(cost));
        if cost <= size_max {
            self.entries.push_front((name.into(), value.into()));
            self.size += cost;
        }
    }

    fn shrink(&mut self, size_max: usize) {
        while self.size > size_max
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

impl Decoder {
    /// The bytes of memory that the client's table takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.size + size_of::<Dynamic>())
    }

    /// Decodes a whole block.
    ///
    /// # Errors
    /// If the block is malformed ([`ErrorCode::Compression`]), or the sink's error. The connection cannot go on then, because
    /// the client's table is no longer known.
    pub(super) fn decode(&mut self, block: &[u8], sink: &mut impl Sink) -> Result<(), ErrorCode> {
        let mut block = Block { bytes: block, at: 0, decoded: Vec::new() };
        let mut changes = 0;
        while block.at < block.bytes.len() {
            block.decoded.clear();
            let first = block.byte()?;
            if first & 0xe0 == 0x20 {
                changes += 1;
                let size = block.number(first, 5)?;
                self.change_size(size, changes)?;
                continue;
            }
            // Changes of the size stand before the first field.
            changes = CHANGES_MAX;
            if first & 0x80 != 0 {
                let index = block.number(first, 7)?;
                let (name, value) = self.entry(index)?;
                sink.field(name, value)?;
            } else {
                self.literal(first, &mut block, sink)?;
            }
        }
        Ok(())
    }

    fn change_size(&mut self, size: usize, changes: usize) -> Result<(), ErrorCode> {
        let most = if self.is_told { 0 } else { usize::from(TABLE_MAX) };
        if changes > CHANGES_MAX || size > most {
            return Err(BAD);
        }
        self.size_max = size as u16;
        if let Some(table) = &mut self.table {
            table.shrink(size);
            if table.entries.is_empty() {
                self.table = None;
            }
        }
        Ok(())
    }

    /// The field at an index over both tables (RFC 7541 §2.3.3).
    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), ErrorCode> {
        if let Some((name, value)) = fixed::field(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let place = index.checked_sub(fixed::FIELDS.len() + 1).ok_or(BAD)?;
        let entry = self.table.as_ref().and_then(|table| table.entries.get(place));
        entry.map(|(name, value)| (&**name, &**value)).ok_or(BAD)
    }

    fn literal(&mut self, first: u8, block: &mut Block<'_>, sink: &mut impl Sink) -> Result<(), ErrorCode> {
        let is_kept = first & 0x40 != 0;
        let index = block.number(first, if is_kept { 6 } else { 4 })?;
        let name = if index == 0 { Some(block.text()?) } else { None };
        let value = block.text()?;
        let value = block.get(&value);
        let name = match &name {
            Some(text) => block.get(text),
            None => self.entry(index)?.0,
        };
        sink.field(name, value)?;
        if is_kept && self.size_max > 0 {
            // The name may be that of an entry which has to go for the new one.
            let name: Box<[u8]> = name.into();
            let table = self.table.get_or_insert_default();
            table.insert(&name, value, usize::from(self.size_max));
            if table.entries.is_empty() {
                self.table = None;
            }
        }
        Ok(())
    }
}

/// Appends a number whose first bits stand beside `high` in a byte (RFC 7541 §5.1).
fn write_number(high: u8, bits: u32, number: usize, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if number < most {
        return out.push(high | number as u8);
    }
    out.push(high | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    write_number(0, 7, text.len(), out);
    out.extend_from_slice(text);
}

/// Appends a response's status to a block.
pub fn write_status(status: u16, out: &mut Vec<u8>) {
    let index = match status {
        200 => 8,
        204 => 9,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => 0,
    };
    if index > 0 {
        return out.push(0x80 | index);
    }
    write_number(0, 4, 8, out);
    let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
    write_text(&digits, out);
}

/// Appends a field to a block, which is kept in no table. `name` is written in lower case (RFC 9113 §8.2).
pub fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let name = name.to_ascii_lowercase();
    match fixed::index_of(&name) {
        Some(index) => write_number(0, 4, index, out),
        None => {
            out.push(0);
            write_text(name.as_bytes(), out);
        }
    }
    write_text(value, out);
}
