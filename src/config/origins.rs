//! The origins of pages (RFC 6454 §6.2) under `[http] cors_origins` and `[websocket] origins`.

use super::load::ConfigError;
use super::table::Config;

/// Checks that each origin can be one that a browser sends: a scheme, a host, and a port other than the scheme's own.
///
/// # Errors
/// The first origin that no browser sends, with the form that is meant.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let lists =
        [("[http] cors_origins", &config.http.cors_origins), ("[websocket] origins", &config.websocket.origins)];
    for (key, list) in lists {
        for origin in list {
            if let Some(meant) = meant_by(origin).filter(|meant| meant != origin) {
                let problem =
                    format!("must name {meant:?} in place of {origin:?}, which no browser sends as its origin");
                return Err(ConfigError::value(key, problem));
            }
        }
    }
    Ok(())
}

/// Has the origins under one key count for the other one, if that one names none. `*` counts for streams and polls alone,
/// whose answers then go without credentials: WebSockets would come with cookies from any site.
pub(super) fn share(config: &mut Config) {
    if config.websocket.origins.is_empty() {
        let named = config.http.cors_origins.iter().filter(|origin| *origin != "*");
        config.websocket.origins = named.cloned().collect();
    } else if config.http.cors_origins.is_empty() {
        config.http.cors_origins = config.websocket.origins.clone();
    }
}

/// The origin that a text means; `None` if every page, or a page without an origin, is meant.
fn meant_by(text: &str) -> Option<String> {
    if text == "*" || text == "null" {
        return None;
    }
    let text = text.trim().to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", &text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    Some(format!("{scheme}://{}", host.strip_suffix(default_port).unwrap_or(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_browser_sends_is_refused_with_the_form_that_is_meant() {
        for (origin, meant) in [
            ("https://a.example/", "https://a.example"),
            ("https://a.example/app", "https://a.example"),
            ("https://A.example", "https://a.example"),
            ("a.example", "https://a.example"),
            ("a.example:8443", "https://a.example:8443"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
        ] {
            for key in ["http", "websocket"] {
                let mut config = Config::default();
                let list = if key == "http" { &mut config.http.cors_origins } else { &mut config.websocket.origins };
                list.push(origin.into());
                let problem = check(&config).unwrap_err().to_string();
                assert!(problem.contains(&format!("must name {meant:?} in place of {origin:?}")), "{problem}");
                assert!(problem.starts_with(&format!("[{key}] ")), "{problem}");
            }
        }
    }

    #[test]
    fn origins_of_browsers_are_taken() {
        let mut config = Config::default();
        config.http.cors_origins = ["*", "null", "https://a.example", "https://*.b.example", "http://h:443", "app://x"]
            .map(String::from)
            .to_vec();
        check(&config).unwrap();
    }

    #[test]
    fn one_list_counts_for_both_except_for_every_page() {
        let list = |items: &[&str]| items.iter().map(|item| item.to_string()).collect::<Vec<_>>();
        let shared = |cors: &[&str], websocket: &[&str]| {
            let mut config = Config::default();
            (config.http.cors_origins, config.websocket.origins) = (list(cors), list(websocket));
            share(&mut config);
            (config.http.cors_origins, config.websocket.origins)
        };
        let (a, b) = ("https://a.example", "https://b.example");
        assert_eq!(shared(&[a, "*"], &[]), (list(&[a, "*"]), list(&[a])));
        assert_eq!(shared(&[], &[b]), (list(&[b]), list(&[b])));
        assert_eq!(shared(&[a], &[b]), (list(&[a]), list(&[b])));
    }
}
