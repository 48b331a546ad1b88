//! The rule of admission: which batches of a lane may let how many chunks run.
//!
//! Tenants share a lane by their weights, whatever priorities they give; a tenant's own batches go by priority, which waiting raises,
//! and equals in turn. What is admitted and not yet taken by a worker is bounded by the lane's live slots: one batch alone fills a
//! half of the window, the other half is for those that come later. Lanes know nothing of each other. Start at [`Turns::admit`].

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::chunk::MAX_CHUNK_ROWS;
use crate::ids::{BatchId, TenantId};

/// From this priority on a batch is interactive; larger ones count as this one.
pub const INTERACTIVE: i16 = 100;

/// Down from this priority a batch is bulk; smaller ones count as this one. What lies between is normal.
pub const BULK: i16 = -100;

/// What a batch is served at whose deadline is near, where its own priority is lower: before all that is not interactive.
pub const URGENT: i16 = INTERACTIVE - 1;

/// The last part, one of so many, of the time between submit and deadline, in which a batch is urgent.
const URGENT_PART: u64 = 5;

/// From when on a batch is urgent that was submitted and is due then: Unix milliseconds.
pub const fn urgent_from(submitted_ms: u64, deadline_ms: u64) -> u64 {
    deadline_ms - deadline_ms.saturating_sub(submitted_ms) / URGENT_PART
}

/// How long a batch waits until it counts as one of the class above: milliseconds.
pub const AGING_MS: u64 = 60_000;

/// What one class is above another.
const CLASS: i16 = 100;

/// What one item is in the account of a tenant of weight one: large, so that weights divide it.
const UNIT: u64 = 1 << 16;

/// Half windows by which one who was given more is told apart from one who was given less. Who stays further behind does not want it.
const ROUNDS: u64 = 30;

/// What a batch is behind another one of its tenant at most: a chunk, by which equals in turn ever differ. What one was given more for its priority is
/// not held against it when others rise to it.
const CHUNK: u64 = MAX_CHUNK_ROWS as u64 * UNIT;

/// The part of the window, one of so many, that is kept for tenants with less than their part of it.
const SMALL_ROOM: u64 = 32;

/// What one round is in the rank of a hint: more than all priorities together.
const ROUND: i16 = 1_000;

/// A batch that may begin items, as the rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Which batch.
    pub batch: BatchId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's weight, the same for all of its batches; zero counts as one.
    pub weight: u32,
    /// Its own priority, larger first.
    pub priority: i16,
    /// Since when nothing of it was worked on, Unix milliseconds.
    pub waits_since_ms: u64,
    /// From when on its deadline is near, Unix milliseconds ([`urgent_from`]); `None` where it has none.
    pub urgent_from_ms: Option<u64>,
    /// Items of it that workers have in hand; while there are any it does not wait.
    pub leased: u64,
    /// Its chunks that were not admitted; [`u32::MAX`] where that is not known.
    pub waiting: u32,
    /// Its chunks that were admitted, or hinted before, and that no worker is known to have taken.
    pub queued: u32,
    /// The most items of one of its chunks.
    pub chunk_items: u32,
    /// The most calls it may make at the same time.
    pub max_concurrency: Option<u32>,
}

/// A lane at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Lane<'a> {
    /// Slots of all living workers.
    pub slots: u64,
    /// Now, Unix milliseconds.
    pub now_ms: u64,
    /// Every batch of the lane that may begin items, oldest first.
    pub applicants: &'a [Applicant],
}

/// Leave for a batch to admit chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which batch.
    pub batch: BatchId,
    /// How many of its chunks, at least one.
    pub chunks: u32,
}

/// What the tenants of one lane, and the batches of each, were given so far: whose turn it is. Whoever begins without this memory is
/// as fair from then on.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    tenants: BTreeMap<TenantId, u64>,
    batches: BTreeMap<BatchId, u64>,
}

impl Applicant {
    /// The priority that counts now: a class more for each [`AGING_MS`] the batch waits, up to [`INTERACTIVE`], and [`URGENT`] at least when
    /// its deadline is near.
    pub fn effective_priority(&self, now_ms: u64) -> i16 {
        let waited = if self.leased > 0 { 0 } else { now_ms.saturating_sub(self.waits_since_ms) };
        // From bulk to interactive it is two classes.
        let classes = if waited >= 2 * AGING_MS { 2 } else { i16::from(waited >= AGING_MS) };
        let aged = (self.priority.clamp(BULK, INTERACTIVE) + classes * CLASS).min(INTERACTIVE);
        if self.urgent_from_ms.is_some_and(|from_ms| from_ms <= now_ms) { aged.max(URGENT) } else { aged }
    }

    const fn has_work(&self) -> bool {
        self.waiting > 0 || self.queued > 0
    }

    fn len(&self) -> u64 {
        u64::from(self.chunk_items.clamp(1, MAX_CHUNK_ROWS))
    }

    fn items_queued(&self) -> u64 {
        u64::from(self.queued) * self.len()
    }

    /// What so many items are in the tenant's account.
    fn share_of(&self, items: u64) -> u64 {
        items.saturating_mul(UNIT) / u64::from(self.weight.max(1))
    }
}

impl Turns {
    /// Which batches may admit how many chunks now, in the order in which they are to be queued; a batch may stand there more than
    /// once. What was admitted is then told by [`Turns::took`].
    ///
    /// After it no more than twice `slots` items are admitted and not taken, or one chunk where that is more; where a chunk is
    /// waiting that its batch's own limit allows, as many items as there are slots, less what does not divide into chunks.
    pub fn admit(&mut self, lane: Lane<'_>) -> Vec<Grant> {
        self.meet(lane);
        let mut round = Round::new(lane, self);
        let mut grants: Vec<Grant> = vec![];
        while let Some(at) = round.give_one() {
            let batch = lane.applicants[at].batch;
            match grants.last_mut().filter(|last| last.batch == batch) {
                Some(last) => last.chunks += 1,
                None => grants.push(Grant { batch, chunks: 1 }),
            }
        }
        grants
    }

    /// Notes that so many chunks of a batch were admitted.
    pub fn took(&mut self, applicant: &Applicant, chunks: u32) {
        let (chunks, len) = (u64::from(chunks), applicant.len());
        if let Some(tag) = self.tenants.get_mut(&applicant.tenant) {
            *tag += chunks * applicant.share_of(len);
        }
        if let Some(tag) = self.batches.get_mut(&applicant.batch) {
            *tag += chunks * len * UNIT;
        }
    }

    /// The priority of each applicant's hints in the queue, which workers empty from the largest on: its effective priority among those
    /// of tenants that were given about as much. Nobody gets ahead of others by more than a half window for being urgent.
    pub fn ranks(&mut self, lane: Lane<'_>) -> Vec<i16> {
        self.meet(lane);
        let least = self.tenants.values().min().copied().unwrap_or(0);
        let of = |applicant: &Applicant| {
            let ahead = self.tenants.get(&applicant.tenant).map_or(0, |tag| (tag - least) / round_of(lane));
            let rounds = i16::try_from(ahead.min(ROUNDS)).unwrap_or(0);
            applicant.effective_priority(lane.now_ms) - rounds * ROUND
        };
        lane.applicants.iter().map(of).collect()
    }

    /// Forgets who has nothing to do any more, and lets newcomers in beside those who were given least: being away earns nothing.
    fn meet(&mut self, lane: Lane<'_>) {
        let mut batches: BTreeMap<&TenantId, Vec<BatchId>> = BTreeMap::new();
        for applicant in lane.applicants.iter().filter(|applicant| applicant.has_work()) {
            batches.entry(&applicant.tenant).or_default().push(applicant.batch);
        }
        let most_behind = round_of(lane).saturating_mul(ROUNDS);
        let tags = std::mem::take(&mut self.tenants);
        self.tenants = joined(tags, batches.keys().map(|tenant| (*tenant).clone()), most_behind);
        let mut tags = std::mem::take(&mut self.batches);
        for batches in batches.into_values() {
            let known = batches.iter().filter_map(|batch| tags.remove_entry(batch)).collect();
            self.batches.append(&mut joined(known, batches.into_iter(), CHUNK));
        }
    }
}

/// A half window of a tenant of weight one.
fn round_of(lane: Lane<'_>) -> u64 {
    lane.slots.max(1).saturating_mul(UNIT)
}

/// The tags of those `present`: newcomers get the least of the others', and nobody is further behind than `most_behind`.
fn joined<K: Ord>(
    mut tags: BTreeMap<K, u64>,
    present: impl Iterator<Item = K>,
    most_behind: u64,
) -> BTreeMap<K, u64> {
    let joined: Vec<(K, Option<u64>)> =
        present.map(|key| (tags.remove(&key), key)).map(|(tag, key)| (key, tag)).collect();
    let known = || joined.iter().filter_map(|(_, tag)| *tag);
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let floor = least.max(most.saturating_sub(most_behind));
    joined.into_iter().map(|(key, tag)| (key, tag.map_or(floor, |tag| tag.max(floor)))).collect()
}

/// One look at a lane, chunk by chunk.
struct Round {
    lines: Vec<Line>,
    shares: Vec<Share>,
    /// Items let in and not taken.
    queued: u64,
    /// What is filled whoever wants it.
    half: u64,
    /// What a tenant with more than its part does not pass: however many batches it has, others find a little room at once.
    most_of_one: u64,
    /// What is never passed.
    most: u64,
    /// Weights of the tenants that have work.
    weights: u64,
}

/// A tenant in this look.
struct Share {
    weight: u64,
    tag: u64,
    queued: u64,
}

/// A batch in this look.
struct Line {
    share: usize,
    priority: i16,
    tag: u64,
    len: u64,
    waiting: u32,
    /// Items of it that are of use in the queue.
    useful: u64,
    queued: u64,
    /// Batches of the tenant that have work and the same priority, itself included.
    equals: u64,
    /// Items of the tenant's batches of its priority and above.
    ahead: u64,
    /// What one chunk adds to its tenant's tag.
    charge: u64,
}

/// A batch that wants a chunk let in; of one tenant the least comes first: the highest priority, then less than its part of the queue,
/// then less that was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    priority: Reverse<i16>,
    has_its_part: bool,
    tag: u64,
    at: usize,
    has_room: bool,
}

impl Round {
    fn new(lane: Lane<'_>, turns: &Turns) -> Self {
        let numbers: BTreeMap<&TenantId, usize> = turns.tenants.keys().zip(0..).collect();
        let mut shares: Vec<Share> =
            turns.tenants.values().map(|tag| Share { weight: 1, tag: *tag, queued: 0 }).collect();
        let priority = |of: &Applicant| of.effective_priority(lane.now_ms);
        // How many batches, and how many items of them are queued.
        let mut by_priority: BTreeMap<(&TenantId, i16), (u64, u64)> = BTreeMap::new();
        for of in lane.applicants.iter().filter(|of| of.has_work()) {
            let (batches, items) = by_priority.entry((&of.tenant, priority(of))).or_default();
            *batches += 1;
            *items += of.items_queued();
        }
        let line = |of: &Applicant| {
            let (queued, own) = (of.items_queued(), (&of.tenant, priority(of)));
            // Those without work have no share, and no chunk that could be given.
            let share = numbers.get(&of.tenant).copied().unwrap_or(0);
            if let Some(share) = shares.get_mut(share).filter(|_| of.has_work()) {
                share.weight = u64::from(of.weight.max(1));
                share.queued += queued;
            }
            Line {
                share,
                priority: priority(of),
                tag: turns.batches.get(&of.batch).copied().unwrap_or(0),
                len: of.len(),
                waiting: of.waiting,
                // As many as may call, and as many to follow.
                useful: of.max_concurrency.map_or(u64::MAX, |calls| 2 * u64::from(calls.max(1))),
                queued,
                equals: by_priority.get(&own).map_or(1, |(batches, _)| *batches),
                ahead: by_priority.range(own..=(own.0, i16::MAX)).map(|(_, (_, items))| items).sum(),

                charge: of.share_of(of.len()),
            }
        };
        let lines: Vec<Line> = lane.applicants.iter().map(line).collect();
        let half = lane.slots.max(1);
        let most = half.saturating_mul(2);
        Self {
            queued: lines.iter().map(|line| line.queued).sum(),
            weights: shares.iter().map(|share| share.weight).sum(),
            half,
            most_of_one: most - most / SMALL_ROOM,
            most,
            lines,
            shares,
        }
    }

    /// Lets the next chunk in turn in, and answers of which applicant; `None` when there is none, or no room for it.
    fn give_one(&mut self) -> Option<usize> {
        let mut offers: Vec<Option<Offer>> = vec![None; self.shares.len()];
        for (line, at) in self.lines.iter().zip(0..) {
            let Some(offer) = self.offer(line, at) else { continue };
            let best = &mut offers[line.share];
            *best = Some(best.map_or(offer, |best| best.min(offer)));
        }
        let mut offers: Vec<_> =
            offers.into_iter().zip(0..).filter_map(|(offer, share)| Some((offer?, share))).collect();
        offers.sort_by_key(|(_, share)| self.turn_of(*share));
        let (first, _) = *offers.first()?;
        // Who has no room in its turn waits for it; others go by only where they leave it.
        let reserved = self.lines[first.at].len;
        let (offer, _) = offers.into_iter().find(|(offer, _)| {
            let len = self.lines[offer.at].len;
            let leaves_it = || self.is_in_half(len) || self.queued + len + reserved <= self.most_of_one;
            offer.has_room && (first.has_room || leaves_it())
        })?;
        let next = offer.at;
        if !self.fits(&self.lines[next]) {
            return None;
        }
        let line = &mut self.lines[next];
        line.waiting = line.waiting.saturating_sub(1);
        line.queued += line.len;
        line.tag += line.len * UNIT;
        let (share, priority, len) = (line.share, line.priority, line.len);
        self.shares[share].queued += len;
        self.shares[share].tag += line.charge;
        self.queued += len;
        let behind = |other: &&mut Line| other.share == share && other.priority <= priority;
        for other in self.lines.iter_mut().filter(behind) {
            other.ahead += len;
        }
        Some(next)
    }

    /// Which tenant comes first: one with less than its part of the queue, then one that was given less.
    ///
    /// What is in the queue counts before what was given: chunks that nobody takes, since their batch is slow, would else fill it. So
    /// it does among the batches of a tenant.
    fn turn_of(&self, share: usize) -> (bool, u64, usize) {
        let of = &self.shares[share];
        (!self.is_below_part(of.queued, of), of.tag, share)
    }

    /// What a batch offers its tenant; nothing when no chunk of it is to be let in now.
    fn offer(&self, line: &Line, at: usize) -> Option<Offer> {
        if line.waiting == 0 || line.queued >= line.useful {
            return None;
        }
        let share = &self.shares[line.share];
        let most = if self.is_below_part(share.queued, share) { self.most } else { self.most_of_one };
        let late = self.is_let_in_late(line) && self.queued + line.len <= most;
        let has_room = self.is_in_half(line.len) || late || self.is_outsize(line);
        // A batch that has nothing in the queue waits for room, and its tenant with it; others that went by would keep it waiting.
        if !has_room && line.queued > 0 {
            return None;
        }
        let has_its_part = !self.is_below_part(line.queued.saturating_mul(line.equals), share);
        Some(Offer { priority: Reverse(line.priority), has_its_part, tag: line.tag, at, has_room })
    }

    /// Whether the first half of the window is open to a chunk of so many items: who comes later finds room for one, however long.
    fn is_in_half(&self, len: u64) -> bool {
        let spare = (self.most_of_one - self.half).min(u64::from(MAX_CHUNK_ROWS));
        self.queued < self.half && self.queued + len + spare <= self.most_of_one
    }

    /// Whether the second half of the window is open to a batch: it has nothing in the queue, or what is there beside its own tenant's
    /// chunks of its priority and above must not keep it waiting, since those are less than the tenant's part.
    fn is_let_in_late(&self, line: &Line) -> bool {
        let others = line.ahead < self.queued;
        line.queued == 0 || (others && self.is_below_part(line.ahead, &self.shares[line.share]))
    }

    /// Whether chunks of the batch fit beside no full half. Such a one waits in its turn, and everybody with it, until nothing is queued.
    const fn is_outsize(&self, line: &Line) -> bool {
        line.len > self.half
    }

    const fn fits(&self, line: &Line) -> bool {
        self.queued == 0 || self.queued + line.len <= self.most
    }

    /// Whether so many items are less than the tenant's part of the first half.
    const fn is_below_part(&self, items: u64, share: &Share) -> bool {
        items.saturating_mul(self.weights) < self.half.saturating_mul(share.weight)
    }
}

#[cfg(test)]
mod tests;
