//! Tables of single looks at a lane, and properties of a lane that is worked on for long.

use proptest::prelude::*;

use super::*;

fn tenant(n: usize) -> TenantId {
    format!("tenant-{n}").parse().unwrap()
}

/// A batch of `tenant` with any number of chunks of so many items.
fn batch(n: u8, of: usize, chunk_items: u32) -> Applicant {
    Applicant {
        batch: BatchId::from_bytes([n; 16]),
        tenant: tenant(of),
        weight: 1,
        priority: 0,
        waits_since_ms: 0,
        urgent_from_ms: None,
        leased: 0,
        waiting: u32::MAX,
        queued: 0,
        chunk_items,
        max_concurrency: None,
    }
}

/// A lane whose workers take hints one by one, those of the largest rank first, then those that came first.
#[derive(Default)]
struct World {
    turns: Turns,
    slots: u64,
    now_ms: u64,
    batches: Vec<Applicant>,
    /// Batches by the rank and the arrival of their hints.
    hints: BTreeMap<(Reverse<i16>, u64), usize>,
    arrivals: u64,
    /// Items taken, by batch.
    taken: Vec<u64>,
    /// Batches whose chunks nobody takes.
    stuck: Vec<usize>,
}

impl World {
    fn new(slots: u64, batches: Vec<Applicant>) -> Self {
        let taken = vec![0; batches.len()];
        Self { slots, batches, taken, ..Self::default() }
    }

    fn add(&mut self, batch: Applicant) -> usize {
        self.batches.push(batch);
        self.taken.push(0);
        self.batches.len() - 1
    }

    fn items_queued(&self) -> u64 {
        self.batches.iter().map(|of| u64::from(of.queued) * u64::from(of.chunk_items)).sum()
    }

    fn ranks(&mut self) -> Vec<i16> {
        self.turns.ranks(Lane { slots: self.slots, now_ms: self.now_ms, applicants: &self.batches })
    }

    /// What a scheduler does in one step.
    #[track_caller]
    fn admit(&mut self) -> Vec<Grant> {
        let before = self.items_queued();
        let lane = Lane { slots: self.slots, now_ms: self.now_ms, applicants: &self.batches };
        let grants = self.turns.admit(lane);
        if grants.is_empty() {
            return grants;
        }
        let at = |grant: &Grant| self.batches.iter().position(|of| of.batch == grant.batch).unwrap();
        let granted: Vec<(usize, u32)> = grants.iter().map(|grant| (at(grant), grant.chunks)).collect();
        for &(at, chunks) in &granted {
            let of = &mut self.batches[at];
            self.turns.took(of, chunks);
            assert!(chunks <= of.waiting, "no more is granted than waits");
            of.waiting -= if of.waiting == u32::MAX { 0 } else { chunks };
            of.queued += chunks;
        }
        let first = if before == 0 { u64::from(self.batches[granted[0].0].chunk_items) } else { 0 };
        let (after, most) = (self.items_queued(), before.max(2 * self.slots).max(first));
        assert!(after <= most, "{after} items are queued, at most {most} may be");
        let ranks = self.ranks();
        for (at, chunks) in granted {
            for _ in 0..chunks {
                self.arrivals += 1;
                self.hints.insert((Reverse(ranks[at]), self.arrivals), at);
            }
        }
        grants
    }

    /// What a scheduler does once a second: hints whose rank is another one move, and are as old as they were.
    fn sweep(&mut self) {
        let ranks = self.ranks();
        let hints = std::mem::take(&mut self.hints).into_iter();
        self.hints = hints.map(|((_, arrival), at)| ((Reverse(ranks[at]), arrival), at)).collect();
    }

    /// A worker takes the first hint of a batch that is not stuck; answers the batch.
    fn take(&mut self) -> Option<usize> {
        let (first, at) =
            self.hints.iter().map(|(key, at)| (*key, *at)).find(|(_, at)| !self.stuck.contains(at))?;
        self.hints.remove(&first);
        let of = &mut self.batches[at];
        of.queued -= 1;
        of.waits_since_ms = self.now_ms;
        self.taken[at] += u64::from(of.chunk_items);
        Some(at)
    }

    /// Admits and takes so many chunks, one every `every_ms`; answers whose they were.
    #[track_caller]
    fn work(&mut self, chunks: usize, every_ms: u64) -> Vec<usize> {
        let mut order = vec![];
        for _ in 0..chunks {
            self.admit();
            order.extend(self.take());
            let second = self.now_ms / 1_000;
            self.now_ms += every_ms;
            if self.now_ms / 1_000 > second {
                self.sweep();
            }
        }
        order
    }

    /// Admits and takes one chunk, for as long as `item_ms` for each of its items; answers whose it was.
    #[track_caller]
    fn take_timed(&mut self, item_ms: u64) -> Option<usize> {
        self.admit();
        let at = self.take()?;
        let now_ms = self.now_ms + item_ms * u64::from(self.batches[at].chunk_items);
        if now_ms / 1_000 > self.now_ms / 1_000 {
            self.sweep();
        }
        self.now_ms = now_ms;
        Some(at)
    }

    fn taken_of(&self, of: usize) -> u64 {
        let mine = self.batches.iter().zip(&self.taken).filter(|(batch, _)| batch.tenant == tenant(of));
        mine.map(|(_, taken)| *taken).sum()
    }
}

#[test]
fn a_batch_whose_deadline_is_near_comes_before_all_that_is_not_interactive() {
    let from_ms = urgent_from(1_000, 11_000);
    assert_eq!(from_ms, 9_000);
    for (priority, now_ms, effective) in
        [(-100, 8_999, -100), (-100, 9_000, URGENT), (50, 9_000, URGENT), (100, 9_000, INTERACTIVE)]
    {
        let due = Applicant { priority, leased: 1, urgent_from_ms: Some(from_ms), ..batch(1, 1, 1) };
        assert_eq!(due.effective_priority(now_ms), effective, "{priority} at {now_ms}");
    }
    // A deadline that had passed before the submit.
    assert_eq!(urgent_from(5, 3), 3);
}

#[test]
fn waiting_raises_a_batch_by_a_class_a_minute_and_work_in_hand_ends_that() {
    let cases = [
        (BULK, 0, BULK),
        (BULK, AGING_MS - 1, BULK),
        (BULK, AGING_MS, 0),
        (BULK, 2 * AGING_MS, INTERACTIVE),
        (i16::MIN, 9 * AGING_MS, INTERACTIVE),
        (-7, AGING_MS, 93),
        (7, AGING_MS, INTERACTIVE),
        (i16::MAX, 0, INTERACTIVE),
    ];
    for (priority, waited_ms, expected) in cases {
        let waits = Applicant { priority, waits_since_ms: 5, ..batch(1, 1, 1) };
        assert_eq!(waits.effective_priority(5 + waited_ms), expected, "{priority} after {waited_ms} ms");
        let worked_on = Applicant { leased: 1, ..waits };
        assert_eq!(worked_on.effective_priority(5 + waited_ms), priority.clamp(BULK, INTERACTIVE));
    }
}

#[test]
fn a_batch_alone_fills_a_half_of_the_window_and_leaves_room_for_a_chunk() {
    // (slots, items of a chunk, chunks)
    let cases = [
        (340, 256, 1),
        (400, 256, 2),
        (640, 256, 3),
        (960, 256, 4),
        (340, 1, 340),
        (340, 10, 34),
        (32, 1, 32),
        (4, 256, 1),
        (0, 256, 1),
    ];
    for (slots, chunk_items, chunks) in cases {
        let mut world = World::new(slots, vec![batch(1, 1, chunk_items)]);
        let grants = world.admit();
        assert_eq!(
            grants,
            [Grant { batch: world.batches[0].batch, chunks }],
            "{slots} slots, {chunk_items} items"
        );
        assert_eq!(world.admit(), [], "it is full");
        let later = world.add(batch(2, 1, chunk_items));
        world.admit();
        assert_eq!(world.batches[later].queued > 0, slots >= 32, "{slots} slots, {chunk_items} items");
    }
}

#[test]
fn no_more_of_a_limited_batch_is_queued_than_it_can_use() {
    let limited = Applicant { max_concurrency: Some(4), ..batch(1, 1, 3) };
    let mut world = World::new(1_000, vec![limited, batch(2, 1, 3)]);
    world.admit();
    assert_eq!(world.batches[0].queued, 3, "two items for each call it may make, in whole chunks");
    assert!(world.items_queued() >= 1_000 - 3, "the other one has the rest");
}

#[test]
fn what_waits_and_what_is_queued_already_counts_and_an_empty_lane_grants_nothing() {
    let none = Applicant { waiting: 0, ..batch(1, 1, 1) };
    let mut world = World::new(100, vec![none]);
    assert_eq!(world.admit(), []);
    let few = world.add(Applicant { waiting: 3, queued: 2, ..batch(2, 1, 1) });
    assert_eq!(world.admit(), [Grant { batch: world.batches[few].batch, chunks: 3 }]);
    assert_eq!(World::new(100, vec![]).admit(), []);
}

#[test]
fn a_later_interactive_batch_goes_before_bulk_and_before_what_is_queued_of_it() {
    for of in [1, 2] {
        let mut world = World::new(64, vec![Applicant { priority: BULK, ..batch(1, 1, 1) }]);
        world.work(500, 10);
        let urgent = world.add(Applicant {
            priority: INTERACTIVE,
            waiting: 20,
            waits_since_ms: world.now_ms,
            ..batch(2, of, 1)
        });
        assert_eq!(world.work(20, 10), [urgent; 20], "of tenant {of}");
    }
}

#[test]
fn within_a_tenant_higher_priority_goes_first_and_equals_take_turns() {
    let urgent = |n| Applicant { priority: 5, waiting: 200, ..batch(n, 1, 1) };
    let mut world = World::new(32, vec![batch(1, 1, 1), urgent(2), urgent(3)]);
    let order = world.work(400, 1);
    assert!(
        !order[..400].contains(&0),
        "nothing of a lower priority comes while there is something of a higher one"
    );
    for pair in order.chunks(2) {
        assert!(pair.contains(&1) && pair.contains(&2), "{pair:?}");
    }
}

#[test]
fn a_tenant_that_calls_everything_interactive_takes_nothing_of_another_ones_share() {
    let pushy = (1..=8).map(|n| Applicant { priority: INTERACTIVE, ..batch(n, 1, 64) });
    let mut world = World::new(320, pushy.collect());
    world.add(Applicant { priority: BULK, ..batch(9, 2, 64) });
    world.work(4_000, 5);
    let (pushy, modest) = (world.taken_of(1), world.taken_of(2));
    assert!(pushy.abs_diff(modest) < 4 * 320, "{pushy} and {modest}");
}

#[test]
fn chunks_that_nobody_takes_do_not_fill_the_window() {
    for of in [1, 2] {
        let mut world = World::new(320, vec![batch(1, 1, 16)]);
        world.stuck = vec![0];
        world.admit();
        let quick = world.add(batch(2, of, 16));
        world.work(1_000, 1);
        assert_eq!(world.taken[quick], 16_000, "every step takes one of it, of tenant {of}");
    }
}

#[test]
fn being_away_earns_nothing_and_a_tenant_that_returns_is_served_at_once() {
    let mut world = World::new(64, vec![batch(1, 1, 1), Applicant { waiting: 10, ..batch(2, 2, 1) }]);
    world.work(10_000, 1);
    let again = world.add(batch(3, 2, 1));
    let order = world.work(2_000, 1);
    let first = order.iter().position(|at| *at == again).unwrap();
    assert!(first <= 64, "{first}");
    let share = order.iter().filter(|at| **at == again).count();
    assert!(
        (900..=1_100).contains(&share),
        "half of it from now on, not all of what it did not ask for: {share}"
    );
}

#[test]
fn a_long_chunk_is_not_kept_out_by_short_ones_of_others_that_go_by() {
    for slots in [325, 439, 500, 699] {
        let others =
            [(2, 1, -1), (0, MAX_CHUNK_ROWS, BULK), (1, 1, 1), (1, 19, BULK), (1, 1, 0), (2, 1, BULK)];
        let others =
            (0u8..).zip(others).map(|(n, (of, len, priority))| Applicant { priority, ..batch(n, of, len) });
        let mut world = World::new(slots, others.collect());
        world.add(Applicant { priority: BULK, ..batch(99, 0, 1) });
        while world.now_ms < 60 * 60_000 {
            let took = world.take_timed(40);
            assert!(
                world.now_ms - world.batches[1].waits_since_ms <= 2 * AGING_MS,
                "{slots} slots, after {took:?}"
            );
        }
        let taken = [0, 1, 2].map(|of| world.taken_of(of));
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(most - least < 4 * slots, "{slots} slots: {taken:?} of three tenants");
    }
}

#[test]
fn a_long_chunk_is_not_kept_out_by_shorter_ones_of_many_batches_of_others_either() {
    let others = [(0, 64, BULK), (2, 30, BULK), (0, 64, BULK), (2, MAX_CHUNK_ROWS, 0), (1, 64, -3)];
    let others = others.into_iter().chain([(0, 146, BULK), (0, 64, BULK), (1, 152, 0), (0, 7, BULK)]);
    let others =
        (0u8..).zip(others).map(|(n, (of, len, priority))| Applicant { priority, ..batch(n, of, len) });
    let mut world = World::new(325, others.collect());
    while world.now_ms < 60 * 60_000 {
        let took = world.take_timed(40);
        let waits = world.now_ms - world.batches[3].waits_since_ms;
        assert!(waits <= 4 * 60_000, "{waits} ms, after {took:?}");
    }
}

#[test]
fn a_batch_that_was_served_first_for_its_priority_does_not_wait_until_all_others_were_given_as_much() {
    for slots in [325, 640] {
        let long = |n, priority| Applicant { priority, ..batch(n, 0, MAX_CHUNK_ROWS) };
        let short = |n, of| Applicant { priority: BULK, ..batch(n, of, 1) };
        let batches =
            vec![long(0, 0), long(1, 0), long(2, 0), long(3, INTERACTIVE), short(4, 1), short(5, 2)];
        let mut world = World::new(slots, batches);
        while world.now_ms < 60 * 60_000 {
            let took = world.take_timed(40);
            let waits_since_ms = world.batches[..4].iter().map(|of| of.waits_since_ms).min().unwrap();
            // A turn of all of them is two minutes.
            assert!(world.now_ms - waits_since_ms <= 4 * 60_000, "{slots} slots, after {took:?}");
        }
    }
}

/// How long a batch may wait for its next chunk, by batch: two minutes until it is as urgent as any, then two for its turn, or what a turn takes where
/// that is more: a chunk's items of each of its tenant's batches while every tenant has its share, behind a window that was admitted before.
fn longest_waits(world: &World, item_ms: u64) -> Vec<u64> {
    let tenants: std::collections::BTreeSet<_> = world.batches.iter().map(|of| &of.tenant).collect();
    let turn = |of: &Applicant| {
        let mine = world.batches.iter().filter(|other| other.tenant == of.tenant);
        let items: u64 = mine.map(|other| u64::from(other.chunk_items)).sum();
        item_ms * (items * tenants.len() as u64 + 2 * world.slots)
    };
    world.batches.iter().map(|of| 2 * AGING_MS + turn(of).max(2 * 60_000)).collect()
}

fn lens() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1u32), Just(7), Just(64), Just(MAX_CHUNK_ROWS), 1..=MAX_CHUNK_ROWS]
}

fn priorities() -> impl Strategy<Value = i16> {
    prop_oneof![Just(BULK), Just(0), Just(INTERACTIVE), BULK..=INTERACTIVE]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn over_a_long_run_the_shares_of_tenants_that_have_work_are_as_their_weights(
        slots in 325u64..700,
        weights in prop::collection::vec(1u32..=5, 2..=4),
        batches in prop::collection::vec((0usize..4, lens(), priorities()), 0..8),
    ) {
        let of = |at: usize, tenant: usize, len, priority| {
            let n = u8::try_from(at).unwrap();
            Applicant { weight: weights[tenant], priority, ..batch(n, tenant, len) }
        };
        let tenants = weights.len();
        let each = (0..tenants).map(|tenant| (tenant, 64, 0));
        let all = each.chain(batches.into_iter().map(|(tenant, len, priority)| (tenant % tenants, len, priority)));
        let all = all.enumerate().map(|(at, (tenant, len, priority))| of(at, tenant, len, priority)).collect();
        let mut world = World::new(slots, all);
        let mut chunks = 0;
        while world.taken.iter().sum::<u64>() < 100 * slots && chunks < 10_000 {
            world.work(100, 20);
            chunks += 100;
        }
        let total: u64 = world.taken.iter().sum();
        let sum: u32 = weights.iter().sum();
        // They differ by what is in the queue and by a few rounds, however long it takes.
        let tolerance = 8 * slots * u64::from(*weights.iter().max().unwrap());
        for (tenant, weight) in weights.iter().enumerate() {
            let fair = total * u64::from(*weight) / u64::from(sum);
            let taken = world.taken_of(tenant);
            prop_assert!(taken.abs_diff(fair) <= tolerance.min(total / 3), "tenant {tenant} of {weights:?}: {taken}, fair is {fair} of {total}");
        }
    }

    #[test]
    fn ten_rows_beside_a_million_start_within_a_few_chunks(
        slots in 325u64..1_500,
        noisy in prop::collection::vec((lens(), priorities()), 1..20),
        priority in priorities(),
        worked in 0usize..300,
    ) {
        let noisy = (0u8..).zip(noisy).map(|(n, (len, priority))| Applicant { priority, ..batch(n, 1, len) });
        let mut world = World::new(slots, noisy.collect());
        world.work(worked, 50);
        let small = world.add(Applicant { priority, waiting: 10, waits_since_ms: world.now_ms, ..batch(99, 2, 1) });
        world.admit();
        prop_assert!(world.batches[small].queued > 0, "it is let in at once, however full the window is");
        // What was queued before it goes first, and what urgent batches get until their tenant is a round ahead.
        let bound = world.items_queued() + 2 * slots;
        let noisy = |world: &World| world.taken_of(1);
        let before = noisy(&world);
        while world.taken[small] < 10 {
            prop_assert!(noisy(&world) - before <= bound, "{} of 10 after {bound} items of others", world.taken[small]);
            world.work(1, 50);
        }
    }

    #[test]
    fn nobody_starves(
        slots in 325u64..700,
        others in prop::collection::vec((0usize..3, lens(), priorities()), 1..10),
        len in lens(),
    ) {
        let others = (0u8..).zip(others).map(|(n, (of, len, priority))| Applicant { priority, ..batch(n, of, len) });
        let mut world = World::new(slots, others.collect());
        world.add(Applicant { priority: BULK, ..batch(99, 0, len) });
        let allowed = longest_waits(&world, 40);
        let until = (10 * 60_000).max(2 * allowed.iter().max().unwrap());
        let mut last_taken = vec![0; world.batches.len()];
        while world.now_ms < until {
            let taken = world.take_timed(40);
            let now_ms = world.now_ms;
            if let Some(at) = taken {
                last_taken[at] = now_ms;
            }
            for (at, (last, allowed)) in last_taken.iter().zip(&allowed).enumerate() {
                prop_assert!(now_ms - last <= *allowed, "batch {at} waits since {last} at {now_ms}, {allowed} are allowed: {:?}", world.batches);
            }
        }
    }

    #[test]
    fn free_room_is_filled_whoever_can_use_it_and_no_further(
        slots in 0u64..1_500,
        batches in prop::collection::vec((0usize..4, lens(), priorities(), 0u32..50, 0u32..4, prop::option::of(1u32..40)), 0..12),
    ) {
        let of = |(n, (of, len, priority, waiting, queued, max_concurrency))| {
            Applicant { priority, waiting, queued, max_concurrency, ..batch(n, of, len) }
        };
        let mut world = World::new(slots, (0u8..).zip(batches).map(of).collect());
        // That the window is never passed is held in every step of every world.
        world.admit();
        prop_assert_eq!(world.admit(), [], "one look is enough");
        let left = world.batches.iter().filter(|of| {
            let useful = of.max_concurrency.map_or(u32::MAX, |calls| 2 * calls);
            of.waiting > 0 && of.queued * of.chunk_items < useful
        });
        let longest = left.map(|of| u64::from(of.chunk_items)).max();
        if let Some(longest) = longest {
            // Something still waits, so there is no room for it: the half is full but for less than a chunk, and one to spare.
            let half = slots.max(1);
            let most = 2 * half - 2 * half / SMALL_ROOM;
            let spare = (most - half).min(u64::from(MAX_CHUNK_ROWS));
            let queued = world.items_queued();
            let full = queued >= half || queued + longest + spare > most;
            prop_assert!(full, "{queued} items are queued for {slots} slots while some wait");
        }
    }

    #[test]
    fn the_same_lane_is_always_given_the_same(
        slots in 1u64..1_000,
        batches in prop::collection::vec((0usize..4, lens(), priorities()), 1..8),
    ) {
        let world = || World::new(slots, (0u8..).zip(&batches).map(|(n, (of, len, priority))| {
            Applicant { priority: *priority, ..batch(n, *of, *len) }
        }).collect());
        prop_assert_eq!(world().work(50, 30), world().work(50, 30));
    }
}
