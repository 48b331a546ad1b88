//! The validator's complaints in words a model can act on.
//!
//! They name keywords, limits and the schema's own values. Of the reply they repeat only property names, cut short.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use promptmill_domain::Reason;
use serde_json::Value;

use crate::json::type_name;
use crate::problem::{list, shorten};

const POINTER: usize = 200;
const VALUE: usize = 200;
/// Alternatives of `anyOf` and `oneOf` whose complaints are given.
const BRANCHES: usize = 3;

/// An error of validating a reply.
pub(crate) fn reason(error: &ValidationError<'_>) -> Reason {
    Reason::at(shorten(error.instance_path().as_str(), POINTER), message(error, 0))
}

/// An error of compiling a schema; it speaks about the template's own text only.
pub(crate) fn build_error(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => {
            "is not a regular expression of the linear-time syntax (no look-around, no back-references), or is too large"
                .to_owned()
        }
        ValidationErrorKind::Referencing(error) => shorten(&error.to_string(), VALUE),
        _ => format!("is not a valid schema: {}", message(error, 0)),
    }
}

fn message(error: &ValidationError<'_>, nesting: usize) -> String {
    let instance = error.instance();
    match error.kind() {
        ValidationErrorKind::AdditionalItems { limit } => format!("must have at most {limit} elements"),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!("must not have the properties: {}", list(unexpected.iter().map(String::as_str), 5))
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            format!("matches none of the allowed forms{}", branches(context, nesting))
        }
        ValidationErrorKind::OneOfMultipleValid { .. } => {
            "matches more than one of the allowed forms".to_owned()
        }
        ValidationErrorKind::Constant { expected_value } => format!("must be {}", value(expected_value)),
        ValidationErrorKind::Contains => {
            "must contain more or fewer elements of the required form".to_owned()
        }
        ValidationErrorKind::Enum { options } => match &**options {
            Value::Array(options) => {
                let known: Vec<String> = options.iter().map(value).collect();
                format!("must be one of: {}", list(known.iter().map(String::as_str), 30))
            }
            other => format!("must be one of: {}", value(other)),
        },
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("must be less than {}", value(limit)),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("must be greater than {}", value(limit)),
        ValidationErrorKind::FalseSchema => "must not be there".to_owned(),
        ValidationErrorKind::Format { format } => format!("must be a valid {}", shorten(format, 60)),
        ValidationErrorKind::MaxItems { limit } => {
            format!("must have at most {limit} elements, has {}", size(instance))
        }
        ValidationErrorKind::MinItems { limit } => {
            format!("must have at least {limit} elements, has {}", size(instance))
        }
        ValidationErrorKind::Maximum { limit } => format!("must be at most {}", value(limit)),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {}", value(limit)),
        ValidationErrorKind::MaxLength { limit } => {
            format!("must have at most {limit} characters, has {}", size(instance))
        }
        ValidationErrorKind::MinLength { limit } => {
            format!("must have at least {limit} characters, has {}", size(instance))
        }
        ValidationErrorKind::MaxProperties { limit } => {
            format!("must have at most {limit} properties, has {}", size(instance))
        }
        ValidationErrorKind::MinProperties { limit } => {
            format!("must have at least {limit} properties, has {}", size(instance))
        }
        ValidationErrorKind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        ValidationErrorKind::Not { .. } => "has a form that is not allowed".to_owned(),
        ValidationErrorKind::Pattern { pattern } => {
            format!("must match the pattern {}", shorten(pattern, VALUE))
        }
        ValidationErrorKind::PropertyNames { error } if nesting < 2 => {
            format!("has a property whose name is not allowed: the name {}", message(error, nesting + 1))
        }
        ValidationErrorKind::PropertyNames { .. } => "has a property whose name is not allowed".to_owned(),
        ValidationErrorKind::Required { property } => format!("must have the property {}", value(property)),
        ValidationErrorKind::Type { kind } => format!("must be {}, not {}", types(kind), type_name(instance)),
        ValidationErrorKind::UnevaluatedItems { .. } => "must not have further elements".to_owned(),
        ValidationErrorKind::UniqueItems => "must not have equal elements".to_owned(),
        ValidationErrorKind::ContentEncoding { content_encoding } => {
            format!("must be encoded as {}", shorten(content_encoding, 60))
        }
        ValidationErrorKind::ContentMediaType { content_media_type } => {
            format!("must be of the media type {}", shorten(content_media_type, 60))
        }
        ValidationErrorKind::Custom { message, .. } => shorten(message, VALUE),
        ValidationErrorKind::BacktrackLimitExceeded { .. }
        | ValidationErrorKind::RegexEngineFailure { .. }
        | ValidationErrorKind::FromUtf8 { .. }
        | ValidationErrorKind::Referencing(_) => "could not be checked against the schema".to_owned(),
    }
}

fn branches(context: &[Vec<ValidationError<'_>>], nesting: usize) -> String {
    // Complaints inside complaints help nobody and could multiply.
    if nesting > 0 {
        return String::new();
    }
    let mut words = String::new();
    for (n, first) in context.iter().filter_map(|errors| errors.first()).take(BRANCHES).enumerate() {
        let place = shorten(first.instance_path().as_str(), 60);
        let at = if place.is_empty() { String::new() } else { format!("{place} ") };
        words.push_str(&format!(
            "{}{at}{}",
            if n == 0 { ": " } else { "; or " },
            message(first, nesting + 1)
        ));
    }
    if context.len() > BRANCHES {
        words.push_str("; …");
    }
    words
}

/// A value of the schema.
fn value(value: &Value) -> String {
    shorten(&value.to_string(), VALUE)
}

fn size(instance: &Value) -> usize {
    match instance {
        Value::String(text) => text.chars().count(),
        Value::Array(elements) => elements.len(),
        Value::Object(members) => members.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => one.to_string(),
        TypeKind::Multiple(several) => {
            let names: Vec<String> = several.iter().map(|one| one.to_string()).collect();
            names.join(" or ")
        }
    }
}
