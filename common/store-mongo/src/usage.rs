//! What a tenant has used: rows submitted by day, and the bytes of what it has stored.
//!
//! The sums are kept beside what they count and not in the same step, since that would take a transaction: a process that dies between the two
//! leaves a sum that is off by what it had just written. Nothing but a quota rests on them. An addition leaves a mark among the last ones, so
//! that one whose answer was lost is not made twice.

use std::collections::HashMap;
use std::time::Instant;

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::TenantId;
use promptmill_ports::{StoreResult, Usage};

use crate::codec::{Fields, int};
use crate::collections::{SUBMITTED, USAGE};
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::kept_usage::Sums;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Marks of additions that are remembered: more than there are at the same time.
const MARKS: i32 = 64;

/// What the tenant has used, its records left out: those are summed by `record_bytes`. What others added in the last moment may be missing.
pub(crate) async fn of(commands: &Commands, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
    let (day, kept) = (now_ms / DAY_MS, commands.kept_usage());
    let sums = match kept.fresh(tenant, day, Instant::now()) {
        Some(sums) => sums,
        None => {
            let begun = Instant::now();
            let sums = read(commands, tenant, day).await?;
            kept.keep(tenant, day, sums, begun);
            sums
        }
    };
    // A sum that is off may fall below nothing.
    let sum = |sum: i64| u64::try_from(sum).unwrap_or(0);
    Ok(Usage { rows: sum(sums.rows), bytes: sum(sums.bytes), record_bytes: 0 })
}

async fn read(commands: &Commands, tenant: &TenantId, day: u64) -> StoreResult<Sums> {
    let (stored, submitted) = tokio::join!(
        commands.find_one(USAGE, Query::of(doc! { "_id": tenant.as_str() }), Concern::Majority),
        commands.find_one(SUBMITTED, Query::of(doc! { "_id": day_of(tenant, day) }), Concern::Majority),
    );
    let sum = |found: Option<&Document>, name| match found.and_then(|found| found.get(name)) {
        Some(Bson::Int64(sum)) => *sum,
        Some(Bson::Int32(sum)) => i64::from(*sum),
        _ => 0,
    };
    Ok(Sums { rows: sum(submitted?.as_ref(), "rows"), bytes: sum(stored?.as_ref(), "bytes") })
}

/// Counts bytes of rows and outcomes that were stored (or, below zero, removed).
pub(crate) async fn add(commands: &Commands, tenant: &TenantId, bytes: i64) -> StoreResult<()> {
    add_all(commands, &HashMap::from([(tenant, bytes)])).await
}

/// Notes what the tenant's records took when they were summed last.
pub(crate) async fn note_records(commands: &Commands, tenant: &TenantId, bytes: u64) -> StoreResult<()> {
    let sum = doc! { "$set": { "records": int(bytes) } };
    commands.update(USAGE, vec![Update::upsert(doc! { "_id": tenant.as_str() }, sum)]).await.map(|_| ())
}

/// What was noted of the tenant's records.
pub(crate) async fn noted_records(commands: &Commands, tenant: &TenantId) -> StoreResult<Option<u64>> {
    let query = Query::of(doc! { "_id": tenant.as_str() }).fields(doc! { "records": 1 });
    let found = commands.find_one(USAGE, query, Concern::Majority).await?;
    found.map_or(Ok(None), |found| Fields(&found).maybe_uint("records"))
}

/// Counts rows that were submitted now.
pub(crate) async fn add_rows(
    commands: &Commands,
    tenant: &TenantId,
    rows: u32,
    now_ms: u64,
) -> StoreResult<()> {
    add_all_rows(commands, &HashMap::from([((tenant, now_ms), rows)])).await
}

/// [`add`] for several tenants.
pub(crate) async fn add_all(commands: &Commands, bytes: &HashMap<&TenantId, i64>) -> StoreResult<()> {
    let mut sums = Vec::with_capacity(bytes.len());
    for (tenant, bytes) in bytes.iter().filter(|(_, bytes)| **bytes != 0) {
        commands.kept_usage().add_bytes(tenant, *bytes);
        sums.push((doc! { "_id": tenant.as_str() }, doc! { "bytes": *bytes }));
    }
    increase_all(commands, USAGE, sums).await
}

/// [`add_rows`] for several tenants, each with when it submitted them.
pub(crate) async fn add_all_rows(
    commands: &Commands,
    rows: &HashMap<(&TenantId, u64), u32>,
) -> StoreResult<()> {
    let mut days: HashMap<_, i64> = HashMap::new();
    for ((tenant, now_ms), rows) in rows.iter().filter(|(_, rows)| **rows > 0) {
        *days.entry((*tenant, now_ms / DAY_MS)).or_default() += i64::from(*rows);
    }
    let mut sums = Vec::with_capacity(days.len());
    for ((tenant, day), rows) in days {
        commands.kept_usage().add_rows(tenant, day, rows);
        sums.push((doc! { "_id": day_of(tenant, day) }, doc! { "rows": rows }));
    }
    increase_all(commands, SUBMITTED, sums).await
}

/// Increases each of the sums, which are different ones.
async fn increase_all(
    commands: &Commands,
    collection: &str,
    sums: Vec<(Document, Document)>,
) -> StoreResult<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let mark = fresh_mark();
    let changes = sums.into_iter().map(|(mut filter, by)| {
        filter.insert("marks", doc! { "$ne": mark.clone() });
        let marks = doc! { "$each": [mark.clone()], "$slice": -MARKS };
        (filter, doc! { "$inc": by, "$push": { "marks": marks } })
    });
    let changes: Vec<_> = changes.collect();
    let upserts = changes.iter().map(|(filter, change)| Update::upsert(filter.clone(), change.clone()));
    let there = commands.update(collection, upserts.collect()).await?.duplicates;
    // Two made the sum at once, or the addition is made.
    let again: Vec<_> = there.into_iter().filter_map(|at| changes.get(at).cloned()).collect();
    if !again.is_empty() {
        let again = again.into_iter().map(|(filter, change)| Update::one(filter, change));
        commands.update(collection, again.collect()).await?;
    }
    Ok(())
}

fn day_of(tenant: &TenantId, day: u64) -> Document {
    doc! { "tenant": tenant.as_str(), "day": int(day) }
}
