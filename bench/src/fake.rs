//! A chat server that costs as little as possible: one thread, its replies made before the first call.
//!
//! It speaks the part of OpenAI's API that a batch needs, always answers after the same time, the same unless asked for other replies, and counts. It never judges a
//! request: a measure that wants to know whether the right thing was sent looks at `GET /_sample`.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

use crate::{serving, work};

/// As many connections as a measure opens at once may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// From a call to its reply. The clock of the timers ticks in milliseconds.
    pub latency: Duration,
    /// How many different replies it gives in turn.
    pub replies: u32,
    /// End when standard input does.
    pub until_stdin_ends: bool,
}

/// What was seen, as `GET /_calls` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Chat calls that were answered.
    pub calls: u64,
    /// The most that were under way at the same time.
    pub most_at_once: u64,
}

/// The first chat call that came, as `GET /_sample` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Names and values of its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

/// A chat call with a body of more bytes than that is a long one: those of [`work::long_variables`] are, those of the other rows are not.
const LONG_BYTES: u64 = 2_500;

/// Serves until the process ends, and first prints where.
///
/// # Errors
/// The address cannot be listened on.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until_stdin_ends = config.until_stdin_ends;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (address, serving) = bind(config)?;
        println!("listening on {address}");
        if until_stdin_ends {
            tokio::select! {
                () = serving => {}
                () = end_of_stdin() => {}
            }
        } else {
            serving.await;
        }
        anyhow::Ok(())
    })?;
    // The read of standard input may be under way on a thread of its own, which would keep the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer).await, Ok(read) if read > 0) {}
}

/// Begins to listen; answers the address and what serves there for ever, to be awaited on a [`LocalSet`](tokio::task::LocalSet).
///
/// # Errors
/// The address cannot be listened on.
pub fn bind(config: &Config) -> io::Result<(SocketAddr, impl Future<Output = ()> + use<>)> {
    let socket = if config.listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(config.listen)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let server = Rc::new(Server::new(config.latency, config.replies));
    let answer = move |request| {
        let server = server.clone();
        async move { server.answer(request).await }
    };
    Ok((address, serving::accept(listener, answer)))
}

struct Server {
    latency: Duration,
    replies: Vec<Bytes>,
    calls: Cell<u64>,
    at_once: Cell<u64>,
    most_at_once: Cell<u64>,
    /// When each long one came, microseconds of Unix time.
    long_calls: RefCell<Vec<u64>>,
    sample: RefCell<Option<Sample>>,
}

impl Server {
    fn new(latency: Duration, replies: u32) -> Self {
        let others = (1..replies).map(|seed| work::reply(&work::answer_in_words(seed)));
        Self {
            latency,
            replies: std::iter::once(work::reply(&work::answer())).chain(others).collect(),
            calls: Cell::new(0),
            at_once: Cell::new(0),
            most_at_once: Cell::new(0),
            long_calls: RefCell::default(),
            sample: RefCell::new(None),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/chat/completions") => self.chat(request).await,
            (&Method::GET, "/v1/models") => {
                json(Bytes::from_static(br#"{"object":"list","data":[{"id":"bench","object":"model"}]}"#))
            }
            (&Method::GET, "/_calls") => {
                told(&Seen { calls: self.calls.get(), most_at_once: self.most_at_once.get() })
            }
            (&Method::GET, "/_long_calls") => told(&*self.long_calls.borrow()),
            (&Method::GET, "/_sample") => match &*self.sample.borrow() {
                Some(sample) => told(sample),
                None => status(StatusCode::NOT_FOUND),
            },
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    async fn chat(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.at_once.set(self.at_once.get() + 1);
        self.most_at_once.set(self.most_at_once.get().max(self.at_once.get()));
        if is_long(request.headers()) {
            self.long_calls.borrow_mut().push(unix_us());
        }
        // The deadline is set before the body is read, as by a model that begins with the first byte.
        let reply_at = (!self.latency.is_zero()).then(|| tokio::time::sleep(self.latency));
        let sampled = self.sample.borrow().is_some();
        let whole = if sampled { skip(request).await } else { self.keep_sample(request).await };
        if let (true, Some(reply_at)) = (whole, reply_at) {
            reply_at.await;
        }
        self.at_once.set(self.at_once.get() - 1);
        if !whole {
            return status(StatusCode::BAD_REQUEST);
        }
        self.calls.set(self.calls.get() + 1);
        let turn = usize::try_from(self.calls.get()).unwrap_or(0) % self.replies.len();
        json(self.replies[turn].clone())
    }

    /// Reads a body and keeps it; answers whether it was whole.
    async fn keep_sample(&self, request: Request<Incoming>) -> bool {
        let headers = texts(request.headers());
        let mut incoming = request.into_body();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else { return false };
            body.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        }
        let sample = Sample { headers, body: String::from_utf8_lossy(&body).into_owned() };
        self.sample.borrow_mut().get_or_insert(sample);
        true
    }
}

/// Reads a body to its end; answers whether it was whole.
async fn skip(request: Request<Incoming>) -> bool {
    let mut incoming = request.into_body();
    while let Some(frame) = incoming.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}

fn is_long(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.is_some_and(|length: u64| length > LONG_BYTES)
}

/// Microseconds of Unix time.
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

fn json(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn told(what: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(what) {
        Ok(body) => json(Bytes::from(body)),
        Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
