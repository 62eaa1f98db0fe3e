//! Checks that need more than one key. Those of a single value stand in its entry of the table.

use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::logic::auth::LEEWAY_MAX_S;

use super::address::{AdminAddress, ListenAddress};
use super::load::ConfigError;
use super::origins;
use super::section::Section;
use super::table::{Auth, Backplane, Certificate, Config, NamespacePolicy, Server, Tls, TokenKey};
use super::{BackplaneKind, ClientAuth, SlowPolicy};

/// The most namespaces; a shard numbers their policies with 16 bits.
const NAMESPACES_MAX: usize = 10_000;

/// What is shown in place of a secret. As a secret it is refused: a file made of printed output would otherwise accept
/// tokens from everyone who has seen this text.
const HIDDEN: &str = "(hidden)";
const HIDDEN_PROBLEM: &str =
    "must be the secret itself, not (hidden), which `ringcast config print` shows in its place";

/// Whether a time can be the leeway of tokens, which are dated in whole seconds.
pub(super) fn is_leeway(leeway: &Duration) -> bool {
    *leeway <= Duration::from_secs(LEEWAY_MAX_S) && leeway.subsec_nanos() == 0
}

/// Whether a text can be the name of a cookie (a token of RFC 9110 §5.6.2), or is empty.
pub(super) fn is_cookie_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether a text is a level of the log, or directives.
pub(super) fn is_log_level(level: &str) -> bool {
    EnvFilter::try_new(level).is_ok()
}

/// Checks every value by itself, and then those that depend on each other.
///
/// # Errors
/// The first value that cannot be.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    config.check_sections()?;
    check_admin(config)?;
    check_keys(&config.auth.keys)?;
    check_tls(config)?;
    origins::check(config)?;
    if config.server.proxy_protocol && config.server.trusted_proxies.is_empty() {
        let problem = "needs trusted_proxies: the proxies whose headers are believed";
        return Err(ConfigError::value("[server] proxy_protocol", problem));
    }
    check_backplane(config)?;
    check_namespaces(config)
}

fn check_backplane(config: &Config) -> Result<(), ConfigError> {
    let backplane = &config.backplane;
    let wrong = |key: &str, problem: String| Err(ConfigError::value(format!("[backplane] {key}"), problem));
    match backplane.kind {
        BackplaneKind::Local if backplane.url.is_empty() => return Ok(()),
        BackplaneKind::Local => {
            return wrong("url", "begins with redis://, rediss://, redis+sentinel://, nats:// or tls://".into());
        }
        BackplaneKind::Redis if !is_redis(&backplane.url) => {
            return wrong("url", "must begin with redis://, rediss:// or redis+sentinel:// for the kind redis".into());
        }
        BackplaneKind::Nats if !is_nats(&backplane.url) => {
            return wrong("url", "must begin with nats:// or tls:// for the kind nats".into());
        }
        BackplaneKind::Redis | BackplaneKind::Nats => {}
    }
    let names = config.namespace.keys().map(|name| format!("{name}:")).chain([String::new()]);
    let ttl = names.map(|name| config.namespace(&name).history_ttl).max().unwrap_or_default();
    let least = ttl.max(config.feed.idempotency_window);
    if backplane.retention < least {
        let least = least.as_secs();
        return wrong(
            "retention",
            format!("must be at least the greatest history_ttl and [feed] idempotency_window: {least}s"),
        );
    }
    Ok(())
}

/// Whether a URL names a Redis.
fn is_redis(url: &str) -> bool {
    ["redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Whether a URL names NATS servers.
fn is_nats(url: &str) -> bool {
    ["nats://", "tls://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Whether a text may be the name of a node or a cluster.
pub(super) fn is_node_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Refuses addresses that other hosts can reach, unless the configuration says who may subscribe.
///
/// # Errors
/// The first such address.
pub fn check_exposure<'a>(
    config: &Config,
    addresses: impl IntoIterator<Item = &'a ListenAddress>,
) -> Result<(), ConfigError> {
    if let Some(open) = addresses.into_iter().find(|address| !address.is_local())
        && !config.auth.allow_anonymous
        && !config.checks_clients()
    {
        return Err(ConfigError::Open(open.to_string()));
    }
    Ok(())
}

fn check_admin(config: &Config) -> Result<(), ConfigError> {
    if config.admin.token == HIDDEN {
        return Err(ConfigError::value("[admin] token", HIDDEN_PROBLEM));
    }
    let AdminAddress::At(address) = config.admin.listen else { return Ok(()) };
    if !address.ip().is_loopback() && config.admin.token.is_empty() {
        let problem = "must be an address of this host alone, such as 127.0.0.1, as long as [admin] token is empty";
        return Err(ConfigError::value("[admin] listen", problem));
    }
    let is_taken = config.server.addresses().any(|other| *other == ListenAddress::Tcp(address));
    if address.port() != 0 && is_taken {
        return Err(ConfigError::value("[admin] listen", "must be another address than those of [server] listen"));
    }
    Ok(())
}

fn check_tls(config: &Config) -> Result<(), ConfigError> {
    if config.server.addresses().next().is_none() {
        return Err(ConfigError::value("[server] listen", "must be at least one address, or listen_tls must"));
    }
    let is_both = |address: &&ListenAddress| config.server.listen.contains(address) && address.has_port();
    if let Some(both) = config.server.listen_tls.iter().find(is_both) {
        let problem = format!("must be other addresses than those of listen, which has {both} too");
        return Err(ConfigError::value("[server] listen_tls", problem));
    }
    for (index, certificate) in config.tls.certificates.iter().enumerate() {
        certificate.check(&format!("[tls] certificates[{index}]"))?;
    }
    if config.tls.chain.as_os_str().is_empty() != config.tls.key.as_os_str().is_empty() {
        return Err(ConfigError::value("[tls] chain", "must be set together with key (--cert FILE --key FILE)"));
    }
    // The demo makes a certificate of its own.
    if !config.server.listen_tls.is_empty() && config.tls.all().is_empty() && !config.demo {
        let problem = "needs a certificate: chain and key under [tls] (--cert FILE --key FILE)";
        return Err(ConfigError::value("[server] listen_tls", problem));
    }
    let has_authorities = !config.tls.client_ca.as_os_str().is_empty();
    match config.tls.client_auth {
        ClientAuth::Off if has_authorities => {
            let problem = "is \"off\", so client_ca would not be used; set \"optional\" or \"required\"";
            Err(ConfigError::value("[tls] client_auth", problem))
        }
        ClientAuth::Optional | ClientAuth::Required if !has_authorities => {
            Err(ConfigError::value("[tls] client_ca", "must be a file, because client_auth asks for certificates"))
        }
        _ => Ok(()),
    }
}

fn check_keys(keys: &[TokenKey]) -> Result<(), ConfigError> {
    for (index, key) in keys.iter().enumerate() {
        let place = format!("[auth] keys[{index}]");
        key.check(&place)?;
        if key.secret == HIDDEN {
            return Err(ConfigError::value(format!("{place} secret"), HIDDEN_PROBLEM));
        }
        let forms = [
            !key.secret.is_empty(),
            !key.pem.is_empty(),
            key.secret_file != PathBuf::new(),
            key.pem_file != PathBuf::new(),
        ];
        if forms.iter().filter(|is_set| **is_set).count() != 1 {
            return Err(ConfigError::value(place, "needs exactly one of secret, secret_file, pem and pem_file"));
        }
    }
    Ok(())
}

fn check_namespaces(config: &Config) -> Result<(), ConfigError> {
    if config.namespace.len() > NAMESPACES_MAX {
        return Err(ConfigError::value("[namespace]", format!("must occur at most {NAMESPACES_MAX} times")));
    }
    for (name, namespace) in &config.namespace {
        let place = format!("[namespace.{name}]");
        namespace.over(NamespacePolicy::default()).check(&place)?;
        if namespace.client_publish == Some(true) && !config.auth.has_keys() {
            let problem = "must be false as long as [auth] has no keys: a token says where its bearer may publish";
            return Err(ConfigError::value(format!("{place} client_publish"), problem));
        }
        if namespace.public == Some(false) && !config.auth.has_keys() && !config.auth.ask_backend {
            let problem = "must be true as long as [auth] has neither keys to verify tokens with nor ask_backend";
            return Err(ConfigError::value(format!("{place} public"), problem));
        }
    }
    Ok(())
}

/// Sentences about values that are allowed, but do not do what they seem to.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut names: Vec<&str> = config.namespace.keys().map(String::as_str).collect();
    if !config.namespace.contains_key("*") {
        names.push("*");
    }
    let mut found = Vec::new();
    for name in names {
        let policy = config.namespace(&format!("{name}:"));
        let is_short = policy.history_events == 0 || policy.history_bytes < config.feed.max_line;
        if policy.slow == SlowPolicy::CatchUp && is_short {
            found.push(format!(
                "[namespace.{name}] history_bytes is below [feed] max_line, so one long event may leave no history for a client that \
                 falls behind: slow = \"catch_up\" tells it of a gap then"
            ));
        }
    }
    found
}

impl Backplane {
    /// Whether ids tell the time of events: those that a stream of NATS numbers do not.
    pub fn has_times_in_ids(&self) -> bool {
        self.kind != BackplaneKind::Nats
    }

    /// The number of replicas that must have an entry before it counts.
    pub fn replicas(&self) -> u32 {
        self.ack_replicas.count(self.url.contains("+sentinel://"))
    }

    /// Takes the kind from the URL, if there is one and no kind.
    pub(super) fn settle_kind(&mut self) {
        if self.kind == BackplaneKind::Local && is_redis(&self.url) {
            self.kind = BackplaneKind::Redis;
        }
        if self.kind == BackplaneKind::Local && is_nats(&self.url) {
            self.kind = BackplaneKind::Nats;
        }
    }
}

impl Server {
    /// All addresses that clients connect to, with TLS or without.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.listen.iter().chain(&self.listen_tls)
    }
}

impl Tls {
    /// All certificates, the first one first.
    pub fn all(&self) -> Vec<Certificate> {
        let first = Certificate { chain: self.chain.clone(), key: self.key.clone() };
        let first = (!first.chain.as_os_str().is_empty()).then_some(first);
        first.into_iter().chain(self.certificates.iter().cloned()).collect()
    }
}

impl Auth {
    /// Whether tokens are verified.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || !self.jwks_file.as_os_str().is_empty()
    }
}

impl Config {
    /// Whether anything is asked of clients before they may subscribe: a token, the backend's consent, or a certificate.
    pub fn checks_clients(&self) -> bool {
        self.auth.has_keys() || self.auth.ask_backend || self.tls.client_auth != ClientAuth::Off
    }

    /// Puts a placeholder in the place of every secret.
    pub fn hide_secrets(&mut self) {
        let keys = self.auth.keys.iter_mut().map(|key| &mut key.secret);
        for secret in keys.chain([&mut self.admin.token]).filter(|secret| !secret.is_empty()) {
            *secret = HIDDEN.into();
        }
        self.backplane.hide_password();
    }
}

impl Backplane {
    /// Puts a text in the place of the URL's password, or token.
    fn hide_password(&mut self) {
        let Some((before, host)) = self.url.rsplit_once('@') else { return };
        let Some((scheme, userinfo)) = before.split_once("://") else { return };
        self.url = match userinfo.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}"),
            None if is_nats(&self.url) => format!("{scheme}://{HIDDEN}@{host}"),
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_secrets_are_neither_shown_nor_taken_for_secrets() {
        let mut config = Config::default();
        config.admin.token = "the admin's".into();
        config.backplane.url = "redis://node:the broker's@127.0.0.1:6379".into();
        config.backplane.settle_kind();
        config.auth.keys = vec![TokenKey { alg: "HS256".into(), secret: "everybody's".into(), ..TokenKey::default() }];
        check(&config).unwrap();
        config.hide_secrets();
        let text = config.to_toml();
        assert!(!text.contains("the admin's") && !text.contains("everybody's"), "{text}");
        assert!(text.contains("redis://node:(hidden)@127.0.0.1:6379"), "{text}");
        config.backplane.url = "nats://the-token@127.0.0.1:4222,127.0.0.1:4223".into();
        config.hide_secrets();
        assert_eq!(config.backplane.url, "nats://(hidden)@127.0.0.1:4222,127.0.0.1:4223");
        check_admin(&config).unwrap_err();
        check_keys(&config.auth.keys).unwrap_err();
        let mut without = Config::default();
        without.hide_secrets();
        assert_eq!(without, Config::default());
    }

    /// What is wrong with a file; nothing if it can be read and every value can be.
    fn problem(text: &str) -> Option<String> {
        match toml::from_str(text) {
            Ok(config) => check(&config).err().map(|error| error.to_string()),
            Err(error) => Some(error.message().into()),
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "[server]\nlisten = []",
            "[server]\nlisten_tls = [\"127.0.0.1:8443\"]",
            "[server]\nlisten_tls = [\"127.0.0.1:8080\"]\n[tls]\nchain = \"a\"\nkey = \"b\"",
            "[tls]\nchain = \"a\"",
            "[tls]\nkey = \"a\"",
            "[tls]\nclient_ca = \"a\"",
            "[tls]\nclient_auth = \"required\"",
            "[tls]\ncertificates = [{ chain = \"a\" }]",
            "[tls]\nmin_version = \"1.1\"",
            "[feed]\nmode = \"rw\"",
            "[backplane]\nkind = \"redis\"",
            "[backplane]\nkind = \"nats\"\nurl = \"redis://127.0.0.1:6379\"",
            "[admin]\nlisten = \"here\"",
            "[admin]\nlisten = \"0.0.0.0:8081\"",
            "[server]\nlisten = [\"127.0.0.1:80\"]\n[admin]\nlisten = \"127.0.0.1:80\"",
            "[diagnostics]\necho_path = \"echo\"",
            "[auth]\nkeys = [{ alg = \"HS256\" }]",
            "[auth]\nkeys = [{ secret = \"x\" }]",
            "[auth]\nkeys = [{ alg = \"ES256\", secret = \"x\", pem_file = \"y\" }]",
            "[auth]\nleeway = \"2h\"",
            "[auth]\nleeway = \"500ms\"",
            "[auth]\ncookie = \"a b\"",
            "[log]\nlevel = \"info,,=\"",
            "[server]\nproxy_protocol = true",
            "[namespace.x]\nclient_publish = true",
            "[namespace.x]\npublic = false",
        ] {
            assert!(problem(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bounds() {
        for (text, expected) in [
            ("[server]\nshards = 5000", "[server] shards must be at most 1024"),
            ("[heartbeat]\nreap = 0", "[heartbeat] reap must be from 100ms to 7d"),
            ("[http]\nmax_header = 100", "[http] max_header must be from 256 to 64KiB"),
            ("[auth]\nleeway = \"1.5s\"", "[auth] leeway must be whole seconds, at most 1h"),
            ("[auth]\nkeys = [{ secret = \"x\" }]", "[auth] keys[0] alg must be an algorithm, as in \"ES256\""),
            ("[namespace.x]\nmax_lag = 1", "[namespace.x] max_lag must be from 4KiB to 1024GiB"),
        ] {
            assert_eq!(problem(text).as_deref(), Some(expected));
        }
    }

    #[test]
    fn bounds_include_both_ends() {
        for text in ["256", "\"64KiB\""] {
            assert_eq!(problem(&format!("[http]\nmax_header = {text}")), None);
        }
        for text in ["255", "65537"] {
            assert!(problem(&format!("[http]\nmax_header = {text}")).is_some(), "{text}");
        }
        assert!(problem("[http]\nsse_padding = \"1GB\"").is_some(), "the first stream would need that much memory");
    }

    #[test]
    fn a_history_that_one_event_fills_is_warned_of() {
        let warned = |text: &str| warnings(&toml::from_str(text).unwrap()).len();
        assert_eq!(warned(""), 0);
        assert_eq!(warned("[feed]\nmax_line = \"2MiB\""), 1);
        assert_eq!(warned("[namespace.x]\nhistory_bytes = \"64KiB\""), 1);
        assert_eq!(warned("[namespace.x]\nhistory_bytes = \"64KiB\"\nslow = \"gap\""), 0);
        assert_eq!(warned("[namespace.\"*\"]\nhistory_events = 0\n[namespace.x]\nhistory_events = 5"), 1);
    }

    #[test]
    fn a_server_may_speak_tls_alone() {
        let tls = "[tls]\nchain = \"a\"\nkey = \"b\"\nmin_version = \"1.3\"\n[[tls.certificates]]\nchain = \"c\"\nkey = \"d\"";
        let text = format!("[server]\nlisten = []\nlisten_tls = [\"127.0.0.1:8443\"]\n{tls}");
        assert_eq!(problem(&text), None);
        let config: Config = toml::from_str(&text).unwrap();
        let chains: Vec<PathBuf> = config.tls.all().into_iter().map(|one| one.chain).collect();
        assert_eq!(chains, [PathBuf::from("a"), PathBuf::from("c")]);
    }

    #[test]
    fn every_default_is_allowed() {
        check(&Config::default()).unwrap();
        NamespacePolicy::default().check("").unwrap();
    }
}
