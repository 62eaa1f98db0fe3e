//! What a request is for, and the answers that need no channel.

use std::net::IpAddr;
use std::os::fd::AsFd;

use tracing::info;

use crate::link::FIGURES_CHANNEL;
use crate::logic::id::Id;
use crate::logic::protocol::dialect::Dialect;
use crate::logic::protocol::http::{
    Method, Reject, Request, ResponseHeaders, decide_cors, last_untrusted, origin_allowed, write_error, write_html,
    write_json, write_preflight, write_sse_head, write_text, write_ws_head,
};
use crate::logic::protocol::query::{self, SubscribeQuery};
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;
use crate::sys::socket;

use super::connection::{Flags, Peer, State};
use super::{Shard, connection_id};

/// What a path and its headers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Stream,
    WebSocket,
    Poll,
    Echo,
    Live,
    Ready,
    Page,
    /// The server's own figures, for itself.
    Figures,
    Any,
}

impl Shard {
    /// Answers one request, or opens what it asks for.
    pub(super) fn request(&mut self, slot: u32, request: &Request<'_>) {
        self.counters.requests += 1;
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::KEEP_ALIVE | Flags::HTTP_1_1);
        if request.is_http_1_1 {
            connection.flags.set(Flags::HTTP_1_1);
        }
        if request.keep_alive && self.drain.is_none() {
            connection.flags.set(Flags::KEEP_ALIVE);
        }
        let result = self.learn_client(slot, request).and_then(|()| self.respond(slot, request));
        match result {
            Ok(()) => {}
            Err(reject) => {
                // The backend's word was about this request alone.
                if let Some(extra) = &mut self.connections[slot].extra {
                    extra.asking = None;
                }
                self.answer_error(slot, &reject, request);
            }
        }
    }

    /// What every answer to this request says.
    fn headers<'a>(&self, slot: u32, request: &Request<'a>) -> ResponseHeaders<'a> {
        ResponseHeaders {
            keep_alive: self.connections[slot].flags.has(Flags::KEEP_ALIVE),
            is_http_1_1: request.is_http_1_1,
            cors: decide_cors(&self.settings.config.http.cors_origins, request.origin),
            head_only: request.method == Method::Head,
        }
    }

    /// Behind a trusted proxy the client is who the proxy says, with each request anew: it may bring the requests of
    /// several on one connection.
    fn learn_client(&mut self, slot: u32, request: &Request<'_>) -> Result<(), Reject> {
        if !self.settings.trusted {
            return Ok(());
        }
        let connection = &self.connections[slot];
        let before = connection.peer.ip();
        let was_via_proxy = connection.flags.has(Flags::VIA_PROXY);
        if !was_via_proxy && (connection.flags.has(Flags::COUNTED) || !self.settings.trusts(before)) {
            return Ok(());
        }
        self.connections[slot].flags.set(Flags::VIA_PROXY);
        let Some(client) = last_untrusted(request, |address| self.settings.trusts(address)) else {
            if was_via_proxy && !self.settings.trusts(before) {
                // It need not come from whom the one before it came from.
                self.give_back_address(slot);
                self.connections[slot].peer = self.own_peer(slot);
            }
            return Ok(());
        };
        let is_same = was_via_proxy && client == before;
        if is_same && self.connections[slot].flags.has(Flags::COUNTED) {
            return Ok(());
        }
        self.give_back_address(slot);
        self.count_address(slot, client, !is_same)?;
        self.connections[slot].peer = Peer::new((client, 0).into());
        Ok(())
    }

    /// Who is at the other end of a connection's socket, whatever was said about that.
    fn own_peer(&self, slot: u32) -> Peer {
        let fd = self.connections[slot].fd.as_ref();
        fd.and_then(|fd| socket::peer_address(fd.as_fd())).map(Peer::new).unwrap_or_default()
    }

    /// Gives the place of a connection's address back, if it has one.
    pub(super) fn give_back_address(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        if connection.flags.has(Flags::COUNTED) {
            connection.flags.clear(Flags::COUNTED);
            self.room.leave_from(connection.peer.ip());
        }
    }

    /// Takes one of an address's places for a connection that a proxy has brought; the peer is to be set to it.
    /// `is_new`: whether it counts towards how fast the address connects.
    pub(super) fn count_address(&mut self, slot: u32, client: IpAddr, is_new: bool) -> Result<(), Reject> {
        if self.room.counts_addresses() {
            if let Err(refused) = self.room.enter_from(client, is_new) {
                self.counters.refused += 1;
                return Err(refused.reject().retry_after(self.rng.u32(1..=5)));
            }
            self.connections[slot].flags.set(Flags::COUNTED);
        }
        Ok(())
    }

    fn route(&self, slot: u32, request: &Request<'_>) -> Result<Route, Reject> {
        Ok(match request.path {
            "/sse" => Route::Stream,
            "/ws" => Route::WebSocket,
            "/poll" => Route::Poll,
            "/events" if request.wants_websocket => Route::WebSocket,
            "/events" if request.accepts_event_stream => Route::Stream,
            "/events" => Route::Poll,
            "/healthz" => Route::Live,
            "/readyz" => Route::Ready,
            "/figures" if self.connections[slot].is_own() => Route::Figures,
            "/" if self.page.is_some() => Route::Page,
            "*" => Route::Any,
            path if !path.is_empty() && path == self.settings.config.diagnostics.echo_path => Route::Echo,
            _ => {
                let message = "there is nothing at this path; clients connect to /sse, /ws, /poll or /events";
                return Err(Reject::new(404, "not_found", message));
            }
        })
    }

    fn respond(&mut self, slot: u32, request: &Request<'_>) -> Result<(), Reject> {
        let headers = self.headers(slot, request);
        if request.method == Method::Options {
            write_preflight(self.connections[slot].out(), request.request_headers, &headers);
            self.after_answer(slot);
            return Ok(());
        }
        let route = self.route(slot, request)?;
        if request.method == Method::Other {
            return Err(Reject::new(405, "method", "this path knows GET, HEAD and OPTIONS only"));
        }
        match route {
            Route::Stream | Route::WebSocket | Route::Poll | Route::Echo => {
                return self.subscription(slot, route, request);
            }
            Route::Figures => {
                let query = SubscribeQuery { channels: vec![FIGURES_CHANNEL.into()], ..SubscribeQuery::default() };
                self.open_stream(slot, request, &query);
                return Ok(());
            }
            Route::Live => write_text(self.connections[slot].out(), 200, b"ok\n", &headers),
            Route::Ready if self.room.is_ready() => write_text(self.connections[slot].out(), 200, b"ready\n", &headers),
            Route::Ready => return Err(Reject::new(503, "not_ready", "this server is starting or going away")),
            Route::Page | Route::Any => {
                let page = self.page.unwrap_or_default();
                write_html(self.connections[slot].out(), page.as_bytes(), &headers);
            }
        }
        self.after_answer(slot);
        Ok(())
    }

    fn subscription(&mut self, slot: u32, route: Route, request: &Request<'_>) -> Result<(), Reject> {
        self.catch_up();
        if self.connections[slot].state != State::Http {
            // What the hub has said was to end it.
            return Ok(());
        }
        if self.drain.is_some() {
            let reject = Reject::fatal(503, "draining", "this server is going away; connect again");
            return Err(reject.retry_after(self.rng.u32(1..=5)));
        }
        let mut query = query::parse(request.query, self.settings.config.limits.subscriptions)?;
        if route != Route::Echo {
            self.identify(slot, request, &query)?;
        }
        if route == Route::WebSocket || route == Route::Echo {
            return self.open_websocket(slot, route, request, &query);
        }
        if query.channels.is_empty() {
            let message = "name at least one channel, as in ?channel=news";
            return Err(Reject::new(400, "no_channel", message));
        }
        if self.must_wait_for_backend(slot, &query.channels, Some(request))? {
            return Ok(());
        }
        self.check_channels(slot, &query)?;
        if request.method == Method::Head {
            let headers = self.headers(slot, request);
            match route {
                Route::Stream => write_sse_head(self.connections[slot].out(), &headers),
                _ => write_json(self.connections[slot].out(), b"", &headers),
            }
            self.after_answer(slot);
            return Ok(());
        }
        self.has_room_for_channels(&query.channels)?;
        if route == Route::Poll {
            return self.begin_poll(slot, request, &query);
        }
        // A browser that reconnects by itself sends the header; what it asks for is newer than the URL.
        if let Some(id) = request.last_event_id {
            query.after =
                Some(id.parse().map_err(|error| {
                    Reject::new(400, "bad_position", format!("Last-Event-ID is no position: {error}"))
                })?);
        }
        self.open_stream(slot, request, &query);
        Ok(())
    }

    fn open_stream(&mut self, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
        let headers = self.headers(slot, request);
        let envelope = query.envelope.unwrap_or(query.channels.len() > 1);
        let dialect = Dialect::sse(request.is_http_1_1, envelope);
        let padding = self.settings.config.http.sse_padding;
        let retry_ms = self.settings.retry_ms;
        let connection = &mut self.connections[slot];
        connection.dialect = dialect;
        let out = connection.out();
        write_sse_head(out, &headers);
        dialect.write_sse_preamble(padding, retry_ms, out);
        self.open(slot, State::Stream, request, query);
    }

    fn open_websocket(
        &mut self,
        slot: u32,
        route: Route,
        request: &Request<'_>,
        query: &SubscribeQuery,
    ) -> Result<(), Reject> {
        let upgrade = ws::check_upgrade(request)?;
        if !origin_allowed(&self.settings.config.websocket.origins, request.origin, request.host) {
            return Err(Reject::new(403, "origin", "pages of this origin may not connect; see [websocket] origins"));
        }
        self.has_room_for_channels(&query.channels)?;
        if route == Route::WebSocket && self.must_wait_for_backend(slot, &query.channels, Some(request))? {
            return Ok(());
        }
        if query.raw && route == Route::WebSocket {
            // This format has no place for refusals, nor for a token.
            self.check_channels(slot, query)?;
        }
        let connection = &mut self.connections[slot];
        connection.dialect = if query.raw { Dialect::WsRaw } else { Dialect::WsJson };
        if route == Route::Echo {
            connection.flags.set(Flags::ECHO);
        }
        write_ws_head(connection.out(), &upgrade.accept, upgrade.protocol.filter(|_| !query.raw));
        self.open(slot, State::WebSocket, request, query);
        Ok(())
    }

    /// The response's head is written; the connection is a stream of events from here on.
    fn open(&mut self, slot: u32, state: State, request: &Request<'_>, query: &SubscribeQuery) {
        self.counters.handshakes += 1;
        match state {
            State::Stream => self.counters.opened_sse += 1,
            _ => self.counters.opened_ws += 1,
        }
        self.enter_state(slot, state);
        self.connections[slot].deadline = 0;
        if !self.connections[slot].is_own() {
            self.log_connected(slot, request, query);
        }
        let is_echo = self.connections[slot].flags.has(Flags::ECHO);
        if !is_echo {
            self.tell_came(slot);
        }
        if !is_echo && state == State::WebSocket && self.must_send_token(slot, query) {
            self.await_token(slot, query);
        } else if !is_echo {
            self.begin_subscriptions(slot, &query.channels, query.after);
        }
        self.schedule(slot);
        self.queue(slot);
    }

    /// Subscribes to the channels that a connection came for; those it may not have are refused by name.
    pub(super) fn begin_subscriptions(&mut self, slot: u32, channels: &[String], after: Option<Id>) {
        for name in channels {
            match self.may_subscribe(slot, name) {
                Ok(()) => {
                    self.subscribe(slot, name);
                }
                Err(denied) => self.refuse_channel(slot, denied, name),
            }
        }
        self.start(slot, 0, after, 0);
    }

    fn log_connected(&mut self, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
        if !self.lines.take(self.now) {
            self.counters.lines_suppressed += 1;
            return;
        }
        let user = self.user(slot).cloned();
        let connection = &mut self.connections[slot];
        connection.flags.set(Flags::LOGGED);
        let transport = if connection.state == State::Stream { "sse" } else { "ws" };
        info!(
            target: "ringcast::connection",
            conn = %connection_id(self.index, slot, connection.generation),
            address = %connection.peer,
            transport,
            user = user.as_deref(),
            channels = query.channels.len(),
            channel = query.channels.first().map(String::as_str).unwrap_or_default(),
            user_agent = request.user_agent.unwrap_or_default(),
            last_event_id = query.after.map(tracing::field::display),
            "connected"
        );
    }

    /// An answer is written: the connection waits for the next request or closes.
    pub(super) fn after_answer(&mut self, slot: u32) {
        if self.connections[slot].flags.has(Flags::KEEP_ALIVE) {
            let deadline = self.now + self.settings.keep_alive;
            self.set_deadline(slot, deadline);
            self.queue(slot);
        } else {
            self.finish(slot, Reason::Answered);
        }
    }

    fn answer_error(&mut self, slot: u32, reject: &Reject, request: &Request<'_>) {
        self.counters.errors += 1;
        self.counters.count_rejection(reject.status);
        if reject.close {
            self.connections[slot].flags.clear(Flags::KEEP_ALIVE);
        }
        let headers = self.headers(slot, request);
        write_error(self.connections[slot].out(), reject, &headers);
        if self.connections[slot].flags.has(Flags::KEEP_ALIVE) {
            self.after_answer(slot);
        } else {
            self.finish(slot, Reason::BadRequest);
        }
    }

    /// Answers what is no acceptable request, and closes.
    pub(super) fn reject(&mut self, slot: u32, reject: &Reject) {
        self.reject_as(slot, reject, Reason::BadRequest);
    }

    /// As [`Shard::reject`], for another reason.
    pub(super) fn reject_as(&mut self, slot: u32, reject: &Reject, reason: Reason) {
        self.counters.errors += 1;
        self.counters.count_rejection(reject.status);
        let headers = ResponseHeaders { is_http_1_1: true, ..ResponseHeaders::default() };
        write_error(self.connections[slot].out(), reject, &headers);
        self.finish(slot, reason);
    }
}
