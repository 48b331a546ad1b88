//! Writes the body of `POST /api/chat`.
//!
//! Pass-through options are put where Ollama looks for them: what it knows at the top level goes there, everything else
//! (`num_ctx`, `top_k`, ...) is an inference option.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::chat::{ChatRequest, ResponseFormat};
use crate::endpoint::internal;
use crate::failure::CallFailure;
use crate::request_body::Fields;

const RESERVED: [&str; 3] = ["model", "messages", "stream"];
const TOP_LEVEL: [&str; 9] =
    ["format", "think", "keep_alive", "truncate", "shift", "tools", "logprobs", "top_logprobs", "options"];

/// The body of one call as bytes.
pub(super) fn write(request: &ChatRequest) -> Result<Vec<u8>, CallFailure> {
    let text_bytes: usize = request.messages.iter().map(|message| message.content.len() + 48).sum();
    let mut body = Vec::with_capacity(text_bytes + text_bytes / 8 + 512);
    serde_json::to_writer(&mut body, &Body(request))
        .map_err(|_| internal("the request cannot be written as JSON"))?;
    Ok(body)
}

struct Body<'a>(&'a ChatRequest);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &*request.model)?;
        map.serialize_entry("messages", &request.messages)?;
        map.serialize_entry("stream", &true)?;
        let split = (!request.settings.extra.is_empty()).then(|| split(&request.settings.extra));
        let nothing = Map::new();
        let (top, options) = split.as_ref().map_or((&nothing, &nothing), |(top, options)| (top, options));
        let mut fields = Fields { map: &mut map, extra: top, written: Vec::new() };
        match &request.format {
            ResponseFormat::Text => {}
            ResponseFormat::Json => fields.write("format", Some("json"))?,
            ResponseFormat::Schema(schema) => fields.write("format", Some(&schema.text))?,
        }
        // By default the server cuts a long prompt silently, and the reply answers something nobody asked.
        fields.write("truncate", Some(false))?;
        fields.write_rest(&RESERVED)?;
        map.serialize_entry("options", &Options { request, extra: options })?;
        map.end()
    }
}

struct Options<'a> {
    request: &'a ChatRequest,
    extra: &'a Map<String, Value>,
}

impl Serialize for Options<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let settings = &*self.request.settings;
        let mut map = serializer.serialize_map(None)?;
        let mut fields = Fields { map: &mut map, extra: self.extra, written: Vec::new() };
        fields.write("num_predict", settings.max_tokens)?;
        fields.write("temperature", settings.temperature)?;
        fields.write("top_p", settings.top_p)?;
        fields.write("seed", settings.seed)?;
        fields.write("stop", (!settings.stop.is_empty()).then_some(&settings.stop))?;
        fields.write_rest(&[])?;
        map.end()
    }
}

/// The options for the top level and those for `options`; an `options` object of the user wins over loose keys.
fn split(extra: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut top = Map::new();
    let mut options = Map::new();
    for (key, value) in extra {
        if RESERVED.contains(&key.as_str()) || key == "options" {
            continue;
        }
        let target = if TOP_LEVEL.contains(&key.as_str()) { &mut top } else { &mut options };
        target.insert(key.clone(), value.clone());
    }
    if let Some(Value::Object(inner)) = extra.get("options") {
        options.extend(inner.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    (top, options)
}
