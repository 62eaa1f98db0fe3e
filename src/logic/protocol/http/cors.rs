//! Pages of other sites: CORS for event streams and polls, the origin check for WebSockets.

/// What an answer says about pages of other origins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cors<'a> {
    /// Nothing: only pages of the same origin may read it.
    #[default]
    None,
    /// As [`Cors::None`], and that the answer depends on the origin, so that caches do not give it to another one.
    Varies,
    /// Every page may read it, without credentials.
    Any,
    /// Pages of this origin may read it, with credentials.
    Origin(&'a str),
}

/// What the answer to a page of `origin` says, given the allowed origins.
pub fn decide_cors<'a>(allowed: &[String], origin: Option<&'a str>) -> Cors<'a> {
    match origin {
        Some(origin) if allowed.iter().any(|pattern| pattern != "*" && matches(pattern, origin)) => {
            Cors::Origin(origin)
        }
        Some(_) if allowed.iter().any(|pattern| pattern == "*") => Cors::Any,
        _ if allowed.iter().any(|pattern| pattern != "*") => Cors::Varies,
        _ => Cors::None,
    }
}

/// Whether a page of `origin` may open a WebSocket. A program that is no browser sends no origin, and may. Pages of the
/// requested `host` always may; the scheme's own port counts as none. CORS does not apply to WebSockets, so this check
/// alone keeps other sites from using a visitor's connection (RFC 6455 §10.2).
pub fn origin_allowed(allowed: &[String], origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    let same_host = || {
        let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else { return false };
        let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let without_port = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_owned();
        without_port(authority).eq_ignore_ascii_case(&without_port(host))
    };
    allowed.iter().any(|pattern| pattern == "*" || matches(pattern, origin)) || same_host()
}

/// Whether an origin is the pattern's: `https://app.example.com` or, for all subdomains, `https://*.example.com`.
fn matches(pattern: &str, origin: &str) -> bool {
    let (pattern, origin) = (pattern.to_ascii_lowercase(), origin.to_ascii_lowercase());
    let Some((scheme, domain)) = pattern.split_once("*.") else { return pattern == origin };
    let subdomain = origin.strip_prefix(scheme).and_then(|host| host.strip_suffix(domain)?.strip_suffix('.'));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    subdomain.is_some_and(|name| !name.is_empty() && name.bytes().all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let list = |items: &[&str]| items.iter().map(|item| item.to_string()).collect::<Vec<_>>();
        let some = list(&["https://a.example", "https://*.b.example"]);
        assert_eq!(decide_cors(&some, Some("https://a.example")), Cors::Origin("https://a.example"));
        assert_eq!(decide_cors(&some, Some("https://x.b.example")), Cors::Origin("https://x.b.example"));
        assert_eq!(decide_cors(&some, Some("HTTPS://X.B.example")), Cors::Origin("HTTPS://X.B.example"));
        for other in ["https://u@x.b.example", "https://evil?.b.example", "https://evil/.b.example"] {
            assert_eq!(decide_cors(&some, Some(other)), Cors::Varies, "{other}");
        }
        for other in ["https://b.example", "https://evilb.example", "http://a.example", "null"] {
            assert_eq!(decide_cors(&some, Some(other)), Cors::Varies, "{other}");
        }
        assert_eq!(decide_cors(&some, None), Cors::Varies);
        assert_eq!(decide_cors(&[], Some("https://z")), Cors::None);
        assert_eq!(decide_cors(&list(&["*"]), Some("https://z")), Cors::Any);
        assert_eq!(decide_cors(&list(&["*"]), None), Cors::None);
        assert!(origin_allowed(&[], None, Some("h")));
        assert!(origin_allowed(&[], Some("http://h:1"), Some("h:1")));
        assert!(!origin_allowed(&[], Some("http://evil"), Some("h")));
        for (origin, host, is_allowed) in [
            ("http://h", "h:80", true),
            ("http://h:80", "h", true),
            ("https://h", "h:443", true),
            ("https://H", "h", true),
            ("https://h", "h:80", false),
            ("http://h", "h:443", false),
            ("http://h:8080", "h", false),
        ] {
            assert_eq!(origin_allowed(&[], Some(origin), Some(host)), is_allowed, "{origin} {host}");
        }
        assert!(origin_allowed(&some, Some("https://a.example"), Some("h")));
        assert!(origin_allowed(&list(&["*"]), Some("http://evil"), Some("h")));
    }
}
