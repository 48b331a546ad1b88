//! What the double says to a request, before any provider's envelope is put around it.

use serde_json::Value;

use crate::dice::Dice;
use crate::fault::Fault;
use crate::plan::Step;
use crate::request::{Asked, Format};
use crate::schema::{self, SURROGATE_MARK};

/// Why the text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    ContentFilter,
    Error,
}

impl Finish {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Error => "error",
        }
    }
}

/// A reply's substance.
#[derive(Debug, Clone)]
pub(crate) struct Speech {
    /// `None` is a JSON `null`.
    pub(crate) text: Option<String>,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Whether this is what was asked for.
    pub(crate) valid: bool,
}

/// The reply to `asked` under `step`; `marker` is repeated in texts, so that a reply can be traced to its row.
pub(crate) fn speak(asked: &Asked, marker: Option<&str>, step: &Step) -> Speech {
    let mut finish = Finish::Stop;
    let mut valid = true;
    let text = match step {
        Step::Say(text) => Some(text.clone()),
        Step::Clean => Some(good_text(asked, marker, false)),
        Step::Fault(fault) => {
            valid = fault.leaves_valid_reply();
            finish = match fault {
                Fault::Truncated => Finish::Length,
                Fault::Filtered => Finish::ContentFilter,
                Fault::ErrorFinish | Fault::ErrorChoice => Finish::Error,
                _ => Finish::Stop,
            };
            bent_text(asked, marker, *fault)
        }
    };
    // Four characters a token is the usual estimate for English; a text has at least one.
    let tokens = |chars: usize| (chars as u64).div_ceil(4);
    let completion_tokens = tokens(text.as_deref().map_or(0, |text| text.chars().count()));
    Speech { text, finish, prompt_tokens: tokens(asked.prompt_chars), completion_tokens, valid }
}

fn bent_text(asked: &Asked, marker: Option<&str>, fault: Fault) -> Option<String> {
    let good = || good_text(asked, marker, false);
    let half = |text: String| text.chars().take(text.chars().count() / 2).collect();
    Some(match fault {
        Fault::Truncated | Fault::ErrorChoice | Fault::ErrorMidStream | Fault::ErrorEvent => half(good()),
        Fault::EmptyContent | Fault::ErrorFinish | Fault::Filtered => String::new(),
        Fault::NullContent => return None,
        Fault::InvalidReply | Fault::StubbornReply => bad_text(asked).unwrap_or_else(good),
        Fault::Fenced => format!("```json\n{}\n```", good()),
        Fault::InProse => {
            format!("Here is the JSON you asked for:\n\n{}\n\nLet me know if it helps.", good())
        }
        Fault::SurrogateInReply => good_text(asked, marker, true),
        Fault::SurrogateInContent => good_text(asked, marker, true).replace(SURROGATE_MARK, "\\ud83d"),
        _ => good(),
    })
}

fn good_text(asked: &Asked, marker: Option<&str>, mark: bool) -> String {
    let mut dice = Dice::new(asked.chance);
    match &asked.format {
        Format::Schema(schema) => schema::conforming(schema, dice, mark).to_string(),
        Format::Json => {
            let answer = schema::words(&mut dice, 3);
            let answer = if mark { format!("{SURROGATE_MARK}{answer}") } else { answer };
            let marker = marker.map_or(Value::Null, Value::from);
            serde_json::json!({"row": marker, "answer": answer, "score": dice.below(100)}).to_string()
        }
        Format::Text => {
            let mark = if mark { SURROGATE_MARK.to_string() } else { String::new() };
            let row = marker.map(|marker| format!(" (row {marker})")).unwrap_or_default();
            format!("{mark}{}{row}.", schema::words(&mut dice, 8))
        }
    }
}

fn bad_text(asked: &Asked) -> Option<String> {
    match &asked.format {
        Format::Schema(schema) => {
            schema::violating(schema, Dice::new(asked.chance)).map(|value| value.to_string())
        }
        Format::Text | Format::Json => None,
    }
}

/// `text` as a JSON string, the mark replaced by half a surrogate pair as an escape no decoder can honour.
pub(crate) fn literal(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    if quoted.contains(SURROGATE_MARK) { quoted.replace(SURROGATE_MARK, "\\ud83d") } else { quoted }
}

/// `text` in a few pieces, as a stream brings it.
pub(crate) fn pieces(text: &str, chance: u64) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let size = chars.len() / (2 + (chance % 3) as usize) + 1;
    chars.chunks(size).map(|piece| piece.iter().collect()).collect()
}
