//! Outcomes as the rows of a CSV (RFC 4180, UTF-8, line feeds).

use std::io::{self, Write};

use csv::{QuoteStyle, WriterBuilder};
use promptmill_domain::Output;

use crate::json::{Member, members};
use crate::outcome::cell::{Cell, CsvDialect};
use crate::outcome::columns::{CsvColumns, Members};
use crate::outcome::record::OutcomeRecord;
use crate::outcome::writer::WriteError;

/// How a CSV is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CsvOptions {
    /// How texts stand in cells.
    pub dialect: CsvDialect,
    /// Whether the file begins with a byte order mark, by which spreadsheets tell UTF-8.
    pub byte_order_mark: bool,
}

/// A CSV being written; its header is already there.
pub(super) struct Table<W: Write> {
    csv: csv::Writer<W>,
    columns: CsvColumns,
    dialect: CsvDialect,
}

impl<W: Write> Table<W> {
    pub(super) fn new(mut to: W, columns: CsvColumns, options: CsvOptions) -> Result<Self, WriteError> {
        if options.byte_order_mark {
            to.write_all("\u{feff}".as_bytes())?;
        }
        let quotes = match options.dialect {
            CsvDialect::Raw => QuoteStyle::Necessary,
            CsvDialect::Safe => QuoteStyle::NonNumeric,
        };
        let mut csv = WriterBuilder::new().quote_style(quotes).from_writer(to);
        csv.write_record(columns.header()).map_err(from_csv)?;
        Ok(Self { csv, columns, dialect: options.dialect })
    }

    pub(super) fn write(&mut self, record: &OutcomeRecord<'_>) -> Result<(), WriteError> {
        // Every cell is made before the first is written, so a corrupt outcome leaves no half row.
        let cells = cells(&self.columns, record).ok_or(WriteError::Corrupt { index: record.index })?;
        self.csv.write_record(cells.iter().map(|cell| cell.bytes(self.dialect))).map_err(from_csv)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.csv.flush()
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.csv.flush()?;
        self.csv.into_inner().map_err(|error| io::Error::new(error.error().kind(), error.to_string()))
    }
}

fn from_csv(error: csv::Error) -> WriteError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => WriteError::Io(error),
        // Reading and uneven rows are the other kinds; every row has the cells of its header.
        other => WriteError::Io(io::Error::other(format!("{other:?}"))),
    }
}

fn cells<'a>(columns: &CsvColumns, record: &OutcomeRecord<'a>) -> Option<Vec<Cell<'a>>> {
    let mut cells = vec![
        Cell::number(record.index),
        record.custom_id.map_or(Cell::Empty, Cell::text),
        Cell::text(record.outcome),
    ];
    match (&columns.output, record.output) {
        (None, None) => cells.push(Cell::Empty),
        (None, Some(Output::Text(text))) => cells.push(Cell::text(text)),
        (None, Some(Output::Json(json))) => cells.push(Cell::json(json)),
        (Some(columns), None) => spread(columns, "{}", &mut cells)?,
        (Some(columns), Some(Output::Json(json))) => spread(columns, json.get(), &mut cells)?,
        (Some(_), Some(Output::Text(_))) => return None,
    }
    let flags: Vec<&str> = record.flags.iter().map(|flag| flag.as_str()).collect();
    cells.extend([
        record.error.map_or(Cell::Empty, |error| Cell::text(error.kind.as_str())),
        record.error.map_or(Cell::Empty, |error| Cell::text(error.message)),
        Cell::number(record.attempts),
        Cell::number(record.calls),
        Cell::number(record.tokens.prompt),
        Cell::number(record.tokens.completion),
        record.cost.map_or(Cell::Empty, Cell::number),
        Cell::Text(flags.join(" ").into()),
    ]);
    if let Some(columns) = &columns.input {
        // Messages have no columns: those of the template's variables stay empty.
        spread(columns, record.input.filter(|input| !input.starts_with('[')).unwrap_or("{}"), &mut cells)?;
    }
    Some(cells)
}

/// Puts the members of the object `json` under their columns; `None` when it is no object, or a member has no column.
fn spread<'a>(columns: &Members, json: &'a str, cells: &mut Vec<Cell<'a>>) -> Option<()> {
    let mut found = vec![Cell::Empty; columns.names.len()];
    let mut others: Vec<Member<'a>> = Vec::new();
    for member in members(json).ok()? {
        match columns.position(&member.name()) {
            Some(position) => found[position] = Cell::value(member.value),
            None => others.push(member),
        }
    }
    cells.append(&mut found);
    if columns.other {
        cells.push(if others.is_empty() { Cell::Empty } else { Cell::Text(object(&others).into()) });
    } else if !others.is_empty() {
        return None;
    }
    Some(())
}

fn object(members: &[Member<'_>]) -> String {
    let pairs: Vec<String> = members.iter().map(|m| format!("{}:{}", m.key.get(), m.value.get())).collect();
    format!("{{{}}}", pairs.join(","))
}
