//! One NDJSON line into the parts of a row: its `custom_id` and what it brings.
//!
//! A line is an object of variables, or an envelope `{"custom_id"?: ..., "variables": {...}}`, or one of messages,
//! `{"custom_id"?: ..., "messages": [...]}`. It is an envelope when `variables` is an object (`messages` an array), no key but
//! these two is there, and the template has no variable of that name. An object of variables may hold `custom_id` as a
//! further key, unless the template has a variable of that name. A batch without a template knows messages alone.

use std::borrow::Cow;

use promptmill_prompt::{Problem, Template, Variables, read_messages};
use serde_json::value::RawValue;

use crate::custom_id::CUSTOM_ID;
use crate::json::{Member, NotAnObject, members, without};
use crate::problem::{MESSAGES, RowProblem, from_messages, from_template};
use crate::reader::{CheckedContent, Found, RowKinds};

const VARIABLES: &str = "variables";

/// What is wrong with rows of variables where there is no template.
pub(crate) const NO_MESSAGES: &str = "this batch has no template, so a row must bring \"messages\"";

/// The names with a meaning of their own, as far as a template does not take them for its variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved {
    pub(crate) custom_id: bool,
    pub(crate) variables: bool,
    pub(crate) messages: bool,
    /// Whether rows of variables are taken at all.
    pub(crate) bare: bool,
}

impl Reserved {
    pub(crate) fn in_template(template: &Template, kinds: RowKinds) -> Self {
        let free = |name: &str| !template.variables().iter().any(|variable| variable.name == name);
        let bare = kinds != RowKinds::Messages;
        Self {
            custom_id: !bare || free(CUSTOM_ID),
            variables: bare && free(VARIABLES),
            messages: !bare || (kinds == RowKinds::Either && free(MESSAGES)),
            bare,
        }
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
    let checked = match &row.content {
        Content::Messages(messages) => {
            read_messages(messages.get()).map(CheckedContent::Messages).map_err(from_messages)
        }
        Content::Variables { object, envelope } => template
            .check(object)
            .or_else(|problems| at_column(text, object, problems, template))
            .map(CheckedContent::Variables)
            .map_err(|problems| from_template(if *envelope { VARIABLES } else { "" }, problems)),
    };
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
    content: Content<'a>,
}

enum Content<'a> {
    Variables {
        object: Cow<'a, str>,
        /// Whether the object stands in the member `variables`.
        envelope: bool,
    },
    Messages(&'a RawValue),
}

/// The last member of a name, and how many there are.
#[derive(Default)]
struct Named<'a>(Option<Member<'a>>, usize);

impl<'a> Named<'a> {
    fn note(&mut self, member: &Member<'a>) {
        (self.0, self.1) = (Some(*member), self.1 + 1);
    }

    fn once(&self, name: &str) -> Result<(), RowProblem> {
        if self.1 > 1 { Err(RowProblem::at(name, "stands twice in the row")) } else { Ok(()) }
    }
}

fn split(text: &str, reserved: Reserved) -> Result<Row<'_>, RowProblem> {
    let members = members(text).map_err(|error| RowProblem::whole(explain(text, error)))?;
    let (mut id, mut variables, mut messages) = (Named::default(), Named::default(), Named::default());
    let mut other = None;
    for member in &members {
        match &*member.name() {
            CUSTOM_ID => id.note(member),
            VARIABLES => variables.note(member),
            MESSAGES => messages.note(member),
            _ => {}
        }
        if !reserved.bare && !matches!(&*member.name(), CUSTOM_ID | MESSAGES) {
            other = Some(member.name());
        }
    }
    // Where there is nothing else a row could be, whatever `messages` holds was meant as such.
    let conversation = messages.0.filter(|member| {
        let alone = id.1 + messages.1 == members.len() && member.value.get().starts_with('[');
        reserved.messages && (alone || !reserved.bare)
    });
    if let Some(conversation) = conversation {
        id.once(CUSTOM_ID)?;
        messages.once(MESSAGES)?;
        if let Some(name) = other {
            let reason = format!("unknown key; {NO_MESSAGES} and may bring a \"custom_id\", nothing else");
            return Err(RowProblem::at(&name, reason));
        }
        let content = Content::Messages(conversation.value);
        return Ok(Row { custom_id: id.0.map(|id| id.value), content });
    }
    if !reserved.bare {
        return Err(RowProblem::whole(NO_MESSAGES));
    }
    let body = variables.0.filter(|member| {
        reserved.variables && member.value.get().starts_with('{') && id.1 + variables.1 == members.len()
    });
    if body.is_some() || reserved.custom_id {
        id.once(CUSTOM_ID)?;
    }
    if let Some(body) = body {
        variables.once(VARIABLES)?;
        let content = Content::Variables { object: Cow::Borrowed(body.value.get()), envelope: true };
        return Ok(Row { custom_id: id.0.map(|id| id.value), content });
    }
    let id = id.0.filter(|_| reserved.custom_id);
    let object = id.map_or(Cow::Borrowed(text), |id| Cow::Owned(without(text, id)));
    Ok(Row { custom_id: id.map(|id| id.value), content: Content::Variables { object, envelope: false } })
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

    const FREE: Reserved = Reserved { custom_id: true, variables: true, messages: true, bare: true };

    #[track_caller]
    fn check_split(text: &str, reserved: Reserved, id: Option<&str>, variables: &str) {
        let row = split(text, reserved).unwrap();
        assert_eq!(row.custom_id.map(RawValue::get), id, "{text}");
        let Content::Variables { object, .. } = row.content else { panic!("{text} is one of messages") };
        assert_eq!(object.replace(' ', ""), variables, "{text}");
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
        let id_taken = Reserved { custom_id: false, ..FREE };
        check_split(r#"{"custom_id":"x"}"#, id_taken, None, r#"{"custom_id":"x"}"#);
        check_split(
            r#"{"custom_id":"x","variables":{"custom_id":"y"}}"#,
            id_taken,
            Some("\"x\""),
            r#"{"custom_id":"y"}"#,
        );
        let variables_taken = Reserved { variables: false, ..FREE };
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
