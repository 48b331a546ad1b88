//! Receivers on loopback and names that lead where the test wants.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_egress::{Answer, Deadlines, GuardedClient, HeaderMap, Resolver, SendError, UrlPolicy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server on loopback that handles each connection as the test says, and counts them.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    work: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn on<F>(ip: &str, handle: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let work = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                // What the client does to the connection is the client's affair.
                tokio::spawn(handle(stream));
            }
        });
        Self { address, connections, work }
    }

    /// Reads a request, writes `answer`, and keeps the connection open.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::on("127.0.0.1", move |mut stream| {
            let answer = answer.clone();
            async move {
                loop {
                    read_request(&mut stream).await?;
                    stream.write_all(&answer).await?;
                }
            }
        })
        .await
    }

    /// Must never be reached.
    pub(crate) async fn canary(ip: &str) -> Self {
        Self::on(ip, |_| async { Ok(()) }).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The URL under a name, for a resolver to lead somewhere.
    pub(crate) fn url_at(&self, name: &str) -> String {
        format!("http://{name}:{}/hook", self.address.port())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Reads a request with its body. Answers its text.
pub(crate) async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
        });
        if body.len() >= length.unwrap_or(0) {
            return Ok(text);
        }
    }
}

/// Gives each of its answers once, in order, and the last one for ever.
pub(crate) struct Scripted {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    pub(crate) asked: AtomicUsize,
}

impl Scripted {
    pub(crate) fn of(answers: &[&[&str]]) -> Arc<Self> {
        let parsed = answers.iter().map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
        Arc::new(Self { answers: Mutex::new(parsed.collect()), asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolver for Scripted {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A client that may call `127.0.0.1` and no other address that is not public.
pub(crate) fn client(resolver: Arc<dyn Resolver>) -> GuardedClient {
    client_with(
        UrlPolicy { allow_http: true, ports: vec![], allowed_subnets: vec!["127.0.0.1/32".parse().unwrap()] },
        resolver,
    )
}

pub(crate) fn client_with(policy: UrlPolicy, resolver: Arc<dyn Resolver>) -> GuardedClient {
    static TLS: Once = Once::new();
    TLS.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
    GuardedClient::with_resolver(policy, resolver).unwrap()
}

pub(crate) async fn post(client: &GuardedClient, url: &str) -> Result<Answer, SendError> {
    post_within(client, url, Duration::from_secs(20)).await
}

pub(crate) async fn post_within(
    client: &GuardedClient,
    url: &str,
    total: Duration,
) -> Result<Answer, SendError> {
    client.post(url, HeaderMap::new(), Bytes::from_static(b"{\"a\":1}"), Deadlines { total }).await
}

/// A client whose names lead to `127.0.0.1`.
pub(crate) fn local_client() -> GuardedClient {
    client(Scripted::of(&[&["127.0.0.1"]]))
}
