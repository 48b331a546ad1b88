//! The bytes of a tenant's records, for its quota: specs of batches, versions of templates, claims with their answers, generations, schedules, row sets.
//!
//! They are never counted up and down. Each document says in its field `bytes` what it counts for, written in the one step that makes or
//! changes it, and the sum is that of the indexes over `(tenant, bytes)`. So there is nothing that a crash could leave wrong.
//!
//! Such a sum takes as long as a tenant has records. It is kept for a moment, or for a while where they are many, and what this process adds
//! meanwhile is added to it; where it removes something the sum is forgotten, or kept for less where it took long. What others do shows with the next
//! sum. It is noted in the database too, for a process that cannot sum them in the time for a command.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use promptmill_domain::TenantId;
use promptmill_ports::StoreResult;

use crate::MongoStore;
use crate::codec::Fields;
use crate::collections::{BATCHES, CLAIMS, GENERATIONS, ROW_SETS, SCHEDULES, TEMPLATES};
use crate::commands::{Commands, Concern};
use crate::usage;

/// Records whose sum takes less than a millisecond.
const FEW: u64 = 200;
/// Their sum is kept so long: a tenant that sends many small batches is asked about several times each.
const FEW_KEPT: Duration = Duration::from_secs(1);
/// That of more is kept at least so long.
const KEPT: Duration = Duration::from_secs(5);
/// Or, where something was removed, so long.
const SOON: Duration = Duration::from_secs(1);
/// And so many times as long as it took, so that summing takes a small part of the server's time.
const KEPT_TIMES: u32 = 20;

/// What a tenant's documents gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    records: u64,
}

/// A sum that is kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    /// What this process added since, at most.
    added: u64,
    at: Instant,
    time: Duration,
    is_of_few: bool,
}

impl Kept {
    const fn total(&self) -> u64 {
        self.bytes.saturating_add(self.added)
    }
}

/// Tenants whose sums are kept.
const REMEMBERED: usize = 10_000;

/// The sums that are kept.
#[derive(Debug, Default)]
pub(crate) struct RecordBytes {
    tenants: Mutex<HashMap<TenantId, Kept>>,
}

impl RecordBytes {
    fn tenants(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Kept>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that up to so many bytes are added now.
    pub(crate) fn add(&self, tenant: &TenantId, bytes: usize) {
        if let Some(kept) = self.tenants().get_mut(tenant) {
            kept.added = kept.added.saturating_add(bytes as u64);
        }
    }

    /// Tells that something was removed.
    pub(crate) fn removed(&self, tenant: &TenantId) {
        let mut tenants = self.tenants();
        match tenants.get_mut(tenant) {
            Some(kept) if kept.is_of_few => drop(tenants.remove(tenant)),
            Some(kept) => kept.time = kept.time.min(SOON.max(kept.time / 5)),
            None => {}
        }
    }

    /// Tells that so many bytes were put where others may have been.
    pub(crate) fn put(&self, tenant: &TenantId, bytes: usize) {
        self.removed(tenant);
        self.add(tenant, bytes);
    }

    /// Tells that something of any tenant was removed.
    pub(crate) fn removed_of_all(&self) {
        self.tenants().retain(|_, kept| !kept.is_of_few);
    }

    /// The sum, where it is kept and not too old. One that is too old is given to all but the first who asks, who sums anew.
    fn fresh(&self, tenant: &TenantId, now: Instant) -> Result<u64, Option<Kept>> {
        match self.tenants().get_mut(tenant) {
            Some(kept) if now.duration_since(kept.at) < kept.time => Ok(kept.total()),
            Some(kept) => {
                kept.at = now;
                Err(Some(*kept))
            }
            None => Err(None),
        }
    }

    /// Keeps a sum that was begun at `begun`, when the one before was `before`.
    fn keep(&self, tenant: &TenantId, sum: Sum, before: Option<Kept>, begun: Instant, now: Instant) {
        let mut tenants = self.tenants();
        if tenants.len() >= REMEMBERED {
            tenants.clear();
        }
        // What was added while the sum was made may be in it or not.
        let added = tenants.get(tenant).map_or(0, |kept| kept.added);
        let added = added.saturating_sub(before.map_or(0, |before| before.added));
        let is_of_few = sum.records <= FEW;
        let time = if is_of_few { FEW_KEPT } else { KEPT.max(now.duration_since(begun) * KEPT_TIMES) };
        tenants.insert(tenant.clone(), Kept { bytes: sum.bytes, added, at: now, time, is_of_few });
    }
}

impl MongoStore {
    /// What the records of the tenant take.
    pub(crate) async fn record_bytes(&self, tenant: &TenantId) -> StoreResult<u64> {
        let begun = Instant::now();
        let before = match self.kept_bytes().fresh(tenant, begun) {
            Ok(bytes) => return Ok(bytes),
            Err(before) => before,
        };
        let sum = match sum(self.commands(), tenant).await {
            Ok(sum) => {
                if sum.records > FEW {
                    // It is known now; the note is for others.
                    let noted = usage::note_records(self.commands(), tenant, sum.bytes).await;
                    if let Err(error) = noted {
                        tracing::debug!(error = &error as &dyn std::error::Error, "a sum is not noted");
                    }
                }
                sum
            }
            Err(error) => {
                // Of too many records there is no sum in the time for a command; the last one of any process is better than none.
                let last = match before {
                    Some(before) => Some(before.total()),
                    None => usage::noted_records(self.commands(), tenant).await?,
                };
                let Some(bytes) = last else { return Err(error) };
                let (tenant, error) = (tenant.as_str(), &error as &dyn std::error::Error);
                tracing::warn!(tenant, error, "the records of a tenant are not summed; an old sum is used");
                Sum { bytes, records: u64::MAX }
            }
        };
        self.kept_bytes().keep(tenant, sum, before, begun, Instant::now());
        Ok(sum.bytes)
    }
}

async fn sum(commands: &Commands, tenant: &TenantId) -> StoreResult<Sum> {
    let mut pipeline = stages(tenant);
    for collection in [BATCHES, CLAIMS, GENERATIONS, SCHEDULES, ROW_SETS] {
        pipeline.push(doc! { "$unionWith": { "coll": collection, "pipeline": stages(tenant) } });
    }
    let mut all = Sum { bytes: 0, records: 0 };
    for sum in commands.aggregate(TEMPLATES, pipeline, Concern::Majority).await? {
        let fields = Fields(&sum);
        all.bytes = all.bytes.saturating_add(fields.uint("bytes")?);
        all.records += fields.uint("records")?;
    }
    Ok(all)
}

/// Names no field but those of the index, so that no document is read.
fn stages(tenant: &TenantId) -> Vec<Document> {
    vec![
        doc! { "$match": { "tenant": tenant.as_str() } },
        doc! { "$group": { "_id": null, "bytes": { "$sum": "$bytes" }, "records": { "$sum": 1 } } },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: Sum = Sum { bytes: 5_000, records: FEW + 1 };

    fn tenant() -> TenantId {
        TenantId::default_tenant()
    }

    #[test]
    fn a_sum_of_many_records_is_kept_for_a_while_with_what_was_added_since() {
        let (kept, begun) = (RecordBytes::default(), Instant::now());
        assert!(matches!(kept.fresh(&tenant(), begun), Err(None)));
        kept.keep(&tenant(), MANY, None, begun, begun);
        kept.add(&tenant(), 7);
        assert_eq!(kept.fresh(&tenant(), begun + KEPT / 2).unwrap(), 5_007);
        // Then one sums anew, and the others do not wait for it.
        let before = kept.fresh(&tenant(), begun + KEPT).unwrap_err();
        assert_eq!(kept.fresh(&tenant(), begun + KEPT).unwrap(), 5_007);
        kept.add(&tenant(), 3);
        kept.keep(&tenant(), Sum { bytes: 5_008, ..MANY }, before, begun + KEPT, begun + KEPT * 2);
        assert_eq!(kept.fresh(&tenant(), begun + KEPT * 2).unwrap(), 5_011);
    }

    #[test]
    fn a_sum_that_took_long_is_kept_longer() {
        let (kept, begun) = (RecordBytes::default(), Instant::now());
        let now = begun + KEPT;
        kept.keep(&tenant(), MANY, None, begun, now);
        assert!(kept.fresh(&tenant(), now + KEPT * (KEPT_TIMES - 1)).is_ok());
        assert!(kept.fresh(&tenant(), now + KEPT * KEPT_TIMES).is_err());
    }

    #[test]
    fn a_sum_of_few_records_is_kept_for_a_moment_and_until_something_is_removed() {
        let (kept, begun) = (RecordBytes::default(), Instant::now());
        let few = Sum { records: FEW, ..MANY };
        kept.keep(&tenant(), few, None, begun, begun);
        kept.add(&tenant(), 7);
        assert_eq!(kept.fresh(&tenant(), begun).unwrap(), 5_007);
        assert!(kept.fresh(&tenant(), begun + FEW_KEPT).is_err());
        kept.keep(&tenant(), few, None, begun, begun);
        kept.removed(&tenant());
        assert!(matches!(kept.fresh(&tenant(), begun), Err(None)));
        kept.keep(&tenant(), MANY, None, begun, begun);
        kept.removed(&tenant());
        assert!(kept.fresh(&tenant(), begun).is_ok(), "a sum that takes long is not made for each removal");
    }
}
