//! Which columns a CSV of outcomes has.

use std::collections::HashMap;

use promptmill_prompt::{OutputSpec, Template};
use serde_json::Value;

use crate::csv_rows::is_open;

/// The columns of a CSV of outcomes, in order:
///
/// `index`, `custom_id`, `outcome`, then the output, then `error_kind`, `error_message`, `attempts`, `calls`,
/// `prompt_tokens`, `completion_tokens`, `cost`, `flags` (separated by blanks), then one `input.NAME` for each variable
/// of the template where inputs are asked for (and `input_other` when the template takes variables it does not name).
///
/// The output is one column `output`, unless the template's output schema is of `type: object` and names properties:
/// then each is a column `output.NAME`, in the schema's order, and where the schema lets further members through, a
/// column `output_other` takes them as a JSON object. Strings stand in cells as they are, numbers and booleans as JSON
/// writes them, arrays and objects as JSON text; null and what is absent are empty cells (JSON Lines keeps them apart).
#[derive(Debug, Clone)]
pub struct CsvColumns {
    pub(super) output: Option<Members>,
    pub(super) input: Option<Members>,
}

/// A JSON object spread over columns.
#[derive(Debug, Clone)]
pub(super) struct Members {
    pub(super) names: Vec<String>,
    /// Whether a last column takes the members without one of their own.
    pub(super) other: bool,
    positions: HashMap<String, usize>,
}

impl CsvColumns {
    /// The columns for outcomes of `template`.
    pub fn of(template: &Template, include_input: bool) -> Self {
        let schema = match template.output() {
            OutputSpec::Json { schema } => schema.as_ref().map(|schema| &schema.schema),
            OutputSpec::Text { .. } => None,
        };
        let names = template.variables().iter().map(|variable| variable.name.clone()).collect();
        Self {
            output: schema.and_then(Members::of_schema),
            input: include_input.then(|| Members::new(names, is_open(template))),
        }
    }

    pub(super) fn header(&self) -> Vec<String> {
        let mut header: Vec<String> = ["index", "custom_id", "outcome"].map(str::to_owned).into();
        match &self.output {
            None => header.push("output".to_owned()),
            Some(members) => header.extend(members.header("output")),
        }
        let fixed = [
            "error_kind",
            "error_message",
            "attempts",
            "calls",
            "prompt_tokens",
            "completion_tokens",
            "cost",
            "flags",
        ];
        header.extend(fixed.map(str::to_owned));
        header.extend(self.input.iter().flat_map(|members| members.header("input")));
        header
    }
}

impl Members {
    pub(super) fn new(names: Vec<String>, other: bool) -> Self {
        let positions = names.iter().enumerate().map(|(position, name)| (name.clone(), position)).collect();
        Self { names, other, positions }
    }

    /// The columns of an object schema that names its properties; `None` for any other schema.
    pub(super) fn of_schema(schema: &Value) -> Option<Self> {
        let properties = schema.get("properties")?.as_object()?;
        if schema.get("type")?.as_str()? != "object" || properties.is_empty() {
            return None;
        }
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let other = !closed || schema.get("patternProperties").is_some();
        Some(Self::new(properties.keys().cloned().collect(), other))
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    fn header(&self, prefix: &str) -> impl Iterator<Item = String> {
        let other = self.other.then(|| format!("{prefix}_other"));
        self.names.iter().map(move |name| format!("{prefix}.{name}")).chain(other)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header(schema: &Value) -> Vec<String> {
        let columns = CsvColumns { output: Members::of_schema(schema), input: None };
        let header = columns.header();
        header[3..header.len() - 8].to_vec()
    }

    #[test]
    fn an_object_schema_gives_a_column_for_each_property_in_its_order() {
        let closed = json!({
            "type": "object",
            "properties": { "zeta": { "type": "string" }, "alpha": { "type": "array" } },
            "additionalProperties": false,
        });
        assert_eq!(header(&closed), ["output.zeta", "output.alpha"]);
        let open = json!({ "type": "object", "properties": { "a": {} } });
        assert_eq!(header(&open), ["output.a", "output_other"]);
        let patterns = json!({
            "type": "object", "properties": { "a": {} },
            "patternProperties": { "^x": {} }, "additionalProperties": false,
        });
        assert_eq!(header(&patterns), ["output.a", "output_other"]);
    }

    #[test]
    fn any_other_schema_gives_one_column() {
        for other in [
            json!({}),
            json!(true),
            json!({ "type": "array" }),
            json!({ "type": "object" }),
            json!({ "type": "object", "properties": {} }),
            json!({ "properties": { "a": {} } }),
            json!({ "type": ["object", "null"], "properties": { "a": {} } }),
        ] {
            assert_eq!(header(&other), ["output"], "{other}");
        }
    }
}
