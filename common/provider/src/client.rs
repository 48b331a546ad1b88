//! The HTTP client all providers share.
//!
//! A server that no proxy stands before is called with hyper's client; what a proxy stands before, with reqwest, which knows proxies.
//! Both follow no redirect (a key must not travel to another host), keep no cookies and speak HTTP/1.1 only: with HTTP/2 hundreds of
//! concurrent calls would share one connection, wait for its stream limit and all fail when it breaks. Why there are two:
//! `docs/adr/0004-calls-without-reqwest.md`.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use promptmill_domain::FailureKind;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::failure::CallFailure;

/// How the system finds out that the other side of a connection is no more: probes of an idle one, and how long sent bytes may stay
/// without an answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
#[cfg(target_os = "linux")]
const UNANSWERED: Duration = Duration::from_secs(30);
/// Who calls. Requests bring it themselves; what a proxy is asked for a tunnel with is no request of ours.
pub(crate) const USER_AGENT: &str = concat!("promptmill/", env!("CARGO_PKG_VERSION"));

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

/// The shared client; clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    direct: legacy::Client<Connector, Full<Bytes>>,
    proxied: reqwest::Client,
    proxies: Arc<Matcher>,
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
/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` hold, except for loopback hosts.
/// Where the system has no CA certificates (a bare container) plain HTTP still works and every HTTPS call fails.
///
/// # Errors
/// See [`HttpClientError`].
pub fn http_client(options: &HttpOptions) -> Result<HttpClient, HttpClientError> {
    // One client would panic in the middle of its construction instead, the other install a provider of its own choice.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(HttpClientError::NoTlsProvider);
    }
    let trusted = ClientConfig::with_platform_verifier();
    if let Err(error) = &trusted {
        tracing::warn!(%error, "no CA certificates could be loaded: providers behind HTTPS cannot be called");
    }
    Ok(HttpClient {
        proxied: proxied(options, trusted.is_ok()).map_err(HttpClientError::Build)?,
        direct: direct(options, trusted.unwrap_or_else(|_| without_trust())),
        proxies: Arc::new(Matcher::from_system()),
    })
}

/// The settings under which no certificate is good.
fn without_trust() -> ClientConfig {
    ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn direct(options: &HttpOptions, mut tls: ClientConfig) -> legacy::Client<Connector, Full<Bytes>> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    // Shared among the addresses of a name, so that one that never answers leaves time for the others.
    tcp.set_connect_timeout(Some(options.connect));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNANSWERED));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = HttpsConnector::from((tcp, tls));
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(options.idle_connection_lifetime)
        .pool_max_idle_per_host(options.idle_connections_per_host)
        .build(Connector { tls, within: options.connect })
}

fn proxied(options: &HttpOptions, trusting: bool) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
        .tcp_keepalive_retries(KEEPALIVE_RETRIES)
        .connect_timeout(options.connect)
        .pool_max_idle_per_host(options.idle_connections_per_host)
        .pool_idle_timeout(options.idle_connection_lifetime);
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(UNANSWERED);
    if trusting { builder.build() } else { builder.tls_certs_only([]).build() }
}

/// The client for one server.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    Direct(legacy::Client<Connector, Full<Bytes>>),
    Proxied(reqwest::Client),
}

/// A body as it comes.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    Direct(hyper::body::Incoming),
    Proxied(reqwest::Body),
}

/// A body that came to no good end.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl HttpClient {
    /// The client for the host of `uri`.
    pub(crate) fn for_uri(&self, uri: &Uri) -> Caller {
        if is_loopback(uri) || self.proxies.intercept(uri).is_none() {
            Caller::Direct(self.direct.clone())
        } else {
            Caller::Proxied(self.proxied.clone())
        }
    }
}

impl Caller {
    /// Sends a request and waits for the head of its reply.
    ///
    /// # Errors
    /// The request did not leave or no head came. The message names the cause without the error's own text, which holds the address and
    /// may come from a proxy.
    pub(crate) async fn execute(&self, request: Request<Bytes>) -> Result<Response<ReplyBody>, CallFailure> {
        match self {
            Self::Direct(client) => match client.request(request.map(Full::new)).await {
                Ok(response) => Ok(response.map(ReplyBody::Direct)),
                Err(error) => Err(Unsent::direct(&error).into()),
            },
            Self::Proxied(client) => {
                let request = reqwest::Request::try_from(request)
                    .map_err(|_| CallFailure::new(FailureKind::Internal, "the request cannot be built"))?;
                match client.execute(request).await {
                    Ok(response) => Ok(Response::<reqwest::Body>::from(response).map(ReplyBody::Proxied)),
                    Err(error) => Err(Unsent::proxied(&error).into()),
                }
            }
        }
    }
}

impl ReplyBody {
    /// The next piece, `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        match self {
            Self::Direct(body) => next_piece(body).await,
            Self::Proxied(body) => next_piece(body).await,
        }
    }

    /// How many bytes are still to come, where the head of the reply told it.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Direct(body) => body.size_hint().exact(),
            Self::Proxied(body) => body.size_hint().exact(),
        }
    }
}

async fn next_piece(body: &mut (impl Body<Data = Bytes> + Unpin)) -> Result<Option<Bytes>, BrokenOff> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(_)) => return Err(BrokenOff),
            None => return Ok(None),
        }
    }
}

/// What kept a request from its reply.
enum Unsent {
    Lookup,
    ConnectWait,
    Connect,
    BeforeReply,
}

impl Unsent {
    fn direct(error: &legacy::Error) -> Self {
        let causes = || std::iter::successors(error.source(), |&error| error.source());
        if !error.is_connect() {
            Self::BeforeReply
        } else if causes().any(<dyn StdError>::is::<Unresolved>) {
            Self::Lookup
        } else if causes().any(is_end_of_wait) {
            Self::ConnectWait
        } else {
            Self::Connect
        }
    }

    fn proxied(error: &reqwest::Error) -> Self {
        if error.is_dns() {
            Self::Lookup
        } else if !error.is_connect() {
            Self::BeforeReply
        } else if error.is_timeout() {
            Self::ConnectWait
        } else {
            Self::Connect
        }
    }
}

impl From<Unsent> for CallFailure {
    fn from(unsent: Unsent) -> Self {
        let message = match unsent {
            Unsent::Lookup => "the provider's host name cannot be resolved",
            Unsent::ConnectWait => "the provider did not accept a connection in time",
            Unsent::Connect => "the provider cannot be connected to",
            Unsent::BeforeReply => "the connection broke before a reply began",
        };
        Self::new(FailureKind::ConnectionFailed, message)
    }
}

fn is_end_of_wait(error: &(dyn StdError + 'static)) -> bool {
    error.is::<tokio::time::error::Elapsed>()
        || error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Whether the address, as [`endpoint::join`](crate::endpoint::join) writes it, is one of this machine alone.
fn is_loopback(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let name = host.trim_end_matches('.');
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || name == "localhost"
        || name.ends_with(".localhost")
}

type Pinned<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Opens connections, each within a time that name lookup and TLS count into.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: HttpsConnector<HttpConnector<Resolver>>,
    within: Duration,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pinned<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tls.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let opening = timeout(self.within, self.tls.call(to));
        Box::pin(async move { opening.await? })
    }
}

/// The system's name lookup, whose failure is told apart from that of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Resolver(GaiResolver);

/// A host name that has no address.
#[derive(Debug, thiserror::Error)]
#[error("the host name cannot be resolved")]
pub(crate) struct Unresolved(#[source] io::Error);

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = Unresolved;
    type Future = Pinned<GaiAddrs, Unresolved>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        self.0.poll_ready(cx).map_err(Unresolved)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = self.0.call(name);
        Box::pin(async move { looking.await.map_err(Unresolved) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint;

    #[test]
    fn without_a_tls_provider_there_is_an_error_and_no_panic() {
        assert!(matches!(http_client(&HttpOptions::default()), Err(HttpClientError::NoTlsProvider)));
    }

    #[test]
    fn loopback_hosts_never_go_through_a_proxy() {
        for (url, expected) in [
            ("http://127.0.0.1:11434", true),
            ("http://127.8.8.8", true),
            ("http://127.1", true),
            ("http://2130706433", true),
            ("http://[::1]:1", true),
            ("http://localhost.", true),
            ("http://LOCALHOST", true),
            ("http://a.localhost", true),
            ("http://localhost.example.com", false),
            ("https://openrouter.ai/api/v1", false),
            ("http://10.0.0.1", false),
        ] {
            let uri = endpoint::join(&endpoint::parse_base_url(url).unwrap(), "models").unwrap();
            assert_eq!(is_loopback(&uri), expected, "{url}");
        }
    }
}
