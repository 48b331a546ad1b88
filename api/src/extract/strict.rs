//! What is accepted as JSON at all: no key twice in one object, at most 64 levels, whole characters, numbers in range.

use std::collections::HashSet;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::words;
use crate::problem::{FieldError, Problem, ProblemId};

/// Nesting of arrays and objects.
pub(crate) const MAX_DEPTH: usize = 64;

/// Reads `text` without keeping it.
pub(crate) fn check(text: &str) -> Result<(), Problem> {
    let mut fault = None;
    let mut path = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let walked = Walk { path: &mut path, fault: &mut fault }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    let Err(error) = walked else {
        return Ok(());
    };
    let place = format!("line {} column {}", error.line(), error.column());
    let (error, detail) = match fault {
        Some(Fault::Twice) => {
            let words = "the key stands twice in its object";
            (FieldError::at(words::join(&path), words), format!("{words}, at {place}"))
        }
        Some(Fault::TooDeep) => {
            let words = format!("nested deeper than {MAX_DEPTH} levels");
            (FieldError::at("", words.clone()), format!("{words}, at {place}"))
        }
        None => {
            let words = words::of_syntax(&error);
            (FieldError::at("", words.clone()), format!("{words}, at {place}"))
        }
    };
    Err(Problem::new(ProblemId::InvalidJson).detail(detail).error(error))
}

/// What the grammar allows and we do not.
enum Fault {
    Twice,
    TooDeep,
}

struct Walk<'w> {
    /// The way from the root; where an error ended the walk, the way to it.
    path: &'w mut Vec<String>,
    fault: &'w mut Option<Fault>,
}

impl Walk<'_> {
    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.path.len() == MAX_DEPTH {
            *self.fault = Some(Fault::TooDeep);
            return Err(E::custom("too deep"));
        }
        Ok(())
    }

    fn child(&mut self) -> Walk<'_> {
        Walk { path: self.path, fault: self.fault }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        self.enter()?;
        self.path.push(String::new());
        let mut n = 0_usize;
        while elements.next_element_seed(ElementWalk { walk: self.child(), n })?.is_some() {
            n += 1;
        }
        self.path.pop();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.enter()?;
        let mut keys = HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            self.path.push(key.clone());
            if !keys.insert(key) {
                *self.fault = Some(Fault::Twice);
                return Err(A::Error::custom("twice"));
            }
            members.next_value_seed(self.child())?;
            self.path.pop();
        }
        Ok(())
    }
}

/// An element of an array; its number is the last segment of the path.
struct ElementWalk<'w> {
    walk: Walk<'w>,
    n: usize,
}

impl<'de> DeserializeSeed<'de> for ElementWalk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Some(last) = self.walk.path.last_mut() {
            last.clear();
            last.push_str(&self.n.to_string());
        }
        self.walk.deserialize(deserializer)
    }
}
