//! The compatible server: usage on demand, its own error object, and a mid-stream failure nobody reports.

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Provider, RetryAfter};
use serde_json::{Value, json};

use crate::client::{End, ask, ask_json, chat, check_conforms, content, get, start, start_with, streamed};

const P: Provider = Provider::OpenAi;

#[test]
fn a_reply_has_the_three_basic_counters_and_no_cost() {
    let reply = chat(&start(FaultPlan::none()), P, &ask_json(P, "1"));
    check_conforms(&content(P, &reply));
    let usage = reply.json()["usage"].as_object().unwrap().clone();
    assert_eq!(usage.keys().collect::<Vec<_>>(), ["prompt_tokens", "completion_tokens", "total_tokens"]);
    assert_eq!(reply.header("x-generation-id"), None);
}

#[test]
fn a_stream_carries_usage_only_on_demand() {
    let doubles = start(FaultPlan::none());
    let without = chat(&doubles, P, &streamed(ask("1")));
    assert!(without.text().ends_with("data: [DONE]\n\n") && !without.text().contains("usage"));
    assert_eq!(doubles.ledger().totals().prompt_tokens, 0);
    let mut body = streamed(ask("1"));
    body["stream_options"] = json!({"include_usage": true});
    let with = chat(&doubles, P, &body);
    let events = with.events();
    let usage: Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"].as_u64(), Some(doubles.ledger().totals().prompt_tokens));
    // The role comes once.
    assert_eq!(with.text().matches(r#""role""#).count(), 1);
}

#[test]
fn every_refusal_has_the_documented_type() {
    for (fault, status, kind) in [
        (Fault::BadRequest, 400, "invalid_request_error"),
        (Fault::Unauthorized, 401, "api_error"),
        (Fault::UnknownModel, 404, "not_found_error"),
        (Fault::RateLimited(RetryAfter::Seconds(1)), 429, "api_error"),
        (Fault::ServerError, 500, "api_error"),
    ] {
        let reply = chat(&start_with(fault), P, &ask("1"));
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["type"]), (status, &json!(kind)), "{fault:?}");
        assert_eq!((&error["param"], &error["code"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn a_failure_in_mid_stream_is_an_end_without_finish_or_done() {
    let reply = chat(&start_with(Fault::ErrorMidStream), P, &streamed(ask("1")));
    assert_eq!((reply.status, reply.end), (200, End::Complete));
    assert!(!reply.text().contains("[DONE]") && !reply.text().contains(r#""finish_reason":"stop""#));
    let last: Value = serde_json::from_str(reply.events().last().unwrap()).unwrap();
    assert_eq!(last["choices"][0]["delta"]["content"], "");
}

#[test]
fn a_key_is_asked_for_only_where_keys_are_named() {
    assert_eq!(chat(&start(FaultPlan::none()), P, &ask("1")).status, 200);
    let config = Config { openai_keys: vec!["another".to_owned()], ..Config::default() };
    let doubles = Doubles::start(config).unwrap();
    assert_eq!(chat(&doubles, P, &ask("1")).status, 401);
    assert_eq!(get(&doubles, "/openai/v1/models").status, 401);
}

#[test]
fn models_are_listed() {
    let list = get(&start(FaultPlan::none()), "/openai/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["object"]), (&json!("list"), &json!("model")));
}
