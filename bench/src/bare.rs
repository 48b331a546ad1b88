//! The plainest loop of calls: the machine's limit, as far as the engine's own HTTP library reaches.
//!
//! One thread keeps so many calls in flight, on connections that are open before the clock starts, with the bytes that the engine sent to
//! the same server, and reads every reply to its end. It renders, judges and keeps nothing.

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Request, StatusCode, Url};
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

/// Measures and prints the result as JSON.
///
/// # Errors
/// See [`measure`].
pub fn run(server: &str, items: u64, concurrency: u32) -> anyhow::Result<ExitCode> {
    // The engine's threads are limited to one in the same way, so neither side has more than one to itself.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let taken = tokio::task::LocalSet::new().block_on(&runtime, measure(server, items, concurrency))?;
    println!("{}", serde_json::to_string(&taken)?);
    Ok(ExitCode::SUCCESS)
}

/// Measures `items` calls with `concurrency` of them in flight, to be awaited on a [`LocalSet`](tokio::task::LocalSet).
///
/// # Errors
/// The server has no sample of a call, or a call is not answered with 200.
pub async fn measure(server: &str, items: u64, concurrency: u32) -> anyhow::Result<Taken> {
    let client = client()?;
    let call = Call::like_the_sample(&client, server).await?;
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

/// The client as the engine builds its own.
fn client() -> reqwest::Result<Client> {
    Client::builder()
        .http1_only()
        .no_proxy()
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .pool_max_idle_per_host(10_000)
        .timeout(Duration::from_secs(600))
        .build()
}

/// One call, to be made again and again.
struct Call {
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// The call that the server saw first.
    async fn like_the_sample(client: &Client, server: &str) -> anyhow::Result<Self> {
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
        Ok(Self { url, headers, body: Bytes::from(sample.body) })
    }

    fn request(&self) -> Request {
        let mut request = Request::new(reqwest::Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(self.body.clone().into());
        request
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
            let call = Call { url: call.url.clone(), headers: call.headers.clone(), body: call.body.clone() };
            tokio::task::spawn_local(async move {
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let begun = Instant::now();
                    let response = client.execute(call.request()).await?;
                    let status = response.status();
                    response.bytes().await?;
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
