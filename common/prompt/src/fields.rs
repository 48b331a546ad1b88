//! Reading one JSON object of the template format: known keys only, each of the right type, every problem noted.
//!
//! A reader never stops at a problem: what is wrong reads as absent and stands in the list.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::json::type_name;
use crate::problem::{Problem, join, list, nearest, shorten};

/// The most unknown keys of one object that are named.
const UNKNOWN_KEYS: usize = 50;

/// One object of the template being read.
pub(crate) struct Fields<'a, 'p> {
    map: &'a Map<String, Value>,
    pointer: String,
    problems: &'p mut Vec<Problem>,
}

impl<'a, 'p> Fields<'a, 'p> {
    /// Opens the object at `pointer`, noting keys that are not `allowed`; `None` (noted) when it is no object.
    pub(crate) fn open(
        value: &'a Value,
        pointer: impl Into<String>,
        allowed: &[&str],
        problems: &'p mut Vec<Problem>,
    ) -> Option<Self> {
        let pointer = pointer.into();
        let Value::Object(map) = value else {
            problems.push(Problem::at(pointer, format!("must be an object, not {}", type_name(value))));
            return None;
        };
        let unknown = || map.keys().filter(|key| !allowed.contains(&key.as_str()));
        for key in unknown().take(UNKNOWN_KEYS) {
            let hint = match nearest(key, allowed.iter().copied()) {
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => String::new(),
            };
            let known = list(allowed.iter().copied(), 40);
            problems.push(Problem::at(
                join(&pointer, &shorten(key, 60)),
                format!("unknown key{hint} (allowed: {known})"),
            ));
        }
        let more = unknown().count().saturating_sub(UNKNOWN_KEYS);
        if more > 0 {
            problems.push(Problem::at(pointer.as_str(), format!("and {more} more unknown keys")));
        }
        Some(Self { map, pointer, problems })
    }

    /// The pointer of `key`.
    pub(crate) fn at(&self, key: &str) -> String {
        join(&self.pointer, key)
    }

    /// The value of `key` as it is.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// Notes a problem at `key`.
    pub(crate) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let pointer = self.at(key);
        self.problems.push(Problem::at(pointer, message));
    }

    /// The list problems are noted in, for the reader of a nested value.
    pub(crate) fn problems(&mut self) -> &mut Vec<Problem> {
        self.problems
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&mut self, key: &str) -> Option<&'a Value> {
        let value = self.map.get(key);
        if value.is_none() {
            self.problem(key, "is required");
        }
        value
    }

    /// A text of at most `max` bytes.
    pub(crate) fn text(&mut self, key: &str, max: usize) -> Option<&'a str> {
        match self.map.get(key)? {
            Value::String(text) if text.len() <= max => Some(text),
            Value::String(_) => {
                self.problem(key, format!("must be at most {max} bytes long"));
                None
            }
            other => {
                self.wrong_type(key, "a string", other);
                None
            }
        }
    }

    /// A truth value.
    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        match self.map.get(key)? {
            Value::Bool(value) => Some(*value),
            other => {
                self.wrong_type(key, "true or false", other);
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(crate) fn count(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.map.get(key)?;
        match value.as_u64() {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(key, format!("must be an integer from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// A number in `range`.
    pub(crate) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.map.get(key)?;
        match value.as_f64() {
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => {
                self.problem(key, format!("must be a number from {} to {}", range.start(), range.end()));
                None
            }
            None => {
                self.wrong_type(key, "a number", value);
                None
            }
        }
    }

    /// An array of at most `max` elements.
    pub(crate) fn array(&mut self, key: &str, max: usize) -> Option<&'a [Value]> {
        match self.map.get(key)? {
            Value::Array(elements) if elements.len() <= max => Some(elements),
            Value::Array(_) => {
                self.problem(key, format!("must have at most {max} elements"));
                None
            }
            other => {
                self.wrong_type(key, "an array", other);
                None
            }
        }
    }

    /// An array of at most `max` texts that are not empty.
    pub(crate) fn texts(&mut self, key: &str, max: usize) -> Vec<String> {
        let Some(elements) = self.array(key, max) else {
            return Vec::new();
        };
        let filled = elements.iter().filter_map(Value::as_str).filter(|text| !text.is_empty());
        let texts: Vec<String> = filled.map(str::to_owned).collect();
        if texts.len() < elements.len() {
            self.problem(key, "must hold only strings that are not empty");
        }
        texts
    }

    /// One of the names in `choices`.
    pub(crate) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.map.get(key)?;
        let found = value.as_str().and_then(|name| choices.iter().find(|(known, _)| *known == name));
        if found.is_none() {
            let known = list(choices.iter().map(|(name, _)| *name), 20);
            self.problem(key, format!("must be one of: {known}"));
        }
        found.map(|(_, choice)| *choice)
    }

    fn wrong_type(&mut self, key: &str, expected: &str, found: &Value) {
        self.problem(key, format!("must be {expected}, not {}", type_name(found)));
    }
}
