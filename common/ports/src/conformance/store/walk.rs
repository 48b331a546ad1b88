//! A random walk over all that can happen to a batch, compared with the model after every step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use promptmill_domain::{
    BatchEvent, BatchState, FailureKind, HeadEvent, ItemCode, PauseReason, Release, SessionId, SettledItem,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::model::Model;
use super::scene::*;
use crate::{BeatAnswer, PageLimit, SettleGroup, SettledCursor, Store, StoredOutcome};

const SEEDS: u64 = 6;
const STEPS: u32 = 300;
const CHUNKS: usize = 12;

/// Whatever is done in whatever order, the store shows the heads, counts and outcomes of the pure model, nothing is lost and
/// no outcome changes. A reader that follows the order of settling sees every outcome once, as it is and not before one that settled
/// earlier. At the end the batch closes with the counts of the model.
pub async fn random_steps_agree_with_the_model(store: &dyn Store) {
    for seed in 0..SEEDS {
        let mut walk = Walk::begin(store, seed).await;
        for step in 0..STEPS {
            walk.step(step).await;
            walk.check(&format!("seed {seed}, step {step}")).await;
            walk.follow(step).await;
        }
        walk.finish().await;
    }
}

struct Walk<'a> {
    scene: Scene<'a>,
    model: Model,
    rng: StdRng,
    now_ms: u64,
    beat: u64,
    seq: u32,
    last: Option<SettleGroup>,
    /// The step in which an item settled, by index.
    settled_in: BTreeMap<u32, u32>,
    /// What a reader of the order has seen, and where it stands.
    seen: Vec<StoredOutcome>,
    cursor: SettledCursor,
}

impl<'a> Walk<'a> {
    async fn begin(store: &'a dyn Store, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let lens: Vec<u32> = (0..CHUNKS).map(|_| rng.random_range(1..=6)).collect();
        let scene = Scene::draft(store).await;
        let (upload, cuts) = scene.upload(&lens).await;
        store.commit_part(&scene.tenant, scene.batch, part(0, upload, 1)).await.unwrap();
        store.begin_submit(&scene.tenant, scene.batch).await.unwrap();
        store.put_heads(&scene.tenant, scene.batch, &lane(), &cuts).await.unwrap();
        store
            .finish_submit(&scene.tenant, scene.batch, u32::try_from(CHUNKS).unwrap(), lens.iter().sum(), NOW)
            .await
            .unwrap();
        let model = Model::queued(&scene, &cuts);
        Self {
            scene,
            model,
            rng,
            now_ms: NOW,
            beat: 0,
            seq: 0,
            last: None,
            settled_in: BTreeMap::new(),
            seen: Vec::new(),
            cursor: SettledCursor::default(),
        }
    }

    async fn step(&mut self, step: u32) {
        self.now_ms += self.rng.random_range(0..20);
        match self.rng.random_range(0..100) {
            0..12 => self.admit().await,
            12..35 => self.claim().await,
            35..70 => self.settle().await,
            70..74 => self.repeat().await,
            74..80 => self.try_item().await,
            80..87 => self.wake().await,
            87..91 => self.die().await,
            91..93 => self.end().await,
            93..98 => self.pause_or_resume().await,
            // Late, so that most of the walk is work.
            _ if step > STEPS * 4 / 5 => self.cancel().await,
            _ => {}
        }
    }

    fn some_chunks(&mut self) -> BTreeSet<usize> {
        let count = self.rng.random_range(1..=4);
        (0..count).map(|_| self.rng.random_range(0..CHUNKS)).collect()
    }

    fn id(&self, n: usize) -> promptmill_domain::ChunkId {
        self.scene.chunk(u32::try_from(n).unwrap())
    }

    async fn admit(&mut self) {
        let chunks = self.some_chunks();
        let asked: Vec<_> = chunks.iter().map(|n| self.id(*n)).collect();
        let admitted = self.scene.store.admit(&asked, self.now_ms).await.unwrap();
        let expected: Vec<_> = chunks.into_iter().filter(|n| self.model.admit(*n, self.now_ms)).collect();
        assert_eq!(admitted, expected.into_iter().map(|n| self.id(n)).collect::<Vec<_>>());
    }

    async fn claim(&mut self) {
        let chunks = self.some_chunks();
        let asked: Vec<_> = chunks.iter().map(|n| (self.id(*n), fresh_token())).collect();
        let leases = self.scene.store.claim(self.scene.session, &asked, self.now_ms).await.unwrap();
        let (owner, now_ms) = (self.scene.session, self.now_ms);
        let tokens = chunks.into_iter().zip(asked);
        let expected: Vec<_> =
            tokens.filter_map(|(n, (_, token))| self.model.claim(n, owner, token, now_ms)).collect();
        assert_eq!(leases.into_iter().map(|lease| lease.head).collect::<Vec<_>>(), expected);
    }

    async fn settle(&mut self) {
        let Some((n, token)) = self.model.leases().choose(&mut self.rng).copied() else {
            return;
        };
        let len = self.model.heads[n].len();
        let token = if self.rng.random_ratio(1, 12) { fresh_token() } else { token };
        self.seq += 1;
        let mut group = SettleGroup {
            chunk: self.id(n),
            token,
            settled: Vec::new(),
            parked: Vec::new(),
            seq: self.seq,
            spent: spent(self.rng.random_range(0..4)),
            release: match self.rng.random_range(0..10) {
                0..6 => Release::Keep,
                6..9 => Release::LetGo,
                _ => Release::ParkUntil(self.now_ms + self.rng.random_range(0..60)),
            },
        };
        for _ in 0..self.rng.random_range(0..=len) {
            let offset = self.rng.random_range(0..len);
            if self.rng.random_ratio(1, 3) {
                group.parked.push(parked(offset, self.now_ms + self.rng.random_range(0..100)));
            } else {
                let codes =
                    [ItemCode::Succeeded, ItemCode::Repaired, FAILED, ItemCode::Failed(FailureKind::Timeout)];
                let code = codes[self.rng.random_range(0..codes.len())];
                group
                    .settled
                    .push((SettledItem { offset, code }, Bytes::from(self.rng.random::<u64>().to_string())));
            }
        }
        self.record(group).await;
    }

    async fn repeat(&mut self) {
        if let Some(group) = self.last.clone() {
            self.record(group).await;
        }
    }

    async fn record(&mut self, group: SettleGroup) {
        let settled = self.scene.store.settle([group.clone()].into(), self.now_ms).await.unwrap();
        assert_eq!(settled, [self.model.settle(&group, self.now_ms)]);
        self.scene.store.order().await.unwrap();
        self.last = Some(group);
    }

    async fn try_item(&mut self) {
        let Some((n, token)) = self.model.leases().choose(&mut self.rng).copied() else {
            return;
        };
        let token = if self.rng.random_ratio(1, 5) { fresh_token() } else { token };
        let offset = self.rng.random_range(0..self.model.heads[n].len());
        let held = self.scene.store.try_item(self.id(n), token, offset, self.now_ms).await.unwrap();
        assert_eq!(held, self.model.heads[n].apply(HeadEvent::Try { token, offset }, self.now_ms).is_ok());
    }

    async fn wake(&mut self) {
        // Chunks that another walk over this store left parked may wake with ours.
        let woken = self.scene.store.wake(1_000, self.now_ms).await.unwrap();
        let woken: BTreeSet<_> = woken.into_iter().filter(|chunk| chunk.batch == self.scene.batch).collect();
        let now_ms = self.now_ms;
        let due = self
            .model
            .heads
            .iter_mut()
            .filter_map(|head| head.apply(HeadEvent::Wake, now_ms).ok().map(|()| head.chunk));
        assert_eq!(woken, due.collect());
    }

    async fn die(&mut self) {
        let owner = self.scene.session;
        let store = self.scene.store;
        self.beat += 1;
        assert!(matches!(store.beat(owner, self.beat, None).await.unwrap(), BeatAnswer::Alive { .. }));
        assert_eq!(store.bury(owner, self.beat - 1, self.now_ms).await.unwrap(), None);
        let taken = store.bury(owner, self.beat, self.now_ms).await.unwrap();
        assert_eq!(taken, Some(self.model.take(&HeadEvent::Revoke { owner }, self.now_ms)));
        self.next_session().await;
    }

    async fn end(&mut self) {
        let owner = self.scene.session;
        let taken = self.scene.store.end(owner, self.now_ms).await.unwrap();
        assert_eq!(taken, self.model.take(&HeadEvent::HandBack { owner }, self.now_ms));
        self.next_session().await;
    }

    async fn next_session(&mut self) {
        let session: SessionId = fresh_session();
        self.scene.store.open(session, "walker").await.unwrap();
        self.scene.session = session;
        self.beat = 0;
    }

    async fn pause_or_resume(&mut self) {
        let event = match self.model.state {
            BatchState::Paused { .. } => BatchEvent::Resume,
            _ if self.rng.random_ratio(1, 3) => BatchEvent::Pause(PauseReason::Requested),
            _ => return,
        };
        self.steer(event).await;
    }

    async fn cancel(&mut self) {
        self.steer(BatchEvent::Cancel).await;
        let limit = self.rng.random_range(1..5);
        self.seal(limit).await;
    }

    async fn seal(&mut self, limit: u32) -> u32 {
        let sealed =
            self.scene.store.seal(&self.scene.tenant, self.scene.batch, limit, self.now_ms).await.unwrap();
        assert_eq!(sealed, self.model.open_chunks().min(limit));
        // Which chunks come first is the store's to choose.
        for n in 0..CHUNKS {
            let head = &mut self.model.heads[n];
            if head.state.is_final() {
                continue;
            }
            let index = head.base + head.len() - 1;
            let limit = PageLimit { items: u32::MAX, bytes: usize::MAX };
            let page = self
                .scene
                .store
                .outcomes(&self.scene.tenant, self.scene.batch, head.base, limit)
                .await
                .unwrap();
            let codes: Vec<_> = page.outcomes.iter().filter(|outcome| outcome.index <= index).collect();
            if codes.len() == head.len() as usize {
                head.apply(HeadEvent::Seal(ItemCode::Cancelled), self.now_ms).unwrap();
            }
        }
        sealed
    }

    async fn steer(&mut self, event: BatchEvent) {
        let answer =
            self.scene.store.steer(&self.scene.tenant, self.scene.batch, event.clone(), self.now_ms).await;
        match self.model.state.decide(&event) {
            Ok(next) => {
                assert_eq!(answer.unwrap(), next);
                self.model.state = next;
            }
            Err(_) => check_conflict(answer),
        }
    }

    async fn check(&self, at: &str) {
        let progress = self.scene.store.progress(&self.scene.tenant, self.scene.batch).await.unwrap();
        assert_eq!(progress.state, self.model.state, "{at}");
        assert_eq!(progress.counts, self.model.counts(), "{at}");
        assert_eq!(progress.open_chunks, self.model.open_chunks(), "{at}");
        let items: u64 = self.model.heads.iter().map(|head| u64::from(head.len())).sum();
        assert_eq!(progress.counts.open() + progress.counts.settled(), items, "{at}");
        assert_eq!(self.scene.outcomes().await.outcomes, self.model.outcomes(), "{at}");
    }

    /// Notes what settled in this step, and now and then reads on in the order.
    async fn follow(&mut self, step: u32) {
        for outcome in self.model.outcomes() {
            self.settled_in.entry(outcome.index).or_insert(step);
        }
        if self.rng.random_ratio(1, 4) {
            self.read_on().await;
        }
    }

    /// Reads one page of the order; answers whether it was the last.
    async fn read_on(&mut self) -> bool {
        let limit = PageLimit { items: self.rng.random_range(1..8), bytes: usize::MAX };
        let (tenant, batch) = (&self.scene.tenant, self.scene.batch);
        let page = self.scene.store.settled(tenant, batch, self.cursor, limit).await.unwrap();
        assert!(page.caught_up || !page.outcomes.is_empty());
        self.cursor = page.next;
        self.seen.extend(page.outcomes.into_iter().map(|(outcome, _)| outcome));
        assert_eq!(page.caught_up, self.seen.len() == self.model.outcomes().len());
        page.caught_up
    }

    /// What the reader saw is every outcome as it is, in the order of the steps.
    async fn check_order(&mut self) {
        while !self.read_on().await {}
        let steps: Vec<_> =
            self.seen.iter().map(|outcome| self.settled_in.get(&outcome.index).copied()).collect();
        let first_unknown = steps.iter().position(Option::is_none).unwrap_or(steps.len());
        assert!(steps[..first_unknown].is_sorted(), "{steps:?}");
        // What settled after the last step comes last.
        assert!(steps[first_unknown..].iter().all(Option::is_none), "{steps:?}");
        let mut seen = self.seen.clone();
        seen.sort_by_key(|outcome| outcome.index);
        assert_eq!(seen, self.model.outcomes());
    }

    async fn finish(mut self) {
        let all_final = self.model.open_chunks() == 0;
        let closed = self.scene.store.close(&self.scene.tenant, self.scene.batch, self.now_ms).await.unwrap();
        assert_eq!(closed.is_some(), all_final);
        if all_final {
            self.model.state = self.model.state.decide(&BatchEvent::Close).unwrap();
        } else {
            self.steer(BatchEvent::Cancel).await;
            while self.seal(5).await > 0 {}
        }
        self.check("at the end").await;
        self.check_order().await;
        let counts = self.scene.store.close(&self.scene.tenant, self.scene.batch, self.now_ms).await.unwrap();
        assert_eq!(counts, Some(self.model.counts()));
    }
}
