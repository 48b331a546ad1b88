//! Streamed calls of OpenRouter and an OpenAI-compatible server: what is told on the way, and that the reply is the same.

use std::sync::{Arc, Mutex};

use promptmill_domain::{FailureKind, Flag, Tokens};
use promptmill_provider::{
    CallFailure, ChatProvider, ChatReply, ChatRequest, Delta, DeltaSink, Finish, Timeouts,
};
use serde_json::{Value, json};

use crate::server::{Answer, Server, chunked, chunked_open, response};
use crate::support::{check_failure, ollama, openai, openrouter, patient, request};

const SSE: &str = "text/event-stream";
const JSON: &str = "content-type: application/json\r\n";

/// What a sink took: pieces of text, and `<begin>` if a provider ever sent one.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn request(&self) -> ChatRequest {
        let told = self.0.clone();
        let sink = DeltaSink::new(move |delta| {
            told.lock().unwrap().push(match delta {
                Delta::Begin => "<begin>".to_owned(),
                Delta::Text(text) => text.to_owned(),
            });
        });
        ChatRequest { deltas: Some(sink), ..request() }
    }

    fn pieces(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn text(content: &str) -> String {
    event(
        &json!({"id": "gen-7", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": null}]}),
    )
}

fn end(reason: &str) -> String {
    event(&json!({"id": "gen-7", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
}

fn usage() -> String {
    event(
        &json!({"id": "gen-7", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "cost": 0.00001}}),
    )
}

fn streamed(pieces: &[String]) -> Vec<u8> {
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    as_events(chunked(&pieces))
}

fn as_events(bytes: Vec<u8>) -> Vec<u8> {
    String::from_utf8(bytes).unwrap().replace("application/x-ndjson", SSE).into_bytes()
}

async fn stream(provider: &dyn ChatProvider) -> (Result<ChatReply, CallFailure>, Vec<String>) {
    let told = Told::default();
    let result = provider.chat(&told.request()).await;
    (result, told.pieces())
}

async fn stream_of(bytes: Vec<u8>) -> (Result<ChatReply, CallFailure>, Vec<String>) {
    let server = Server::start(vec![vec![Answer::Bytes(bytes)]]).await;
    stream(&openrouter(&server.url, patient())).await
}

#[tokio::test]
async fn a_stream_is_told_as_it_comes_and_gives_the_whole_reply() {
    let comment = ": OPENROUTER PROCESSING\n\n".to_owned();
    let done = "data: [DONE]\n\n".to_owned();
    let pieces = [comment, text("hu"), text(""), text("sh 😀"), end("length"), usage(), done];
    let answer = || Answer::Bytes(streamed(&pieces));
    // One connection for both: the tail of the first stream is read, so it can be used again.
    let server = Server::start(vec![vec![answer(), answer()]]).await;
    let provider = openrouter(&server.url, patient());
    for _ in 0..2 {
        let (reply, told) = stream(&provider).await;
        let reply = reply.unwrap();
        assert_eq!((reply.content.as_str(), reply.finish), ("hush 😀", Finish::Length));
        assert_eq!(reply.usage, Some(Tokens { prompt: 5, completion: 2 }));
        assert_eq!(reply.cost.map(|cost| cost.to_string()).as_deref(), Some("0.00001"));
        assert_eq!((reply.generation.as_deref(), reply.status), (Some("gen-7"), 200));
        assert!(reply.flags.is_empty());
        assert_eq!(told, ["hu", "sh 😀"]);
    }
}

#[tokio::test]
async fn a_call_is_streamed_only_where_somebody_watches_and_usage_is_asked_for_where_it_must_be() {
    let ok = r#"{"choices":[{"message":{"content":"x"}}]}"#;
    let answer = || Answer::Bytes(response(200, JSON, ok));
    let mut server = Server::start(vec![vec![answer(), answer()], vec![answer(), answer()]]).await;
    let providers: [(&dyn ChatProvider, Value); 2] = [
        (&openrouter(&server.url, patient()), Value::Null),
        (&openai(&server.url, patient()), json!({"include_usage": true})),
    ];
    for (provider, options) in providers {
        provider.chat(&request()).await.unwrap();
        let body: Value = serde_json::from_slice(&server.seen().await.body).unwrap();
        assert_eq!((&body["stream"], &body["stream_options"]), (&json!(false), &Value::Null));
        // A server that takes no notice of `stream` is understood as well.
        let (reply, told) = stream(provider).await;
        assert_eq!((reply.unwrap().content.as_str(), told), ("x", vec!["x".to_owned()]));
        let body: Value = serde_json::from_slice(&server.seen().await.body).unwrap();
        assert_eq!((&body["stream"], &body["stream_options"]), (&json!(true), &options));
    }
}

#[tokio::test]
async fn a_stream_is_whole_with_done_or_with_a_reason_and_an_end_in_order() {
    let without_done = streamed(&[text("hush"), end("stop")]);
    let without_reason = streamed(&[text("hush"), "data: [DONE]\n\n".to_owned()]);
    let without_last_line_ends = streamed(&[text("hush"), end("stop").trim_end().to_owned()]);
    for bytes in [without_done, without_reason, without_last_line_ends] {
        let (reply, told) = stream_of(bytes).await;
        let reply = reply.unwrap();
        assert_eq!((reply.content.as_str(), reply.finish), ("hush", Finish::Stop));
        assert_eq!((reply.flags, told.concat().as_str()), (vec![Flag::UsageUnknown], "hush"));
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_on_the_wire_is_malformed_or_lost() {
    let whole = streamed(&[text("hu"), text("sh"), end("stop"), usage(), "data: [DONE]\n\n".to_owned()]);
    let at = |sign: &str| {
        let found = whole.windows(sign.len()).position(|window| window == sign.as_bytes());
        found.unwrap()
    };
    let (head, done) = (at("\r\n\r\n") + 4, at("[DONE]"));
    let cuts: Vec<usize> = (0..done).step_by(11).collect();
    let scripts = cuts.iter().map(|cut| vec![Answer::Bytes(whole[..*cut].to_vec())]).collect();
    let server = Server::start(scripts).await;
    let provider = openrouter(&server.url, patient());
    for cut in cuts {
        let kind = if cut < head { FailureKind::ConnectionFailed } else { FailureKind::MalformedReply };
        let failure = check_failure(stream(&provider).await.0, kind);
        assert!(failure.transient && !failure.lane_wide, "cut at {cut}");
    }
    // In good order for HTTP, but without a word that the model was done.
    let failure = check_failure(stream_of(streamed(&[text("hu")])).await.0, FailureKind::MalformedReply);
    assert!(failure.message.contains("before the model was done"), "{failure}");
    let cut_event = end("stop").replace("}]}\n\n", "");
    let failure =
        check_failure(stream_of(streamed(&[text("hu"), cut_event])).await.0, FailureKind::MalformedReply);
    assert!(failure.message.contains("before the model was done"), "{failure}");
}

#[tokio::test]
async fn an_error_in_the_middle_is_the_last_thing_read_and_keeps_what_is_known() {
    let error = |error: Value| {
        event(
            &json!({"id": "gen-7", "error": error, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
        )
    };
    let limited = error(
        json!({"code": 429, "message": "slow down", "metadata": {"error_type": "rate_limit_exceeded"}}),
    );
    let worded = error(json!({"code": "server_error", "message": "gone"}));
    let in_choice = event(
        &json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "gone"}}]}),
    );
    let bare = event(&json!({"error": {"message": "gone", "type": "api_error", "code": null}}));
    let untold = end("error");
    let cases = [
        (limited, FailureKind::RateLimited),
        (worded, FailureKind::ProviderError),
        (in_choice, FailureKind::ProviderError),
        (bare, FailureKind::ProviderError),
        (untold, FailureKind::ProviderError),
    ];
    for (event, kind) in cases {
        // What follows an error does not make it good again.
        let pieces = [text("hu"), usage(), event, text("sh"), end("stop"), "data: [DONE]\n\n".to_owned()];
        let (result, told) = stream_of(streamed(&pieces)).await;
        let failure = check_failure(result, kind);
        assert_eq!((failure.status, failure.generation.as_deref()), (Some(200), Some("gen-7")), "{failure}");
        assert_eq!(failure.usage, Some(Tokens { prompt: 5, completion: 2 }));
        assert!(failure.cost.is_some() && failure.lane_wide == (kind == FailureKind::RateLimited));
        assert_eq!(told, ["hu"]);
    }
}

#[tokio::test]
async fn what_is_no_stream_is_named_without_being_shown() {
    let cases = [
        (streamed(&["data: {\"hush\n\n".to_owned()]), "an event of 6 bytes"),
        (response(200, "content-type: text/html\r\n", "<b>hush</b>"), "content type text/html"),
        (response(200, "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n", "x"), "compressed"),
        (streamed(&[]), "before the model was done"),
    ];
    for (bytes, sign) in cases {
        let failure = check_failure(stream_of(bytes).await.0, FailureKind::MalformedReply);
        assert!(failure.message.contains(sign), "{failure}");
    }
    let (result, told) = stream_of(response(429, "retry-after: 7\r\n", "{}")).await;
    assert_eq!(
        check_failure(result, FailureKind::RateLimited).retry_after.map(|wait| wait.as_secs()),
        Some(7)
    );
    assert!(told.is_empty());
    let (result, _) = stream_of(streamed(&[end("content_filter"), usage()])).await;
    let failure = check_failure(result, FailureKind::ContentRefused);
    assert_eq!(failure.usage, Some(Tokens { prompt: 5, completion: 2 }));
}

#[tokio::test]
async fn half_a_surrogate_pair_costs_one_character_and_other_choices_nothing() {
    let half = text("a").replace("\"a\"", "\"a\\ud83d\"");
    let second =
        event(&json!({"choices": [{"index": 1, "delta": {"content": "second"}, "finish_reason": "length"}]}));
    let (reply, told) = stream_of(streamed(&[half, second, end("stop"), usage()])).await;
    let reply = reply.unwrap();
    assert_eq!((reply.content.as_str(), reply.finish), ("a\u{fffd}", Finish::Stop));
    assert_eq!((reply.flags, told), (vec![Flag::SurrogatesReplaced], vec!["a\u{fffd}".to_owned()]));
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_a_timeout() {
    let short = Timeouts { idle: std::time::Duration::from_millis(30), ..patient() };
    let open = as_events(chunked_open(&[&text("hu")]));
    let server = Server::start(vec![vec![Answer::Hang(open)]]).await;
    let (result, told) = stream(&openrouter(&server.url, short)).await;
    check_failure(result, FailureKind::Timeout);
    assert_eq!(told, ["hu"]);
}

#[tokio::test]
async fn ollama_tells_its_lines_where_somebody_watches() {
    let lines = [
        "{\"message\":{\"content\":\"hu\"}}\n",
        "{\"message\":{\"content\":\"sh\"}}\n{\"message\":{\"content\":\"\"},\"done\":true,\"eval_count\":2}\n",
    ];
    let server = Server::start(vec![vec![Answer::Bytes(chunked(&lines))]]).await;
    let (reply, told) = stream(&ollama(&server.url, patient())).await;
    assert_eq!((reply.unwrap().content.as_str(), told), ("hush", vec!["hu".to_owned(), "sh".to_owned()]));
}
