//! Compiling the schema of an output and judging replies by it.
//!
//! The first half of the input is a schema, the second a reply.

use promptmill_prompt::Template;
use serde_json::value::RawValue;

use crate::{check_problems, halves, judged};

/// Replies of every type, so that a schema meets each even where the input brings none.
const EVERY_TYPE: [&str; 8] = [
    "null",
    "true",
    "-0.5",
    "\"\u{e9} a@b.c 2020-01-01\"",
    "[]",
    "[[1],[1]]",
    "{}",
    r#"{"a":{"a":[{"a":1}]}}"#,
];

/// A schema is refused with reasons, or every reply gets a verdict that is sound and always the same.
///
/// # Panics
/// When that does not hold.
pub fn target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (schema, reply) = halves(&text);
    let template = Template::parse(&format!(
        r#"{{"name":"fuzz","messages":[{{"role":"user","content":"x"}}],"output":{{"format":"json","schema":{schema}}}}}"#
    ));
    let template = match template {
        Ok(template) => template,
        Err(problems) => return check_problems(&problems),
    };
    // What ends the schema early and brings keys of its own is another template, which the target of templates is for.
    if serde_json::from_str::<&RawValue>(schema).is_err() {
        return;
    }
    judged::check(&template, reply);
    for reply in EVERY_TYPE {
        judged::check(&template, reply);
    }
}
