//! The model a template asks for, and its sampling settings.

use promptmill_domain::{ModelRef, ModelSettings};
use serde_json::Value;

use crate::fields::Fields;
use crate::json::type_name;

const MODEL: &[&str] = &["name", "temperature", "top_p", "max_tokens", "seed", "stop", "extra"];

/// Reads the `model` of a template: which one, and with which settings.
pub(crate) fn read_model(fields: &mut Fields<'_, '_>) -> (Option<ModelRef>, ModelSettings) {
    let pointer = fields.at("model");
    let nothing = (None, ModelSettings::default());
    let Some(value) = fields.get("model") else {
        return nothing;
    };
    let Some(mut model) = Fields::open(value, pointer, MODEL, fields.problems()) else {
        return nothing;
    };
    let name = model.text("name", 1024).and_then(|text| match text.parse::<ModelRef>() {
        Ok(name) => Some(name),
        Err(error) => {
            model.problem("name", error.to_string());
            None
        }
    });
    let settings = ModelSettings {
        temperature: model.number("temperature", 0.0..=2.0),
        top_p: model.number("top_p", 0.0..=1.0),
        max_tokens: model.count("max_tokens", 1..=u64::from(u32::MAX)).map(|count| count as u32),
        seed: read_seed(&mut model),
        stop: model.texts("stop", 16),
        extra: read_extra(&mut model),
    };
    (name, settings)
}

fn read_seed(model: &mut Fields<'_, '_>) -> Option<i64> {
    let value = model.get("seed")?;
    if value.as_i64().is_none() {
        model.problem("seed", "must be an integer of 64 bits");
    }
    value.as_i64()
}

fn read_extra(model: &mut Fields<'_, '_>) -> serde_json::Map<String, Value> {
    match model.get("extra") {
        None => serde_json::Map::new(),
        Some(Value::Object(extra)) => extra.clone(),
        Some(other) => {
            model.problem("extra", format!("must be an object, not {}", type_name(other)));
            serde_json::Map::new()
        }
    }
}
