//! kill -9 straight after a 2xx: what was acknowledged is there after the next start. And uploads that break off.

use promptmill_doubles::{Config, Doubles};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::server::{Http, Server};
use crate::support::{Desk, ticket_template};

fn rows(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"custom_id": format!("id-{n}"), "variables": {"n": n}})).collect()
}

fn lines(count: usize) -> String {
    rows(count).iter().map(|row| format!("{row}\n")).collect()
}

async fn draft(client: &Http) -> String {
    let (status, view) =
        client.post("/v1/batches", &json!({"template": ticket_template(), "model": "demo:any"})).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    view["id"].as_str().unwrap().to_owned()
}

/// Something that is acknowledged, and how it is found again.
async fn one_step(dice: &mut StdRng, server: Server) -> (String, Box<dyn FnOnce(Value) + Send>) {
    let client = server.client();
    match dice.random_range(0..5) {
        0 => {
            let count = dice.random_range(1..300);
            let batch = json!({"template": ticket_template(), "model": "demo:any", "rows": rows(count)});
            let (status, view) = client.post("/v1/batches", &batch).await;
            server.kill();
            assert_eq!(status, StatusCode::CREATED, "{view}");
            (
                format!("/v1/batches/{}", view["id"].as_str().unwrap()),
                Box::new(move |found| assert_eq!(found["rows"], count)),
            )
        }
        1 => {
            let id = draft(&client).await;
            let count = dice.random_range(1..2_000);
            let (status, part) = client.put_rows(&id, 3, lines(count)).await;
            server.kill();
            assert_eq!((status, &part["rows"]), (StatusCode::OK, &json!(count)), "{part}");
            (
                format!("/v1/batches/{id}/rows"),
                Box::new(move |found| {
                    assert_eq!(
                        (&found["data"][0]["part"], &found["data"][0]["digest"]),
                        (&json!(3), &part["digest"])
                    );
                }),
            )
        }
        2 => {
            let id = draft(&client).await;
            client.put_rows(&id, 0, lines(500)).await;
            let (status, view) = client.step(&format!("/v1/batches/{id}/submit")).await;
            server.kill();
            assert_eq!(status, StatusCode::OK, "{view}");
            (
                format!("/v1/batches/{id}"),
                Box::new(|found| {
                    assert_eq!(found["rows"], 500);
                    assert_ne!(found["state"], "draft");
                }),
            )
        }
        3 => {
            let batch = json!({"template": ticket_template(), "model": "demo:slow", "rows": rows(300)});
            let (_, view) = client.post("/v1/batches", &batch).await;
            let id = view["id"].as_str().unwrap().to_owned();
            let (status, view) = client.step(&format!("/v1/batches/{id}/cancel")).await;
            server.kill();
            assert_eq!(status, StatusCode::OK, "{view}");
            (
                format!("/v1/batches/{id}"),
                Box::new(|found| {
                    assert!(found["state"] == "cancelling" || found["state"] == "cancelled", "{found}");
                }),
            )
        }
        _ => {
            let batch = json!({"template": ticket_template(), "model": "demo:any", "rows": rows(20)});
            let (_, view) = client.post("/v1/batches", &batch).await;
            let id = view["id"].as_str().unwrap().to_owned();
            client.wait_for_state(&id, &["completed"]).await;
            let (status, view) =
                client.post(&format!("/v1/batches/{id}/retry"), &json!({"outcomes": ["succeeded"]})).await;
            server.kill();
            assert_eq!(status, StatusCode::CREATED, "{view}");
            (
                format!("/v1/batches/{}", view["id"].as_str().unwrap()),
                Box::new(move |found| {
                    assert_eq!((&found["rows"], &found["retry_of"]["batch"]), (&json!(20), &json!(id)));
                }),
            )
        }
    }
}

async fn kills(seeds: std::ops::Range<u64>) {
    let desk = Desk::new();
    let mut server = Server::first(&desk);
    let key = server.key.clone();
    for seed in seeds {
        let mut dice = StdRng::seed_from_u64(seed);
        let (path, check) = one_step(&mut dice, server).await;
        server = Server::again(&desk, &key);
        let (status, found) = server.client().get(&path).await;
        assert_eq!(status, StatusCode::OK, "seed {seed}: {path}: {found}");
        check(found);
    }
    // And everything that was submitted comes to its end.
    let client = server.client();
    let (_, open) = client.get("/v1/batches?limit=500").await;
    for batch in open["data"].as_array().unwrap() {
        if batch["state"] != "draft" {
            let id = batch["id"].as_str().unwrap();
            let view = client.wait_for_state(id, &["completed", "cancelled"]).await;
            assert_eq!(view["counts"]["settled"], view["rows"], "{view}");
        }
    }
}

macro_rules! seeds {
    ($($name:ident: $seeds:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            kills($seeds).await;
        }
    )*};
}

seeds! {
    a_kill_straight_after_a_2xx_loses_nothing_seeds_0_to_49: 0..50;
    a_kill_straight_after_a_2xx_loses_nothing_seeds_50_to_99: 50..100;
    a_kill_straight_after_a_2xx_loses_nothing_seeds_100_to_149: 100..150;
    a_kill_straight_after_a_2xx_loses_nothing_seeds_150_to_199: 150..200;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing_and_may_be_sent_again() {
    use tokio::io::AsyncWriteExt as _;

    let desk = Desk::new();
    let server = Server::first(&desk);
    let client = server.client();
    let id = draft(&client).await;
    let before = client.get("/v1/limits").await.1["used"]["stored_bytes"].clone();
    let body = lines(20_000);
    let mut socket = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT /v1/batches/{id}/rows/0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\n\
         content-length: {}\r\n\r\n",
        server.key,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body.as_bytes()[..body.len() - 100]).await.unwrap();
    drop(socket);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let (_, limits) = client.get("/v1/limits").await;
        let (_, parts) = client.get(&format!("/v1/batches/{id}/rows")).await;
        assert_eq!(parts["data"], json!([]));
        if limits["used"]["stored_bytes"] == before {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{limits}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (status, part) = client.put_rows(&id, 0, body).await;
    assert_eq!((status, &part["rows"]), (StatusCode::OK, &json!(20_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_settled_before_a_kill_are_not_called_again_by_the_next_server() {
    let doubles = Doubles::start(Config { latency: "2..15".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(300);
    desk.point_at(&doubles);
    let server = Server::first(&desk);
    let (client, key) = (server.client(), server.key.clone());
    let batch = json!({"template": ticket_template(), "model": "openai:m", "rows": rows(300)});
    let (_, view) = client.post("/v1/batches", &batch).await;
    let id = view["id"].as_str().unwrap().to_owned();
    let settled = loop {
        let text = client.text(&format!("/v1/batches/{id}/results?order=settled")).await;
        if text.lines().count() >= 40 {
            break text;
        }
        // A caller is answered so many times a second only.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    server.kill();
    let known: Vec<u64> = settled
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap())
        .collect();
    let calls_of = |n: &u64| {
        let row = doubles.ledger().marker(&n.to_string());
        row.calls + row.repair_calls
    };
    let before: Vec<u64> = known.iter().map(calls_of).collect();
    let server = Server::again(&desk, &key);
    server.client().wait_for_state(&id, &["completed"]).await;
    assert_eq!(known.iter().map(calls_of).collect::<Vec<_>>(), before);
    let all = server.client().text(&format!("/v1/batches/{id}/results?order=settled")).await;
    assert!(all.starts_with(&settled), "what was read as settled stands in the same order after the kill");
    assert_eq!(all.lines().count(), 300);
}
