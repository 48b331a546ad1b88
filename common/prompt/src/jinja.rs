//! The template engine behind a fence: what a prompt's text may use, how much work one render may do, and what its
//! errors may say.
//!
//! Values of a row are data: they are printed as they are and never read as template text. There are no includes,
//! no loader and no inheritance, and `debug()` is gone, because it prints the engine's whole state.

use std::collections::HashMap;
use std::sync::LazyLock;

use minijinja::{Environment, Error, ErrorKind, Expression, UndefinedBehavior, Value};
use promptmill_domain::{Message, Role};

use crate::names::{FUNCTIONS, Names};
use crate::percent;
use crate::problem::{Problem, RenderError};

/// Fuel of one prompt's render, shared by its messages. One unit pays for one instruction or 64 bytes handled
/// (minijinja 3.1, `vm/fuel.rs`), so this bounds a render to about 32 MiB of data and well under a second.
const RENDER_FUEL: u64 = 500_000;

/// What a message has at least, however many there are: enough to write a prompt of the largest size twice.
const MESSAGE_FUEL: u64 = 50_000;

/// Fuel of one rule's evaluation; a template may have a hundred.
const RULE_FUEL: u64 = 100_000;

/// The most bytes all messages of one rendered prompt have together.
pub const RENDERED_BYTES: usize = 1 << 20;

/// Rules are few and small, so all templates share one environment; it holds nothing of any template.
static RULES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = fenced(RULE_FUEL);
    // A rule about a field that is not there has not passed; guessing `false` would pass `not output.spam`.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
});

fn fenced(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    // A namespace that holds itself is never freed. A chain of a chain of itself copies its links unpaid: sixty doublings of one value ask
    // for gigabytes.
    for function in ["debug", "namespace"] {
        environment.remove_global(function);
    }
    for filter in ["safe", "escape", "e", "pprint", "chain"] {
        environment.remove_filter(filter);
    }
    for test in ["safe", "escaped", "filter", "test"] {
        environment.remove_test(test);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("format", percent::format);
    environment
}

/// The messages of a template, compiled.
pub(crate) struct Messages {
    environment: Environment<'static>,
    messages: Vec<Compiled>,
}

struct Compiled {
    role: Role,
    pointer: String,
    body: Body,
}

enum Body {
    /// No tags: the text needs no engine.
    Plain(String),
    /// Stands in the environment under the message's pointer.
    Jinja,
}

impl Messages {
    pub(crate) fn new() -> Self {
        let mut environment = fenced(RENDER_FUEL);
        // `{% if notes %}` is how authors ask for an optional variable; printing or using an undefined one still fails.
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        let syntax = environment.syntax().to_builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        Self { environment, messages: Vec::new() }
    }

    /// Compiles one more message and returns the names of the variables it uses, in the order they first appear.
    pub(crate) fn add(
        &mut self,
        role: Role,
        pointer: String,
        source: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<String> {
        if !source.contains("{{") && !source.contains("{%") && !source.contains("{#") {
            self.messages.push(Compiled { role, pointer, body: Body::Plain(source.to_owned()) });
            return Vec::new();
        }
        let names = Names::of_source(source);
        if let Some(excess) = names.excess() {
            problems.push(Problem::at(pointer, excess));
            return Vec::new();
        }
        if let Err(error) = self.environment.add_template_owned(pointer.clone(), source.to_owned()) {
            problems.push(Problem::at(pointer, compile_message(&error)));
            return Vec::new();
        }
        let used = match self.environment.get_template(&pointer) {
            Ok(template) => template.undeclared_variables(false),
            Err(_) => Default::default(),
        };
        let called = names.functions.clone();
        problems.extend(names.unknown(&used).into_iter().map(|text| Problem::at(pointer.clone(), text)));
        let mut used: Vec<String> =
            used.into_iter().filter(|name| !is_function(name) && !called.contains(&**name)).collect();
        let positions = word_positions(source);
        used.sort_by_cached_key(|name| {
            (positions.get(name.as_str()).copied().unwrap_or(usize::MAX), name.clone())
        });
        self.messages.push(Compiled { role, pointer, body: Body::Jinja });
        let rendered = self.messages.iter().filter(|message| matches!(message.body, Body::Jinja)).count();
        self.environment.set_fuel(Some((RENDER_FUEL / rendered as u64).max(MESSAGE_FUEL)));
        used
    }

    /// Renders every message with the row `root`.
    pub(crate) fn render(&self, root: &Value) -> Result<Vec<Message>, RenderError> {
        let mut room = RENDERED_BYTES;
        let mut rendered = Vec::with_capacity(self.messages.len());
        for message in &self.messages {
            let content = match &message.body {
                Body::Plain(text) => text.clone(),
                Body::Jinja => self
                    .environment
                    .get_template(&message.pointer)
                    .and_then(|template| template.render(root.clone()))
                    .map_err(|error| message.error(run_message(&error)))?,
            };
            let Some(left) = room.checked_sub(content.len()) else {
                return Err(
                    message.error(format!("the rendered prompt is larger than {RENDERED_BYTES} bytes"))
                );
            };
            room = left;
            rendered.push(Message { role: message.role, content });
        }
        Ok(rendered)
    }
}

impl Compiled {
    fn error(&self, message: String) -> RenderError {
        RenderError { pointer: self.pointer.clone(), message }
    }
}

/// A compiled expression over `output` and `variables`.
pub(crate) type RuleExpression = Expression<'static, 'static>;

/// Compiles a rule's expression, or says everything that is wrong with it.
pub(crate) fn compile_rule(expression: &str) -> Result<RuleExpression, Vec<String>> {
    let names = Names::of_expression(expression);
    if let Some(excess) = names.excess() {
        return Err(vec![excess]);
    }
    let compiled = RULES
        .compile_expression_owned(expression.to_owned())
        .map_err(|error| vec![compile_message(&error)])?;
    let undeclared = compiled.undeclared_variables(false);
    let mut problems = names.unknown(&undeclared);
    let mut names: Vec<String> = undeclared
        .into_iter()
        .filter(|name| name != "output" && name != "variables" && !is_function(name))
        .collect();
    names.sort();
    problems.extend(
        names.iter().map(|name| format!("unknown name `{name}`; a rule sees `output` and `variables`")),
    );
    if problems.is_empty() { Ok(compiled) } else { Err(problems) }
}

fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name) || name == "caller"
}

/// Where each word of `source` first stands.
fn word_positions(source: &str) -> HashMap<&str, usize> {
    let mut positions = HashMap::new();
    let mut at = 0;
    for word in source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        positions.entry(word).or_insert(at);
        // Words are parted by one character, of one byte or more.
        at += word.len() + source[at + word.len()..].chars().next().map_or(0, char::len_utf8);
    }
    positions
}

/// An error of compiling: it speaks about the template's own text only.
fn compile_message(error: &Error) -> String {
    with_line(error, error.detail().unwrap_or("invalid syntax"))
}

/// An error of running, without anything that could be text of the row.
pub(crate) fn run_message(error: &Error) -> String {
    let words = match error.kind() {
        ErrorKind::UndefinedError => "a value that is not there is used".to_owned(),
        ErrorKind::OutOfFuel => "this takes more work than one row may".to_owned(),
        // "unable to calculate A + B" quotes both values.
        ErrorKind::InvalidOperation | ErrorKind::MissingArgument | ErrorKind::TooManyArguments => {
            match error.detail() {
                Some(detail) if !detail.starts_with("unable to calculate") => detail.to_owned(),
                _ => error.kind().to_string(),
            }
        }
        kind => kind.to_string(),
    };
    with_line(error, &words)
}

fn with_line(error: &Error, words: &str) -> String {
    match error.line() {
        Some(line) if error.name() != Some("<expression>") => format!("line {line}: {words}"),
        _ => words.to_owned(),
    }
}
