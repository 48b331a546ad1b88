//! Why an export or an import failed.

use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::StoreError;

/// Why an export or an import failed. Nothing of what is stored is in its words, but for ids and names.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read or written.
    #[error("the archive cannot be read or written")]
    Io(#[from] std::io::Error),
    /// The file is something else.
    #[error("this is no archive of promptmill")]
    NoArchive,
    /// The file is of a later format.
    #[error("the archive has format {0}, and this promptmill knows up to {1}; use a newer promptmill")]
    Newer(u32, u32),
    /// The file ends before its end.
    #[error("the archive is cut off: it ends at line {0}")]
    CutOff(u64),
    /// A line cannot be read, or stands where it may not.
    #[error("line {line} of the archive: {what}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The lines are not those that were written.
    #[error("the archive is damaged: its digest is not that of its lines")]
    Damaged,
    /// The store failed.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// There is no tenant at all.
    #[error("there is nothing to export: the store has no tenant")]
    Empty,
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
    /// Somebody works on the store.
    #[error("processes work on this store ({0}); stop every api, worker and scheduler of it first")]
    InUse(String),
    /// What was made again is not what it was.
    #[error("{0} did not become what it was: {1}")]
    Differs(BatchId, String),
    /// What is read back is not what was written.
    #[error(
        "what the store holds after the import is not what the archive holds: its digest is {found}, and should be {expected}"
    )]
    NotTheSame {
        /// That of the store.
        found: String,
        /// That of the archive.
        expected: String,
    },
}
