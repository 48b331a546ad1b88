//! Conversations that are handed in as they are, without a template that renders them.
//!
//! Problems name places and limits; they never repeat what is said.

use std::borrow::Cow;
use std::fmt;

use promptmill_domain::{Message, Role};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::format::limits::CONVERSATION_MESSAGES;
use crate::jinja::RENDERED_BYTES;
use crate::json::syntax_message;
use crate::problem::{Problem, join, nearest, shorten};
use crate::reading::Key;
use crate::template::Template;

const KEYS: [&str; 2] = ["role", "content"];
const ROLES: [Role; 3] = [Role::System, Role::User, Role::Assistant];

/// The most problems noted of one conversation.
const MAX_PROBLEMS: usize = 50;

/// Bytes of text that are counted as one token.
const BYTES_PER_TOKEN: u64 = 4;

/// How the text of a template begins that renders nothing. Its message is never rendered: a row brings its own.
const BEFORE_OUTPUT: &str =
    r#"{"name":"messages","messages":[{"role":"user","content":"messages"}],"variables":{},"output":"#;

/// About how many tokens a prompt has: a token for every four bytes of text, rounded up. A rule of thumb for English prose, the same
/// everywhere an estimate is shown; what counts is what the provider reports.
pub fn estimate_tokens(messages: &[Message]) -> u64 {
    let bytes: u64 = messages.iter().map(|message| message.content.len() as u64).sum();
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Reads and checks a conversation, the text of a JSON array of `{"role", "content"}`: 1 to 256 messages, each of the role `system`,
/// `user` or `assistant`, every content a string, one of them not empty, and together no more than a rendered prompt may have.
///
/// # Errors
/// Every problem, each with a JSON Pointer into the array. Content is never repeated.
pub fn read_messages(json: &str) -> Result<Vec<Message>, Vec<Problem>> {
    let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(|error| {
        vec![Problem::whole(if error.is_data() {
            "must be an array of messages".to_owned()
        } else {
            format!("not valid JSON: {}", syntax_message(&error))
        })]
    })?;
    if elements.is_empty() || elements.len() > CONVERSATION_MESSAGES {
        return Err(vec![Problem::whole(format!("must have 1 to {CONVERSATION_MESSAGES} messages"))]);
    }
    let mut problems = Vec::new();
    let mut messages = Vec::with_capacity(elements.len());
    for (position, element) in elements.into_iter().enumerate() {
        messages.extend(read_message(element, &format!("/{position}"), &mut problems));
        if problems.len() >= MAX_PROBLEMS {
            problems.truncate(MAX_PROBLEMS);
            return Err(problems);
        }
    }
    if problems.is_empty() {
        problems.extend(problem_of_all(&messages));
    }
    if problems.is_empty() { Ok(messages) } else { Err(problems) }
}

fn problem_of_all(messages: &[Message]) -> Option<Problem> {
    if messages.iter().all(|message| message.content.trim().is_empty()) {
        return Some(Problem::whole("must have a message whose content is not empty"));
    }
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    (bytes > RENDERED_BYTES)
        .then(|| Problem::whole(format!("the messages have more than {RENDERED_BYTES} bytes together")))
}

fn read_message(element: &RawValue, pointer: &str, problems: &mut Vec<Problem>) -> Option<Message> {
    let Ok(Members(members)) = serde_json::from_str::<Members<'_>>(element.get()) else {
        problems.push(Problem::at(
            pointer,
            "must be an object such as {\"role\": \"user\", \"content\": \"...\"}",
        ));
        return None;
    };
    let (mut role, mut content) = (None, None);
    for (key, value) in members {
        let slot = match &*key {
            "role" => &mut role,
            "content" => &mut content,
            other => {
                let hint = nearest(other, KEYS).map(|meant| format!("; did you mean `{meant}`?"));
                let hint = hint.unwrap_or_default();
                let message = format!("unknown key{hint} (allowed: role, content)");
                problems.push(Problem::at(join(pointer, &shorten(other, 60)), message));
                continue;
            }
        };
        if slot.replace(value).is_some() {
            problems.push(Problem::at(join(pointer, &key), "stands twice in its object"));
        }
    }
    let mut text = |key: &str, value: Option<&RawValue>| {
        let message = match value.map(RawValue::get) {
            None => "is required",
            Some(value) if !value.starts_with('"') => "must be a string",
            Some(value) => match serde_json::from_str::<String>(value) {
                Ok(text) => return Some(text),
                // The outline of the string was read already, so only its escapes can be wrong.
                Err(_) => "holds half of a surrogate pair",
            },
        };
        problems.push(Problem::at(join(pointer, key), message));
        None
    };
    let (role, content) = (text("role", role), text("content", content));
    let role = role.and_then(|name| {
        let role = ROLES.into_iter().find(|role| role.as_str() == name);
        if role.is_none() {
            problems.push(Problem::at(join(pointer, "role"), "must be one of: system, user, assistant"));
        }
        role
    });
    Some(Message { role: role?, content: content? })
}

/// The members of an object as they are written, duplicates included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(2);
        while let Some(key) = map.next_key::<Key<'de>>()? {
            members.push((key.into_text(), map.next_value()?));
            if members.len() > MAX_PROBLEMS {
                return Err(serde::de::Error::custom("too many keys"));
            }
        }
        Ok(Members(members))
    }
}

/// The text of a template that renders nothing and judges by `output`; see [`Template::for_messages`].
pub(crate) fn template_source(output: Option<&str>) -> Result<String, Vec<Problem>> {
    // Read alone first: as a part of the whole it could end early and bring further keys.
    let output: &RawValue =
        serde_json::from_str(output.unwrap_or(r#"{"format":"text"}"#)).map_err(|error| {
            vec![Problem::at("/output", format!("not valid JSON: {}", syntax_message(&error)))]
        })?;
    let source = format!("{BEFORE_OUTPUT}{output}}}");
    Template::parse(&source).map(|_| source)
}

/// Whether `source` was made by [`template_source`].
pub(crate) fn is_template_source(source: &str) -> bool {
    source.starts_with(BEFORE_OUTPUT)
}
