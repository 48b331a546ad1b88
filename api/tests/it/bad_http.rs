//! Requests no client of ours would send. After each the service still lives.

use std::time::Duration;

use promptmill_api::ApiConfig;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Options, PATIENCE, Service, send};

/// A service that waits briefly for slow clients.
async fn impatient() -> Service {
    let config = ApiConfig {
        header_time: Duration::from_millis(300),
        body_time: Duration::from_millis(300),
        ..Options::default().config
    };
    Service::start_with(Options { config, ..Options::default() }).await
}

/// Writes bytes and reads until the service closes the connection.
async fn raw(service: &Service, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    // The service may have refused and closed before all was written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the service closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn post_text(service: &Service, text: impl Into<reqwest::Body>) -> Answer {
    let request = service.request(Method::POST, "/v1/render").header("content-type", "application/json");
    send(request.body(text)).await
}

#[tokio::test]
async fn json_that_hides_something_is_refused() {
    let service = Service::start().await;
    let deep = |n: usize| format!(r#"{{"template":"t","variables":{}1{}}}"#, "[".repeat(n), "]".repeat(n));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (br#"{"template":"a","template":"b","variables":{}}"#.into(), "twice"),
        (br#"{"template":"a","variables":{"x":{"y":1,"y":2}}}"#.into(), "twice"),
        (br#"{"template":"a","variables":{"x":1,"\u0078":2}}"#.into(), "twice"),
        (deep(64).into(), "64 levels"),
        (deep(100_000).into(), "64 levels"),
        (br#"{"template":"a","variables":{"x":NaN}}"#.into(), "line 1 column"),
        (br#"{"template":"a","variables":{"x":1e400}}"#.into(), "line 1 column"),
        (br#"{"template":"a","variables":{"x":"\ud800"}}"#.into(), "line 1 column"),
        (b"{\"template\":\"a\",\n\"variables\":{\"x\":\"\xff\"}}".into(), "UTF-8"),
        (b"\xef\xbb\xbf{}".into(), "line 1 column"),
        (b"{} {}".into(), "line 1 column"),
        (b"".into(), "line 1 column"),
        (b"{\"template\":\n  oops}".into(), "line 2 column 3"),
    ];
    for (body, words) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = post_text(&service, body).await;
        let problem = answer.problem(400, "invalid_json");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{shown}: {problem}");
        service.is_alive().await;
    }
    post_text(&service, deep(63)).await.problem(422, "invalid");
}

#[tokio::test]
async fn values_that_do_not_fit_are_named_and_not_repeated() {
    let service = Service::start().await;
    for (body, pointer) in [
        (r#"{"template":"t","variables":{},"SECRET SECRET":1}"#, "/SECRET SECRET"),
        (r#"{"template":7,"variables":{}}"#, "/template"),
        (r#"{"variables":{}}"#, ""),
        (r#"[]"#, ""),
        (r#""SECRET""#, ""),
    ] {
        let answer = post_text(&service, body).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), [pointer], "{body}");
        let detail = answer.json["errors"][0]["detail"].as_str().unwrap();
        assert!(!detail.contains("SECRET"), "{detail}");
    }
}

#[tokio::test]
async fn types_and_encodings_of_a_body_are_checked() {
    let service = Service::start().await;
    let with = |kind: Option<&'static str>, encoding: Option<&'static str>| {
        let mut request = service.request(Method::POST, "/v1/render").body("{}");
        for (name, value) in [("content-type", kind), ("content-encoding", encoding)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        send(request)
    };
    let json = Some("application/json");
    for (kind, encoding) in [
        (None, None),
        (Some("text/plain"), None),
        (Some("application/x-www-form-urlencoded"), None),
        (json, Some("gzip")),
        (json, Some("zstd")),
        (json, Some("gzip, gzip")),
        (json, Some("br")),
    ] {
        with(kind, encoding).await.problem(415, "unsupported_media_type");
        service.is_alive().await;
    }
    with(Some("Application/JSON; charset=UTF-8"), Some("identity")).await.problem(422, "invalid");
}

#[tokio::test]
async fn bodies_are_bounded_whether_or_not_their_length_is_said() {
    let service = Service::start().await;
    let large = " ".repeat((1 << 20) + 1);
    post_text(&service, large.clone()).await.problem(413, "payload_too_large");
    // The length alone is enough: nothing of the body is read.
    let head = format!(
        "POST /v1/render HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n",
        service.key
    );
    assert!(raw(&service, head.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    let head = head.replace("content-length: 99999999999", "transfer-encoding: chunked");
    let chunked = format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert!(raw(&service, chunked.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    service.is_alive().await;
}

#[tokio::test]
async fn whoever_is_refused_with_a_large_body_is_told_that_the_connection_ends() {
    let service = Service::start().await;
    for (length, closes) in
        [("content-length: 100000", true), ("transfer-encoding: chunked", true), ("content-length: 5", false)]
    {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        let head = format!("POST /v1/render HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
            let reading = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer));
            assert!(reading.await.expect("there is an answer").unwrap() > 0, "the connection ended before");
        }
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(answer.starts_with("http/1.1 401 "), "{answer}");
        assert_eq!(answer.contains("\r\nconnection: close\r\n"), closes, "{length}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_its_headers_slowly_is_cut_off() {
    let service = impatient().await;
    for begun in ["", "GET /livez", "GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let answer = raw(&service, begun.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        service.is_alive().await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_timeout() {
    let service = impatient().await;
    let head = format!(
        "POST /v1/render HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{\"tem",
        service.key
    );
    let answer = raw(&service, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"request_timeout\""), "{answer}");
    service.is_alive().await;
}

#[tokio::test]
async fn a_body_that_ends_early_changes_nothing() {
    let service = Service::start().await;
    let body = json!({"name": "half", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let head = format!(
        "POST /v1/templates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        service.key,
        body.len() + 1
    );
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 2"));
    assert_eq!(service.get("/v1/templates").await.expect(200)["data"], json!([]));
    service.is_alive().await;
}

#[tokio::test]
async fn headers_are_bounded() {
    let service = Service::start().await;
    let request = service.request(Method::GET, "/v1/me").header("x-large", "x".repeat(40 << 10));
    send(request).await.problem(431, "headers_too_large");
    let many = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let answer = raw(&service, format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let huge = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-huge: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = raw(&service, huge.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    service.is_alive().await;
}

#[tokio::test]
async fn paths_and_queries_that_play_tricks_name_nothing() {
    let service = Service::start().await;
    for path in [
        "/v1/templates/%2e%2e%2fkeys",
        "/v1/templates/%00",
        "/v1/templates/%ff",
        "/v1//templates",
        "/v1/templates/x/../../../etc/passwd",
        "/v1/keys/key_%D9%A1",
        "//livez",
    ] {
        let method = if path.starts_with("/v1/keys/") { Method::DELETE } else { Method::GET };
        send(service.request(method, path)).await.problem(404, "not_found");
    }
    let long = format!("/v1/templates/{}", "a".repeat(8 << 10));
    service.get(&long).await.problem(404, "not_found");
    let query = (0..2_000).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join("&");
    service.get(&format!("/v1/templates?{query}")).await.problem(400, "bad_request");
    for query in ["limit=%D9%A1", "limit=1e9", "id[]=1", "limit[]=1", "limit=99999999999999999999"] {
        service.get(&format!("/v1/templates?{query}")).await.problem(400, "bad_request");
    }
    service.is_alive().await;
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused() {
    let service = Service::start().await;
    for head in [
        "POST /v1/render HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello",
        "POST /v1/render HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\nconnection: close\r\n\r\nhello",
        "GET /livez HTTP/1.1\r\nhost: x\r\nbad header: x\r\n\r\n",
        "GET /livez HTTP/9.9\r\nhost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ] {
        let answer = raw(&service, head.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        service.is_alive().await;
    }
}
