//! The admin listener: health and figures, for probes and people. A thread of its own that never touches a
//! client's connection; one request at a time is plenty.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tracing::info;

use crate::config::Config;
use crate::logic::protocol::http::{
    HeadLimits, Method, Parsed, Reject, Request, ResponseHeaders, parse, write_error, write_json, write_text,
};

use super::{StartError, Stats};

const TIMEOUT: Duration = Duration::from_secs(2);
const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192 };

/// Opens the listener, if there is to be one.
pub(super) fn listen(config: &Config) -> Result<Option<TcpListener>, StartError> {
    // The configuration is checked: whatever is no address is "off".
    let Ok(address) = config.admin.listen.parse::<SocketAddr>() else { return Ok(None) };
    let failed = |source| StartError::Listen { address: format!("{address} (admin)"), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    info!(address = %listener.local_addr()?, "admin listening");
    Ok(Some(listener))
}

/// Serves until the process ends.
pub(super) fn start(listener: TcpListener, stats: Stats, token: String) -> io::Result<()> {
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                // A client that breaks off is its own business.
                Ok(stream) => drop(serve(stream, &stats, &token)),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    })?;
    Ok(())
}

fn serve(mut stream: TcpStream, stats: &Stats, token: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut bytes = Vec::new();
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 2048];
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..length]);
        match parse(&bytes, &LIMITS) {
            Parsed::Partial => continue,
            Parsed::Complete { request, .. } => respond(&request, stats, token, &mut answer),
            Parsed::Rejected(reject) => write_error(&mut answer, &reject, &ResponseHeaders::default()),
        }
        return stream.write_all(&answer);
    }
}

/// Whether the request shows the token, if there is one to be shown. Takes the same time whatever is wrong.
fn is_allowed(request: &Request<'_>, token: &str) -> bool {
    let shown = request.authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let differences = shown.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    token.is_empty() || (shown.len() == token.len() && differences == 0)
}

fn respond(request: &Request<'_>, stats: &Stats, token: &str, out: &mut Vec<u8>) {
    let head_only = request.method == Method::Head;
    let headers = ResponseHeaders { is_http_1_1: request.is_http_1_1, head_only, ..ResponseHeaders::default() };
    match request.path {
        _ if !matches!(request.method, Method::Get | Method::Head) => {
            write_error(out, &Reject::fatal(405, "method", "this listener knows GET and HEAD only"), &headers);
        }
        "/healthz" => write_text(out, 200, b"ok\n", &headers),
        "/readyz" if stats.room.is_ready() => write_text(out, 200, b"ready\n", &headers),
        "/readyz" => {
            let reject = Reject::fatal(503, "not_ready", "this server is starting or going away");
            write_error(out, &reject, &headers);
        }
        "/stats" if !is_allowed(request, token) => {
            let message = "figures are shown to those who present [admin] token as Authorization: Bearer";
            write_error(out, &Reject::fatal(401, "token", message), &headers);
        }
        "/stats" => {
            let mut body = Vec::new();
            stats.write_json(&mut body);
            write_json(out, &body, &headers);
        }
        _ => {
            let message = "there is nothing at this path; there are /healthz, /readyz and /stats";
            write_error(out, &Reject::fatal(404, "not_found", message), &headers);
        }
    }
}
