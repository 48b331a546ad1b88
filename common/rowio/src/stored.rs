//! A row as it is stored: one line of a block.
//!
//! A row of variables without a `custom_id` is its JSON object as it is. Any other row is the array `["custom_id",{variables}]`,
//! `["custom_id",[messages]]` or `[null,[messages]]`. The first byte tells which, so most rows are read back without parsing.

use promptmill_domain::Message;
use serde_json::value::RawValue;

use crate::block::CorruptBlock;

/// What a row brings, as JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowContent<T = String> {
    /// The template's variables as a JSON object (`Variables::to_json`), which `Variables::from_json` reads.
    Variables(T),
    /// The conversation itself, for a row that is not rendered: a JSON array of `{"role", "content"}`, which
    /// [`RowContent::read_messages`] reads.
    Messages(T),
}

impl RowContent {
    /// Messages as they are stored.
    pub fn of_messages(messages: &[Message]) -> Self {
        let json = serde_json::to_string(messages).expect("roles and texts are written into memory");
        Self::Messages(json)
    }

    /// Reads back the text of [`RowContent::Messages`], without checking it again.
    ///
    /// # Errors
    /// When the text is not one that [`RowContent::of_messages`] wrote.
    pub fn read_messages(json: &str) -> Result<Vec<Message>, CorruptBlock> {
        serde_json::from_str(json).map_err(|_| CorruptBlock("a row's messages are not messages"))
    }
}

impl<T: AsRef<str>> RowContent<T> {
    /// The text, whichever it is.
    pub fn as_json(&self) -> &str {
        match self {
            Self::Variables(json) | Self::Messages(json) => json.as_ref(),
        }
    }
}

/// A checked row, ready to be stored or just read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRow<T = String> {
    /// The client's own id of the row.
    pub custom_id: Option<T>,
    /// What it brings.
    pub content: RowContent<T>,
}

impl StoredRow {
    /// A row of variables, given as `Variables::to_json` writes them.
    pub fn of_variables(custom_id: Option<String>, variables_json: impl Into<String>) -> Self {
        Self { custom_id, content: RowContent::Variables(variables_json.into()) }
    }

    /// Reads a line without its line feed; `None` when it is not one.
    pub(crate) fn read_line(line: &str) -> Option<Self> {
        if line.starts_with('{') {
            return line.ends_with('}').then(|| Self::of_variables(None, line));
        }
        let (custom_id, content): (Option<String>, &RawValue) = serde_json::from_str(line).ok()?;
        let content = content.get();
        match content.as_bytes().first() {
            Some(b'{') if custom_id.is_some() => Some(Self::of_variables(custom_id, content)),
            Some(b'[') => Some(Self { custom_id, content: RowContent::Messages(content.to_owned()) }),
            _ => None,
        }
    }
}

impl<T: AsRef<str>> StoredRow<T> {
    /// The client's own id of the row.
    pub(crate) fn custom_id(&self) -> Option<&str> {
        self.custom_id.as_ref().map(T::as_ref)
    }

    /// Appends the row's line, its line feed included.
    ///
    /// Line breaks between the tokens of the content become blanks; inside a JSON string there are none.
    pub(crate) fn write_line(&self, line: &mut Vec<u8>) {
        let json = self.content.as_json();
        let bare = self.custom_id.is_none() && matches!(self.content, RowContent::Variables(_));
        if !bare {
            line.push(b'[');
            serde_json::to_writer(&mut *line, &self.custom_id()).expect("a string is written into memory");
            line.push(b',');
        }
        let begin = line.len();
        line.extend_from_slice(json.as_bytes());
        for byte in line[begin..].iter_mut().filter(|byte| **byte == b'\n') {
            *byte = b' ';
        }
        line.extend_from_slice(if bare { b"\n" } else { b"]\n" });
    }
}

#[cfg(test)]
mod tests {
    use promptmill_domain::Role;
    use proptest::prelude::*;

    use super::*;

    fn line(row: &StoredRow) -> String {
        let mut bytes = Vec::new();
        row.write_line(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_line_is_compact_and_its_first_byte_tells_its_form() {
        let variables = r#"{"a":1}"#;
        assert_eq!(line(&StoredRow::of_variables(None, variables)), "{\"a\":1}\n");
        let named = StoredRow::of_variables(Some("x\"]".into()), variables);
        assert_eq!(line(&named), "[\"x\\\"]\",{\"a\":1}]\n");
        let content = RowContent::of_messages(&[Message { role: Role::User, content: "Hi\n".into() }]);
        let messages = r#"[{"role":"user","content":"Hi\n"}]"#;
        let unnamed = StoredRow { custom_id: None, content: content.clone() };
        assert_eq!(line(&unnamed), format!("[null,{messages}]\n"));
        let named = StoredRow { custom_id: Some("x".into()), content };
        assert_eq!(line(&named), format!("[\"x\",{messages}]\n"));
    }

    #[test]
    fn a_line_of_another_shape_is_not_a_row() {
        for bad in
            ["", "1", "{", "[]", "[\"a\"]", "[\"a\",1]", "[\"a\",{},1]", "[null,{}]", "[\"a\",{}", "x{}"]
        {
            assert_eq!(StoredRow::read_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_break_between_tokens_does_not_break_the_line() {
        let row = StoredRow::of_variables(None, "{\n\"a\": 1}");
        assert_eq!(line(&row), "{ \"a\": 1}\n");
    }

    proptest! {
        #[test]
        fn a_row_survives_its_line(id in proptest::option::of(".{1,40}"), key in ".{0,20}", value in ".{0,80}") {
            let message = Message { role: Role::System, content: value.clone() };
            let messages = RowContent::of_messages(std::slice::from_ref(&message));
            prop_assert_eq!(RowContent::read_messages(messages.as_json()), Ok(vec![message]));
            let variables = RowContent::Variables(serde_json::json!({ key: value }).to_string());
            for content in [variables, messages] {
                let row = StoredRow { custom_id: id.clone(), content };
                let line = line(&row);
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert_eq!(StoredRow::read_line(line.trim_end_matches('\n')), Some(row));
            }
        }

        #[test]
        fn no_text_makes_reading_a_line_panic(text in ".{0,80}") {
            let _ = StoredRow::read_line(&text);
        }
    }
}
