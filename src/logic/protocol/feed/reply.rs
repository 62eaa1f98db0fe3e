//! Answers to a publisher's lines. Each answer is one JSON object on one line.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::logic::id::{ID_TEXT_BYTES_MAX, Id};
use crate::logic::json;

use super::FeedError;

/// An answer to a line that was carried out.
#[derive(Serialize)]
struct Done<'a, M> {
    #[serde(rename = "ref")]
    reference: &'a RawValue,
    ok: bool,
    #[serde(flatten)]
    members: M,
}

/// The members of an answer that has only `ok`.
#[derive(Serialize)]
struct Nothing {}

/// The members of the answer to a publish, which has one of the two.
#[derive(Serialize)]
struct Published<'a> {
    #[serde(rename = "ref")]
    reference: &'a RawValue,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<IdText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<IdList<'a>>,
}

/// An id as a JSON string. Its text is made on the stack, because a batch may be answered with thousands of ids.
struct IdText(Id);

impl Serialize for IdText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; ID_TEXT_BYTES_MAX];
        serializer.serialize_str(self.0.text(&mut text))
    }
}

struct IdList<'a>(&'a [Id]);

impl Serialize for IdList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|id| IdText(*id)))
    }
}

/// The number of connections or subscriptions that a command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The number of connections, in the answer to `kick`.
    Kicked(u64),
    /// The number of subscriptions, in the answer to `unsubscribe`.
    Unsubscribed(u64),
}

/// The members of the answer to `presence`.
#[derive(Debug, Serialize)]
pub struct PresenceAnswer<'a> {
    /// The number of connections on the channel, with those of anonymous clients.
    pub connections: u64,
    /// The number of users on the channel.
    pub count: usize,
    /// The users, or the first of them if there are too many for one answer.
    pub users: Vec<PresentUser<'a>>,
}

/// One user on a channel.
#[derive(Debug, Serialize)]
pub struct PresentUser<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The number of the user's connections on the channel.
    pub connections: u32,
}

/// The answer to a refused line.
#[derive(Serialize)]
struct Refusal<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a RawValue>,
    error: RefusalReason<'a>,
}

#[derive(Serialize)]
struct RefusalReason<'a> {
    code: &'a str,
    message: &'a str,
}

/// Appends `value` and the end of the line.
pub(super) fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    json::write(value, out);
    out.push(b'\n');
}

/// Appends `{"ref":…,"ok":true}`.
pub fn write_ok(out: &mut Vec<u8>, reference: &RawValue) {
    write_members(out, reference, &Nothing {});
}

/// Appends `{"ref":…,"ok":true` and the members of `members`, which must be a struct or a map, and `}`.
pub fn write_members(out: &mut Vec<u8>, reference: &RawValue, members: &impl Serialize) {
    write_line(out, &Done { reference, ok: true, members });
}

/// Appends `{"ref":…,"ok":true`, the members that `members` appends (each starts with a comma), and `}`. The values may
/// be JSON text already, which then needs no second pass by a parser.
pub fn write_ready_made(out: &mut Vec<u8>, reference: &RawValue, members: impl FnOnce(&mut Vec<u8>)) {
    json::write(&Done { reference, ok: true, members: Nothing {} }, out);
    out.pop();
    members(out);
    out.extend_from_slice(b"}\n");
}

/// Appends the answer to a publish: `"id"`, or `"ids"` if the line has a list of channels.
pub fn write_ids(out: &mut Vec<u8>, reference: &RawValue, ids: &[Id], is_list: bool) {
    let id = ids.first().filter(|_| !is_list).map(|id| IdText(*id));
    write_line(out, &Published { reference, ok: true, id, ids: is_list.then_some(IdList(ids)) });
}

/// Appends `{"ref":…,"error":{"code","message"}}`, without `ref` if the line had none.
pub fn write_error(out: &mut Vec<u8>, reference: Option<&RawValue>, error: &FeedError) {
    let FeedError { code, message } = error;
    write_line(out, &Refusal { reference, error: RefusalReason { code, message } });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(write: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn replies_are_one_line_each() {
        let lines = lines(|out| {
            write_ok(out, raw("1"));
            write_ids(out, raw("\"a\""), &[Id::new(5, 0)], false);
            write_ids(out, raw("2"), &[Id::new(5, 0), Id::new(5, 1)], true);
            write_error(out, None, &FeedError::new("x", "a \"b\"\n"));
            write_error(out, Some(raw("[1]")), &FeedError::new("y", "z"));
        });
        assert_eq!(
            lines,
            [
                r#"{"ref":1,"ok":true}"#,
                r#"{"ref":"a","ok":true,"id":"5-0"}"#,
                r#"{"ref":2,"ok":true,"ids":["5-0","5-1"]}"#,
                r#"{"error":{"code":"x","message":"a \"b\"\n"}}"#,
                r#"{"ref":[1],"error":{"code":"y","message":"z"}}"#,
            ]
        );
    }

    #[test]
    fn members_stand_after_ok_in_the_order_of_their_fields() {
        let users = vec![PresentUser { user: "u\"", connections: 2 }];
        let lines = lines(|out| {
            write_members(out, raw("1"), &Ended::Kicked(3));
            write_members(out, raw("2"), &Ended::Unsubscribed(0));
            write_members(out, RawValue::NULL, &PresenceAnswer { connections: 3, count: 1, users });
            write_ready_made(out, raw("3"), |out| out.extend_from_slice(b",\"stats\":{}"));
        });
        assert_eq!(
            lines,
            [
                r#"{"ref":1,"ok":true,"kicked":3}"#,
                r#"{"ref":2,"ok":true,"unsubscribed":0}"#,
                r#"{"ref":null,"ok":true,"connections":3,"count":1,"users":[{"user":"u\"","connections":2}]}"#,
                r#"{"ref":3,"ok":true,"stats":{}}"#,
            ]
        );
    }
}
