//! What the tests share.

use promptmill_prompt::Template;
use serde_json::{Value, json};

/// A template of one message with further keys.
#[track_caller]
pub(crate) fn template(content: &str, more: Value) -> Template {
    let mut value = json!({"name": "t", "messages": [{"role": "user", "content": content}]});
    if let Value::Object(more) = more {
        value.as_object_mut().expect("an object").extend(more);
    }
    Template::parse(&value.to_string()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The problems of a template, one a line.
#[track_caller]
pub(crate) fn problems_of(value: &Value) -> String {
    match Template::parse(&value.to_string()) {
        Ok(_) => panic!("accepted: {value}"),
        Err(problems) => lines(&problems),
    }
}

pub(crate) fn lines(problems: &[promptmill_prompt::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
