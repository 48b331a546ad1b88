//! What one tenant holds at the same time is bounded, and others are not held up by it.

use std::time::Duration;

use promptmill_api::ApiConfig;
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::desk::{body, draft, idle_with, lines, made, put_part, rows};
use crate::support::{Options, Service, send, wait_for};

fn with(change: impl FnOnce(&mut ApiConfig)) -> Options {
    let mut options = Options::default();
    change(&mut options.config);
    options
}

/// A request whose body is announced with `length` bytes and not sent to its end.
async fn begun(service: &Service, line: &str, kind: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(service.address).await.unwrap();
    let key = &service.key;
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(sent).await.unwrap();
    socket
}

#[tokio::test]
async fn a_tenant_with_all_its_uploads_under_way_keeps_no_other_from_sending() {
    let service = idle_with(Options::default()).await;
    let id = draft(&service).await;
    let mut held = Vec::new();
    // More than the share: the looks below may have a place for a moment when one of these comes.
    for part in 0..40 {
        let line = format!("PUT /v1/batches/{id}/rows/{part}");
        held.push(begun(&service, &line, "application/x-ndjson", 1_000, b"{").await);
    }
    wait_for("the share is used up", async || {
        let answer = put_part(&service, &id, 99, lines(1)).await;
        (answer.status == 429).then(|| {
            answer.problem(429, "too_many_requests");
            assert_eq!(answer.header("retry-after"), "2");
        })
    })
    .await;
    let other = service.key_of("acme", Role::Member, &[]).await;
    let answer = send(service.request_as(&other, Method::POST, "/v1/batches").json(&body(json!({})))).await;
    let path = format!("/v1/batches/{}/rows/0", made(&answer));
    let request =
        service.request_as(&other, Method::PUT, &path).header("content-type", "application/x-ndjson");
    send(request.body(lines(1))).await.expect(200);
    drop(held);
    let again = async || (put_part(&service, &id, 99, lines(1)).await.status == 200).then_some(());
    wait_for("a place is free again", again).await;
}

#[tokio::test]
async fn large_bodies_wait_for_each_other_and_not_for_ever_and_small_ones_pass() {
    let mut large = body(json!({"rows": rows(1)})).to_string();
    large.push_str(&" ".repeat(1_500_000));
    let change = |body_time: Duration| {
        with(move |config| {
            // A tenant has room for one of them.
            config.body_bytes = 4 << 20;
            config.body_time = body_time;
        })
    };
    let sent = &large.as_bytes()[..1_400_000];
    // Held for long: the one that waits gives up.
    let service = idle_with(change(Duration::from_secs(9))).await;
    let create = |service: &Service, key: &str| {
        let request =
            service.request_as(key, Method::POST, "/v1/batches").header("content-type", "application/json");
        send(request.body(large.clone()))
    };
    create(&service, &service.key).await.expect(201);
    // Either of two that come together may get the room; round trips let the first one get on.
    let (held, refused) = wait_for("another one has the room", async || {
        let held = begun(&service, "POST /v1/batches", "application/json", large.len(), sent).await;
        for _ in 0..20 {
            service.is_alive().await;
        }
        let answer = create(&service, &service.key).await;
        (answer.status == 429).then_some((held, answer))
    })
    .await;
    refused.problem(429, "too_many_requests");
    drop(held);

    // Held for a while: whoever waits gets the room then.
    let service = idle_with(change(Duration::from_secs(300))).await;
    let other = service.key_of("acme", Role::Member, &[]).await;
    let (mut held, waiting) = wait_for("another one has the room", async || {
        let held = begun(&service, "POST /v1/batches", "application/json", large.len(), sent).await;
        for _ in 0..20 {
            service.is_alive().await;
        }
        let mut waiting = Box::pin(create(&service, &service.key));
        tokio::select! {
            // It was the first to come.
            answer = &mut waiting => {
                answer.expect(201);
                None
            }
            answer = create(&service, &other) => {
                answer.expect(201);
                Some((held, waiting))
            }
        }
    })
    .await;
    service.post("/v1/batches", &body(json!({"rows": rows(1)}))).await.expect(201);
    held.write_all(&large.as_bytes()[1_400_000..]).await.unwrap();
    waiting.await.expect(201);
}

#[tokio::test]
async fn results_are_read_by_a_bounded_number_of_readers_of_a_tenant() {
    let service = idle_with(with(|config| config.readings_per_tenant = 1)).await;
    let id = made(&service.post("/v1/batches", &body(json!({"rows": rows(1)}))).await);
    let path = format!("/v1/batches/{id}/results");
    service.get(&path).await.expect(200);
    let wait = || tokio::spawn(service.request(Method::GET, &format!("{path}?order=settled&wait=60")).send());
    let mut waiting = wait();
    let look = async || {
        if waiting.is_finished() {
            // The reader before had not left its place yet.
            waiting = wait();
        }
        let answer = service.get(&path).await;
        (answer.status == 429).then_some(answer)
    };
    wait_for("the reader waits", look).await.problem(429, "too_many_requests");
    waiting.abort();
    wait_for("its place is free", async || (service.get(&path).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn uploads_at_the_same_time_share_the_bytes_that_may_be_stored() {
    let service = idle_with(with(|config| config.stored_bytes = 100_000)).await;
    let id = draft(&service).await;
    // Text that no coding makes small.
    let mut state = 1_u64;
    let mut text = move |rows: usize| -> String {
        let mut row = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{{\"topic\":\"{:016x}{state:016x}\"}}\n", state.rotate_left(29).wrapping_mul(state))
        };
        (0..rows).map(&mut row).collect()
    };
    // Admitted while there is room for it; its rows come when others have taken that.
    let late = text(3_000);
    let line = format!("PUT /v1/batches/{id}/rows/0");
    let mut socket = begun(&service, &line, "application/x-ndjson", late.len(), &late.as_bytes()[..40]).await;
    put_part(&service, &id, 1, text(3_500)).await.expect(200);
    socket.write_all(&late.as_bytes()[40..]).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 429");
    let used = service.get("/v1/limits").await.json["used"]["stored_bytes"].as_u64().unwrap();
    assert!((40_000..=100_000).contains(&used), "{used}");
    assert_eq!(
        service.get(&format!("/v1/batches/{id}/rows")).await.json["data"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn a_made_up_cursor_is_a_mistake_of_whoever_sends_it() {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let service = idle_with(Options::default()).await;
    let id = made(&service.post("/v1/batches", &body(json!({"rows": rows(1)}))).await);
    let list = format!("items {id} None [] []");
    let mut hasher = Sha256::new();
    hasher.update((list.len() as u64).to_be_bytes());
    hasher.update(&list);
    let cursor = |position: &str| {
        let sum = hasher.clone().chain_update(position).finalize();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([&sum[..6], position.as_bytes()].concat())
    };
    let ask = async |position: &str| {
        service.get(&format!("/v1/batches/{id}/items?cursor={}", cursor(position))).await
    };
    assert_eq!(ask("7").await.expect(200)["data"], Value::Array(Vec::new()));
    ask("seven").await.problem(400, "bad_request");
}
