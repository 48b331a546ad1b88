//! Rows on their way from one thread to another, in one piece of memory: what one thread allocates and another frees costs both.

use crate::reader::{CheckedContent, CheckedRow};
use crate::stored::{RowContent, StoredRow};

/// Consecutive rows as they are stored.
#[derive(Debug, Default)]
pub struct RowRun {
    /// Each row's `custom_id`, then its content.
    text: Vec<u8>,
    rows: Vec<Stretch>,
}

/// Where a row stands, behind the one before.
#[derive(Debug)]
struct Stretch {
    /// Where its `custom_id` ends, if it has one.
    id_end: Option<usize>,
    /// Where its content ends.
    end: RowContent<usize>,
}

impl RowRun {
    /// Adds the next row.
    pub fn push(&mut self, row: &CheckedRow) {
        let id_end = row.custom_id.as_ref().map(|id| {
            self.text.extend_from_slice(id.as_bytes());
            self.text.len()
        });
        let end = match &row.content {
            CheckedContent::Variables(variables) => {
                variables.write_json(&mut self.text);
                RowContent::Variables(self.text.len())
            }
            CheckedContent::Messages(messages) => {
                self.text.extend_from_slice(RowContent::of_messages(messages).as_json().as_bytes());
                RowContent::Messages(self.text.len())
            }
        };
        self.rows.push(Stretch { id_end, end });
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Every row, in order.
    pub fn rows(&self) -> impl Iterator<Item = StoredRow<&str>> {
        let text = std::str::from_utf8(&self.text).expect("ids and JSON are UTF-8");
        let mut at = 0;
        self.rows.iter().map(move |row| {
            let mut until = |end| &text[std::mem::replace(&mut at, end)..end];
            let custom_id = row.id_end.map(&mut until);
            let content = match row.end {
                RowContent::Variables(end) => RowContent::Variables(until(end)),
                RowContent::Messages(end) => RowContent::Messages(until(end)),
            };
            StoredRow { custom_id, content }
        })
    }
}
