//! What is wrong with rows: problems of single rows, which reading goes on after, and errors that end it.
//!
//! Texts are bounded and hold names, places and reasons, never a value of a row.

use std::fmt;
use std::io;

use promptmill_prompt::Problem;

use crate::input::NotText;

/// The member of a row that holds its messages.
pub(crate) const MESSAGES: &str = "messages";

/// The most problems told of one row.
pub(crate) const MAX_PROBLEMS: usize = 50;
const MAX_FIELD_CHARS: usize = 200;
const MAX_REASON_CHARS: usize = 500;

/// One thing that is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// The variable's name or the path below it (a JSON Pointer without its first slash); empty for the row as a whole.
    pub field: String,
    /// JSON Pointer (RFC 6901) into the row as it was written, through `variables` or `messages` where it is an envelope; for a CSV
    /// into the object that its columns make. Empty for the row as a whole; cut with an ellipsis where it is very long.
    pub pointer: String,
    /// What is wrong, without a full stop.
    pub reason: String,
}

impl RowProblem {
    /// A problem of one field.
    pub(crate) fn at(field: &str, reason: impl Into<String>) -> Self {
        let pointer = if field.is_empty() {
            String::new()
        } else {
            format!("/{}", field.replace('~', "~0").replace('/', "~1"))
        };
        Self::placed(field, pointer, reason.into())
    }

    fn placed(field: &str, pointer: String, reason: String) -> Self {
        Self {
            field: cut(field.to_owned(), MAX_FIELD_CHARS),
            pointer: cut(pointer, MAX_FIELD_CHARS),
            reason: cut(reason, MAX_REASON_CHARS),
        }
    }

    /// A problem of the row as a whole.
    pub(crate) fn whole(reason: impl Into<String>) -> Self {
        Self::at("", reason)
    }
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// A row that cannot be taken, with everything that is wrong with it (at most 50 problems and a word on how many more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblems {
    /// The 1-based line on which the row begins.
    pub line: u64,
    /// At least one problem.
    pub problems: Vec<RowProblem>,
}

impl fmt::Display for RowProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        write_joined(f, &self.problems)
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, problems: &[RowProblem]) -> fmt::Result {
    for (position, problem) in problems.iter().enumerate() {
        let separator = if position == 0 { "" } else { "; " };
        write!(f, "{separator}{problem}")?;
    }
    Ok(())
}

/// Why reading rows ended before their end. After one, the reader gives no more rows.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source failed.
    #[error("the rows cannot be read")]
    Io(#[source] io::Error),
    /// The input is not UTF-8 text at all (compressed, UTF-16, a spreadsheet).
    #[error("{0}")]
    NotText(NotText),
    /// The header row of a CSV does not fit, so no row below it can.
    #[error("the header row does not fit: {0}")]
    Header(RowProblems),
    /// There are more rows than a batch may hold.
    #[error("there are more than {limit} rows")]
    TooManyRows {
        /// The most rows allowed.
        limit: u32,
    },
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        error.downcast::<NotText>().map_or_else(Self::Io, Self::NotText)
    }
}

/// Translates what the template found in the member `envelope` of a row (empty: in the row itself), keeping the number and
/// length of the texts bounded.
pub(crate) fn from_template(envelope: &str, problems: Vec<Problem>) -> Vec<RowProblem> {
    let total = problems.len();
    let mut found: Vec<RowProblem> = problems
        .into_iter()
        .take(MAX_PROBLEMS)
        .map(|problem| {
            let path = problem.pointer.strip_prefix('/').unwrap_or(&problem.pointer);
            // One step of a pointer is a name; only a longer path needs its escapes to stay readable as a path.
            let name =
                if path.contains('/') { path.to_owned() } else { path.replace("~1", "/").replace("~0", "~") };
            let begin = if envelope.is_empty() { String::new() } else { format!("/{envelope}") };
            RowProblem::placed(&name, begin + &problem.pointer, problem.message)
        })
        .collect();
    if total > MAX_PROBLEMS {
        found.push(RowProblem::whole(format!("and {} more problems", total - MAX_PROBLEMS)));
    }
    found
}

/// What is wrong with the messages of a row: their field names begin with `messages`, as no variable tells where they are.
pub(crate) fn from_messages(problems: Vec<Problem>) -> Vec<RowProblem> {
    let placed = |mut problem: Problem| {
        problem.pointer = format!("/{MESSAGES}{}", problem.pointer);
        problem
    };
    from_template("", problems.into_iter().map(placed).collect())
}

fn cut(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push('…');
    }
    text
}
