//! Compiling a template, checking a row against it, rendering.
//!
//! The first half of the input is a template (or only the text of its one message), the second a row.

use promptmill_prompt::{RENDERED_BYTES, Template, Variables};
use serde_json::{Value, json};

use crate::{check_problems, halves};

/// A template is refused with reasons or works; a row that was taken stays the same when it is written and read; rendering is bounded
/// and always gives the same.
///
/// # Panics
/// When one of that does not hold.
pub fn target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (source, row) = halves(&text);
    let template = match Template::parse(&template_json(source)) {
        Ok(template) => template,
        Err(problems) => return check_problems(&problems),
    };
    assert!(Template::parse(template.source()).is_ok(), "the source of a good template is one");
    assert!(template.variables_schema().is_object());
    match template.check(if row.is_empty() { "{}" } else { row }) {
        Ok(variables) => check_row(&template, &variables),
        Err(problems) => check_problems(&problems),
    }
}

/// A whole template, or one around the text of a message.
fn template_json(source: &str) -> String {
    let tag = ["{{", "{%", "{#"].iter().any(|tag| source.starts_with(tag));
    if source.starts_with('{') && !tag {
        return source.to_owned();
    }
    json!({"name": "fuzz", "messages": [{"role": "user", "content": source}]}).to_string()
}

/// What holds for every row a template took.
fn check_row(template: &Template, variables: &Variables) {
    let stored = variables.to_json();
    assert!(!stored.contains(['\n', '\r']), "a stored row is one line");
    let value: Value = serde_json::from_str(&stored).expect("a stored row is JSON");
    assert!(value.is_object());
    let read = Variables::from_json(&stored).expect("a stored row is read back");
    assert!(read == *variables && read.to_json() == stored, "a row changed in the store");
    let checked = template.check(&stored);
    assert!(checked.is_ok_and(|again| again == *variables), "a canonical row is taken as it is");

    let rendered = template.render(variables);
    assert!(rendered == template.render(variables), "rendering twice differs");
    assert!(rendered == template.render(&read), "a row that was stored renders otherwise");
    match rendered {
        Ok(messages) => {
            let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
            assert!(bytes <= RENDERED_BYTES, "{bytes} bytes were rendered");
        }
        Err(error) => {
            assert!(error.pointer.starts_with("/messages/"), "{}", error.pointer);
            assert!(!error.message.is_empty() && error.message.len() <= 8 << 10);
        }
    }
}
