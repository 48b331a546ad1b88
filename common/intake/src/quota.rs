//! How much a tenant may bring in.

use std::fmt;

use promptmill_ports::Usage;

/// Sizes and quotas of what tenants bring in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Rows of one batch.
    pub batch_rows: u64,
    /// Rows one tenant may submit on a day (UTC).
    pub rows_per_day: u64,
    /// Bytes one tenant may have stored, of rows, outcomes and all other records.
    pub stored_bytes: u64,
}

impl Default for Quotas {
    /// What holds unless an operator says otherwise.
    fn default() -> Self {
        Self { row_bytes: 1 << 20, batch_rows: 10_000_000, rows_per_day: 10_000_000, stored_bytes: 50 << 30 }
    }
}

/// What a tenant has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedUp {
    /// So many rows of the day, of so many.
    Rows(u64, u64),
    /// The bytes.
    Bytes,
}

impl fmt::Display for UsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(used, most) => {
                write!(f, "{used} of {most} rows of the day are submitted; the day ends at midnight UTC")
            }
            Self::Bytes => f.write_str(
                "the bytes that may be stored are used up; delete batches that are no longer needed",
            ),
        }
    }
}

impl Quotas {
    /// Whether a tenant that used so much may submit so many rows more.
    ///
    /// # Errors
    /// What is used up.
    pub const fn may_submit(&self, used: &Usage, rows: u64) -> Result<(), UsedUp> {
        if used.rows.saturating_add(rows) > self.rows_per_day {
            return Err(UsedUp::Rows(used.rows, self.rows_per_day));
        }
        Ok(())
    }

    /// How many bytes a tenant that used so much may still store, at least one.
    ///
    /// # Errors
    /// What is used up.
    pub fn room_bytes(&self, used: &Usage) -> Result<u64, UsedUp> {
        let room = self.stored_bytes.checked_sub(used.stored_bytes());
        room.filter(|room| *room > 0).ok_or(UsedUp::Bytes)
    }
}
