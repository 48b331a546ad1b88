//! Lists of a tenant's batches: the query that a filter becomes.

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{BatchFilter, BatchPage, PageLimit, StoreResult};

use crate::batches;
use crate::codec::{Fields, binary, corrupt, int};
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query};

/// Batches read at a time; their specs hold whole templates.
const READ_TOGETHER: u32 = 50;

/// A label as it is stored: one text for key and value, and another for every other pair.
pub(crate) fn label(key: &str, value: &str) -> String {
    format!("{}:{key}={value}", key.len())
}

/// The tenant's batches that the filter names, newest first, those before `before`. What is beyond the limit is not decoded.
pub(crate) async fn load(
    commands: &Commands,
    tenant: &TenantId,
    filter: &BatchFilter,
    before: Option<BatchId>,
    limit: PageLimit,
) -> StoreResult<BatchPage> {
    // One more, to know whether more follow.
    let most = limit.items.max(1).saturating_add(1);
    let query = query(tenant, filter, before).limit(most);
    let mut rows = commands.stream(BATCHES, query, Concern::Majority, most.min(READ_TOGETHER)).await?;
    let mut page = BatchPage::default();
    let mut bytes = 0_usize;
    while let Some(row) = rows.next().await? {
        let found = Document::try_from(row).map_err(|_| corrupt("a batch"))?;
        bytes = bytes.saturating_add(Fields(&found).text("spec")?.len());
        let fits = page.batches.is_empty() || bytes <= limit.bytes;
        if (page.batches.len() >= limit.items as usize && !page.batches.is_empty()) || !fits {
            page.more = true;
            break;
        }
        page.batches.push(batches::decode(&found)?);
    }
    Ok(page)
}

/// Every index the query may be led by begins with the tenant and ends in the order of the list, so that a page is read and not sorted.
fn query(tenant: &TenantId, filter: &BatchFilter, before: Option<BatchId>) -> Query {
    let mut wanted = doc! { "tenant": tenant.as_str(), "phase": batches::there() };
    if !filter.labels.is_empty() {
        let labels: Vec<Bson> = filter.labels.iter().map(|(key, value)| label(key, value).into()).collect();
        wanted.insert("labels", doc! { "$all": labels });
    }
    if let Some(name) = &filter.name {
        wanted.insert("name", name);
    }
    if let Some(state) = &filter.state {
        wanted.insert("state_name", state);
    }
    let mut created = Document::new();
    if let Some(from_ms) = filter.created_from_ms {
        created.insert("$gte", int(from_ms));
    }
    if let Some(before_ms) = filter.created_before_ms {
        created.insert("$lt", int(before_ms));
    }
    if !created.is_empty() {
        wanted.insert("created_ms", created);
    }
    if let Some(before) = before {
        wanted.insert("_id", doc! { "$lt": binary(*before.as_bytes()) });
    }
    Query::of(wanted).fields(batches::all_fields()).sort(doc! { "_id": -1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_labels_are_stored_alike() {
        assert_ne!(label("a", "b=c"), label("a=b", "c"));
        assert_ne!(label("a", ""), label("", "a"));
        assert_eq!(label("team", "a"), label("team", "a"));
    }
}
