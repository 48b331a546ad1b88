//! A batch is made again by the engine's own steps: as a client submitted it, as workers worked on it, and as it was steered.

use bytes::Bytes;
use promptmill_domain::chunk::{ChunkCut, FrozenPart, MAX_CHUNK_ROWS, cut};
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, ChunkId, Event, FailureKind, ItemCode, LeaseToken, Release, SessionId,
    SettledItem, TenantId, Totals, UploadId,
};
use promptmill_ports::{
    Accepted, Created, Delivery, Installation, NewBatch, PartCommit, RowBlock, SettleGroup, Settled,
    StoreError, StoreResult, WholeBatch, Work, flow,
};

use crate::error::ArchiveError;
use crate::record::{BatchRecord, BlockRecord, ChunkRecord, EndRecord, OutcomeRecord, PartRecord};

/// Bytes of blocks or outcomes that are handed to the store at a time.
pub(crate) const BYTES: usize = 8 * 1024 * 1024;
/// Chunks that are worked on at a time.
const CHUNKS: usize = 64;
/// Chunks that are sealed at a time.
const SEALED: u32 = 1_000;

/// What sessions of an import are called.
pub(crate) const LABEL: &str = "import";

/// The session of an import, and the time by its clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Importer {
    /// Who works.
    pub(crate) session: SessionId,
    /// Now, Unix milliseconds.
    pub(crate) now_ms: u64,
}

/// A batch in the making.
pub(crate) struct Replay<'a> {
    store: &'a dyn Installation,
    importer: Importer,
    tenant: TenantId,
    batch: BatchRecord,
    stage: Stage,
    events: Vec<Event>,
    deliveries: Vec<Delivery>,
}

enum Stage {
    /// Nothing of it is in the store. It may become a batch that is accepted whole: these are its rows so far.
    Held(Option<(BlockRecord, Option<PartRecord>)>),
    /// It is a draft; these are its parts, and what comes of the next.
    Draft(Box<Draft>),
    /// It is queued or runs.
    Queued(Box<Submitted>),
}

#[derive(Default)]
struct Draft {
    parts: Vec<FrozenPart>,
    blocks: Vec<BlockRecord>,
    bytes: usize,
    /// Lengths of the blocks of the next part that are in the store.
    put: Vec<u32>,
}

impl Draft {
    fn push(&mut self, block: BlockRecord) {
        self.bytes += block.bytes.len() + block.ids.len();
        self.blocks.push(block);
    }
}

impl BlockRecord {
    /// As number `seq` of its upload.
    pub(crate) fn into_block(self, seq: u32) -> RowBlock {
        let Self { len, bytes, ids } = self;
        RowBlock { seq, len, bytes, ids }
    }
}

/// What is known of the chunks that are worked on.
struct Submitted {
    cuts: Vec<ChunkCut>,
    /// The chunk that the next outcome may be of is this one or later.
    next: usize,
    chunks: Vec<Chunk>,
    bytes: usize,
}

struct Chunk {
    cut: ChunkCut,
    record: ChunkRecord,
    outcomes: Vec<OutcomeRecord>,
    /// Items that have no outcome in the store.
    left: u32,
    /// Its lease, and the last settle of it.
    lease: Option<(LeaseToken, u32)>,
}

impl Chunk {
    fn new(cut: ChunkCut, record: ChunkRecord) -> Self {
        Self { cut, record, outcomes: Vec::new(), left: cut.len, lease: None }
    }

    fn id(&self, batch: BatchId) -> ChunkId {
        ChunkId { batch, n: self.cut.n }
    }

    /// What is to be recorded next of it under its lease; with `more` it goes on.
    fn group(&mut self, batch: BatchId, more: bool) -> Option<SettleGroup> {
        let (token, seq) = self.lease.as_mut()?;
        *seq += 1;
        let (token, seq, base) = (*token, *seq, self.cut.base);
        let settled: Vec<_> = std::mem::take(&mut self.outcomes)
            .into_iter()
            .map(|outcome| {
                let code = ItemCode::from_byte(outcome.code);
                let code = code.unwrap_or(ItemCode::Failed(FailureKind::Internal));
                let item = SettledItem { offset: outcome.index - base, code };
                (item, outcome.body.unwrap_or_default())
            })
            .collect();
        self.left = self.left.saturating_sub(u32::try_from(settled.len()).unwrap_or(u32::MAX));
        Some(SettleGroup {
            chunk: self.id(batch),
            token,
            settled,
            parked: if more { Vec::new() } else { std::mem::take(&mut self.record.parked) },
            seq,
            spent: std::mem::take(&mut self.record.totals),
            release: if more { Release::Keep } else { Release::LetGo },
        })
    }
}

/// Whether it follows from something else than its being recorded.
fn is_made_again(outcome: &OutcomeRecord) -> bool {
    match ItemCode::from_byte(outcome.code) {
        Some(ItemCode::Cancelled | ItemCode::Expired) => true,
        Some(ItemCode::Failed(FailureKind::WorkerKiller)) => outcome.body.is_none(),
        _ => false,
    }
}

impl<'a> Replay<'a> {
    /// Of a batch of which nothing is made yet.
    pub(crate) fn new(
        store: &'a dyn Installation,
        importer: Importer,
        tenant: TenantId,
        batch: BatchRecord,
    ) -> Self {
        let (events, deliveries) = (Vec::new(), Vec::new());
        Self { store, importer, tenant, batch, stage: Stage::Held(None), events, deliveries }
    }

    /// Whose batch.
    pub(crate) const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Which batch.
    pub(crate) const fn id(&self) -> BatchId {
        self.batch.id
    }

    /// Adds a block of the next part.
    pub(crate) async fn block(&mut self, block: BlockRecord) -> Result<(), ArchiveError> {
        if !(1..=MAX_CHUNK_ROWS).contains(&block.len) {
            return Err(self.differs(format!("a block has {} rows", block.len)));
        }
        if let Stage::Held(held @ None) = &mut self.stage {
            *held = Some((block, None));
            return Ok(());
        }
        let draft = self.draft().await?;
        draft.push(block);
        if draft.bytes >= BYTES { self.put_blocks().await } else { Ok(()) }
    }

    /// Makes the blocks so far a part.
    pub(crate) async fn part(&mut self, part: PartRecord) -> Result<(), ArchiveError> {
        if let Stage::Held(Some((_, held @ None))) = &mut self.stage
            && part.part == 0
        {
            *held = Some(part);
            return Ok(());
        }
        self.draft().await?;
        self.commit(part).await
    }

    /// Notes what is known of a chunk whose outcomes follow.
    pub(crate) async fn chunk(&mut self, record: ChunkRecord) -> Result<(), ArchiveError> {
        let at = record.n as usize;
        let work = self.work().await?;
        let Some(cut) = work.cuts.get(at).filter(|_| at >= work.next) else {
            return Err(self.differs(format!("chunk {at} stands where it should not")));
        };
        let len = cut.len;
        let is_of = |offset: u32| offset < len;
        let sensible = record.killers.is_sorted_by(|a, b| a < b)
            && record.killers.iter().all(|offset| is_of(*offset))
            && record.trying.is_none_or(|trying| is_of(trying.offset) && trying.kills == 1)
            && record.kills <= record.most_kills();
        if !sensible {
            return Err(self.differs(format!("the deaths of chunk {at} make no sense")));
        }
        if work.chunks.len() >= CHUNKS || work.bytes >= BYTES {
            self.flush(false).await?;
        }
        let work = self.work().await?;
        work.bytes += record.size();
        work.chunks.push(Chunk::new(work.cuts[at], record));
        work.next = at + 1;
        Ok(())
    }

    /// Adds the next outcome.
    pub(crate) async fn outcome(&mut self, outcome: OutcomeRecord) -> Result<(), ArchiveError> {
        // A cancel or a deadline makes it again, or the deaths that are told with its chunk.
        if is_made_again(&outcome) {
            return Ok(());
        }
        let index = outcome.index;
        let is_of = |cut: &ChunkCut| index >= cut.base && index - cut.base < cut.len;
        let work = self.work().await?;
        if !work.chunks.last().is_some_and(|chunk| is_of(&chunk.cut)) {
            let behind = work.cuts.get(work.next..).and_then(|cuts| cuts.iter().position(is_of));
            let Some(behind) = behind else {
                return Err(self.differs(format!("item {index} stands where it should not")));
            };
            let n = u32::try_from(work.next + behind).unwrap_or(u32::MAX);
            self.chunk(ChunkRecord::of(n)).await?;
        }
        let work = self.work().await?;
        work.bytes += outcome.body.as_ref().map_or(0, Bytes::len);
        if let Some(chunk) = work.chunks.last_mut() {
            chunk.outcomes.push(outcome);
        }
        if work.bytes >= BYTES { self.flush(true).await } else { Ok(()) }
    }

    /// Notes an event that is not handed on.
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Notes a delivery.
    pub(crate) fn delivery(&mut self, delivery: Delivery) {
        self.deliveries.push(delivery);
    }

    /// Removes what was made: the batch is none.
    pub(crate) async fn gone(mut self) -> Result<(), ArchiveError> {
        if matches!(self.stage, Stage::Held(_)) {
            return Ok(());
        }
        if let Stage::Queued(_) = self.stage {
            self.flush(false).await?;
            self.steer(BatchEvent::Cancel).await?;
            self.close(self.importer.now_ms).await?;
        }
        while !self.store.delete(&self.tenant, self.batch.id).await? {}
        Ok(())
    }

    /// Brings the batch to where it stood.
    pub(crate) async fn end(mut self, end: EndRecord) -> Result<(), ArchiveError> {
        match &end.state {
            BatchState::Draft => drop(self.draft().await?),
            BatchState::Submitting => {
                self.draft().await?;
                self.store.begin_submit(&self.tenant, self.batch.id).await?;
            }
            _ => {
                self.work().await?;
                self.flush(false).await?;
                self.steer_to(&end).await?;
            }
        }
        self.store.order().await?;
        self.store.stamp(&self.tenant, self.batch.id, end.ver, &self.events).await?;
        if !self.deliveries.is_empty() {
            self.store.add_deliveries(&self.deliveries).await?;
        }
        let batch = self.store.batch(&self.tenant, self.batch.id).await?;
        if batch.state != end.state {
            let (is, was) = (batch.state.as_str(), end.state.as_str());
            return Err(self.differs(format!("it is {is} and was {was}")));
        }
        if end.counts.is_some() && batch.final_counts != end.counts {
            return Err(self.differs("its counts are others".to_owned()));
        }
        Ok(())
    }

    async fn steer_to(&mut self, end: &EndRecord) -> Result<(), ArchiveError> {
        let finished_ms = end.finished_ms.unwrap_or(self.importer.now_ms);
        match &end.state {
            BatchState::Draft | BatchState::Submitting | BatchState::Queued => Ok(()),
            BatchState::Running => self.run().await,
            BatchState::Paused { reason } => self.steer(BatchEvent::Pause(reason.clone())).await,
            BatchState::Cancelling => self.steer(BatchEvent::Cancel).await,
            BatchState::Expiring => self.steer(BatchEvent::Expire).await,
            BatchState::Completed => self.close(finished_ms).await,
            BatchState::Cancelled => {
                self.steer(BatchEvent::Cancel).await?;
                self.close(finished_ms).await
            }
            BatchState::Expired => {
                self.steer(BatchEvent::Expire).await?;
                self.close(finished_ms).await
            }
        }
    }

    /// Makes a batch of which nothing was worked on one that runs.
    async fn run(&self) -> Result<(), ArchiveError> {
        if self.store.batch(&self.tenant, self.batch.id).await?.state == BatchState::Running {
            return Ok(());
        }
        // Whether or not it waits, its batch runs then.
        self.store.admit(&[ChunkId { batch: self.batch.id, n: 0 }], self.importer.now_ms).await?;
        Ok(())
    }

    async fn steer(&self, event: BatchEvent) -> Result<(), ArchiveError> {
        self.store.steer(&self.tenant, self.batch.id, event, self.importer.now_ms).await?;
        Ok(())
    }

    async fn close(&self, now_ms: u64) -> Result<(), ArchiveError> {
        let (tenant, batch) = (&self.tenant, self.batch.id);
        let state = self.store.batch(tenant, batch).await?.state;
        if state.seals_with().is_some() {
            while self.store.seal(tenant, batch, SEALED, now_ms).await? > 0 {}
        }
        self.store.order().await?;
        match self.store.close(tenant, batch, now_ms).await? {
            Some(_) => Ok(()),
            None => Err(self.differs("not all of its items have an outcome".to_owned())),
        }
    }

    /// The batch as a draft in the store.
    async fn draft(&mut self) -> Result<&mut Draft, ArchiveError> {
        if let Stage::Held(held) = &mut self.stage {
            let held = held.take();
            self.create().await?;
            self.stage = Stage::Draft(Box::default());
            if let Some((block, part)) = held {
                if let Stage::Draft(draft) = &mut self.stage {
                    draft.push(block);
                }
                if let Some(part) = part {
                    self.commit(part).await?;
                }
            }
        }
        match &mut self.stage {
            Stage::Draft(draft) => Ok(draft),
            Stage::Held(_) | Stage::Queued(_) => {
                Err(ArchiveError::Differs(self.batch.id, "rows come after its submit".to_owned()))
            }
        }
    }

    fn new_batch(&self) -> NewBatch {
        NewBatch {
            id: self.batch.id,
            spec: self.batch.spec.clone(),
            limits: self.batch.limits,
            idem_key: self.batch.idem_key.clone(),
            now_ms: self.batch.created_ms,
        }
    }

    async fn create(&self) -> Result<(), ArchiveError> {
        match self.store.create(&self.tenant, self.new_batch()).await? {
            Created::New => Ok(()),
            Created::Existing(_) => Err(self.differs("there is one of its id or key already".to_owned())),
        }
    }

    /// Puts the blocks so far of the next part into the store.
    async fn put_blocks(&mut self) -> Result<(), ArchiveError> {
        let Stage::Draft(draft) = &mut self.stage else { return Ok(()) };
        let upload = upload_of(self.batch.id, draft.parts.len());
        let first = u32::try_from(draft.put.len()).unwrap_or(u32::MAX);
        let blocks: Vec<_> = (first..)
            .zip(std::mem::take(&mut draft.blocks))
            .map(|(seq, block)| block.into_block(seq))
            .collect();
        draft.bytes = 0;
        draft.put.extend(blocks.iter().map(|block| block.len));
        if !blocks.is_empty() {
            let now_ms = self.importer.now_ms;
            self.store.put_rows(&self.tenant, self.batch.id, upload, blocks, now_ms).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, part: PartRecord) -> Result<(), ArchiveError> {
        self.put_blocks().await?;
        let Stage::Draft(draft) = &mut self.stage else { return Ok(()) };
        let upload = upload_of(self.batch.id, draft.parts.len());
        let frozen = FrozenPart { upload, blocks: std::mem::take(&mut draft.put) };
        let blocks = u32::try_from(frozen.blocks.len()).unwrap_or(u32::MAX);
        draft.parts.push(frozen);
        let commit = PartCommit { part: part.part, upload, blocks, digest: part.digest };
        self.store.commit_part(&self.tenant, self.batch.id, commit).await?;
        Ok(())
    }

    /// The batch as one that was submitted.
    async fn work(&mut self) -> Result<&mut Submitted, ArchiveError> {
        if !matches!(self.stage, Stage::Queued(_)) {
            let parts = self.submit().await?;
            let cuts = cut(&parts, self.batch.spec.chunk_rows).collect();
            let work = Submitted { cuts, next: 0, chunks: Vec::new(), bytes: 0 };
            self.stage = Stage::Queued(Box::new(work));
        }
        match &mut self.stage {
            Stage::Queued(work) => Ok(work),
            Stage::Held(_) | Stage::Draft(_) => {
                Err(ArchiveError::Differs(self.batch.id, "it was not submitted".to_owned()))
            }
        }
    }

    async fn submit(&mut self) -> Result<Vec<FrozenPart>, ArchiveError> {
        let Some(submitted_ms) = self.batch.submitted_ms else {
            return Err(self.differs("it does not say when it was submitted".to_owned()));
        };
        let is_whole = submitted_ms == self.batch.created_ms;
        if let Stage::Held(Some((_, Some(_)))) = &self.stage
            && is_whole
        {
            return self.accept().await;
        }
        self.draft().await?;
        let (tenant, batch) = (&self.tenant, self.batch.id);
        flow::submit(self.store, tenant, batch, &self.batch.spec.lane, submitted_ms).await?;
        match &mut self.stage {
            Stage::Draft(draft) => Ok(std::mem::take(&mut draft.parts)),
            Stage::Held(_) | Stage::Queued(_) => Ok(Vec::new()),
        }
    }

    /// Makes the batch as one that was submitted with all of its rows.
    async fn accept(&mut self) -> Result<Vec<FrozenPart>, ArchiveError> {
        let Stage::Held(held) = &mut self.stage else { return Ok(Vec::new()) };
        let Some((block, Some(part))) = held.take() else { return Ok(Vec::new()) };
        let blocks = vec![block.len];
        let whole = WholeBatch { batch: self.new_batch(), rows: block.into_block(0), digest: part.digest };
        let parts = vec![FrozenPart { upload: whole.upload(), blocks }];
        match self.store.accept(&self.tenant, whole).await? {
            Accepted::New(_) => Ok(parts),
            Accepted::Existing(_) => Err(self.differs("there is one of its id or key already".to_owned())),
        }
    }

    /// Records what is known of the chunks so far; with `more` the last of them goes on.
    async fn flush(&mut self, more: bool) -> Result<(), ArchiveError> {
        let batch = self.batch.id;
        let work = self.work().await?;
        work.bytes = 0;
        let is_single = matches!(work.cuts[..], [ChunkCut { len: 1, .. }]);
        let mut chunks = std::mem::take(&mut work.chunks);
        let fresh: Vec<_> =
            chunks.iter().filter(|chunk| chunk.lease.is_none()).map(|chunk| chunk.id(batch)).collect();
        // A single row is leased while it waits.
        if !is_single {
            self.store.admit(&fresh, self.importer.now_ms).await?;
        }
        for chunk in chunks.iter_mut().filter(|chunk| chunk.lease.is_none()) {
            self.kill(chunk).await?;
            // One whose every item killed is done.
            if chunk.left > 0 {
                chunk.lease = Some((self.lease(chunk.id(batch), self.importer.session).await?, 0));
            }
        }
        let last = chunks.len().saturating_sub(1);
        let groups = chunks.iter_mut().enumerate();
        let groups: Vec<_> =
            groups.filter_map(|(at, chunk)| chunk.group(batch, more && at == last)).collect();
        self.settle(groups).await?;
        if more && let Some(last) = chunks.pop().filter(|chunk| chunk.left > 0) {
            self.work().await?.chunks.push(last);
        }
        Ok(())
    }

    async fn settle(&self, groups: Vec<SettleGroup>) -> Result<(), ArchiveError> {
        if groups.is_empty() {
            return Ok(());
        }
        let settled = self.store.settle(groups.into(), self.importer.now_ms).await?;
        if settled.contains(&Settled::Fenced) {
            return Err(ArchiveError::InUse("a chunk was taken from the import".to_owned()));
        }
        Ok(())
    }

    async fn lease(&self, chunk: ChunkId, session: SessionId) -> StoreResult<LeaseToken> {
        let token = LeaseToken::from_bytes(rand::random());
        let chunks = [(chunk, token)];
        let leases = Work::claim(self.store, session, &chunks, self.importer.now_ms).await?;
        match leases.len() {
            1 => Ok(token),
            _ => Err(StoreError::Conflict(format!("chunk {chunk} cannot be leased"))),
        }
    }

    /// Lets as many holders of a chunk die as did, and fails the items that killed them.
    async fn kill(&self, chunk: &mut Chunk) -> Result<(), ArchiveError> {
        let id = chunk.id(self.batch.id);
        let killers = std::mem::take(&mut chunk.record.killers);
        let spent = &mut chunk.record.totals;
        if !killers.is_empty() && *spent != Totals::default() {
            // Afterwards the chunk may be done, and nobody's.
            let token = self.lease(id, self.importer.session).await?;
            let (spent, release) = (std::mem::take(spent), Release::LetGo);
            self.settle(vec![SettleGroup { spent, release, ..first_group(id, token) }]).await?;
        }
        let suspect = chunk.record.trying.map(|trying| trying.offset);
        let alone = killers.iter().flat_map(|offset| [*offset; 2]).chain(suspect).map(Some);
        let alone: Vec<_> = alone.collect();
        let kills = chunk.record.kills as usize;
        let others = std::iter::repeat_n(None, kills.saturating_sub(alone.len()));
        for tried in others.chain(alone) {
            let session = SessionId::at(self.importer.now_ms, rand::random());
            self.store.open(session, LABEL).await?;
            let token = self.lease(id, session).await?;
            if let Some(offset) = tried {
                self.park_suspect(chunk, token, offset).await?;
                self.store.try_item(id, token, offset, self.importer.now_ms).await?;
            }
            self.store.bury(session, 0, self.importer.now_ms).await?;
        }
        chunk.left = chunk.left.saturating_sub(u32::try_from(killers.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Parks the item that is about to be tried, if it is one that waits: whoever parks it later clears it of suspicion.
    async fn park_suspect(
        &self,
        chunk: &mut Chunk,
        token: LeaseToken,
        offset: u32,
    ) -> Result<(), ArchiveError> {
        let Some(at) = chunk.record.parked.iter().position(|item| item.offset == offset) else {
            return Ok(());
        };
        let parked = vec![chunk.record.parked.remove(at)];
        let group = SettleGroup { parked, ..first_group(chunk.id(self.batch.id), token) };
        self.settle(vec![group]).await
    }

    fn differs(&self, how: String) -> ArchiveError {
        ArchiveError::Differs(self.batch.id, how)
    }
}

/// The first group of a lease, which records nothing and goes on.
fn first_group(chunk: ChunkId, token: LeaseToken) -> SettleGroup {
    let (settled, parked) = (Vec::new(), Vec::new());
    SettleGroup { chunk, token, settled, parked, seq: 1, spent: Totals::default(), release: Release::Keep }
}

/// The upload that brings the `n`-th part of a batch.
fn upload_of(batch: BatchId, n: usize) -> UploadId {
    UploadId::from_bytes((u128::from_be_bytes(*batch.as_bytes()) ^ (n as u128 + 1)).to_be_bytes())
}
