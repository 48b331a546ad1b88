//! Which Redis a URL means: one server, whoever Sentinel says is the master, or a cluster.
//!
//! `redis://`, `rediss://` (TLS) and `unix://` are the library's own forms. Several nodes are given as
//! `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB` and `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`, with
//! `rediss+...` for TLS. Sentinels are asked without a password; the one of the URL is that of the data nodes.

use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterConfig};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisResult, TlsMode};
use tokio::sync::Mutex;

use crate::connection::Connection;

/// A server that is there answers within milliseconds.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

const SENTINEL_PORT: &str = "26379";
const REDIS_PORT: &str = "6379";

/// A URL that names no Redis. It never holds the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the URL of Redis {0}")]
pub struct UrlError(&'static str);

const FORMS: UrlError = UrlError(
    "must begin with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://",
);

/// Where connections are made to.
pub(crate) enum Target {
    Single(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>, Vec<Client>),
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(FORMS)?;
        match scheme {
            "redis+sentinel" => sentinel("redis", rest),
            "rediss+sentinel" => sentinel("rediss", rest),
            "redis+cluster" => cluster("redis", rest),
            "rediss+cluster" => cluster("rediss", rest),
            "redis" | "rediss" | "unix" | "redis+unix" => Client::open(url)
                .map(|client| Self::Single(Box::new(client)))
                .map_err(|_| UrlError("cannot be read")),
            _ => Err(FORMS),
        }
    }

    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(..))
    }

    /// A new connection. Commands on it fail when they take longer than that.
    pub(crate) async fn connect(&self, answers_within: Duration) -> RedisResult<Connection> {
        if let Self::Cluster(cluster, _) = self {
            let config = ClusterConfig::new()
                .set_connection_timeout(CONNECTS_WITHIN)
                .set_response_timeout(answers_within);
            return cluster.get_async_connection_with_config(config).await.map(Connection::Cluster);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTS_WITHIN))
            .set_response_timeout(Some(answers_within));
        let mut failure = None;
        for client in self.nodes().await? {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return Ok(Connection::Node(connection)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_node))
    }

    /// A new subscription to a channel, which every node of a cluster hears.
    pub(crate) async fn subscribe(&self, channel: &str) -> RedisResult<redis::aio::PubSub> {
        let mut failure = None;
        for client in self.nodes().await? {
            let subscribing = async {
                let mut subscription = client.get_async_pubsub().await?;
                subscription.subscribe(channel).await?;
                Ok(subscription)
            };
            match tokio::time::timeout(CONNECTS_WITHIN, subscribing).await {
                Ok(Ok(subscription)) => return Ok(subscription),
                Ok(Err(error)) => failure = Some(error),
                Err(_) => failure = Some(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        }
        Err(failure.unwrap_or_else(no_node))
    }

    /// What one node tells of itself (`INFO`), whichever answers first.
    pub(crate) async fn report(&self) -> RedisResult<String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTS_WITHIN))
            .set_response_timeout(Some(CONNECTS_WITHIN));
        let mut failure = None;
        for client in self.nodes().await? {
            let asking = async {
                let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                redis::cmd("INFO").query_async(&mut connection).await
            };
            match asking.await {
                Ok(report) => return Ok(report),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_node))
    }

    /// The nodes to try in turn.
    async fn nodes(&self) -> RedisResult<Vec<Client>> {
        match self {
            Self::Single(client) => Ok(vec![Client::clone(client)]),
            // Asked anew each time, so that the next connection after a failover is to the new master.
            Self::Sentinel(sentinel) => {
                let asking = async { sentinel.lock().await.async_get_client().await };
                match tokio::time::timeout(CONNECTS_WITHIN, asking).await {
                    Ok(client) => Ok(vec![client?]),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            }
            Self::Cluster(_, nodes) => Ok(nodes.clone()),
        }
    }
}

fn no_node() -> redis::RedisError {
    (redis::ErrorKind::InvalidClientConfig, "no node is known").into()
}

fn sentinel(scheme: &str, rest: &str) -> Result<Target, UrlError> {
    let parts = Parts::of(rest, SENTINEL_PORT)?;
    let (master, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if master.is_empty() {
        return Err(UrlError("names no master after the sentinels"));
    }
    let sentinels: Vec<ConnectionInfo> = parts
        .hosts
        .iter()
        .map(|host| connection_info(&format!("{scheme}://{host}/")))
        .collect::<Result<_, _>>()?;
    // Any host will do: only what is said of the database and the user is taken.
    let data = connection_info(&format!("{scheme}://{}{}/{database}", parts.user, parts.hosts[0]))?;
    let mut node =
        SentinelNodeConnectionInfo::default().set_redis_connection_info(data.redis_settings().clone());
    if scheme == "rediss" {
        node = node.set_tls_mode(TlsMode::Secure);
    }
    SentinelClient::build(sentinels, master, Some(node), SentinelServerType::Master)
        .map(|client| Target::Sentinel(Box::new(Mutex::new(client))))
        .map_err(|_| UrlError("names sentinels that cannot be used"))
}

fn cluster(scheme: &str, rest: &str) -> Result<Target, UrlError> {
    let parts = Parts::of(rest, REDIS_PORT)?;
    if !matches!(parts.path, "" | "0") {
        return Err(UrlError("names a database, and a cluster has only one"));
    }
    let nodes: Vec<ConnectionInfo> = parts
        .hosts
        .iter()
        .map(|host| connection_info(&format!("{scheme}://{}{host}/", parts.user)))
        .collect::<Result<_, _>>()?;
    let unusable = |_| UrlError("names nodes that cannot be used");
    let clients = nodes.iter().cloned().map(Client::open).collect::<RedisResult<_>>().map_err(unusable)?;
    let cluster = ClusterClient::builder(nodes).build().map_err(unusable)?;
    Ok(Target::Cluster(Box::new(cluster), clients))
}

fn connection_info(url: &str) -> Result<ConnectionInfo, UrlError> {
    url.into_connection_info().map_err(|_| UrlError("cannot be read"))
}

/// What stands behind `://`: `USER@HOST,HOST/PATH`.
struct Parts<'a> {
    /// With the `@`, or empty.
    user: &'a str,
    /// With their ports.
    hosts: Vec<String>,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str, usual_port: &str) -> Result<Self, UrlError> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let with_port = |host: &str| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            if has_port { host.to_owned() } else { format!("{host}:{usual_port}") }
        };
        if hosts.split(',').any(str::is_empty) {
            return Err(UrlError("names no host where one should be"));
        }
        Ok(Self { user, hosts: hosts.split(',').map(with_port).collect(), path: path.trim_end_matches('/') })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(url: &str) -> String {
        Target::parse(url).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_form_of_url_is_understood() {
        assert!(matches!(Target::parse("redis://:secret@host:1/2"), Ok(Target::Single(_))));
        assert!(matches!(Target::parse("rediss://host"), Ok(Target::Single(_))));
        assert!(matches!(Target::parse("unix:///run/redis.sock"), Ok(Target::Single(_))));
        for url in ["redis+sentinel://a,b:1,[::1]/main", "rediss+sentinel://user:secret@a:1/main/3"] {
            assert!(matches!(Target::parse(url), Ok(Target::Sentinel(_))), "{url}");
        }
        for url in ["redis+cluster://a,b:1", "rediss+cluster://user:secret@a,[::1]:7/"] {
            assert!(matches!(Target::parse(url), Ok(Target::Cluster(..))), "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_telling_its_secret() {
        for url in [
            "secret",
            "http://:secret@host",
            "redis://:secret@host:notaport",
            "redis+sentinel://:secret@host",
            "redis+sentinel://:secret@/main",
            "redis+cluster://:secret@a,,b",
            "redis+cluster://:secret@a/5",
            "redis+cluster://:secret@a:notaport",
        ] {
            let error = error_of(url);
            assert!(!error.is_empty(), "{url}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn nodes_without_a_port_have_the_usual_one() {
        let parts = Parts::of("u:p@a,b:7,[::1],[::2]:9/main/1", "26379").unwrap();
        assert_eq!(parts.hosts, ["a:26379", "b:7", "[::1]:26379", "[::2]:9"]);
        assert_eq!((parts.user, parts.path), ("u:p@", "main/1"));
    }
}
