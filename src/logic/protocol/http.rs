//! HTTP/1.1 request heads and the server's answers (RFC 9110, RFC 9112).
