//! Reads the chat reply of OpenAI's API, shared by OpenRouter and the compatible servers.
//!
//! The body is parsed once, into borrowed and raw pieces; a reply with half surrogates is mended and parsed again.
//! An error inside a 200 is looked for in this order: top-level `error`, no choices, the choice's `error`, `finish_reason`.

use std::fmt;
use std::time::Duration;

use promptmill_domain::{FailureKind, Flag, Money, Tokens};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::chat::{ChatReply, Finish};
use crate::error_body::ErrorFacts;
use crate::failure::CallFailure;
use crate::http::WholeReply;
use crate::{MAX_REPLY_CONTENT_BYTES, surrogates};

/// Turns the facts of an error into its failure, in a provider's own way.
pub(crate) type Classify = fn(ErrorFacts, wire_status: u16, retry_after: Option<Duration>) -> CallFailure;

/// Reads a 2xx reply.
pub(crate) fn read(reply: &WholeReply, classify: Classify) -> Result<ChatReply, CallFailure> {
    match serde_json::from_slice::<Wire<'_>>(&reply.body) {
        Ok(wire) => interpret(wire, reply, Vec::new(), classify),
        Err(_) => {
            let mended = surrogates::replace_lone(&reply.body);
            match mended.as_deref().map(serde_json::from_slice::<Wire<'_>>) {
                Some(Ok(wire)) => interpret(wire, reply, vec![Flag::SurrogatesReplaced], classify),
                Some(Err(_)) | None => Err(malformed(reply)),
            }
        }
    }
}

/// Says what kind of thing came instead of a reply, never its content.
pub(crate) fn malformed(reply: &WholeReply) -> CallFailure {
    let message = format!(
        "the reply is not the JSON the protocol says (content type {}, {} bytes)",
        reply.content_type,
        reply.body.len()
    );
    let mut failure = CallFailure::new(FailureKind::MalformedReply, message).with_status(reply.status);
    failure.generation.clone_from(&reply.generation);
    failure
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    message: Option<WireMessage>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    refusal: Option<IgnoredText>,
}

#[derive(Deserialize)]
struct Usage<'a> {
    #[serde(borrow, default)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cost: Option<&'a RawValue>,
}

fn interpret(
    wire: Wire<'_>,
    reply: &WholeReply,
    flags: Vec<Flag>,
    classify: Classify,
) -> Result<ChatReply, CallFailure> {
    let (usage, cost) = wire.usage.map_or((None, None), |raw| read_usage(raw.get()));
    let generation = wire.id.and_then(|raw| short_text(raw.get())).or_else(|| reply.generation.clone());
    // A failed generation may still be charged: what is known about it goes along.
    let failed = |mut failure: CallFailure| {
        failure.usage = usage;
        failure.cost = cost;
        failure.generation.clone_from(&generation);
        failure
    };
    let own = |kind, message: &str| failed(CallFailure::new(kind, message).with_status(reply.status));
    if let Some(error) = wire.error {
        return Err(failed(classify(ErrorFacts::from_error(error.get()), reply.status, reply.retry_after)));
    }
    let Some(choice) = wire.choices.and_then(|choices| choices.into_iter().next()) else {
        return Err(own(FailureKind::MalformedReply, "the reply holds no choice"));
    };
    if let Some(error) = choice.error {
        return Err(failed(classify(ErrorFacts::from_error(error.get()), reply.status, reply.retry_after)));
    }
    if choice.finish_reason.as_deref() == Some("error") {
        return Err(own(FailureKind::ProviderError, "the generation ended with an error that is not told"));
    }
    let Some(message) = choice.message else {
        return Err(own(FailureKind::MalformedReply, "the reply holds no message"));
    };
    let finish = Finish::from_wire(choice.finish_reason.as_deref());
    let mut content = message.content.unwrap_or_default().0;
    let cut = cut(&mut content);
    let refused = message.refusal.is_some_and(|refusal| refusal.0);
    Answered { content, cut, finish, refused, usage, cost, generation, status: reply.status, flags }
        .conclude()
}

/// What came of a generation that did not fail, whole or streamed.
pub(crate) struct Answered {
    pub(crate) content: String,
    /// Whether the end of the content was not kept.
    pub(crate) cut: bool,
    pub(crate) finish: Finish,
    /// Whether the model gave a refusal beside the content.
    pub(crate) refused: bool,
    pub(crate) usage: Option<Tokens>,
    pub(crate) cost: Option<Money>,
    pub(crate) generation: Option<String>,
    pub(crate) status: u16,
    pub(crate) flags: Vec<Flag>,
}

impl Answered {
    /// The reply, or why there is nothing to judge in it.
    pub(crate) fn conclude(self) -> Result<ChatReply, CallFailure> {
        let Self { content, cut, finish, refused, usage, cost, generation, status, mut flags } = self;
        if let Some((kind, message)) = unusable(&content, &finish, refused) {
            let mut failure = CallFailure::new(kind, message).with_status(status);
            failure.usage = usage;
            failure.cost = cost;
            failure.generation = generation;
            return Err(failure);
        }
        if usage.is_none() {
            flags.push(Flag::UsageUnknown);
        }
        if cut {
            flags.push(Flag::ReplyCut);
        }
        Ok(ChatReply { content, finish, usage, cost, generation, status, flags, ..ChatReply::default() })
    }
}

/// Shortens `content` to what is kept; answers whether anything went.
pub(crate) fn cut(content: &mut String) -> bool {
    if content.len() <= MAX_REPLY_CONTENT_BYTES {
        return false;
    }
    content.truncate(content.floor_char_boundary(MAX_REPLY_CONTENT_BYTES));
    true
}

/// Why a complete reply holds nothing to judge, if it does not.
pub(crate) fn unusable(content: &str, finish: &Finish, refused: bool) -> Option<(FailureKind, &'static str)> {
    if !content.trim().is_empty() {
        return None;
    }
    Some(match finish {
        _ if refused => (FailureKind::ContentRefused, "the model refused to answer"),
        Finish::ContentFilter => {
            (FailureKind::ContentRefused, "the provider's content filter took the whole reply")
        }
        Finish::Length => (FailureKind::TruncatedReply, "the output limit was reached before any content"),
        Finish::ToolCalls => (FailureKind::EmptyReply, "the model called a tool and wrote nothing"),
        Finish::Stop | Finish::Other(_) => (FailureKind::EmptyReply, "the reply is empty"),
    })
}

/// Tokens and cost of a `usage` object, as far as it tells them.
pub(crate) fn read_usage(json: &str) -> (Option<Tokens>, Option<Money>) {
    let Ok(usage) = serde_json::from_str::<Usage<'_>>(json) else {
        return (None, None);
    };
    let prompt = usage.prompt_tokens.and_then(|raw| whole_number(raw.get()));
    let completion = usage.completion_tokens.and_then(|raw| whole_number(raw.get()));
    let tokens = (prompt.is_some() || completion.is_some())
        .then(|| Tokens { prompt: prompt.unwrap_or(0), completion: completion.unwrap_or(0) });
    (tokens, usage.cost.and_then(|raw| money(raw.get())))
}

/// A count; a server that writes `12.0` means 12.
fn whole_number(json: &str) -> Option<u64> {
    let digits = json
        .split_once('.')
        .map_or(json, |(whole, fraction)| if fraction.bytes().all(|b| b == b'0') { whole } else { json });
    digits.parse().ok()
}

/// An amount from its decimal text, number or string, never by way of a float.
pub(crate) fn money(json: &str) -> Option<Money> {
    json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json).parse().ok()
}

/// A text of at most 128 characters without control characters, if the JSON is one.
pub(crate) fn short_text(json: &str) -> Option<String> {
    let text: String = serde_json::from_str(json).ok()?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(128).collect();
    (!text.is_empty()).then_some(text)
}

/// The text of a message: a string, or the text parts of a list of parts.
#[derive(Default)]
pub(crate) struct Content(pub(crate) String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                #[derive(Deserialize)]
                struct Part {
                    #[serde(default)]
                    text: Option<String>,
                }
                let mut content = String::new();
                while let Some(part) = parts.next_element::<Part>()? {
                    content.push_str(part.text.as_deref().unwrap_or_default());
                }
                Ok(Content(content))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// Whether there is something that is neither null nor an empty text; the words themselves are a reply and not kept.
pub(crate) struct IgnoredText(pub(crate) bool);

impl<'de> Deserialize<'de> for IgnoredText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;

        impl<'de> Visitor<'de> for Anything {
            type Value = IgnoredText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<IgnoredText, E> {
                Ok(IgnoredText(!text.is_empty()))
            }

            fn visit_bool<E>(self, refused: bool) -> Result<IgnoredText, E> {
                Ok(IgnoredText(refused))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<IgnoredText, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(IgnoredText(true))
            }
        }

        deserializer.deserialize_any(Anything)
    }
}
