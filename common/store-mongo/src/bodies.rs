//! Bodies of outcomes: insert-only, under the batch and the index of the item, and nothing until the head's byte names their code.

use std::collections::HashMap;

use bytes::Bytes;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, RawBsonRef, RawDocumentBuf, doc};
use promptmill_domain::{BatchId, ItemCode};
use promptmill_ports::StoreResult;

use crate::codec::{Fields, binary, corrupt, key, number_of, raw_binary, raw_document};
use crate::collections::OUTCOMES;
use crate::commands::{Commands, Concern, Query, encode};
use crate::slices::{self, Sliced};

/// Bodies above this stand in slices, so that a few of them fit one answer of the server.
const INLINE: usize = 4 * 1024 * 1024;

/// A body to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewBody {
    /// Its batch.
    pub(crate) batch: BatchId,
    /// Index of the item.
    pub(crate) index: u32,
    /// How the item ended.
    pub(crate) code: ItemCode,
    /// The encoded outcome.
    pub(crate) body: Bytes,
}

/// Stores those of the bodies that are the first of their item. Answers for each whether it is.
pub(crate) async fn store(commands: &Commands, bodies: &[NewBody]) -> StoreResult<Vec<bool>> {
    let mut documents = Vec::with_capacity(bodies.len());
    for new in bodies {
        documents.push(document(commands, new).await?);
    }
    let mut is_new = vec![true; bodies.len()];
    for at in commands.insert(OUTCOMES, documents).await?.duplicates {
        if let Some(is_new) = is_new.get_mut(at) {
            *is_new = false;
        }
    }
    Ok(is_new)
}

async fn document(commands: &Commands, new: &NewBody) -> StoreResult<RawDocumentBuf> {
    let id = key(new.batch, new.index);
    let code = i32::from(new.code.byte());
    let size = i32::try_from(new.body.len()).unwrap_or(i32::MAX);
    if new.body.len() > INLINE {
        let sliced = slices::store(commands, new.batch, &new.body).await?;
        let document = doc! { "_id": binary(id), "code": code, "size": size, "slices": sliced.document() };
        return encode(&document);
    }
    Ok(raw_document(&[
        (cstr!("_id"), raw_binary(&id)),
        (cstr!("code"), RawBsonRef::Int32(code)),
        (cstr!("size"), RawBsonRef::Int32(size)),
        (cstr!("body"), raw_binary(&new.body)),
    ]))
}

/// The codes of the bodies that are stored for these items.
pub(crate) async fn codes(
    commands: &Commands,
    batch: BatchId,
    indexes: &[u32],
) -> StoreResult<HashMap<u32, ItemCode>> {
    let ids: Vec<_> = indexes.iter().map(|index| binary(key(batch, *index))).collect();
    let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "code": 1 });
    // A body that was written a moment ago counts: the head's write, which waits for the majority, comes after it.
    let found = commands.find(OUTCOMES, query, Concern::Local).await?;
    found
        .iter()
        .map(|found| {
            let byte =
                u8::try_from(Fields(found).small("code")?).map_err(|_| corrupt("the code of an outcome"))?;
            match ItemCode::from_byte(byte) {
                Some(ItemCode::Open) | None => Err(corrupt("the code of an outcome")),
                Some(code) => Ok((number_of(Fields(found).bytes("_id")?), code)),
            }
        })
        .collect()
}

/// A body as it stands in its document.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// All of it.
    Inline(Bytes),
    /// Elsewhere.
    Sliced(Sliced),
}

impl Body {
    /// Its length.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(body) => body.len(),
            Self::Sliced(sliced) => sliced.len(),
        }
    }

    /// All of it.
    pub(crate) async fn load(self, commands: &Commands, batch: BatchId) -> StoreResult<Bytes> {
        match self {
            Self::Inline(body) => Ok(body),
            Self::Sliced(sliced) => slices::load(commands, batch, &sliced, Concern::Majority).await,
        }
    }
}

/// The bodies of these items that are named by the byte given with them: one of another code came too late to be a result.
pub(crate) async fn named(
    commands: &Commands,
    batch: BatchId,
    items: &[(u32, u8)],
) -> StoreResult<HashMap<u32, Body>> {
    let bytes: HashMap<u32, u8> = items.iter().copied().collect();
    let ids: Vec<_> = items.iter().map(|(index, _)| binary(key(batch, *index))).collect();
    let found = commands.find(OUTCOMES, Query::of(doc! { "_id": { "$in": ids } }), Concern::Majority).await?;
    let mut bodies = HashMap::with_capacity(found.len());
    for mut found in found {
        let index = number_of(Fields(&found).bytes("_id")?);
        let code = Fields(&found).small("code")?;
        if bytes.get(&index).is_some_and(|byte| u32::from(*byte) == code) {
            bodies.insert(index, body_of(&mut found)?);
        }
    }
    Ok(bodies)
}

fn body_of(found: &mut Document) -> StoreResult<Body> {
    if let Ok(sliced) = found.get_document("slices") {
        return Sliced::of(sliced).map(Body::Sliced);
    }
    match found.get_binary_generic_mut("body") {
        Ok(body) => Ok(Body::Inline(std::mem::take(body).into())),
        Err(_) => Err(corrupt("the body of an outcome")),
    }
}
