//! Connections that begin with what their proxy says about them.

use crate::logic::protocol::proxy::{self, ProxyHeader};
use crate::logic::reason::Reason;

use super::Shard;
use super::connection::{Peer, State};

impl Shard {
    /// Reads the PROXY protocol's header; what follows it is the client's request.
    pub(super) fn proxy_input(&mut self, slot: u32, bytes: &[u8]) {
        let mut input = std::mem::take(&mut self.connections[slot].extra().input);
        input.extend_from_slice(bytes);
        match proxy::parse(&input) {
            ProxyHeader::Partial => self.connections[slot].extra().input = input,
            // Who does not speak it is no client, and would not understand an answer either.
            ProxyHeader::Malformed => self.drop_connection(slot, Reason::BadRequest),
            ProxyHeader::Whole { client, consumed } => {
                self.enter_state(slot, State::Http);
                // Nobody comes from the unspecified address: whoever the proxy means is not known.
                if let Some(client) = client.filter(|client| !client.ip().is_unspecified()) {
                    // A proxy behind the proxy is no client either: each request says whose it is.
                    let is_counted = !self.settings.trusts(client.ip());
                    if is_counted && let Err(refused) = self.count_address(slot, client.ip(), true) {
                        self.reject(slot, &refused);
                        return;
                    }
                    self.connections[slot].peer = Peer::new(client);
                }
                self.http_input(slot, &input[consumed..]);
            }
        }
    }
}
