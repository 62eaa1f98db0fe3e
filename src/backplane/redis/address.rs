//! The server that is the primary: at a fixed address, or the one that most Sentinels name.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, TlsCertificates, Value, cmd};

use crate::config::Backplane;

use super::super::broker::BrokerError;
use super::values::{sentence, text};
use super::{ask, failed, try_ask};

/// The time for connecting to one server, and for a Sentinel's answer.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The servers of a Redis Cluster that are asked in turn for the one that has the log.
const MOVES_MAX: usize = 4;

/// The way to the primary.
#[derive(Clone)]
pub(super) struct Address {
    /// The primary, or the address whose credentials hold for the one that Sentinels name.
    info: ConnectionInfo,
    sentinels: Vec<String>,
    /// The name by which Sentinels know the primary.
    master: String,
    tls: Option<TlsCertificates>,
    /// The server of a Redis Cluster that has the log, if the configured one has said so.
    moved: Option<String>,
}

/// A URL in its parts: `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER`.
fn split_sentinels(url: &str) -> Option<(String, Vec<String>, String)> {
    let rest = url.strip_prefix("redis+sentinel://").or_else(|| url.strip_prefix("rediss+sentinel://"))?;
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (format!("{credentials}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, master) = rest.split_once('/')?;
    let with_port = |host: &str| if host.contains(':') { host.to_owned() } else { format!("{host}:26379") };
    let hosts: Vec<String> = hosts.split(',').filter(|host| !host.is_empty()).map(with_port).collect();
    (!hosts.is_empty() && !master.is_empty()).then(|| (credentials, hosts, master.to_owned()))
}

fn read_file(path: &std::path::Path) -> Result<Option<Vec<u8>>, BrokerError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let wrong = |error| BrokerError::Refused(format!("{} cannot be read: {error}", path.display()));
    std::fs::read(path).map(Some).map_err(wrong)
}

impl Address {
    /// The address of a configuration.
    ///
    /// # Errors
    /// If the URL is none, or a file cannot be read.
    pub(super) fn of(config: &Backplane) -> Result<Address, BrokerError> {
        let wrong = |error: &dyn std::fmt::Display| BrokerError::Refused(format!("[backplane] url: {error}"));
        let is_tls = config.url.starts_with("rediss");
        let (url, sentinels, master) = match split_sentinels(&config.url) {
            Some((credentials, sentinels, master)) => {
                let scheme = if is_tls { "rediss" } else { "redis" };
                (format!("{scheme}://{credentials}{}", sentinels[0]), sentinels, master)
            }
            None if config.url.contains("+sentinel:") => {
                return Err(wrong(&"it has the form redis+sentinel://HOST:PORT,HOST:PORT/MASTER"));
            }
            None => (config.url.clone(), Vec::new(), String::new()),
        };
        let mut info = url.as_str().into_connection_info().map_err(|error| wrong(&sentence(&error)))?;
        if let Some(password) = read_file(&config.password_file)? {
            let password = String::from_utf8_lossy(&password).trim_end().to_owned();
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let tls = match is_tls {
            true => Some(TlsCertificates {
                client_tls: match (read_file(&config.cert_file)?, read_file(&config.key_file)?) {
                    (Some(client_cert), Some(client_key)) => Some(redis::ClientTlsConfig { client_cert, client_key }),
                    _ => None,
                },
                root_cert: read_file(&config.ca_file)?,
            }),
            false => None,
        };
        Ok(Address { info, sentinels, master, tls, moved: None })
    }

    /// Whether Sentinels watch over the primary.
    pub(super) fn is_watched(&self) -> bool {
        !self.sentinels.is_empty()
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, BrokerError> {
        let client = match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        };
        client.map_err(|error| BrokerError::Refused(sentence(&error)))
    }

    /// Finds the primary; returns a client for it, and its address.
    pub(super) async fn find(&self) -> Result<(Client, String), BrokerError> {
        if !self.is_watched() {
            return match &self.moved {
                Some(address) => Ok((self.client_at(address)?, String::new())),
                None => Ok((self.client(self.info.clone())?, String::new())),
            };
        }
        let named = self.ask_sentinels().await;
        let address = most(&named, self.sentinels.len())
            .ok_or_else(|| BrokerError::Away(format!("no majority of Sentinels names a primary {:?}", self.master)))?;
        Ok((self.client_at(&address)?, address))
    }

    /// A client for a server that others have named, with the configured login.
    fn client_at(&self, address: &str) -> Result<Client, BrokerError> {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let target = format!("{scheme}://{address}").as_str().into_connection_info();
        let target = target.map_err(|error| BrokerError::Away(sentence(&error)))?;
        self.client(target.set_redis_settings(self.info.redis_settings().clone()))
    }

    /// Connects to the primary. In a Redis Cluster that is the server which has the log's key.
    pub(super) async fn connect_to_primary(
        &mut self,
        key: &str,
    ) -> Result<(Client, String, MultiplexedConnection), BrokerError> {
        for _ in 0..MOVES_MAX {
            let (client, address) = self.find().await?;
            let mut connection = match self.connect(&client).await {
                Ok(connection) => connection,
                Err(error) => {
                    // The configured server knows who has the key now.
                    self.moved = None;
                    return Err(error);
                }
            };
            // Whether the key may be read is found out by what needs it.
            let refusal = try_ask(&mut connection, cmd("EXISTS").arg(key)).await.err();
            match refusal.as_ref().and_then(|error| error.redirect_node()) {
                Some((other, _)) => self.moved = Some(other.to_owned()),
                None => return Ok((client, address, connection)),
            }
        }
        self.moved = None;
        Err(BrokerError::Away("the broker's servers name each other for the log".into()))
    }

    /// Connects to one of the replicas that the primary names, if there is one that follows it.
    pub(super) async fn connect_to_replica(
        &self,
        primary: &mut MultiplexedConnection,
    ) -> Option<MultiplexedConnection> {
        let Ok(Value::Array(role)) = try_ask(primary, &cmd("ROLE")).await else { return None };
        let Some(Value::Array(replicas)) = role.get(2) else { return None };
        let address = |replica: &Value| match replica {
            Value::Array(parts) => Some(format!("{}:{}", text(parts.first()?)?, text(parts.get(1)?)?)),
            _ => None,
        };
        let mut addresses: Vec<String> = replicas.iter().filter_map(address).collect();
        fastrand::shuffle(&mut addresses);
        for address in addresses {
            let join = async {
                let mut connection = self.connect(&self.client_at(&address).ok()?).await.ok()?;
                let role = try_ask(&mut connection, &cmd("ROLE")).await;
                let follows =
                    matches!(&role, Ok(Value::Array(parts)) if parts.get(3).and_then(text) == Some("connected"));
                follows.then_some(connection)
            };
            if let Ok(Some(connection)) = tokio::time::timeout(CONNECT_MAX, join).await {
                return Some(connection);
            }
        }
        None
    }

    /// The addresses that Sentinels name.
    async fn ask_sentinels(&self) -> Vec<String> {
        let asked = self.sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel));
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    async fn ask_sentinel(&self, sentinel: &str) -> Option<String> {
        let ask = async {
            let client = Client::open(format!("redis://{sentinel}")).ok()?;
            let mut connection = self.connect(&client).await.ok()?;
            let reply = ask(&mut connection, cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master)).await;
            let Ok(Value::Array(parts)) = reply else { return None };
            let [host, port] = parts.as_slice() else { return None };
            Some(format!("{}:{}", text(host)?, text(port)?))
        };
        tokio::time::timeout(CONNECT_MAX, ask).await.ok()?
    }

    /// Connects to a server.
    pub(super) async fn connect(&self, client: &Client) -> Result<MultiplexedConnection, BrokerError> {
        // The driver has times of its own, and a read waits on purpose.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| failed(&error))
    }

    /// Checks that the server takes writes. Returns the number of its replicas, if it tells.
    pub(super) async fn check_role(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<usize>, BrokerError> {
        match try_ask(connection, &cmd("ROLE")).await {
            Ok(Value::Array(parts)) => match (parts.first().and_then(text), parts.get(2)) {
                (Some("master"), Some(Value::Array(replicas))) => Ok(Some(replicas.len())),
                (Some("master") | None, _) => Ok(None),
                (Some(role), _) => Err(BrokerError::Away(format!("the broker is a {role} and takes no writes"))),
            },
            // Managed services may hide it; a server that takes no writes says so when an entry comes.
            Ok(_) => Ok(None),
            Err(error) if error.code() == Some("NOPERM") => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Checks that Sentinels still name the server that this node is connected to.
    pub(super) async fn check_still(&self, connected: &str) -> Result<(), BrokerError> {
        if !self.is_watched() {
            return Ok(());
        }
        let named = self.ask_sentinels().await;
        match most(&named, self.sentinels.len()) {
            Some(address) if address != connected => {
                Err(BrokerError::Away(format!("Sentinels name {address} as the primary, and no longer {connected}")))
            }
            _ => Ok(()),
        }
    }
}

/// The address that more than half of `voters` name.
fn most(named: &[String], voters: usize) -> Option<String> {
    let count = |address: &String| named.iter().filter(|other| *other == address).count();
    named.iter().find(|address| count(address) * 2 > voters).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_all_sentinels_decides() {
        let named = |all: &[&str]| all.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>();
        assert_eq!(most(&named(&["a:1", "b:1", "a:1"]), 3), Some("a:1".into()));
        assert_eq!(most(&named(&["a:1"]), 3), None, "one of three is no majority");
        assert_eq!(most(&named(&["a:1"]), 1), Some("a:1".into()));
        assert_eq!(most(&[], 3), None);
    }

    #[test]
    fn a_url_names_sentinels_and_their_master() {
        let split = |url: &str| split_sentinels(url);
        let hosts = vec!["h1:26379".to_owned(), "h2:5".to_owned()];
        assert_eq!(split("redis+sentinel://u:p@h1,h2:5/main"), Some(("u:p@".into(), hosts, "main".into())));
        assert_eq!(split("redis+sentinel://h1"), None);
        assert_eq!(split("redis+sentinel:///main"), None);
        assert_eq!(split("redis://h1/0"), None);
    }
}
