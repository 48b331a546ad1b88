//! The bytes of a tenant's records, for its quota: versions of templates, claims with their answers, generations.
//!
//! They are never counted up and down. Each document says in its field `bytes` what it counts for, written in the one step that makes or
//! changes it, and the sum is that of an index over `(tenant, bytes)`. So there is nothing that a crash could leave wrong.

use mongodb::bson::{Document, doc};
use promptmill_domain::TenantId;
use promptmill_ports::StoreResult;

use crate::codec::Fields;
use crate::collections::{CLAIMS, GENERATIONS, TEMPLATES};
use crate::commands::{Commands, Concern};

/// What the records of the tenant take, the specs of its batches left out.
pub(crate) async fn of(commands: &Commands, tenant: &TenantId) -> StoreResult<u64> {
    let mut pipeline = sum(tenant);
    for collection in [CLAIMS, GENERATIONS] {
        pipeline.push(doc! { "$unionWith": { "coll": collection, "pipeline": sum(tenant) } });
    }
    let sums = commands.aggregate(TEMPLATES, pipeline, Concern::Majority).await?;
    sums.iter().map(|sum| Fields(sum).uint("bytes")).sum()
}

fn sum(tenant: &TenantId) -> Vec<Document> {
    vec![
        doc! { "$match": { "tenant": tenant.as_str() } },
        doc! { "$group": { "_id": null, "bytes": { "$sum": "$bytes" } } },
    ]
}
