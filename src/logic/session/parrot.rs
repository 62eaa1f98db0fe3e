//! The protocol of the tests: made up, and unlike the others in whatever a protocol may decide by itself. It shows that
//! a protocol is one file, one row of the table and one route.
//!
//! It is spoken on a WebSocket, in text messages of one line:
//!
//! | from the client | |
//! |---|---|
//! | `REF JOIN a,b` or `REF JOIN a,b ID` | more channels, from now or after an id |
//! | `REF PART a,b` | fewer |
//! | `REF SAY VALUE` | a JSON value to the backend |
//! | `REF CAST c TEXT` | an event |
//! | `REF KEY TOKEN` | the token |
//! | `REF POLLY` | a ping |
//! | `QUIT` | the end |
//!
//! | from the server | |
//! |---|---|
//! | `HELLO name` | the session begins |
//! | `REF OK`, `REF OK ID`, `REF POLLY`, `REF NO code words` | what became of a request, always |
//! | `EVENT id channel data` | an event |
//! | `LOST after resumed`, `END channel`, `OUT channel words`, `PSST data` | notices |
//! | `BYE reason milliseconds words` | the end, always, and then a close code from 4900 on |
//! | `TICK` | a heartbeat, which the client answers with anything |

use std::fmt::Write;

use crate::logic::code::Code;
use crate::logic::event::{Draft, Event, Kind};
use crate::logic::id::Id;
use crate::logic::protocol::ws::{self, Opcode};
use crate::logic::refusal::Refusal;

use super::coding::Coding;
use super::intent::{ChannelArg, Intent};
use super::notice::{Farewell, Notice, Outcome, Payload, Welcome};
use super::protocol::{Carrier, Protocol};

/// The protocol of the tests.
pub(super) struct Parrot;

/// The first close code; a reason's own is as much greater as the reason's number.
const CLOSE_FIRST: u16 = 4900;

impl Protocol for Parrot {
    fn name(&self) -> &'static str {
        "parrot"
    }

    fn carrier(&self) -> Carrier {
        Carrier::WebSocket
    }

    fn subprotocol(&self) -> Option<&'static str> {
        Some("parrot.v1")
    }

    fn takes_requests(&self) -> bool {
        true
    }

    fn token_first(&self) -> &'static str {
        "KEY comes first"
    }

    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        ws::write_frame_with(out, Opcode::Text, |out| {
            out.extend_from_slice(b"EVENT ");
            event.id.write(out);
            out.push(b' ');
            out.extend_from_slice(event.channel.as_bytes());
            out.push(b' ');
            event.draft.write_json_data(out);
        });
    }

    fn interpret<'a>(&self, message: Payload<'a>) -> Intent<'a> {
        let Payload::Text(text) = message else { return unreadable() };
        let mut words = text.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("QUIT"), None, _) => Intent::Leave(CLOSE_FIRST),
            (Some(reference), Some(verb), rest) => request(reference, verb, rest.unwrap_or_default()),
            _ => unreadable(),
        }
    }

    fn welcome(&self, welcome: &Welcome<'_>, out: &mut Vec<u8>) {
        line(out, format_args!("HELLO {} {}", welcome.connection, welcome.position));
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        match notice {
            Notice::Reply { reference, outcome } => {
                let reference = reference.unwrap_or("-");
                match outcome {
                    Outcome::Done => line(out, format_args!("{reference} OK")),
                    Outcome::Subscribed(id) | Outcome::Published(id) => line(out, format_args!("{reference} OK {id}")),
                    Outcome::Pong(word) => line(out, format_args!("{reference} {word}")),
                    Outcome::Refused(Refusal { code, message, .. }) => {
                        line(out, format_args!("{reference} NO {code} {message}"));
                    }
                }
            }
            Notice::Gap { after, resumed, .. } => line(out, format_args!("LOST {after} {resumed}")),
            Notice::Ended { channel } => line(out, format_args!("END {channel}")),
            Notice::Unsubscribed { channel, reason } => line(out, format_args!("OUT {channel} {reason}")),
            Notice::Direct(draft) => ws::write_frame_with(out, Opcode::Text, |out| {
                out.extend_from_slice(b"PSST ");
                draft.write_json_data(out);
            }),
            Notice::Pong(payload) => ws::write_frame(out, Opcode::Pong, payload),
            Notice::Beat | Notice::Same(_) | Notice::PollAnswer { .. } => {}
        }
    }

    fn heartbeat(&self, _coding: Coding) -> Option<&'static [u8]> {
        Some(b"\x81\x04TICK")
    }

    fn close(&self, farewell: &Farewell<'_>, out: &mut Vec<u8>) {
        let Farewell { reason, words, retry_ms, close_code, .. } = *farewell;
        line(out, format_args!("BYE {} {retry_ms} {words}", reason.name()));
        ws::write_close(out, close_code.unwrap_or(CLOSE_FIRST + reason as u16), words);
    }
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let mut message = String::new();
    message.write_fmt(text).unwrap();
    ws::write_frame(out, Opcode::Text, message.as_bytes());
}

fn unreadable<'a>() -> Intent<'a> {
    refuse(Refusal::new(Code::BadMessage, "SQUAWK"), None, false)
}

fn refuse(refusal: Refusal, reference: Option<&str>, is_read: bool) -> Intent<'_> {
    Intent::Refuse { refusal, reference, is_read }
}

fn request<'a>(reference: &'a str, verb: &str, rest: &'a str) -> Intent<'a> {
    let of = Some(reference);
    let intent = match verb {
        "JOIN" => join(rest, of),
        "PART" => Ok(Intent::Unsubscribe { channels: rest.split(',').map(Into::into).collect(), reference: of }),
        "SAY" => Ok(Intent::Send { data: rest, reference: of }),
        "CAST" => cast(rest, of),
        "KEY" => Ok(Intent::Token { token: rest.into(), reference: of }),
        "POLLY" => Ok(Intent::Reply(Notice::Reply { reference: of, outcome: Outcome::Pong("POLLY") })),
        _ => Err(Refusal::new(Code::BadMessage, "SQUAWK")),
    };
    intent.unwrap_or_else(|refusal| refuse(refusal, of, true))
}

fn join<'a>(rest: &'a str, reference: Option<&'a str>) -> Result<Intent<'a>, Refusal> {
    let (names, after) = rest.split_once(' ').map_or((rest, None), |(names, after)| (names, Some(after)));
    let after = after.map(Id::of_client);
    let channels = names.split(',').map(|name| Ok((ChannelArg::new(name.into())?, after)));
    Ok(Intent::Subscribe { channels: channels.collect::<Result<_, Refusal>>()?, reference })
}

fn cast<'a>(rest: &'a str, reference: Option<&'a str>) -> Result<Intent<'a>, Refusal> {
    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let draft = Draft { name: None, kind: Kind::Text, payload: text.as_bytes().to_vec().into() };
    Ok(Intent::Publish { channel: ChannelArg::new(name.into())?, draft, reference })
}
