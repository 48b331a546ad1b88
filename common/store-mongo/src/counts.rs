//! Counting a batch's items from its heads: one command that reads the batch and sums over its heads as of one moment.
//!
//! The rules are those of `Counts::add` in the domain, applied to all heads at once; the conformance suite holds the two together.

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, Counts, FailureKind, ItemCode, TenantId};
use promptmill_ports::{Progress, StoreError, StoreResult};

use crate::batches;
use crate::codec::{Fields, corrupt, range};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern};
use crate::heads::{DONE, LEASED, PARKED, totals};

/// State, counts and open chunks of the tenant's batch at one moment.
pub(crate) async fn progress(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
) -> StoreResult<Progress> {
    let pipeline = vec![
        doc! { "$match": batches::existing_of(tenant, batch) },
        doc! { "$project": { "state": 1 } },
        doc! { "$lookup": { "from": HEADS, "pipeline": sums(batch), "as": "sums" } },
    ];
    let found = commands.aggregate(BATCHES, pipeline, Concern::Snapshot).await?;
    let found = found.first().ok_or(StoreError::NotFound)?;
    let state = batches::state_of(found)?;
    let (counts, open_chunks) = match Fields(found).documents("sums")?.first() {
        Some(sums) => counts_of(sums)?,
        None => (Counts::default(), 0),
    };
    Ok(Progress { state, counts, open_chunks })
}

/// The pipeline over heads that sums those of a batch.
fn sums(batch: BatchId) -> Vec<Document> {
    let waits = doc! { "$cond": [
        { "$eq": ["$state", PARKED] }, "$open", { "$min": ["$parked_len", "$open"] },
    ] };
    let leased = doc! { "$cond": [{ "$eq": ["$state", LEASED] }, { "$subtract": ["$open", "$waits"] }, 0] };
    let sum = |name: &str| doc! { "$sum": format!("${name}") };
    let mut group = doc! { "_id": null };
    for name in [
        "open",
        "succeeded",
        "repaired",
        "cancelled",
        "expired",
        "calls",
        "prompt_tokens",
        "completion_tokens",
        "cost",
    ] {
        group.insert(name, sum(name));
    }
    group.insert("waits", sum("waits"));
    group.insert("leased", doc! { "$sum": leased });
    group.insert("open_chunks", doc! { "$sum": { "$cond": [{ "$lt": ["$state", DONE] }, 1, 0] } });
    // Most heads have no failures, and those that have name few kinds.
    group
        .insert("failed", doc! { "$push": { "$cond": [{ "$eq": ["$failed", []] }, "$$REMOVE", "$failed"] } });
    vec![
        doc! { "$match": { "_id": range(batch.as_bytes(), 20) } },
        doc! { "$set": { "waits": waits } },
        doc! { "$group": group },
    ]
}

fn counts_of(sums: &Document) -> StoreResult<(Counts, u32)> {
    let fields = Fields(sums);
    let (open, waits, leased) = (fields.uint("open")?, fields.uint("waits")?, fields.uint("leased")?);
    let mut counts = Counts {
        waiting: open.saturating_sub(waits + leased),
        leased,
        parked: waits,
        succeeded: fields.uint("succeeded")?,
        repaired: fields.uint("repaired")?,
        cancelled: fields.uint("cancelled")?,
        expired: fields.uint("expired")?,
        totals: totals(fields)?,
        ..Counts::default()
    };
    for head in sums.get_array("failed").map_err(|_| corrupt("the counts of a batch"))? {
        for entry in head.as_array().ok_or_else(|| corrupt("the counts of a batch"))? {
            let entry = Fields(entry.as_document().ok_or_else(|| corrupt("the counts of a batch"))?);
            let kind = match u8::try_from(entry.small("code")?).ok().and_then(ItemCode::from_byte) {
                Some(ItemCode::Failed(kind)) => kind,
                // As in `Counts::add`: a later release wrote it.
                _ => FailureKind::Internal,
            };
            *counts.failed.entry(kind).or_default() += entry.uint("items")?;
        }
    }
    Ok((counts, fields.small("open_chunks")?))
}
