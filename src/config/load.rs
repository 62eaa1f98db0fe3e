//! Putting the configuration together and refusing what makes no sense.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::ListenAddress;
use super::args::ServeArgs;
use super::model::Config;
use crate::logic::auth::LEEWAY_MAX_S;

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is no TOML or has a key or value that does not exist.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what, with a suggestion.
        message: String,
    },
    /// A value that cannot be.
    #[error("{key} {problem}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// What is wrong with it and what to write instead.
        problem: String,
    },
    /// Everyone could subscribe from other hosts, and nobody has said that this is meant.
    #[error(
        "{0} can be reached from other hosts and anyone there could subscribe to any channel; set keys or jwks_file under \
         [auth] so that clients need tokens, or allow_anonymous = true there (or --allow-anonymous) if that is meant, or \
         listen on 127.0.0.1 or unix:PATH behind a proxy"
    )]
    Open(String),
}

/// Flags, then the environment (which `clap` has read into the flags), then the file, then defaults.
///
/// `environment` is asked for the directories that systemd and the session set.
pub fn load(args: &ServeArgs, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let mut config = match &args.config {
        Some(path) => read_file(path)?,
        None => Config::default(),
    };
    if !args.listen.is_empty() {
        config.server.listen = args.listen.clone();
    }
    if let Some(feed) = &args.feed {
        config.feed.path = feed.clone();
    }
    if let Some(admin) = &args.admin {
        config.admin.listen = admin.clone();
    }
    if let Some(shards) = args.shards {
        config.server.shards = shards;
        if shards == 0 {
            return Err(value("--shards", "must be at least 1"));
        }
    }
    if args.pin || args.no_pin {
        config.server.pin = args.pin;
    }
    if let Some(allow_anonymous) = args.allow_anonymous {
        config.auth.allow_anonymous = allow_anonymous;
    }
    if let Some(format) = args.log_format {
        config.log.format = format;
    }
    if let Some(level) = &args.log_level {
        config.log.level = level.clone();
    }
    config.demo = args.demo;
    if config.feed.path.as_os_str().is_empty() {
        config.feed.path = default_feed_path(environment);
    }
    if config.server.state_dir.as_os_str().is_empty() {
        let beside = config.feed.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let state = environment("STATE_DIRECTORY").map(PathBuf::from);
        config.server.state_dir = state.unwrap_or_else(|| beside.unwrap_or(Path::new(".")).to_path_buf());
    }
    check(&config)?;
    check_exposure(&config, &config.server.listen)?;
    Ok(config)
}

/// Refuses addresses that other hosts can reach, unless it is said who may subscribe.
pub fn check_exposure<'a>(
    config: &Config,
    addresses: impl IntoIterator<Item = &'a ListenAddress>,
) -> Result<(), ConfigError> {
    if let Some(open) = addresses.into_iter().find(|address| !address.is_local())
        && !config.auth.allow_anonymous
        && !config.auth.has_keys()
        && !config.auth.ask_backend
    {
        return Err(ConfigError::Open(open.to_string()));
    }
    Ok(())
}

/// Where the feed is if nobody says: in systemd's runtime directory, the session's, or here.
pub fn default_feed_path(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(folder) = environment("RUNTIME_DIRECTORY") {
        return Path::new(&folder).join("feed.sock");
    }
    match environment("XDG_RUNTIME_DIR") {
        Some(folder) => Path::new(&folder).join("ringcast/feed.sock"),
        None => "./ringcast.sock".into(),
    }
}

/// Reads and checks a file without running with it: what `serve` would refuse is refused here.
pub fn check_file(path: &Path) -> Result<Config, ConfigError> {
    let config = read_file(path)?;
    check(&config)?;
    check_exposure(&config, &config.server.listen)?;
    Ok(config)
}

fn read_file(path: &Path) -> Result<Config, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    parse(&text).map_err(|message| ConfigError::Parse { path: name, message })
}

fn parse(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|error| {
        let message = error.message();
        let place = error.span().map_or(String::new(), |span| {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: ")
        });
        format!("{place}{message}{}", suggestion(message).unwrap_or_default())
    })
}

/// For "unknown field `x`, expected one of `a`, `b`": the name that was probably meant.
fn suggestion(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (unknown, rest) = rest.split_once('`')?;
    let names = rest.split('`').skip(1).step_by(2);
    let best = names.map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min()?;
    (best.0 <= 3).then(|| format!("; did you mean `{}`?", best.1))
}

fn value(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, problem: problem.into() }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let times: [(&'static str, Duration); 9] = [
        ("[server] handshake_timeout", config.server.handshake_timeout),
        ("[server] drain_timeout", config.server.drain_timeout),
        ("[heartbeat] sse", config.heartbeat.sse),
        ("[heartbeat] ws", config.heartbeat.ws),
        ("[heartbeat] reap", config.heartbeat.reap),
        ("[heartbeat] tcp_user_timeout", config.heartbeat.tcp_user_timeout),
        ("[http] poll_wait_max", config.http.poll_wait_max),
        ("[auth] token_timeout", config.auth.token_timeout),
        ("[auth] ask_timeout", config.auth.ask_timeout),
    ];
    for (key, time) in times {
        if time < Duration::from_millis(100) {
            return Err(value(key, "must be at least 100ms"));
        }
        if time > Duration::from_secs(7 * 86400) {
            return Err(value(key, "must be at most 7d"));
        }
    }
    let sizes: [(&'static str, usize, usize); 10] = [
        ("[feed] max_line", config.feed.max_line, 1024),
        ("[http] max_header", config.http.max_header, 256),
        ("[websocket] max_message", config.websocket.max_message, 128),
        ("[limits] queue", config.limits.queue, 65536),
        ("[limits] inbound", config.limits.inbound, 1024),
        ("[limits] upstream", config.limits.upstream, 1024),
        ("[limits] replies", config.limits.replies, 1024),
        ("[limits] not_sent", config.limits.not_sent, 4096),
        ("[limits] subscriptions", config.limits.subscriptions, 1),
        ("[limits] channels", config.limits.channels, 1),
    ];
    for (key, size, least) in sizes {
        if size < least {
            return Err(value(key, format!("must be at least {least}")));
        }
    }
    if config.http.max_header > 64 * 1024 {
        return Err(value("[http] max_header", "must be at most 64KiB"));
    }
    if config.server.listen.is_empty() {
        return Err(value("[server] listen", "must name at least one address"));
    }
    if config.server.shards > 1024 {
        return Err(value("[server] shards", "must be at most 1024"));
    }
    if config.server.max_connections == 0 {
        return Err(value("[server] max_connections", "must be at least 1"));
    }
    for (key, mode) in [("[feed] mode", &config.feed.mode), ("[server] unix_mode", &config.server.unix_mode)] {
        if u32::from_str_radix(mode, 8).ok().is_none_or(|mode| mode > 0o777) {
            return Err(value(key, "must be an octal mode such as \"0660\""));
        }
    }
    if config.backplane.kind != "local" {
        return Err(value("[backplane] kind", "must be \"local\": this version has no other"));
    }
    check_admin(config)?;
    let echo = &config.diagnostics.echo_path;
    if !echo.is_empty() && !echo.starts_with('/') {
        return Err(value("[diagnostics] echo_path", "must start with /"));
    }
    check_auth(config)?;
    for namespace in config.namespace.values() {
        if namespace.client_publish == Some(true) && !config.auth.has_keys() {
            let problem = "must be false as long as [auth] has no keys: a token says where its bearer may publish";
            return Err(value("[namespace] client_publish", problem));
        }
        if namespace.public == Some(false) && !config.auth.has_keys() && !config.auth.ask_backend {
            let problem = "must be true as long as [auth] has neither keys to verify tokens with nor ask_backend";
            return Err(value("[namespace] public", problem));
        }
        if namespace.max_lag.is_some_and(|max_lag| max_lag < 4096) {
            return Err(value("[namespace] max_lag", "must be at least 4KiB"));
        }
    }
    if config.namespace.len() > 10_000 {
        return Err(value("[namespace]", "may occur at most 10,000 times"));
    }
    Ok(())
}

/// What stands for a secret that is not shown. As a secret it is refused: else a file made of what was shown would let
/// in whoever has seen this.
const HIDDEN: &str = "(hidden)";
const HIDDEN_PROBLEM: &str = "must have the secret itself where what was printed says (hidden)";

fn check_admin(config: &Config) -> Result<(), ConfigError> {
    if config.admin.token == HIDDEN {
        return Err(value("[admin] token", HIDDEN_PROBLEM));
    }
    let address = match config.admin.listen.as_str() {
        "off" => return Ok(()),
        text => text.parse::<std::net::SocketAddr>(),
    };
    let Ok(address) = address else {
        return Err(value("[admin] listen", "must be ADDR:PORT, as in \"127.0.0.1:8081\", or \"off\""));
    };
    if !address.ip().is_loopback() && config.admin.token.is_empty() {
        let problem = "must be an address of this host alone, such as 127.0.0.1, as long as [admin] token is empty";
        return Err(value("[admin] listen", problem));
    }
    if address.port() != 0 && config.server.listen.contains(&ListenAddress::Tcp(address)) {
        return Err(value("[admin] listen", "must be another address than those of [server] listen"));
    }
    Ok(())
}

fn check_auth(config: &Config) -> Result<(), ConfigError> {
    for key in &config.auth.keys {
        if key.secret == HIDDEN {
            return Err(value("[auth] keys", HIDDEN_PROBLEM));
        }
        let forms = [
            !key.secret.is_empty(),
            !key.pem.is_empty(),
            key.secret_file != PathBuf::new(),
            key.pem_file != PathBuf::new(),
        ];
        if forms.iter().filter(|is_set| **is_set).count() != 1 {
            let problem = "needs exactly one of secret, secret_file, pem and pem_file in each key";
            return Err(value("[auth] keys", problem));
        }
        if key.alg.is_empty() {
            return Err(value(
                "[auth] keys",
                "needs alg in each key, as in { alg = \"ES256\", pem_file = \"key.pem\" }",
            ));
        }
    }
    if config.auth.leeway > Duration::from_secs(LEEWAY_MAX_S) || config.auth.leeway.subsec_nanos() != 0 {
        return Err(value("[auth] leeway", "must be whole seconds, and at most 1h"));
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !config.auth.cookie.bytes().all(is_token) {
        return Err(value("[auth] cookie", "must be a cookie's name"));
    }
    if config.server.proxy_protocol && config.server.trusted_proxies.is_empty() {
        return Err(value("[server] proxy_protocol", "needs trusted_proxies: who else may say where a client is from"));
    }
    Ok(())
}

impl Config {
    /// Puts something else for every secret.
    pub fn hide_secrets(&mut self) {
        let keys = self.auth.keys.iter_mut().map(|key| &mut key.secret);
        for secret in keys.chain([&mut self.admin.token]).filter(|secret| !secret.is_empty()) {
            *secret = HIDDEN.into();
        }
    }

    /// The configuration as a file that would bring it about.
    pub fn to_toml(&self) -> String {
        // Every type in it is a table, a list, a number, a boolean or text, so nothing can fail to be written.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokenKey;

    #[test]
    fn hidden_secrets_are_neither_shown_nor_taken_for_secrets() {
        let mut config = Config::default();
        config.admin.token = "the admin's".into();
        config.auth.keys = vec![TokenKey { alg: "HS256".into(), secret: "everybody's".into(), ..TokenKey::default() }];
        check_admin(&config).and_then(|()| check_auth(&config)).unwrap();
        config.hide_secrets();
        let text = config.to_toml();
        assert!(!text.contains("the admin's") && !text.contains("everybody's"), "{text}");
        check_admin(&config).unwrap_err();
        check_auth(&config).unwrap_err();
        let mut without = Config::default();
        without.hide_secrets();
        assert_eq!(without, Config::default());
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn works_without_anything() {
        let config = load(&ServeArgs::default(), &none).unwrap();
        assert_eq!(config.feed.path, Path::new("./ringcast.sock"));
        assert_eq!(config.server.state_dir, Path::new("."));
        let directories = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| "/run/ringcast".into());
        assert_eq!(default_feed_path(&directories), Path::new("/run/ringcast/feed.sock"));
    }

    #[test]
    fn other_hosts_are_let_in_only_on_purpose() {
        let mut args = ServeArgs { listen: vec!["0.0.0.0:80".parse().unwrap()], ..ServeArgs::default() };
        let error = load(&args, &none).unwrap_err().to_string();
        assert!(error.contains("allow_anonymous = true"), "{error}");
        args.allow_anonymous = Some(true);
        assert!(load(&args, &none).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "[auth]\nkeys = [{ alg = \"HS256\", secret = \"s\" }]").unwrap();
        (args.allow_anonymous, args.config) = (None, Some(path.clone()));
        assert!(load(&args, &none).is_ok(), "tokens are a way to say who is meant");
        std::fs::write(&path, "[auth]\nallow_anonymous = true").unwrap();
        assert!(load(&args, &none).is_ok());
        args.allow_anonymous = Some(false);
        assert!(matches!(load(&args, &none), Err(ConfigError::Open(_))), "a flag beats the file both ways");
    }

    #[test]
    fn a_file_is_checked_for_what_serve_would_refuse() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "[server]\nlisten = [\"0.0.0.0:80\"]").unwrap();
        assert!(matches!(check_file(&path), Err(ConfigError::Open(_))));
        std::fs::write(&path, "[server]\nlisten = [\"0.0.0.0:80\"]\n[auth]\nallow_anonymous = true").unwrap();
        assert!(check_file(&path).is_ok());
    }

    #[test]
    fn a_flag_beats_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "[server]\nshards = 7\npin = true\n").unwrap();
        let mut args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        assert_eq!(load(&args, &none).unwrap().server.shards, 7);
        args.shards = Some(2);
        args.no_pin = true;
        let config = load(&args, &none).unwrap();
        assert_eq!((config.server.shards, config.server.pin), (2, false));
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_a_suggestion() {
        let error = parse("[server]\n\nshard = 3\n").unwrap_err();
        assert!(error.starts_with("line 3: ") && error.ends_with("did you mean `shards`?"), "{error}");
        let error = parse("[feed]\nmax_line = \"many\"").unwrap_err();
        assert!(error.contains("line 2") && error.contains("64KiB"), "{error}");
        assert!(parse("[auth]\nkey = 1").is_err());
        assert!(parse("[sever]").unwrap_err().contains("did you mean `server`?"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "[heartbeat]\nreap = 0",
            "[server]\nlisten = []",
            "[server]\nshards = 5000",
            "[feed]\nmode = \"rw\"",
            "[backplane]\nkind = \"redis\"",
            "[admin]\nlisten = \"here\"",
            "[admin]\nlisten = \"0.0.0.0:8081\"",
            "[server]\nlisten = [\"127.0.0.1:80\"]\n[admin]\nlisten = \"127.0.0.1:80\"",
            "[namespace.x]\nmax_lag = 1",
            "[diagnostics]\necho_path = \"echo\"",
            "[auth]\nkeys = [{ alg = \"HS256\" }]",
            "[auth]\nkeys = [{ secret = \"x\" }]",
            "[auth]\nkeys = [{ alg = \"ES256\", secret = \"x\", pem_file = \"y\" }]",
            "[auth]\nleeway = \"2h\"",
            "[auth]\nleeway = \"500ms\"",
            "[auth]\ncookie = \"a b\"",
            "[server]\nproxy_protocol = true",
            "[namespace.x]\nclient_publish = true",
            "[namespace.x]\npublic = false",
        ] {
            assert!(check(&parse(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let mut config = parse("[namespace.\"*\"]\nmax_lag = \"8KiB\"\n[server]\nlisten = [\"unix:/x\"]").unwrap();
        config.server.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
        config.http.retry = Duration::from_millis(1500);
        assert_eq!(parse(&config.to_toml()).unwrap(), config);
        assert_eq!(parse(&Config::default().to_toml()).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_documented() {
        let documentation = include_str!("../../docs/configuration.md");
        let table: toml::Table = Config::default().to_toml().parse().unwrap();
        for (section, keys) in &table {
            for key in keys.as_table().unwrap().keys() {
                assert!(documentation.contains(&format!("`{key}`")), "[{section}] {key}");
            }
        }
        for key in [
            "history_events",
            "history_bytes",
            "history_ttl",
            "max_lag",
            "slow",
            "presence",
            "client_publish",
            "public",
        ] {
            assert!(documentation.contains(&format!("`{key}`")), "{key}");
        }
    }
}
