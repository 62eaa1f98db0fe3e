//! Who may use the admin listener, and what those are told who may not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::Control;

/// How long a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(30);

/// An answer that is an error, in the form that all of the server's errors have.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        ApiError { status, code: code.into(), message: message.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": { "code": self.code, "message": self.message } }));
        let mut response = (self.status, body).into_response();
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

/// Whether a request names this host by its address or as `localhost`. A page that a browser got from elsewhere
/// cannot, even if its own name is made to lead here.
fn names_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Reads a body of `length_max` bytes at most. What is longer is read too, and thrown away: a client that is answered
/// while it still writes may see nothing but that the connection has ended.
async fn whole(body: Body, length_max: usize) -> Result<Bytes, ApiError> {
    let mut parts = body.into_data_stream();
    let (mut whole, mut length) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "body", error.to_string()))?;
        length += part.len();
        match length > length_max {
            true => whole = Vec::new(),
            false => whole.extend_from_slice(&part),
        }
    }
    if length > length_max {
        let message = format!("the body has {length} bytes, and [feed] max_line is {length_max}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", message));
    }
    Ok(whole.into())
}

/// Lets through who shows the token; where there is none, who cannot be a page of another site, and who only looks if
/// the feed is not for everybody.
pub(super) async fn check(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !control.token.is_empty() {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !is_token(shown, &control.token) {
            let message = "this is for those who present [admin] token as Authorization: Bearer";
            return ApiError::new(StatusCode::UNAUTHORIZED, "token", message).into_response();
        }
    } else if !names_address(headers) {
        let message = "without an [admin] token, name this host by its address or as localhost";
        return ApiError::new(StatusCode::FORBIDDEN, "host", message).into_response();
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    // The kernel says who is at the other end of the feed, and not who is at the other end here.
    if changes && control.token.is_empty() && control.feed_is_narrowed {
        let message = "set [admin] token to change anything here: [feed] group, allow_users or readers says who may, \
                       and without a token anybody on this host could";
        return ApiError::new(StatusCode::FORBIDDEN, "no_token", message).into_response();
    }
    // A page of another site may send forms and texts, but JSON only if it is allowed to, which nobody is here.
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if changes && media.split(';').next().map(str::trim) != Some("application/json") {
        let message = "send JSON, with Content-Type: application/json";
        return ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message).into_response();
    }
    // What is being answered is bounded, and with it the memory that its bodies take: a command's line waits with its
    // request, and what is given up is not done later. Bodies that are slow to come hold up none who look.
    let permits = if changes { &control.changing } else { &control.looking };
    let _permit = permits.acquire().await;
    if !changes {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_MAX, whole(body, control.max_line)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY_MAX.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).into_response()
        }
    }
}

/// What every answer says.
pub(super) async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// There is nothing at this path.
pub(super) async fn not_found() -> ApiError {
    let message = "there is nothing at this path; /v1/openapi.json says what there is";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// The path knows other methods only.
pub(super) async fn wrong_method() -> ApiError {
    let message = "this path does not know that method; /v1/openapi.json says which it knows";
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
    fn a_name_is_no_address() {
        let named =
            |host: &'static str| names_address(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        for good in ["127.0.0.1:8081", "localhost", "localhost:8081", "[::1]:8081", "[::1]", "10.0.0.1"] {
            assert!(named(good), "{good}");
        }
        for bad in ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!named(bad), "{bad}");
        }
    }
}
