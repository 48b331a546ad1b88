//! Templates and readers the tests share.

use std::sync::Arc;

use promptmill_prompt::Template;
use promptmill_rowio::{CheckedRow, ReadError, ReadRow, RowFormat, RowLimits, RowProblem, RowReader};
use serde_json::{Value, json};

/// A template with variables of several types.
pub(crate) fn template() -> Arc<Template> {
    parse(&json!({
        "name": "product",
        "messages": [{ "role": "user", "content": "{{ product }} {{ count }} {{ tags }} {{ tone }}" }],
        "variables": {
            "product": { "type": "string" },
            "count": { "type": "integer", "required": false, "default": 1 },
            "tags": { "type": "array", "required": false, "default": [] },
            "tone": { "type": "string", "enum": ["plain", "warm"], "default": "plain" },
        },
    }))
}

/// A template without declared variables: it takes any.
pub(crate) fn open_template() -> Arc<Template> {
    parse(&json!({ "name": "open", "messages": [{ "role": "user", "content": "say {{ text }}" }] }))
}

/// A template with these variables, all strings.
pub(crate) fn strings(names: &[&str]) -> Arc<Template> {
    let variables: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
    parse(&json!({
        "name": "strings",
        "messages": [{ "role": "user", "content": "x" }],
        "variables": variables,
    }))
}

pub(crate) fn parse(template: &Value) -> Arc<Template> {
    Arc::new(Template::parse(&template.to_string()).expect("a valid template"))
}

/// Every row, and the error that ended the reading, if one did.
pub(crate) struct Read {
    pub(crate) rows: Vec<ReadRow>,
    pub(crate) error: Option<ReadError>,
}

pub(crate) fn read(bytes: &[u8], format: RowFormat, template: &Arc<Template>) -> Read {
    read_within(bytes, format, template, RowLimits::default())
}

pub(crate) fn read_within(
    bytes: &[u8],
    format: RowFormat,
    template: &Arc<Template>,
    limits: RowLimits,
) -> Read {
    let mut reader = RowReader::new(bytes, format, Arc::clone(template), limits);
    let mut rows = Vec::new();
    let error = loop {
        match reader.next_row() {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(matches!(reader.next_row(), Ok(None)), "a reader that ended stays ended");
    Read { rows, error }
}

impl Read {
    /// The rows, all of which must be good.
    #[track_caller]
    pub(crate) fn good(self) -> Vec<CheckedRow> {
        if let Some(error) = self.error {
            panic!("{error}");
        }
        let good = |row| match row {
            ReadRow::Row(row) => *row,
            ReadRow::Bad(problems) => panic!("{problems}"),
        };
        self.rows.into_iter().map(good).collect()
    }

    /// Every row in a line: its number and its variables, or its problems.
    #[track_caller]
    pub(crate) fn told(self) -> Vec<String> {
        if let Some(error) = self.error {
            panic!("{error}");
        }
        let tell = |row| match row {
            ReadRow::Row(row) => {
                let id = row.custom_id.as_deref().map(|id| format!("{id} ")).unwrap_or_default();
                format!("{}: {id}{}", row.line, row.to_stored().content.as_json())
            }
            ReadRow::Bad(problems) => problems.to_string(),
        };
        self.rows.into_iter().map(tell).collect()
    }

    /// The problems of the only row.
    #[track_caller]
    pub(crate) fn only_bad(mut self) -> Vec<RowProblem> {
        assert!(self.error.is_none(), "{:?}", self.error);
        assert_eq!(self.rows.len(), 1, "{:?}", self.rows);
        match self.rows.remove(0) {
            ReadRow::Bad(problems) => problems.problems,
            ReadRow::Row(row) => panic!("line {} is good", row.line),
        }
    }
}
