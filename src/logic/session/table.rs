//! The table of protocols, and the paths that lead to them.

use std::fmt;

use crate::logic::code::Code;
use crate::logic::protocol::http::{Method, Request};
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::refusal::Refusal;

use super::protocol::Protocol;
use super::{echo, poll, sse, ws_json, ws_raw};

#[cfg(test)]
use super::parrot;

macro_rules! protocols {
    ($($(#[cfg($test:ident)])? $(#[doc = $doc:literal])+ $name:ident => $protocol:expr,)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { $($(#[cfg($test)])? $name,)* }

        impl Spoken {
            $($(#[cfg($test)])? $(#[doc = $doc])+ pub const $name: Spoken = Spoken(Number::$name as u8);)*
        }

        /// Every protocol, each at the place that is its number.
        pub static TABLE: &[&dyn Protocol] = &[$($(#[cfg($test)])? $protocol,)*];
    };
}

/// A protocol's number: its place in [`TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spoken(u8);

protocols! {
    /// An event stream with the payload as data.
    SSE => &sse::PLAIN,
    /// An event stream with `{"channel","event"?,"data"}` as data, for several channels.
    SSE_ENVELOPE => &sse::ENVELOPE,
    /// An event stream with the payload as data, without events' names.
    SSE_UNNAMED => &sse::PLAIN_UNNAMED,
    /// An event stream for several channels, with events' names in the data alone.
    SSE_ENVELOPE_UNNAMED => &sse::ENVELOPE_UNNAMED,
    /// JSON in WebSocket messages, both ways.
    WS_JSON => &ws_json::WsJson,
    /// Each payload alone in a WebSocket message.
    WS_RAW => &ws_raw::WsRaw,
    /// A subscription that ends with its first answer.
    POLL => &poll::Poll,
    /// A WebSocket that gets its own messages back.
    ECHO => &echo::Echo,
    #[cfg(test)]
    /// The protocol of the tests.
    PARROT => &parrot::Parrot,
}

impl Spoken {
    /// The number itself.
    pub(super) const fn number(self) -> u8 {
        self.0
    }

    /// The protocol of that number, which must be one of the table's.
    pub(super) const fn from_number(number: u8) -> Spoken {
        Spoken(number)
    }

    /// The protocol of that name.
    pub fn from_name(name: &str) -> Option<Spoken> {
        let place = TABLE.iter().position(|protocol| protocol.name() == name)?;
        Some(Spoken(place as u8))
    }

    /// The protocol of this number.
    pub fn protocol(self) -> &'static dyn Protocol {
        TABLE[usize::from(self.0)]
    }
}

impl fmt::Debug for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol().name())
    }
}

/// Chooses among the protocols that a path leads to, by the request's query. All of them have the same carrier.
pub type Choice = fn(&SubscribeQuery) -> Spoken;

/// One way to a protocol. The first row whose path and condition hold is taken.
struct Row {
    /// The path; with `*` at its end, every path that begins so.
    path: &'static str,
    /// What the request must ask for beside the path.
    condition: fn(&Request<'_>) -> bool,
    choice: Choice,
}

const fn row(path: &'static str, choice: Choice) -> Row {
    Row { path, condition: |_| true, choice }
}

static ROUTES: &[Row] = &[
    row("/sse", stream),
    row("/ws", websocket),
    row("/poll", |_| Spoken::POLL),
    Row { path: "/events", condition: |request| request.wants_websocket, choice: websocket },
    Row { path: "/events", condition: |request| request.accepts_event_stream, choice: stream },
    row("/events", |_| Spoken::POLL),
    #[cfg(test)]
    row("/parrot/*", |_| Spoken::PARROT),
];

fn stream(query: &SubscribeQuery) -> Spoken {
    match (query.envelope.unwrap_or(query.channels.len() > 1), query.names.unwrap_or(true)) {
        (false, true) => Spoken::SSE,
        (true, true) => Spoken::SSE_ENVELOPE,
        (false, false) => Spoken::SSE_UNNAMED,
        (true, false) => Spoken::SSE_ENVELOPE_UNNAMED,
    }
}

fn websocket(query: &SubscribeQuery) -> Spoken {
    if query.raw { Spoken::WS_RAW } else { Spoken::WS_JSON }
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// A session in the protocol of this choice.
    Session(Choice),
    /// Whether the server is alive.
    Live,
    /// Whether the server takes clients.
    Ready,
    /// The demo's page.
    Page,
    /// The client library.
    Library,
}

/// What a server has beside the paths of the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site<'a> {
    /// The path of the WebSocket that gets its own messages back; empty for none.
    pub echo_path: &'a str,
    /// Whether there is a page at `/`, and the client library at `/ringcast.js`.
    pub has_page: bool,
}

/// Where a request leads, which is none for a preflight.
///
/// # Errors
/// If there is nothing at the path, or the path does not know the method.
pub fn route(request: &Request<'_>, site: &Site<'_>) -> Result<Route, Refusal> {
    let found = ROUTES.iter().find(|row| row.leads(request)).map(|row| Route::Session(row.choice));
    let route = match request.path {
        _ if found.is_some() => found,
        "/healthz" => Some(Route::Live),
        "/readyz" => Some(Route::Ready),
        "/" if site.has_page => Some(Route::Page),
        "/ringcast.js" if site.has_page => Some(Route::Library),
        path if !path.is_empty() && path == site.echo_path => Some(Route::Session(|_| Spoken::ECHO)),
        _ => None,
    };
    match route {
        None => {
            let message = "there is nothing at this path; clients connect to /sse, /ws, /poll or /events";
            Err(Refusal::new(Code::NotFound, message))
        }
        Some(_) if request.method == Method::Other => {
            Err(Refusal::new(Code::Method, "this path knows GET, HEAD and OPTIONS only"))
        }
        Some(route) => Ok(route),
    }
}

impl Row {
    fn leads(&self, request: &Request<'_>) -> bool {
        let is_there = match self.path.strip_suffix('*') {
            Some(start) => request.path.starts_with(start),
            None => request.path == self.path,
        };
        is_there && (self.condition)(request)
    }
}
