//! Rows in parts from outside: all or none, replaced, packed, bounded, and unique together.

use std::io::Write as _;

use promptmill_api::ApiConfig;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::desk::{body, draft, idle, idle_with, lines, made, put_as, put_part};
use crate::support::{Options, Service, send, wait_for};

const NDJSON: &str = "application/x-ndjson";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn stored_bytes(service: &Service) -> u64 {
    service.get("/v1/limits").await.expect(200)["used"]["stored_bytes"].as_u64().unwrap()
}

async fn parts_of(service: &Service, id: &str) -> Value {
    service.get(&format!("/v1/batches/{id}/rows")).await.expect(200)["data"].clone()
}

fn with(change: impl FnOnce(&mut ApiConfig)) -> Options {
    let mut options = Options::default();
    change(&mut options.config);
    options
}

#[tokio::test]
async fn a_part_with_a_bad_row_is_refused_as_a_whole_with_every_line() {
    let service = idle().await;
    let id = draft(&service).await;
    let before = stored_bytes(&service).await;
    let rows = "{\"topic\":\"good\"}\n\n{\"topic\":1}\n{\"topic\":\"x\",\"custom_id\":\"a\"}\r\nnot json\n{\"topic\":\"y\",\"custom_id\":\"a\"}\n{\"variables\":{\"tpic\":\"x\"}}\n";
    let answer = put_part(&service, &id, 3, rows).await;
    let problem = answer.problem(422, "invalid_rows");
    let errors = problem["errors"].as_array().unwrap();
    let of_line = |line: u64| errors.iter().find(|error| error["line"] == line).unwrap_or(&Value::Null);
    assert_eq!((&of_line(3)["pointer"], &of_line(3)["part"]), (&json!("/topic"), &json!(3)));
    assert!(of_line(5)["detail"].as_str().unwrap().contains("JSON"), "{problem}");
    assert_eq!(of_line(6)["pointer"], "/custom_id");
    assert!(of_line(7)["pointer"].as_str().unwrap().starts_with("/variables/"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().starts_with("4 of 6 rows"), "{problem}");
    assert_eq!(parts_of(&service, &id).await, json!([]));
    assert_eq!(stored_bytes(&service).await, before);

    let many = put_part(&service, &id, 0, "{\"topic\":1}\n".repeat(1_000)).await;
    assert_eq!(many.problem(422, "invalid_rows")["errors"].as_array().unwrap().len(), 100);
    for (nothing, kind) in [("", NDJSON), ("\n\n", NDJSON), ("topic\n", "text/csv"), ("", "text/csv")] {
        let answer = put_as(&service, &id, 0, kind, &[], nothing.into()).await;
        answer.problem(422, "invalid_rows");
    }
    let header = put_as(&service, &id, 0, "text/csv", &[], "tpic\nx\n".into()).await;
    assert!(header.problem(422, "invalid_rows")["errors"][0]["line"] == 1, "{}", header.text);
}

#[tokio::test]
async fn a_part_that_does_not_render_is_refused_now_and_not_at_its_call() {
    let service = idle().await;
    let template = json!({
        "name": "half", "messages": [{"role": "user", "content": "{{ 10 / n }}"}], "variables": {"n": {"type": "integer"}}
    });
    let id = made(&service.post("/v1/batches", &json!({"template": template, "model": "stage:quick"})).await);
    put_part(&service, &id, 0, "{\"n\":5}\n").await.expect(200);
    let answer = put_part(&service, &id, 1, "{\"n\":5}\n{\"n\":0}\n").await;
    assert_eq!(answer.problem(422, "invalid_rows")["errors"][0]["line"], 2);
}

#[tokio::test]
async fn the_same_rows_are_the_same_part_in_every_form_and_packing() {
    let service = idle().await;
    let id = draft(&service).await;
    let rows = lines(1_000);
    let first = put_part(&service, &id, 0, rows.clone()).await;
    assert_eq!(
        first.expect(200),
        &json!({"part": 0, "rows": 1_000, "digest": first.json["digest"], "unchanged": false})
    );
    let csv: String =
        std::iter::once("topic\n".to_owned()).chain((0..1_000).map(|n| format!("topic {n}\n"))).collect();
    let zstd = zstd::encode_all(rows.as_bytes(), 3).unwrap();
    let (half, rest) = rows.as_bytes().split_at(rows.len() / 2);
    let members = [gzip(half), gzip(rest)].concat();
    let same: [(&str, &str, Vec<u8>); 5] = [
        ("application/jsonl; charset=utf-8", "identity", rows.clone().into()),
        ("text/csv", "identity", csv.into()),
        (NDJSON, "gzip", gzip(rows.as_bytes())),
        (NDJSON, "gzip", members),
        (NDJSON, "zstd", zstd),
    ];
    for (kind, encoding, rows) in same {
        let again = put_as(&service, &id, 0, kind, &[("content-encoding", encoding)], rows).await;
        assert_eq!(again.expect(200)["digest"], first.json["digest"], "{kind} {encoding}");
        assert_eq!(again.json["unchanged"], true, "{kind} {encoding}");
    }
    let other = put_part(&service, &id, 0, lines(999)).await;
    assert_eq!((&other.expect(200)["rows"], &other.json["unchanged"]), (&json!(999), &json!(false)));
    assert_eq!(
        parts_of(&service, &id).await,
        json!([{"part": 0, "rows": 999, "digest": other.json["digest"]}])
    );
}

#[tokio::test]
async fn bombs_and_broken_packings_are_refused_and_leave_nothing() {
    let service = idle().await;
    let id = draft(&service).await;
    let before = stored_bytes(&service).await;
    let zeros = vec![b' '; 60_000_000];
    let same_rows = "{\"topic\":\"a\"}\n".repeat(2_000_000);
    for (encoding, bomb) in [
        ("gzip", gzip(&zeros)),
        ("zstd", zstd::encode_all(&zeros[..], 19).unwrap()),
        ("zstd", zstd::encode_all(same_rows.as_bytes(), 3).unwrap()),
    ] {
        let answer = put_as(&service, &id, 0, NDJSON, &[("content-encoding", encoding)], bomb).await;
        answer.problem(413, "payload_too_large");
        service.is_alive().await;
    }
    let packed = gzip(lines(5_000).as_bytes());
    for broken in [packed[..packed.len() / 2].to_vec(), b"plain text".to_vec(), Vec::new()] {
        let answer = put_as(&service, &id, 0, NDJSON, &[("content-encoding", "gzip")], broken).await;
        answer.problem(400, "bad_request");
    }
    let unpacked = put_as(&service, &id, 0, NDJSON, &[], packed).await;
    unpacked.problem(422, "invalid_rows");
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let answer = put_as(&service, &id, 0, NDJSON, &[("content-encoding", encoding)], vec![]).await;
        answer.problem(415, "unsupported_media_type");
    }
    for kind in ["application/json", "text/plain", ""] {
        put_as(&service, &id, 0, kind, &[], lines(1).into()).await.problem(415, "unsupported_media_type");
    }
    assert_eq!(parts_of(&service, &id).await, json!([]));
    assert_eq!(stored_bytes(&service).await, before);
}

#[tokio::test]
async fn rows_are_taken_by_a_draft_alone_and_parts_have_their_numbers() {
    let service = idle().await;
    let id = draft(&service).await;
    put_part(&service, &id, 9_999, lines(1)).await.expect(200);
    for part in ["10000", "-1", "x", "4294967296"] {
        let path = format!("/v1/batches/{id}/rows/{part}");
        let request = service.request(Method::PUT, &path).header("content-type", NDJSON).body(lines(1));
        send(request).await.problem(404, "not_found");
    }
    let submit = format!("/v1/batches/{id}/submit");
    let submits = (0..8).map(|_| service.post(&submit, &Value::Null));
    for answer in futures_util::future::join_all(submits).await {
        assert_eq!(answer.expect(200)["state"], "queued");
    }
    put_part(&service, &id, 0, lines(1)).await.problem(409, "conflict");
    // Large enough that the answer comes while the client still sends.
    put_part(&service, &id, 0, lines(1_000_000)).await.problem(409, "conflict");
    let empty = draft(&service).await;
    service.post(&format!("/v1/batches/{empty}/submit"), &Value::Null).await.problem(409, "conflict");
}

#[tokio::test]
async fn an_upload_that_is_cut_leaves_nothing_behind() {
    let service = idle().await;
    let id = draft(&service).await;
    put_part(&service, &id, 0, lines(7)).await.expect(200);
    let before = service.get("/v1/limits").await.json["used"]["stored_bytes"].as_u64().unwrap();
    let used = async || service.get("/v1/limits").await.json["used"]["stored_bytes"].as_u64().unwrap();
    // Complete lines and blocks, in a body that claims to be longer, and in one that has no last chunk.
    let rows = lines(20_000);
    let framings = [
        (format!("content-length: {}", rows.len() * 2), rows.clone()),
        ("transfer-encoding: chunked".to_owned(), format!("{:x}\r\n{rows}\r\n", rows.len())),
    ];
    for (framing, sent) in framings {
        let mut socket = TcpStream::connect(service.address).await.unwrap();
        let head = format!(
            "PUT /v1/batches/{id}/rows/0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: {NDJSON}\r\n{framing}\r\n\r\n",
            service.key
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        wait_for("blocks of the upload are stored", async || (used().await > before).then_some(())).await;
        drop(socket);
        wait_for("the upload is dropped", async || (used().await == before).then_some(())).await;
    }
    assert_eq!(parts_of(&service, &id).await[0]["rows"], 7);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_answered_and_its_upload_dropped() {
    let service = idle_with(with(|config| config.upload_idle = std::time::Duration::from_millis(50))).await;
    let id = draft(&service).await;
    let mut socket = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "PUT /v1/batches/{id}/rows/0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: {NDJSON}\r\ncontent-length: 1000\r\n\r\n{{\"topic\":",
        service.key
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_eq!(parts_of(&service, &id).await, json!([]));
}

#[tokio::test]
async fn an_id_that_stands_in_two_parts_is_named_with_both_places() {
    let service = idle().await;
    let id = draft(&service).await;
    let named = |from: usize, to: usize| -> String {
        (from..to).map(|n| format!("{{\"custom_id\":\"id{n}\",\"topic\":\"x\"}}\n")).collect()
    };
    put_part(&service, &id, 2, named(0, 600)).await.expect(200);
    put_part(&service, &id, 5, format!("{}{}", lines(300), named(599, 800))).await.expect(200);
    let submit = format!("/v1/batches/{id}/submit");
    let answer = service.post(&submit, &Value::Null).await;
    let problem = answer.problem(422, "invalid_rows");
    let expected = json!([{
        "pointer": "/custom_id", "part": 5, "code": "duplicate_custom_id",
        "detail": "row 600 of part 2 and row 301 of part 5 have the same custom_id"
    }]);
    assert_eq!(problem["errors"], expected);
    assert_eq!(service.get(&format!("/v1/batches/{id}")).await.json["state"], "draft");
    put_part(&service, &id, 5, named(600, 800)).await.expect(200);
    assert_eq!(service.post(&submit, &Value::Null).await.expect(200)["rows"], 800);
}

#[tokio::test]
async fn sizes_and_quotas_hold() {
    let small = with(|config| {
        config.part_bytes = 10_000;
        config.batch_rows = 100;
        config.rows_per_day = 150;
    });
    let service = idle_with(small).await;
    let id = draft(&service).await;
    let long = lines(1_000);
    put_part(&service, &id, 0, long.clone()).await.problem(413, "payload_too_large");
    let stream = futures_util::stream::iter(
        long.into_bytes().chunks(999).map(<[u8]>::to_vec).map(Ok::<_, std::io::Error>).collect::<Vec<_>>(),
    );
    let request = service.request(Method::PUT, &format!("/v1/batches/{id}/rows/0"));
    let request = request.header("content-type", NDJSON).body(reqwest::Body::wrap_stream(stream));
    send(request).await.problem(413, "payload_too_large");
    put_part(&service, &id, 0, lines(101)).await.problem(413, "payload_too_large");
    put_part(&service, &id, 0, lines(60)).await.expect(200);
    put_part(&service, &id, 1, lines(41)).await.problem(413, "payload_too_large");
    put_part(&service, &id, 1, lines(40)).await.expect(200);
    put_part(&service, &id, 0, lines(60)).await.expect(200);
    service.post(&format!("/v1/batches/{id}/submit"), &Value::Null).await.expect(200);
    let second = draft(&service).await;
    put_part(&service, &second, 0, lines(51)).await.expect(200);
    let refused = service.post(&format!("/v1/batches/{second}/submit"), &Value::Null).await;
    refused.problem(429, "too_many_requests");
    assert!((1..=86_400).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    put_part(&service, &second, 0, lines(50)).await.expect(200);
    service.post(&format!("/v1/batches/{second}/submit"), &Value::Null).await.expect(200);
    let inline = service.post("/v1/batches", &body(json!({"rows": crate::desk::rows(1)}))).await;
    inline.problem(429, "too_many_requests");

    let little = idle_with(with(|config| config.stored_bytes = 4_000)).await;
    let id = draft(&little).await;
    let noise: String = (0..2_000u64)
        .map(|n| format!("{{\"topic\":\"{:x}\"}}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    put_part(&little, &id, 0, noise).await.problem(429, "too_many_requests");
    assert_eq!(parts_of(&little, &id).await, json!([]));
    put_part(&little, &id, 0, lines(10)).await.expect(200);
}

#[tokio::test]
async fn a_row_may_be_large_and_not_larger() {
    let service = idle().await;
    let template = json!({"name": "long", "messages": [{"role": "user", "content": "{{ text }}"}]});
    let id = made(&service.post("/v1/batches", &json!({"template": template, "model": "stage:quick"})).await);
    let row = |bytes: usize| format!("{{\"text\":\"{}\"}}\n", "x".repeat(bytes));
    put_part(&service, &id, 0, row(1_000_000).repeat(9)).await.expect(200);
    let answer = put_part(&service, &id, 1, format!("{}{}", row(5), row(1 << 20))).await;
    assert_eq!(answer.problem(422, "invalid_rows")["errors"][0]["line"], 2);
}

#[tokio::test]
async fn an_id_that_stands_twice_far_down_in_the_only_part_is_found_at_the_submit() {
    let service = idle_with(Options::default()).await;
    let id = made(
        &service
            .post(
                "/v1/batches",
                &json!({"model": "stage:quick", "template": {
                    "name": "plain", "messages": [{"role": "user", "content": "x"}]
                }}),
            )
            .await,
    );
    // More ids than are compared while the part comes in.
    let row = |n: u32| format!("{{\"custom_id\":\"{n}\",\"variables\":{{}}}}\n");
    let rows: String = (0..200_002).chain([200_001]).map(row).collect();
    put_part(&service, &id, 0, rows).await.expect(200);
    let refused = service.post(&format!("/v1/batches/{id}/submit"), &Value::Null).await;
    let words = &refused.problem(422, "invalid_rows")["errors"][0];
    assert_eq!(words["detail"], "row 200002 of part 0 and row 200003 of part 0 have the same custom_id");
    assert_eq!(service.get(&format!("/v1/batches/{id}")).await.json["state"], "draft");
}

#[tokio::test]
async fn submits_at_once_share_the_rows_of_the_day() {
    let service = idle_with(with(|config| config.rows_per_day = 150)).await;
    let mut drafts = Vec::new();
    for _ in 0..8 {
        let id = draft(&service).await;
        put_part(&service, &id, 0, lines(30)).await.expect(200);
        drafts.push(format!("/v1/batches/{id}/submit"));
    }
    let answers = drafts.iter().map(|submit| service.post(submit, &Value::Null));
    let answers = futures_util::future::join_all(answers).await;
    let taken = answers.iter().filter(|answer| answer.status.as_u16() == 200).count();
    assert_eq!(taken, 5);
    assert_eq!(service.get("/v1/limits").await.expect(200)["used"]["rows_today"], 150);
}

#[tokio::test]
async fn everything_that_is_kept_counts_in_the_quota_of_bytes() {
    let service = idle_with(with(|config| config.stored_bytes = 20_000)).await;
    let template =
        |name: &str| json!({"name": name, "messages": [{"role": "user", "content": "x".repeat(9_000)}]});
    for (n, stored) in [9_000, 18_000, 27_000].into_iter().enumerate() {
        service.post("/v1/templates", &template(&format!("t{n}"))).await.expect(201);
        assert!((stored..stored + 1_000).contains(&stored_bytes(&service).await));
    }
    service.post("/v1/templates", &template("more")).await.problem(429, "too_many_requests");
    service.post("/v1/templates/t0/versions", &template("t0")).await.problem(429, "too_many_requests");
    let generation = json!({"model": "stage:quick", "messages": [{"role": "user", "content": "x"}]});
    service.post("/v1/generations", &generation).await.problem(429, "too_many_requests");
    service.post("/v1/batches", &body(json!({}))).await.problem(429, "too_many_requests");
    let render = json!({"template": "t0", "variables": {}});
    service.post("/v1/render", &render).await.expect(200);
    let kept = service.request(Method::POST, "/v1/render").header("idempotency-key", "k").json(&render);
    send(kept).await.problem(429, "too_many_requests");
    send(service.request(Method::DELETE, "/v1/templates/t0").header("if-match", "*")).await.expect(204);
    send(service.request(Method::DELETE, "/v1/templates/t1").header("if-match", "*")).await.expect(204);
    service.post("/v1/batches", &body(json!({}))).await.expect(201);
}
