//! Writes outcomes one after the other, in either form.

use std::io::{self, BufWriter, Write};

use crate::outcome::columns::CsvColumns;
use crate::outcome::end::{EndLine, ResultsEnd};
use crate::outcome::record::OutcomeRecord;
use crate::outcome::table::{CsvOptions, Table};

/// Why an outcome was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target failed; what it holds may end within an outcome.
    #[error("the outcomes cannot be written")]
    Io(#[from] io::Error),
    /// The outcome's output or input is not what the columns were made for; nothing of it was written.
    #[error("the outcome of item {index} does not have the shape its template says")]
    Corrupt {
        /// The item's index.
        index: u64,
    },
}

/// Writes outcomes to `W` through a buffer. Call [`OutcomeWriter::finish`]: dropping it may lose what is buffered
/// without a word.
pub struct OutcomeWriter<W: Write>(Form<W>);

enum Form<W: Write> {
    Jsonl { to: BufWriter<W>, line: Vec<u8> },
    Csv(Box<Table<W>>),
}

impl<W: Write> OutcomeWriter<W> {
    /// A writer of JSON Lines.
    pub fn jsonl(to: W) -> Self {
        Self(Form::Jsonl { to: BufWriter::with_capacity(64 * 1024, to), line: Vec::new() })
    }

    /// A writer of CSV; the header row is written at once.
    ///
    /// # Errors
    /// [`WriteError::Io`] when the target fails.
    pub fn csv(to: W, columns: CsvColumns, options: CsvOptions) -> Result<Self, WriteError> {
        Ok(Self(Form::Csv(Box::new(Table::new(to, columns, options)?))))
    }

    /// Writes one outcome.
    ///
    /// # Errors
    /// See [`WriteError`]; after [`WriteError::Corrupt`] further outcomes may be written.
    pub fn write(&mut self, record: &OutcomeRecord<'_>) -> Result<(), WriteError> {
        match &mut self.0 {
            Form::Csv(table) => table.write(record),
            Form::Jsonl { to, line } => {
                line.clear();
                // Memory takes every write, so only a stored value that is not JSON can fail here.
                serde_json::to_writer(&mut *line, record)
                    .map_err(|_| WriteError::Corrupt { index: record.index })?;
                line.push(b'\n');
                Ok(to.write_all(line)?)
            }
        }
    }

    /// Closes JSON Lines with a last line. A CSV has no place for it and stays as it is.
    ///
    /// # Errors
    /// [`WriteError::Io`] when the target fails.
    pub fn write_end(&mut self, end: ResultsEnd<'_>) -> Result<(), WriteError> {
        match &mut self.0 {
            Form::Csv(_) => Ok(()),
            Form::Jsonl { to, line } => {
                line.clear();
                serde_json::to_writer(&mut *line, &EndLine { is_end: true, end })
                    .expect("numbers and texts are written into memory");
                line.push(b'\n');
                Ok(to.write_all(line)?)
            }
        }
    }

    /// Hands everything written so far to the target and flushes it.
    ///
    /// # Errors
    /// The target's.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Form::Jsonl { to, .. } => to.flush(),
            Form::Csv(table) => table.flush(),
        }
    }

    /// Flushes and gives the target back.
    ///
    /// # Errors
    /// The target's; what it holds may then end within an outcome.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Form::Jsonl { mut to, .. } => {
                to.flush()?;
                to.into_inner().map_err(io::IntoInnerError::into_error)
            }
            Form::Csv(table) => table.finish(),
        }
    }
}
