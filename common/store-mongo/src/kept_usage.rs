//! What was read of the sums of a tenant's usage a moment ago, with what this process added since: a tenant that sends many small batches is asked
//! about several times each, and what other processes add shows soon enough for a quota.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use promptmill_domain::TenantId;

/// How long what was read is good.
const KEPT: Duration = Duration::from_millis(200);
/// Tenants that are remembered.
const REMEMBERED: usize = 10_000;

/// Sums of a tenant: rows of a day, and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Rows submitted on the day.
    pub(crate) rows: i64,
    /// Bytes stored.
    pub(crate) bytes: i64,
}

impl Sums {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_add(other.rows), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

#[derive(Debug)]
struct Kept {
    day: u64,
    /// What was read, and when; nothing while it is read for the first time.
    read: Option<(Sums, Instant)>,
    /// What this process added since that was asked for.
    added: Sums,
}

/// Of every tenant that was asked about.
#[derive(Debug, Default)]
pub(crate) struct KeptUsage(Mutex<HashMap<TenantId, Kept>>);

impl KeptUsage {
    fn kept(&self) -> MutexGuard<'_, HashMap<TenantId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes are about to be added, or removed.
    pub(crate) fn add_bytes(&self, tenant: &TenantId, bytes: i64) {
        if let Some(kept) = self.kept().get_mut(tenant) {
            kept.added = kept.added.plus(Sums { rows: 0, bytes });
        }
    }

    /// Rows of a day are about to be added.
    pub(crate) fn add_rows(&self, tenant: &TenantId, day: u64, rows: i64) {
        if let Some(kept) = self.kept().get_mut(tenant).filter(|kept| kept.day == day) {
            kept.added = kept.added.plus(Sums { rows, bytes: 0 });
        }
    }

    /// The sums, where they were read a moment ago. Else they are about to be read, and what is added from here on counts beside them.
    pub(crate) fn fresh(&self, tenant: &TenantId, day: u64, now: Instant) -> Option<Sums> {
        let mut all = self.kept();
        if let Some(kept) = all.get_mut(tenant).filter(|kept| kept.day == day) {
            match kept.read {
                Some((sums, at)) if now.duration_since(at) < KEPT => return Some(sums.plus(kept.added)),
                // Others are given the old ones until the first who asks has the new ones.
                Some((sums, _)) => {
                    let old = sums.plus(kept.added);
                    (kept.read, kept.added) = (Some((old, now)), Sums::default());
                }
                None => {}
            }
            return None;
        }
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(tenant.clone(), Kept { day, read: None, added: Sums::default() });
        None
    }

    /// The sums were read. What was added while they were may be in them or not, and counts as if it were not.
    pub(crate) fn keep(&self, tenant: &TenantId, day: u64, sums: Sums, now: Instant) {
        if let Some(kept) = self.kept().get_mut(tenant).filter(|kept| kept.day == day) {
            kept.read = Some((sums, now));
            kept.added = Sums { rows: kept.added.rows.max(0), bytes: kept.added.bytes.max(0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 20_000;

    #[test]
    fn what_was_read_a_moment_ago_is_good_with_what_was_added_since() {
        let (kept, now, tenant) = (KeptUsage::default(), Instant::now(), TenantId::default_tenant());
        kept.add_bytes(&tenant, 5);
        assert_eq!(kept.fresh(&tenant, DAY, now), None);
        kept.keep(&tenant, DAY, Sums { rows: 1, bytes: 10 }, now);
        kept.add_bytes(&tenant, 7);
        kept.add_bytes(&tenant, -2);
        kept.add_rows(&tenant, DAY, 3);
        kept.add_rows(&tenant, DAY + 1, 100);
        assert_eq!(kept.fresh(&tenant, DAY, now), Some(Sums { rows: 4, bytes: 15 }));
        assert_eq!(kept.fresh(&tenant, DAY + 1, now), None, "another day is another sum");
    }

    #[test]
    fn when_it_is_old_one_reads_anew_and_others_do_not_wait() {
        let (kept, now, tenant) = (KeptUsage::default(), Instant::now(), TenantId::default_tenant());
        assert_eq!(kept.fresh(&tenant, DAY, now), None);
        kept.keep(&tenant, DAY, Sums { rows: 1, bytes: 10 }, now);
        let later = now + KEPT;
        assert_eq!(kept.fresh(&tenant, DAY, later), None);
        kept.add_rows(&tenant, DAY, 2);
        assert_eq!(kept.fresh(&tenant, DAY, later), Some(Sums { rows: 3, bytes: 10 }));
        // What others added is in what is read; what this process added meanwhile is counted in any case.
        kept.keep(&tenant, DAY, Sums { rows: 6, bytes: 20 }, later);
        assert_eq!(kept.fresh(&tenant, DAY, later), Some(Sums { rows: 8, bytes: 20 }));
    }
}
