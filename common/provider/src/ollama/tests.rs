use promptmill_domain::FailureKind::*;
use serde_json::json;

use super::*;
use crate::chat::{ResponseFormat, ResponseSchema};
use crate::tests_support::{reply_of, request, request_with};

#[test]
fn every_status_and_text_has_its_meaning() {
    let rows = [
        (400, "model is required", RequestRefused, false, false),
        (400, "\"m\" does not support thinking", RequestRefused, false, false),
        (400, "the input length exceeds the context length", ContextTooLong, false, false),
        (401, "unauthorized", CredentialRefused, false, true),
        (402, "upgrade", PaymentRequired, false, true),
        (403, "cloud is disabled", CredentialRefused, false, true),
        (404, "model 'x' not found", ModelUnavailable, false, false),
        (405, "method not allowed", RequestRefused, false, false),
        (408, "timeout", Timeout, true, false),
        (413, "too large", ContextTooLong, false, false),
        (429, "too many requests", RateLimited, true, true),
        (499, "client closed", ProviderError, true, false),
        (500, "llama runner process has terminated", ProviderError, true, false),
        (
            500,
            "timed out waiting for llama runner to start: context deadline exceeded",
            ProviderError,
            true,
            false,
        ),
        (500, "option \"stop\" must be of type array", RequestRefused, false, false),
        (500, "invalid format: \"xml\"", RequestRefused, false, false),
        (
            500,
            "request (9 tokens) exceeds the available context size (4 tokens)",
            ContextTooLong,
            false,
            false,
        ),
        (502, "cloud not reachable", ProviderError, true, false),
        (
            503,
            "server busy, please try again.  maximum pending requests exceeded",
            ProviderOverloaded,
            true,
            false,
        ),
        (504, "gateway timeout", Timeout, true, false),
        // An error line inside a stream: the status on the wire is 200.
        (200, "an error was encountered while running the model", ProviderError, true, false),
        (200, "prompt too long; exceeded max context length by 12 tokens", ContextTooLong, false, false),
    ];
    for (status, text, kind, transient, lane_wide) in rows {
        let body = json!({ "error": text }).to_string();
        let failure = error_reply(&reply_of(status, "application/json", &body));
        assert_eq!(
            (failure.kind, failure.transient, failure.lane_wide),
            (kind, transient, lane_wide),
            "{status} {text}"
        );
        assert_eq!((failure.status, failure.retry_after), (Some(status), None));
    }
}

#[test]
fn a_wait_makes_an_overload_lane_wide() {
    let mut reply = reply_of(503, "application/json", r#"{"error":"busy"}"#);
    reply.retry_after = Some(Duration::from_secs(2));
    let failure = error_reply(&reply);
    assert!(failure.lane_wide && failure.transient);
}

#[test]
fn the_body_is_what_the_reference_shows() {
    let mut request = request();
    request.format = ResponseFormat::Schema(std::sync::Arc::new(ResponseSchema::new(
        "x".to_owned(),
        json!({"type": "object"}),
    )));
    assert_eq!(
        String::from_utf8(body::write(&request).unwrap()).unwrap(),
        concat!(
            r#"{"model":"acme/model-a","messages":[{"role":"system","content":"Reply with JSON only."},"#,
            r#"{"role":"user","content":"Where is \"Oslo\"?"}],"stream":true,"format":{"type":"object"},"truncate":false,"#,
            r#""options":{"num_predict":400,"temperature":0.0,"top_p":0.9,"seed":7,"stop":["\n\n"]}}"#
        )
    );
}

#[test]
fn options_go_where_the_server_looks_for_them() {
    let mut request = request_with(json!({
        "think": false, "keep_alive": "30m", "truncate": true, "num_ctx": 8192, "top_k": 20, "seed": 8,
        "options": {"num_ctx": 4096, "temperature": 1, "min_p": 0.1},
        "stream": false, "messages": [], "model": "other"
    }));
    request.format = ResponseFormat::Json;
    let body: serde_json::Value = serde_json::from_slice(&body::write(&request).unwrap()).unwrap();
    assert_eq!(
        body,
        json!({
            "model": "acme/model-a",
            "messages": [{"role": "system", "content": "Reply with JSON only."}, {"role": "user", "content": "Where is \"Oslo\"?"}],
            "stream": true, "format": "json", "truncate": true, "think": false, "keep_alive": "30m",
            "options": {
                "num_predict": 400, "temperature": 1, "top_p": 0.9, "seed": 8, "stop": ["\n\n"],
                "num_ctx": 4096, "top_k": 20, "min_p": 0.1
            }
        })
    );
}
