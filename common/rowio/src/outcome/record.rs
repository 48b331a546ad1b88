//! One item's outcome as it is handed out.

use std::borrow::Cow;

use promptmill_domain::{
    FailureKind, Flag, ItemCode, ModelRef, Money, Outcome, Output, Tokens, outcome::Ending,
};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Why an item failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OutcomeFailure<'a> {
    /// The cause.
    pub kind: FailureKind,
    /// The cause in words.
    pub message: &'a str,
}

/// One item's outcome; serialised, it is a line of the JSON Lines form.
#[derive(Debug, Clone, Serialize)]
pub struct OutcomeRecord<'a> {
    /// The item's 0-based position among the batch's rows.
    pub index: u64,
    /// The client's own id of the row.
    pub custom_id: Option<&'a str>,
    /// `succeeded`, `failed`, `cancelled` or `expired`.
    pub outcome: &'static str,
    /// What an item that succeeded delivered: JSON as it is, or text as a JSON string.
    #[serde(serialize_with = "output")]
    pub output: Option<&'a Output>,
    /// Why an item failed.
    pub error: Option<OutcomeFailure<'a>>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How many provider calls they made.
    pub calls: u32,
    /// Tokens of all calls.
    pub tokens: Tokens,
    /// Cost of all calls that told one; `None` when none did, zero where the cache gave the reply.
    pub cost: Option<Money>,
    /// What else is to be known about the outcome.
    pub flags: &'a [Flag],
    /// The model that answered last, where it is not the batch's first. JSON Lines alone has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a ModelRef>,
    /// The row's variables as a JSON object, or its messages as an array, where they are to be handed out with the outcome.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "input")]
    pub input: Option<&'a str>,
    /// Where to read on behind this outcome, where outcomes come in the order in which they settle. JSON Lines alone has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
}

impl<'a> OutcomeRecord<'a> {
    /// The record of an item as it is stored: its code, and the outcome that was kept of it, if one was. `custom_id` is the row's, for an
    /// item that was closed without an outcome of its own; an outcome knows its id.
    pub fn of(index: u32, code: ItemCode, outcome: Option<&'a Outcome>, custom_id: Option<&'a str>) -> Self {
        match outcome {
            Some(outcome) => Self::settled(index, outcome),
            None => Self::closed(index, custom_id, code),
        }
    }

    /// The record of an item that was worked on.
    pub fn settled(index: u32, outcome: &'a Outcome) -> Self {
        let totals = outcome.totals();
        let mut calls = outcome.attempts.iter().flat_map(|attempt| &attempt.calls);
        let (output, error) = match &outcome.ending {
            Ending::Succeeded { output, repaired: _ } => (Some(output), None),
            Ending::Failed { kind, message } => (None, Some(OutcomeFailure { kind: *kind, message })),
        };
        Self {
            index: u64::from(index),
            custom_id: outcome.custom_id.as_deref(),
            outcome: outcome.code().as_str(),
            output,
            error,
            attempts: u32::try_from(outcome.attempts.len()).unwrap_or(u32::MAX),
            calls: u32::try_from(totals.calls).unwrap_or(u32::MAX),
            tokens: totals.tokens,
            cost: (totals.cost > Money::ZERO || calls.any(|call| call.cost.is_some() || call.is_cached))
                .then_some(totals.cost),
            flags: &outcome.flags,
            model: outcome.fallback_model(),
            input: None,
            cursor: None,
        }
    }

    /// The record of an item that was closed without an outcome of its own: sealed by a cancel or a deadline, or given up because
    /// its workers died over it.
    pub fn closed(index: u32, custom_id: Option<&'a str>, code: ItemCode) -> Self {
        let error = match code {
            ItemCode::Failed(kind) => Some(OutcomeFailure { kind, message: CLOSED }),
            ItemCode::Open
            | ItemCode::Succeeded
            | ItemCode::Repaired
            | ItemCode::Cancelled
            | ItemCode::Expired => None,
        };
        Self {
            index: u64::from(index),
            custom_id,
            outcome: code.as_str(),
            output: None,
            error,
            attempts: 0,
            calls: 0,
            tokens: Tokens::default(),
            cost: None,
            flags: &[],
            model: None,
            input: None,
            cursor: None,
        }
    }

    /// The same at another index: an outcome of a retry under the index its row has in the batch that was retried.
    #[must_use]
    pub fn at(self, index: u32) -> Self {
        Self { index: u64::from(index), ..self }
    }

    /// The same with where to read on behind it.
    #[must_use]
    pub fn with_cursor(self, cursor: &'a str) -> Self {
        Self { cursor: Some(cursor), ..self }
    }

    /// The same with what the row brought: a JSON object of variables or an array of messages, as a stored row has it.
    #[must_use]
    pub fn with_input(self, content_json: &'a str) -> Self {
        Self { input: Some(content_json), ..self }
    }
}

/// What there is to say about an item that failed without a body.
const CLOSED: &str = "the processes that worked on this row died over it";

const BREAKS: [char; 2] = ['\n', '\r'];

fn output<S: Serializer>(output: &Option<&Output>, serializer: S) -> Result<S::Ok, S::Error> {
    match output {
        None => serializer.serialize_none(),
        Some(Output::Text(text)) => serializer.serialize_str(text),
        Some(Output::Json(json)) if !json.get().contains(BREAKS) => json.serialize(serializer),
        Some(Output::Json(json)) => raw(json.get(), serializer),
    }
}

fn input<S: Serializer>(input: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    match input {
        None => serializer.serialize_none(),
        Some(text) => raw(text, serializer),
    }
}

/// Puts in JSON as it is, except that a value over several lines becomes one line.
fn raw<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let line = one_line(text);
    let value: &RawValue = serde_json::from_str(&line).map_err(|_| S::Error::custom("not JSON"))?;
    value.serialize(serializer)
}

/// `json` without the blanks between its tokens, when it has line breaks there; else as it is.
fn one_line(json: &str) -> Cow<'_, str> {
    if !json.contains(BREAKS) {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        line.push(c);
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use promptmill_domain::{Attempt, Call, Totals};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_over_several_lines_becomes_one_and_keeps_its_strings() {
        assert_eq!(one_line(r#"{ "a" : 1 }"#), r#"{ "a" : 1 }"#);
        let text = "{\n  \"a b\": \"x \\\" \\\\\",\r\n  \"c\": [1, 2]\n}";
        assert_eq!(one_line(text), r#"{"a b":"x \" \\","c":[1,2]}"#);
    }

    #[test]
    fn a_cost_is_told_when_a_call_told_one() {
        let call = |cost: Option<u64>| Call {
            tokens: Tokens { prompt: 2, completion: 3 },
            cost: cost.map(Money::from_pico),
            ..Call::default()
        };
        let outcome = |calls: Vec<Call>| Outcome {
            custom_id: None,
            ending: Ending::Failed { kind: FailureKind::Timeout, message: "late".into() },
            attempts: vec![Attempt { calls }],
            cut: Totals::default(),
            flags: Vec::new(),
        };
        let unknown = outcome(vec![call(None)]);
        assert_eq!(OutcomeRecord::settled(0, &unknown).cost, None);
        let free = outcome(vec![call(None), call(Some(0))]);
        let record = OutcomeRecord::settled(7, &free);
        assert_eq!((record.cost, record.calls, record.attempts), (Some(Money::ZERO), 2, 1));
        assert_eq!(record.tokens, Tokens { prompt: 4, completion: 6 });
        assert_eq!((record.index, record.outcome), (7, "failed"));
        let mut shortened = outcome(Vec::new());
        shortened.cut = Totals { calls: 3, cost: Money::from_pico(5), ..Totals::default() };
        let record = OutcomeRecord::settled(0, &shortened);
        assert_eq!((record.cost, record.calls), (Some(Money::from_pico(5)), 3));
    }

    proptest! {
        #[test]
        fn one_line_is_the_same_value(key in ".{0,20}", text in ".{0,40}", number: i64) {
            let value = serde_json::json!({ key: [text, number, { "n": null }] });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let line = one_line(&pretty);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        }
    }
}
