//! Forgetting records that are old.

use mongodb::bson::{Bson, Document, doc};
use promptmill_ports::StoreResult;

use crate::codec::int;
use crate::commands::{Commands, Concern, Query};

/// Records removed by one command.
const AT_ONCE: u32 = 1_000;

/// Forgets up to `limit` of the records that `filter` names and that were made before `before_ms`, oldest first. Answers how many.
///
/// A crash in the middle leaves those that were not reached. Where an answer was lost the count may be too small; the records are gone.
pub(crate) async fn forget(
    commands: &Commands,
    collection: &str,
    filter: Document,
    before_ms: u64,
    limit: u32,
) -> StoreResult<u32> {
    let mut old = filter;
    old.insert("created_ms", doc! { "$lt": int(before_ms) });
    let mut forgotten = 0;
    let mut left = limit;
    while left > 0 {
        let asked = left.min(AT_ONCE);
        let oldest = doc! { "created_ms": 1, "_id": 1 };
        let query = Query::of(old.clone()).fields(doc! { "_id": 1 }).sort(oldest).limit(asked);
        let found = commands.find(collection, query, Concern::Local).await?;
        let ids: Vec<Bson> = found.into_iter().filter_map(|mut record| record.remove("_id")).collect();
        let last = ids.len() < asked as usize;
        if !ids.is_empty() {
            // Whatever was made again under such an id meanwhile is younger, and stays.
            let mut these = old.clone();
            these.insert("_id", doc! { "$in": ids });
            forgotten += u32::try_from(commands.delete(collection, these).await?).unwrap_or(u32::MAX);
        }
        if last {
            break;
        }
        left -= asked;
    }
    Ok(forgotten)
}
