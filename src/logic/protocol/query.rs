//! The query string of a subscription request.
