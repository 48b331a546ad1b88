//! The hub: its connections, and what is checked before it is used.

use std::sync::{Arc, Mutex};

use promptmill_ports::{HubError, Signal};
use secrecy::SecretString;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::lanes::{Desk, Lanes};
use crate::link::Link;
use crate::script::Script;
use crate::signals::Listener;
use crate::target::UrlError;

/// Signals kept for a slow subscriber before it loses the oldest.
const SIGNAL_BUFFER: usize = 1024;

/// What a hub on Redis needs to know.
#[derive(Debug, Clone)]
pub struct RedisHubOptions {
    /// `redis://`, `rediss://` or `unix://` of one server; `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB` and
    /// `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT` of several, with `rediss+` for TLS.
    pub url: SecretString,
    /// What every key and channel begins with; fleets that share a server need different ones.
    pub prefix: String,
}

impl RedisHubOptions {
    /// The hub at `url`, with the usual prefix.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self { url: url.into(), prefix: "promptmill".to_owned() }
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not understood.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Redis does not answer, or refuses.
    #[error("redis cannot be used")]
    Unavailable(#[source] HubError),
    /// The server is a cache: it drops keys when its memory is full.
    #[error(
        "redis evicts keys when its memory is full (maxmemory-policy {0}); set maxmemory-policy to noeviction"
    )]
    EvictsKeys(String),
}

/// The hub on Redis.
pub struct RedisHub {
    pub(crate) link: Arc<Link>,
    pub(crate) keys: Keys,
    pub(crate) scripts: Arc<Scripts>,
    /// Connections on which nobody waits for hints at the moment.
    pub(crate) idle: Mutex<Vec<Connection>>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) signals: broadcast::Sender<Signal>,
    listener: JoinHandle<()>,
}

pub(crate) struct Keys {
    pub(crate) hints: String,
    pub(crate) arrivals: String,
    pub(crate) channel: String,
}

pub(crate) struct Scripts {
    pub(crate) push: Script,
    pub(crate) sync: Script,
    pub(crate) pause: Script,
    pub(crate) limit: Script,
    pub(crate) meter: Script,
}

impl RedisHub {
    /// Connects, and returns when it can be used and hears every signal.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; none of them holds the URL or its password.
    pub async fn connect(options: &RedisHubOptions) -> Result<Self, ConnectError> {
        let link = Arc::new(Link::new(&options.url)?);
        let unavailable = |error| ConnectError::Unavailable(link.unavailable(&error));
        refuse_evicting(&link.target().report().await.map_err(unavailable)?)?;

        let prefix = &options.prefix;
        let keys = Keys {
            hints: format!("{prefix}:{{queue}}:hints"),
            arrivals: format!("{prefix}:{{queue}}:arrivals"),
            channel: format!("{prefix}:signals"),
        };
        let scripts = Arc::new(Scripts {
            push: Script::new(include_str!("push.lua")),
            sync: Script::new(include_str!("sync.lua")),
            pause: Script::new(include_str!("pause.lua")),
            limit: Script::new(include_str!("limit.lua")),
            meter: Script::new(include_str!("meter.lua")),
        });
        let lanes = Arc::new(Lanes::new(Desk {
            link: link.clone(),
            scripts: scripts.clone(),
            prefix: prefix.clone(),
            channel: keys.channel.clone(),
            hub: rand::random(),
        }));
        let signals = broadcast::Sender::new(SIGNAL_BUFFER);
        let subscription = link.target().subscribe(&keys.channel).await.map_err(unavailable)?;
        let listener = Listener {
            link: link.clone(),
            channel: keys.channel.clone(),
            lanes: lanes.clone(),
            signals: signals.clone(),
        };
        let listener = tokio::spawn(listener.listen(subscription));
        Ok(Self { link, keys, scripts, idle: Mutex::default(), lanes, signals, listener })
    }

    /// Gives every place of a lane that is not in use to the other hubs. For the end of a process that stops in order; without it they wait
    /// some seconds, until Redis takes this hub for dead.
    pub async fn leave(&self) {
        self.lanes.give_back().await;
    }
}

impl Drop for RedisHub {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl std::fmt::Debug for RedisHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisHub").field("channel", &self.keys.channel).finish_non_exhaustive()
    }
}

/// A server that drops any key is refused: it would work, and lose hints and limits just when there is most to do. One that drops only
/// keys with an end is told of: those here that have one are told again once a second while they matter.
fn refuse_evicting(memory_report: &str) -> Result<(), ConnectError> {
    let policy = memory_report.lines().find_map(|line| line.trim_end().strip_prefix("maxmemory_policy:"));
    match policy {
        Some("noeviction") => Ok(()),
        Some(policy) if policy.starts_with("allkeys-") => Err(ConnectError::EvictsKeys(policy.to_owned())),
        Some(policy) => {
            tracing::warn!(
                policy,
                "redis may evict keys when its memory is full; set maxmemory-policy to noeviction"
            );
            Ok(())
        }
        None => {
            tracing::warn!("redis does not tell its maxmemory-policy; it must be noeviction");
            Ok(())
        }
    }
}
