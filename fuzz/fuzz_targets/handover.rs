//! The records of a hand-over: whatever a predecessor sends, it is read or refused, within the memory that it takes itself, and what
//! is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringcast::logic::handover::words::Word;
use ringcast::logic::handover::{FormatError, Kind, Packer, Record, Unpacker, clients, feeds};
use ringcast::logic::tls::Keys;

/// Reads a body, writes it, and reads it again.
fn again<T: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let record = T::decode(body).ok()?;
    assert_eq!(T::decode(&record.encode_to_vec()[..]).as_ref(), Ok(&record));
    Some(record)
}

fn read(Record { kind, body, .. }: Record<'_>) {
    match kind {
        Kind::Shard => drop(again::<clients::Shard>(body)),
        Kind::Listener => drop(again::<clients::Listener>(body)),
        Kind::Dialect => drop(again::<clients::Dialect>(body)),
        Kind::Channel => drop(again::<clients::Channel>(body)),
        Kind::Lane => drop(again::<clients::Lane>(body)),
        Kind::Frames => drop(again::<clients::Frames>(body)),
        Kind::Connection => {
            if let Some(tls) = again::<clients::Connection>(body).and_then(|connection| connection.tls) {
                let _ = Keys::of_record(&tls);
            }
        }
        Kind::Hub => drop(again::<feeds::Hub>(body)),
        Kind::HubChannel => drop(again::<feeds::HubChannel>(body)),
        Kind::Events => drop(again::<feeds::Events>(body)),
        Kind::Key => drop(again::<feeds::Key>(body)),
        Kind::Revoked => drop(again::<feeds::Revoked>(body)),
        Kind::Account => drop(again::<feeds::Account>(body)),
        Kind::Publisher => drop(again::<feeds::Publisher>(body)),
        Kind::Ear => drop(again::<feeds::Ear>(body)),
        Kind::Part | Kind::End | Kind::Feed => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Word::from_bytes(bytes);
    let mut records = Vec::new();
    let taken = Unpacker::default().take(bytes, |record, _| {
        if let Some(record) = record {
            read(record);
            records.push((record.kind, record.body.to_vec(), record.has_socket));
        }
        Ok::<(), FormatError>(())
    });
    if taken.is_err() {
        return;
    }
    // What was read comes out of a packer as it went in.
    let (mut packer, mut messages) = (Packer::default(), Vec::new());
    let mut keep = |message: &[u8]| -> Result<(), FormatError> {
        messages.push(message.to_vec());
        Ok(())
    };
    for (kind, body, has_socket) in &records {
        packer.add(*kind, body, *has_socket, &mut keep).expect("nothing fails here");
    }
    packer.end(&mut keep).expect("nothing fails here");
    let (mut unpacker, mut found) = (Unpacker::default(), Vec::new());
    for message in &messages {
        let taken = unpacker.take(message, |record, _| {
            found.extend(record.map(|record| (record.kind, record.body.to_vec(), record.has_socket)));
            Ok::<(), FormatError>(())
        });
        assert_eq!(taken, Ok(()));
    }
    assert!(unpacker.is_over() && found == records);
});
