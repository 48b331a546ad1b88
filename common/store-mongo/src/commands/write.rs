//! What is written, and what became of it.

use mongodb::bson::{Bson, Document, doc};

use crate::codec::number;
use crate::fault::Fault;

/// Bytes of documents in one command. A command is at most 16 MiB, as its documents stand in it.
const COMMAND_BYTES: usize = 12 * 1024 * 1024;
/// Documents in one command.
const COMMAND_DOCUMENTS: usize = 10_000;

/// What a write did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Documents inserted, matched or removed; those of an upsert are matched.
    pub(crate) n: u64,
    /// Positions of documents that were there already.
    pub(crate) duplicates: Vec<usize>,
}

/// One entry of an update command.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Which document.
    pub(crate) filter: Document,
    /// Operators, or the stages of a pipeline.
    pub(crate) change: Bson,
    /// Whether it is made when it is missing.
    pub(crate) upsert: bool,
    /// Whether every document that matches is meant.
    pub(crate) many: bool,
    /// Whether documents are found by their keys, whatever else is said of them. Where a state has the more recent index, many that have left it
    /// would be passed over.
    pub(crate) by_key: bool,
}

impl Update {
    /// Of one document that exists.
    pub(crate) fn one(filter: Document, change: Document) -> Self {
        Self { filter, change: change.into(), upsert: false, many: false, by_key: false }
    }

    /// Of one document that exists, where the filter names its key: the server weighs no other way to it.
    pub(crate) fn this(filter: Document, change: Document) -> Self {
        Self { by_key: true, ..Self::one(filter, change) }
    }

    /// Of one document that may not exist yet.
    pub(crate) fn upsert(filter: Document, change: Document) -> Self {
        Self { upsert: true, ..Self::one(filter, change) }
    }

    /// Of one document that may not exist yet, by steps that see what is there (an aggregation pipeline).
    pub(crate) fn upsert_by(filter: Document, steps: Vec<Document>) -> Self {
        let steps: Vec<Bson> = steps.into_iter().map(Bson::from).collect();
        Self { filter, change: steps.into(), upsert: true, many: false, by_key: false }
    }

    /// Of every document that matches.
    pub(crate) fn many(filter: Document, change: Document) -> Self {
        Self { many: true, ..Self::one(filter, change) }
    }

    /// Of every document that matches, where the filter names their keys.
    pub(crate) fn these(filter: Document, change: Document) -> Self {
        Self { by_key: true, ..Self::many(filter, change) }
    }

    /// As it stands in a command.
    pub(super) fn into_document(self) -> Document {
        let mut entry =
            doc! { "q": self.filter, "u": self.change, "upsert": self.upsert, "multi": self.many };
        if self.by_key {
            entry.insert("hint", doc! { "_id": 1 });
        }
        entry
    }
}

/// What a reply says of a write; what it did not write was there already.
pub(super) fn written(reply: &Document) -> Result<Written, Fault> {
    let mut written = Written { n: reply.get("n").and_then(number).unwrap_or(0), duplicates: Vec::new() };
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    for error in errors {
        let at = error.as_document().and_then(|error| error.get("index")).and_then(number);
        let at = at.and_then(|at| usize::try_from(at).ok());
        written.duplicates.push(at.ok_or(Fault::Unreadable)?);
    }
    Ok(written)
}

/// Cuts what is to be sent into runs that fit a command.
pub(super) fn parts<T>(all: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for one in all {
        let more = size(&one);
        if !part.is_empty() && (bytes + more > COMMAND_BYTES || part.len() == COMMAND_DOCUMENTS) {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(one);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn a_reply_tells_which_documents_were_there() {
        let reply = doc! { "ok": 1.0, "n": 2, "writeErrors": [{ "index": 1, "code": 11_000 }, { "index": 3, "code": 11_000 }] };
        assert_eq!(written(&reply).unwrap(), Written { n: 2, duplicates: vec![1, 3] });
    }

    #[test]
    fn what_does_not_fit_one_command_goes_in_several_and_in_order() {
        let cut = |sizes: &[usize]| {
            parts(sizes.to_vec(), |size| *size).into_iter().map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[]), [0; 0]);
        assert_eq!(cut(&[COMMAND_BYTES, 1, COMMAND_BYTES - 1, 1]), [1, 2, 1]);
        assert_eq!(cut(&[0; COMMAND_DOCUMENTS + 1]), [COMMAND_DOCUMENTS, 1]);
    }
}
