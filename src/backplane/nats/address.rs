//! The servers, and the connection to one of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};

use crate::config::Backplane;

use super::super::broker::BrokerError;
use super::link::Cut;

/// The time for connecting to one server.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The way to the servers.
pub(super) struct Address {
    hosts: Vec<ServerAddr>,
    login: Login,
    is_tls: bool,
    ca_file: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
}

/// How a node says who it is.
enum Login {
    None,
    Password(String, String),
    Token(String),
    Credentials(String),
    Seed(String),
}

/// A URL in its parts: `nats://NAME:PASSWORD@HOST:PORT,HOST:PORT`, or with a token before the hosts.
fn split(url: &str) -> Option<(bool, &str, Vec<&str>)> {
    let (scheme, rest) = url.split_once("://")?;
    let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
    let hosts: Vec<&str> = hosts.trim_end_matches('/').split(',').filter(|host| !host.is_empty()).collect();
    (!hosts.is_empty()).then_some((scheme == "tls", login, hosts))
}

/// Text of a URL in which `%XX` stands for a byte.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn read_file(path: &Path) -> Result<Option<String>, BrokerError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let wrong = |error| BrokerError::Refused(format!("{} cannot be read: {error}", path.display()));
    std::fs::read_to_string(path).map(|text| Some(text.trim_end().to_owned())).map_err(wrong)
}

/// Checks that a file can be read; the library reads it at each connection.
fn checked(path: &Path) -> Result<Option<PathBuf>, BrokerError> {
    Ok(read_file(path)?.map(|_| path.to_owned()))
}

impl Address {
    /// The address of a configuration.
    ///
    /// # Errors
    /// If the URL is none, or a file cannot be read.
    pub(super) fn of(config: &Backplane) -> Result<Address, BrokerError> {
        let wrong = |error: String| BrokerError::Refused(format!("[backplane] url: {error}"));
        let (is_tls, login, hosts) =
            split(&config.url).ok_or_else(|| wrong("it has the form nats://HOST:PORT,HOST:PORT".into()))?;
        let scheme = if is_tls { "tls" } else { "nats" };
        let parsed = |host: &&str| format!("{scheme}://{host}").parse::<ServerAddr>();
        let hosts =
            hosts.iter().map(parsed).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
        let password = read_file(&config.password_file)?;
        let login = match (read_file(&config.credentials_file)?, login.split_once(':'), password) {
            (Some(text), ..) if text.contains("-----BEGIN") => Login::Credentials(text),
            (Some(seed), ..) => Login::Seed(seed),
            (None, Some((name, password)), None) => Login::Password(decoded(name), decoded(password)),
            (None, Some((name, _)), Some(password)) => Login::Password(decoded(name), password),
            (None, None, Some(token)) if login.is_empty() => Login::Token(token),
            (None, None, Some(password)) => Login::Password(decoded(login), password),
            (None, None, None) if login.is_empty() => Login::None,
            (None, None, None) => Login::Token(decoded(login)),
        };
        let certificate = checked(&config.cert_file)?.zip(checked(&config.key_file)?);
        Ok(Address { hosts, login, is_tls, ca_file: checked(&config.ca_file)?, certificate })
    }

    fn options(&self) -> Result<ConnectOptions, BrokerError> {
        let wrong = |error: std::io::Error| BrokerError::Refused(format!("[backplane] credentials_file: {error}"));
        let options = ConnectOptions::new();
        let mut options = match &self.login {
            Login::None => options,
            Login::Password(name, password) => options.user_and_password(name.clone(), password.clone()),
            Login::Token(token) => options.token(token.clone()),
            Login::Credentials(text) => options.credentials(text).map_err(wrong)?,
            Login::Seed(seed) => options.nkey(seed.clone()),
        };
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options.require_tls(self.is_tls))
    }

    /// Connects to one of the servers. The connection is not made again: what is under way when it breaks is looked after
    /// by the driver, and `cut` tells of it.
    pub(super) async fn connect(&self, name: &str, cut: Arc<Cut>) -> Result<Client, BrokerError> {
        let options = self.options()?;
        let hear = move |event: Event| {
            let cut = cut.clone();
            async move {
                match event {
                    Event::Disconnected | Event::Closed => cut.tell("the connection to the broker has broken"),
                    Event::LameDuckMode => cut.tell("the broker ends soon"),
                    Event::SlowConsumer(_) => cut.tell("messages of the broker came too fast"),
                    Event::ServerError(error) => cut.note(&error.to_string()),
                    Event::Connected | Event::Draining | Event::ClientError(_) => {}
                }
            }
        };
        let options = options
            .name(name)
            .connection_timeout(CONNECT_MAX)
            .request_timeout(None)
            .max_reconnects(self.hosts.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .ignore_discovered_servers()
            .event_callback(hear);
        options.connect(&self.hosts[..]).await.map_err(|error| {
            let text = format!("the broker: {error}");
            match error.kind() {
                ConnectErrorKind::Authentication
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::ServerParse => BrokerError::Refused(text),
                _ => BrokerError::Away(text),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_hosts_and_who_comes() {
        assert_eq!(split("nats://a,b:5/"), Some((false, "", vec!["a", "b:5"])));
        assert_eq!(split("tls://u:p@h"), Some((true, "u:p", vec!["h"])));
        assert_eq!(split("nats://"), None);
        let login = |url: &str| match Address::of(&Backplane { url: url.into(), ..Backplane::default() }).unwrap().login
        {
            Login::None => String::new(),
            Login::Password(name, password) => format!("{name} {password}"),
            Login::Token(token) => token,
            Login::Credentials(_) | Login::Seed(_) => panic!("{url}"),
        };
        assert_eq!(login("nats://h:4222"), "");
        assert_eq!(login("nats://u:p%40ss@h:4222,h2"), "u p@ss");
        assert_eq!(login("nats://secret@h"), "secret");
    }
}
