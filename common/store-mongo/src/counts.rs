//! Counting a batch's items from its heads: the batch is read, and then its heads are summed as of the same moment.
//!
//! The sums are plain ones over each state of heads, which the server makes fast. The rules are those of `Counts::add` in the domain, applied to
//! all heads at once; the conformance suite holds the two together.

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, Counts, FailureKind, ItemCode, TenantId};
use promptmill_ports::{Progress, StoreError, StoreResult};

use crate::batches;
use crate::codec::{Fields, binary, corrupt, key, range};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern, Query};
use crate::heads::{DONE, LEASED, PARKED, totals};
use crate::unwritten::Small;

/// Rows from which on a batch is counted in two parts at the same time: somebody waits, and the server has a thread for each.
const MANY: u32 = 250_000;

/// State, counts and open chunks of the tenant's batch at one moment.
pub(crate) async fn progress(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
) -> StoreResult<Progress> {
    let query = Query::of(batches::existing_of(tenant, batch))
        .fields(doc! { "state": 1, "tenant": 1, "lane": 1, "total": 1 });
    let found = commands.find_one_with_moment(BATCHES, query).await?;
    let (found, moment) = found.ok_or(StoreError::NotFound)?;
    let sum = async |heads| commands.aggregate(HEADS, sums(heads), Concern::SnapshotAt(moment)).await;
    let all = range(batch.as_bytes(), 20);
    let total = Fields(&found).small("total").unwrap_or(0);
    let sums = if total < MANY {
        sum(doc! { "_id": all }).await?
    } else {
        // By the index of their first items, half of the rows in each.
        let middle = binary(key(batch, total / 2));
        let (mut low, mut high) = (all.clone(), all);
        low.insert("$lt", middle.clone());
        high.insert("$gte", middle);
        let (low, high) = tokio::try_join!(sum(doc! { "first": low }), sum(doc! { "first": high }))?;
        [low, high].concat()
    };
    let (mut counts, mut open_chunks) = (Counts::default(), 0);
    for of_state in &sums {
        open_chunks += add(&mut counts, of_state)?;
    }
    if let Some(small) = Small::of(&found)? {
        // Those of its chunks that have no head wait.
        let waiting = u64::from(small.total()).saturating_sub(counts.total());
        counts.waiting += waiting;
        open_chunks = open_chunks.saturating_add(u32::try_from(waiting).unwrap_or(u32::MAX));
    }
    Ok(Progress { state: batches::state_of(&found)?, counts, open_chunks })
}

/// The pipeline that sums these heads by their state.
fn sums(heads: Document) -> Vec<Document> {
    let mut group = doc! { "_id": "$state", "heads": { "$sum": 1 } };
    for name in [
        "open",
        "parked_len",
        "succeeded",
        "repaired",
        "cancelled",
        "expired",
        "calls",
        "prompt_tokens",
        "completion_tokens",
        "cost",
        "cached",
    ] {
        group.insert(name, doc! { "$sum": format!("${name}") });
    }
    // Most heads have no failures, and those that have name few kinds.
    group
        .insert("failed", doc! { "$push": { "$cond": [{ "$eq": ["$failed", []] }, "$$REMOVE", "$failed"] } });
    vec![doc! { "$match": heads }, doc! { "$group": group }]
}

/// Adds the sums over the heads of one state; answers how many of them are open.
fn add(counts: &mut Counts, sums: &Document) -> StoreResult<u32> {
    let fields = Fields(sums);
    let state = i32::try_from(fields.small("_id")?).unwrap_or(i32::MAX);
    let open = fields.uint("open")?;
    let waits = if state == PARKED { open } else { fields.uint("parked_len")?.min(open) };
    if state == LEASED {
        counts.leased += open - waits;
    } else {
        counts.waiting += open - waits;
    }
    counts.parked += waits;
    counts.succeeded += fields.uint("succeeded")?;
    counts.repaired += fields.uint("repaired")?;
    counts.cancelled += fields.uint("cancelled")?;
    counts.expired += fields.uint("expired")?;
    counts.totals += totals(fields)?;
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
    if state < DONE { fields.small("heads") } else { Ok(0) }
}
