//! Rows from the file into the store, every one checked and rendered before the first call.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use promptmill_domain::{BatchId, BatchLimits, BatchSpec, TenantId, UploadId};
use promptmill_ports::{NewBatch, PartCommit, RowBlock};
use promptmill_prompt::Template;
use promptmill_rowio::{
    BlockBuilder, CheckedRow, ReadRow, Reservoir, RowFormat, RowLimits, RowReader, RowsDigest, StoredRow,
};
use promptmill_runtime::Engine;
use tokio::sync::mpsc;

use crate::args::RunArgs;
use crate::exit::Failure;

/// Bad rows that are shown; all are counted.
const SHOWN: usize = 100;

/// Blocks on their way to the store: bounds memory when the store is slower than the file.
const BLOCKS_IN_FLIGHT: usize = 8;

/// Where the rows come from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    path: Option<PathBuf>,
    format: RowFormat,
}

impl Source {
    pub(crate) fn new(rows: &Path) -> Result<Self, Failure> {
        if rows == Path::new("-") {
            return Ok(Self { path: None, format: RowFormat::Ndjson });
        }
        let format =
            RowFormat::from_path(rows).map_err(|error| Failure::input(format!("--rows: {error}")))?;
        Ok(Self { path: Some(rows.to_owned()), format })
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match &self.path {
            None => Ok(Box::new(stdin())),
            Some(path) => {
                let file = File::open(path).map_err(|error| {
                    Failure::input(format!("the rows {} cannot be read: {error}", path.display()))
                })?;
                Ok(Box::new(file))
            }
        }
    }

    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }
}

/// Checks all rows and stores those chosen as a draft batch with one committed part.
pub(crate) async fn take(
    engine: &Engine,
    tenant: &TenantId,
    spec: BatchSpec,
    limits: BatchLimits,
    source: Source,
    args: &RunArgs,
    template: &Arc<Template>,
) -> Result<BatchId, Failure> {
    let unstored = |error| Failure::work("the rows cannot be stored", error);
    let now_ms = engine.clock.now_ms();
    let id = BatchId::at(now_ms, rand::random());
    let upload = UploadId::at(now_ms, rand::random());
    engine
        .store
        .create(tenant, NewBatch { id, spec, limits, idem_key: None, now_ms })
        .await
        .map_err(unstored)?;
    let (blocks, mut stored) = mpsc::channel::<RowBlock>(BLOCKS_IN_FLIGHT);
    let choice = Choice::of(args);
    let reading = tokio::task::spawn_blocking({
        let template = template.clone();
        move || read(&source, choice, &template, |block| blocks.blocking_send(block).is_ok())
    });
    let mut at_hand = Vec::with_capacity(BLOCKS_IN_FLIGHT);
    while stored.recv_many(&mut at_hand, BLOCKS_IN_FLIGHT).await > 0 {
        engine
            .store
            .put_rows(tenant, id, upload, std::mem::take(&mut at_hand), engine.clock.now_ms())
            .await
            .map_err(unstored)?;
    }
    let taken = reading.await.map_err(|error| Failure::work("reading the rows broke off", error))??;
    let part = PartCommit { part: 0, upload, blocks: taken.blocks, digest: taken.digest };
    engine.store.commit_part(tenant, id, part).await.map_err(unstored)?;
    Ok(id)
}

/// The digest of the rows that would be taken.
pub(crate) async fn digest(
    source: Source,
    args: &RunArgs,
    template: &Arc<Template>,
) -> Result<[u8; 32], Failure> {
    let (choice, template) = (Choice::of(args), template.clone());
    let reading = tokio::task::spawn_blocking(move || read(&source, choice, &template, |_| true));
    Ok(reading.await.map_err(|error| Failure::work("reading the rows broke off", error))??.digest)
}

/// Which rows are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice {
    All,
    First(u32),
    Sample { rows: u32, seed: u64 },
}

impl Choice {
    pub(crate) fn of(args: &RunArgs) -> Self {
        match (args.limit, args.sample) {
            (Some(rows), _) => Self::First(rows),
            (None, Some(rows)) => Self::Sample { rows, seed: args.seed },
            (None, None) => Self::All,
        }
    }
}

struct Taken {
    blocks: u32,
    digest: [u8; 32],
}

/// Reads, checks and renders; hands on blocks of the rows chosen. `keep` answers whether anyone still wants them.
fn read(
    source: &Source,
    choice: Choice,
    template: &Arc<Template>,
    mut keep: impl FnMut(RowBlock) -> bool,
) -> Result<Taken, Failure> {
    let mut builder = BlockBuilder::new();
    let mut digest = RowsDigest::new();
    let mut blocks = 0;
    let mut emit = |block: promptmill_rowio::RowBlock| {
        let seq = blocks;
        blocks += 1;
        keep(RowBlock { seq, len: block.len, bytes: block.bytes.into(), ids: block.ids.into() })
    };
    let mut store = |row: &StoredRow, digest: &mut RowsDigest| {
        digest.push(row);
        builder.push(row).is_none_or(&mut emit)
    };
    if let Choice::Sample { rows, seed } = choice {
        let mut reservoir = Reservoir::new(rows as usize, seed);
        each_row(source, template, u32::MAX, |row| {
            reservoir.offer(row.to_stored());
            true
        })?;
        for row in reservoir.into_kept() {
            store(&row, &mut digest);
        }
    } else {
        let most = if let Choice::First(rows) = choice { rows } else { u32::MAX };
        each_row(source, template, most, |row| store(&row.to_stored(), &mut digest))?;
    }
    if let Some(last) = builder.finish() {
        emit(last);
    }
    Ok(Taken { blocks, digest: digest.finish() })
}

/// Gives each good row to `take` until it wants no more, and fails with all bad rows when there is one.
pub(crate) fn each_row(
    source: &Source,
    template: &Arc<Template>,
    most: u32,
    mut take: impl FnMut(CheckedRow) -> bool,
) -> Result<u32, Failure> {
    let mut reader =
        RowReader::new(source.open()?, source.format, template.clone(), RowLimits::default()).rendering();
    let mut report = Report::default();
    let mut rows = 0;
    while rows < most {
        let next =
            reader.next_row().map_err(|error| Failure::input(format!("{}: {error}", source.name())))?;
        match next {
            None => break,
            Some(ReadRow::Row(row)) => {
                rows += 1;
                // Behind a bad row reading goes on for the report alone.
                if report.bad == 0 && !take(*row) {
                    break;
                }
            }
            Some(ReadRow::Bad(problems)) => {
                rows += 1;
                report.add(&problems);
            }
        }
    }
    report.fail_if_any(&source.name(), rows)?;
    if rows == 0 {
        return Err(Failure::input(format!("{} holds no rows", source.name())));
    }
    Ok(rows)
}

/// Gathers what is wrong with the rows.
#[derive(Debug, Default)]
struct Report {
    bad: u64,
    lines: Vec<String>,
}

impl Report {
    fn add(&mut self, problems: &promptmill_rowio::RowProblems) {
        self.bad += 1;
        for problem in &problems.problems {
            if self.lines.len() < SHOWN {
                self.lines.push(format!("  line {}: {problem}", problems.line));
            }
        }
    }

    fn fail_if_any(self, name: &str, rows: u32) -> Result<(), Failure> {
        if self.bad == 0 {
            return Ok(());
        }
        let mut message = format!("{} of {rows} rows in {name} cannot be used; nothing was called", self.bad);
        for line in &self.lines {
            message.push('\n');
            message.push_str(line);
        }
        if self.lines.len() == SHOWN {
            message.push_str("\n  ... (the first 100 are shown)");
        }
        Err(Failure::Input(message))
    }
}
