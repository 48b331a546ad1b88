//! The template format: one JSON object, read with every problem noted, compiled when there is none.
//!
//! Key lists here equal those of `templates/template.schema.json`; a test holds them together.

use std::collections::HashSet;
use std::sync::Arc;

use promptmill_domain::Role;
use serde_json::Value;

use crate::fields::Fields;
use crate::jinja::{Messages, compile_rule};
use crate::json::{self, syntax_message, type_name};
use crate::model::read_model;
use crate::output::{OutputSchema, OutputSpec};
use crate::problem::{Problem, join, shorten};
use crate::row::RowCheck;
use crate::rules::{Consequence, Rule};
use crate::schema::Checker;
use crate::template::Template;
use crate::variables::VariableSpec;

/// Sizes a template may have.
pub mod limits {
    /// Bytes of the whole text.
    pub const TEMPLATE_BYTES: usize = 1 << 20;
    /// Bytes of one message's content.
    pub const MESSAGE_BYTES: usize = 64 << 10;
    /// Messages.
    pub const MESSAGES: usize = 64;
    /// Messages of a conversation that is handed in without a template.
    pub const CONVERSATION_MESSAGES: usize = 256;
    /// Declared variables.
    pub const VARIABLES: usize = 200;
    /// Rules.
    pub const RULES: usize = 100;
    /// Bytes of one rule's expression.
    pub const RULE_BYTES: usize = 4 << 10;
    /// Repairs of one attempt.
    pub const REPAIRS: u32 = 10;
}

const TEMPLATE: &[&str] = &[
    "$schema",
    "name",
    "description",
    "messages",
    "variables",
    "model",
    "output",
    "formats",
    "rules",
    "max_repairs",
];
const MESSAGE: &[&str] = &["role", "content"];
const OUTPUT: &[&str] = &["format", "schema", "min_length", "max_length", "enum"];
const RULE: &[&str] = &["expression", "message", "verdict"];
const DEFAULT_REPAIRS: u32 = 2;

/// Parses and compiles a template.
pub(crate) fn parse(text: &str) -> Result<Template, Vec<Problem>> {
    if text.len() > limits::TEMPLATE_BYTES {
        return Err(vec![Problem::whole(format!("a template has at most {} bytes", limits::TEMPLATE_BYTES))]);
    }
    let parsed = json::parse(text)
        .map_err(|error| vec![Problem::whole(format!("not valid JSON: {}", syntax_message(&error)))])?;
    let mut problems: Vec<Problem> = parsed
        .duplicates
        .into_iter()
        .map(|pointer| Problem::at(pointer, "stands twice in its object"))
        .collect();
    let template =
        Fields::open(&parsed.value, "", TEMPLATE, &mut problems).and_then(|fields| read(text, fields));
    match template {
        Some(template) if problems.is_empty() => Ok(template),
        _ => Err(problems),
    }
}

fn read(text: &str, mut fields: Fields<'_, '_>) -> Option<Template> {
    fields.text("$schema", 2048);
    let name = read_name(&mut fields);
    let description = fields.text("description", 16 << 10).map(str::to_owned);
    let (messages, used) = read_messages(&mut fields);
    let rows = read_variables(&mut fields, used);
    let (model, settings) = read_model(&mut fields);
    let formats = fields.boolean("formats").unwrap_or(true);
    let output = read_output(&mut fields, name.unwrap_or("output"), formats);
    let rules = read_rules(&mut fields, &rows);
    let most = u64::from(limits::REPAIRS);
    let max_repairs = fields.count("max_repairs", 0..=most).map_or(DEFAULT_REPAIRS, |count| count as u32);
    Some(Template {
        name: name?.to_owned(),
        description,
        source: text.to_owned(),
        model,
        settings,
        max_repairs,
        rows,
        messages,
        output: output?,
        rules,
    })
}

fn read_name<'a>(fields: &mut Fields<'a, '_>) -> Option<&'a str> {
    fields.required("name")?;
    let name = fields.text("name", 1024)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = (1..=100).contains(&name.len())
        && name.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && name.bytes().next().is_some_and(plain);
    if !fits {
        fields.problem(
            "name",
            "must be 1 to 100 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        );
        return None;
    }
    Some(name)
}

/// A name a message uses, with the pointer of the message.
type Use = (String, String);

fn read_messages(fields: &mut Fields<'_, '_>) -> (Messages, Vec<Use>) {
    let mut messages = Messages::new();
    let mut used: Vec<Use> = Vec::new();
    if fields.required("messages").is_none() {
        return (messages, used);
    }
    let Some(elements) = fields.array("messages", limits::MESSAGES) else {
        return (messages, used);
    };
    if elements.is_empty() {
        fields.problem("messages", "must have at least one message");
    }
    let base = fields.at("messages");
    let mut last = None;
    for (n, element) in elements.iter().enumerate() {
        let pointer = join(&base, &n.to_string());
        let Some(mut message) = Fields::open(element, pointer.as_str(), MESSAGE, fields.problems()) else {
            continue;
        };
        message.required("role");
        let roles = [("system", Role::System), ("user", Role::User), ("assistant", Role::Assistant)];
        let role = message.choice("role", &roles);
        message.required("content");
        let content = message.text("content", limits::MESSAGE_BYTES);
        last = role.or(last);
        let (Some(role), Some(content)) = (role, content) else {
            continue;
        };
        if content.trim().is_empty() {
            message.problem("content", "must not be empty");
            continue;
        }
        let place = message.at("content");
        let names = messages.add(role, place.clone(), content, fields.problems());
        used.extend(names.into_iter().map(|name| (name, place.clone())));
    }
    if last == Some(Role::System) {
        fields.problem("messages", "the last message must be of the user or the assistant");
    }
    (messages, used)
}

fn read_variables(fields: &mut Fields<'_, '_>, used: Vec<Use>) -> RowCheck {
    let Some(declared) = fields.get("variables") else {
        let mut seen = HashSet::new();
        let first = used.into_iter().map(|(name, _)| name).filter(|name| seen.insert(name.clone()));
        let specs: Vec<VariableSpec> = first.map(VariableSpec::implied).collect();
        let compiled = specs.iter().map(|spec| spec.compile("", fields.problems())).collect();
        return RowCheck::new(specs, compiled, true);
    };
    let base = fields.at("variables");
    let Value::Object(declared) = declared else {
        fields.problem("variables", format!("must be an object, not {}", type_name(declared)));
        return RowCheck::new(Vec::new(), Vec::new(), false);
    };
    if declared.len() > limits::VARIABLES {
        fields.problem("variables", format!("must have at most {} variables", limits::VARIABLES));
        return RowCheck::new(Vec::new(), Vec::new(), false);
    }
    let (mut specs, mut compiled) = (Vec::new(), Vec::new());
    for (name, value) in declared {
        let pointer = join(&base, &shorten(name, 80));
        let Some(spec) = VariableSpec::read(name, value, &pointer, fields.problems()) else {
            continue;
        };
        compiled.push(spec.compile(&pointer, fields.problems()));
        specs.push(spec);
    }
    for (name, place) in used.iter().filter(|(name, _)| !declared.contains_key(name)) {
        let hint = crate::problem::nearest(name, declared.keys().map(String::as_str));
        let hint = hint.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        fields
            .problems()
            .push(Problem::at(place.clone(), format!("variable `{name}` is not declared{hint}")));
    }
    RowCheck::new(specs, compiled, false)
}

fn read_output(fields: &mut Fields<'_, '_>, template: &str, formats: bool) -> Option<OutputSpec> {
    let text = OutputSpec::Text { min_length: None, max_length: None, choices: Vec::new() };
    let pointer = fields.at("output");
    let Some(value) = fields.get("output") else {
        return Some(text);
    };
    let mut output = Fields::open(value, pointer, OUTPUT, fields.problems())?;
    output.required("format");
    let json = output.choice("format", &[("json", true), ("text", false)])?;
    let foreign: &[&str] = if json { &["min_length", "max_length", "enum"] } else { &["schema"] };
    for key in foreign {
        if output.get(key).is_some() {
            output.problem(
                key,
                format!("does not belong to the format `{}`", if json { "json" } else { "text" }),
            );
        }
    }
    if !json {
        let min_length = output.count("min_length", 0..=u64::MAX);
        let max_length = output.count("max_length", 1..=u64::MAX);
        if min_length.zip(max_length).is_some_and(|(low, high)| low > high) {
            output.problem("max_length", "is below its minimum, so that no text fits");
        }
        let choices = output.texts("enum", 1000);
        if choices.is_empty() && output.get("enum").is_some() {
            output.problem("enum", "must have at least one element");
        }
        return Some(OutputSpec::Text { min_length, max_length, choices });
    }
    let Some(schema) = output.get("schema") else {
        return Some(OutputSpec::Json { schema: None });
    };
    let pointer = output.at("schema");
    let checker = Checker::compile(schema, formats, &pointer, output.problems())?;
    let name = OutputSchema::name_for(template);
    Some(OutputSpec::Json { schema: Some(Arc::new(OutputSchema { name, schema: schema.clone(), checker })) })
}

fn read_rules(fields: &mut Fields<'_, '_>, rows: &RowCheck) -> Vec<Rule> {
    let mut rules = Vec::new();
    let Some(elements) = fields.array("rules", limits::RULES) else {
        return rules;
    };
    let base = fields.at("rules");
    for (n, element) in elements.iter().enumerate() {
        let pointer = join(&base, &n.to_string());
        let Some(mut rule) = Fields::open(element, pointer, RULE, fields.problems()) else {
            continue;
        };
        rule.required("expression");
        rule.required("message");
        let expression = rule.text("expression", limits::RULE_BYTES);
        let message = rule.text("message", 1024);
        if message.is_some_and(|text| text.trim().is_empty()) {
            rule.problem("message", "must not be empty");
        }
        let verdicts = [("repair", Consequence::Repair), ("reject", Consequence::Reject)];
        let consequence = rule.choice("verdict", &verdicts).unwrap_or(Consequence::Repair);
        let (Some(expression), Some(message)) = (expression, message) else {
            continue;
        };
        match compile_rule(expression) {
            Ok(expression) => {
                note_unknown_variables(&expression, rows, &mut rule);
                rules.push(Rule { expression, message: message.to_owned(), consequence });
            }
            Err(messages) => {
                for message in messages {
                    rule.problem("expression", message);
                }
            }
        }
    }
    rules
}

/// Notes `variables.NAME` of a name that no row can have.
fn note_unknown_variables(
    expression: &crate::jinja::RuleExpression,
    rows: &RowCheck,
    rule: &mut Fields<'_, '_>,
) {
    if rows.is_open() {
        return;
    }
    let mut names: Vec<String> = expression.undeclared_variables(true).into_iter().collect();
    names.sort();
    for name in names.iter().filter_map(|name| name.strip_prefix("variables.")) {
        let name = name.split('.').next().unwrap_or(name);
        if !rows.specs().iter().any(|spec| spec.name == name) {
            rule.problem("expression", format!("variable `{name}` is not declared"));
        }
    }
}
