//! What a tenant has used: rows submitted by day, and the bytes of what it has stored.
//!
//! The sums are kept beside what they count and not in the same step, since that would take a transaction: a process that dies between the two
//! leaves a sum that is off by what it had just written. Nothing but a quota rests on them. An addition leaves a mark among the last ones, so
//! that one whose answer was lost is not made twice.

use mongodb::bson::{Document, doc};
use promptmill_domain::TenantId;
use promptmill_ports::{StoreResult, Usage};

use crate::codec::{Fields, int};
use crate::collections::{SUBMITTED, USAGE};
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Marks of additions that are remembered: more than there are at the same time.
const MARKS: i32 = 64;

/// What the tenant has used, its records left out: those are summed by `record_bytes`.
pub(crate) async fn of(commands: &Commands, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
    let (stored, submitted) = tokio::join!(
        commands.find_one(USAGE, Query::of(doc! { "_id": tenant.as_str() }), Concern::Majority),
        commands.find_one(SUBMITTED, Query::of(doc! { "_id": day(tenant, now_ms) }), Concern::Majority),
    );
    let mut usage = Usage::default();
    if let Some(stored) = stored? {
        // A sum that is off may fall below nothing.
        usage.bytes = Fields(&stored).maybe_uint("bytes").ok().flatten().unwrap_or(0);
    }
    if let Some(submitted) = submitted? {
        usage.rows = Fields(&submitted).uint("rows")?;
    }
    Ok(usage)
}

/// Counts bytes of rows and outcomes that were stored (or, below zero, removed).
pub(crate) async fn add(commands: &Commands, tenant: &TenantId, bytes: i64) -> StoreResult<()> {
    if bytes == 0 {
        return Ok(());
    }
    let id = doc! { "_id": tenant.as_str() };
    increase(commands, USAGE, id, doc! { "bytes": bytes }).await
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
    if rows == 0 {
        return Ok(());
    }
    let id = doc! { "_id": day(tenant, now_ms) };
    increase(commands, SUBMITTED, id, doc! { "rows": i64::from(rows) }).await
}

async fn increase(commands: &Commands, collection: &str, id: Document, by: Document) -> StoreResult<()> {
    let mark = fresh_mark();
    let mut filter = id;
    filter.insert("marks", doc! { "$ne": mark.clone() });
    let marks = doc! { "$each": [mark], "$slice": -MARKS };
    let change = doc! { "$inc": by, "$push": { "marks": marks } };
    let upsert = Update::upsert(filter.clone(), change.clone());
    if !commands.update(collection, vec![upsert]).await?.duplicates.is_empty() {
        // Two made the sum at once, or the addition is made.
        commands.update(collection, vec![Update::one(filter, change)]).await?;
    }
    Ok(())
}

fn day(tenant: &TenantId, now_ms: u64) -> Document {
    doc! { "tenant": tenant.as_str(), "day": int(now_ms / DAY_MS) }
}
