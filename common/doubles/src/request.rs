//! Reads a chat request as the provider's documentation describes it and refuses what the provider would refuse.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::Provider;
use crate::dice::{Dice, hash};
use crate::schema;

/// What the reply must be.
#[derive(Debug, Clone)]
pub(crate) enum Format {
    Text,
    Json,
    Schema(Arc<Value>),
}

/// A request that is in order.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) provider: Provider,
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// Compatible servers stream usage only on demand.
    pub(crate) include_usage: bool,
    pub(crate) format: Format,
    /// Shows the model an earlier reply, or asks more than once.
    pub(crate) repair: bool,
    /// Has an assistant message and a user message after it.
    pub(crate) mended: bool,
    /// Ollama loads the model and says nothing when there is no message.
    pub(crate) empty: bool,
    pub(crate) prompt_chars: usize,
    /// Decides the reply: seed and body.
    pub(crate) chance: u64,
}

impl Asked {
    pub(crate) fn can_be_violated(&self) -> bool {
        match &self.format {
            Format::Schema(schema) => schema::violating(schema, Dice::new(0)).is_some(),
            Format::Text | Format::Json => false,
        }
    }
}

/// Why a request is refused; never quotes the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

#[derive(Deserialize)]
struct ChatBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    messages: Option<Vec<ChatMessage<'a>>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    #[serde(rename = "seed")]
    _seed: Option<i64>,
    #[serde(borrow)]
    stop: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<ResponseFormat<'a>>,
    /// Ollama's own.
    #[serde(borrow)]
    format: Option<&'a RawValue>,
    #[serde(borrow)]
    options: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChatMessage<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    json_schema: Option<NamedSchema<'a>>,
}

#[derive(Deserialize)]
struct NamedSchema<'a> {
    name: Option<String>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// The option types whose documentation names the type; a wrong one is an error.
#[derive(Deserialize)]
struct OllamaOptions {
    #[serde(rename = "num_ctx")]
    _num_ctx: Option<f64>,
    #[serde(rename = "num_predict")]
    _num_predict: Option<f64>,
    #[serde(rename = "temperature")]
    _temperature: Option<f64>,
    #[serde(rename = "top_p")]
    _top_p: Option<f64>,
    #[serde(rename = "seed")]
    _seed: Option<f64>,
    #[serde(rename = "stop")]
    _stop: Option<Vec<String>>,
}

/// Turns the text of a schema into the schema; the server keeps those it has seen.
pub(crate) type ReadSchema<'s> = &'s dyn Fn(&str) -> Option<Arc<Value>>;

/// Reads `body` as a chat request of `provider`.
pub(crate) fn read(
    provider: Provider,
    body: &[u8],
    seed: u64,
    read_schema: ReadSchema<'_>,
) -> Result<Asked, Refusal> {
    let body_error = |error: serde_json::Error| {
        Refusal::new(400, format!("invalid body at line {} column {}", error.line(), error.column()))
    };
    let chat: ChatBody<'_> = serde_json::from_slice(body).map_err(body_error)?;
    let model = chat.model.clone().unwrap_or_default();
    let messages = chat.messages.as_deref().unwrap_or_default();
    if model.is_empty() {
        return Err(Refusal::new(400, "model is required"));
    }
    check_messages(provider, messages)?;
    let format = match provider {
        Provider::Ollama => {
            check_options(chat.options)?;
            ollama_format(chat.format, read_schema)?
        }
        Provider::OpenRouter | Provider::OpenAi => {
            check_sampling(&chat)?;
            completions_format(chat.response_format.as_ref(), read_schema)?
        }
    };
    let is = |message: &ChatMessage<'_>, role: &str| message.role.eq_ignore_ascii_case(role);
    let users = messages.iter().filter(|message| is(message, "user")).count();
    let assistant = messages.iter().position(|message| is(message, "assistant"));
    Ok(Asked {
        provider,
        stream: chat.stream.unwrap_or(provider == Provider::Ollama),
        include_usage: chat.stream_options.is_some_and(|options| options.include_usage == Some(true)),
        format,
        repair: users > 1 || assistant.is_some(),
        mended: assistant.is_some_and(|at| messages[at..].iter().any(|message| is(message, "user"))),
        empty: messages.is_empty(),
        prompt_chars: messages.iter().filter_map(|message| message.content).map(|raw| raw.get().len()).sum(),
        chance: hash(seed, body),
        model,
    })
}

/// A wrong type ends in Ollama's default branch: 500.
fn check_options(options: Option<&RawValue>) -> Result<(), Refusal> {
    let read = options.map(|options| serde_json::from_str::<Option<OllamaOptions>>(options.get()));
    if matches!(read, Some(Err(_))) { Err(Refusal::new(500, "option of a wrong type")) } else { Ok(()) }
}

fn check_messages(provider: Provider, messages: &[ChatMessage<'_>]) -> Result<(), Refusal> {
    if messages.is_empty() && provider != Provider::Ollama {
        return Err(Refusal::new(400, "messages must hold at least one message"));
    }
    for message in messages {
        let known = match provider {
            Provider::Ollama => ["system", "user", "assistant", "tool"]
                .iter()
                .any(|role| message.role.eq_ignore_ascii_case(role)),
            Provider::OpenRouter | Provider::OpenAi => {
                ["system", "developer", "user", "assistant", "tool"].contains(&&*message.role)
            }
        };
        if !known {
            return Err(Refusal::new(400, "unknown message role"));
        }
        let content = message.content.map_or("null", RawValue::get);
        let fits = match content.as_bytes().first() {
            Some(b'"') => true,
            Some(b'[') => provider != Provider::Ollama,
            Some(b'n') => message.role == "assistant",
            _ => false,
        };
        if !fits {
            return Err(Refusal::new(400, "message content must be text or parts"));
        }
    }
    Ok(())
}

fn check_sampling(chat: &ChatBody<'_>) -> Result<(), Refusal> {
    let outside = |value: Option<f64>, high: f64| value.is_some_and(|value| !(0.0..=high).contains(&value));
    if outside(chat.temperature, 2.0) {
        return Err(Refusal::new(400, "temperature must be between 0 and 2"));
    }
    if outside(chat.top_p, 1.0) {
        return Err(Refusal::new(400, "top_p must be between 0 and 1"));
    }
    if chat.max_tokens == Some(0) || chat.max_completion_tokens == Some(0) {
        return Err(Refusal::new(400, "the output limit must be at least 1"));
    }
    let stop_fits = chat.stop.is_none_or(|stop| match serde_json::from_str::<Value>(stop.get()) {
        Ok(Value::Null | Value::String(_)) => true,
        Ok(Value::Array(texts)) => texts.len() <= 4 && texts.iter().all(Value::is_string),
        _ => false,
    });
    if stop_fits { Ok(()) } else { Err(Refusal::new(400, "stop must be a text or at most 4 texts")) }
}

fn completions_format(
    format: Option<&ResponseFormat<'_>>,
    read_schema: ReadSchema<'_>,
) -> Result<Format, Refusal> {
    let Some(format) = format else {
        return Ok(Format::Text);
    };
    match &*format.kind {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        "json_schema" => {
            let named = format.json_schema.as_ref();
            let name = named.and_then(|named| named.name.as_deref()).unwrap_or_default();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(Refusal::new(400, "json_schema.name must be 1 to 64 of a-zA-Z0-9_-"));
            }
            let schema = named.and_then(|named| named.schema).and_then(|raw| read_schema(raw.get()));
            schema.map(Format::Schema).ok_or_else(|| Refusal::new(400, "json_schema.schema must be a schema"))
        }
        _ => Err(Refusal::new(400, "unknown response_format")),
    }
}

fn ollama_format(format: Option<&RawValue>, read_schema: ReadSchema<'_>) -> Result<Format, Refusal> {
    match format.map_or("null", RawValue::get) {
        "null" | "\"\"" => Ok(Format::Text),
        "\"json\"" => Ok(Format::Json),
        schema if schema.starts_with('{') => {
            read_schema(schema).map(Format::Schema).ok_or_else(|| Refusal::new(500, "invalid format"))
        }
        _ => Err(Refusal::new(500, "invalid format")),
    }
}

/// The text of the first `[[row:...]]` in `body`: at most 64 letters, digits and `_`, `-`, `.`, `:`.
pub(crate) fn marker(body: &[u8]) -> Option<&str> {
    const OPEN: &[u8] = b"[[row:";
    let mut rest = body;
    while let Some(at) = rest.iter().position(|b| *b == b'[') {
        rest = &rest[at..];
        let Some(inside) = rest.strip_prefix(OPEN) else {
            rest = &rest[1..];
            continue;
        };
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_-.:".contains(b);
        let length = inside.iter().take(65).take_while(|b| plain(b)).count();
        if (1..=64).contains(&length) && inside[length..].starts_with(b"]]") {
            return std::str::from_utf8(&inside[..length]).ok();
        }
        rest = inside;
    }
    None
}

#[cfg(test)]
mod tests;
