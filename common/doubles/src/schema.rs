//! A modest generator: a value that conforms to a JSON Schema, and one that does not.
//!
//! Knows types, constants, bounds, nesting, local references, `allOf` and the first branch of `anyOf` and `oneOf`.
//! Never checks what it made: that is the business of whoever asked.

use serde_json::{Map, Number, Value, json};

use crate::dice::Dice;
use crate::pattern;

/// From this depth on only what is required is made, which ends recursive schemas.
const SPARSE_DEPTH: u32 = 4;
const DEEPEST: u32 = 48;
/// Stands in a generated text where half a surrogate pair will be put.
pub(crate) const SURROGATE_MARK: char = '\u{e000}';

/// A value that conforms to `schema`, always the same for the same dice. With `mark`, the first freely chosen text
/// begins with [`SURROGATE_MARK`].
pub(crate) fn conforming(schema: &Value, dice: Dice, mark: bool) -> Value {
    Generator {
        root: schema,
        dice,
        mark,
    }
    .value(schema, 0)
}

/// A value that does not conform to `schema`; `None` where every value might.
pub(crate) fn violating(schema: &Value, dice: Dice) -> Option<Value> {
    let generator = Generator {
        root: schema,
        dice: dice.clone(),
        mark: false,
    };
    let top = generator.without_branches(schema);
    if let Value::Object(mut object) = conforming(schema, dice, false) {
        let required = top
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        if let Some(missing) = required
            .filter_map(Value::as_str)
            .find(|name| object.contains_key(*name))
        {
            object.shift_remove(missing);
            return Some(Value::Object(object));
        }
    }
    let types = match top.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let others = [
        ("string", json!("none of that")),
        ("boolean", json!(true)),
        ("null", Value::Null),
    ];
    others
        .into_iter()
        .find(|(name, _)| !types.contains(name))
        .map(|(_, value)| value)
}

struct Generator<'s> {
    root: &'s Value,
    dice: Dice,
    mark: bool,
}

type Keywords = Map<String, Value>;

impl Generator<'_> {
    fn value(&mut self, schema: &Value, depth: u32) -> Value {
        let keywords = self.flatten(schema, depth);
        if let Some(constant) = keywords.get("const") {
            return constant.clone();
        }
        if let Some(Value::Array(choices)) = keywords.get("enum") {
            return self.pick(choices).cloned().unwrap_or(Value::Null);
        }
        if depth >= DEEPEST {
            return Value::Null;
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

    fn pick<'v, T>(&mut self, choices: &'v [T]) -> Option<&'v T> {
        usize::try_from(self.dice.below(choices.len() as u64))
            .ok()
            .and_then(|at| choices.get(at))
    }

    /// The schema with references, `allOf` and one branch of each alternative merged into one set of keywords.
    fn flatten(&self, schema: &Value, depth: u32) -> Keywords {
        let mut keywords = self.without_branches(schema);
        for _ in 0..16 {
            let Some(branches) = keywords.remove("anyOf").or_else(|| keywords.remove("oneOf")) else {
                break;
            };
            let branches = branches.as_array().map(Vec::as_slice).unwrap_or_default();
            // Deep inside a recursive schema the branch that ends it is the one without a reference.
            let plain = branches.iter().find(|branch| branch.get("$ref").is_none());
            let chosen = if depth >= SPARSE_DEPTH {
                plain.or(branches.first())
            } else {
                branches.first()
            };
            if let Some(chosen) = chosen {
                merge(&mut keywords, self.without_branches(chosen));
            }
        }
        keywords
    }

    fn without_branches(&self, schema: &Value) -> Keywords {
        let mut keywords = schema.as_object().cloned().unwrap_or_default();
        for _ in 0..32 {
            if let Some(Value::String(reference)) = keywords.remove("$ref") {
                let target = reference
                    .strip_prefix('#')
                    .and_then(|pointer| self.root.pointer(pointer));
                merge(
                    &mut keywords,
                    target.and_then(Value::as_object).cloned().unwrap_or_default(),
                );
            } else if let Some(Value::Array(parts)) = keywords.remove("allOf") {
                for part in parts {
                    merge(&mut keywords, self.without_branches(&part));
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
        let at_most = size(keywords, "maxProperties")
            .unwrap_or(usize::MAX)
            .max(required.len());
        let none = Map::new();
        let properties = keywords
            .get("properties")
            .and_then(Value::as_object)
            .unwrap_or(&none);
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
                let value = self.value(
                    keywords.get("additionalProperties").unwrap_or(&Value::Null),
                    depth + 1,
                );
                object.insert(name.to_owned(), value);
            }
        }
        if let Some(additional) = keywords
            .get("additionalProperties")
            .filter(|schema| **schema != Value::Bool(false))
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
        let usual = if depth >= SPARSE_DEPTH {
            0
        } else {
            first.len().max(1) + self.dice.below(2) as usize
        };
        let closed = *rest.unwrap_or(&Value::Null) == Value::Bool(false);
        let length = usual
            .max(at_least)
            .min(at_most)
            .min(if closed { first.len() } else { usize::MAX });
        let rest = rest
            .or_else(|| keywords.get("contains"))
            .cloned()
            .unwrap_or_else(|| json!({"type": "string"}));
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

    fn integer(&mut self, keywords: &Keywords) -> Value {
        let whole = |name: &str| keywords.get(name).and_then(Value::as_f64);
        let low = [
            whole("minimum").map(f64::ceil),
            whole("exclusiveMinimum").map(|low| low.floor() + 1.0),
        ];
        let high = [
            whole("maximum").map(f64::floor),
            whole("exclusiveMaximum").map(|high| high.ceil() - 1.0),
        ];
        // Out of range casts saturate, which is what an unbounded side wants.
        let low = low.into_iter().flatten().reduce(f64::max).map(|low| low as i64);
        let high = high
            .into_iter()
            .flatten()
            .reduce(f64::min)
            .map(|high| high as i64);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low, low.saturating_add(100)),
            (None, Some(high)) if high >= 0 => (0, high),
            (None, Some(high)) => (high.saturating_sub(100), high),
            (None, None) => (0, 100),
        };
        let step = whole("multipleOf")
            .map(|step| step as i64)
            .filter(|step| *step > 1);
        let value = match step {
            None => self.dice.between(low, high),
            Some(step) => {
                let first = low.div_euclid(step) + i64::from(low.rem_euclid(step) != 0);
                self.dice
                    .between(first, high.div_euclid(step))
                    .saturating_mul(step)
            }
        };
        Value::from(value)
    }

    fn number(&mut self, keywords: &Keywords) -> Value {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_f64);
        let low = [bound("minimum"), bound("exclusiveMinimum")]
            .into_iter()
            .flatten()
            .reduce(f64::max);
        let high = [bound("maximum"), bound("exclusiveMaximum")]
            .into_iter()
            .flatten()
            .reduce(f64::min);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low, low + 100.0),
            (None, Some(high)) => (if high > 0.0 { 0.0 } else { high - 100.0 }, high),
            (None, None) => (0.0, 100.0),
        };
        let part = [0.25, 0.5, 0.75][self.dice.below(3) as usize];
        let between = low + (high - low) * part;
        let value = match bound("multipleOf").filter(|step| *step > 0.0) {
            // The multiple next above the middle: inside the bounds whenever they hold two steps.
            Some(step) => (between / step).floor() * step,
            None => between,
        };
        Number::from_f64(value).map_or(Value::from(0), Value::Number)
    }

    fn string(&mut self, keywords: &Keywords) -> String {
        let at_least = size(keywords, "minLength").unwrap_or(0);
        let at_most = size(keywords, "maxLength").unwrap_or(usize::MAX).max(at_least);
        if let Some(sample) = keywords
            .get("format")
            .and_then(Value::as_str)
            .and_then(|name| self.format(name))
        {
            return sample;
        }
        if let Some(pattern) = keywords.get("pattern").and_then(Value::as_str) {
            let longest = u32::try_from(at_least).unwrap_or(u32::MAX).min(4_096);
            let fits = |text: &String| (at_least..=at_most).contains(&text.chars().count());
            let start = self.dice.next();
            let text = (0..=longest)
                .find_map(|extra| pattern::matching(pattern, extra, &mut Dice::new(start)).filter(fits));
            if let Some(text) = text {
                return text;
            }
        }
        let mut text = words(&mut self.dice, 2);
        while text.chars().count() < at_least {
            text.push(' ');
            text.push_str(&words(&mut self.dice, 4));
        }
        if at_most < text.len() {
            text = text.chars().take(at_most).collect();
        }
        if self.mark && !text.is_empty() {
            self.mark = false;
            text = std::iter::once(SURROGATE_MARK)
                .chain(text.chars().skip(1))
                .collect();
        }
        text
    }

    fn format(&mut self, name: &str) -> Option<String> {
        let n = self.dice.below(28) + 1;
        Some(match name {
            "date" => format!("2026-02-{n:02}"),
            "time" => format!("11:{n:02}:00Z"),
            "date-time" => format!("2026-02-{n:02}T11:05:00Z"),
            "duration" => format!("P{n}D"),
            "email" | "idn-email" => format!("reader{n}@example.com"),
            "hostname" | "idn-hostname" => format!("host{n}.example.com"),
            "ipv4" => format!("192.0.2.{n}"),
            "ipv6" => format!("2001:db8::{n:x}"),
            "uri" | "uri-reference" | "iri" | "iri-reference" | "url" => format!("https://example.com/{n}"),
            "uuid" => format!("00000000-0000-4000-8000-{n:012x}"),
            "json-pointer" => format!("/items/{n}"),
            "relative-json-pointer" => format!("{n}/items"),
            "regex" => "^[a-z]+$".to_owned(),
            _ => return None,
        })
    }
}

/// Words of several alphabets, and one with a quotation mark, so that encodings are exercised.
pub(crate) fn words(dice: &mut Dice, count: u64) -> String {
    const WORDS: [&str; 16] = [
        "amber",
        "birch",
        "cobalt",
        "delta",
        "ember",
        "fjord",
        "gravel",
        "harbour",
        "naïve",
        "город",
        "東京",
        "willow",
        "said \"yes\"",
        "quartz, fine",
        "river",
        "Straße",
    ];
    let mut text = String::new();
    for _ in 0..count + dice.below(count.max(1)) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[(dice.next() % 16) as usize]);
    }
    text
}

fn size(keywords: &Keywords, name: &str) -> Option<usize> {
    keywords
        .get(name)
        .and_then(Value::as_f64)
        .map(|size| size as usize)
}

fn type_of(keywords: &Keywords) -> &str {
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
    } else if has(&[
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ]) {
        "number"
    } else {
        "string"
    }
}

/// Adds the keywords of `other`; where both have one, the stricter wins as far as it can be told.
fn merge(keywords: &mut Keywords, other: Keywords) {
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
                ours.retain(|choice| theirs.contains(choice))
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
