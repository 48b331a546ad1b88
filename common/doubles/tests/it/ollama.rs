//! Section by section of Ollama's pages: replies, lines, traps, listings, refusals.

use promptmill_doubles::{Fault, FaultPlan, Provider, RetryAfter};
use serde_json::json;

use crate::client::{
    End, ask, ask_json, chat, check_conforms, content, get, repair, send, start, start_with, streamed,
};

const P: Provider = Provider::Ollama;

#[test]
fn a_whole_reply_has_counters_and_obeys_the_schema() {
    let doubles = start(FaultPlan::none());
    let reply = chat(&doubles, P, &ask_json(P, "1"));
    let body = reply.json();
    assert_eq!((reply.status, &body["done"], &body["done_reason"]), (200, &json!(true), &json!("stop")));
    check_conforms(&body["message"]["content"]);
    for counter in [
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ] {
        assert!(body[counter].as_u64().unwrap() > 0, "{counter}");
    }
    assert_eq!(doubles.ledger().totals().completion_tokens, body["eval_count"].as_u64().unwrap());
}

#[test]
fn a_reply_is_a_stream_of_lines_unless_it_is_refused() {
    let doubles = start(FaultPlan::none());
    let mut body = ask_json(P, "1");
    body.as_object_mut().unwrap().remove("stream");
    let reply = chat(&doubles, P, &body);
    assert_eq!((reply.header("content-type"), reply.end), (Some("application/x-ndjson"), End::Complete));
    let lines = reply.lines();
    let (last, rest) = lines.split_last().unwrap();
    assert!(
        rest.len() > 1 && rest.iter().all(|line| line["done"] == false && line.get("eval_count").is_none())
    );
    assert_eq!((&last["done"], &last["message"]["content"]), (&json!(true), &json!("")));
    assert!(last["eval_count"].as_u64().unwrap() > 0);
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    check_conforms(&json!(text));
    assert_eq!(doubles.ledger().marker("1").valid_replies, 1);
}

#[test]
fn every_refusal_is_a_plain_text_under_error() {
    let cases = [
        (Fault::BadRequest, 400),
        (Fault::Unauthorized, 401),
        (Fault::UnknownModel, 404),
        (Fault::UnknownModelId, 404),
        (Fault::RateLimited(RetryAfter::Absent), 429),
        (Fault::ServerError, 500),
        (Fault::BadGateway, 502),
        (Fault::Overloaded(RetryAfter::Absent), 503),
    ];
    for (fault, status) in cases {
        let reply = chat(&start_with(fault), P, &streamed(ask("1")));
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (status, Some("application/json")),
            "{fault:?}"
        );
        assert!(reply.json()["error"].is_string(), "{fault:?}");
    }
    let busy = chat(&start_with(Fault::Overloaded(RetryAfter::Absent)), P, &ask("1"));
    assert_eq!(busy.json()["error"], "server busy, please try again.  maximum pending requests exceeded");
    assert_eq!(busy.header("retry-after"), None);
}

#[test]
fn a_cut_stream_ends_in_good_order_without_done() {
    let doubles = start_with(Fault::Cut);
    let reply = chat(&doubles, P, &streamed(ask("1")));
    assert_eq!((reply.status, reply.end), (200, End::Complete));
    assert!(!reply.lines().is_empty() && reply.lines().iter().all(|line| line["done"] == false));
    assert_eq!(doubles.ledger().marker("1").valid_replies, 0);
    assert_eq!(chat(&start_with(Fault::Cut), P, &ask("1")).json()["done"], false);
}

#[test]
fn an_error_in_mid_stream_is_the_last_line_of_a_200() {
    for fault in [Fault::ErrorMidStream, Fault::ErrorReply, Fault::ErrorChoice, Fault::ErrorFinish] {
        let doubles = start_with(fault);
        let reply = chat(&doubles, P, &streamed(ask("1")));
        let lines = reply.lines();
        assert_eq!((reply.status, lines[0]["done"].as_bool()), (200, Some(false)));
        assert!(lines.last().unwrap()["error"].is_string());
        assert_eq!(doubles.ledger().marker("1").faults["error_mid_stream"], 1);
    }
}

#[test]
fn a_truncated_reply_says_length_and_an_empty_one_nothing() {
    let truncated = chat(&start_with(Fault::Truncated), P, &ask_json(P, "1")).json();
    assert_eq!((&truncated["done"], &truncated["done_reason"]), (&json!(true), &json!("length")));
    let empty = chat(&start_with(Fault::EmptyContent), P, &ask("1")).json();
    assert_eq!((&empty["message"]["content"], empty.get("eval_count")), (&json!(""), None));
}

#[test]
fn an_invalid_reply_becomes_valid_in_a_repair_conversation() {
    let doubles = start(FaultPlan::always(Fault::InvalidReply));
    let first = content(P, &chat(&doubles, P, &ask_json(P, "1")));
    assert!(!first.as_str().unwrap().contains("city"));
    check_conforms(&content(P, &chat(&doubles, P, &repair(ask_json(P, "1")))));
}

#[test]
fn the_server_answers_probes_and_lists_models() {
    let doubles = start(FaultPlan::none());
    for path in ["/ollama", "/ollama/"] {
        assert_eq!(get(&doubles, path).text(), "Ollama is running");
    }
    assert_eq!(get(&doubles, "/ollama/api/version").json(), json!({"version": "0.33.0"}));
    assert!(get(&doubles, "/ollama/api/tags").json()["models"][0]["details"]["family"].is_string());
    assert!(get(&doubles, "/ollama/api/ps").json()["models"][0]["size_vram"].is_u64());
    let show =
        |body: &str| send(doubles.addr(), "POST", "/ollama/api/show", &[], body.as_bytes()).read().unwrap();
    assert_eq!(show(r#"{"model":"m"}"#).json()["capabilities"], json!(["completion"]));
    assert_eq!(show("{}").status, 400);
    assert_eq!(get(&doubles, "/ollama/api/show").status, 405);
}

#[test]
fn no_key_is_asked_for_and_no_content_type() {
    let doubles = start(FaultPlan::none());
    let body = ask("1").to_string();
    assert_eq!(
        send(doubles.addr(), "POST", "/ollama/api/chat", &[], body.as_bytes()).read().unwrap().status,
        200
    );
}

#[test]
fn an_empty_conversation_only_loads_the_model() {
    let doubles = start(FaultPlan::always(Fault::ServerError));
    let reply = chat(&doubles, P, &json!({"model": "m"}));
    assert_eq!((&reply.lines()[0]["done"], &reply.lines()[0]["done_reason"]), (&json!(true), &json!("load")));
}
