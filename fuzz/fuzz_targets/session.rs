//! Messages of WebSocket sessions, in every protocol: a message has one interpretation, a reply consists of whole frames,
//! and no request for channels is carried out before the token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::protocol::ws::parse_server_frame;
use ringcast::logic::session::{Carrier, Intent, LaneKey, Notice, Outcome, Payload, Spoken, TABLE};

fn is_whole(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(Some(frame)) = parse_server_frame(bytes) else { return false };
        bytes = &bytes[frame.consumed..];
    }
    true
}

fuzz_target!(|input: (String, Vec<u8>)| {
    let (text, bytes) = input;
    let sockets = [Spoken::WS_JSON, Spoken::WS_RAW, Spoken::ECHO];
    assert_eq!(sockets.len(), TABLE.iter().filter(|protocol| protocol.carrier() == Carrier::WebSocket).count());
    for spoken in sockets {
        let (protocol, key) = (spoken.protocol(), LaneKey::of(spoken, true));
        for payload in [Payload::Text(&text), Payload::Binary(&bytes)] {
            let intent = protocol.interpret(payload);
            assert_eq!(intent, protocol.interpret(payload));
            let mut out = Vec::new();
            match &intent {
                Intent::Reply(notice) => key.notify(notice, &mut out),
                Intent::Refuse { refusal, reference, .. } => {
                    let outcome = Outcome::Refused(refusal);
                    key.notify(&Notice::Reply { reference: *reference, outcome }, &mut out);
                }
                _ => {}
            }
            assert!(is_whole(&out));
            assert!(!matches!(
                intent.before_token(protocol.token_first()),
                Intent::Subscribe { .. } | Intent::Unsubscribe { .. } | Intent::Publish { .. } | Intent::Send { .. }
            ));
        }
    }
});
