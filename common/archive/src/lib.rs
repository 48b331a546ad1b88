//! An installation in one file: everything that a store keeps, in the words of the domain and not in those of a backend, so that it moves
//! from SQLite to MongoDB and back, and is a backup of either.
//!
//! [`export()`] reads a store through its ports, also while the installation works: of each batch it takes the state first, and of each chunk what one
//! version of its head says, so no batch is torn, whenever it is read; of each schedule it takes what is decided before the ticks, so none is lost. [`import()`] makes everything again by the engine's own
//! steps in a store that is empty, reads it back and compares the digests.
//!
//! The file is JSON lines in one zstd stream: a header, a [`Record`](record::Record) a line, and an end with the number of records and the
//! SHA-256 of their lines. What is not to be found in it: master keys (webhook secrets stay sealed under them), deliveries that tell of no batch, idle uploads of
//! drafts and row sets, sessions, and the order in which outcomes settled, which is about that of the items after an import.

mod bytes64;
mod error;
mod export;
mod import;
mod lines;
pub mod record;
mod replay;
mod summary;

pub use error::ArchiveError;
pub use export::{Scope, export};
pub use import::import;
pub use lines::{ArchiveReader, ArchiveWriter};
pub use summary::Summary;
