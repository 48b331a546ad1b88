//! What a template asks of its rows: the declared variables, their types and limits.
//!
//! A declaration is read once; `row` holds the values of a row against it.

use minijinja::Value as Jinja;
use minijinja::value::{Serde, ValueKind};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::names::RESERVED;
use crate::problem::{Problem, join, list};
use crate::schema;

const KEYS: &[&str] = &[
    "type",
    "description",
    "enum",
    "default",
    "required",
    "min_length",
    "max_length",
    "minimum",
    "maximum",
    "min_items",
    "max_items",
    "pattern",
];
const KINDS: &[(&str, VariableKind)] = &[
    ("string", VariableKind::String),
    ("number", VariableKind::Number),
    ("integer", VariableKind::Integer),
    ("boolean", VariableKind::Boolean),
    ("array", VariableKind::Array),
    ("object", VariableKind::Object),
];

/// The type of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VariableKind {
    /// Text.
    String,
    /// Any number.
    Number,
    /// A whole number; `5.0` is one.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array,
    /// An object.
    Object,
}

impl VariableKind {
    /// The name in templates and in JSON Schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

/// One variable as the template declares it, or as its messages imply it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VariableSpec {
    /// The name messages use.
    pub name: String,
    /// The type; `None` takes any.
    pub kind: Option<VariableKind>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether every row must have it. `null` counts as not having it.
    pub required: bool,
    /// The value of a row that does not have it.
    pub default: Option<Value>,
    /// The only values allowed, when not empty.
    pub choices: Vec<Value>,
    /// Fewest characters of a string.
    pub min_length: Option<u64>,
    /// Most characters of a string.
    pub max_length: Option<u64>,
    /// Smallest number.
    pub minimum: Option<f64>,
    /// Largest number.
    pub maximum: Option<f64>,
    /// Fewest elements of an array.
    pub min_items: Option<u64>,
    /// Most elements of an array.
    pub max_items: Option<u64>,
    /// Regular expression a string must match somewhere (linear-time syntax: no look-around, no back-references).
    pub pattern: Option<String>,
}

/// A variable with what was compiled from its declaration.
pub(crate) struct Variable {
    pub(crate) default: Option<Jinja>,
    choices: Vec<Jinja>,
    pattern: Option<jsonschema::Validator>,
}

impl VariableSpec {
    /// A variable only known by its use in a message.
    pub(crate) fn implied(name: String) -> Self {
        Self { name, required: true, ..Self::default() }
    }

    /// Reads the declaration of `name` at `pointer`.
    pub(crate) fn read(
        name: &str,
        value: &Value,
        pointer: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        if let Err(message) = check_name(name) {
            problems.push(Problem::at(pointer, message));
        }
        let mut fields = Fields::open(value, pointer, KEYS, problems)?;
        let any = 0..=u64::MAX;
        let numbers = f64::MIN..=f64::MAX;
        let default = fields.get("default").cloned();
        let spec = Self {
            name: name.to_owned(),
            kind: fields.choice("type", KINDS),
            description: fields.text("description", 4096).map(str::to_owned),
            required: fields.boolean("required").unwrap_or(default.is_none()),
            default,
            choices: fields.array("enum", 10_000).unwrap_or_default().to_vec(),
            min_length: fields.count("min_length", any.clone()),
            max_length: fields.count("max_length", any.clone()),
            minimum: fields.number("minimum", numbers.clone()),
            maximum: fields.number("maximum", numbers),
            min_items: fields.count("min_items", any.clone()),
            max_items: fields.count("max_items", any),
            pattern: fields.text("pattern", 1024).map(str::to_owned),
        };
        spec.check_sense(&mut fields);
        Some(spec)
    }

    fn check_sense(&self, fields: &mut Fields<'_, '_>) {
        if self.required && self.default.is_some() {
            fields.problem("required", "a variable with a default is not required; remove one of the two");
        }
        if fields.get("enum").is_some_and(|value| value.as_array().is_some_and(Vec::is_empty)) {
            fields.problem("enum", "must have at least one element");
        }
        let string = [("min_length", VariableKind::String), ("max_length", VariableKind::String)];
        let array = [("min_items", VariableKind::Array), ("max_items", VariableKind::Array)];
        let number = [("minimum", VariableKind::Number), ("maximum", VariableKind::Number)];
        for (key, kind) in
            string.into_iter().chain(array).chain(number).chain([("pattern", VariableKind::String)])
        {
            let fits = self.kind == Some(kind)
                || (kind == VariableKind::Number && self.kind == Some(VariableKind::Integer));
            if fields.get(key).is_some() && !fits {
                fields.problem(key, format!("needs `type` to be `{}`", kind.as_str()));
            }
        }
        let crossed =
            |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low > high);
        let wide = |limit: Option<u64>| limit.map(|limit| limit as f64);
        for (key, low, high) in [
            ("max_length", wide(self.min_length), wide(self.max_length)),
            ("max_items", wide(self.min_items), wide(self.max_items)),
            ("maximum", self.minimum, self.maximum),
        ] {
            if crossed(low, high) {
                fields.problem(key, "is below its minimum, so that no value fits");
            }
        }
    }

    /// Compiles the declaration, checking its own default and choices against it.
    pub(crate) fn compile(&self, pointer: &str, problems: &mut Vec<Problem>) -> Variable {
        let pattern = self.pattern.as_ref().and_then(|pattern| {
            schema::compile_pattern(pattern)
                .map_err(|message| problems.push(Problem::at(join(pointer, "pattern"), message)))
                .ok()
        });
        let mut variable = Variable { default: None, choices: Vec::new(), pattern };
        let mut compiled = Vec::with_capacity(self.choices.len());
        for (n, choice) in self.choices.iter().enumerate() {
            let value = Jinja::from(Serde(choice));
            match self.check(&variable, value) {
                Ok(value) => compiled.push(value),
                Err(message) => {
                    problems.push(Problem::at(join(&join(pointer, "enum"), &n.to_string()), message));
                }
            }
        }
        variable.choices = compiled;
        if let Some(default) = &self.default {
            match self.check(&variable, Jinja::from(Serde(default))) {
                Ok(value) => variable.default = Some(value),
                Err(message) => problems.push(Problem::at(join(pointer, "default"), message)),
            }
        }
        variable
    }

    /// Holds a value against the declaration; a whole number written as a fraction becomes an integer where one is asked.
    pub(crate) fn check(&self, variable: &Variable, value: Jinja) -> Result<Jinja, String> {
        let value = match self.kind {
            Some(kind) => of_kind(kind, value)?,
            None => value,
        };
        if let Some(text) = value.as_str() {
            self.check_text(variable, text)?;
        } else if value.kind() == ValueKind::Number {
            self.check_number(&value)?;
        } else if value.kind() == ValueKind::Seq {
            let items = value.len().unwrap_or(0) as u64;
            within(items, self.min_items, self.max_items, "elements")?;
        }
        let chosen = |choice: &Jinja| choice.kind() == value.kind() && *choice == value;
        if !variable.choices.is_empty() && !variable.choices.iter().any(chosen) {
            let known: Vec<String> = self.choices.iter().map(Value::to_string).collect();
            return Err(format!("must be one of: {}", list(known.iter().map(String::as_str), 20)));
        }
        Ok(value)
    }

    fn check_text(&self, variable: &Variable, text: &str) -> Result<(), String> {
        if self.min_length.is_some() || self.max_length.is_some() {
            within(text.chars().count() as u64, self.min_length, self.max_length, "characters")?;
        }
        if let Some(pattern) = &variable.pattern
            && !pattern.is_valid(&Value::String(text.to_owned()))
        {
            return Err(format!("must match the pattern {}", self.pattern.as_deref().unwrap_or_default()));
        }
        Ok(())
    }

    fn check_number(&self, value: &Jinja) -> Result<(), String> {
        if self.minimum.is_none() && self.maximum.is_none() {
            return Ok(());
        }
        let number = f64::try_from(value.clone()).map_err(|_| "must be a number".to_owned())?;
        match (self.minimum, self.maximum) {
            (Some(minimum), _) if number < minimum => Err(format!("must be at least {minimum}")),
            (_, Some(maximum)) if number > maximum => Err(format!("must be at most {maximum}")),
            _ => Ok(()),
        }
    }

    /// The declaration as a JSON Schema.
    pub(crate) fn to_schema(&self) -> Value {
        let mut schema = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                schema.insert(key.to_owned(), value);
            }
        };
        let number = |limit: f64| {
            if limit.fract() == 0.0 && limit.abs() < 9e15 { json!(limit as i64) } else { json!(limit) }
        };
        set("type", self.kind.map(|kind| json!(kind.as_str())));
        set("description", self.description.clone().map(Value::String));
        set("enum", (!self.choices.is_empty()).then(|| Value::Array(self.choices.clone())));
        set("default", self.default.clone());
        set("minLength", self.min_length.map(Value::from));
        set("maxLength", self.max_length.map(Value::from));
        set("minimum", self.minimum.map(number));
        set("maximum", self.maximum.map(number));
        set("minItems", self.min_items.map(Value::from));
        set("maxItems", self.max_items.map(Value::from));
        set("pattern", self.pattern.clone().map(Value::String));
        Value::Object(schema)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if name.len() > 64 || !begins || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(
            "a variable's name is 1 to 64 of A-Z, a-z, 0-9 and _, and does not begin with a digit".to_owned()
        );
    }
    if RESERVED.contains(&name) {
        return Err(format!("`{name}` means something else in a message; choose another name"));
    }
    Ok(())
}

fn of_kind(kind: VariableKind, value: Jinja) -> Result<Jinja, String> {
    let fits = match kind {
        VariableKind::String => value.as_str().is_some(),
        VariableKind::Number => value.kind() == ValueKind::Number,
        VariableKind::Integer => {
            if value.is_integer() {
                return Ok(value);
            }
            if let Some(integer) = whole(&value) {
                return Ok(Jinja::from(integer));
            }
            false
        }
        VariableKind::Boolean => value.kind() == ValueKind::Bool,
        VariableKind::Array => value.kind() == ValueKind::Seq,
        VariableKind::Object => value.kind() == ValueKind::Map,
    };
    if fits { Ok(value) } else { Err(format!("must be {}, not {}", kind.as_str(), jinja_type(&value))) }
}

/// The integer a fraction such as `5.0` stands for.
fn whole(value: &Jinja) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.kind() != ValueKind::Number {
        return None;
    }
    let number = f64::try_from(value.clone()).ok()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

fn within(found: u64, low: Option<u64>, high: Option<u64>, unit: &str) -> Result<(), String> {
    match (low, high) {
        (Some(low), _) if found < low => Err(format!("must have at least {low} {unit}, has {found}")),
        (_, Some(high)) if found > high => Err(format!("must have at most {high} {unit}, has {found}")),
        _ => Ok(()),
    }
}

/// The JSON type of an engine value that came from JSON.
pub(crate) fn jinja_type(value: &Jinja) -> &'static str {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => "null",
        ValueKind::Bool => "boolean",
        ValueKind::Number if value.is_integer() => "integer",
        ValueKind::Number => "number",
        ValueKind::String => "string",
        ValueKind::Seq => "array",
        ValueKind::Map => "object",
        _ => "something else",
    }
}
