//! Reading the values of a row from JSON text straight into the engine's own values, in one pass.
//!
//! What a value alone cannot show is noted beside it: depth, keys that stand twice, integers that lost digits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use minijinja::Value as Jinja;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::{Problem, join, shorten};

const ROW_DEPTH: usize = 64;
/// The most bytes of a name.
pub(crate) const KEY_BYTES: usize = 256;
/// The most members of an object.
pub(crate) const KEYS_PER_OBJECT: usize = 10_000;
/// From here on a number that arrives as a fraction may be an integer that lost digits.
const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;

/// What reading noticed beside the values.
#[derive(Default)]
pub(crate) struct Reading {
    /// A number beyond 64 bits passed by.
    pub(crate) wide: bool,
    /// Problems inside the field being read.
    pub(crate) faults: Vec<String>,
}

impl Reading {
    fn fault(&mut self, message: impl FnOnce() -> String) {
        // One problem of a kind is enough to find the place; a hostile row must not fill the memory with them.
        if self.faults.is_empty() {
            self.faults.push(message());
        }
    }
}

/// A member name, borrowed from the text where it has no escapes.
#[derive(serde::Deserialize)]
pub(crate) struct Key<'k>(#[serde(borrow)] Cow<'k, str>);

impl<'k> Key<'k> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_text(self) -> Cow<'k, str> {
        self.0
    }
}

/// Reads one value of a row into the engine's own representation.
pub(crate) struct ValueSeed<'r> {
    pub(crate) reading: &'r mut Reading,
    /// Levels around the value.
    pub(crate) depth: usize,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Jinja;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Jinja, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Jinja;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Jinja, E> {
        Ok(Jinja::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Jinja, E> {
        Ok(Jinja::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Jinja, E> {
        Ok(Jinja::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Jinja, E> {
        self.reading.wide |= value.abs() >= TWO_POW_63;
        Ok(Jinja::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Jinja, E> {
        Ok(Jinja::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Jinja, E> {
        Ok(Jinja::from(value))
    }

    fn visit_unit<E>(self) -> Result<Jinja, E> {
        Ok(Jinja::from(()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Jinja, A::Error> {
        let depth = self.deeper();
        let mut array = Vec::new();
        while let Some(element) =
            elements.next_element_seed(ValueSeed { reading: &mut *self.reading, depth })?
        {
            array.push(element);
        }
        Ok(Jinja::from(array))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Jinja, A::Error> {
        let depth = self.deeper();
        let mut pairs = Vec::new();
        while let Some(key) = members.next_key::<Key<'de>>()? {
            let key = key.as_str();
            if key.len() > KEY_BYTES {
                self.reading.fault(|| format!("a key inside has more than {KEY_BYTES} bytes"));
            }
            let key = Jinja::from(key);
            pairs.push((key, members.next_value_seed(ValueSeed { reading: &mut *self.reading, depth })?));
        }
        let count = pairs.len();
        if count > KEYS_PER_OBJECT {
            self.reading.fault(|| format!("an object inside has more than {KEYS_PER_OBJECT} keys"));
        }
        let object = Jinja::from_pairs(pairs);
        if object.len() != Some(count) {
            self.reading.fault(|| "an object inside has the same key twice".to_owned());
        }
        Ok(object)
    }
}

impl ValueSeed<'_> {
    fn deeper(&mut self) -> usize {
        if self.depth >= ROW_DEPTH {
            self.reading.fault(|| format!("is nested deeper than {ROW_DEPTH} levels"));
        }
        self.depth + 1
    }
}

/// What is said about an integer that lost digits.
pub(crate) const LOST_INTEGER: &str =
    "holds an integer of more than 64 bits, which cannot be kept exactly; send it as a string";

/// The fields of a row that hold integers which were rounded, found in the text because the values no longer show it.
pub(crate) fn lost_integers(text: &str) -> Vec<Problem> {
    let Ok(fields) = serde_json::from_str::<HashMap<Cow<'_, str>, &RawValue>>(text) else {
        return Vec::new();
    };
    let mut problems: Vec<Problem> = fields
        .iter()
        .filter(|(_, raw)| raw_has_lost_integer(raw.get()))
        .map(|(name, _)| Problem::at(join("", &shorten(name, 60)), LOST_INTEGER))
        .collect();
    problems.sort_by(|a, b| a.pointer.cmp(&b.pointer));
    problems
}

/// Whether a JSON text holds an integer literal that neither `i64` nor `u64` can carry.
pub(crate) fn raw_has_lost_integer(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let number = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let len = bytes[at..].iter().take_while(|b| number(b)).count();
                let literal = &text[at..at + len];
                let integer = !literal.contains(['.', 'e', 'E']);
                if integer && literal.parse::<i64>().is_err() && literal.parse::<u64>().is_err() {
                    return true;
                }
                at += len;
            }
            _ => at += 1,
        }
    }
    false
}
