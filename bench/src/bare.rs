//! The plainest loop of calls, with reqwest or with the client inside of it, which is the engine's own.
//!
//! One thread keeps so many calls in flight, on connections that are open before the clock starts, with the bytes that the engine sent to
//! the same server, and reads every reply to its end. It renders, judges and keeps nothing.

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::fake::Sample;
use crate::figures::Runs;
use crate::procfs;

/// What a loop took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Taken {
    /// Calls that were measured.
    pub items: u64,
    /// From the first of them to the end of the last.
    pub seconds: f64,
    /// User and system time of the process over them.
    pub cpu_seconds: f64,
    /// The call in the middle, in milliseconds.
    pub p50_ms: f64,
}

/// What makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The whole library: what the table's limits are ratios of.
    Reqwest,
    /// hyper-util's client, with which the engine calls providers.
    Hyper,
}

/// Measures and prints the result as JSON.
///
/// # Errors
/// See [`measure`].
pub fn run(kind: Kind, server: &str, items: u64, concurrency: u32) -> anyhow::Result<ExitCode> {
    // The engine's threads are limited to one in the same way, so neither side has more than one to itself.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let taken = tokio::task::LocalSet::new().block_on(&runtime, measure(kind, server, items, concurrency))?;
    println!("{}", serde_json::to_string(&taken)?);
    Ok(ExitCode::SUCCESS)
}

/// Measures `items` calls with `concurrency` of them in flight, to be awaited on a [`LocalSet`](tokio::task::LocalSet).
///
/// # Errors
/// The server has no sample of a call, or a call is not answered with 200.
pub async fn measure(kind: Kind, server: &str, items: u64, concurrency: u32) -> anyhow::Result<Taken> {
    let client = Client::new(kind)?;
    let call = Call::like_the_sample(server).await?;
    // One call on each connection, all at once, so that every one of them is open.
    in_flight(&client, &call, u64::from(concurrency), concurrency).await?;
    let pid = std::process::id();
    let cpu_before = procfs::cpu_time(pid)?;
    let begun = Instant::now();
    let latencies = in_flight(&client, &call, items, concurrency).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = (procfs::cpu_time(pid)? - cpu_before).as_secs_f64();
    Ok(Taken {
        items,
        seconds,
        cpu_seconds,
        p50_ms: latencies.iter().map(|latency| latency.as_secs_f64() * 1e3).collect::<Runs>().median(),
    })
}

/// How long a call may take: the engine has deadlines too.
const DEADLINE: Duration = Duration::from_secs(600);

/// A client for one server without TLS.
#[derive(Clone)]
enum Client {
    Reqwest(reqwest::Client),
    Hyper(legacy::Client<HttpConnector, Full<Bytes>>),
}

impl Client {
    fn new(kind: Kind) -> reqwest::Result<Self> {
        const IDLE_CONNECTIONS: usize = 10_000;
        Ok(match kind {
            Kind::Reqwest => Self::Reqwest(
                reqwest::Client::builder()
                    .http1_only()
                    .no_proxy()
                    .retry(reqwest::retry::never())
                    .tcp_nodelay(true)
                    .pool_max_idle_per_host(IDLE_CONNECTIONS)
                    .build()?,
            ),
            Kind::Hyper => {
                let mut tcp = HttpConnector::new();
                tcp.set_nodelay(true);
                let builder = &mut legacy::Client::builder(TokioExecutor::new());
                builder.pool_timer(TokioTimer::new()).pool_max_idle_per_host(IDLE_CONNECTIONS);
                Self::Hyper(builder.build(tcp))
            }
        })
    }

    /// Makes the call and reads its reply to the end.
    async fn make(&self, call: &Call) -> anyhow::Result<StatusCode> {
        match self {
            Self::Reqwest(client) => {
                let mut request = reqwest::Request::new(Method::POST, call.url.clone());
                *request.headers_mut() = call.headers.clone();
                *request.body_mut() = Some(call.body.clone().into());
                let response = client.execute(request).await?;
                let status = response.status();
                response.bytes().await?;
                Ok(status)
            }
            Self::Hyper(client) => {
                let mut request = hyper::Request::new(Full::new(call.body.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = call.uri.clone();
                *request.headers_mut() = call.headers.clone();
                let response = client.request(request).await?;
                let status = response.status();
                response.into_body().collect().await?;
                Ok(status)
            }
        }
    }
}

/// One call, to be made again and again.
#[derive(Clone)]
struct Call {
    url: Url,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// The call that the server saw first.
    async fn like_the_sample(server: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let response =
            client.get(format!("{server}/_sample")).send().await.context("the server does not answer")?;
        if response.status() == StatusCode::NOT_FOUND {
            bail!("the server was not called yet: what the loop sends is what somebody else sent before");
        }
        let sample: Sample = serde_json::from_slice(&response.bytes().await?)?;
        let mut headers = HeaderMap::new();
        for (name, value) in sample.headers {
            // These two the client writes itself.
            if name != "host" && name != "content-length" {
                headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
            }
        }
        let url = Url::parse(&format!("{server}/v1/chat/completions"))?;
        let uri = Uri::try_from(url.as_str())?;
        Ok(Self { url, uri, headers, body: Bytes::from(sample.body) })
    }
}

/// Makes `items` calls, `concurrency` at a time; answers how long each took.
async fn in_flight(
    client: &Client,
    call: &Call,
    items: u64,
    concurrency: u32,
) -> anyhow::Result<Vec<Duration>> {
    let left = Rc::new(Cell::new(items));
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(usize::try_from(items)?)));
    let workers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (client, left, latencies) = (client.clone(), left.clone(), latencies.clone());
            let call = call.clone();
            tokio::task::spawn_local(async move {
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let begun = Instant::now();
                    let status = tokio::time::timeout(DEADLINE, client.make(&call)).await??;
                    if status != StatusCode::OK {
                        bail!("a call was answered with {status}");
                    }
                    latencies.borrow_mut().push(begun.elapsed());
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(latencies.take())
}
