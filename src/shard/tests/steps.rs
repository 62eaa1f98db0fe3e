//! Steps of the model: opening connections, and what its single cases are made of.

use super::*;

impl Model {
    pub(super) fn newest(&self) -> Id {
        self.log.last().map_or(Id::ZERO, |event| event.id).max(self.floor)
    }

    pub(super) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Opens a connection with small socket buffers; returns its slot and its far end.
    pub(super) fn come(&mut self, address: Option<SocketAddr>) -> (u32, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&near).set_send_buffer_size(4096).unwrap();
        let Shard { acceptor, slots, cx, .. } = &mut self.shard;
        let slot = match self.tls {
            Some(_) => acceptor.admit_tls(slots, cx, OwnedFd::from(near)).unwrap(),
            None => acceptor.admit_now(slots, cx, OwnedFd::from(near), address).unwrap(),
        };
        (slot, far)
    }

    /// Opens a connection and sends a request's first line and fields.
    pub(super) fn ask(&mut self, head: &str) -> (u32, UnixStream) {
        let (slot, far) = self.come(None);
        (&far).write_all(format!("{head}\r\n").as_bytes()).unwrap();
        self.turns(5);
        (slot, far)
    }

    /// Opens a connection and asks for a WebSocket.
    pub(super) fn open(&mut self, target: &str) -> (u32, UnixStream) {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n{UPGRADE}"))
    }

    pub(super) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.shard.cx.settings.config).clone();
        change(&mut config);
        self.shard.cx.admission = Arc::new(Admission::new(&config.server));
        self.shard.cx.settings = Settings::new(Arc::new(config), u64::MAX);
    }

    /// The id of the newest event on a channel, as the hub remembers it.
    pub(super) fn newest_on(&mut self, channel: &str) -> String {
        let mut out = Vec::new();
        let line = format!(r#"{{"op":"history","channel":"{channel}","ref":1}}"#);
        self.hub.execute(parse(line.as_bytes()).unwrap(), self.now_ms, &mut out).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
        answer["events"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub(super) fn publish_on(&mut self, channel: &str, data: &str) {
        self.say(&format!(r#"{{"op":"publish","channel":"{channel}","data":"{data}","ref":1}}"#));
    }
}
