//! The members of a JSON object as they are written, without building their values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// A member of an object: the raw text of its key (with quotes) and of its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) key: &'a RawValue,
    pub(crate) value: &'a RawValue,
}

impl<'a> Member<'a> {
    /// The key as text; a key that holds half a surrogate pair is given as it is written.
    pub(crate) fn name(&self) -> Cow<'a, str> {
        let raw = self.key.get();
        match raw.get(1..raw.len().saturating_sub(1)) {
            Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
            _ => serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
        }
    }
}

/// Why a text is not an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAnObject {
    /// It is not JSON; the text says why and at which column.
    Syntax(String),
    /// It is JSON of another kind.
    OtherKind,
}

/// Every member of the object `text`, in order, duplicates included. Only the outline is checked: numbers out of
/// range, half surrogates and the depth of values are not looked at.
pub(crate) fn members(text: &str) -> Result<Vec<Member<'_>>, NotAnObject> {
    serde_json::from_str::<Members<'_>>(text).map(|members| members.0).map_err(|error| {
        match error.classify() {
            Category::Data => NotAnObject::OtherKind,
            Category::Syntax | Category::Eof | Category::Io => NotAnObject::Syntax(at_column(&error)),
        }
    })
}

/// The error's words with the column alone: a row is one line, and its number is told elsewhere.
fn at_column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} at column {}", error.column())
}

/// `text` with one member and its comma written over by blanks, so that every other column stays where it was.
pub(crate) fn without(text: &str, member: Member<'_>) -> String {
    let start_of = |part: &str| part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let mut begin = start_of(member.key.get());
    let mut end = start_of(member.value.get()) + member.value.get().len();
    let mut bytes = text.as_bytes().to_vec();
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let after = bytes[end..].iter().position(|byte| !blank(byte)).map(|skip| end + skip);
    if let Some(comma) = after.filter(|at| bytes[*at] == b',') {
        end = comma + 1;
    } else if let Some(comma) =
        bytes[..begin].iter().rposition(|byte| !blank(byte)).filter(|at| bytes[*at] == b',')
    {
        begin = comma;
    }
    bytes[begin..end].fill(b' ');
    String::from_utf8(bytes).expect("whole members were replaced by ASCII blanks")
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            members.push(Member { key, value });
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_given_as_written() {
        let found = members(r#" {"a" : 1E5, "\u0062": {"x": [1, 2]}, "a":"ä"} "#).unwrap();
        let pairs: Vec<_> = found.iter().map(|m| (m.name().into_owned(), m.value.get())).collect();
        assert_eq!(pairs, [("a".into(), "1E5"), ("b".into(), r#"{"x": [1, 2]}"#), ("a".into(), "\"ä\"")]);
    }

    #[test]
    fn what_is_not_an_object_is_told_from_what_is_not_json() {
        for other in ["[1]", "null", "1", "\"{}\""] {
            assert_eq!(members(other).unwrap_err(), NotAnObject::OtherKind, "{other}");
        }
        for (broken, column) in [("{\"a\": NaN}", 7), ("{} x", 4), ("{\"a\":1", 6), ("{a:1}", 2)] {
            let NotAnObject::Syntax(text) = members(broken).unwrap_err() else { panic!("{broken}") };
            assert!(text.ends_with(&format!("at column {column}")), "{broken}: {text}");
        }
    }

    #[test]
    fn a_member_is_blanked_out_with_one_comma_and_nothing_else_moves() {
        let cases = [
            (r#"{"custom_id":"x"}"#, "{               }"),
            (r#"{"custom_id" : "x" , "b":1}"#, r#"{                    "b":1}"#),
            (r#"{"b":1, "custom_id":"é" }"#, r#"{"b":1                   }"#),
            (r#"{"b":1,"custom_id":2,"c":3}"#, r#"{"b":1,              "c":3}"#),
        ];
        for (text, expected) in cases {
            let found = members(text).unwrap();
            let id = *found.iter().find(|m| m.name() == "custom_id").unwrap();
            assert_eq!(without(text, id), expected);
        }
    }
}
