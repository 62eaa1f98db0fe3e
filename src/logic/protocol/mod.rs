//! The protocols, sans-IO: bytes in, bytes out.

pub mod dialect;
pub mod feed;
pub mod http;
pub mod proxy;
pub mod query;
pub mod ws;
