//! One row of variables: read from JSON or from the texts of a CSV row, checked, completed with defaults.
//!
//! A row is read once, straight into the engine's own values. Both ways of reading end in the same check, so the
//! same row gives equal [`Variables`] whichever way it came. Problems name fields and limits, never content.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use minijinja::Value as Jinja;
use minijinja::value::ValueKind;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::json::syntax_message;
use crate::problem::{Problem, join, nearest, shorten};
use crate::reading::{
    KEY_BYTES, KEYS_PER_OBJECT, Key, LOST_INTEGER, Reading, ValueSeed, lost_integers, raw_has_lost_integer,
};
use crate::variables::{Variable, VariableKind, VariableSpec};

/// The most bytes of a row.
pub(crate) const ROW_BYTES: usize = 1 << 20;

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
    /// No variables: what the rules see of a row that brought its own messages. A rule that asks for a variable does not pass then.
    pub fn empty() -> Self {
        Self { root: Jinja::from_pairs(Vec::<(&str, Jinja)>::new()) }
    }

    /// The canonical JSON text: one line, the declared order, defaults included. Equal rows give equal texts.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.root).expect("a map of JSON values with string keys is written as JSON")
    }

    /// Appends the same text to `text`.
    pub fn write_json(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, &self.root)
            .expect("a map of JSON values with string keys is written into memory");
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
            problems.push(Problem::at(
                join("", &shorten(name, 60)),
                format!("a name has at most {KEY_BYTES} bytes"),
            ));
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
        problems.extend(
            extras.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| duplicate(&pair[0].0)),
        );
        // A field that was there and could not be read has its own problem already.
        let unread: HashSet<String> = problems.iter().map(|problem| problem.pointer.clone()).collect();
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
                    None if spec.required && !unread.contains(&pointer()) => {
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
    match syntax_message(error) {
        words if words.starts_with("too many") => words,
        _ if error.is_data() => "a row is a JSON object".to_owned(),
        words => format!("not valid JSON: {words}"),
    }
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
            let value =
                seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
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
