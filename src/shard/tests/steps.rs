//! Steps of the model that its single cases are made of.

use super::*;

impl Model {
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
