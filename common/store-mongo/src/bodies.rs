//! Bodies of outcomes as they are read: out of the bundles that heads count, a few bundles at a time.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use promptmill_domain::BatchId;
use promptmill_ports::StoreResult;

use crate::bundles::{self, BundleKey};
use crate::codec::{Fields, binary, corrupt};
use crate::collections::OUTCOMES;
use crate::commands::{Commands, Concern, Query};
use crate::slices::{self, Sliced};

/// Bundles that are read without a look at their lists first.
const FEW: usize = 2;
/// Bytes of bundles read at a time.
const BYTES_TOGETHER: usize = 8 * 1024 * 1024;
/// Bytes of bundles in hand from which on those are let go of that are not needed next.
const BYTES_IN_HAND: usize = 32 * 1024 * 1024;

/// Items of one chunk.
#[derive(Debug)]
pub(crate) struct Part {
    /// Index of the chunk's first item.
    pub(crate) base: u32,
    /// The bundles their bodies are in.
    pub(crate) bundles: Range<u32>,
    /// Index of each, and the byte that its head has for it.
    pub(crate) items: Vec<(u32, u8)>,
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

/// A bundle that was read: the byte of the code and the body of each of its items, by offset.
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
        let keys = |part: &Part| bundles::keys(self.batch, part.base, part.bundles.clone());
        let with_items = parts.iter().filter(|part| !part.items.is_empty());
        let unread: Vec<_> =
            with_items.flat_map(keys).filter(|key| !self.bundles.contains_key(key)).collect();
        let lists = if unread.len() <= FEW {
            self.read(&unread).await?;
            HashMap::new()
        } else {
            self.lists(&unread).await?
        };
        let mut places = HashMap::new();
        for part in parts {
            let bytes: HashMap<u32, u8> = part.items.iter().copied().collect();
            for bundle in bundles::keys(self.batch, part.base, part.bundles.clone()) {
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

    /// Whether the bundle of that place is in hand.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.bundles.contains_key(&place.bundle)
    }

    /// Reads the bundles of the first of these places, as many as have few bytes.
    pub(crate) async fn fetch(&mut self, places: impl Iterator<Item = &Place>) -> StoreResult<()> {
        let (mut needed, mut unread, mut bytes) = (Vec::new(), Vec::new(), 0);
        for place in places {
            if needed.contains(&place.bundle) {
                continue;
            }
            if !self.has(place) {
                if !unread.is_empty() && bytes + place.size > BYTES_TOGETHER {
                    break;
                }
                bytes += place.size;
                unread.push(place.bundle);
            }
            needed.push(place.bundle);
        }
        if self.bundles.values().map(|bundle| bundle.size).sum::<usize>() + bytes > BYTES_IN_HAND {
            self.bundles.retain(|key, _| needed.contains(key));
        }
        self.read(&unread).await
    }

    /// The body of an item that has its place in a bundle in hand.
    pub(crate) fn of(&self, place: &Place, base: u32, index: u32) -> Option<Body> {
        let offset = u8::try_from(index - base).ok()?;
        self.bundles.get(&place.bundle)?.bodies.get(&offset).map(|(_, body)| body.clone())
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
    fn of(found: &mut Document) -> StoreResult<Self> {
        let damaged = || corrupt("outcomes");
        let bodies = found.get_binary_generic_mut("bodies").map_err(|_| damaged())?;
        let mut inline = Bytes::from(std::mem::take(bodies));
        let large = bundles::large(found)?;
        let mut bodies = HashMap::new();
        for item in bundles::listed(found)? {
            let body = match large.get(&item.offset) {
                Some(sliced) => Body::Sliced(*sliced),
                None if item.len <= inline.len() => Body::Inline(inline.split_to(item.len)),
                None => return Err(damaged()),
            };
            bodies.insert(item.offset, (item.code, body));
        }
        Ok(Self { size: size(found)?, bodies })
    }

    fn list(&self) -> Vec<(u8, u8)> {
        self.bodies.iter().map(|(offset, (code, _))| (*offset, *code)).collect()
    }
}

fn size(found: &Document) -> StoreResult<usize> {
    usize::try_from(Fields(found).uint("size")?).map_err(|_| corrupt("outcomes"))
}
