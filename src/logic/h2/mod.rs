//! HTTP/2 (RFC 9113) as a server needs it that answers requests without a body: frames, HPACK (RFC 7541), windows and limits,
//! without sockets and without the streams themselves.
//!
//! `frame` has the frames' heads. `link` is one connection: it takes the client's frames apart, answers those that concern the
//! connection alone, and says what the others ask for. A request's block of fields is decoded by `hpack` (with `huffman` and
//! the `fixed` table) into the text of an HTTP/1.1 head (`head`), so that both versions have one parser behind them.
//! `error` has the codes.
//!
//! Every error that RFC 9113 allows to concern a stream alone ends the connection here, so that no client can make the server
//! reset streams (CVE-2025-8671).

mod error;
mod fixed;
mod frame;
mod head;
mod hpack;
mod huffman;
mod link;

pub use error::ErrorCode;
pub use frame::{FRAME_MAX, Flag, HEADER, Kind, write_goaway, write_header, write_reset, write_update};
pub use head::Head;
pub use hpack::{write_field, write_status};
pub use link::{Event, Link, PREFACE, Reading, Side, UNIT_MAX, WINDOW};

#[cfg(test)]
mod tests;
