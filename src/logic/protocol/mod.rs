//! The protocols, sans-IO: bytes in, bytes out.

pub mod feed;
pub mod http;
pub mod query;
pub mod ws;
