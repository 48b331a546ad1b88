//! Shapes of the OpenAPI document that no type of ours derives: texts with a pattern, rows, and templates.
//!
//! They describe and check nothing; what checks stands beside the handlers. Each says as much as JSON Schema can, so that what fits a
//! shape is refused only for what lies outside of the request: names that must exist, times in the past, the grammar of templates.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType};
use utoipa::{PartialSchema, ToSchema};

/// The format of templates, as editors have it.
const TEMPLATE: &str = include_str!("../../templates/template.schema.json");

/// No control characters, at least one character.
const PRINTABLE: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";

/// A type that stands for a JSON Schema in the document alone, under this name.
macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident $label:literal = $schema:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                as_is($schema)
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                $label.into()
            }
        }
    )*};
}

shapes! {
    /// A template as it is sent.
    TemplateDocument "Template" = template();
    /// What a reply must be.
    OutputDocument "Output" = inlined(&parsed()["$defs"]["output"], &Value::Null);
    /// The name of a stored template, or its id, with or without a version or a label.
    TemplateName "TemplateName" = json!({
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]{0,99}(@([1-9][0-9]{0,8}|[a-z][a-z0-9._-]{0,49}))?$",
        "description": "name, name@version or name@label, or tmpl_... in place of the name",
    });
    /// A label of a template.
    TemplateLabelText "TemplateLabelName" = json!({"type": "string", "pattern": "^[a-z][a-z0-9._-]{0,49}$"});
    /// A conversation.
    MessageList "Messages" = messages();
    /// One row of a batch.
    RowDocument "Row" = json!({
        "description": "Variables of the template, or messages where there is none.",
        "oneOf": [row("variables", &json!({"type": "object"})), row("messages", &messages())],
    });
    /// A model of a provider.
    ModelName "ModelName" = json!({
        "type": "string",
        "pattern": r"^[a-z0-9_-]+:[^\s\x00-\x1f\x7f-\x9f]+$",
        "maxLength": 256,
    });
    /// A model, or several: those behind the first are asked when those before them do not do.
    ModelNames "ModelNames" = json!({
        "oneOf": [
            {"type": "string", "pattern": r"^[a-z0-9_-]+:[^\s\x00-\x1f\x7f-\x9f]+$", "maxLength": 256},
            {
                "type": "array",
                "items": {"type": "string", "pattern": r"^[a-z0-9_-]+:[^\s\x00-\x1f\x7f-\x9f]+$", "maxLength": 256},
                "minItems": 1,
                "maxItems": 8,
                "uniqueItems": true,
            },
        ],
    });
    /// What people call a batch.
    BatchName "BatchName" = json!({"type": "string", "minLength": 1, "maxLength": 200, "pattern": PRINTABLE});
    /// The labels of a batch.
    LabelMap "Labels" = json!({
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"pattern": "^[A-Za-z0-9_.-]{1,64}$"},
        "additionalProperties": {"type": "string", "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"},
    });
    /// A label that is asked for.
    LabelText "Label" = json!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}:"});
    /// An amount of US dollars above 0.
    Dollars "Dollars" = json!({
        "type": "string",
        "pattern": r"^([1-9][0-9]{0,6}(\.[0-9]{1,12})?|0\.[0-9]{0,11}[1-9])$",
    });
    /// A text that ends a reply.
    StopText "Stop" = json!({"type": "string", "minLength": 1, "maxLength": 1024});
    /// Where events are posted.
    WebhookUrl "WebhookUrl" = json!({
        "type": "string",
        "format": "uri",
        "pattern": r"^https?://[A-Za-z0-9\[]",
        "maxLength": 2048,
    });
    /// A signing secret: 24 to 64 bytes as base64.
    WebhookSecret "WebhookSecret" = json!({
        "type": "string",
        "pattern": concat!(
            "^whsec_([A-Za-z0-9+/]{4}){8,20}",
            "([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|([A-Za-z0-9+/]{4})?[A-Za-z0-9+/][AQgw]==)?$",
        ),
    });
    /// A cursor of ours.
    CursorText "Cursor" = json!({"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z0-9_-]+$"});
    /// A condition: any version, or one.
    EntityTag "EntityTag" = json!({"type": "string", "pattern": r#"^[ \t]*(\*|"v[1-9][0-9]{0,8}")[ \t]*$"#});
    /// One event of a stream.
    EventDocument "Event" = json!({
        "type": "object",
        "description": "Each event of the stream; `data` is JSON.",
        "required": ["event", "data"],
        "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
    });
    /// How a body is packed.
    Packed "ContentEncoding" = json!({"type": "string", "enum": ["gzip", "zstd", "identity"]});
}

/// The schema without null among its types: a parameter is there as a text, or it is not there.
pub(crate) fn never_null(schema: &RefOr<Schema>) -> RefOr<Schema> {
    let Ok(Value::Object(mut keywords)) = serde_json::to_value(schema) else { return schema.clone() };
    if let Some(Value::Array(types)) = keywords.get_mut("type") {
        types.retain(|name| name != "null");
    }
    if let Some(Value::Array(cases)) = keywords.get_mut("oneOf") {
        cases.retain(|case| *case != json!({"type": "null"}));
    }
    as_is(Value::Object(keywords))
}

/// A schema that says exactly this.
fn as_is(schema: Value) -> RefOr<Schema> {
    let keywords = match schema {
        Value::Object(keywords) => keywords,
        _ => Map::new(),
    };
    let keywords: Extensions = keywords.into_iter().collect();
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).extensions(Some(keywords)).into()
}

fn parsed() -> Value {
    serde_json::from_str(TEMPLATE).expect("the schema of templates is JSON, which a test holds")
}

/// The format of templates without references: those of the document begin at another root.
fn template() -> Value {
    let whole = parsed();
    let mut schema = inlined(&whole, &whole["$defs"]);
    if let Some(keywords) = schema.as_object_mut() {
        for elsewhere in ["$schema", "$defs", "title"] {
            keywords.remove(elsewhere);
        }
    }
    schema
}

/// `schema` with what stands in `definitions` in place of each reference to it.
fn inlined(schema: &Value, definitions: &Value) -> Value {
    match schema {
        Value::Object(keywords) => {
            let name =
                keywords.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix("#/$defs/"));
            if let Some(definition) = name.and_then(|name| definitions.get(name)) {
                return inlined(definition, definitions);
            }
            keywords.iter().map(|(name, value)| (name.clone(), inlined(value, definitions))).collect()
        }
        Value::Array(values) => values.iter().map(|value| inlined(value, definitions)).collect(),
        plain => plain.clone(),
    }
}

fn messages() -> Value {
    json!({
        "type": "array",
        "minItems": 1,
        "maxItems": 256,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "additionalProperties": false,
            "properties": {
                "role": {"type": "string", "enum": ["system", "user", "assistant"]},
                "content": {"type": "string", "description": "That of one message at least is not blank."},
            },
        },
    })
}

/// A row whose content is the member `name`.
fn row(name: &str, content: &Value) -> Value {
    json!({
        "type": "object",
        "required": [name],
        "additionalProperties": false,
        "properties": {
            "custom_id": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": PRINTABLE},
            name: content,
        },
    })
}

#[cfg(test)]
mod tests;
