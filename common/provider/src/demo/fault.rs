//! The faults of `demo:faulty`: which call fails how is drawn from the item, the attempt and the conversation, so a run
//! can be repeated exactly and a further attempt draws anew.

use std::time::Duration;

use promptmill_domain::{FailureKind, Role};
use serde_json::Value;

use super::draw::Draw;
use crate::chat::ChatRequest;
use crate::failure::CallFailure;

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// No reply.
    Failure(CallFailure),
    /// The reply's JSON breaks off.
    InvalidJson,
    /// The reply's JSON is not what the schema asks for.
    WrongShape,
    /// The reply's JSON stands inside a fence or between sentences.
    Wrapped,
}

/// The fault of a call, if it has one.
///
/// In a hundred: 6 rate limits (a quarter with a short `Retry-After`, the others with 0), 4 errors of the server, 3
/// timeouts and lost connections, 5 replies of broken JSON, 5 of the wrong shape, 3 wrapped; and one *item* in a hundred is
/// refused at every attempt. A repaired call (one whose conversation ends by quoting a reply) has no broken, wrong or
/// wrapped reply, so that a repair works.
pub(super) fn of(request: &ChatRequest) -> Option<Fault> {
    let mut item = Draw::from_parts(request.seed_hint, [b"refused".as_slice(), request.model.as_bytes()]);
    if item.percent(1) {
        return Some(failure(
            FailureKind::ContentRefused,
            "the demo provider refuses this item at every attempt",
            400,
            None,
        ));
    }
    let calls = (request.messages.len() as u64).to_le_bytes();
    let attempt = request.attempt.to_le_bytes();
    let mut call = Draw::from_parts(
        request.seed_hint,
        [b"fault".as_slice(), request.model.as_bytes(), &attempt, &calls],
    );
    let is_repaired = matches!(request.messages.as_slice(), [.., reply, _] if reply.role == Role::Assistant);
    match call.below(100) {
        0..6 => {
            let wait =
                if call.percent(25) { Duration::from_millis(20 + call.below(60)) } else { Duration::ZERO };
            Some(failure(FailureKind::RateLimited, "the demo provider asks to slow down", 429, Some(wait)))
        }
        6 | 7 => Some(failure(FailureKind::ProviderError, "the demo provider failed", 500, None)),
        8 | 9 => Some(failure(FailureKind::ProviderOverloaded, "the demo provider is overloaded", 503, None)),
        10 | 11 => Some(unanswered(FailureKind::Timeout, "no reply began in time (demo)")),
        12 => Some(unanswered(
            FailureKind::ConnectionFailed,
            "the connection broke before a reply began (demo)",
        )),
        13..18 if !is_repaired => Some(Fault::InvalidJson),
        18..23 if !is_repaired => Some(Fault::WrongShape),
        23..26 if !is_repaired => Some(Fault::Wrapped),
        _ => None,
    }
}

fn failure(kind: FailureKind, message: &str, status: u16, retry_after: Option<Duration>) -> Fault {
    let mut failure = CallFailure::new(kind, message).with_status(status);
    failure.retry_after = retry_after;
    failure.lane_wide = kind == FailureKind::RateLimited;
    Fault::Failure(failure)
}

fn unanswered(kind: FailureKind, message: &str) -> Fault {
    Fault::Failure(CallFailure::new(kind, message))
}

/// The reply's text with the fault in it; a text that is no JSON can only be wrapped.
pub(super) fn spoil(fault: &Fault, value: &Value, schema: &Value) -> String {
    match fault {
        Fault::InvalidJson => {
            let text = value.to_string();
            let mut cut = text.len() * 2 / 3;
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            // A stray word, so that closing the brackets does not mend it.
            format!("{} <cut>", &text[..cut])
        }
        Fault::WrongShape => wrong_shape(value, schema).to_string(),
        Fault::Wrapped => {
            format!("Here is what you asked for:\n```json\n{value}\n```\nTell me if you need more.")
        }
        Fault::Failure(_) => value.to_string(),
    }
}

/// Breaks a required property if there is one, else the type of the whole.
fn wrong_shape(value: &Value, schema: &Value) -> Value {
    let required = schema
        .get("required")
        .and_then(Value::as_array)
        .and_then(|names| names.first())
        .and_then(Value::as_str);
    match (value, required) {
        (Value::Object(object), Some(name)) => {
            let mut object = object.clone();
            object.shift_remove(name);
            Value::Object(object)
        }
        (Value::Object(_), None) => Value::Array(vec![value.clone()]),
        _ => serde_json::json!({ "unexpected": value }),
    }
}
