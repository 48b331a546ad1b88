//! Outcomes to bytes: a bounded piece of work at a time, made for a blocking thread.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use promptmill_domain::BatchId;
use promptmill_ports::{BlockRow, CorruptBody, StoredOutcome, decode_outcome};
use promptmill_rowio::{
    CorruptBlock, CsvColumns, CsvDialect, CsvOptions, OutcomeRecord, OutcomeWriter, ResultsEnd, WriteError,
    decode_range,
};

use super::coding::{Coding, Encoded, Pipe};
use super::cursor::{self, Position};

/// The largest piece that is handed to the connection at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes, before coding, after which a step stops, so that what it made is on its way before more is made.
const STEP_BYTES: u64 = 64 * 1024;

/// Outcomes after which a step stops all the same: a compressor may keep to itself what it was given for long.
const STEP_LINES: usize = 256;

/// An outcome to be written.
#[derive(Debug)]
pub(super) struct Line {
    /// The outcome as it is stored.
    pub(super) stored: StoredOutcome,
    /// The index under which it is shown; in a merged reading not the one it is stored under.
    pub(super) index: u32,
    /// The batch that holds it.
    pub(super) batch: BatchId,
    /// Where a reading goes on behind it.
    pub(super) after: u64,
}

/// How lines are written.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// JSON Lines, each with its cursor where that is asked for.
    Jsonl { cursors: bool },
    /// A CSV with these columns.
    Csv(Box<CsvColumns>, CsvDialect),
}

/// What a closing line says beside the number of lines.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// The batch's state when the reading began.
    pub(super) state: &'static str,
    /// Whether nothing will ever follow.
    pub(super) complete: bool,
    /// Where a reading goes on.
    pub(super) cursor: Option<String>,
}

/// A stored value that cannot be written; the answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error(transparent)]
    Body(#[from] CorruptBody),
    #[error(transparent)]
    Rows(#[from] CorruptBlock),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the content coding failed")]
    Coding(#[from] io::Error),
}

/// Why a step ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Every line is written.
    Drained,
    /// There is enough to hand on.
    Full,
    /// The next line is of an item without a body, whose `custom_id` stands in its row.
    NeedsRow {
        /// The batch that holds the row.
        batch: BatchId,
        /// The item's index there.
        index: u32,
    },
}

/// The custom ids of one chunk.
#[derive(Debug, Default)]
pub(super) struct ChunkIds(Option<(BatchId, u32, Vec<Option<String>>)>);

impl ChunkIds {
    /// Reads them from the chunk's rows.
    ///
    /// # Errors
    /// When the block is not one of ours.
    pub(super) fn read(batch: BatchId, block: &BlockRow) -> Result<Self, CorruptBlock> {
        let rows = decode_range(&block.bytes, block.rows.skip as usize, block.len as usize)?;
        Ok(Self(Some((batch, block.base, rows.into_iter().map(|row| row.custom_id).collect()))))
    }

    /// The item's id, where it has one; `None` when the item is not of this chunk.
    pub(super) fn get(&self, batch: BatchId, index: u32) -> Option<Option<&str>> {
        let (of, base, ids) = self.0.as_ref()?;
        let at = index.checked_sub(*base).filter(|_| *of == batch)?;
        ids.get(at as usize).map(Option::as_deref)
    }
}

/// Writes lines into one coded stream of bytes.
pub(super) struct Encoder {
    writer: OutcomeWriter<Encoded>,
    pipe: Pipe,
    /// The batch whose cursors the lines carry.
    cursors: Option<BatchId>,
    written: u64,
    after: u64,
}

impl Encoder {
    /// An encoder at the beginning of an answer about `batch`, which reads on from `after` when nothing is written.
    pub(super) fn new(batch: BatchId, form: Form, coding: Coding, after: u64) -> Result<Self, EncodeError> {
        let pipe = Pipe::default();
        let encoded = Encoded::new(coding, pipe.clone())?;
        let (writer, cursors) = match form {
            Form::Jsonl { cursors } => (OutcomeWriter::jsonl(encoded), cursors.then_some(batch)),
            Form::Csv(columns, dialect) => {
                let options = CsvOptions { dialect, byte_order_mark: false };
                (OutcomeWriter::csv(encoded, *columns, options)?, None)
            }
        };
        Ok(Self { writer, pipe, cursors, written: 0, after })
    }

    /// Lines written.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Where a reading goes on behind the last line.
    pub(super) const fn after(&self) -> u64 {
        self.after
    }

    /// Writes lines from the front of `lines`, at most `most`, until the step is large enough or a row is needed.
    pub(super) fn step(
        &mut self,
        lines: &mut VecDeque<Line>,
        most: u64,
        ids: &ChunkIds,
    ) -> Result<Step, EncodeError> {
        let begun_at = self.pipe.entered();
        for _ in 0..most.min(STEP_LINES as u64) {
            let Some(line) = lines.front() else { return Ok(Step::Drained) };
            if self.pipe.entered() - begun_at >= STEP_BYTES {
                return Ok(Step::Full);
            }
            let cursor = self.cursors.map(|batch| cursor::encode(batch, Position::Settled, line.after));
            let cursor = cursor.as_deref();
            match &line.stored.body {
                Some(body) => {
                    let outcome = decode_outcome(body)?;
                    let record = OutcomeRecord::settled(line.index, &outcome);
                    self.writer.write(&OutcomeRecord { cursor, ..record })?;
                }
                None => {
                    let (batch, index) = (line.batch, line.stored.index);
                    let Some(id) = ids.get(batch, index) else {
                        return Ok(Step::NeedsRow { batch, index });
                    };
                    let record = OutcomeRecord::closed(line.index, id, line.stored.code);
                    self.writer.write(&OutcomeRecord { cursor, ..record })?;
                }
            }
            self.written += 1;
            self.after = line.after;
            lines.pop_front();
        }
        Ok(if lines.is_empty() { Step::Drained } else { Step::Full })
    }

    /// What is ready to be handed on, in pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Bytes> + use<> {
        pieces(&self.pipe)
    }

    /// Ends the stream, with a closing line where there is to be one; answers what is left to be handed on.
    pub(super) fn finish(mut self, end: Option<&End>) -> Result<Vec<Bytes>, EncodeError> {
        if let Some(End { state, complete, cursor }) = end {
            let cursor = cursor.as_deref();
            self.writer.write_end(ResultsEnd { count: self.written, state, complete: *complete, cursor })?;
        }
        self.writer.finish()?.finish()?;
        Ok(pieces(&self.pipe).collect())
    }
}

fn pieces(pipe: &Pipe) -> impl Iterator<Item = Bytes> + use<> {
    let mut rest = Bytes::from(pipe.take());
    std::iter::from_fn(move || {
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some(piece)
    })
}
