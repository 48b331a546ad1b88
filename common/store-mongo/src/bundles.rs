//! Bodies of outcomes as they are written: in bundles, one for each time a holder settles items of a chunk.
//!
//! The bundles of a chunk are numbered from 0, and its head counts them. Whoever settles inserts the next one and then writes the head, so
//! a bundle is nothing until the head counts it. Who finds its number taken takes over all that is there, because a holder may have died
//! between its bundle and its head, and goes on with the next number. So whoever writes a bundle knows all before it, and an item has a
//! body in one of them alone under the code that the head names.
//!
//! The bodies of a bundle are compressed together: those that are too small for a frame of their own have much in common.
//!
//! A small body of a chunk that has one item stands in the head, and is written with it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, RawBsonRef, RawDocumentBuf, doc};
use promptmill_domain::{BatchId, ItemCode, SettledItem};
use promptmill_ports::body::{compress, decompress};
use promptmill_ports::{SettleGroup, StoreError, StoreResult};

use crate::codec::{Fields, binary, corrupt, int, key, raw_binary, raw_document};
use crate::collections::OUTCOMES;
use crate::commands::{Commands, Concern, Query};
use crate::heads::Stored;
use crate::slices::{self, Sliced};

/// Bodies above this stand in slices beside their bundle, so that whoever reads one body does not read many large ones.
const INLINE: usize = 128 * 1024;
/// Bytes of bodies in a bundle; those for which there is no room stand in slices as well.
const BUNDLE: usize = 4 * 1024 * 1024;
/// Bodies are compressed together up to so many bytes: all of a chunk, if none is large enough to be compressed by itself.
const TOGETHER: usize = 256 * 1024;
/// Bytes of an item in a bundle's list: its offset in the chunk, its code and the length of its body. A chunk has at most 256 items.
const ITEM: usize = 6;
/// Bytes of an item in the list of those whose bodies are in slices: its offset, and where they are.
const LARGE: usize = 17;
/// How many bundles that others left are taken over in one settle.
const TRIES: u32 = 64;

/// The key of a bundle: the batch, the index of the chunk's first item, the bundle's number.
pub(crate) type BundleKey = [u8; 24];

/// The keys of these bundles of the chunk whose items begin at `base`.
pub(crate) fn keys(batch: BatchId, base: u32, numbers: Range<u32>) -> impl Iterator<Item = BundleKey> {
    let mut bundle = [0; 24];
    bundle[..20].copy_from_slice(&key(batch, base));
    numbers.map(move |number| {
        bundle[20..].copy_from_slice(&number.to_be_bytes());
        bundle
    })
}

/// What a group comes to once its bodies are stored.
#[derive(Debug)]
pub(crate) struct Bundled {
    /// Its items, each with the code of the body that is stored for it, and those that were taken over with it.
    pub(crate) settled: Vec<SettledItem>,
    /// How many bundles the head is to count.
    pub(crate) count: u32,
    /// Bytes of bodies that were stored.
    pub(crate) bytes: u64,
    /// The body of a chunk's only item, for the head to take in.
    pub(crate) body: Option<Bytes>,
}

/// A group on its way to that.
struct Bundling<'a> {
    head: &'a Stored,
    settled: Vec<SettledItem>,
    count: u32,
    bytes: u64,
    body: Option<Bytes>,
    /// Open items whose body is stored nowhere yet.
    left: Vec<(SettledItem, &'a Bytes)>,
}

/// Stores the bodies of those items of the groups that are open. Every group is of another chunk and stands with its head.
pub(crate) async fn store(
    commands: &Commands,
    groups: &[(&SettleGroup, &Stored)],
) -> StoreResult<Vec<Bundled>> {
    let mut all: Vec<_> = groups.iter().map(|(group, head)| Bundling::of(group, head)).collect();
    for _ in 0..TRIES {
        let mut writing: Vec<_> = all.iter_mut().filter(|bundling| !bundling.left.is_empty()).collect();
        if writing.is_empty() {
            return Ok(all.into_iter().map(Bundling::done).collect());
        }
        let large: Vec<_> = writing.iter().flat_map(|bundling| bundling.large()).collect();
        let mut sliced = slices::store(commands, &large).await?.into_iter();
        let documents: Vec<_> = writing.iter().map(|bundling| bundling.document(&mut sliced)).collect();
        let taken: HashSet<_> = commands.insert(OUTCOMES, documents).await?.duplicates.into_iter().collect();
        let there: Vec<_> = writing
            .iter()
            .enumerate()
            .filter(|(at, _)| taken.contains(at))
            .map(|(_, bundling)| bundling.key())
            .collect();
        let mut there = load_lists(commands, &there).await?;
        for (at, bundling) in writing.iter_mut().enumerate() {
            match there.remove(&bundling.key()) {
                Some(list) => bundling.take_over(&list),
                None if !taken.contains(&at) => bundling.stored(),
                // Whoever took the number took it back, as only an election or a deletion can.
                None => {}
            }
        }
    }
    Err(StoreError::unavailable("the outcomes of a chunk are written by too many at once"))
}

impl<'a> Bundling<'a> {
    fn of(group: &'a SettleGroup, head: &'a Stored) -> Self {
        let mut first = HashSet::new();
        let open = |item: &SettledItem| head.is_open(item.offset);
        let left = group.settled.iter().filter(|(item, _)| open(item) && first.insert(item.offset));
        let mut left: Vec<_> = left.map(|(item, body)| (*item, body)).collect();
        let for_head = left.pop_if(|(_, body)| head.takes_body(body.len()));
        let body = for_head.map(|(_, body)| body.clone());
        Self {
            head,
            settled: group.settled.iter().map(|(item, _)| *item).collect(),
            count: head.bundles,
            bytes: 0,
            body,
            left,
        }
    }

    fn done(self) -> Bundled {
        Bundled { settled: self.settled, count: self.count, bytes: self.bytes, body: self.body }
    }

    fn batch(&self) -> BatchId {
        self.head.head.chunk.batch
    }

    /// The key of the next bundle.
    fn key(&self) -> BundleKey {
        let next = keys(self.batch(), self.head.head.base, self.count..self.count.saturating_add(1)).next();
        next.unwrap_or_default()
    }

    /// Whether each body that is left stands in the bundle, in their order.
    fn inline(&self) -> impl Iterator<Item = bool> {
        let mut room = BUNDLE;
        self.left.iter().map(move |(_, body)| {
            let fits = body.len() <= INLINE.min(room);
            room -= if fits { body.len() } else { 0 };
            fits
        })
    }

    fn large(&self) -> Vec<(BatchId, &'a [u8])> {
        let bodies = self.left.iter().zip(self.inline());
        bodies.filter(|(_, inline)| !inline).map(|((_, body), _)| (self.batch(), &body[..])).collect()
    }

    /// The bundle of what is left; the bodies that have no place in it are in the next of `sliced`.
    fn document(&self, sliced: &mut impl Iterator<Item = Sliced>) -> RawDocumentBuf {
        let size: usize = self.left.iter().map(|(_, body)| body.len()).sum();
        let mut items = Vec::with_capacity(self.left.len() * ITEM);
        let mut bodies = Vec::with_capacity(size.min(BUNDLE));
        let mut large = Vec::new();
        for ((item, body), inline) in self.left.iter().zip(self.inline()) {
            let [.., offset] = item.offset.to_be_bytes();
            items.extend_from_slice(&[offset, item.code.byte()]);
            items.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
            if inline {
                bodies.extend_from_slice(body);
            } else if let Some(sliced) = sliced.next() {
                large.push(offset);
                large.extend_from_slice(&sliced.to_bytes());
            }
        }
        let packed = if bodies.len() <= TOGETHER { compress(&bodies) } else { None };
        let bodies = match &packed {
            Some(packed) => (cstr!("packed"), raw_binary(packed)),
            None => (cstr!("bodies"), raw_binary(&bodies)),
        };
        raw_document(&[
            (cstr!("_id"), raw_binary(&self.key())),
            (cstr!("size"), RawBsonRef::Int64(int(size as u64))),
            (cstr!("items"), raw_binary(&items)),
            bodies,
            (cstr!("large"), raw_binary(&large)),
        ])
    }

    /// The next bundle is stored.
    fn stored(&mut self) {
        self.bytes += self.left.drain(..).map(|(_, body)| body.len() as u64).sum::<u64>();
        self.count += 1;
    }

    /// The next bundle was there, with these items.
    fn take_over(&mut self, list: &[SettledItem]) {
        for there in list.iter().filter(|there| self.head.is_open(there.offset)) {
            self.left.retain(|(item, _)| item.offset != there.offset);
            let of_group = self.settled.iter_mut().filter(|item| item.offset == there.offset);
            if of_group.map(|item| item.code = there.code).count() == 0 {
                self.settled.push(*there);
            }
        }
        self.count += 1;
    }
}

/// The items of these bundles.
async fn load_lists(
    commands: &Commands,
    keys: &[BundleKey],
) -> StoreResult<HashMap<BundleKey, Vec<SettledItem>>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = keys.iter().map(|key| binary(*key)).collect();
    let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "items": 1 });
    // A bundle that was written a moment ago counts: the head's write, which waits for the majority, comes after it.
    let found = commands.find(OUTCOMES, query, Concern::Local).await?;
    let of = |found: &Document| {
        let settled = |item: Listed| match ItemCode::from_byte(item.code) {
            Some(ItemCode::Open) | None => Err(corrupt("the code of an outcome")),
            Some(code) => Ok(SettledItem { offset: item.offset.into(), code }),
        };
        Ok((Fields(found).id("_id")?, listed(found)?.map(settled).collect::<StoreResult<_>>()?))
    };
    found.iter().map(of).collect()
}

/// An item of a bundle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// Its offset in the chunk.
    pub(crate) offset: u8,
    /// The byte of its code.
    pub(crate) code: u8,
    /// Length of its body.
    pub(crate) len: usize,
}

/// The bodies that stand in a bundle, one after the other; they have this many bytes.
pub(crate) fn inline(found: &mut Document, len: usize) -> StoreResult<Vec<u8>> {
    let damaged = || corrupt("outcomes");
    if Fields(found).has("packed") {
        let packed = Fields(found).bytes("packed")?;
        return if len <= TOGETHER { decompress(packed, len).map_err(|_| damaged()) } else { Err(damaged()) };
    }
    let bodies = found.get_binary_generic_mut("bodies").map_err(|_| damaged())?;
    if bodies.len() == len { Ok(std::mem::take(bodies)) } else { Err(damaged()) }
}

/// The items of a bundle.
pub(crate) fn listed(found: &Document) -> StoreResult<impl Iterator<Item = Listed>> {
    let (items, rest) = Fields(found).bytes("items")?.as_chunks::<ITEM>();
    if !rest.is_empty() {
        return Err(corrupt("outcomes"));
    }
    Ok(items.iter().map(|[offset, code, len @ ..]| Listed {
        offset: *offset,
        code: *code,
        len: u32::from_be_bytes(*len) as usize,
    }))
}

/// Where the bodies are that have no place in their bundle, by offset.
pub(crate) fn large(found: &Document) -> StoreResult<HashMap<u8, Sliced>> {
    let (large, rest) = Fields(found).bytes("large")?.as_chunks::<LARGE>();
    if !rest.is_empty() {
        return Err(corrupt("outcomes"));
    }
    Ok(large.iter().map(|[offset, sliced @ ..]| (*offset, Sliced::of(*sliced))).collect())
}
