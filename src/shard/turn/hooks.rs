//! Entry points for tests into the turn's steps.

use crate::link::{Answer, ConnectionId};

use super::super::drain::Cause;
use super::{Shard, orders, permission, time};

/// Gives a connection the backend's answer.
pub(in crate::shard) fn answer(shard: &mut Shard, id: ConnectionId, number: u32, answer: Answer) {
    permission::on_answer(shard, id, number, answer);
}

/// Begins the drain with which the server ends.
pub(in crate::shard) fn begin_drain(shard: &mut Shard) {
    time::begin_drain(shard, Cause::End);
}

/// Takes the hub's messages off the queue, without a turn.
pub(in crate::shard) fn work_off(shard: &mut Shard) {
    shard.upstream.note_messages();
    orders::work_off(shard);
}
