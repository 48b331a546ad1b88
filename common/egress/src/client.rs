//! The client that calls what tenants named.
//!
//! Redirects are not followed, no proxy is used, nothing is unpacked, and a call ends by its deadline whatever the receiver does. A
//! connection is only ever opened to an address that was vetted for it, and kept for a few seconds for the next call to the same host.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::policy::{UrlPolicy, UrlRefused, vet_url};
use crate::resolver::{AddressRefused, GuardedResolver, Resolver, SystemResolver};
use crate::retry_after;

/// How much of an answer's body is read.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// How long an idle connection is kept: long enough for the events of one moment, shorter than servers close theirs.
const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept for each host.
const IDLE_PER_HOST: usize = 4;

/// The longest wait for a connection, name lookup and TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the start until the last byte that is read of the answer. Default 20 s. A connection must stand within 5 s of it.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { total: Duration::from_secs(20) }
    }
}

/// What a receiver answered, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The beginning of the body, at most [`MAX_ANSWER_BYTES`], as much as came before the deadline; empty where the policy does not
    /// [show](UrlPolicy::shows_answers) it.
    pub first_bytes: Bytes,
    /// How long the receiver asks to wait.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub duration: Duration,
}

/// Bytes of an answer's text.
const TEXT_BYTES: usize = 1024;

impl Answer {
    /// The beginning of the body as text to be kept and shown: at most a kibibyte, what is no text replaced; `None` where there is nothing.
    pub fn text(&self) -> Option<String> {
        let bytes = &self.first_bytes;
        let mut end = bytes.len().min(TEXT_BYTES);
        // Not in the midst of a character, which has four bytes at most.
        while bytes.get(end).is_some_and(|next| next & 0b1100_0000 == 0b1000_0000) && end + 3 > TEXT_BYTES {
            end -= 1;
        }
        // No store takes a NUL in a text for granted.
        let mut text = String::from_utf8_lossy(&bytes[..end]).replace('\0', "\u{fffd}");
        // What was replaced became longer.
        text.truncate(text.floor_char_boundary(TEXT_BYTES));
        (!text.is_empty()).then_some(text)
    }
}

/// Why there is no answer. The words are fixed and tell nothing of what was reached, so they may be shown to whoever named the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The URL is not taken (any more).
    #[error(transparent)]
    Refused(#[from] UrlRefused),
    /// The host's name cannot be resolved.
    #[error("the host name cannot be resolved")]
    Dns,
    /// No connection came about.
    #[error("no connection could be opened")]
    Connect,
    /// The deadline passed before an answer began.
    #[error("no answer came in time")]
    Timeout,
    /// A connection stood, and TLS failed on it: a certificate that is not trusted, for example.
    #[error("the TLS connection could not be established")]
    Tls,
    /// The connection broke, or what came is not HTTP.
    #[error("the connection broke before an answer, or the answer is not HTTP")]
    Protocol,
}

impl SendError {
    /// One word for metrics.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
        }
    }
}

/// The client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `rustls::crypto::ring::default_provider().install_default()` has not run; it belongs at the start of `main`.
    #[error("no TLS provider is installed in this process")]
    NoTlsProvider,
    /// The settings do not make a client.
    #[error("the HTTP client cannot be built")]
    Build(#[source] reqwest::Error),
}

/// Calls URLs that tenants named, within a policy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuardedClient {
    client: Client,
    policy: Arc<UrlPolicy>,
}

impl GuardedClient {
    /// A client that asks the system's resolver. Where the system has no CA certificates every HTTPS call fails as [`SendError::Tls`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(policy: UrlPolicy) -> Result<Self, ClientError> {
        Self::with_resolver(policy, Arc::new(SystemResolver::default()))
    }

    /// A client that asks `resolver`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn with_resolver(policy: UrlPolicy, resolver: Arc<dyn Resolver>) -> Result<Self, ClientError> {
        // The client would panic in the middle of its construction instead.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::NoTlsProvider);
        }
        let resolver = Arc::new(GuardedResolver { resolver, policy: policy.clone() });
        let client = match builder(resolver.clone()).build() {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "no CA certificates could be loaded: receivers behind HTTPS cannot be called");
                builder(resolver).tls_certs_only([]).build().map_err(ClientError::Build)?
            }
        };
        Ok(Self { client, policy: Arc::new(policy) })
    }

    /// What it may call.
    pub fn policy(&self) -> &UrlPolicy {
        &self.policy
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Posts `body` once. Any status is an [`Answer`]; once its headers came, a body that does not end or never comes changes nothing.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadlines: Deadlines,
    ) -> Result<Answer, SendError> {
        let started = Instant::now();
        let deadline = started + deadlines.total;
        // Again at every call: the policy may be stricter than on the day the URL was stored.
        let url: Url = vet_url(url, &self.policy)?;
        let request = self.client.post(url).headers(headers).header(ACCEPT_ENCODING, "identity").body(body);
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(classified(&error)),
            Err(_) => return Err(SendError::Timeout),
        };
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after::parse(value, SystemTime::now()));
        let mut first_bytes = first_bytes(response, deadline).await;
        if !self.policy.shows_answers() {
            first_bytes.clear();
        }
        Ok(Answer { status, first_bytes, retry_after, duration: started.elapsed() })
    }
}

fn builder(resolver: Arc<GuardedResolver>) -> ClientBuilder {
    Client::builder()
        .http1_only()
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .dns_resolver(resolver)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("promptmill/", env!("CARGO_PKG_VERSION")))
}

/// The beginning of the body. The connection is closed with the response when there is more.
async fn first_bytes(mut response: Response, deadline: Instant) -> Bytes {
    let mut read = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        let room = MAX_ANSWER_BYTES - read.len();
        read.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            break;
        }
    }
    read.into()
}

/// The class of a failure, by the errors it was caused by. Their texts hold addresses and go nowhere.
pub(crate) fn classified(error: &reqwest::Error) -> SendError {
    if caused_by::<AddressRefused>(error) {
        SendError::Refused(UrlRefused::Address)
    } else if error.is_timeout() {
        SendError::Timeout
    } else if error.is_dns() {
        SendError::Dns
    } else if caused_by::<rustls::Error>(error) {
        SendError::Tls
    } else if error.is_connect() {
        SendError::Connect
    } else {
        SendError::Protocol
    }
}

fn caused_by<E: StdError + 'static>(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        // An I/O error passes over the error it wraps when it is asked for its source.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}
