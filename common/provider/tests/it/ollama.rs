//! Ollama's stream over the wire.

use std::time::Duration;

use promptmill_domain::{FailureKind, Tokens};
use promptmill_provider::{ChatProvider, Finish, Timeouts};

use crate::server::{Answer, Server, chunked, chunked_open, response};
use crate::support::{call, check_failure, ollama, patient};

const LINES: [&str; 3] = [
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"hush-\"},\"done\":false}\n",
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"reply\",\"thinking\":\"t\"},\"done\":false}\n",
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":5,\"eval_count\":2}\n",
];

#[tokio::test]
async fn a_stream_is_read_and_its_connection_used_again() {
    let answer = || Answer::Bytes(chunked(&LINES));
    let mut server = Server::start(vec![vec![answer(), answer()]]).await;
    let provider = ollama(&server.url, patient());
    for _ in 0..2 {
        let reply = call(&provider).await.unwrap();
        assert_eq!((reply.content.as_str(), reply.finish), ("hush-reply", Finish::Stop));
        assert_eq!(reply.usage, Some(Tokens { prompt: 5, completion: 2 }));
        assert!(server.seen().await.head.starts_with("POST /prefix/api/chat "));
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_on_the_wire_never_succeeds() {
    let whole = chunked_open(&LINES);
    // Before the line feed of the last line; what follows says nothing more.
    let end = whole.len() - 3;
    let cuts: Vec<usize> = (0..end).step_by(5).chain([end - 1]).collect();
    let scripts = cuts.iter().map(|cut| vec![Answer::Bytes(whole[..*cut].to_vec())]).collect();
    let server = Server::start(scripts).await;
    let provider = ollama(&server.url, patient());
    for cut in cuts {
        let failure = call(&provider).await.expect_err("a cut stream is no reply");
        let known = [FailureKind::ConnectionFailed, FailureKind::MalformedReply].contains(&failure.kind);
        assert!(known && failure.transient && !failure.message.contains("hush"), "{cut}: {failure}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_properly_without_done_is_malformed() {
    let server = Server::start(vec![vec![Answer::Bytes(chunked(&LINES[..2]))]]).await;
    let failure = check_failure(call(&ollama(&server.url, patient())).await, FailureKind::MalformedReply);
    assert!(failure.message.contains("before the model was done"), "{failure}");
}

#[tokio::test]
async fn a_reply_is_kept_when_the_connection_breaks_after_done() {
    let server = Server::start(vec![vec![Answer::Bytes(chunked_open(&LINES))]]).await;
    assert_eq!(call(&ollama(&server.url, patient())).await.unwrap().content, "hush-reply");
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_told() {
    let rows = [
        ("{\"error\":\"llama runner process has terminated\"}\n", FailureKind::ProviderError),
        ("{\"error\":\"exceeds the available context size\"}\n", FailureKind::ContextTooLong),
        ("not json\n", FailureKind::MalformedReply),
    ];
    for (line, kind) in rows {
        let server = Server::start(vec![vec![Answer::Bytes(chunked(&[LINES[0], line]))]]).await;
        let failure = check_failure(call(&ollama(&server.url, patient())).await, kind);
        assert_eq!(failure.status, Some(200));
    }
}

#[tokio::test]
async fn a_reply_cut_at_the_limit_is_given_with_its_finish_and_an_empty_one_fails() {
    let cut = r#"{"message":{"content":"{\"a\":"},"done":true,"done_reason":"length","eval_count":9}"#;
    let thought =
        r#"{"message":{"content":"","thinking":"long"},"done":true,"done_reason":"length","eval_count":9}"#;
    let empty = r#"{"message":{"content":""},"done":true,"done_reason":"stop"}"#;
    let scripts = [cut, thought, empty].map(|line| vec![Answer::Bytes(response(200, "", line))]);
    let server = Server::start(scripts.to_vec()).await;
    let provider = ollama(&server.url, patient());
    assert_eq!(call(&provider).await.unwrap().finish, Finish::Length);
    let failure = check_failure(call(&provider).await, FailureKind::TruncatedReply);
    assert_eq!(failure.usage, Some(Tokens { prompt: 0, completion: 9 }));
    check_failure(call(&provider).await, FailureKind::EmptyReply);
}

#[tokio::test]
async fn a_stream_that_stops_is_a_timeout() {
    let idle = Timeouts { idle: Duration::from_millis(30), ..patient() };
    let server = Server::start(vec![vec![Answer::Hang(chunked_open(&LINES[..1]))]]).await;
    check_failure(call(&ollama(&server.url, idle)).await, FailureKind::Timeout);
}

#[tokio::test]
async fn a_line_without_end_is_too_large() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let server = Server::start(vec![vec![Answer::Endless(head)]]).await;
    check_failure(call(&ollama(&server.url, patient())).await, FailureKind::ReplyTooLarge);
}

#[tokio::test]
async fn models_are_listed() {
    let list = r#"{"models":[{"name":"acme:8b","model":"acme:8b","size":1,"details":{"family":"x","context_length":8192}},{"name":"b"}]}"#;
    let mut server = Server::start(vec![vec![Answer::Bytes(response(200, "", list))]]).await;
    let listings = ollama(&server.url, patient()).models().await.unwrap();
    assert!(server.seen().await.head.starts_with("GET /prefix/api/tags "));
    assert_eq!((listings[0].id.as_str(), listings[0].context_length), ("acme:8b", Some(8192)));
    assert_eq!((listings[1].id.as_str(), listings[1].context_length), ("b", None));
}
