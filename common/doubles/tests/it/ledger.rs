//! The ledger as tests use it: in the process and over HTTP.

use std::time::Duration;

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Provider, RetryAfter, Snapshot};
use serde_json::json;

use crate::client::{
    ask, ask_json, chat, get, repair, send, send_chat, start, start_with, streamed, wait_until,
};

const P: Provider = Provider::OpenRouter;

#[test]
fn calls_replies_and_faults_are_counted_by_marker() {
    let plan = FaultPlan::none().script("a", [Fault::ServerError, Fault::EmptyContent]);
    let doubles = start(plan);
    for _ in 0..3 {
        chat(&doubles, P, &ask("a"));
    }
    chat(&doubles, P, &ask("b"));
    chat(&doubles, P, &json!({"model": "m", "messages": [{"role": "user", "content": "no marker"}]}));
    let a = doubles.ledger().marker("a");
    assert_eq!((a.calls, a.replies_sent, a.valid_replies, a.calls_after_valid), (3, 2, 1, 0));
    assert_eq!(
        a.faults.iter().map(|(name, n)| (name.as_str(), *n)).collect::<Vec<_>>(),
        [("empty_content", 1), ("server_error", 1)]
    );
    let history: Vec<_> = a.history.iter().map(|call| (call.seq, call.fault.as_deref(), call.sent)).collect();
    assert_eq!(history, [(0, Some("server_error"), true), (1, Some("empty_content"), true), (2, None, true)]);
    assert!(a.history.is_sorted_by_key(|call| call.begun_us));
    let totals = doubles.ledger().totals();
    assert_eq!((totals.calls, totals.unmarked_calls, totals.valid_replies, totals.in_flight), (5, 1, 3, 0));
    assert_eq!(doubles.ledger().snapshot().markers.len(), 2);
}

#[test]
fn the_ledger_over_http_is_the_ledger_in_the_process() {
    let doubles = start_with(Fault::BadGateway);
    chat(&doubles, P, &ask("a"));
    chat(&doubles, P, &repair(ask_json(P, "a")));
    let over_http: Snapshot = serde_json::from_value(get(&doubles, "/_ledger").json()).unwrap();
    assert_eq!(over_http, doubles.ledger().snapshot());
    assert_eq!(over_http.markers["a"].history.len(), 2);
    let brief: Snapshot = serde_json::from_value(get(&doubles, "/_ledger?history=false").json()).unwrap();
    assert!(brief.markers["a"].history.is_empty() && brief.markers["a"].repair_calls == 1);
    let sums: Snapshot = serde_json::from_value(get(&doubles, "/_ledger?markers=false").json()).unwrap();
    assert!(sums.markers.is_empty() && sums.totals == doubles.ledger().totals());
    assert_eq!(send(doubles.addr(), "POST", "/_reset", &[], b"").read().unwrap().status, 200);
    assert_eq!(doubles.ledger().snapshot(), Snapshot::default());
    // The script begins anew, too.
    assert_eq!(chat(&doubles, P, &ask("a")).status, 502);
}

#[test]
fn calls_that_run_at_once_are_counted_and_those_given_up_are_undelivered() {
    let config = Config {
        plan: FaultPlan::always(Fault::Hang),
        hang: Duration::from_secs(3_600),
        ..Config::default()
    };
    let doubles = Doubles::start(config).unwrap();
    let calls: Vec<_> = (0..3).map(|n| send_chat(&doubles, P, &ask(&n.to_string()))).collect();
    wait_until(|| doubles.ledger().totals().in_flight == 3);
    drop(calls);
    wait_until(|| doubles.ledger().totals().in_flight == 0);
    let totals = doubles.ledger().totals();
    assert_eq!((totals.max_concurrent, totals.undelivered, totals.replies_sent), (3, 3, 0));
}

#[test]
fn a_reply_that_was_read_is_always_in_the_ledger() {
    let doubles = start(FaultPlan::none());
    for n in 1..=200 {
        let body = if n % 2 == 0 { ask("a") } else { streamed(ask("a")) };
        chat(&doubles, Provider::Ollama, &body);
        assert_eq!(doubles.ledger().totals().valid_replies, n);
    }
}

#[test]
fn a_call_before_retry_after_has_passed_is_early_for_that_key_alone() {
    for retry_after in [RetryAfter::Seconds(3_600), RetryAfter::Date(3_600)] {
        let doubles = start_with(Fault::RateLimited(retry_after));
        assert_eq!(chat(&doubles, P, &ask("a")).status, 429);
        chat(&doubles, Provider::OpenAi, &ask("b"));
        assert_eq!(doubles.ledger().totals().early_calls, 0);
        chat(&doubles, P, &ask("c"));
        assert_eq!((doubles.ledger().totals().early_calls, doubles.ledger().marker("c").early_calls), (1, 1));
    }
    for retry_after in [RetryAfter::Absent, RetryAfter::Seconds(0)] {
        let doubles = start_with(Fault::RateLimited(retry_after));
        chat(&doubles, P, &ask("a"));
        chat(&doubles, P, &ask("a"));
        assert_eq!(doubles.ledger().totals().early_calls, 0);
    }
}

#[test]
fn a_refused_request_is_counted_with_a_reason_that_quotes_nothing() {
    let doubles = start(FaultPlan::none());
    let mut body = ask("a");
    body["temperature"] = json!(9);
    assert_eq!(chat(&doubles, P, &body).status, 400);
    let snapshot = doubles.ledger().snapshot();
    assert_eq!((snapshot.totals.refused, snapshot.markers["a"].calls), (1, 1));
    assert_eq!(snapshot.refusals, ["400 temperature must be between 0 and 2"]);
}

#[test]
fn one_connection_carries_many_calls() {
    use std::io::{Read, Write};
    let doubles = start(FaultPlan::none());
    let mut stream = std::net::TcpStream::connect(doubles.addr()).unwrap();
    let body = ask("a").to_string();
    let request = |connection: &str| {
        format!(
            "POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             connection: {connection}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // The last request ends the connection. Half-closing it would not do: a server may take that for a caller who left.
    let requests = request("keep-alive").repeat(2) + &request("close");
    stream.write_all(requests.as_bytes()).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert_eq!(replies.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(doubles.ledger().marker("a").valid_replies, 3);
    assert_eq!(doubles.ledger().totals().max_concurrent, 1);
}
