//! Bodies of outcomes as they are read: out of the bundles that heads count, a few bundles at a time.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, ItemCode};
use promptmill_ports::StoreResult;

use crate::bundles::{self, BundleKey, Listed};
use crate::codec::{Fields, binary, corrupt, key, number_of};
use crate::collections::{HEADS, OUTCOMES};
use crate::commands::{Commands, Concern, Query};
use crate::slices::{self, Sliced};

/// Bundles that are read without a look at their lists first.
const FEW: usize = 2;
/// Bytes of bundles read at a time.
const BYTES_TOGETHER: usize = 8 * 1024 * 1024;
/// Bytes of bundles in hand from which on those are let go of that are not needed next.
const BYTES_IN_HAND: usize = 32 * 1024 * 1024;

/// Bytes of a bundle from which on a body out of it is a copy.
const SHARED: usize = 64 * 1024;

/// The number under which a body in a head is held here. No chunk has as many bundles.
const IN_HEAD: u32 = u32::MAX - 1;

/// Items of one chunk.
#[derive(Debug)]
pub(crate) struct Part {
    /// Index of the chunk's first item.
    pub(crate) base: u32,
    /// Where their bodies are.
    pub(crate) bodies: Where,
    /// Index of each, and the byte that its head has for it.
    pub(crate) items: Vec<(u32, u8)>,
}

/// Where the bodies of a chunk's items are, of those that have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Where {
    /// In these bundles.
    Bundles(Range<u32>),
    /// The chunk has one item, and the body is in its head.
    InHead,
    /// That of the only item, read already.
    Here(Bytes),
}

impl Part {
    /// The keys of what holds the bodies; a head has one that no bundle has.
    fn keys(&self, batch: BatchId) -> impl Iterator<Item = BundleKey> {
        let numbers = match &self.bodies {
            Where::Bundles(bundles) => bundles.clone(),
            Where::InHead | Where::Here(_) => IN_HEAD..u32::MAX,
        };
        bundles::keys(batch, self.base, numbers)
    }
}

/// The fields that [`part_of`] reads.
pub(crate) fn part_fields() -> Document {
    doc! { "first": 1, "done": 1, "bundles": 1, "body": 1 }
}

/// The items of a head from `from` on that have an outcome.
pub(crate) fn part_of(head: &Document, from: u32) -> StoreResult<Part> {
    let base = number_of(Fields(head).bytes("first")?);
    let items = (base..)
        .zip(Fields(head).bytes("done")?.iter().copied())
        .filter(|(index, byte)| *index >= from && *byte != ItemCode::Open.byte());
    let bodies = match Fields(head).has("body") {
        true => Where::Here(Bytes::copy_from_slice(Fields(head).bytes("body")?)),
        false => Where::Bundles(0..Fields(head).small("bundles")?),
    };
    Ok(Part { base, bodies, items: items.collect() })
}

/// Where a body is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    bundle: BundleKey,
    /// Bytes of the bundle.
    size: usize,
}

/// A body as it stands in its bundle.
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

/// Reads bodies of a batch.
pub(crate) struct Bodies<'a> {
    commands: &'a Commands,
    batch: BatchId,
    bundles: HashMap<BundleKey, Bundle>,
}

/// A bundle that was read, or a head with the body of its item: the byte of the code and the body of each of its items, by offset.
#[derive(Clone)]
struct Bundle {
    size: usize,
    bodies: HashMap<u8, (u8, Body)>,
}

impl<'a> Bodies<'a> {
    /// None in hand.
    pub(crate) fn new(commands: &'a Commands, batch: BatchId) -> Self {
        Self { commands, batch, bundles: HashMap::new() }
    }

    /// Where the bodies of these items are, by their index. One that is there under another code came too late to be a result.
    pub(crate) async fn locate(&mut self, parts: &[Part]) -> StoreResult<HashMap<u32, Place>> {
        self.take_heads(parts).await?;
        let with_items = parts.iter().filter(|part| !part.items.is_empty());
        let keys = with_items.flat_map(|part| part.keys(self.batch));
        let unread: Vec<_> = keys.filter(|key| !self.bundles.contains_key(key)).collect();
        let lists = if unread.len() <= FEW {
            self.read(&unread).await?;
            HashMap::new()
        } else {
            self.lists(&unread).await?
        };
        let mut places = HashMap::new();
        for part in parts {
            let bytes: HashMap<u32, u8> = part.items.iter().copied().collect();
            for bundle in part.keys(self.batch) {
                let (size, list) = match (self.bundles.get(&bundle), lists.get(&bundle)) {
                    (Some(read), _) => (read.size, read.list()),
                    (None, Some((size, list))) => (*size, list.clone()),
                    (None, None) => continue,
                };
                for (offset, code) in list {
                    let index = part.base + u32::from(offset);
                    if bytes.get(&index) == Some(&code) {
                        places.insert(index, Place { bundle, size });
                    }
                }
            }
        }
        Ok(places)
    }

    /// Takes in hand the bodies that heads hold.
    async fn take_heads(&mut self, parts: &[Part]) -> StoreResult<()> {
        let mut heads = Vec::new();
        for part in parts {
            match (&part.bodies, part.items.first()) {
                (Where::Here(body), Some((_, byte))) => {
                    let bundle = Bundle::of_one(*byte, body.clone());
                    self.bundles.extend(part.keys(self.batch).map(|key| (key, bundle.clone())));
                }
                (Where::InHead, Some(_)) => heads.push(binary(key(self.batch, part.base))),
                _ => {}
            }
        }
        if heads.is_empty() {
            return Ok(());
        }
        let query = Query::of(doc! { "_id": { "$in": heads } }).fields(part_fields());
        for head in self.commands.find(HEADS, query, Concern::Majority).await? {
            let part = part_of(&head, 0)?;
            if let (Where::Here(body), Some((_, byte))) = (&part.bodies, part.items.first()) {
                let bundle = Bundle::of_one(*byte, body.clone());
                self.bundles.extend(part.keys(self.batch).map(|key| (key, bundle.clone())));
            }
        }
        Ok(())
    }

    /// Whether the bundle of that place is in hand.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.bundles.contains_key(&place.bundle)
    }

    /// Reads the bundles of the first of these places, as many as have few bytes, and no more than it takes to have `wanted` bytes of bodies.
    pub(crate) async fn fetch(
        &mut self,
        places: impl Iterator<Item = &Place>,
        wanted: usize,
    ) -> StoreResult<()> {
        let most = wanted.min(BYTES_TOGETHER);
        let (mut needed, mut unread, mut bytes) = (Vec::new(), Vec::new(), 0);
        for place in places {
            if needed.contains(&place.bundle) {
                continue;
            }
            if !self.has(place) {
                if !unread.is_empty() && bytes + place.size > most {
                    break;
                }
                bytes += place.size;
                unread.push(place.bundle);
            }
            needed.push(place.bundle);
        }
        if self.bundles.values().map(|bundle| bundle.size).sum::<usize>() + bytes > BYTES_IN_HAND {
            // What stands in heads is small, and is not found again under its key.
            self.bundles.retain(|key, _| needed.contains(key) || key[20..] == IN_HEAD.to_be_bytes());
        }
        self.read(&unread).await
    }

    /// The body of an item that has its place in a bundle in hand.
    pub(crate) fn of(&self, place: &Place, base: u32, index: u32) -> Option<Body> {
        let offset = u8::try_from(index - base).ok()?;
        let (_, body) = self.bundles.get(&place.bundle)?.bodies.get(&offset)?;
        Some(match body {
            // Whoever holds it would hold all of the bundle.
            Body::Inline(body) if place.size > SHARED && body.len() < place.size / 2 => {
                Body::Inline(Bytes::copy_from_slice(body))
            }
            body => body.clone(),
        })
    }

    async fn find(&self, keys: &[BundleKey], fields: Document) -> StoreResult<Vec<Document>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = keys.iter().map(|key| binary(*key)).collect();
        let query = Query::of(doc! { "_id": { "$in": ids } }).fields(fields);
        self.commands.find(OUTCOMES, query, Concern::Majority).await
    }

    async fn read(&mut self, keys: &[BundleKey]) -> StoreResult<()> {
        for mut found in self.find(keys, Document::new()).await? {
            let key = Fields(&found).id("_id")?;
            self.bundles.insert(key, Bundle::of(&mut found)?);
        }
        Ok(())
    }

    /// Size and items of these bundles.
    async fn lists(&self, keys: &[BundleKey]) -> StoreResult<HashMap<BundleKey, (usize, Vec<(u8, u8)>)>> {
        let found = self.find(keys, doc! { "size": 1, "items": 1 }).await?;
        let of = |found: &Document| {
            let list = bundles::listed(found)?.map(|item| (item.offset, item.code)).collect();
            Ok((Fields(found).id("_id")?, (size(found)?, list)))
        };
        found.iter().map(of).collect()
    }
}

impl Bundle {
    fn of_one(code: u8, body: Bytes) -> Self {
        Self { size: body.len(), bodies: HashMap::from([(0, (code, Body::Inline(body)))]) }
    }

    fn of(found: &mut Document) -> StoreResult<Self> {
        let large = bundles::large(found)?;
        let items: Vec<_> = bundles::listed(found)?.collect();
        let in_bundle = items.iter().filter(|item| !large.contains_key(&item.offset));
        let mut inline = Bytes::from(bundles::inline(found, in_bundle.map(|item| item.len).sum())?);
        let mut body = |item: &Listed| match large.get(&item.offset) {
            Some(sliced) => Body::Sliced(*sliced),
            None => Body::Inline(inline.split_to(item.len)),
        };
        let bodies = items.iter().map(|item| (item.offset, (item.code, body(item)))).collect();
        Ok(Self { size: size(found)?, bodies })
    }

    fn list(&self) -> Vec<(u8, u8)> {
        self.bodies.iter().map(|(offset, (code, _))| (*offset, *code)).collect()
    }
}

fn size(found: &Document) -> StoreResult<usize> {
    usize::try_from(Fields(found).uint("size")?).map_err(|_| corrupt("outcomes"))
}
