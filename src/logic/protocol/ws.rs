//! WebSocket frames and the opening handshake (RFC 6455).
