//! The HTTP client all providers share, its deadlines, and reading a reply within bounds.
//!
//! Redirects are not followed (a key must not travel to another host), cookies are not kept, and compressed replies are
//! not asked for and refused, so the bytes on the wire bound the memory of a reply.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use promptmill_domain::FailureKind;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response};
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::CallFailure;
use crate::{MAX_REPLY_WIRE_BYTES, retry_after};

const JSON: &str = "application/json";

/// How much of an error body is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Every token comes in about 130 to 300 bytes of JSON and thinking is streamed too, so the wire of a stream may carry far more than
/// the content; memory is bounded by the line and the content, not by this.
pub(crate) const MAX_STREAM_BYTES: usize = 256 * 1024 * 1024;
/// How long the end of a stream's body is waited for once the reply is whole, so that the connection can be used again.
const TAIL_WAIT: Duration = Duration::from_millis(500);

/// Settings of the client.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The longest wait for a connection, name lookup and TLS included. Default 10 s.
    pub connect: Duration,
    /// Idle connections kept for each host; set it to the most concurrent calls, or connections are opened anew. Default 1024.
    pub idle_connections_per_host: usize,
    /// How long an idle connection is kept. Default 30 s, less than most servers keep theirs.
    pub idle_connection_lifetime: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle_connections_per_host: 1024,
            idle_connection_lifetime: Duration::from_secs(30),
        }
    }
}

/// The shared client; clones share one connection pool.
#[derive(Debug, Clone)]
pub struct HttpClient {
    remote: Client,
    loopback: Client,
}

/// The client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// `rustls::crypto::ring::default_provider().install_default()` has not run; it belongs at the start of `main`.
    #[error("no TLS provider is installed in this process")]
    NoTlsProvider,
    /// The TLS or proxy settings of the system do not make a client.
    #[error("the HTTP client cannot be built")]
    Build(#[source] reqwest::Error),
}

/// Builds the client all providers of a process should share.
///
/// It speaks HTTP/1.1 only: with HTTP/2 hundreds of concurrent calls would share one connection, wait for its stream limit
/// and all fail when it breaks. `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` hold, except for loopback hosts.
/// Where the system has no CA certificates (a bare container) plain HTTP still works and every HTTPS call fails.
///
/// # Errors
/// See [`HttpClientError`].
pub fn http_client(options: &HttpOptions) -> Result<HttpClient, HttpClientError> {
    // The client would panic in the middle of its construction instead.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(HttpClientError::NoTlsProvider);
    }
    let builder = || {
        Client::builder()
            .http1_only()
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .connect_timeout(options.connect)
            .pool_max_idle_per_host(options.idle_connections_per_host)
            .pool_idle_timeout(options.idle_connection_lifetime)
            .user_agent(concat!("promptmill/", env!("CARGO_PKG_VERSION")))
    };
    match (builder().build(), builder().no_proxy().build()) {
        (Ok(remote), Ok(loopback)) => Ok(HttpClient { remote, loopback }),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "no CA certificates could be loaded: providers behind HTTPS cannot be called");
            let bare = || builder().tls_certs_only([]);
            let remote = bare().build().map_err(HttpClientError::Build)?;
            let loopback = bare().no_proxy().build().map_err(HttpClientError::Build)?;
            Ok(HttpClient { remote, loopback })
        }
    }
}

impl HttpClient {
    /// The client for the host of `url`.
    pub(crate) fn for_url(&self, url: &reqwest::Url) -> Client {
        if is_loopback(url) { self.loopback.clone() } else { self.remote.clone() }
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Deadlines of one call. They end the wait for a reply, not a connection attempt ([`HttpOptions::connect`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of the call to the reply's headers.
    pub first_byte: Duration,
    /// The longest pause between two pieces of the reply.
    pub idle: Duration,
    /// The whole call.
    pub total: Duration,
}

impl Timeouts {
    /// 600 s, 120 s, 900 s: a non-streamed reply begins when its last token is made, and one that was cut off is billed.
    pub const fn openrouter() -> Self {
        Self::seconds(600, 120, 900)
    }

    /// 600 s, 120 s, 900 s, as for OpenRouter.
    pub const fn openai_compatible() -> Self {
        Self::seconds(600, 120, 900)
    }

    /// 900 s, 120 s, 3600 s: no byte comes while a model loads (5 minutes by the server's own limit) and while the call
    /// waits for a free slot, and a small machine may write for a long time.
    pub const fn ollama() -> Self {
        Self::seconds(900, 120, 3600)
    }

    const fn seconds(first_byte: u64, idle: u64, total: u64) -> Self {
        Self {
            first_byte: Duration::from_secs(first_byte),
            idle: Duration::from_secs(idle),
            total: Duration::from_secs(total),
        }
    }
}

/// A response whose headers came, with the deadlines its body is read under.
#[derive(Debug)]
pub(crate) struct Incoming {
    response: Response,
    idle: Duration,
    deadline: Instant,
    read: usize,
}

/// A body that was read to its end.
#[derive(Debug)]
pub(crate) struct WholeReply {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) generation: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// Sends a request and waits for the headers of its reply.
pub(crate) async fn send(
    client: &Client,
    request: Request,
    timeouts: &Timeouts,
) -> Result<Incoming, CallFailure> {
    let started = Instant::now();
    let deadline = started + timeouts.total;
    let response = match timeout_at(deadline.min(started + timeouts.first_byte), client.execute(request))
        .await
    {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unsent(&error)),
        Err(_) => {
            let waited = timeouts.first_byte.min(timeouts.total).as_secs();
            return Err(CallFailure::new(FailureKind::Timeout, format!("no reply began within {waited} s")));
        }
    };
    Ok(Incoming { response, idle: timeouts.idle, deadline, read: 0 })
}

/// Names the cause without the error's own text, which holds the URL and may come from a proxy.
fn unsent(error: &reqwest::Error) -> CallFailure {
    let message = if error.is_dns() {
        "the provider's host name cannot be resolved"
    } else if error.is_connect() && error.is_timeout() {
        "the provider did not accept a connection in time"
    } else if error.is_connect() {
        "the provider cannot be connected to"
    } else if error.is_builder() {
        return CallFailure::new(FailureKind::Internal, "the request cannot be built");
    } else {
        "the connection broke before a reply began"
    };
    CallFailure::new(FailureKind::ConnectionFailed, message)
}

impl Incoming {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn is_success(&self) -> bool {
        self.response.status().is_success()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The content type without its parameters, shortened; `none` where there is none.
    pub(crate) fn content_type(&self) -> Cow<'static, str> {
        let value = self.header(CONTENT_TYPE.as_str()).unwrap_or("none");
        let essence = value.split(';').next().unwrap_or(value).trim();
        // What nearly every reply is takes no memory of its own.
        if essence == JSON {
            return Cow::Borrowed(JSON);
        }
        Cow::Owned(essence.chars().take(60).collect::<String>().to_ascii_lowercase())
    }

    fn failure(&self, kind: FailureKind, message: impl AsRef<str>) -> CallFailure {
        CallFailure::new(kind, message).with_status(self.status())
    }

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// The body broke off, did not go on in time, was compressed, or passed `cap` bytes.
    pub(crate) async fn chunk(&mut self, cap: usize) -> Result<Option<Bytes>, CallFailure> {
        let idle = Instant::now() + self.idle;
        let chunk = match timeout_at(idle.min(self.deadline), self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(_)) => {
                let message = format!("the reply broke off after {} bytes", self.read);
                return Err(self.failure(FailureKind::MalformedReply, message));
            }
            Err(_) => {
                let message =
                    format!("the reply stopped after {} bytes and did not go on in time", self.read);
                return Err(self.failure(FailureKind::Timeout, message));
            }
        };
        self.read = self.read.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
        if self.read > cap { Err(self.too_large(cap)) } else { Ok(chunk) }
    }

    /// Refuses a body that we could only read by unpacking it, or that says itself it is too large.
    pub(crate) fn check_head(&self, cap: usize) -> Result<(), CallFailure> {
        if self
            .header(CONTENT_ENCODING.as_str())
            .is_some_and(|value| !value.trim().eq_ignore_ascii_case("identity"))
        {
            return Err(self.failure(
                FailureKind::MalformedReply,
                "the reply is compressed although we did not ask for it",
            ));
        }
        if self.response.content_length().is_some_and(|length| length > cap as u64) {
            return Err(self.too_large(cap));
        }
        Ok(())
    }

    fn too_large(&self, cap: usize) -> CallFailure {
        self.failure(FailureKind::ReplyTooLarge, format!("the reply is larger than {cap} bytes"))
    }

    /// The provider's id of the generation, where a header tells it.
    pub(crate) fn generation(&self) -> Option<String> {
        self.header("x-generation-id").map(|id| id.chars().take(128).collect())
    }

    /// Reads what is left behind a reply that is whole, for a moment.
    pub(crate) async fn read_tail(&mut self, cap: usize) {
        let _ = timeout(TAIL_WAIT, async { while let Ok(Some(_)) = self.chunk(cap).await {} }).await;
    }

    /// Reads the body to its end.
    pub(crate) async fn read_whole(mut self) -> Result<WholeReply, CallFailure> {
        self.check_head(MAX_REPLY_WIRE_BYTES)?;
        let mut body = self.chunk(MAX_REPLY_WIRE_BYTES).await?.unwrap_or_default();
        if let Some(second) = self.chunk(MAX_REPLY_WIRE_BYTES).await? {
            let expected = self.response.content_length().unwrap_or(0).min(MAX_REPLY_WIRE_BYTES as u64);
            let mut joined =
                Vec::with_capacity(usize::try_from(expected).unwrap_or(0).max(body.len() + second.len()));
            joined.extend_from_slice(&body);
            joined.extend_from_slice(&second);
            while let Some(chunk) = self.chunk(MAX_REPLY_WIRE_BYTES).await? {
                joined.extend_from_slice(&chunk);
            }
            body = joined.into();
        }
        Ok(self.into_reply(body))
    }

    /// Reads what there is of an error's body: the status alone already tells enough, so a broken body is no further error.
    pub(crate) async fn read_error(mut self) -> WholeReply {
        let mut body = Vec::new();
        if self.check_head(usize::MAX).is_ok() {
            while let Ok(Some(chunk)) = self.chunk(usize::MAX).await {
                let room = MAX_ERROR_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == MAX_ERROR_BYTES {
                    break;
                }
            }
        }
        self.into_reply(body.into())
    }

    fn into_reply(self, body: Bytes) -> WholeReply {
        WholeReply {
            status: self.status(),
            content_type: self.content_type(),
            generation: self.generation(),
            retry_after: retry_after::from_headers(self.response.headers(), SystemTime::now()),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tls_provider_there_is_an_error_and_no_panic() {
        assert!(matches!(http_client(&HttpOptions::default()), Err(HttpClientError::NoTlsProvider)));
    }

    #[test]
    fn loopback_hosts_never_go_through_a_proxy() {
        for (url, expected) in [
            ("http://127.0.0.1:11434", true),
            ("http://127.8.8.8", true),
            ("http://[::1]:1", true),
            ("http://localhost.", true),
            ("http://a.localhost", true),
            ("http://localhost.example.com", false),
            ("https://openrouter.ai/api/v1", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
