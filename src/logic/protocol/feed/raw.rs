//! A line of the feed as it is written: the members that there may be, before a command is made of them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of a line, of which each command uses some.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLine<'a> {
    #[serde(borrow)]
    pub(super) op: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ref")]
    pub(super) reference: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) data_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) items: Option<Vec<RawItem<'a>>>,
    #[serde(borrow)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) conn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) jti: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) what: Option<Vec<Cow<'a, str>>>,
    pub(super) expires: Option<u64>,
    pub(super) ask: Option<u32>,
    #[serde(borrow)]
    pub(super) allow: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) after: Option<Cow<'a, str>>,
    pub(super) limit: Option<usize>,
    #[serde(borrow)]
    pub(super) prefix: Option<Cow<'a, str>>,
    pub(super) cursor: Option<u32>,
    #[serde(borrow)]
    pub(super) address: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) order: Option<Cow<'a, str>>,
}

/// Reads a member as present even if it is `null`, because `null` is a value that may be published.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The members of one item of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawItem<'a> {
    #[serde(borrow)]
    pub(super) channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) data_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) key: Option<Cow<'a, str>>,
}
