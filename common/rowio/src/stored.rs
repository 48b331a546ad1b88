//! A row as it is stored: one line of a block.
//!
//! A row without a `custom_id` is its variables' JSON object as it is; a row with one is the array
//! `["custom_id",{variables}]`. The first byte tells which, so most rows are read back without parsing.

use serde_json::value::RawValue;

/// A checked row, ready to be stored or just read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The client's own id of the row.
    pub custom_id: Option<String>,
    /// The row's variables as a JSON object (`Variables::to_json`), which `Variables::from_json` reads.
    pub variables_json: String,
}

impl StoredRow {
    /// Appends the row's line, its line feed included.
    ///
    /// Line breaks between the tokens of `variables_json` become blanks; inside a JSON string there are none.
    pub(crate) fn write_line(&self, line: &mut Vec<u8>) {
        if let Some(id) = &self.custom_id {
            line.push(b'[');
            serde_json::to_writer(&mut *line, id).expect("a string is written into memory");
            line.push(b',');
        }
        let begin = line.len();
        line.extend_from_slice(self.variables_json.as_bytes());
        for byte in line[begin..].iter_mut().filter(|byte| **byte == b'\n') {
            *byte = b' ';
        }
        line.extend_from_slice(if self.custom_id.is_some() { b"]\n" } else { b"\n" });
    }

    /// Reads a line without its line feed; `None` when it is not one.
    pub(crate) fn read_line(line: &str) -> Option<Self> {
        if line.starts_with('{') {
            return line.ends_with('}').then(|| Self { custom_id: None, variables_json: line.to_owned() });
        }
        let (id, variables): (String, &RawValue) = serde_json::from_str(line).ok()?;
        let variables = variables.get();
        variables.starts_with('{').then(|| Self { custom_id: Some(id), variables_json: variables.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(row: &StoredRow) -> String {
        let mut bytes = Vec::new();
        row.write_line(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_line_is_compact_and_its_first_byte_tells_its_form() {
        let variables_json = r#"{"a":1}"#.to_owned();
        let plain = StoredRow { custom_id: None, variables_json: variables_json.clone() };
        assert_eq!(line(&plain), "{\"a\":1}\n");
        let named = StoredRow { custom_id: Some("x\"]".into()), variables_json };
        assert_eq!(line(&named), "[\"x\\\"]\",{\"a\":1}]\n");
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
        let row = StoredRow { custom_id: None, variables_json: "{\n\"a\": 1}".into() };
        assert_eq!(line(&row), "{ \"a\": 1}\n");
    }

    proptest! {
        #[test]
        fn a_row_survives_its_line(id in proptest::option::of(".{1,40}"), key in ".{0,20}", value in ".{0,80}") {
            let variables_json = serde_json::json!({ key: value }).to_string();
            let row = StoredRow { custom_id: id, variables_json };
            let line = line(&row);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(StoredRow::read_line(line.trim_end_matches('\n')), Some(row));
        }

        #[test]
        fn no_text_makes_reading_a_line_panic(text in ".{0,80}") {
            let _ = StoredRow::read_line(&text);
        }
    }
}
