//! The client's address in requests that trusted proxies bring.

use super::*;
use std::net::IpAddr;

/// A model behind trusted proxies, in which an address may have one connection.
fn model_behind_proxies(proxy_protocol: bool) -> Model {
    let mut model = Model::new(1);
    model.configure(|config| {
        config.server.per_address = 1;
        config.server.proxy_protocol = proxy_protocol;
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    model
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_request_without_a_client_does_not_keep_the_client_of_the_one_before() {
    let mut model = model_behind_proxies(false);
    let (slot, far) = model.come(Some("127.0.0.1:5".parse().unwrap()));
    for fields in ["", "X-Forwarded-For: unknown\r\n", "X-Forwarded-For: 127.0.0.9\r\n", "Forwarded: for=_hidden\r\n"] {
        let mut send = |fields: &str| {
            (&far).write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).unwrap();
            model.turns(3);
            assert!(take(&far, 4096).starts_with("HTTP/1.1 200"));
            model.shard.slots[slot].peer.ip()
        };
        assert_eq!(send("X-Forwarded-For: 203.0.113.5\r\n"), ip("203.0.113.5"));
        // The test's sockets have the unspecified address.
        assert_eq!(send(fields), ip("::"), "{fields}");
        assert!(model.shard.cx.admission.enter_from(ip("203.0.113.5"), true).is_ok(), "its place is free");
        model.shard.cx.admission.leave_from(ip("203.0.113.5"));
    }
}

#[test]
fn a_proxy_behind_a_proxy_names_the_client() {
    let mut model = model_behind_proxies(true);
    let header = "PROXY TCP4 127.0.0.2 127.0.0.1 1 2\r\n";
    // The inner proxy may have any number of connections, because they count for its clients.
    let mut all = Vec::new();
    for client in ["203.0.113.5", "203.0.113.6"] {
        let (slot, far) = model.come(Some("127.0.0.1:5".parse().unwrap()));
        let head = format!("GET /poll?channel=d:1&wait=20 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        (&far).write_all(format!("{header}{head}").as_bytes()).unwrap();
        model.turns(5);
        assert_eq!(model.shard.slots[slot].state, State::Poll);
        assert_eq!(model.shard.slots[slot].peer.ip(), ip(client));
        assert!(model.shard.cx.admission.enter_from(ip(client), true).is_err(), "it counts as the client's");
        all.push(far);
    }
    assert!(model.shard.cx.admission.enter_from(ip("127.0.0.2"), true).is_ok());
}
