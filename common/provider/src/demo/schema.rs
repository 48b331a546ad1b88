//! Makes a value that a JSON Schema accepts, as far as one can be guessed without search.
//!
//! The same draws give the same value. Depth and size are bounded, so a recursive or hostile schema ends too.

use serde_json::{Map, Value};

use super::draw::Draw;
use super::flatten::{AVOID, flatten};
use super::words::Words;
use super::{pattern, scalar};

/// From here on optional properties are left out and recursions ended.
const SHALLOW_FROM: u32 = 5;
const MAX_DEPTH: u32 = 40;
/// How many values one reply may hold.
const MAX_VALUES: u32 = 5_000;

/// Makes one value.
pub(super) struct Generator<'a> {
    root: &'a Value,
    words: &'a Words,
    draw: Draw,
    values_left: u32,
}

impl<'a> Generator<'a> {
    pub(super) fn new(root: &'a Value, words: &'a Words, draw: Draw) -> Self {
        Self { root, words, draw, values_left: MAX_VALUES }
    }

    /// A value of the whole schema.
    pub(super) fn generate(mut self) -> Value {
        let root = self.root;
        self.value(root, "", 0)
    }

    fn value(&mut self, schema: &Value, property: &str, depth: u32) -> Value {
        if depth > MAX_DEPTH || self.values_left == 0 {
            return Value::Null;
        }
        self.values_left -= 1;
        let Some(plain) = flatten(schema, self.root, depth >= SHALLOW_FROM, &mut self.draw) else {
            return Value::Null;
        };
        if let Some(constant) = plain.get("const") {
            return constant.clone();
        }
        if let Some(Value::Array(values)) = plain.get("enum") {
            let fitting: Vec<&Value> = values.iter().filter(|value| has_type(&plain, value)).collect();
            return self.draw.pick(&fitting).map_or(Value::Null, |value| (*value).clone());
        }
        match self.type_of(&plain, depth).as_str() {
            "object" => Value::Object(self.object(&plain, depth)),
            "array" => Value::Array(self.array(&plain, property, depth)),
            "integer" => scalar::number(&plain, true, &mut self.draw),
            "number" => scalar::number(&plain, false, &mut self.draw),
            "boolean" => Value::Bool(self.draw.percent(50)),
            "null" => Value::Null,
            _ => Value::String(scalar::text(&plain, property, self.words, &mut self.draw)),
        }
    }

    fn type_of(&mut self, plain: &Map<String, Value>, depth: u32) -> String {
        let type_name = match plain.get("type") {
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Array(names)) => {
                let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                let in_depth = depth >= SHALLOW_FROM && names.contains(&"null");
                if in_depth {
                    names.retain(|name| *name == "null");
                } else if names.len() > 1 && !self.draw.percent(15) {
                    names.retain(|name| *name != "null");
                }
                self.draw.pick(&names).map(|name| (*name).to_owned())
            }
            _ => None,
        };
        type_name.unwrap_or_else(|| implied_type(plain).to_owned())
    }

    fn object(&mut self, plain: &Map<String, Value>, depth: u32) -> Map<String, Value> {
        let nothing = Map::new();
        let properties = plain.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        let required: Vec<&str> = names(plain.get("required")).collect();
        let avoided: Vec<&str> = names(plain.get(AVOID)).collect();
        let least = count(plain, "minProperties").unwrap_or(0);
        let most = count(plain, "maxProperties").unwrap_or(usize::MAX);
        let mut wanted: Vec<String> = required.iter().map(|name| (*name).to_owned()).collect();
        let optional = properties
            .iter()
            .filter(|(name, schema)| !required.contains(&name.as_str()) && **schema != Value::Bool(false));
        let mut spare = Vec::new();
        for (name, _) in optional.filter(|(name, _)| !avoided.contains(&name.as_str())) {
            let drawn = depth < SHALLOW_FROM && self.draw.percent(60);
            if drawn && wanted.len() < most {
                wanted.push(name.clone());
            } else {
                spare.push(name.clone());
            }
        }
        while wanted.len() < least.min(most)
            && let Some(name) = spare.pop()
        {
            wanted.push(name);
        }
        self.add_dependent(plain, &mut wanted);
        let mut object = Map::new();
        // In the order of the schema, as a model would write it.
        let known = properties.iter().filter(|(name, _)| wanted.contains(name));
        for (name, schema) in known {
            object.insert(name.clone(), self.value(schema, name, depth + 1));
        }
        for name in wanted.iter().filter(|name| !properties.contains_key(*name)) {
            let schema = further_schema(plain);
            object.insert(name.clone(), self.value(&schema, name, depth + 1));
        }
        self.add_further(plain, &mut object, properties.is_empty(), least, most, depth);
        object
    }

    fn add_dependent(&self, plain: &Map<String, Value>, wanted: &mut Vec<String>) {
        let Some(Value::Object(dependent)) = plain.get("dependentRequired") else {
            return;
        };
        // Each round adds a name or ends, and there are no more names than entries.
        let mut at = 0;
        while let Some(name) = wanted.get(at) {
            let more: Vec<String> = names(dependent.get(name)).map(str::to_owned).collect();
            for name in more {
                if !wanted.contains(&name) {
                    wanted.push(name);
                }
            }
            at += 1;
        }
    }

    /// Fills an object up to its least size, and a map (an object without named properties) with a few entries.
    fn add_further(
        &mut self,
        plain: &Map<String, Value>,
        object: &mut Map<String, Value>,
        is_map: bool,
        least: usize,
        most: usize,
        depth: u32,
    ) {
        let open = plain.get("additionalProperties").is_some_and(Value::is_object)
            || plain.contains_key("patternProperties");
        let entries = if is_map && open && depth < SHALLOW_FROM { 1 + self.small(3) } else { 0 };
        let target = least.max(entries).min(most).min(1000);
        for attempt in 0..target.saturating_mul(4) {
            if object.len() >= target {
                break;
            }
            let name = self.further_name(plain, attempt);
            if !object.contains_key(&name) {
                let schema = further_schema(plain);
                let value = self.value(&schema, &name, depth + 1);
                object.insert(name, value);
            }
        }
    }

    fn further_name(&mut self, plain: &Map<String, Value>, attempt: usize) -> String {
        let patterns = plain.get("patternProperties").and_then(Value::as_object);
        let pattern = match patterns.and_then(|patterns| patterns.keys().next()) {
            Some(pattern) => Some(pattern.as_str()),
            None => {
                plain.get("propertyNames").and_then(|schema| schema.get("pattern")).and_then(Value::as_str)
            }
        };
        pattern.and_then(|pattern| pattern::matching(pattern, 4, &mut self.draw)).unwrap_or_else(|| {
            if attempt < 8 { self.words.word(&mut self.draw) } else { format!("extra_{attempt}") }
        })
    }

    fn array(&mut self, plain: &Map<String, Value>, property: &str, depth: u32) -> Vec<Value> {
        let least = count(plain, "minItems").unwrap_or(0);
        let most = count(plain, "maxItems").unwrap_or(usize::MAX);
        // Draft 4 to 2019 write the leading items as an array under `items`.
        let (leading, rest) = match (plain.get("prefixItems"), plain.get("items")) {
            (Some(Value::Array(leading)), rest) => (leading.as_slice(), rest),
            (_, Some(Value::Array(leading))) => (leading.as_slice(), plain.get("additionalItems")),
            (_, rest) => (&[][..], rest),
        };
        let open = rest != Some(&Value::Bool(false));
        let drawn = if depth >= SHALLOW_FROM { 0 } else { 1 + self.small(3) };
        let wanted =
            least.max(leading.len()).max(if open { drawn } else { 0 }).min(most.max(least)).min(5_000);
        let unique = plain.get("uniqueItems") == Some(&Value::Bool(true));
        let contained = plain.get("contains");
        let anything = Value::Bool(true);
        let mut items: Vec<Value> = Vec::new();
        for at in 0..wanted {
            let schema = match contained {
                Some(contained) if at == leading.len() => contained,
                _ => leading.get(at).or(rest).unwrap_or(&anything),
            };
            let mut item = self.value(schema, property, depth + 1);
            let mut tries = 0;
            while unique && items.contains(&item) && tries < 50 {
                item = self.value(schema, property, depth + 1);
                tries += 1;
            }
            if !unique || !items.contains(&item) {
                items.push(item);
            }
        }
        items
    }

    fn small(&mut self, bound: u64) -> usize {
        usize::try_from(self.draw.below(bound)).unwrap_or(0)
    }
}

/// The schema of a property the object does not name.
fn further_schema(plain: &Map<String, Value>) -> Value {
    let patterns = plain.get("patternProperties").and_then(Value::as_object);
    let schema =
        patterns.and_then(|patterns| patterns.values().next()).or_else(|| plain.get("additionalProperties"));
    schema.filter(|schema| schema.is_object()).cloned().unwrap_or(Value::Bool(true))
}

fn names(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn count(plain: &Map<String, Value>, key: &str) -> Option<usize> {
    plain.get(key).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
}

fn implied_type(plain: &Map<String, Value>) -> &'static str {
    let has = |keys: &[&str]| keys.iter().any(|key| plain.contains_key(*key));
    if has(&["properties", "required", "additionalProperties", "patternProperties", "minProperties"]) {
        "object"
    } else if has(&["items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"]) {
        "array"
    } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
        "number"
    } else {
        "string"
    }
}

fn has_type(plain: &Map<String, Value>, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    match plain.get("type") {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}
