//! Reads rows and checks each against the template: the one way rows come into a batch.
//!
//! A bad row is data (all its problems, with its line) and reading goes on behind it; only a failing source, a CSV
//! header that fits no row, or too many rows end the reading early.

use std::io::Read;
use std::sync::Arc;

use promptmill_domain::Message;
use promptmill_prompt::{Template, Variables};

use crate::csv_rows::CsvRows;
use crate::custom_id::{self, CUSTOM_ID, SeenIds};
use crate::format::RowFormat;
use crate::input::{Line, Lines};
use crate::ndjson::{self, Reserved};
use crate::problem::{ReadError, RowProblem, RowProblems};
use crate::stored::{RowContent, StoredRow};

/// How much is taken from one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimits {
    /// The most bytes of a row as written, without its line end.
    pub row_bytes: usize,
    /// The most rows, bad ones included.
    pub rows: u32,
}

impl Default for RowLimits {
    /// 1 MiB a row, 10,000,000 rows.
    fn default() -> Self {
        Self { row_bytes: 1024 * 1024, rows: 10_000_000 }
    }
}

/// What rows may bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowKinds {
    /// Variables of the template alone.
    Variables,
    /// Variables or messages, each row as it likes. A row is one of messages when it is an object with an array `messages` and
    /// nothing else but a `custom_id`, and the template has no variable `messages`; the template then only judges its reply.
    #[default]
    Either,
    /// Messages alone: the batch has no template of its own.
    Messages,
}

/// What a row brings, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckedContent {
    /// The template's variables, defaults filled in.
    Variables(Variables),
    /// The conversation itself.
    Messages(Vec<Message>),
}

/// A row that fits its batch.
#[derive(Debug, Clone)]
pub struct CheckedRow {
    /// The 1-based line on which the row begins.
    pub line: u64,
    /// The client's own id of the row; no other row of the input has it.
    pub custom_id: Option<String>,
    /// What the row brings.
    pub content: CheckedContent,
    /// The rendered messages, where [`RowReader::rendering`] asked for them; for a row of messages those themselves.
    pub rendered: Option<Vec<Message>>,
}

impl CheckedRow {
    /// The row as it is stored.
    pub fn to_stored(&self) -> StoredRow {
        let content = match &self.content {
            CheckedContent::Variables(variables) => RowContent::Variables(variables.to_json()),
            CheckedContent::Messages(messages) => RowContent::of_messages(messages),
        };
        StoredRow { custom_id: self.custom_id.clone(), content }
    }
}

/// One row as read.
#[derive(Debug, Clone)]
pub enum ReadRow {
    /// It can be taken.
    Row(Box<CheckedRow>),
    /// It cannot.
    Bad(RowProblems),
}

/// Reads rows from `R` in memory that does not grow with their number (except 16 bytes and a table slot for each `custom_id`).
pub struct RowReader<R> {
    source: Source<R>,
    template: Arc<Template>,
    limits: RowLimits,
    reserved: Reserved,
    rendering: bool,
    naming_rows: bool,
    seen: SeenIds,
    rows: u32,
    ended: bool,
}

enum Source<R> {
    Ndjson(Lines<R>),
    Csv(Box<CsvRows<R>>),
}

/// A row as a format's reader found it, before what concerns the batch as a whole.
pub(crate) struct Found {
    pub(crate) line: u64,
    pub(crate) custom_id: Option<String>,
    pub(crate) checked: Result<CheckedContent, Vec<RowProblem>>,
}

impl Found {
    pub(crate) fn bad(line: u64, reason: String) -> Self {
        Self { line, custom_id: None, checked: Err(vec![RowProblem::whole(reason)]) }
    }
}

impl<R: Read> RowReader<R> {
    /// A reader of `source`. Nothing is read before the first row is asked for.
    pub fn new(source: R, format: RowFormat, template: Arc<Template>, limits: RowLimits) -> Self {
        let source = match format {
            RowFormat::Ndjson => Source::Ndjson(Lines::new(source, limits.row_bytes)),
            RowFormat::Csv => Source::Csv(Box::new(CsvRows::new(source, limits.row_bytes))),
        };
        let reserved = Reserved::in_template(&template, RowKinds::default());
        Self {
            source,
            template,
            limits,
            reserved,
            rendering: false,
            naming_rows: false,
            seen: SeenIds::default(),
            rows: 0,
            ended: false,
        }
    }

    /// Says what rows may bring; [`RowKinds::Either`] unless this is called.
    #[must_use]
    pub fn accepting(mut self, kinds: RowKinds) -> Self {
        self.reserved = Reserved::in_template(&self.template, kinds);
        self
    }

    /// Has every row rendered as well, so that a template that fails on a row's values makes the row bad here and not
    /// at its call.
    #[must_use]
    pub fn rendering(mut self) -> Self {
        self.rendering = true;
        self
    }

    /// Names other rows by their 0-based position, for rows whose lines are not those of whoever sent them.
    #[must_use]
    pub fn naming_rows(mut self) -> Self {
        self.naming_rows = true;
        self
    }

    /// Keeps the first `most` ids only, for an input whose ids are compared again once all rows are stored: an id that stands twice is
    /// told here when it stands among those first, and there otherwise.
    #[must_use]
    pub fn keeping_ids(mut self, most: usize) -> Self {
        self.seen = SeenIds::at_most(most);
        self
    }

    /// How many rows were read so far, bad ones included.
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// The next row; `None` at the end and after an error.
    ///
    /// # Errors
    /// [`ReadError`], after which nothing more is read.
    pub fn next_row(&mut self) -> Result<Option<ReadRow>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let row = self.read();
        self.ended = !matches!(row, Ok(Some(_)));
        row
    }

    fn read(&mut self) -> Result<Option<ReadRow>, ReadError> {
        let Some(found) = self.find()? else {
            return Ok(None);
        };
        if self.rows >= self.limits.rows {
            return Err(ReadError::TooManyRows { limit: self.limits.rows });
        }
        self.rows += 1;
        Ok(Some(self.finish(found)))
    }

    fn find(&mut self) -> Result<Option<Found>, ReadError> {
        match &mut self.source {
            Source::Csv(rows) => rows.next(&self.template, self.reserved),
            Source::Ndjson(lines) => {
                let line = lines.read()?;
                let number = lines.number();
                Ok(match line {
                    Line::End => None,
                    Line::TooLong => {
                        Some(Found::bad(number, format!("longer than {} bytes", self.limits.row_bytes)))
                    }
                    Line::Text => Some(ndjson::check(number, lines.bytes(), &self.template, self.reserved)),
                })
            }
        }
    }

    /// Adds what concerns the row among the others: its id is its own, and it renders.
    fn finish(&mut self, found: Found) -> ReadRow {
        let Found { line, custom_id, checked } = found;
        let id_problem = custom_id.as_deref().and_then(|id| self.id_problem(id, line));
        let (content, mut problems) = match checked {
            Ok(content) => (Some(content), Vec::new()),
            Err(problems) => (None, problems),
        };
        problems.extend(id_problem);
        let mut rendered = None;
        match content.as_ref().filter(|_| self.rendering) {
            Some(CheckedContent::Variables(variables)) => match self.template.render(variables) {
                Ok(messages) => rendered = Some(messages),
                Err(error) => problems.push(RowProblem::whole(error.to_string())),
            },
            Some(CheckedContent::Messages(messages)) => rendered = Some(messages.clone()),
            None => {}
        }
        match content.filter(|_| problems.is_empty()) {
            Some(content) => ReadRow::Row(Box::new(CheckedRow { line, custom_id, content, rendered })),
            None => ReadRow::Bad(RowProblems { line, problems }),
        }
    }

    fn id_problem(&mut self, id: &str, line: u64) -> Option<RowProblem> {
        let problem = match custom_id::check(id) {
            Err(reason) => reason.to_owned(),
            Ok(()) => {
                let (places, place) =
                    if self.naming_rows { ("rows", u64::from(self.rows) - 1) } else { ("lines", line) };
                let first = self.seen.note(id, place).err()?;
                format!("{places} {first} and {place} have the same")
            }
        };
        Some(RowProblem::at(CUSTOM_ID, problem))
    }
}

impl<R: Read> Iterator for RowReader<R> {
    type Item = Result<ReadRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}
