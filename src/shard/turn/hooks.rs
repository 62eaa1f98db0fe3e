//! Ways into the turn's steps for tests.

use crate::link::{Answer, ConnectionId};

use super::super::drain::Cause;
use super::{Shard, permission, time};

/// The backend has answered.
pub(in crate::shard) fn answer(shard: &mut Shard, id: ConnectionId, number: u32, answer: Answer) {
    permission::on_answer(shard, id, number, answer);
}

/// The server goes away.
pub(in crate::shard) fn begin_drain(shard: &mut Shard) {
    time::begin_drain(shard, Cause::End);
}
