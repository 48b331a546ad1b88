//! The outcomes, from the store to the file the user asked for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{PageLimit, StoredOutcome, decode_outcome};
use promptmill_prompt::Template;
use promptmill_rowio::{
    CsvColumns, CsvOptions, OutcomeRecord, OutcomeWriter, RowFormat, StoredRow, WriteError, decode_range,
};
use promptmill_runtime::Engine;

use super::target::{Target, parent_of};
use crate::exit::Failure;

/// What is read from the store at once.
const PAGE: PageLimit = PageLimit { items: 512, bytes: 4 * 1024 * 1024 };

type Sink = OutcomeWriter<BufWriter<Box<dyn Write + Send>>>;

/// Writes every outcome there is, in the order of the rows. A file appears under its name only when it is complete.
pub(crate) async fn write(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    template: &Template,
    target: &Target,
    include_input: bool,
) -> Result<(), Failure> {
    match target {
        Target::Stdout => {
            let sink =
                OutcomeWriter::jsonl(BufWriter::new(Box::new(std::io::stdout()) as Box<dyn Write + Send>));
            let mut inner = copy(engine, tenant, batch, sink, include_input).await?;
            inner.flush().map_err(|error| Failure::work("standard output cannot be written", error))
        }
        Target::File { path, format } => {
            let unwritable =
                |error: std::io::Error| Failure::work(format!("{} cannot be written", path.display()), error);
            let aside = aside(path);
            let file = File::create(&aside).map_err(unwritable)?;
            let kept = file.try_clone().map_err(unwritable)?;
            let writer = BufWriter::new(Box::new(file) as Box<dyn Write + Send>);
            let sink = match format {
                RowFormat::Ndjson => OutcomeWriter::jsonl(writer),
                RowFormat::Csv => {
                    OutcomeWriter::csv(writer, CsvColumns::of(template, include_input), CsvOptions::default())
                        .map_err(|error| {
                            Failure::work(format!("{} cannot be written", path.display()), error)
                        })?
                }
            };
            let mut inner = copy(engine, tenant, batch, sink, include_input).await?;
            inner.flush().map_err(unwritable)?;
            kept.sync_all().map_err(unwritable)?;
            std::fs::rename(&aside, path).map_err(unwritable)?;
            // Without this the name may be lost in a power cut although the content is not.
            File::open(parent_of(path)).and_then(|folder| folder.sync_all()).map_err(unwritable)
        }
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".part");
    name.into()
}

async fn copy(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    mut sink: Sink,
    include_input: bool,
) -> Result<BufWriter<Box<dyn Write + Send>>, Failure> {
    let unreadable = |error| Failure::work("the outcomes cannot be read", error);
    let mut rows = Rows { engine, tenant, batch, base: 0, rows: vec![] };
    let mut from = Some(0);
    while let Some(index) = from {
        let page = engine.store.outcomes(tenant, batch, index, PAGE).await.map_err(unreadable)?;
        for stored in page.outcomes {
            let row = match (include_input, &stored.body) {
                (false, Some(_)) => None,
                // The id of an item without a body stands only in its row.
                _ => Some(rows.get(stored.index).await?),
            };
            write_one(&mut sink, &stored, row, include_input)?;
        }
        from = page.next;
    }
    sink.finish().map_err(|error| Failure::work("the results cannot be written", error))
}

fn write_one(
    sink: &mut Sink,
    stored: &StoredOutcome,
    row: Option<&StoredRow>,
    include_input: bool,
) -> Result<(), Failure> {
    let outcome = match &stored.body {
        Some(body) => Some(
            decode_outcome(body)
                .map_err(|error| Failure::work(format!("the outcome of row {}", stored.index), error))?,
        ),
        None => None,
    };
    let custom_id = row.and_then(|row| row.custom_id.as_deref());
    let mut record = OutcomeRecord::of(stored.index, stored.code, outcome.as_ref(), custom_id);
    if let Some(row) = row.filter(|_| include_input) {
        record = record.with_input(row.content.as_json());
    }
    match sink.write(&record) {
        Ok(()) => Ok(()),
        Err(WriteError::Io(error)) => Err(Failure::work("the results cannot be written", error)),
        Err(error) => Err(Failure::work("a stored outcome cannot be used", error)),
    }
}

/// The rows of one chunk at a time.
struct Rows<'a> {
    engine: &'a Engine,
    tenant: &'a TenantId,
    batch: BatchId,
    base: u32,
    rows: Vec<StoredRow>,
}

impl Rows<'_> {
    async fn get(&mut self, index: u32) -> Result<&StoredRow, Failure> {
        let held = |rows: &[StoredRow], base: u32| {
            index.checked_sub(base).is_some_and(|at| (at as usize) < rows.len())
        };
        if !held(&self.rows, self.base) {
            let block = self.engine.store.rows(self.tenant, self.batch, index).await;
            let block = block.map_err(|error| Failure::work("the rows cannot be read", error))?;
            self.rows = decode_range(&block.bytes, block.rows.skip as usize, block.len as usize)
                .map_err(|error| Failure::work("the rows cannot be read", error))?;
            self.base = block.base;
        }
        let row = index.checked_sub(self.base).and_then(|at| self.rows.get(at as usize));
        row.ok_or_else(|| Failure::Work(format!("row {index} is missing in the store"), None))
    }
}
