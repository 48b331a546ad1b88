//! The fake server answers what a batch needs, in time, and counts.

use std::time::{Duration, Instant};

use promptmill_bench::fake::{self, Config, Sample, Seen};
use promptmill_bench::work;
use serde_json::Value;
use tokio::task::LocalSet;

/// Runs `work` with the URL of a fake server beside it on the same thread.
pub(crate) async fn with_fake<T>(latency: Duration, work: impl AsyncFnOnce(String) -> T) -> T {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config =
        Config { listen: "127.0.0.1:0".parse().unwrap(), latency, replies: 1, until_stdin_ends: false };
    LocalSet::new()
        .run_until(async {
            let (address, serving) = fake::bind(&config).unwrap();
            let server = tokio::task::spawn_local(serving);
            let answer = work(format!("http://{address}")).await;
            server.abort();
            answer
        })
        .await
}

pub(crate) async fn call(client: &reqwest::Client, url: &str, body: &str) -> Value {
    let request = client.post(format!("{url}/v1/chat/completions")).header("x-kind", "test");
    let response = request.body(body.to_owned()).send().await.unwrap().error_for_status().unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

pub(crate) async fn get<T: serde::de::DeserializeOwned>(url: String) -> T {
    let response = reqwest::get(url).await.unwrap().error_for_status().unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_is_answered_with_the_reply_and_its_usage_and_counted() {
    with_fake(Duration::ZERO, async |url| {
        let client = reqwest::Client::new();
        let reply = call(&client, &url, "{}").await;
        let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(content).unwrap(), work::answer());
        assert!(reply["usage"]["completion_tokens"].as_u64() > Some(0));
        call(&client, &url, "{}").await;
        assert_eq!(get::<Seen>(format!("{url}/_calls")).await, Seen { calls: 2, most_at_once: 1 });
        let models: Value = get(format!("{url}/v1/models")).await;
        assert_eq!(models["data"][0]["id"], "bench");
        let status = client.get(format!("{url}/v1/chat/completions")).send().await.unwrap().status();
        assert_eq!(status, 404);
    })
    .await;
}

#[tokio::test]
async fn the_first_call_is_kept_as_the_sample() {
    with_fake(Duration::ZERO, async |url| {
        let client = reqwest::Client::new();
        let none = client.get(format!("{url}/_sample")).send().await.unwrap().status();
        assert_eq!(none, 404);
        call(&client, &url, r#"{"first": "ü"}"#).await;
        call(&client, &url, r#"{"second": 2}"#).await;
        let sample: Sample = get(format!("{url}/_sample")).await;
        assert_eq!(sample.body, r#"{"first": "ü"}"#);
        assert!(sample.headers.contains(&("x-kind".to_owned(), "test".to_owned())), "{sample:?}");
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_calls_wait_for_their_latency_at_the_same_time() {
    const CALLS: usize = 600;
    let latency = Duration::from_secs(1);
    with_fake(latency, async |url| {
        let client = reqwest::Client::new();
        let begun = Instant::now();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (client, url) = (client.clone(), url.clone());
                tokio::task::spawn_local(async move { call(&client, &url, "{}").await })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert!(begun.elapsed() >= latency, "a reply came before its time");
        let seen: Seen = get(format!("{url}/_calls")).await;
        // One after the other they would never meet; how many do is up to how fast the machine opens connections.
        assert!(seen.calls == CALLS as u64 && seen.most_at_once > 1, "{seen:?}");
    })
    .await;
}
