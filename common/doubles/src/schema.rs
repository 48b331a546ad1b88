//! A modest generator: a value that conforms to a JSON Schema, and one that does not.
//!
//! Knows types, constants, bounds, nesting, local references, `allOf` and the first branch of `anyOf` and `oneOf`.
//! Never checks what it made: that is the business of whoever asked.

mod keywords;
mod leaves;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::dice::Dice;
use keywords::{Keywords, merge, size, type_of};
pub(crate) use leaves::words;

/// From this depth on only what is required is made, which ends recursive schemas.
const SPARSE_DEPTH: u32 = 4;
/// A schema that requires itself has no finite value; here it gets `null`.
const DEEPEST: u32 = 48;
/// Values made and schemas merged for one reply; what is beyond becomes `null`.
const BUDGET: u32 = 20_000;
/// Stands in a generated text where half a surrogate pair will be put.
pub(crate) const SURROGATE_MARK: char = '\u{e000}';

/// A value that conforms to `schema`, always the same for the same dice. With `mark`, the first freely chosen text
/// begins with [`SURROGATE_MARK`].
pub(crate) fn conforming(schema: &Value, dice: Dice, mark: bool) -> Value {
    Generator { root: schema, dice, mark, budget: BUDGET }.value(schema, 0)
}

/// A value that does not conform to `schema`; `None` where every value might.
pub(crate) fn violating(schema: &Value, dice: Dice) -> Option<Value> {
    let mut generator = Generator { root: schema, dice: dice.clone(), mark: false, budget: BUDGET };
    // What one branch of an alternative requires, another may not, so branches are left aside here.
    let top = generator.without_branches(schema, 0);
    if let Value::Object(mut object) = conforming(schema, dice, false) {
        let required = top.get("required").and_then(Value::as_array).into_iter().flatten();
        if let Some(missing) = required.filter_map(Value::as_str).find(|name| object.contains_key(*name)) {
            object.shift_remove(missing);
            return Some(Value::Object(object));
        }
    }
    let types = match top.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let others = [("string", json!("none of that")), ("boolean", json!(true)), ("null", Value::Null)];
    others.into_iter().find(|(name, _)| !types.contains(name)).map(|(_, value)| value)
}

struct Generator<'s> {
    root: &'s Value,
    dice: Dice,
    mark: bool,
    budget: u32,
}

impl Generator<'_> {
    fn value(&mut self, schema: &Value, depth: u32) -> Value {
        if depth >= DEEPEST || !self.spend() {
            return Value::Null;
        }
        let keywords = self.flatten(schema, depth);
        if let Some(constant) = keywords.get("const") {
            return constant.clone();
        }
        if let Some(Value::Array(choices)) = keywords.get("enum") {
            let at = usize::try_from(self.dice.below(choices.len() as u64)).unwrap_or(0);
            return choices.get(at).cloned().unwrap_or(Value::Null);
        }
        match type_of(&keywords) {
            "object" => self.object(&keywords, depth),
            "array" => self.array(&keywords, depth),
            "integer" => self.integer(&keywords),
            "number" => self.number(&keywords),
            "boolean" => Value::Bool(self.dice.below(2) == 1),
            "null" => Value::Null,
            _ => Value::String(self.string(&keywords)),
        }
    }

    fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }

    /// The schema with references, `allOf` and one branch of each alternative merged into one set of keywords.
    fn flatten<'v>(&mut self, schema: &'v Value, depth: u32) -> Cow<'v, Keywords> {
        const MERGED: [&str; 4] = ["$ref", "allOf", "anyOf", "oneOf"];
        if let Some(keywords) = schema.as_object()
            && !MERGED.iter().any(|name| keywords.contains_key(*name))
        {
            return Cow::Borrowed(keywords);
        }
        let mut keywords = self.without_branches(schema, 0);
        while self.spend() {
            let Some(branches) = keywords.remove("anyOf").or_else(|| keywords.remove("oneOf")) else {
                break;
            };
            let branches = branches.as_array().map(Vec::as_slice).unwrap_or_default();
            // Deep inside a recursive schema the branch that ends it is the one without a reference.
            let plain = branches.iter().find(|branch| branch.get("$ref").is_none());
            let chosen = if depth >= SPARSE_DEPTH { plain.or(branches.first()) } else { branches.first() };
            if let Some(chosen) = chosen {
                let chosen = self.without_branches(chosen, 0);
                merge(&mut keywords, chosen);
            }
        }
        Cow::Owned(keywords)
    }

    fn without_branches(&mut self, schema: &Value, nested: u32) -> Keywords {
        let mut keywords = schema.as_object().cloned().unwrap_or_default();
        while nested < DEEPEST && self.spend() {
            if let Some(Value::String(reference)) = keywords.remove("$ref") {
                let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
                merge(&mut keywords, target.and_then(Value::as_object).cloned().unwrap_or_default());
            } else if let Some(Value::Array(parts)) = keywords.remove("allOf") {
                for part in parts {
                    let part = self.without_branches(&part, nested + 1);
                    merge(&mut keywords, part);
                }
            } else {
                break;
            }
        }
        keywords
    }

    fn object(&mut self, keywords: &Keywords, depth: u32) -> Value {
        let required: Vec<&str> = keywords
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let at_least = size(keywords, "minProperties").unwrap_or(0);
        let at_most = size(keywords, "maxProperties").unwrap_or(usize::MAX).max(required.len());
        let none = Map::new();
        let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let mut room = at_most - required.len();
        let mut lacking = at_least.saturating_sub(required.len());
        let mut object = Map::new();
        for (name, schema) in properties {
            let optional = !required.contains(&name.as_str());
            if optional {
                let wanted = lacking > 0 || (depth < SPARSE_DEPTH && self.dice.below(4) > 0);
                if !wanted || room == 0 || *schema == Value::Bool(false) {
                    continue;
                }
                room -= 1;
                lacking = lacking.saturating_sub(1);
            }
            object.insert(name.clone(), self.value(schema, depth + 1));
        }
        for name in required {
            if !object.contains_key(name) {
                let value =
                    self.value(keywords.get("additionalProperties").unwrap_or(&Value::Null), depth + 1);
                object.insert(name.to_owned(), value);
            }
        }
        if let Some(additional) =
            keywords.get("additionalProperties").filter(|schema| **schema != Value::Bool(false))
        {
            let wanted = if properties.is_empty() && room > 0 && depth < SPARSE_DEPTH {
                at_least.max(1)
            } else {
                at_least
            };
            while object.len() < wanted {
                let value = self.value(additional, depth + 1);
                object.insert(format!("key{}", object.len()), value);
            }
        } else if !keywords.contains_key("additionalProperties") {
            while object.len() < at_least {
                object.insert(format!("key{}", object.len()), Value::Bool(true));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, keywords: &Keywords, depth: u32) -> Value {
        let at_least = size(keywords, "minItems").unwrap_or(0);
        let at_most = size(keywords, "maxItems").unwrap_or(usize::MAX);
        let (first, rest) = match (keywords.get("prefixItems"), keywords.get("items")) {
            (Some(Value::Array(first)), rest) => (first.as_slice(), rest),
            // Before draft 2020-12 the positions stood in `items` and the rest in `additionalItems`.
            (_, Some(Value::Array(first))) => (first.as_slice(), keywords.get("additionalItems")),
            (_, rest) => (&[][..], rest),
        };
        let usual = if depth >= SPARSE_DEPTH { 0 } else { first.len().max(1) + self.dice.below(2) as usize };
        let closed = *rest.unwrap_or(&Value::Null) == Value::Bool(false);
        let length = usual.max(at_least).min(at_most).min(if closed { first.len() } else { usize::MAX });
        let rest =
            rest.or_else(|| keywords.get("contains")).cloned().unwrap_or_else(|| json!({"type": "string"}));
        let unique = keywords.get("uniqueItems") == Some(&Value::Bool(true));
        let mut items: Vec<Value> = Vec::new();
        let mut tries = 0;
        while items.len() < length && tries < length.saturating_mul(8).saturating_add(32) {
            tries += 1;
            let item = self.value(first.get(items.len()).unwrap_or(&rest), depth + 1);
            if !unique || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }
}
