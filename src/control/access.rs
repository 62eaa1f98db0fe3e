//! Access to the admin listener: which requests are answered, and how all others are refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use subtle::ConstantTimeEq;

use crate::logic::json;

use super::Control;

/// How long a request's body may take to arrive.
const BODY_MAX: Duration = Duration::from_secs(30);

/// An answer that is an error: a status, and the body that every error of the server has.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
}

impl ApiError {
    /// An error with a code for programs and a message for people.
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        ApiError { status, code: code.into(), message: message.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = b"{".to_vec();
        json::write_error(&self.code, &self.message, &[], &mut body);
        body.push(b'}');
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whether a text is the token, in a time that does not depend on how much of the text is right.
fn is_token(shown: &str, token: &str) -> bool {
    shown.as_bytes().ct_eq(token.as_bytes()).into()
}

/// A host's name in a `Host` field or an origin (RFC 9110 §7.2), without the port.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// Whether an authority (a host and perhaps a port) is an address, `localhost`, or one of `names`. The page of another site
/// cannot use these in a browser, even if the site's name is made to resolve to this host (DNS rebinding).
fn is_this_host(authority: &str, names: &[String]) -> bool {
    let name = without_port(authority);
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether a request comes from a page of this listener, or from no page. An origin (RFC 6454 §7) is that of this listener
/// if it has the request's own host and port, or one of the listener's `names`.
fn is_own_origin(headers: &HeaderMap, names: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.is_some_and(|authority| {
        host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
            || names.iter().any(|own| own.eq_ignore_ascii_case(without_port(authority)))
    })
}

/// Reads a body of `length_max` bytes at most. A longer body is read to its end and dropped, because a client that is
/// answered while it still writes may see only that the connection has ended.
async fn read_body(body: Body, length_max: usize) -> Result<Bytes, ApiError> {
    let mut parts = body.into_data_stream();
    let (mut body, mut length) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "body", error.to_string()))?;
        length += part.len();
        match length > length_max {
            true => body = Vec::new(),
            false => body.extend_from_slice(&part),
        }
    }
    if length > length_max {
        let message = format!("the body has {length} bytes, and [feed] max_line is {length_max}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", message));
    }
    Ok(body.into())
}

/// Checks that a request may be answered: with the token or, where none is configured, if the request names this host
/// and changes nothing that is protected elsewhere.
///
/// # Errors
/// The answer to a request that is refused.
fn check(control: &Control, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    if !is_own_origin(headers, &control.names) {
        let message = "a page of another site may not ask this; [admin] hosts can name the hosts whose pages may";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "origin", message));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if !control.token.is_empty() {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !is_token(shown, &control.token) {
            let message = "present [admin] token as Authorization: Bearer";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "token", message));
        }
    } else if host.is_some_and(|host| !is_this_host(host, &control.names)) {
        let message = "without an [admin] token, name this host by its address, as localhost, by its own name, or by one \
                       of [admin] hosts";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "host", message));
    }
    let changes = changes(request);
    if changes {
        check_change(control)?;
    }
    // The page of another site may send forms and plain text, but JSON only after a preflight, which is refused here.
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if changes && media.split(';').next().map(str::trim) != Some("application/json") {
        let message = "send JSON, with Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message));
    }
    Ok(())
}

/// Checks that a request that passed all else may change something: the kernel tells the user at the other end of the feed,
/// but not the one at the other end of a TCP connection.
///
/// # Errors
/// If there is no token, and the configuration restricts the feed or the clients.
fn check_change(control: &Control) -> Result<(), ApiError> {
    check_contents(control)?;
    if !may_change(control) {
        let message = "set [admin] token to change anything here: [feed] group, allow_users or readers restricts who \
                       may, and without a token every user of this host could";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "no_token", message));
    }
    Ok(())
}

/// Checks that a request that passed all else may see or change what clients see.
///
/// # Errors
/// If there is no token, and clients need one.
fn check_contents(control: &Control) -> Result<(), ApiError> {
    if !may_see_contents(control) {
        let message = "set [admin] token for this: [auth] says which clients may see what, and without a token every user \
                       of this host could see it here; figures and health need none";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "no_token", message));
    }
    Ok(())
}

/// Whether requests that pass the guard may see what clients see: they had to present a token, or clients need none either.
pub(super) fn may_see_contents(control: &Control) -> bool {
    !control.token.is_empty() || !control.clients_are_checked
}

/// Whether requests that pass the guard may change something: they had to present a token, or neither the feed nor the
/// clients are restricted.
pub(super) fn may_change(control: &Control) -> bool {
    !control.token.is_empty() || !(control.feed_is_narrowed || control.clients_are_checked)
}

/// Lets a request for channels, events, users or connections through if it may be answered.
pub(super) async fn guard_contents(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    match check_contents(&control) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Whether a request is to change something.
fn changes(request: &Request) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Lets a request through if it may be answered, and its body is there.
pub(super) async fn guard(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    if let Err(error) = check(&control, &request) {
        return error.into_response();
    }
    let changes = changes(&request);
    // The number of requests that are answered at a time bounds the memory of their bodies. Changes have a number of
    // their own, so that bodies that are slow to arrive do not hold up requests that only look.
    let permits = if changes { &control.changing } else { &control.looking };
    let _permit = permits.acquire().await;
    if !changes {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_MAX, read_body(body, control.max_line)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_MAX.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).into_response()
        }
    }
}

/// Adds the headers that every answer has.
pub(super) async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer to a path that does not exist.
pub(super) async fn not_found() -> ApiError {
    let message = "there is nothing at this path; /v1/openapi.json lists the paths";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// The answer to a method that the path does not know.
pub(super) async fn wrong_method() -> ApiError {
    let message = "this path does not know that method; /v1/openapi.json lists the methods";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        assert!(is_token("secret", "secret"));
        for other in ["", "secre", "secret2", "Secret"] {
            assert!(!is_token(other, "secret"), "{other}");
        }
    }

    #[test]
    fn a_foreign_name_is_not_this_host() {
        let names = ["web1".to_owned(), "admin.example".to_owned()];
        for good in [
            "127.0.0.1:8081",
            "localhost",
            "LocalHost:8081",
            "[::1]:8081",
            "[::1]",
            "10.0.0.1",
            "WEB1:8081",
            "admin.example",
        ] {
            assert!(is_this_host(good, &names), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "web1.evil.example",
            "",
        ] {
            assert!(!is_this_host(bad, &names), "{bad}");
        }
    }

    #[test]
    fn only_pages_of_the_listener_itself_may_ask() {
        let asked = |host: &'static str, origin: &'static str| {
            let fields = [(header::HOST, host), (header::ORIGIN, origin)];
            let headers = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
            is_own_origin(&HeaderMap::from_iter(headers), &["admin.example".to_owned()])
        };
        for (host, origin) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("localhost:8081", "http://LOCALHOST:8081"),
            ("web1", "https://web1"),
            // A proxy passes its own name on as the origin, and this host's address as the host.
            ("127.0.0.1:8081", "https://admin.example"),
        ] {
            assert!(asked(host, origin), "{host} {origin}");
        }
        for (host, origin) in [
            ("127.0.0.1:8081", "http://evil.example"),
            ("127.0.0.1:8081", "http://127.0.0.1:8080"),
            ("127.0.0.1:8081", "null"),
            ("127.0.0.1:8081", ""),
            ("127.0.0.1:8081", "http://admin.example.evil.example"),
        ] {
            assert!(!asked(host, origin), "{host} {origin}");
        }
        assert!(is_own_origin(&HeaderMap::new(), &[]), "this is no browser");
    }
}
