//! Row sets as clients see them.

use promptmill_ports::{RowSet, RowSetVersion};
use serde::Serialize;
use utoipa::ToSchema;

use crate::time::Time;

/// Rows that are stored to be run again and again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RowSet)]
pub(crate) struct RowSetView {
    /// Its name.
    name: String,
    /// Its newest version.
    latest: u32,
    /// Its versions that are there, newest first.
    versions: Vec<RowSetVersionView>,
    /// When it was made.
    created_at: Time,
}

/// A version of a row set. It never changes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RowSetVersion)]
pub(crate) struct RowSetVersionView {
    /// Which, from 1.
    version: u32,
    /// How many rows.
    rows: u64,
    /// Bytes that are stored of it.
    bytes: u64,
    /// SHA-256 over the rows, 64 hexadecimal digits; the same rows give the same digest.
    digest: String,
    /// When it was made.
    created_at: Time,
}

impl From<RowSetVersion> for RowSetVersionView {
    fn from(version: RowSetVersion) -> Self {
        Self {
            version: version.version,
            rows: version.rows,
            bytes: version.bytes,
            digest: version.digest,
            created_at: Time(version.created_ms),
        }
    }
}

impl From<RowSet> for RowSetView {
    fn from(set: RowSet) -> Self {
        Self {
            latest: set.versions.last().map_or(0, |newest| newest.version),
            name: set.name.unwrap_or_default(),
            versions: set.versions.into_iter().rev().map(Into::into).collect(),
            created_at: Time(set.created_ms),
        }
    }
}
