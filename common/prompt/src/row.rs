//! One row of variables: read from JSON or from the texts of a CSV row, checked, completed with defaults.
//!
//! A row is read once, straight into the engine's own values. Both ways of reading end in the same check, so the
//! same row gives equal [`Variables`] whichever way it came. Problems name fields and limits, never content.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use minijinja::Value as Jinja;
use minijinja::value::ValueKind;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::syntax_message;
use crate::problem::{Problem, join, nearest, shorten};
use crate::variables::{Variable, VariableKind, VariableSpec};

/// The most bytes of a row.
pub(crate) const ROW_BYTES: usize = 1 << 20;
const ROW_DEPTH: usize = 64;
const KEY_BYTES: usize = 256;
const KEYS_PER_OBJECT: usize = 10_000;
/// From here on a number that arrives as a fraction may be an integer that lost digits.
const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;

/// The checked variables of one row, defaults filled in, in the order the template declares them.
#[derive(Clone, PartialEq)]
pub struct Variables {
    root: Jinja,
}

/// A stored row that is not the JSON object it was stored as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored variables are not a JSON object")]
pub struct CorruptVariables;

impl Variables {
    /// The canonical JSON text: one line, the declared order, defaults included. Equal rows give equal texts.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.root).expect("a map of JSON values with string keys is written as JSON")
    }

    /// Reads back what [`Variables::to_json`] wrote, without checking it against a template again.
    ///
    /// # Errors
    /// [`CorruptVariables`] when the text is not a JSON object.
    pub fn from_json(text: &str) -> Result<Self, CorruptVariables> {
        let root: Jinja = serde_json::from_str(text).map_err(|_| CorruptVariables)?;
        if root.kind() == ValueKind::Map { Ok(Self { root }) } else { Err(CorruptVariables) }
    }

    /// The row as the engine sees it; a cheap handle.
    pub(crate) fn root(&self) -> &Jinja {
        &self.root
    }
}

/// Says how many there are and not what they hold: a row never reaches a log by accident.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Variables({})", self.root.len().unwrap_or(0))
    }
}

/// What rows are checked against.
pub(crate) struct RowCheck {
    specs: Vec<VariableSpec>,
    compiled: Vec<Variable>,
    slots: HashMap<String, usize>,
    /// Whether names that are not declared pass (templates without `variables`).
    open: bool,
}

/// The values of a row being read: declared ones by slot, others by name.
struct Draft<'t> {
    values: Vec<Option<Jinja>>,
    seen: Vec<bool>,
    extras: Vec<(Cow<'t, str>, Jinja)>,
    problems: Vec<Problem>,
}

impl RowCheck {
    pub(crate) fn new(specs: Vec<VariableSpec>, compiled: Vec<Variable>, open: bool) -> Self {
        let slots = specs.iter().enumerate().map(|(slot, spec)| (spec.name.clone(), slot)).collect();
        Self { specs, compiled, slots, open }
    }

    pub(crate) fn specs(&self) -> &[VariableSpec] {
        &self.specs
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// A row as a JSON object.
    pub(crate) fn check(&self, text: &str) -> Result<Variables, Vec<Problem>> {
        if text.len() > ROW_BYTES {
            return Err(vec![Problem::whole(format!("a row has at most {ROW_BYTES} bytes"))]);
        }
        let mut draft = Draft::new(self.specs.len());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut reading = Reading::default();
        let visitor = RowVisitor { check: self, draft: &mut draft, reading: &mut reading };
        if let Err(error) = deserializer.deserialize_map(visitor).and_then(|()| deserializer.end()) {
            draft.problems.push(Problem::whole(row_syntax(&error)));
            return Err(draft.problems);
        }
        if reading.wide {
            draft.problems.extend(lost_integers(text));
        }
        self.finish(draft)
    }

    /// A row as the texts of named fields.
    pub(crate) fn check_texts(&self, fields: &[(&str, &str)]) -> Result<Variables, Vec<Problem>> {
        let mut draft = Draft::new(self.specs.len());
        if fields.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>() > ROW_BYTES {
            return Err(vec![Problem::whole(format!("a row has at most {ROW_BYTES} bytes"))]);
        }
        for (name, text) in fields {
            let Some(&slot) = self.slots.get(*name) else {
                self.note_unknown(name, &mut draft.problems);
                if self.open {
                    draft.extras.push((Cow::Borrowed(name), Jinja::from(*text)));
                }
                continue;
            };
            if std::mem::replace(&mut draft.seen[slot], true) {
                draft.problems.push(duplicate(name));
                continue;
            }
            match typed(&self.specs[slot], text) {
                Ok(value) => draft.values[slot] = value,
                Err(message) => draft.problems.push(Problem::at(join("", name), message)),
            }
        }
        self.finish(draft)
    }

    fn note_unknown(&self, name: &str, problems: &mut Vec<Problem>) {
        if name.len() > KEY_BYTES {
            problems.push(Problem::at(join("", &shorten(name, 60)), format!("a name has at most {KEY_BYTES} bytes")));
        } else if !self.open {
            let hint = match nearest(name, self.specs.iter().map(|spec| spec.name.as_str())) {
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => String::new(),
            };
            problems.push(Problem::at(join("", &shorten(name, 60)), format!("unknown variable{hint}")));
        }
    }

    /// Checks every value, fills in defaults and puts the row in its canonical order.
    fn finish(&self, draft: Draft<'_>) -> Result<Variables, Vec<Problem>> {
        let Draft { values, mut extras, mut problems, .. } = draft;
        extras.sort_by(|(a, _), (b, _)| a.cmp(b));
        problems.extend(extras.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| duplicate(&pair[0].0)));
        let mut pairs = Vec::with_capacity(values.len() + extras.len());
        for ((spec, variable), value) in self.specs.iter().zip(&self.compiled).zip(values) {
            let pointer = || join("", &spec.name);
            match value {
                Some(value) => match spec.check(variable, value) {
                    Ok(value) => pairs.push((spec.name.as_str(), value)),
                    Err(message) => problems.push(Problem::at(pointer(), message)),
                },
                None => match &variable.default {
                    Some(default) => pairs.push((spec.name.as_str(), default.clone())),
                    // A field that was there and could not be read has its own problem already.
                    None if spec.required && !problems.iter().any(|problem| problem.pointer == pointer()) => {
                        problems.push(Problem::at(pointer(), "is required"));
                    }
                    None => {}
                },
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        pairs.extend(extras.iter_mut().map(|(name, value)| (&**name, std::mem::take(value))));
        Ok(Variables { root: Jinja::from_pairs(pairs) })
    }
}

impl Draft<'_> {
    fn new(slots: usize) -> Self {
        Self { values: vec![None; slots], seen: vec![false; slots], extras: Vec::new(), problems: Vec::new() }
    }
}

fn duplicate(name: &str) -> Problem {
    Problem::at(join("", &shorten(name, 60)), "stands twice in the row")
}

fn row_syntax(error: &serde_json::Error) -> String {
    if error.is_data() {
        return "a row is a JSON object".to_owned();
    }
    format!("not valid JSON: {}", syntax_message(error))
}

/// The value a text stands for under a declaration; `None` is absence.
fn typed(spec: &VariableSpec, text: &str) -> Result<Option<Jinja>, String> {
    match spec.kind {
        None | Some(VariableKind::String) => {
            Ok((!text.is_empty() || spec.required).then(|| Jinja::from(text)))
        }
        Some(_) if text.trim().is_empty() => Ok(None),
        Some(VariableKind::Boolean) => match text.trim() {
            word if word.eq_ignore_ascii_case("true") => Ok(Some(Jinja::from(true))),
            word if word.eq_ignore_ascii_case("false") => Ok(Some(Jinja::from(false))),
            _ => Err("must be true or false".to_owned()),
        },
        Some(kind) => {
            let mut reading = Reading::default();
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let seed = ValueSeed { reading: &mut reading, depth: 1 };
            let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
            let value = value.map_err(|_| format!("must be {} written as JSON", kind.as_str()))?;
            if reading.wide && raw_has_lost_integer(text) {
                return Err(LOST_INTEGER.to_owned());
            }
            match reading.faults.pop() {
                Some(fault) => Err(fault),
                None => Ok(Some(value)),
            }
        }
    }
}

/// What reading noticed beside the values.
#[derive(Default)]
struct Reading {
    /// A number beyond 64 bits passed by.
    wide: bool,
    /// Problems inside the field being read.
    faults: Vec<String>,
}

impl Reading {
    fn fault(&mut self, message: impl FnOnce() -> String) {
        // One problem of a kind is enough to find the place; a hostile row must not fill the memory with them.
        if self.faults.is_empty() {
            self.faults.push(message());
        }
    }
}

struct RowVisitor<'r, 't> {
    check: &'r RowCheck,
    draft: &'r mut Draft<'t>,
    reading: &'r mut Reading,
}

impl<'de> Visitor<'de> for RowVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key::<Key<'de>>()? {
            let name = key.as_str();
            let value = members.next_value_seed(ValueSeed { reading: &mut *self.reading, depth: 1 })?;
            let problems = &mut self.draft.problems;
            if problems.len() >= 100 {
                return Err(A::Error::custom("too many problems"));
            }
            if let Some(fault) = self.reading.faults.pop() {
                problems.push(Problem::at(join("", &shorten(name, 60)), fault));
                self.reading.faults.clear();
            }
            match self.check.slots.get(name) {
                Some(&slot) => {
                    if std::mem::replace(&mut self.draft.seen[slot], true) {
                        problems.push(duplicate(name));
                    }
                    self.draft.values[slot] = (!value.is_none()).then_some(value);
                }
                None => {
                    self.check.note_unknown(name, problems);
                    if self.check.open {
                        if self.draft.extras.len() >= KEYS_PER_OBJECT {
                            return Err(A::Error::custom("too many keys"));
                        }
                        if !value.is_none() {
                            self.draft.extras.push((Cow::Owned(name.to_owned()), value));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A member name, borrowed from the text where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'k>(#[serde(borrow)] Cow<'k, str>);

impl Key<'_> {
    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads one value of a row into the engine's own representation.
struct ValueSeed<'r> {
    reading: &'r mut Reading,
    depth: usize,
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
        while let Some(element) = elements.next_element_seed(ValueSeed { reading: &mut *self.reading, depth })? {
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

const LOST_INTEGER: &str = "holds an integer of more than 64 bits, which cannot be kept exactly; send it as a string";

/// The fields of a row that hold integers which were rounded, found in the text because the values no longer show it.
fn lost_integers(text: &str) -> Vec<Problem> {
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
fn raw_has_lost_integer(text: &str) -> bool {
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
