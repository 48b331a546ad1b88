//! Outcomes out, as JSON Lines (lossless) or CSV (for tables).
//!
//! JSON Lines: one object per line with the members `index`, `custom_id`, `outcome` (`succeeded`, `failed`, `cancelled`,
//! `expired`), `output`, `error` (`kind`, `message`), `attempts`, `calls`, `tokens` (`prompt`, `completion`), `cost`
//! (US dollars as a decimal string; null when no call told one) and `flags`, all always there and in this order, and
//! `input` last where it was asked for; where they are read as they settle, `cursor` follows, and a line with `_end` may close
//! them ([`ResultsEnd`]). CSV: see [`CsvColumns`] for the columns, [`CsvDialect`] for the cells.

mod cell;
mod columns;
mod end;
mod record;
mod table;
mod writer;

pub use cell::CsvDialect;
pub use columns::CsvColumns;
pub use end::ResultsEnd;
pub use record::{OutcomeFailure, OutcomeRecord};
pub use table::CsvOptions;
pub use writer::{OutcomeWriter, WriteError};
