//! Rows in, outcomes out: how a file (or any stream of bytes) becomes checked rows and stored blocks, and how
//! outcomes become JSON Lines or CSV.
//!
//! Everything streams: memory does not grow with the number of rows, except for 16 bytes and their table slot
//! per `custom_id` ([`DuplicateSearch`] finds those of several inputs in 12 MiB). Nothing here knows paths, HTTP or stores; it works on `std::io::Read` and `std::io::Write`.
//! Start at [`RowReader`] for rows, at [`BlockBuilder`] for what is stored, at [`OutcomeWriter`] for results.

mod block;
mod csv_rows;
mod custom_id;
mod digest;
mod duplicates;
mod format;
mod input;
mod json;
mod ndjson;
mod outcome;
mod problem;
mod reader;
mod records;
mod run;
mod sample;
mod stored;

pub use block::{BlockBuilder, CorruptBlock, RowBlock, decode_block, decode_range};
pub use custom_id::id_hash;
pub use digest::RowsDigest;
pub use duplicates::{DuplicateSearch, RowPosition, SameHash};
pub use format::{RowFormat, UnknownFormat};
pub use input::NotText;
pub use outcome::{
    CsvColumns, CsvDialect, CsvOptions, OutcomeFailure, OutcomeRecord, OutcomeWriter, ResultsEnd, WriteError,
};
pub use problem::{ReadError, RowProblem, RowProblems};
pub use reader::{CheckedContent, CheckedRow, ReadRow, RowKinds, RowLimits, RowReader};
pub use run::RowRun;
pub use sample::{Reservoir, Sample, sample_rows};
pub use stored::{RowContent, StoredRow};
