//! The keywords of one schema: reading them and merging two sets.

use serde_json::{Map, Value, json};

/// No length or count is taken to be more than this, or one schema could ask for gigabytes.
const LARGEST: usize = 4_096;

pub(super) type Keywords = Map<String, Value>;

/// A length or count.
pub(super) fn size(keywords: &Keywords, name: &str) -> Option<usize> {
    keywords.get(name).and_then(Value::as_f64).map(|size| (size as usize).min(LARGEST))
}

/// The type to make, guessed from other keywords where none is named.
pub(super) fn type_of(keywords: &Keywords) -> &str {
    match keywords.get("type") {
        Some(Value::String(name)) => return name,
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            return names.clone().find(|name| *name != "null").unwrap_or("null");
        }
        _ => {}
    }
    let has = |names: &[&str]| names.iter().any(|name| keywords.contains_key(*name));
    if has(&["properties", "required", "additionalProperties", "minProperties"]) {
        "object"
    } else if has(&["items", "prefixItems", "minItems", "contains"]) {
        "array"
    } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
        "number"
    } else {
        "string"
    }
}

/// Adds the keywords of `other`; where both have one, the stricter wins as far as it can be told.
pub(super) fn merge(keywords: &mut Keywords, other: Keywords) {
    for (name, theirs) in other {
        let Some(ours) = keywords.get_mut(&name) else {
            keywords.insert(name, theirs);
            continue;
        };
        match (name.as_str(), ours, theirs) {
            ("properties" | "$defs" | "definitions", Value::Object(ours), Value::Object(theirs)) => {
                for (property, schema) in theirs {
                    match ours.get_mut(&property) {
                        Some(known) if *known != schema => *known = json!({"allOf": [known.take(), schema]}),
                        Some(_) => {}
                        None => drop(ours.insert(property, schema)),
                    }
                }
            }
            ("required", Value::Array(ours), Value::Array(theirs)) => ours.extend(theirs),
            ("enum", Value::Array(ours), Value::Array(theirs)) => {
                ours.retain(|choice| theirs.contains(choice));
            }
            (bound, ours, theirs) => {
                let stricter = match (ours.as_f64(), theirs.as_f64()) {
                    (Some(a), Some(b)) if bound.starts_with("min") || bound == "exclusiveMinimum" => b > a,
                    (Some(a), Some(b)) if bound.starts_with("max") || bound == "exclusiveMaximum" => b < a,
                    _ => false,
                };
                if stricter {
                    *ours = theirs;
                }
            }
        }
    }
    if let Some(Value::Array(required)) = keywords.get_mut("required") {
        let mut unique = Vec::with_capacity(required.len());
        for name in required.drain(..) {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        *required = unique;
    }
}
