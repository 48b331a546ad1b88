//! Reading JSON once, into `serde_json::Value`, while seeing what `Value` itself hides: duplicate keys, depth, size.
//!
//! Used for templates and for replies. Rows are read by `row`, straight into engine values.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::problem::push_segment;

/// How many duplicate keys are named; the rest is only known to exist.
const NAMED_DUPLICATES: usize = 20;

/// A JSON text, read.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The value; of a duplicate key the last one.
    pub(crate) value: Value,
    /// Pointers of keys that occur twice in one object.
    pub(crate) duplicates: Vec<String>,
    /// Nesting: 0 for a scalar, 1 for a flat array or object.
    pub(crate) depth: usize,
    /// Values of any kind, the root included.
    pub(crate) nodes: usize,
    /// Elements of the longest array.
    pub(crate) longest_array: usize,
}

/// Reads `text`; nothing but white space may follow the value.
pub(crate) fn parse(text: &str) -> Result<Parsed, serde_json::Error> {
    let mut facts = Facts::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed { facts: &mut facts, path: None, depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    let Facts { duplicates, depth, nodes, longest_array } = facts;
    Ok(Parsed { value, duplicates, depth, nodes, longest_array })
}

#[derive(Default)]
struct Facts {
    duplicates: Vec<String>,
    depth: usize,
    nodes: usize,
    longest_array: usize,
}

/// The way from the root to the value being read, kept on the stack and written out only when needed.
#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    segment: Segment<'p>,
}

#[derive(Clone, Copy)]
enum Segment<'p> {
    Key(&'p str),
    Index(usize),
}

impl Path<'_> {
    fn write(&self, pointer: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(pointer);
        }
        match self.segment {
            Segment::Key(key) => push_segment(pointer, key),
            Segment::Index(index) => push_segment(pointer, &index.to_string()),
        }
    }
}

struct Seed<'f, 'p> {
    facts: &'f mut Facts,
    path: Option<&'p Path<'p>>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.facts.nodes += 1;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let depth = self.depth + 1;
        self.facts.depth = self.facts.depth.max(depth);
        let mut array = Vec::new();
        loop {
            let path = Path { parent: self.path, segment: Segment::Index(array.len()) };
            let seed = Seed { facts: &mut *self.facts, path: Some(&path), depth };
            let Some(element) = elements.next_element_seed(seed)? else {
                break;
            };
            array.push(element);
        }
        self.facts.longest_array = self.facts.longest_array.max(array.len());
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let depth = self.depth + 1;
        self.facts.depth = self.facts.depth.max(depth);
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let path = Path { parent: self.path, segment: Segment::Key(&key) };
            let value =
                members.next_value_seed(Seed { facts: &mut *self.facts, path: Some(&path), depth })?;
            match object.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(mut taken) => {
                    if self.facts.duplicates.len() == NAMED_DUPLICATES {
                        return Err(A::Error::custom("too many duplicate keys"));
                    }
                    let mut pointer = String::new();
                    Path { parent: self.path, segment: Segment::Key(taken.key()) }.write(&mut pointer);
                    self.facts.duplicates.push(pointer);
                    taken.insert(value);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// The JSON type of a value, in the words of JSON Schema (a whole number is an `integer`).
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What `serde_json` complains about, without the content it may quote.
pub(crate) fn syntax_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Only errors of the grammar carry fixed words; anything else could quote the text.
    let words = text.split(" at line ").next().unwrap_or("invalid JSON");
    match error.line() {
        0 => words.to_owned(),
        line => format!("{words} at line {line} column {}", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_equals_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,3.5,1e3,true,null,"x\n"],"b":{"c":18446744073709551615}}"#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!((parsed.depth, parsed.nodes, parsed.longest_array), (2, 11, 7));
    }

    #[test]
    fn duplicate_keys_are_named_by_pointer() {
        let parsed = parse(r#"{"a":[{"b":1,"b":2}],"x/y":0,"x/y":1}"#).unwrap();
        assert_eq!(parsed.duplicates, ["/a/0/b", "/x~1y"]);
        assert_eq!(parsed.value["a"][0]["b"], 2);
    }

    #[test]
    fn nesting_beyond_127_levels_is_refused() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(parse(&nested(127)).unwrap().depth, 127);
        assert!(parse(&nested(128)).is_err());
    }

    #[test]
    fn text_after_the_value_is_refused() {
        for bad in ["{} x", "", "NaN", "1e400", "[1,]", "\u{feff}{}", "\"a\nb\"", r#""\ud800""#] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
