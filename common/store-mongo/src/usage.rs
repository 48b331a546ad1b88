//! What a tenant has used: rows submitted by day, and the bytes of what it has stored.
//!
//! The sums are kept beside what they count and not in the same step, since that would take a transaction: a process that dies between the two
//! leaves a sum that is off by what it had just written. Nothing but a quota rests on them.

use mongodb::bson::doc;
use promptmill_domain::TenantId;
use promptmill_ports::{StoreResult, Usage};

use crate::codec::{Fields, int};
use crate::collections::{SUBMITTED, USAGE};
use crate::commands::{Commands, Concern, Query, Update};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What the tenant has used.
pub(crate) async fn of(commands: &Commands, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
    let (stored, submitted) = tokio::join!(
        commands.find_one(USAGE, Query::of(doc! { "_id": tenant.as_str() }), Concern::Majority),
        commands.find_one(SUBMITTED, Query::of(doc! { "_id": day(tenant, now_ms) }), Concern::Majority),
    );
    let mut usage = Usage::default();
    if let Some(stored) = stored? {
        // A sum that is off may fall below nothing.
        let sum = |name| Fields(&stored).maybe_uint(name).ok().flatten().unwrap_or(0);
        (usage.bytes, usage.record_bytes) = (sum("bytes"), sum("records"));
    }
    if let Some(submitted) = submitted? {
        usage.rows = Fields(&submitted).uint("rows")?;
    }
    Ok(usage)
}

/// Counts bytes that were stored (or, below zero, removed): of rows and outcomes, and of other records.
pub(crate) async fn add(commands: &Commands, tenant: &TenantId, bytes: i64, records: i64) -> StoreResult<()> {
    if bytes == 0 && records == 0 {
        return Ok(());
    }
    let more = doc! { "$inc": { "bytes": bytes, "records": records } };
    commands.update(USAGE, vec![Update::upsert(doc! { "_id": tenant.as_str() }, more)]).await.map(|_| ())
}

/// Counts rows that were submitted now.
pub(crate) async fn add_rows(
    commands: &Commands,
    tenant: &TenantId,
    rows: u32,
    now_ms: u64,
) -> StoreResult<()> {
    let more = doc! { "$inc": { "rows": i64::from(rows) } };
    commands
        .update(SUBMITTED, vec![Update::upsert(doc! { "_id": day(tenant, now_ms) }, more)])
        .await
        .map(|_| ())
}

fn day(tenant: &TenantId, now_ms: u64) -> mongodb::bson::Document {
    doc! { "tenant": tenant.as_str(), "day": int(now_ms / DAY_MS) }
}
