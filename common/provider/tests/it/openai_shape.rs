//! OpenRouter and an OpenAI-compatible server.

use std::time::Duration;

use promptmill_domain::FailureKind;
use promptmill_provider::{ChatProvider, InvalidConfig, OpenRouter, OpenRouterConfig, Timeouts};

use crate::server::{Answer, Server, response};
use crate::support::{KEY, call, check_failure, client, openai, openrouter, patient};

const OK: &str = r#"{"id":"gen-1","choices":[{"finish_reason":"stop","message":{"role":"assistant","content":"hush-reply"}}],"usage":{"prompt_tokens":2,"completion_tokens":1,"cost":0.000001}}"#;
const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_call_carries_the_key_the_marker_and_the_attribution_and_reuses_its_connection() {
    let answer = || Answer::Bytes(response(200, JSON, OK));
    // One connection for both calls: a second one would find no script and fail.
    let mut server = Server::start(vec![vec![answer(), answer()]]).await;
    let provider = openrouter(&server.url, patient());
    for _ in 0..2 {
        let reply = call(&provider).await.unwrap();
        assert_eq!((reply.content.as_str(), reply.status), ("hush-reply", 200));
        let seen = server.seen().await;
        let head = seen.head.to_ascii_lowercase();
        assert!(head.starts_with("post /api/v1/chat/completions http/1.1"), "{head}");
        for line in [
            &format!("authorization: bearer {KEY}"),
            "x-client-request-id: item-7",
            "http-referer: https://example.com",
            "x-openrouter-title: promptmill",
            "user-agent: promptmill/",
            "content-type: application/json",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        assert!(!head.contains("accept-encoding") && !head.contains("cookie"), "{head}");
        assert!(
            serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["messages"][0]["content"]
                == "hush-prompt"
        );
    }
}

#[tokio::test]
async fn a_server_without_a_key_gets_no_authorization() {
    let mut server = Server::start(vec![vec![Answer::Bytes(response(200, JSON, OK))]]).await;
    call(&openai(&server.url, patient())).await.unwrap();
    let head = server.seen().await.head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/chat/completions") && !head.contains("authorization"), "{head}");
}

#[tokio::test]
async fn a_reply_in_many_pieces_is_joined() {
    let bytes = response(200, JSON, OK);
    let pieces = bytes.chunks(7).map(<[u8]>::to_vec).collect();
    let server = Server::start(vec![vec![Answer::Pieces(pieces)]]).await;
    assert_eq!(call(&openrouter(&server.url, patient())).await.unwrap().content, "hush-reply");
}

#[tokio::test]
async fn a_reply_cut_anywhere_on_the_wire_is_malformed_or_lost() {
    let whole = response(200, JSON, OK);
    let head = whole.len() - OK.len();
    let cuts: Vec<usize> = (0..whole.len()).step_by(9).chain([head, head + 1, whole.len() - 1]).collect();
    let scripts = cuts.iter().map(|cut| vec![Answer::Bytes(whole[..*cut].to_vec())]).collect();
    let server = Server::start(scripts).await;
    let provider = openrouter(&server.url, patient());
    for cut in cuts {
        let kind = if cut < head { FailureKind::ConnectionFailed } else { FailureKind::MalformedReply };
        let failure = check_failure(call(&provider).await, kind);
        assert!(failure.transient && !failure.lane_wide);
    }
}

#[tokio::test]
async fn what_is_no_reply_is_named_without_being_shown() {
    let html = "<html><body>hush</body></html>";
    let rows = [
        (
            response(200, "content-type: text/html; charset=x\r\n", html),
            FailureKind::MalformedReply,
            "text/html, 30 bytes",
        ),
        (response(200, "content-encoding: gzip\r\n", OK), FailureKind::MalformedReply, "compressed"),
        (response(204, "", ""), FailureKind::MalformedReply, "content type none, 0 bytes"),
        (response(302, "location: http://127.0.0.1:9/\r\n", "hush"), FailureKind::RequestRefused, ""),
        (response(502, "content-type: text/html\r\n", html), FailureKind::ProviderError, "text/html"),
        (response(503, "content-encoding: gzip\r\n", "hush"), FailureKind::ProviderOverloaded, "status 503"),
        (b"no http at all, hush\r\n\r\n".to_vec(), FailureKind::ConnectionFailed, "broke"),
    ];
    for (bytes, kind, sign) in rows {
        let hidden = kind != FailureKind::RequestRefused;
        let server = Server::start(vec![vec![Answer::Bytes(bytes)]]).await;
        let result = call(&openrouter(&server.url, patient())).await;
        if hidden {
            let failure = check_failure(result, kind);
            assert!(failure.message.contains(sign), "{failure}");
        } else {
            assert_eq!(result.unwrap_err().kind, kind);
        }
    }
}

#[tokio::test]
async fn a_body_over_eight_mebibytes_is_given_up() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n".to_vec();
    let unannounced = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let server =
        Server::start(vec![vec![Answer::Endless(announced)], vec![Answer::Endless(unannounced)]]).await;
    let provider = openai(&server.url, patient());
    for _ in 0..2 {
        check_failure(call(&provider).await, FailureKind::ReplyTooLarge);
    }
}

#[tokio::test]
async fn an_endless_error_body_still_tells_its_status() {
    let head = b"HTTP/1.1 429 X\r\nretry-after: 3\r\n\r\n".to_vec();
    let server = Server::start(vec![vec![Answer::Endless(head)]]).await;
    let failure = check_failure(call(&openai(&server.url, patient())).await, FailureKind::RateLimited);
    assert_eq!((failure.retry_after, failure.lane_wide), (Some(Duration::from_secs(3)), true));
}

#[tokio::test]
async fn silence_is_a_timeout_before_and_within_a_reply() {
    let short = Duration::from_millis(30);
    let half = response(200, JSON, OK)[..90].to_vec();
    let server = Server::start(vec![
        vec![Answer::Hang(Vec::new())],
        vec![Answer::Hang(half.clone())],
        vec![Answer::Hang(half)],
    ])
    .await;
    let deadlines = [
        Timeouts { first_byte: short, ..patient() },
        Timeouts { idle: short, ..patient() },
        Timeouts { total: Duration::from_millis(300), ..patient() },
    ];
    for (timeouts, status) in deadlines.into_iter().zip([None, Some(200), Some(200)]) {
        let failure = check_failure(call(&openrouter(&server.url, timeouts)).await, FailureKind::Timeout);
        assert_eq!(failure.status, status);
    }
}

#[tokio::test]
async fn nobody_listening_is_a_failed_connection() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = check_failure(call(&openai(&url, patient())).await, FailureKind::ConnectionFailed);
    assert_eq!((failure.status, failure.transient), (None, true));
}

#[tokio::test]
async fn both_forms_of_retry_after_arrive() {
    let date = "retry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\n";
    for (header, seconds) in
        [("retry-after: 12\r\n", Some(12)), (date, Some(3600)), ("retry-after: soon\r\n", None)]
    {
        let server =
            Server::start(vec![vec![Answer::Bytes(response(429, header, r#"{"error":{"message":"m"}}"#))]])
                .await;
        let failure =
            check_failure(call(&openrouter(&server.url, patient())).await, FailureKind::RateLimited);
        assert_eq!(failure.retry_after.map(|wait| wait.as_secs()), seconds);
    }
}

#[tokio::test]
async fn models_are_listed_and_a_refusal_is_told() {
    let list = r#"{"data":[{"id":"acme/m","context_length":8192,"pricing":{"prompt":"0.000001"}}]}"#;
    let answers = [
        response(200, JSON, list),
        response(401, JSON, r#"{"error":{"message":"no"}}"#),
        response(200, JSON, "[]"),
    ];
    let mut server = Server::start(answers.map(|bytes| vec![Answer::Bytes(bytes)]).to_vec()).await;
    let provider = openrouter(&server.url, patient());
    let listings = provider.models().await.unwrap();
    assert_eq!((listings[0].id.as_str(), listings[0].context_length), ("acme/m", Some(8192)));
    assert!(server.seen().await.head.starts_with("GET /api/v1/models "));
    assert_eq!(provider.models().await.unwrap_err().kind, FailureKind::CredentialRefused);
    assert_eq!(provider.models().await.unwrap_err().kind, FailureKind::MalformedReply);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_without_showing_the_key() {
    let with = |change: fn(&mut OpenRouterConfig)| {
        let mut config = OpenRouterConfig::default();
        change(&mut config);
        assert!(!format!("{config:?}").contains("canary"));
        OpenRouter::new(config, &client()).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(|c| c.api_key = Some("canary\r\nx: y".into())), InvalidConfig::ApiKey);
    assert_eq!(with(|c| c.api_key = Some("".into())), InvalidConfig::ApiKey);
    assert_eq!(with(|c| c.title = Some("a\nb".to_owned())), InvalidConfig::Header("x-openrouter-title"));
    assert_eq!(with(|c| c.base_url = "x".to_owned()), InvalidConfig::BaseUrl("x".to_owned()));
    let provider = OpenRouter::new(
        OpenRouterConfig { api_key: Some(KEY.into()), ..OpenRouterConfig::default() },
        &client(),
    );
    assert!(!format!("{:?}", provider.unwrap()).contains("canary"));
}
