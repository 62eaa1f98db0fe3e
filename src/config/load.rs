//! Putting the configuration together: flags beat the environment, which beats the file, which beats the defaults.

use std::path::{Path, PathBuf};

use super::args::ServeArgs;
use super::check::{check, check_exposure};
use super::origins;
use super::table::Config;

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path of the file.
        path: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that does not exist.
    #[error("{path}: {message}")]
    Parse {
        /// The path of the file.
        path: String,
        /// The line and what is wrong there, with a suggestion.
        message: String,
    },
    /// A flag has a value that does not exist.
    #[error("a flag cannot be used: {0}")]
    Flag(String),
    /// A key has a value that it must not have.
    #[error("{key} {problem}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What the value must be.
        problem: String,
    },
    /// All clients could subscribe from other hosts, and the configuration does not say that they may.
    #[error(
        "{0} can be reached from other hosts and anyone there could subscribe to any channel; set keys or jwks_file under \
         [auth] so that clients need tokens, or allow_anonymous = true there (or --allow-anonymous) if that is meant, or \
         listen on 127.0.0.1 or unix:PATH behind a proxy"
    )]
    Open(String),
}

impl ConfigError {
    /// A key has a value that it must not have.
    pub(super) fn value(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value { key: key.into(), problem: problem.into() }
    }
}

/// Puts together the configuration to serve with. `clap` has read the environment into the flags.
///
/// `environment` gives the variables that systemd and the session set for directories.
///
/// # Errors
/// If the file cannot be read, or a value cannot be.
pub fn load(args: &ServeArgs, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let config = match &args.config {
        Some(path) => read_file(path)?,
        None => Config::default(),
    };
    let mut config = args.keys.over(config).map_err(ConfigError::Flag)?;
    config.demo = args.demo;
    config.backplane.settle_kind();
    if config.feed.path.as_os_str().is_empty() {
        config.feed.path = default_feed_path(environment);
    }
    if config.server.state_dir.as_os_str().is_empty() {
        let beside = config.feed.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let state = environment("STATE_DIRECTORY").map(PathBuf::from);
        config.server.state_dir = state.unwrap_or_else(|| beside.unwrap_or(Path::new(".")).to_path_buf());
    }
    check(&config)?;
    check_exposure(&config, config.server.addresses())?;
    origins::share(&mut config);
    Ok(config)
}

/// The path of the feed if neither flags nor file say one: in systemd's runtime directory, the session's, or here.
pub fn default_feed_path(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(folder) = environment("RUNTIME_DIRECTORY") {
        return Path::new(&folder).join("feed.sock");
    }
    match environment("XDG_RUNTIME_DIR") {
        Some(folder) => Path::new(&folder).join("ringcast/feed.sock"),
        None => "./ringcast.sock".into(),
    }
}

/// Reads and checks a file without running with it.
///
/// # Errors
/// What `serve` with this file and no flags would refuse.
pub fn check_file(path: &Path) -> Result<Config, ConfigError> {
    let mut config = read_file(path)?;
    config.backplane.settle_kind();
    check(&config)?;
    check_exposure(&config, config.server.addresses())?;
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

impl Config {
    /// The configuration as a file that would bring it about.
    pub fn to_toml(&self) -> String {
        // Every type in it is a table, a list, a number, a boolean or text, so nothing can fail to be written.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        let mut args = ServeArgs::default();
        args.keys.set("server", "listen", vec!["0.0.0.0:80"]);
        let error = load(&args, &none).unwrap_err().to_string();
        assert!(error.contains("allow_anonymous = true"), "{error}");
        args.keys.set("auth", "allow_anonymous", true);
        assert!(load(&args, &none).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "[auth]\nkeys = [{ alg = \"HS256\", secret = \"s\" }]").unwrap();
        args.keys = Default::default();
        args.keys.set("server", "listen", vec!["0.0.0.0:80"]);
        args.config = Some(path.clone());
        assert!(load(&args, &none).is_ok(), "tokens are a way to say who is meant");
        std::fs::write(&path, "[auth]\nallow_anonymous = true").unwrap();
        assert!(load(&args, &none).is_ok());
        args.keys.set("auth", "allow_anonymous", false);
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
    fn the_packaged_file_is_a_configuration() {
        let packaged = include_str!("../../packaging/ringcast.toml");
        check(&parse(packaged).unwrap()).unwrap();
        // Comments that begin with a key or a section are examples.
        let is_example =
            |line: &&str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let lines = packaged.lines().map(|line| line.strip_prefix("# ").filter(is_example).unwrap_or(line));
        let mut examples: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
        // The second `listen` takes the place of the first.
        let first = examples.iter().position(|line| line.starts_with("listen")).unwrap();
        examples.remove(first);
        check(&parse(&examples.join("\n")).unwrap()).unwrap();
    }

    #[test]
    fn a_flag_beats_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "[server]\nshards = 7\npin = true\n").unwrap();
        let mut args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        assert_eq!(load(&args, &none).unwrap().server.shards, 7);
        args.keys.set("server", "shards", 2);
        args.keys.set("server", "pin", false);
        let config = load(&args, &none).unwrap();
        assert_eq!((config.server.shards, config.server.pin), (2, false));
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_a_suggestion() {
        let error = parse("[server]\n\nshard = 3\n").unwrap_err();
        assert!(error.starts_with("line 3: ") && error.ends_with("did you mean `shards`?"), "{error}");
        let error = parse("[feed]\nmax_line = \"many\"").unwrap_err();
        assert!(error.contains("line 2") && error.contains("64KiB"), "{error}");
        let error = parse("[server]\nlisten = [\n\"127.0.0.1:80\",\n\"here\"]").unwrap_err();
        assert!(error.starts_with("line 2: \"here\" is no address"), "{error}");
        let error = parse("\n[log]\noutput = \"sdtout\"").unwrap_err();
        assert!(error.starts_with("line 3: ") && error.ends_with("did you mean `stdout`?"), "{error}");
        assert!(parse("[auth]\nkey = 1").is_err());
        assert!(parse("[sever]").unwrap_err().contains("did you mean `server`?"));
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let mut config = parse("[namespace.\"*\"]\nmax_lag = \"8KiB\"\n[server]\nlisten = [\"unix:/x\"]").unwrap();
        config.server.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
        config.http.retry = Duration::from_millis(1500);
        assert_eq!(parse(&config.to_toml()).unwrap(), config);
        assert_eq!(parse(&Config::default().to_toml()).unwrap(), Config::default());
    }
}
