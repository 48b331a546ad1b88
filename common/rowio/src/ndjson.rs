//! One NDJSON line into the parts of a row: its `custom_id` and the object of its variables.
//!
//! A line is an object of variables, or an envelope `{"custom_id"?: ..., "variables": {...}}`. It is an envelope when
//! `variables` is an object, no key but these two is there, and the template has no variable of that name. An object
//! of variables may hold `custom_id` as a further key, unless the template has a variable of that name.

use std::borrow::Cow;

use promptmill_prompt::{Problem, Template, Variables};
use serde_json::value::RawValue;

use crate::custom_id::CUSTOM_ID;
use crate::json::{Member, NotAnObject, members, without};
use crate::problem::{RowProblem, from_template};
use crate::reader::Found;

const VARIABLES: &str = "variables";

/// The two names with a meaning of their own, as far as a template does not take them for its variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved {
    pub(crate) custom_id: bool,
    pub(crate) variables: bool,
}

impl Reserved {
    pub(crate) fn in_template(template: &Template) -> Self {
        let taken = |name: &str| template.variables().iter().any(|variable| variable.name == name);
        Self { custom_id: !taken(CUSTOM_ID), variables: !taken(VARIABLES) }
    }
}

/// Checks one line.
pub(crate) fn check(line: u64, bytes: &[u8], template: &Template, reserved: Reserved) -> Found {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Found::bad(line, format!("not UTF-8 at byte {}", error.valid_up_to() + 1)),
    };
    let row = match split(text, reserved) {
        Ok(row) => row,
        Err(problem) => {
            return Found { line, custom_id: None, checked: Err(vec![problem]) };
        }
    };
    let checked = template
        .check(&row.variables)
        .or_else(|problems| at_column(text, &row.variables, problems, template));
    let checked = checked.map_err(from_template);
    match row.custom_id.map_or(Ok(None), read_id) {
        Ok(custom_id) => Found { line, custom_id, checked },
        Err(problem) => {
            let others = checked.err().into_iter().flatten();
            Found { line, custom_id: None, checked: Err(std::iter::once(problem).chain(others).collect()) }
        }
    }
}

/// Gives columns as the line has them, and leaves its number (always 1 to the template) to who tells the problem.
fn at_column(
    text: &str,
    variables: &str,
    mut problems: Vec<Problem>,
    template: &Template,
) -> Result<Variables, Vec<Problem>> {
    const PLACE: &str = " at line 1 column ";
    if !problems.iter().any(|problem| problem.message.contains(PLACE)) {
        return Err(problems);
    }
    let begin = variables.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    if begin > 0 && begin < text.len() {
        // Inside an envelope: checked once more with blanks for what stands before.
        problems = match template.check(&format!("{}{variables}", " ".repeat(begin))) {
            Ok(checked) => return Ok(checked),
            Err(problems) => problems,
        };
    }
    for problem in &mut problems {
        problem.message = problem.message.replace(PLACE, " at column ");
    }
    Err(problems)
}

struct Row<'a> {
    custom_id: Option<&'a RawValue>,
    variables: Cow<'a, str>,
}

fn split(text: &str, reserved: Reserved) -> Result<Row<'_>, RowProblem> {
    let members = members(text).map_err(|error| RowProblem::whole(explain(text, error)))?;
    let mut id: Option<Member<'_>> = None;
    let mut variables: Option<Member<'_>> = None;
    let (mut ids, mut bodies) = (0, 0);
    for member in &members {
        match &*member.name() {
            CUSTOM_ID => (id, ids) = (Some(*member), ids + 1),
            VARIABLES => (variables, bodies) = (Some(*member), bodies + 1),
            _ => {}
        }
    }
    let body = variables.filter(|member| {
        reserved.variables && member.value.get().starts_with('{') && ids + bodies == members.len()
    });
    let is_id = body.is_some() || reserved.custom_id;
    if ids > 1 && is_id {
        return Err(RowProblem::at(CUSTOM_ID, "stands twice in the row"));
    }
    match (body, id.filter(|_| is_id)) {
        (Some(_), _) if bodies > 1 => Err(RowProblem::at(VARIABLES, "stands twice in the row")),
        (Some(body), id) => {
            Ok(Row { custom_id: id.map(|id| id.value), variables: Cow::Borrowed(body.value.get()) })
        }
        (None, Some(id)) => Ok(Row { custom_id: Some(id.value), variables: Cow::Owned(without(text, id)) }),
        (None, None) => Ok(Row { custom_id: None, variables: Cow::Borrowed(text) }),
    }
}

fn explain(text: &str, error: NotAnObject) -> String {
    match error {
        NotAnObject::OtherKind if text.trim_start().starts_with('[') => {
            "a row is a JSON object; write the objects of an array one per line, without brackets and commas between"
                .to_owned()
        }
        NotAnObject::OtherKind => "a row is a JSON object such as {\"name\": \"value\"}".to_owned(),
        NotAnObject::Syntax(what) if what.starts_with("EOF") => {
            format!("not JSON: {what}; a row must stand on one line")
        }
        NotAnObject::Syntax(what) => format!("not JSON: {what}"),
    }
}

fn read_id(value: &RawValue) -> Result<Option<String>, RowProblem> {
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => serde_json::from_str(value.get())
            .map(Some)
            .map_err(|_| RowProblem::at(CUSTOM_ID, "holds half of a surrogate pair")),
        _ => Err(RowProblem::at(CUSTOM_ID, "must be a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Reserved = Reserved { custom_id: true, variables: true };

    #[track_caller]
    fn check_split(text: &str, reserved: Reserved, id: Option<&str>, variables: &str) {
        let row = split(text, reserved).unwrap();
        assert_eq!(row.custom_id.map(RawValue::get), id, "{text}");
        assert_eq!(row.variables.replace(' ', ""), variables, "{text}");
    }

    #[test]
    fn an_envelope_is_told_from_an_object_of_variables() {
        check_split(r#"{"a":1}"#, FREE, None, r#"{"a":1}"#);
        check_split(r#"{"custom_id":"x","a":1}"#, FREE, Some("\"x\""), r#"{"a":1}"#);
        check_split(r#"{"variables":{"a":1}}"#, FREE, None, r#"{"a":1}"#);
        check_split(r#"{"variables":{"a":1},"custom_id":"x"}"#, FREE, Some("\"x\""), r#"{"a":1}"#);
        check_split(r#"{"v\u0061riables":{"a":1}}"#, FREE, None, r#"{"a":1}"#);
        // Another key, or a value that is no object: then `variables` is a variable like others.
        check_split(r#"{"variables":{"a":1},"b":2}"#, FREE, None, r#"{"variables":{"a":1},"b":2}"#);
        check_split(r#"{"variables":[1]}"#, FREE, None, r#"{"variables":[1]}"#);
        check_split("{}", FREE, None, "{}");
    }

    #[test]
    fn a_name_the_template_declares_is_a_variable() {
        let id_taken = Reserved { custom_id: false, variables: true };
        check_split(r#"{"custom_id":"x"}"#, id_taken, None, r#"{"custom_id":"x"}"#);
        check_split(
            r#"{"custom_id":"x","variables":{"custom_id":"y"}}"#,
            id_taken,
            Some("\"x\""),
            r#"{"custom_id":"y"}"#,
        );
        let variables_taken = Reserved { custom_id: true, variables: false };
        check_split(r#"{"variables":{"a":1}}"#, variables_taken, None, r#"{"variables":{"a":1}}"#);
        check_split(
            r#"{"custom_id":"x","variables":{}}"#,
            variables_taken,
            Some("\"x\""),
            r#"{"variables":{}}"#,
        );
    }

    #[test]
    fn a_reserved_name_may_stand_only_once() {
        for twice in [
            r#"{"custom_id":"a","custom_id":"a","b":1}"#,
            r#"{"custom_id":"a","variables":{},"custom_id":"a"}"#,
            r#"{"variables":{},"variables":{}}"#,
        ] {
            let problem = split(twice, FREE).err().unwrap();
            assert_eq!(problem.reason, "stands twice in the row", "{twice}");
        }
    }

    #[test]
    fn an_id_is_a_string_or_null() {
        let read = |text: &str| read_id(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(read("null"), Ok(None));
        assert_eq!(read(r#""a\u00e9""#), Ok(Some("aé".into())));
        for bad in ["1", "{}", "[]", "true", r#""\ud800""#] {
            assert_eq!(read(bad).unwrap_err().field, CUSTOM_ID, "{bad}");
        }
    }
}
