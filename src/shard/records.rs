//! Connections as records of a hand-over, and back. What can be made anew is left out: lists, polls of the ring, accounts.

use crate::logic::auth::Grants;
use crate::logic::code::Code;
use crate::logic::handover::FormatError;
use crate::logic::handover::clients as record;
use crate::logic::id::Id;
use crate::logic::protocol::ws::{Decoder, Unfinished};
use crate::logic::refusal::Refusal;
use crate::logic::session::Payload;
use crate::logic::tls::CertifiedClient;

use super::connection::{Connection, Flags, Gap, HeldPoll, Peer, Resume, State};
use super::context::Context;
use super::identities::Known;
use super::opening::{Nothing, Opening};
use super::waiting::{Aside, Asking, Decided, Hold, Waiting, Wanted};

/// The states' numbers in records.
const STATES: [(State, u32); 8] = [
    (State::Proxied, 1),
    (State::Greeting, 2),
    (State::Http, 3),
    (State::Stream, 4),
    (State::WebSocket, 5),
    (State::Poll, 6),
    (State::Closing, 7),
    (State::Lingering, 8),
];

/// The facts' bits in records. Facts that are about this process alone have none.
const FACTS: [(Flags, u32); 11] = [
    (Flags::HEARTBEAT, 1),
    (Flags::PINGED, 1 << 1),
    (Flags::KEEP_ALIVE, 1 << 2),
    (Flags::HTTP_1_1, 1 << 3),
    (Flags::COUNTED, 1 << 4),
    (Flags::LOGGED, 1 << 5),
    (Flags::REFUSED, 1 << 6),
    (Flags::VIA_PROXY, 1 << 7),
    (Flags::ASKED, 1 << 8),
    (Flags::SEALED, 1 << 9),
    (Flags::CLIENT_CLOSED, 1 << 10),
];

/// The fact that the kept input must be gone on with.
const MUST_READ: u32 = 1 << 11;

/// The holds' bits in records. A request that waits for messages of the predecessor's hub has had them.
const HOLDS: [(Hold, u32); 4] = [(Hold::REPLIES, 1), (Hold::AHEAD, 2), (Hold::BACKEND, 4), (Hold::UPSTREAM, 8)];

/// The places of a shard's channels, by the shard's numbers for them.
pub(super) type Places = std::collections::HashMap<u32, u32>;

/// The number of a state; `None` for states in which nothing is handed over.
pub(super) fn number_of(state: State) -> Option<u32> {
    STATES.iter().find(|(known, _)| *known == state).map(|(_, number)| *number)
}

/// The record of a connection, without its subscriptions, identity and TLS.
pub(super) fn of_connection(connection: &Connection, places: &Places) -> record::Connection {
    let flags = connection.flags;
    let holds = connection.holds();
    let must_read = flags.intersects(Flags::TO_END | Flags::UNREAD) || holds.contains(Hold::INBOX);
    let facts = FACTS.iter().filter(|(flag, _)| flags.intersects(*flag)).fold(0, |facts, (_, bit)| facts | bit);
    let (ip, port) = connection.peer.parts();
    let record = record::Connection {
        generation: connection.generation,
        state: number_of(connection.state).unwrap_or(0),
        facts: facts | if must_read || connection.is_decided() { MUST_READ } else { 0 },
        holds: HOLDS.iter().filter(|(hold, _)| holds.contains(*hold)).fold(0, |bits, (_, bit)| bits | bit),
        beat: connection.beat().map_or(0, |beat| beat.number().into()),
        ip: if connection.peer == Peer::default() { Vec::new() } else { ip.to_vec() },
        port: port.into(),
        opened: connection.opened,
        sent: connection.sent,
        received: connection.received,
        deadline: connection.deadline,
        events: connection.events,
        mid: connection.mid_frame().map(|index| index as u32),
        ..record::Connection::default()
    };
    let Some(extra) = &connection.extra else { return record };
    record::Connection {
        out: connection.out_bytes().to_vec(),
        input: extra.input.clone(),
        decoder: extra.decoder.unfinished().map(of_decoder),
        gap: extra.gap.as_ref().map(|gap| record::Gap { after: gap.after.bits(), resumed: gap.resumed.bits() }),
        poll: extra
            .poll
            .as_ref()
            .map(|poll| record::HeldPoll { origin: poll.origin.as_deref().map(Into::into), told: poll.told.bits() }),
        waiting: of_waiting(&extra.waiting),
        resumes: extra.resumes.iter().map(|resume| of_resume(resume, extra.out_sent, places)).collect(),
        ..record
    }
}

fn of_decoder(held: Unfinished<'_>) -> record::Decoder {
    let frame =
        held.frame.map(|(fin, mask, left)| record::Frame { fin, mask: u32::from_be_bytes(mask), left: left as u64 });
    record::Decoder { is_text: held.is_text, bytes: held.bytes.to_vec(), frame }
}

fn of_resume(resume: &Resume, out_sent: usize, places: &Places) -> record::Resume {
    let place = |channel: &u32| places.get(channel).copied();
    let sent = |(channel, id): &(u32, Id)| Some(record::Sent { channel: place(channel)?, id: id.bits() });
    record::Resume {
        number: resume.number,
        channels: resume.channels.iter().filter_map(place).collect(),
        sent: resume.sent.iter().filter_map(sent).collect(),
        after: resume.after.map(Id::bits),
        page_due: resume.page_due,
        wait: resume.wait,
        opening: resume.opening.as_ref().map(|opening| of_opening(opening, out_sent)),
    }
}

fn of_opening(opening: &Opening, out_sent: usize) -> record::Opening {
    let nothing = opening.nothing().map(|nothing| record::Nothing {
        origin: nothing.origin.as_deref().map(Into::into),
        start: nothing.head.start.saturating_sub(out_sent) as u32,
        end: nothing.head.end.saturating_sub(out_sent) as u32,
    });
    record::Opening { reply: opening.reference().map(Into::into), nothing, then: opening.behind().to_vec() }
}

fn of_aside(aside: &Aside) -> record::Aside {
    match aside.payload() {
        Payload::Text(text) => record::Aside { is_text: true, bytes: text.as_bytes().to_vec() },
        Payload::Binary(bytes) => record::Aside { is_text: false, bytes: bytes.to_vec() },
    }
}

fn of_refusal(refusal: &Refusal) -> record::Refusal {
    record::Refusal {
        code: refusal.code.name().into(),
        message: refusal.message.to_string(),
        channels: refusal.channels.clone(),
        close: refusal.close,
        retry_after_secs: refusal.retry_after_secs,
    }
}

fn of_waiting(waiting: &Waiting) -> Option<record::Waiting> {
    let nothing = record::Waiting::default();
    Some(match waiting {
        Waiting::Nothing => return None,
        Waiting::Token(wanted) => {
            let token = record::Wanted { channels: wanted.channels.clone(), after: wanted.after.map(Id::bits) };
            record::Waiting { token: Some(token), ..nothing }
        }
        Waiting::Upstream(aside) => record::Waiting { upstream: Some(of_aside(aside)), ..nothing },
        Waiting::Backend(asking) => {
            let Asking { number, channels, message } = &**asking;
            let message = message.as_ref().map(of_aside);
            let backend = record::Asking { number: *number, channels: channels.clone(), message };
            record::Waiting { backend: Some(backend), ..nothing }
        }
        Waiting::Decided(decided) => {
            let refusal = decided.outcome.as_ref().err().map(of_refusal);
            let message = decided.message.as_ref().map(of_aside);
            record::Waiting { decided: Some(record::Decided { refusal, message }), ..nothing }
        }
        Waiting::Refused(refusal) => record::Waiting { refused: Some(of_refusal(refusal)), ..nothing },
    })
}

/// The record of an identity, which ends at `ends_ms`, in milliseconds since 1970.
pub(super) fn of_identity(known: &Known, ends_ms: Option<u64>) -> record::Identity {
    let [subscribe, publish, names] = known.grants.parts();
    record::Identity {
        user: known.user.as_ref().map(|user| user.to_string()),
        token: known.token.as_ref().map(|token| token.to_string()),
        subscribe,
        publish,
        names,
        ends_ms,
        is_asked: known.is_asked,
    }
}

/// The record of a client that has come with a certificate.
pub(super) fn of_client(client: &CertifiedClient) -> record::Certified {
    let CertifiedClient { user, id, expires_s } = client.clone();
    record::Certified { user, id, expires_s }
}

/// The client of a record.
pub(super) fn to_client(client: record::Certified) -> CertifiedClient {
    let record::Certified { user, id, expires_s } = client;
    CertifiedClient { user, id, expires_s }
}

/// The identity of a record, which expires at `expires`.
pub(super) fn to_known(identity: record::Identity, expires: u32) -> Known {
    let record::Identity { user, token, subscribe, publish, names, is_asked, .. } = identity;
    Known {
        user: user.map(Into::into),
        token: token.map(Into::into),
        grants: Grants::of_parts([subscribe, publish, names]),
        expires,
        is_asked,
    }
}

/// A connection without socket, subscriptions and dialect, the state that it enters, and whether its kept input must be gone on
/// with. `channels` are the shard's channels by their places.
pub(super) fn to_connection(
    record: record::Connection,
    channels: &[u32],
    cx: &Context,
) -> Result<(Connection, State, bool), FormatError> {
    let state = STATES.iter().find(|(_, number)| *number == record.state).map(|(state, _)| *state);
    let state = state.ok_or(FormatError::Nonsense("a connection's state"))?;
    let mut connection = Connection {
        generation: record.generation,
        opened: record.opened.min(cx.now),
        sent: record.sent.min(cx.now),
        received: record.received.min(cx.now),
        deadline: record.deadline,
        events: record.events,
        peer: to_peer(&record.ip, record.port)?,
        ..Connection::default()
    };
    FACTS.iter().filter(|(_, bit)| record.facts & bit != 0).for_each(|(flag, _)| connection.flags.insert(*flag));
    if let Some(beat) = u8::try_from(record.beat).ok().and_then(crate::logic::session::Beat::from_number) {
        connection.set_beat(beat);
    }
    HOLDS.iter().filter(|(_, bit)| record.holds & bit != 0).for_each(|(hold, _)| connection.hold(*hold));
    let must_read = record.facts & MUST_READ != 0;
    let has_extra = !record.out.is_empty()
        || !record.input.is_empty()
        || record.decoder.is_some()
        || record.gap.is_some()
        || record.poll.is_some()
        || record.waiting.is_some()
        || !record.resumes.is_empty();
    if has_extra {
        fill_extra(&mut connection, record, channels)?;
    }
    Ok((connection, state, must_read))
}

fn fill_extra(connection: &mut Connection, record: record::Connection, channels: &[u32]) -> Result<(), FormatError> {
    let out_bytes = record.out.len();
    let resumes = record.resumes.into_iter().map(|resume| to_resume(resume, channels, out_bytes));
    let resumes = resumes.collect::<Result<std::collections::VecDeque<_>, _>>()?;
    if !resumes.is_empty() {
        connection.flags.insert(Flags::REPLAYING);
    }
    let extra = connection.extra();
    extra.out = record.out;
    extra.input = record.input;
    extra.resumes = resumes;
    if let Some(record::Decoder { is_text, bytes, frame }) = &record.decoder {
        let frame = frame.as_ref().map(|frame| (frame.fin, frame.mask.to_be_bytes(), frame.left as usize));
        let decoder = Decoder::with_unfinished(&Unfinished { is_text: *is_text, bytes, frame });
        extra.decoder = decoder.ok_or(FormatError::Nonsense("an unfinished message"))?;
    }
    extra.gap =
        record.gap.map(|gap| Box::new(Gap { after: Id::from_bits(gap.after), resumed: Id::from_bits(gap.resumed) }));
    extra.poll = record
        .poll
        .map(|poll| Box::new(HeldPoll { origin: poll.origin.map(Into::into), told: Id::from_bits(poll.told) }));
    extra.waiting = record.waiting.map(to_waiting).transpose()?.unwrap_or_default();
    Ok(())
}

fn to_peer(ip: &[u8], port: u32) -> Result<Peer, FormatError> {
    if ip.is_empty() {
        return Ok(Peer::default());
    }
    let ip = <[u8; 16]>::try_from(ip).map_err(|_| FormatError::Nonsense("a peer's address"))?;
    let port = u16::try_from(port).map_err(|_| FormatError::Nonsense("a peer's port"))?;
    Ok(Peer::of_parts(ip, port))
}

fn to_resume(resume: record::Resume, channels: &[u32], out_bytes: usize) -> Result<Resume, FormatError> {
    let number = |place: u32| channels.get(place as usize).copied().ok_or(FormatError::Nonsense("a resume's channel"));
    let mut sent = Vec::new();
    for record::Sent { channel, id } in &resume.sent {
        sent.push((number(*channel)?, Id::from_bits(*id)));
    }
    // They are searched by the shard's numbers.
    sent.sort_unstable();
    Ok(Resume {
        number: resume.number,
        channels: resume.channels.into_iter().map(number).collect::<Result<_, _>>()?,
        sent,
        after: resume.after.map(Id::from_bits),
        page_due: resume.page_due,
        wait: resume.wait.min(u32::MAX / 4),
        opening: resume.opening.map(|opening| to_opening(opening, out_bytes)).transpose()?,
    })
}

fn to_opening(opening: record::Opening, out_bytes: usize) -> Result<Opening, FormatError> {
    let mut words = match &opening.reply {
        Some(reference) => Opening::reply(reference),
        None => Opening::welcome(),
    };
    *words.then() = opening.then;
    let Some(record::Nothing { origin, start, end }) = opening.nothing else { return Ok(words) };
    let head = start as usize..end as usize;
    if head.start > head.end || head.end > out_bytes {
        return Err(FormatError::Nonsense("the place of a response's head"));
    }
    Ok(words.or_nothing(Nothing { origin: origin.map(Into::into), head }))
}

fn to_aside(aside: record::Aside) -> Result<Aside, FormatError> {
    if !aside.is_text {
        return Ok(Aside::Binary(aside.bytes.into()));
    }
    let text = String::from_utf8(aside.bytes).map_err(|_| FormatError::Nonsense("a message's text"))?;
    Ok(Aside::Text(text.into()))
}

fn to_refusal(refusal: record::Refusal) -> Refusal {
    Refusal {
        // A code that this version does not know yet is one that may pass.
        code: Code::from_name(&refusal.code).unwrap_or(Code::Unavailable),
        message: refusal.message.into(),
        channels: refusal.channels,
        close: refusal.close,
        retry_after_secs: refusal.retry_after_secs,
    }
}

fn to_waiting(waiting: record::Waiting) -> Result<Waiting, FormatError> {
    let record::Waiting { token, upstream, backend, decided, refused } = waiting;
    if let Some(record::Wanted { channels, after }) = token {
        return Ok(Waiting::Token(Box::new(Wanted { channels, after: after.map(Id::from_bits) })));
    }
    if let Some(aside) = upstream {
        return Ok(Waiting::Upstream(to_aside(aside)?));
    }
    if let Some(record::Asking { number, channels, message }) = backend {
        let message = message.map(to_aside).transpose()?;
        return Ok(Waiting::Backend(Box::new(Asking { number, channels, message })));
    }
    if let Some(record::Decided { refusal, message }) = decided {
        let outcome = refusal.map_or(Ok(()), |refusal| Err(to_refusal(refusal)));
        let message = message.map(to_aside).transpose()?;
        return Ok(Waiting::Decided(Box::new(Decided { outcome, message })));
    }
    let refused = refused.ok_or(FormatError::Nonsense("what a connection waits for"))?;
    Ok(Waiting::Refused(Box::new(to_refusal(refused))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_states_facts_and_holds_are_never_used_again() {
        assert_eq!(STATES.map(|(_, number)| number), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(STATES.map(|(state, _)| number_of(state)), [1, 2, 3, 4, 5, 6, 7, 8].map(Some));
        assert_eq!([State::Free, State::Dead].map(number_of), [None, None]);
        let facts = FACTS.iter().fold(Flags::empty(), |facts, (flag, _)| facts | *flag);
        assert_eq!(FACTS.map(|(_, bit)| bit), std::array::from_fn(|place| 1 << place));
        assert_eq!(MUST_READ, 1 << FACTS.len());
        let own = Flags::BLOCKED | Flags::MID_FRAME | Flags::QUEUED | Flags::PLANNED | Flags::ARMED | Flags::ARMED_OUT;
        // Streams of HTTP/2 stay.
        let own = own | Flags::REPLAYING | Flags::TO_END | Flags::UNREAD | Flags::PAGE | Flags::CARRIED;
        assert_eq!((facts | own, facts & own), (Flags::all(), Flags::empty()), "each fact goes over or is made anew");
        let holds = HOLDS.iter().fold(Hold::INBOX, |holds, (hold, _)| holds | *hold);
        assert_eq!((holds, HOLDS.map(|(_, bit)| bit)), (Hold::all(), [1, 2, 4, 8]));
    }
}
