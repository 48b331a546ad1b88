//! Writes the chat body of OpenAI's API, shared by OpenRouter and the compatible servers.
//!
//! Nothing is built in between: messages, settings and schema are written straight from the request. Pass-through options
//! (`settings.extra`) are merged while writing; they win over ours key by key, except for `messages`, `model` and `stream`.

use std::borrow::Cow;

use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::chat::{ChatRequest, ResponseFormat, ResponseSchema};
use crate::endpoint::internal;
use crate::failure::CallFailure;

/// What the call itself says; options cannot change it.
const RESERVED: [&str; 3] = ["model", "messages", "stream"];

/// How a server's dialect differs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialect {
    /// The field that limits the output.
    pub(crate) max_tokens: &'static str,
    /// Whether `strict` is sent for this schema.
    pub(crate) strict: fn(&Value) -> bool,
    /// Whether only endpoints that support every parameter may answer (OpenRouter drops the format elsewhere).
    pub(crate) require_parameters: bool,
    /// Whether a stream tells its usage only when it is asked to.
    pub(crate) asks_for_usage: bool,
}

/// The body of one call as bytes.
pub(crate) fn write(request: &ChatRequest, dialect: Dialect) -> Result<Vec<u8>, CallFailure> {
    let text_bytes: usize = request.messages.iter().map(|message| message.content.len() + 48).sum();
    let mut body = Vec::with_capacity(text_bytes + text_bytes / 8 + 512);
    serde_json::to_writer(&mut body, &Body { request, dialect })
        .map_err(|_| internal("the request cannot be written as JSON"))?;
    Ok(body)
}

struct Body<'a> {
    request: &'a ChatRequest,
    dialect: Dialect,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { request, dialect } = self;
        let settings = &*request.settings;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &*request.model)?;
        map.serialize_entry("messages", &request.messages)?;
        let stream = request.deltas.is_some();
        map.serialize_entry("stream", &stream)?;
        let mut fields = Fields { map: &mut map, extra: &settings.extra, written: Vec::new() };
        let asks_for_usage = stream && dialect.asks_for_usage;
        fields.write("stream_options", asks_for_usage.then_some(StreamOptions { include_usage: true }))?;
        fields.write("temperature", settings.temperature)?;
        fields.write("top_p", settings.top_p)?;
        fields.write(dialect.max_tokens, settings.max_tokens)?;
        fields.write("seed", settings.seed)?;
        fields.write("stop", (!settings.stop.is_empty()).then_some(&settings.stop))?;
        let constrained = match &request.format {
            ResponseFormat::Text => false,
            ResponseFormat::Json => {
                fields.write("response_format", Some(JsonObject { r#type: "json_object" }))?;
                true
            }
            ResponseFormat::Schema(schema) => {
                fields.write(
                    "response_format",
                    Some(JsonSchema::new(schema, (dialect.strict)(&schema.schema))),
                )?;
                true
            }
        };
        if constrained && dialect.require_parameters {
            fields.write("provider", Some(Routing { require_parameters: true }))?;
        }
        fields.write_rest(&RESERVED)?;
        map.end()
    }
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct JsonObject {
    r#type: &'static str,
}

#[derive(Serialize)]
struct JsonSchema<'a> {
    r#type: &'static str,
    json_schema: NamedSchema<'a>,
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: Cow<'a, str>,
    strict: bool,
    schema: &'a RawValue,
}

#[derive(Serialize)]
struct Routing {
    require_parameters: bool,
}

impl<'a> JsonSchema<'a> {
    fn new(schema: &'a ResponseSchema, strict: bool) -> Self {
        let json_schema = NamedSchema { name: schema_name(&schema.name), strict, schema: &schema.text };
        Self { r#type: "json_schema", json_schema }
    }
}

/// A name of at most 64 letters, digits, `_` and `-`, as the providers demand.
fn schema_name(name: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() {
        Cow::Borrowed("output")
    } else if name.len() <= 64 && name.chars().all(allowed) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.chars().take(64).map(|c| if allowed(c) { c } else { '_' }).collect())
    }
}

/// Fields of ours merged with the options that pass through.
pub(crate) struct Fields<'a, M> {
    pub(crate) map: &'a mut M,
    pub(crate) extra: &'a Map<String, Value>,
    pub(crate) written: Vec<&'static str>,
}

impl<M: SerializeMap> Fields<'_, M> {
    /// Writes a field unless it is `None`; an option of the same name is merged into it.
    pub(crate) fn write<T: Serialize>(
        &mut self,
        key: &'static str,
        value: Option<T>,
    ) -> Result<(), M::Error> {
        let theirs = if self.extra.is_empty() { None } else { self.extra.get(key) };
        match (value, theirs) {
            (None, None) => return Ok(()),
            (Some(value), None) => self.map.serialize_entry(key, &value)?,
            (Some(value), Some(Value::Object(theirs))) => {
                let mut merged = serde_json::to_value(&value).map_err(M::Error::custom)?;
                merge(&mut merged, theirs);
                self.map.serialize_entry(key, &merged)?;
            }
            (_, Some(theirs)) => self.map.serialize_entry(key, theirs)?,
        }
        if !self.extra.is_empty() {
            self.written.push(key);
        }
        Ok(())
    }

    /// Writes the options that no field of ours took up.
    pub(crate) fn write_rest(self, reserved: &[&str]) -> Result<(), M::Error> {
        for (key, value) in self.extra {
            if !reserved.contains(&key.as_str()) && !self.written.contains(&key.as_str()) {
                self.map.serialize_entry(key, value)?;
            }
        }
        Ok(())
    }
}

/// Merges objects key by key, at every depth; elsewhere theirs replaces ours.
fn merge(ours: &mut Value, theirs: &Map<String, Value>) {
    let Value::Object(target) = ours else {
        *ours = Value::Object(theirs.clone());
        return;
    };
    for (key, value) in theirs {
        match (target.get_mut(key), value) {
            (Some(inner @ Value::Object(_)), Value::Object(theirs)) => merge(inner, theirs),
            (_, value) => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_name_is_made_acceptable() {
        assert_eq!(schema_name("city-1_x"), "city-1_x");
        assert_eq!(schema_name(""), "output");
        assert_eq!(schema_name("größe/m 2"), "gr__e_m_2");
        assert_eq!(schema_name(&"é".repeat(90)).len(), 64);
    }
}
