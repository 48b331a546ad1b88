//! What is read: which documents, and how settled they must be.

use mongodb::bson::{Bson, Document, Timestamp, doc};

/// What a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concern {
    /// What the primary has. For steps whose own write, which waits for the majority, covers what they read.
    Local,
    /// What the majority has, and no election takes back.
    Majority,
    /// The same, all of it of one moment.
    Snapshot,
    /// The same, of the moment of an earlier read.
    SnapshotAt(Timestamp),
}

impl Concern {
    /// As it stands in a command.
    pub(super) fn document(self) -> Document {
        match self {
            Self::Local => doc! { "level": "local" },
            Self::Majority => doc! { "level": "majority" },
            Self::Snapshot => doc! { "level": "snapshot" },
            Self::SnapshotAt(moment) => doc! { "level": "snapshot", "atClusterTime": moment },
        }
    }
}

/// What to find.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// Which documents.
    pub(crate) filter: Document,
    /// Which of their fields; all when empty.
    pub(crate) fields: Document,
    /// In which order; any when empty.
    pub(crate) sort: Document,
    /// How many at most; all when `None`.
    pub(crate) limit: Option<u32>,
    /// The index that holds all that is asked for, so that no document is read.
    pub(crate) covered_by: Option<&'static str>,
}

impl Query {
    /// All of the documents that match.
    pub(crate) fn of(filter: Document) -> Self {
        Self { filter, ..Self::default() }
    }

    /// These fields alone.
    pub(crate) fn fields(self, fields: Document) -> Self {
        Self { fields, ..self }
    }

    /// In this order.
    pub(crate) fn sort(self, sort: Document) -> Self {
        Self { sort, ..self }
    }

    /// From this index alone.
    pub(crate) fn covered_by(self, index: &'static str) -> Self {
        Self { covered_by: Some(index), ..self }
    }

    /// So many at most.
    pub(crate) fn limit(self, limit: u32) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

/// The command that finds them.
pub(super) fn find_command(collection: &str, query: Query) -> Document {
    let by_key = names_keys(&query.filter);
    let mut command = doc! { "find": collection, "filter": query.filter };
    if !query.fields.is_empty() {
        command.insert("projection", query.fields);
    }
    if !query.sort.is_empty() {
        command.insert("sort", query.sort);
    }
    if let Some(index) = query.covered_by {
        command.insert("hint", index);
    } else if by_key {
        command.insert("hint", doc! { "_id": 1 });
    }
    if let Some(limit) = query.limit {
        command.insert("limit", i64::from(limit));
        if limit == 1 {
            command.insert("singleBatch", true);
        }
    }
    command
}

/// Whether the filter names the documents' keys and more, or several of them: the server would weigh other ways to them each time. To one document
/// by its key alone it knows a shorter way than any that can be named.
fn names_keys(filter: &Document) -> bool {
    match filter.get("_id") {
        None => false,
        Some(Bson::Document(key)) => match key.keys().next().map(String::as_str) {
            Some("$in") => true,
            Some(operator) if operator.starts_with('$') => false,
            _ => filter.len() > 1,
        },
        Some(_) => filter.len() > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_by_keys_names_their_index_and_nothing_else_does() {
        let hint = |query| find_command("c", query).get("hint").cloned();
        let by_key = Some(Bson::from(doc! { "_id": 1 }));
        assert_eq!(hint(Query::of(doc! { "_id": { "$in": [1, 2] } })), by_key);
        assert_eq!(hint(Query::of(doc! { "_id": 1, "phase": { "$lt": 3 } })), by_key);
        assert_eq!(hint(Query::of(doc! { "_id": { "tenant": "a", "key": "b" }, "mark": 1 })), by_key);
        let others = [
            doc! { "_id": 1 },
            doc! { "_id": { "tenant": "a", "key": "b" } },
            doc! { "_id": { "$gt": 1 }, "state": 1 },
            doc! { "state": 1 },
            doc! {},
        ];
        for filter in others {
            assert_eq!(hint(Query::of(filter.clone())), None, "{filter}");
        }
        let covered = Query::of(doc! { "_id": { "$in": [1] } }).covered_by("sizes");
        assert_eq!(hint(covered), Some(Bson::from("sizes")));
    }
}
