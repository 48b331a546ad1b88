//! The indexes: made and checked at start. A unique one that is missing is an error, since promises rest on it.

use mongodb::bson::{Bson, Document, doc};
use promptmill_ports::{StoreError, StoreResult};

use crate::codec::number;
use crate::collections::{
    API_KEYS, BATCHES, BUDGETS, CLAIMS, DELIVERIES, ENDPOINTS, GENERATIONS, HEADS, REPLIES, ROW_SETS, ROWS,
    SCHEDULES, SESSIONS, SET_UPLOADS, SETTLED, TEMPLATES, TICKS, UPLOADS,
};
use crate::commands::Commands;

/// An index beside that of `_id`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Index {
    collection: &'static str,
    name: &'static str,
    /// Fields with their direction.
    keys: &'static [(&'static str, i32)],
    unique: bool,
    /// Documents without this field are left out.
    only_with: Option<&'static str>,
    /// Documents whose field is not below the number are left out.
    only_below: Option<(&'static str, i32)>,
}

impl Index {
    /// Of every document.
    pub(crate) const fn new(
        collection: &'static str,
        name: &'static str,
        keys: &'static [(&'static str, i32)],
    ) -> Self {
        Self { collection, name, keys, unique: false, only_with: None, only_below: None }
    }

    /// No two documents may have the same values.
    pub(crate) const fn unique(self) -> Self {
        Self { unique: true, ..self }
    }

    /// Of the documents that have the field.
    pub(crate) const fn only_with(self, field: &'static str) -> Self {
        Self { only_with: Some(field), ..self }
    }

    /// Of the documents whose field is below the number.
    pub(crate) const fn only_below(self, field: &'static str, number: i32) -> Self {
        Self { only_below: Some((field, number)), ..self }
    }

    fn keys(&self) -> Document {
        self.keys.iter().map(|(field, direction)| ((*field).to_owned(), Bson::Int32(*direction))).collect()
    }

    fn document(&self) -> Document {
        let mut index = doc! { "key": self.keys(), "name": self.name };
        if self.unique {
            index.insert("unique", true);
        }
        if let Some(field) = self.only_with {
            index.insert("partialFilterExpression", doc! { field: { "$exists": true } });
        }
        if let Some((field, number)) = self.only_below {
            index.insert("partialFilterExpression", doc! { field: { "$lt": number } });
        }
        index
    }

    /// Whether this is what stands there: the same fields in the same order and directions, as unique, as partial.
    fn is(&self, there: &Document) -> bool {
        let direction = |value: &Bson| match value {
            Bson::Int32(value) => Some(*value),
            Bson::Int64(_) | Bson::Double(_) => {
                number(value).and_then(|value| i32::try_from(value).ok()).or(Some(-1))
            }
            _ => None,
        };
        let Ok(keys) = there.get_document("key") else { return false };
        let keys: Vec<_> = keys.iter().map(|(field, value)| (field.as_str(), direction(value))).collect();
        let wanted: Vec<_> = self.keys.iter().map(|(field, direction)| (*field, Some(*direction))).collect();
        let partial = there.get_document("partialFilterExpression").ok();
        keys == wanted
            && there.get_bool("unique").unwrap_or(false) == self.unique
            && partial.is_some() == (self.only_with.is_some() || self.only_below.is_some())
    }
}

/// What the batch side asks for.
const BATCH_SIDE: &[Index] = &[
    Index::new(BATCHES, "key", &[("tenant", 1), ("idem_key", 1)]).unique().only_with("idem_key"),
    Index::new(BATCHES, "tenant", &[("tenant", 1), ("_id", -1)]),
    Index::new(BATCHES, "name", &[("tenant", 1), ("name", 1), ("_id", -1)]).only_with("name"),
    Index::new(BATCHES, "state", &[("tenant", 1), ("state_name", 1), ("_id", -1)]),
    Index::new(BATCHES, "labels", &[("tenant", 1), ("labels", 1), ("_id", -1)]).only_with("labels"),
    Index::new(BATCHES, "phase", &[("phase", 1), ("_id", 1)]),
    Index::new(BATCHES, "finished", &[("finished_ms", 1)]).only_with("finished_ms"),
    Index::new(BATCHES, "kept", &[("kept_until_ms", 1)]).only_with("kept_until_ms"),
    Index::new(BATCHES, "outbox", &[("outbox.seq", 1)]).only_with("outbox.seq"),
    Index::new(BATCHES, "outbox_id", &[("outbox.id", 1)]).only_with("outbox.id"),
    Index::new(UPLOADS, "state", &[("state", 1), ("touched_ms", 1)]),
    // Lengths and sizes of blocks are read without the blocks.
    Index::new(ROWS, "sizes", &[("_id", 1), ("len", 1), ("size", 1)]),
    Index::new(HEADS, "open", &[("state", 1), ("_id", 1)]).only_below("state", 4),
    Index::new(HEADS, "first", &[("first", 1)]),
    Index::new(HEADS, "owner", &[("owner", 1)]).only_with("owner"),
    Index::new(HEADS, "due", &[("due", 1)]).only_with("due"),
    Index::new(BUDGETS, "open", &[("is_open", 1), ("_id", 1)]),
    Index::new(BUDGETS, "at", &[("is_open", 1), ("at_ms", 1)]),
    Index::new(REPLIES, "created", &[("created_ms", 1), ("_id", 1)]),
    Index::new(REPLIES, "tenant", &[("tenant", 1), ("created_ms", 1), ("_id", 1)]),
    Index::new(SESSIONS, "alive", &[("alive", 1), ("_id", 1)]),
    // A change of a head has its place in the order once.
    Index::new(SETTLED, "marks", &[("marks", 1)]).unique(),
];

/// What the record side asks for.
const RECORD_SIDE: &[Index] = &[
    Index::new(API_KEYS, "tenant", &[("tenant", 1), ("created_ms", 1), ("_id", 1)]),
    // A template that is being deleted has no name, and its name may be given again.
    Index::new(TEMPLATES, "name", &[("tenant", 1), ("name", 1)]).unique().only_with("name"),
    Index::new(TEMPLATES, "deleting", &[("deleting", 1)]).only_with("deleting"),
    Index::new(CLAIMS, "created", &[("created_ms", 1), ("_id", 1)]),
    Index::new(GENERATIONS, "open", &[("open", 1), ("created_ms", 1), ("_id", 1)]).only_with("open"),
    Index::new(GENERATIONS, "finished", &[("created_ms", 1), ("_id", 1)]).only_with("outcome"),
    Index::new(DELIVERIES, "due", &[("state", 1), ("due_ms", 1), ("_id", 1)]),
    Index::new(DELIVERIES, "age", &[("state", 1), ("created_ms", 1), ("_id", 1)]),
    Index::new(DELIVERIES, "tenant", &[("tenant", 1), ("state", 1), ("created_ms", 1)]),
    Index::new(DELIVERIES, "endpoint", &[("endpoint", 1), ("created_ms", -1), ("_id", -1)])
        .only_with("endpoint"),
    Index::new(ENDPOINTS, "tenant", &[("tenant", 1), ("created_ms", 1), ("_id", 1)]),
    Index::new(DELIVERIES, "batch", &[("batch", 1), ("created_ms", 1), ("_id", 1)]),
    Index::new(SCHEDULES, "tenant", &[("tenant", 1), ("_id", 1)]),
    Index::new(SCHEDULES, "look", &[("look_ms", 1)]),
    Index::new(TICKS, "open", &[("open", 1), ("_id", 1)]).only_with("open"),
    Index::new(TICKS, "at", &[("at_ms", 1)]),
    Index::new(ROW_SETS, "tenant", &[("tenant", 1), ("named", 1), ("_id", 1)]),
    Index::new(SET_UPLOADS, "touched", &[("is_named", 1), ("touched_ms", 1)]),
    // The bytes of a tenant's records are summed from these alone.
    Index::new(BATCHES, "bytes", &[("tenant", 1), ("bytes", 1)]),
    Index::new(TEMPLATES, "bytes", &[("tenant", 1), ("bytes", 1)]),
    Index::new(CLAIMS, "bytes", &[("tenant", 1), ("bytes", 1)]),
    Index::new(GENERATIONS, "bytes", &[("tenant", 1), ("bytes", 1)]),
    Index::new(SCHEDULES, "bytes", &[("tenant", 1), ("bytes", 1)]),
    Index::new(ROW_SETS, "bytes", &[("tenant", 1), ("bytes", 1)]),
];

/// Makes what is missing and checks what is there.
///
/// # Errors
/// `Conflict` when a unique index cannot be had: one of its name is not unique, or records exist that it forbids.
pub(crate) async fn ensure(commands: &Commands) -> StoreResult<()> {
    let all: Vec<_> = BATCH_SIDE.iter().chain(RECORD_SIDE).collect();
    let mut collections: Vec<_> = all.iter().map(|index| index.collection).collect();
    collections.sort_unstable();
    collections.dedup();
    for collection in collections {
        let wanted: Vec<_> = all.iter().filter(|index| index.collection == collection).copied().collect();
        ensure_of(commands, collection, &wanted).await?;
    }
    Ok(())
}

async fn ensure_of(commands: &Commands, collection: &str, wanted: &[&Index]) -> StoreResult<()> {
    let all: Vec<_> = wanted.iter().map(|index| index.document()).collect();
    let made = commands.run_write(doc! { "createIndexes": collection, "indexes": all }).await;
    // One by one then, so that one that cannot be made keeps no other from being made.
    for index in wanted.iter().filter(|_| made.is_err()) {
        let create = doc! { "createIndexes": collection, "indexes": [index.document()] };
        if let Err(error) = commands.run_write(create).await {
            let (name, error) = (index.name, &error as &dyn std::error::Error);
            tracing::warn!(collection, name, error, "an index cannot be made");
        }
    }
    let there = commands.list(doc! { "listIndexes": collection, "cursor": {} }).await?;
    for index in wanted {
        if there.iter().any(|there| index.is(there)) {
            continue;
        }
        if index.unique {
            return Err(StoreError::Conflict(format!(
                "the unique index {} of collection {collection} is missing and cannot be made",
                index.name
            )));
        }
        tracing::warn!(collection, name = index.name, "an index is missing; what it is for will be slow");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_not_unique_or_has_other_fields_is_not_the_one() {
        let index = BATCH_SIDE[0];
        let there = index.document();
        assert!(index.is(&there));
        let mut plain = there.clone();
        plain.remove("unique");
        let mut whole = there.clone();
        whole.remove("partialFilterExpression");
        let mut other = there.clone();
        other.insert("key", doc! { "idem_key": 1, "tenant": 1 });
        let mut falling = there;
        falling.insert("key", doc! { "tenant": 1, "idem_key": -1 });
        for bad in [plain, whole, other, falling] {
            assert!(!index.is(&bad), "{bad}");
        }
    }

    #[test]
    fn no_two_indexes_of_a_collection_share_a_name() {
        let all: Vec<_> = BATCH_SIDE.iter().chain(RECORD_SIDE).collect();
        let mut names: Vec<_> = all.iter().map(|index| (index.collection, index.name)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
