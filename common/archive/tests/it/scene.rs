//! An installation in which everything occurs that a store keeps.

use bytes::Bytes;
use promptmill_domain::{
    Attempt, BatchEvent, BatchId, BatchLimits, BatchSpec, BatchState, ChunkId, DeliveryId, Endpoint,
    EndpointId, EndpointSecret, EndpointState, EventKind, Failing, FailureKind, GenerationId, ItemCode,
    KeyId, LaneId, LeaseToken, Money, ParkedItem, Release, ScheduleId, SealedHeaders, SessionId, SettledItem,
    TemplateId, TenantId, Tokens, Totals, UploadId, Webhook, WhyDisabled,
};
use promptmill_ports::{
    ApiKey, Claim, Claims, Delivery, DeliveryAttempt, DeliveryState, Generation, Installation, Lease,
    NewBatch, PartCommit, Role, RowBlock, SettleGroup, Settled, StoredAnswer, Tenant, WholeBatch, Work, flow,
};

mod recurring;

/// When it was made, Unix milliseconds.
pub(crate) const NOW: u64 = 1_790_000_000_000;
/// Bytes of an outcome, four of which are more than is handed to a store at a time.
const LARGE: usize = 5 * 1024 * 1024 / 2;

/// One tenant's part of it in the making.
pub(crate) struct Scene<'a> {
    store: &'a dyn Installation,
    pub(crate) tenant: TenantId,
    pub(crate) batches: Vec<BatchId>,
    pub(crate) generations: Vec<GenerationId>,
    pub(crate) schedules: Vec<ScheduleId>,
    /// How many row sets with a name.
    pub(crate) sets: u64,
    session: SessionId,
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn spent(calls: u64) -> Totals {
    let tokens = Tokens { prompt: 10 * calls, completion: 3 * calls };
    Totals { calls, tokens, cost: Money::from_pico(1_000 * calls), cached: 2 * calls }
}

fn parked(offset: u32, due_ms: u64) -> ParkedItem {
    let attempts = vec![Attempt::default(); 40];
    ParkedItem {
        offset,
        due_ms,
        counted: 2,
        reason: FailureKind::RateLimited,
        begun_ms: NOW,
        attempts,
        cut: spent(1),
    }
}

fn block(seq: u32, len: u32) -> RowBlock {
    let ids = if seq == 0 { Bytes::from(vec![7; len as usize * 8]) } else { Bytes::new() };
    RowBlock { seq, len, bytes: Bytes::from(format!("{len} rows of block {seq}")), ids }
}

fn new_batch(n: u64, webhook: bool) -> NewBatch {
    let id = BatchId::at(NOW + n, rand::random());
    let spec = BatchSpec::new(
        "{\"messages\":[]}".to_owned(),
        "demo:any".parse().unwrap(),
        LaneId::new("demo", "none"),
    );
    let webhook = webhook.then(|| Webhook {
        results: true,
        url: "https://receiver.example/hook".to_owned(),
        sealed_secret: "pmv1.first.AAAA".to_owned(),
    });
    let labels = [("team".to_owned(), "ä".to_owned())].into();
    let spec = BatchSpec {
        webhook,
        labels,
        name: Some(format!("batch {n}")),
        retention_ms: Some(86_400_000),
        ..spec
    };
    let limits = BatchLimits { max_concurrency: Some(4), priority: -3, ..BatchLimits::default() };
    NewBatch { id, spec, limits, idem_key: Some(format!("key {n}")), now_ms: NOW + n }
}

impl<'a> Scene<'a> {
    /// Everything of one tenant, and a little of another; answers the first.
    pub(crate) async fn of(store: &'a dyn Installation) -> Self {
        let mut scene = Self::of_tenant(store, "acme").await;
        scene.records().await;
        scene.drafts().await;
        scene.open_batches().await;
        scene.ended_batches().await;
        scene.large_outcomes().await;
        scene.endpoints().await;
        scene.recurring().await;
        Self::small(store).await;
        scene
    }

    /// A little of a tenant.
    pub(crate) async fn small(store: &'a dyn Installation) -> Self {
        let mut scene = Self::of_tenant(store, "zeta").await;
        scene.records().await;
        scene.drafts().await;
        scene.row_set(&[1]).await;
        scene.schedule(Some(NOW + 5)).await;
        scene
    }

    /// Nothing of a tenant but its records and what recurs.
    pub(crate) async fn recurring_only(store: &'a dyn Installation) -> Self {
        let mut scene = Self::of_tenant(store, "acme").await;
        scene.records().await;
        scene.recurring().await;
        scene
    }

    /// Two of the tenant, one of them switched off.
    async fn endpoints(&mut self) {
        for (n, state) in [
            (0, EndpointState::Enabled),
            (1, EndpointState::Disabled { why: WhyDisabled::Failing, at_ms: NOW + 3 }),
        ] {
            let secret = |until_ms| EndpointSecret {
                sealed: "pmv1.third.AAAA".to_owned(),
                public_key: None,
                until_ms,
                request: None,
            };
            let endpoint = Endpoint {
                id: EndpointId::at(NOW + n, rand::random()),
                tenant: self.tenant.clone(),
                url: "https://receiver.example/hook".to_owned(),
                description: Some("billing, Zürich".to_owned()),
                kinds: vec![EventKind::BatchPaused],
                secrets: vec![secret(None), secret(Some(NOW + 9))],
                headers: (n == 0).then(|| SealedHeaders {
                    names: vec!["x-tenant".to_owned()],
                    sealed: "pmv1.fourth.AAAA".to_owned(),
                }),
                email: Some("ops@example.com".to_owned()),
                results: true,
                max_per_second: Some(7),
                state,
                failing: Some(Failing { since_ms: NOW, last_ms: NOW }),
                created_ms: NOW + n,
                since_ms: NOW + n,
                ver: 1,
            };
            assert!(self.store.put_endpoint(&endpoint).await.unwrap());
            // What it is after a change is what moves, not how often it was changed.
            assert!(self.store.put_endpoint(&Endpoint { ver: 2, ..endpoint }).await.unwrap());
        }
    }

    async fn of_tenant(store: &'a dyn Installation, name: &str) -> Self {
        let tenant = tenant(name);
        store.add_tenant(&Tenant { id: tenant.clone(), created_ms: NOW }).await.unwrap();
        let session = SessionId::at(NOW, rand::random());
        store.open(session, "worker").await.unwrap();
        let (batches, generations, schedules) = (Vec::new(), Vec::new(), Vec::new());
        Self { store, tenant, batches, generations, schedules, sets: 0, session }
    }

    async fn records(&mut self) {
        for (n, revoked_ms) in [(0, None), (1, Some(NOW + 5))] {
            let key = ApiKey {
                id: KeyId::at(NOW + n, rand::random()),
                tenant: self.tenant.clone(),
                name: "nightly, Zürich".to_owned(),
                role: Role::Admin,
                scopes: vec!["batches:read".to_owned()],
                hash: rand::random(),
                hint: "x4Zq".to_owned(),
                created_ms: NOW + n,
                expires_ms: Some(NOW + 1_000_000),
                revoked_ms,
                used_ms: Some(NOW + 7),
            };
            self.store.add_key(&key).await.unwrap();
        }
        for name in ["first", "second"] {
            let id = TemplateId::at(NOW, rand::random());
            self.store.add_template(&self.tenant, id, name, "{\"v\":1}", NOW).await.unwrap();
            self.store.add_version(&self.tenant, id, 1, "{\"v\":\"ä\"}", NOW + 10).await.unwrap();
            self.store.add_version(&self.tenant, id, 2, "{\"v\":3}", NOW + 20).await.unwrap();
            self.store.put_label(&self.tenant, id, "staging", 3, NOW + 30).await.unwrap();
            self.store.put_label(&self.tenant, id, "production", 1, NOW + 25).await.unwrap();
        }
        for key in ["POST /v1/batches a", "POST /v1/batches b"] {
            let claim = Claim {
                tenant: self.tenant.clone(),
                key: key.to_owned(),
                fingerprint: rand::random(),
                plan: rand::random(),
                owner: rand::random(),
            };
            Claims::claim(self.store, &claim, NOW + 3).await.unwrap();
            if key.ends_with('a') {
                let headers = vec![("location".to_owned(), "/v1/batches/1".to_owned())];
                let body = Bytes::from_static(b"pmv1.answers.AAAA");
                let answer = StoredAnswer { status: 201, headers, body };
                self.store.answer(&self.tenant, key, &answer).await.unwrap();
            }
        }
        for outcome in [Some(Bytes::from_static(b"the outcome")), None] {
            let id = GenerationId::at(NOW, rand::random());
            self.generations.push(id);
            let generation = Generation {
                id,
                tenant: self.tenant.clone(),
                request: Bytes::from_static(b"{}"),
                outcome,
                created_ms: NOW + 1,
                owner: self.session,
            };
            self.store.put_generation(&generation).await.unwrap();
        }
    }

    fn new_batch(&mut self, webhook: bool) -> NewBatch {
        let new = new_batch(self.batches.len() as u64, webhook);
        self.batches.push(new.id);
        new
    }

    /// A draft whose parts have these blocks.
    async fn draft(&mut self, webhook: bool, parts: &[&[u32]]) -> BatchId {
        let new = self.new_batch(webhook);
        let id = new.id;
        self.store.create(&self.tenant, new).await.unwrap();
        for (lens, number) in parts.iter().zip([0, 3, 4]) {
            let upload = UploadId::at(NOW, rand::random());
            let blocks: Vec<_> = (0..).zip(*lens).map(|(seq, len)| block(seq, *len)).collect();
            let count = u32::try_from(blocks.len()).unwrap();
            self.store.put_rows(&self.tenant, id, upload, blocks, NOW).await.unwrap();
            let part = PartCommit { part: number, upload, blocks: count, digest: [9; 32] };
            self.store.commit_part(&self.tenant, id, part).await.unwrap();
        }
        id
    }

    /// A queued batch.
    async fn queued(&mut self, webhook: bool, parts: &[&[u32]]) -> BatchId {
        let id = self.draft(webhook, parts).await;
        let lane = LaneId::new("demo", "none");
        flow::submit(self.store, &self.tenant, id, &lane, NOW + 1_000).await.unwrap();
        id
    }

    /// A batch that was accepted with its rows.
    async fn accepted(&mut self, len: u32) -> BatchId {
        let batch = self.new_batch(true);
        let id = batch.id;
        let whole = WholeBatch { batch, rows: block(0, len), digest: [5; 32] };
        self.store.accept(&self.tenant, whole).await.unwrap();
        id
    }

    async fn drafts(&mut self) {
        self.draft(false, &[]).await;
        self.draft(true, &[&[256, 10], &[1]]).await;
        let submitting = self.draft(false, &[&[3]]).await;
        self.store.begin_submit(&self.tenant, submitting).await.unwrap();
    }

    async fn open_batches(&mut self) {
        self.queued(false, &[&[256, 256, 7], &[256], &[1]]).await;
        self.accepted(1).await;
        self.accepted(20).await;

        // Some of it is done, a chunk is in somebody's hands, and one waits.
        let running = self.queued(true, &[&[256; 40]]).await;
        self.work(running, 0, 0..100, &[]).await;
        self.work(running, 1, 0..256, &[]).await;
        self.work(running, 5, 3..9, &[parked(0, NOW + 1), parked(200, u64::MAX >> 2)]).await;
        self.lease(running, 7, self.session).await;

        let only_admitted = self.queued(false, &[&[256; 2]]).await;
        self.store.admit(&[ChunkId { batch: only_admitted, n: 1 }], NOW).await.unwrap();

        let small = self.accepted(8).await;
        self.work(small, 3, 0..1, &[]).await;

        // A single row that nobody admitted, one that was and waits, and one that is done and whose batch nobody closed yet.
        let single = self.accepted(1).await;
        let lease = self.take(single, 0, self.session).await;
        self.settle(&lease, [], &[parked(0, NOW + 1_000_000)], 1, Release::LetGo).await;
        let admitted = self.accepted(1).await;
        let lease = self.lease(admitted, 0, self.session).await;
        self.settle(&lease, [], &[parked(0, NOW + 1_000_000)], 1, Release::LetGo).await;
        let done = self.accepted(1).await;
        self.work(done, 0, 0..1, &[]).await;

        let paused = self.queued(true, &[&[100]]).await;
        self.work(paused, 2, 0..2, &[]).await;
        for event in [
            BatchEvent::Pause(promptmill_domain::batch::PauseReason::Budget),
            BatchEvent::Resume,
            BatchEvent::Pause(promptmill_domain::batch::PauseReason::Requested),
        ] {
            self.store.steer(&self.tenant, paused, event, NOW + 50).await.unwrap();
        }

        // Two died while one item was tried, which failed of it, and one while another was, which is a suspect; and waited before.
        let killing = self.queued(false, &[&[40]]).await;
        for tried in [None, None, Some(1), Some(1), Some(0)] {
            let session = SessionId::at(NOW, rand::random());
            self.store.open(session, "worker").await.unwrap();
            let lease = self.lease(killing, 0, session).await;
            let waited: &[ParkedItem] = if tried == Some(0) { &[parked(0, NOW)] } else { &[] };
            self.settle(&lease, [], waited, 1, Release::Keep).await;
            if let Some(offset) = tried {
                let (chunk, token) = (lease.head.chunk, lease.token);
                assert!(self.store.try_item(chunk, token, offset, NOW).await.unwrap());
            }
            self.store.bury(session, 0, NOW).await.unwrap();
        }

        let cancelling = self.queued(false, &[&[256; 3]]).await;
        self.work(cancelling, 0, 0..5, &[]).await;
        self.store.steer(&self.tenant, cancelling, BatchEvent::Cancel, NOW).await.unwrap();
        self.store.seal(&self.tenant, cancelling, 1, NOW).await.unwrap();
    }

    async fn ended_batches(&mut self) {
        let completed = self.queued(true, &[&[5]]).await;
        for n in 0..5 {
            self.work(completed, n, 0..1, &[]).await;
        }
        self.close(completed, NOW + 9_000).await;
        self.hand_on(completed).await;

        let single = self.accepted(1).await;
        let lease = self.take(single, 0, self.session).await;
        self.settle(&lease, [(0, 10)], &[], 1, Release::LetGo).await;
        self.close(single, NOW + 9_001).await;

        for event in [BatchEvent::Cancel, BatchEvent::Expire] {
            let ended = self.queued(true, &[&[70]]).await;
            self.work(ended, 4, 0..2, &[parked(1, NOW)]).await;
            self.store.steer(&self.tenant, ended, event, NOW).await.unwrap();
            while self.store.seal(&self.tenant, ended, 1_000, NOW).await.unwrap() > 0 {}
            self.close(ended, NOW + 9_002).await;
        }

        // A chunk of two, each of which killed.
        let killed = self.queued(false, &[&[34]]).await;
        for tried in [0, 0, 1, 1] {
            let session = SessionId::at(NOW, rand::random());
            self.store.open(session, "worker").await.unwrap();
            let lease = self.lease(killed, 0, session).await;
            self.settle(&lease, [], &[], 2, Release::Keep).await;
            self.store.try_item(lease.head.chunk, lease.token, tried, NOW).await.unwrap();
            self.store.bury(session, 0, NOW).await.unwrap();
        }
        for n in 1..17 {
            self.work(killed, n, 0..2, &[]).await;
        }
        self.close(killed, NOW + 9_003).await;
    }

    /// A chunk whose outcomes are handed to a store in more than one step, and whose last item killed its workers.
    async fn large_outcomes(&mut self) {
        let large = self.queued(false, &[&[256]]).await;
        for _ in 0..2 {
            let session = SessionId::at(NOW, rand::random());
            self.store.open(session, "worker").await.unwrap();
            let lease = self.lease(large, 3, session).await;
            self.store.try_item(lease.head.chunk, lease.token, 7, NOW).await.unwrap();
            self.store.bury(session, 0, NOW).await.unwrap();
        }
        let lease = self.lease(large, 3, self.session).await;
        let all: Vec<_> = (0..7).map(|offset| (offset, if offset > 2 { LARGE } else { 9 })).collect();
        self.settle(&lease, all, &[], 8, Release::LetGo).await;
    }

    async fn close(&self, batch: BatchId, now_ms: u64) {
        self.store.order().await.unwrap();
        assert!(self.store.close(&self.tenant, batch, now_ms).await.unwrap().is_some());
    }

    /// Makes the events of the batch deliveries, of which one was tried.
    async fn hand_on(&self, batch: BatchId) {
        for event in self.store.beside(&self.tenant, batch).await.unwrap().events {
            let attempt =
                DeliveryAttempt { at_ms: NOW, duration_ms: 8, status: Some(503), error: None, answer: None };
            let delivery = Delivery {
                id: DeliveryId::to_batch_webhook(event.id),
                tenant: self.tenant.clone(),
                batch: Some(batch),
                event: event.id,
                kind: event.kind,
                url: "https://receiver.example/hook".to_owned(),
                sealed_secret: "pmv1.second.AAAA".to_owned(),
                endpoint: Some(EndpointId::at(NOW, [7; 10])),
                body: Bytes::from_static(b"{}"),
                state: DeliveryState::Pending,
                due_ms: NOW + 99,
                attempts: vec![attempt],
                created_ms: NOW + 98,
            };
            self.store.add_deliveries(&[delivery]).await.unwrap();
            self.store.handed_on(&[event.id]).await.unwrap();
        }
    }

    /// Admits a chunk and leases it.
    async fn lease(&self, batch: BatchId, n: u32, session: SessionId) -> Lease {
        self.store.admit(&[ChunkId { batch, n }], NOW).await.unwrap();
        self.take(batch, n, session).await
    }

    async fn take(&self, batch: BatchId, n: u32, session: SessionId) -> Lease {
        let chunk = [(ChunkId { batch, n }, LeaseToken::from_bytes(rand::random()))];
        Work::claim(self.store, session, &chunk, NOW).await.unwrap().remove(0)
    }

    /// Settles these offsets of a chunk and parks those items.
    async fn work(&self, batch: BatchId, n: u32, offsets: std::ops::Range<u32>, parked: &[ParkedItem]) {
        let lease = self.lease(batch, n, self.session).await;
        let calls = u64::from(offsets.end - offsets.start);
        let settled: Vec<_> = offsets.map(|offset| (offset, 20 + offset as usize)).collect();
        self.settle(&lease, settled, parked, calls, Release::LetGo).await;
    }

    async fn settle(
        &self,
        lease: &Lease,
        settled: impl IntoIterator<Item = (u32, usize)>,
        parked: &[ParkedItem],
        calls: u64,
        release: Release,
    ) {
        let codes = [ItemCode::Succeeded, ItemCode::Repaired, ItemCode::Failed(FailureKind::InvalidOutput)];
        let settled = settled.into_iter().map(|(offset, bytes)| {
            let code = codes[offset as usize % codes.len()];
            let mut body = vec![0; bytes];
            rand::fill(&mut body[..]);
            (SettledItem { offset, code }, body.into())
        });
        let group = SettleGroup {
            chunk: lease.head.chunk,
            token: lease.token,
            settled: settled.collect(),
            parked: parked.to_vec(),
            seq: 1,
            spent: spent(calls),
            release,
        };
        let recorded = self.store.settle([group].into(), NOW).await.unwrap();
        assert!(matches!(recorded[0], Settled::Recorded { .. }));
        self.store.order().await.unwrap();
    }
}

/// What everyone can see of a batch.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    batch: promptmill_domain::Batch,
    counts: promptmill_domain::Counts,
    outcomes: Vec<promptmill_ports::StoredOutcome>,
    parts: Vec<promptmill_ports::Part>,
    blocks: Vec<promptmill_ports::BlockIds>,
    rows: Vec<Bytes>,
    beside: promptmill_ports::Beside,
    deliveries: Vec<Delivery>,
    suspects: Vec<(u32, u32, Option<promptmill_domain::head::Trying>, Vec<ParkedItem>)>,
}

/// What everyone can see of a batch, but for who has what in hand.
pub(crate) async fn see(store: &dyn Installation, tenant: &TenantId, batch: BatchId) -> Seen {
    let all = promptmill_ports::PageLimit { items: u32::MAX, bytes: usize::MAX };
    let mut outcomes = store.outcomes(tenant, batch, 0, all).await.unwrap().outcomes;
    let seen = store.batch(tenant, batch).await.unwrap();
    if !seen.state.is_final() {
        outcomes.retain(|outcome| !matches!(outcome.code, ItemCode::Cancelled | ItemCode::Expired));
    }
    let blocks = store.block_ids(tenant, batch, None, u32::MAX).await.unwrap();
    let mut rows = Vec::new();
    for block in &blocks {
        rows.push(store.block(tenant, batch, block.part, block.seq).await.unwrap());
    }
    let mut counts = store.progress(tenant, batch).await.unwrap().counts;
    // Nobody works on an installation that was just moved, and what was sealed in the midst of a cancel is open again.
    counts.waiting += std::mem::take(&mut counts.leased) + std::mem::take(&mut counts.parked);
    if seen.state == BatchState::Cancelling {
        counts.waiting += std::mem::take(&mut counts.cancelled);
    }
    let heads = store.heads(tenant, batch, None, u32::MAX).await.unwrap();
    let suspects = heads
        .into_iter()
        .filter(|head| head.kills > 0 || !head.parked.is_empty())
        .map(|head| (head.chunk.n, head.kills, head.trying, head.parked))
        .collect();
    Seen {
        batch: seen,
        counts,
        outcomes,
        parts: store.parts(tenant, batch).await.unwrap(),
        blocks,
        rows,
        beside: store.beside(tenant, batch).await.unwrap(),
        deliveries: store.deliveries(tenant, batch, 100).await.unwrap(),
        suspects,
    }
}
