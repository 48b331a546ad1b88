//! From a store to an archive.
//!
//! What is read of a batch holds together while the installation works: its state is read first, so one that was final then is all there. Of a
//! chunk the outcomes are those that one version of its head names, whose bodies never change. Its events are read before its
//! deliveries, which they become; of both, what tells of a later change of the batch is left out. How what recurs is read is told in
//! [`recurring`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use promptmill_domain::{
    Batch, BatchId, BatchState, Endpoint, FailureKind, Head, ItemCode, Milestone, TemplateId, TenantId,
};
use promptmill_ports::{
    BatchFilter, BlockIds, Delivery, Installation, PageLimit, Part, StoreError, StoreResult, StoredOutcome,
    StoredTemplate, TemplateKey, TemplateLabel,
};
use sha2::{Digest as _, Sha256};

use crate::error::ArchiveError;
use crate::lines::Sink;
use crate::record::{
    AnswerRecord, BatchRecord, BlockRecord, ChunkRecord, ClaimRecord, DeliveryRecord, EndRecord,
    GenerationRecord, KeyRecord, LabelRecord, OutcomeRecord, PartRecord, Record, TemplateRecord,
    TenantRecord, VersionRecord,
};

mod recurring;

/// How much is read at a time.
const PAGE: PageLimit = PageLimit { items: 256, bytes: 8 * 1024 * 1024 };
/// Heads read at a time. One may have 256 parked items, each with its history.
const HEADS: u32 = 16;
/// How often a draft is read anew when its parts change meanwhile, and what recurs when its rows do.
const TRIES: u32 = 32;
/// Deliveries of one batch; it has one for each of its events.
const DELIVERIES: u32 = 100_000;

/// Which tenants an export takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// These.
    Tenants(Vec<TenantId>),
}

/// Writes what the store holds of these tenants. Changes nothing, and may run while the installation works.
///
/// # Errors
/// When the store or what it is written to fails, or a tenant that is named is not there.
#[expect(private_bounds, reason = "a writer of archives is the only public one")]
pub async fn export(
    store: &dyn Installation,
    scope: &Scope,
    out: &mut impl Sink,
) -> Result<(), ArchiveError> {
    let mut tenants = store.tenants().await?;
    if tenants.is_empty() {
        return Err(ArchiveError::Empty);
    }
    tenants.sort_by(|a, b| a.id.cmp(&b.id));
    if let Scope::Tenants(wanted) = scope {
        let missing = wanted.iter().find(|id| tenants.iter().all(|tenant| tenant.id != **id));
        if let Some(id) = missing {
            return Err(ArchiveError::NoTenant(id.clone()));
        }
        tenants.retain(|tenant| wanted.contains(&tenant.id));
    }
    for tenant in tenants {
        out.put(&Record::Tenant(TenantRecord { id: tenant.id.clone(), created_ms: tenant.created_ms }))?;
        let mut export = Export { store, tenant: &tenant.id, templates: HashMap::new(), out };
        export.keys().await?;
        export.templates().await?;
        export.claims().await?;
        export.generations().await?;
        export.schedules().await?;
        export.row_sets().await?;
        export.batches().await?;
        export.endpoints().await?;
    }
    Ok(())
}

struct Export<'a, S> {
    store: &'a dyn Installation,
    tenant: &'a TenantId,
    /// Those that were told, with their labels.
    templates: HashMap<TemplateId, HashSet<String>>,
    out: &'a mut S,
}

impl<S: Sink> Export<'_, S> {
    async fn keys(&mut self) -> Result<(), ArchiveError> {
        for key in self.store.keys(self.tenant).await? {
            self.out.put(&Record::Key(KeyRecord {
                id: key.id,
                name: key.name,
                role: key.role,
                scopes: key.scopes,
                hash: key.hash,
                hint: key.hint,
                created_ms: key.created_ms,
                expires_ms: key.expires_ms,
                revoked_ms: key.revoked_ms,
                used_ms: key.used_ms,
            }))?;
        }
        Ok(())
    }

    async fn endpoints(&mut self) -> Result<(), ArchiveError> {
        for endpoint in self.store.endpoints(self.tenant).await? {
            self.out.put(&Record::Endpoint(Box::new(Endpoint { ver: 1, ..endpoint })))?;
        }
        Ok(())
    }

    async fn templates(&mut self) -> Result<(), ArchiveError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.templates(self.tenant, after.as_deref(), PAGE.items).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.name.clone());
            for template in page {
                self.template(&template.name).await?;
            }
        }
    }

    async fn template(&mut self, name: &str) -> Result<(), ArchiveError> {
        // One that was deleted since it was listed is none.
        let template = async |key| there(self.store.template(self.tenant, &key).await);
        let labels = async |id| there(self.store.labels(self.tenant, id).await);
        let Some((template, labels)) = with_labels(name, template, labels).await? else { return Ok(()) };
        let mut versions = Vec::new();
        for version in 1..=template.latest {
            match there(self.store.version(self.tenant, template.id, Some(version)).await)? {
                Some(version) => versions.push(version),
                None => return Ok(()),
            }
        }
        let names = labels.iter().map(|label| label.label.clone()).collect();
        self.templates.insert(template.id, names);
        self.out.put(&Record::Template(TemplateRecord { id: template.id, name: template.name }))?;
        for version in versions {
            let (source, created_ms) = (version.source, version.created_ms);
            self.out.put(&Record::Version(VersionRecord { source, created_ms }))?;
        }
        for TemplateLabel { label, version, changed_ms } in labels {
            self.out.put(&Record::Label(LabelRecord { label, version, changed_ms }))?;
        }
        Ok(())
    }

    async fn claims(&mut self) -> Result<(), ArchiveError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.claims(self.tenant, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.claim.key.clone());
            for kept in page {
                let answer = kept.answer.map(|answer| AnswerRecord {
                    status: answer.status,
                    headers: answer.headers,
                    body: answer.body,
                });
                self.out.put(&Record::Claim(ClaimRecord {
                    key: kept.claim.key,
                    created_ms: kept.created_ms,
                    fingerprint: kept.claim.fingerprint,
                    plan: kept.claim.plan,
                    owner: kept.claim.owner,
                    answer,
                }))?;
            }
        }
    }

    async fn generations(&mut self) -> Result<(), ArchiveError> {
        let mut after = None;
        loop {
            let page = self.store.generations(self.tenant, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for generation in page {
                self.out.put(&Record::Generation(GenerationRecord {
                    id: generation.id,
                    created_ms: generation.created_ms,
                    request: generation.request,
                    outcome: generation.outcome,
                }))?;
            }
        }
    }

    async fn batches(&mut self) -> Result<(), ArchiveError> {
        let mut before = None;
        loop {
            let page = self.store.batches(self.tenant, &BatchFilter::default(), before, PAGE).await?.batches;
            let Some(last) = page.last() else { return Ok(()) };
            before = Some(last.id);
            for listed in page {
                self.batch(listed.id).await?;
            }
        }
    }

    /// Writes a batch. One that is deleted meanwhile ends as gone, and a draft whose parts change begins anew.
    async fn batch(&mut self, id: BatchId) -> Result<(), ArchiveError> {
        for _ in 0..TRIES {
            // It may have ended since it was listed.
            let Some(batch) = there(self.store.batch(self.tenant, id).await)? else { return Ok(()) };
            let Some(beside) = there(self.store.beside(self.tenant, id).await)? else { return Ok(()) };
            // The first release did not write down when; what is past its submit was submitted.
            let is_submitted = !is_unsubmitted(&batch.state);
            self.out.put(&Record::Batch(Box::new(BatchRecord {
                id,
                created_ms: batch.created_ms,
                submitted_ms: batch.submitted_ms.or(is_submitted.then_some(batch.created_ms)),
                idem_key: beside.idem_key,
                spec: batch.spec.clone(),
                limits: batch.limits,
            })))?;
            match self.rest(&batch).await {
                Ok(Told::Whole) => return Ok(()),
                Ok(Told::Torn) | Err(ArchiveError::Store(StoreError::NotFound)) => {}
                // What is being deleted may look damaged.
                Err(ArchiveError::Store(corrupt @ StoreError::Corrupt(_))) => {
                    if there(self.store.batch(self.tenant, id).await)?.is_some() {
                        return Err(corrupt.into());
                    }
                }
                Err(error) => return Err(error),
            }
            self.out.put(&Record::Gone)?;
        }
        Err(StoreError::unavailable("the parts of a draft change all the time").into())
    }

    async fn rest(&mut self, batch: &Batch) -> Result<Told, ArchiveError> {
        let told = self.rows(batch.id).await?;
        // Only a draft's can change. Parts that came meanwhile are not told.
        if batch.state == BatchState::Draft && self.layout(batch.id, &told.numbers).await? != told {
            return Ok(Told::Torn);
        }
        // What a draft became meanwhile is not what it was.
        let was_worked_on = !is_unsubmitted(&batch.state) && self.chunks(batch).await?;
        for event in self.store.beside(self.tenant, batch.id).await?.events {
            if event.ver <= batch.ver {
                self.out.put(&Record::Event(Box::new(event)))?;
            }
        }
        let mut deliveries = self.store.deliveries(self.tenant, batch.id, DELIVERIES).await?;
        deliveries.sort_by_key(|delivery| (delivery.created_ms, delivery.id));
        for delivery in deliveries {
            let is_told = |ver| ver <= batch.ver || ver >= Milestone::FIRST_VER;
            if delivery.event.ver_in(batch.id).is_none_or(is_told) {
                self.out.put(&Record::Delivery(Box::new(delivery_record(delivery))))?;
            }
        }
        // That it is gone may show in an empty answer only.
        self.store.beside(self.tenant, batch.id).await?;
        let state = match &batch.state {
            // What was worked on before its batch was said to run.
            BatchState::Queued if was_worked_on && batch.total > 1 => BatchState::Running,
            state => state.clone(),
        };
        self.out.put(&Record::End(Box::new(EndRecord {
            state,
            ver: batch.ver,
            finished_ms: batch.finished_ms,
            counts: batch.final_counts.clone(),
        })))?;
        Ok(Told::Whole)
    }

    /// Writes the rows; answers their layout as they were read.
    async fn rows(&mut self, batch: BatchId) -> Result<Layout, ArchiveError> {
        let parts = self.store.parts(self.tenant, batch).await?;
        let mut layout = Layout::of(parts.iter().map(|part| part.part).collect());
        let mut after = None;
        let mut blocks = self.store.block_ids(self.tenant, batch, after, PAGE.items).await?.into_iter();
        let mut next = blocks.next();
        for part in parts {
            while let Some(block) = next.take_if(|block| block.part <= part.part) {
                after = Some((block.part, block.seq));
                if block.part == part.part {
                    layout.block(&block);
                    let bytes = self.store.block(self.tenant, batch, block.part, block.seq).await?;
                    self.out.put(&Record::Block(BlockRecord { len: block.len, bytes, ids: block.ids }))?;
                }
                next = blocks.next();
                if next.is_none() {
                    blocks = self.store.block_ids(self.tenant, batch, after, PAGE.items).await?.into_iter();
                    next = blocks.next();
                }
            }
            layout.part(&part);
            let (part, digest, rows) = (part.part, part.digest, part.rows);
            self.out.put(&Record::Part(PartRecord { part, digest, rows }))?;
        }
        Ok(layout)
    }

    /// The layout of the rows of these parts as it is now.
    async fn layout(&self, batch: BatchId, numbers: &BTreeSet<u32>) -> Result<Layout, ArchiveError> {
        let mut layout = Layout::of(numbers.clone());
        for part in self.store.parts(self.tenant, batch).await? {
            layout.part(&part);
        }
        let mut after = None;
        loop {
            let blocks = self.store.block_ids(self.tenant, batch, after, PAGE.items).await?;
            let Some(last) = blocks.last() else { return Ok(layout) };
            after = Some((last.part, last.seq));
            blocks.iter().for_each(|block| layout.block(block));
        }
    }

    /// Writes chunks and outcomes; answers whether there was anything to write.
    async fn chunks(&mut self, batch: &Batch) -> Result<bool, ArchiveError> {
        let (mut after, mut any) = (None, false);
        let mut bodies =
            Bodies { store: self.store, tenant: self.tenant, batch: batch.id, page: VecDeque::new() };
        loop {
            let heads = self.store.heads(self.tenant, batch.id, after, HEADS).await?;
            let Some(last) = heads.last() else { return Ok(any) };
            after = Some(last.chunk.n);
            for head in heads {
                if let Some(chunk) = chunk_record(&head) {
                    self.out.put(&Record::Chunk(Box::new(chunk)))?;
                    any = true;
                }
                for (index, code) in (head.base..).zip(&head.done) {
                    let body = match ItemCode::from_byte(*code) {
                        Some(ItemCode::Open) => continue,
                        // What a cancel or a deadline closed has no body, and stays to be closed in a batch that is not final.
                        Some(ItemCode::Cancelled | ItemCode::Expired) if !batch.state.is_final() => continue,
                        Some(ItemCode::Cancelled | ItemCode::Expired) => None,
                        _ => bodies.of(index).await?,
                    };
                    any = true;
                    self.out.put(&Record::Outcome(OutcomeRecord { index, code: *code, body }))?;
                }
            }
        }
    }
}

/// A template and its labels, each of which is on a version that it has: versions come and do not go, so they are read behind the labels.
async fn with_labels(
    name: &str,
    template: impl AsyncFn(TemplateKey) -> StoreResult<Option<StoredTemplate>>,
    labels: impl AsyncFn(TemplateId) -> StoreResult<Option<Vec<TemplateLabel>>>,
) -> StoreResult<Option<(StoredTemplate, Vec<TemplateLabel>)>> {
    let Some(StoredTemplate { id, .. }) = template(TemplateKey::Name(name.to_owned())).await? else {
        return Ok(None);
    };
    let Some(labels) = labels(id).await? else { return Ok(None) };
    Ok(template(TemplateKey::Id(id)).await?.map(|template| (template, labels)))
}

/// The bodies of a batch's outcomes, read in the order of their items.
struct Bodies<'a> {
    store: &'a dyn Installation,
    tenant: &'a TenantId,
    batch: BatchId,
    /// Those that were read and not asked for yet.
    page: VecDeque<StoredOutcome>,
}

impl Bodies<'_> {
    /// That of an item that has its outcome; items are asked for in their order.
    async fn of(&mut self, index: u32) -> Result<Option<Bytes>, ArchiveError> {
        while self.page.front().is_some_and(|outcome| outcome.index < index) {
            self.page.pop_front();
        }
        // One that settled since the page was read is not on it.
        if self.page.front().is_none_or(|outcome| outcome.index != index) {
            self.page = self.store.outcomes(self.tenant, self.batch, index, PAGE).await?.outcomes.into();
        }
        match self.page.pop_front() {
            Some(outcome) if outcome.index == index => Ok(outcome.body),
            _ => Err(missing(self.store.batch(self.tenant, self.batch).await)),
        }
    }
}

/// What became of the telling of a batch, a schedule or a row set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// All of it is told, as it was.
    Whole,
    /// What it is made of changed meanwhile.
    Torn,
}

/// Digests of some parts and of their blocks, to see whether they changed.
#[derive(Debug, Clone, Default)]
struct Layout {
    numbers: BTreeSet<u32>,
    parts: Sha256,
    blocks: Sha256,
}

impl Layout {
    /// Of the parts of these numbers; others do not count.
    fn of(numbers: BTreeSet<u32>) -> Self {
        Self { numbers, ..Self::default() }
    }

    fn part(&mut self, part: &Part) {
        if !self.numbers.contains(&part.part) {
            return;
        }
        self.parts.update(part.part.to_le_bytes());
        self.parts.update(part.rows.to_le_bytes());
        self.parts.update(part.digest);
    }

    fn block(&mut self, block: &BlockIds) {
        if !self.numbers.contains(&block.part) {
            return;
        }
        for number in [block.part, block.seq, block.len] {
            self.blocks.update(number.to_le_bytes());
        }
        self.blocks.update((block.ids.len() as u64).to_le_bytes());
        self.blocks.update(&block.ids);
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        let of = |layout: &Self| (layout.parts.clone().finalize(), layout.blocks.clone().finalize());
        of(self) == of(other)
    }
}

const fn is_unsubmitted(state: &BatchState) -> bool {
    matches!(state, BatchState::Draft | BatchState::Submitting)
}

/// What follows from outcomes that are not there: the batch is gone, or damaged.
fn missing(batch: StoreResult<Batch>) -> ArchiveError {
    match batch {
        Ok(_) => StoreError::Corrupt("outcomes of a batch are missing".to_owned()).into(),
        Err(error) => error.into(),
    }
}

/// What may have been deleted meanwhile.
fn there<T>(found: StoreResult<T>) -> StoreResult<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is to be told of a chunk beside its outcomes; `None` where that is nothing.
fn chunk_record(head: &Head) -> Option<ChunkRecord> {
    let mut parked = head.parked.clone();
    parked.sort_by_key(|item| item.offset);
    let killer = ItemCode::Failed(FailureKind::WorkerKiller).byte();
    let killers =
        (0..).zip(&head.done).filter(|(_, byte)| **byte == killer).map(|(offset, _)| offset).collect();
    let mut record = ChunkRecord {
        n: head.chunk.n,
        kills: head.kills,
        trying: head.trying.filter(|trying| trying.kills > 0),
        killers,
        totals: head.totals,
        parked,
    };
    record.kills = record.kills.min(record.most_kills());
    (record != ChunkRecord::of(record.n)).then_some(record)
}

fn delivery_record(delivery: Delivery) -> DeliveryRecord {
    DeliveryRecord {
        id: delivery.id,
        event: delivery.event,
        kind: delivery.kind,
        url: delivery.url,
        sealed_secret: delivery.sealed_secret,
        endpoint: delivery.endpoint,
        body: delivery.body,
        state: delivery.state,
        due_ms: delivery.due_ms,
        attempts: delivery.attempts,
        created_ms: delivery.created_ms,
    }
}

#[cfg(test)]
mod tests;
