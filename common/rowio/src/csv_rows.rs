//! The rows of a CSV: its header says which variable (or the `custom_id`) each column is.

use std::collections::HashSet;
use std::io::Read;

use promptmill_prompt::Template;

use crate::custom_id::CUSTOM_ID;
use crate::ndjson::{NO_MESSAGES, Reserved};
use crate::problem::{MAX_PROBLEMS, ReadError, RowProblem, RowProblems, from_template};
use crate::reader::{CheckedContent, Found};
use crate::records::{MAX_FIELDS, Record, Records};

/// Rows below a header row.
pub(crate) struct CsvRows<R> {
    records: Records<R>,
    header: Option<Header>,
}

struct Header {
    names: Vec<String>,
    id_column: Option<usize>,
}

impl<R: Read> CsvRows<R> {
    pub(crate) fn new(source: R, limit: usize) -> Self {
        Self { records: Records::new(source, limit), header: None }
    }

    /// The next row checked; `None` at the end.
    pub(crate) fn next(
        &mut self,
        template: &Template,
        reserved: Reserved,
    ) -> Result<Option<Found>, ReadError> {
        if self.header.is_none() {
            self.header = Some(self.read_header(template, reserved)?);
        }
        let Some(header) = &self.header else {
            return Ok(None);
        };
        let record = self.records.read()?;
        let line = self.records.line();
        Ok(match record {
            Record::End => None,
            Record::TooLong => {
                Some(Found::bad(line, "longer than a row may be; is a quoted field left open?".to_owned()))
            }
            Record::Unclosed => Some(Found::bad(line, "a quoted field is not closed".to_owned())),
            Record::Whole if self.records.count() != header.names.len() => {
                let (count, expected) = (self.records.count(), header.names.len());
                Some(Found::bad(line, format!("has {count} fields, but the header row has {expected}")))
            }
            Record::Whole => Some(match self.records.fields() {
                Some(fields) => header.check(line, &fields, template),
                None => Found::bad(line, "not UTF-8".to_owned()),
            }),
        })
    }

    fn read_header(&mut self, template: &Template, reserved: Reserved) -> Result<Header, ReadError> {
        if !reserved.bare {
            let problems = vec![RowProblem::whole(format!("{NO_MESSAGES}, which only JSON Lines can hold"))];
            return Err(ReadError::Header(RowProblems { line: 1, problems }));
        }
        let record = self.records.read()?;
        let line = self.records.line();
        let refuse = |reason: &str| {
            Err(ReadError::Header(RowProblems { line, problems: vec![RowProblem::whole(reason)] }))
        };
        match record {
            Record::Whole if self.records.count() <= MAX_FIELDS => {}
            Record::Whole => return refuse("it has more than 10000 columns"),
            Record::TooLong => return refuse("it is longer than a row may be"),
            Record::Unclosed => return refuse("a quoted name is not closed"),
            Record::End => return refuse("there is none; the first row names the variables"),
        }
        let Some(names) = self.records.fields() else {
            return refuse("it is not UTF-8; save the rows as UTF-8");
        };
        match names.as_slice() {
            [only] if only.contains(';') => {
                return refuse("it is one column with semicolons in it; separate the columns with commas");
            }
            [only] if only.contains('\t') => {
                return refuse("it is one column with tabs in it; separate the columns with commas");
            }
            [first, ..] if first.trim_start().starts_with(['{', '[']) => {
                return refuse("it is JSON; read the rows as jsonl");
            }
            _ => {}
        }
        let problems = problems_of(&names, template, reserved);
        if !problems.is_empty() {
            return Err(ReadError::Header(RowProblems { line, problems }));
        }
        let id_column = names.iter().position(|name| reserved.custom_id && *name == CUSTOM_ID);
        Ok(Header { names: names.into_iter().map(str::to_owned).collect(), id_column })
    }
}

/// What no row below such a header could be right about.
fn problems_of(names: &[&str], template: &Template, reserved: Reserved) -> Vec<RowProblem> {
    let declared = template.variables();
    let open = is_open(template);
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for (position, name) in names.iter().enumerate() {
        let is_id = reserved.custom_id && *name == CUSTOM_ID;
        if name.is_empty() {
            problems.push(RowProblem::whole(format!("column {} has no name", position + 1)));
        } else if !seen.insert(*name) {
            problems.push(RowProblem::at(name, "is the name of two columns"));
        } else if !is_id && !open && !declared.iter().any(|variable| variable.name == **name) {
            let known: Vec<&str> = declared.iter().map(|variable| variable.name.as_str()).collect();
            problems.push(RowProblem::at(
                name,
                format!("unknown variable; the template has: {}", known.join(", ")),
            ));
        }
    }
    for variable in declared.iter().filter(|v| v.required && v.default.is_none()) {
        if !seen.contains(variable.name.as_str()) {
            problems.push(RowProblem::at(&variable.name, "is required, but there is no such column"));
        }
    }
    problems.truncate(MAX_PROBLEMS);
    problems
}

/// Whether rows may hold variables the template does not name.
pub(crate) fn is_open(template: &Template) -> bool {
    template.variables_schema().get("additionalProperties") != Some(&serde_json::Value::Bool(false))
}

impl Header {
    fn check(&self, line: u64, fields: &[&str], template: &Template) -> Found {
        let id = self.id_column.and_then(|column| fields.get(column)).filter(|id| !id.is_empty());
        let cells = self.names.iter().zip(fields).enumerate();
        let named: Vec<(&str, &str)> = cells
            .filter(|(column, _)| Some(*column) != self.id_column)
            .map(|(_, (name, field))| (name.as_str(), *field))
            .collect();
        Found {
            line,
            custom_id: id.map(|id| (*id).to_owned()),
            checked: template
                .check_texts(&named)
                .map(CheckedContent::Variables)
                .map_err(|problems| from_template("", problems)),
        }
    }
}
