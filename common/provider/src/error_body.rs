//! Reads what an error body says, in every shape the servers have: OpenAI's `{"error": {...}}`, Ollama's
//! `{"error": "..."}`, FastAPI's `{"detail": ...}`, a bare `{"message": ...}` and plain text.
//!
//! What it means is decided beside each provider; a page of HTML is never kept.

use std::time::Duration;

use serde_json::Value;

use crate::{retry_after, surrogates};

/// What a provider said about an error.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct ErrorFacts {
    /// In words, not yet cleaned; empty when it gave none.
    pub(crate) message: String,
    /// `error.code`, a number or a word.
    pub(crate) code: Option<String>,
    /// `error.type`.
    pub(crate) kind: Option<String>,
    /// OpenRouter's stable vocabulary, `error.error_type` or `error.metadata.error_type`.
    pub(crate) error_type: Option<String>,
    /// OpenRouter's `error.availability`.
    pub(crate) availability: Option<Availability>,
    /// The metadata of a moderation flag or a guardrail is there.
    pub(crate) moderated: bool,
}

/// OpenRouter's word on whether a model can be had.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Availability {
    pub(crate) code: String,
    pub(crate) retryable: Option<bool>,
    pub(crate) retry_after: Option<Duration>,
}

impl ErrorFacts {
    /// Reads a body of an error status.
    pub(crate) fn from_body(body: &[u8], content_type: &str) -> Self {
        if let Some(value) = parse(body) {
            return Self::from_value(&value);
        }
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let markup = content_type.contains("html") || content_type.contains("xml") || text.starts_with('<');
        let message = if text.is_empty() {
            String::new()
        } else if markup || body.contains(&0) {
            format!("the provider answered with content of type {content_type}, {} bytes", body.len())
        } else {
            text.to_owned()
        };
        Self { message, ..Self::default() }
    }

    /// Reads the JSON text of an `error` field.
    pub(crate) fn from_error(json: &str) -> Self {
        parse(json.as_bytes()).map_or_else(Self::default, |error| Self::from_error_value(&error))
    }

    fn from_value(value: &Value) -> Self {
        match value.get("error").filter(|error| !error.is_null()) {
            Some(error) => {
                let mut facts = Self::from_error_value(error);
                // A server that writes `error` as a text tells the rest beside it.
                facts.error_type = facts.error_type.or_else(|| word(value.get("error_type")));
                if facts.message.is_empty() {
                    facts.message = words_of(value);
                }
                facts
            }
            None => Self::from_error_value(value),
        }
    }

    fn from_error_value(error: &Value) -> Self {
        let metadata = error.get("metadata");
        let in_metadata =
            |key: &str| metadata.and_then(|metadata| metadata.get(key)).filter(|value| !value.is_null());
        let mut message = words_of(error);
        if let Some(upstream) = in_metadata("raw").map(raw_words).filter(|words| !words.is_empty()) {
            message = format!("{message}: {upstream}");
        }
        Self {
            message,
            code: word(error.get("code")),
            kind: word(error.get("type")),
            error_type: word(error.get("error_type")).or_else(|| word(in_metadata("error_type"))),
            availability: error.get("availability").and_then(Availability::from_value),
            moderated: ["reasons", "flagged_input", "patterns"]
                .into_iter()
                .any(|key| in_metadata(key).is_some()),
        }
    }

    /// The `code` where it is an HTTP error status.
    pub(crate) fn status_code(&self) -> Option<u16> {
        self.code.as_deref()?.parse().ok().filter(|code| (400..600).contains(code))
    }
}

impl Availability {
    fn from_value(value: &Value) -> Option<Self> {
        Some(Self {
            code: word(value.get("code"))?,
            retryable: value.get("retryable").and_then(Value::as_bool),
            retry_after: value.get("retry_after").and_then(Value::as_f64).and_then(retry_after::from_seconds),
        })
    }
}

fn parse(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body)
        .ok()
        .or_else(|| serde_json::from_slice(&surrogates::replace_lone(body)?).ok())
}

/// A text, a number as its digits, nothing else.
fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The words of an error: the value itself, or its `message`, `detail`, `msg` or inner `error`.
fn words_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(errors) => errors.first().map(words_of).unwrap_or_default(),
        Value::Object(object) => ["message", "detail", "msg", "error"]
            .into_iter()
            .filter_map(|key| object.get(key))
            .map(words_of)
            .find(|words| !words.is_empty())
            .unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// The words of an upstream error that was passed through as JSON, as JSON in a text, or as text.
fn raw_words(raw: &Value) -> String {
    match raw {
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner) => words_of(&inner),
            Err(_) if text.trim_start().starts_with('<') => String::new(),
            Err(_) => text.clone(),
        },
        other => words_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_gives_its_words() {
        let cases = [
            (r#"{"error":{"message":"m1","type":"t","code":"c"}}"#, "application/json", "m1"),
            (r#"{"error":"m2"}"#, "application/json", "m2"),
            (r#"{"detail":"m3"}"#, "application/json", "m3"),
            (r#"{"detail":[{"loc":["body"],"msg":"m4"}]}"#, "application/json", "m4"),
            (r#"{"object":"error","message":"m5","code":400}"#, "application/json", "m5"),
            (r#"{"error":null,"message":"m6"}"#, "application/json", "m6"),
            (r#"{"error":{"message":"cut \ud83d"}}"#, "application/json", "cut \u{fffd}"),
            (r#"[{"error":{"message":"m7"}}]"#, "application/json", "m7"),
            ("upstream is down\n", "text/plain", "upstream is down"),
            (
                "<html><h1>502</h1></html>",
                "text/html",
                "the provider answered with content of type text/html, 25 bytes",
            ),
            ("", "none", ""),
            ("{}", "application/json", ""),
        ];
        for (body, content_type, expected) in cases {
            assert_eq!(ErrorFacts::from_body(body.as_bytes(), content_type).message, expected, "{body}");
        }
    }

    #[test]
    fn the_upstream_error_is_added() {
        let facts = ErrorFacts::from_body(
            br#"{"error":{"code":502,"message":"Provider returned error","metadata":{"provider_name":"P","raw":"{\"error\":{\"message\":\"too hot\"}}"}}}"#,
            "application/json",
        );
        assert_eq!(facts.message, "Provider returned error: too hot");
        assert_eq!(facts.status_code(), Some(502));
    }

    #[test]
    fn code_is_a_number_or_a_word_or_absent() {
        for (json, code, status) in [
            (r#"{"code":429}"#, Some("429"), Some(429)),
            (r#"{"code":"server_error"}"#, Some("server_error"), None),
            (r#"{"code":null}"#, None, None),
            (r#"{"code":7}"#, Some("7"), None),
        ] {
            let facts = ErrorFacts::from_error(json);
            assert_eq!((facts.code.as_deref(), facts.status_code()), (code, status), "{json}");
        }
    }
}
