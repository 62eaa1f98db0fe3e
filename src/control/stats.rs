//! The server's figures, put together from what hub and shards publish. Reading them costs those threads nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::hub::HubFigures;
use crate::shard::{Published, Room};
use crate::sys::process;

/// All figures, for those who ask.
#[derive(Clone, Debug)]
pub struct Stats {
    /// What all shards share.
    pub room: Arc<Room>,
    /// The hub's figures.
    pub hub: Arc<HubFigures>,
    /// The shards' figures.
    pub shards: Vec<Arc<Published>>,
}

impl Stats {
    /// How many rounds each thread that serves has gone, by its name.
    pub fn beats(&self) -> Vec<(String, u64)> {
        let shards = self.shards.iter().enumerate().map(|(index, shard)| (format!("shard-{index}"), shard.turns()));
        let hub = ("hub".to_owned(), self.hub.rounds.load(Ordering::Relaxed));
        std::iter::once(hub).chain(shards).collect()
    }

    /// Appends `{"node":{…},"process":{…},"shards":[{…}]}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"node\":{");
        self.hub.write_members(out);
        out.extend_from_slice(format!("\"connections\":{},", self.room.connections()).as_bytes());
        let process = process::usage();
        out.extend_from_slice(format!("\"ready\":{}}},\"process\":{{", self.room.is_ready()).as_bytes());
        out.extend_from_slice(format!("\"version\":\"{}\",", env!("CARGO_PKG_VERSION")).as_bytes());
        out.extend_from_slice(format!("\"memory_bytes\":{},", process.memory_bytes).as_bytes());
        out.extend_from_slice(format!("\"cpu_ms\":{},", process.cpu.as_millis()).as_bytes());
        out.extend_from_slice(format!("\"uptime_ms\":{}}},\"shards\":[", process.uptime.as_millis()).as_bytes());
        for (index, shard) in self.shards.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            shard.write_json(out);
        }
        out.extend_from_slice(b"]}");
    }
}
