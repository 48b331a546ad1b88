//! From a store to an archive.
//!
//! What is read of a batch holds together while the installation works: its state is read first, so one that was final then is all there. Of a
//! chunk the outcomes are those that one version of its head names, whose bodies never change. Its events are read before its
//! deliveries, which they become; of both, what tells of a later change of the batch is left out.

use promptmill_domain::{Batch, BatchId, BatchState, FailureKind, Head, ItemCode, TenantId, Totals};
use promptmill_ports::{
    BatchFilter, Delivery, Installation, PageLimit, StoreError, StoreResult, StoredOutcome, TemplateKey,
};

use crate::error::ArchiveError;
use crate::lines::Sink;
use crate::record::{
    AnswerRecord, BatchRecord, BlockRecord, ChunkRecord, ClaimRecord, DeliveryRecord, EndRecord,
    GenerationRecord, KeyRecord, OutcomeRecord, PartRecord, Record, TemplateRecord, TenantRecord,
    VersionRecord,
};

/// How much is read at a time.
const PAGE: PageLimit = PageLimit { items: 256, bytes: 8 * 1024 * 1024 };
/// Heads read at a time.
const HEADS: u32 = 64;
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
        let mut export = Export { store, tenant: &tenant.id, out };
        export.keys().await?;
        export.templates().await?;
        export.claims().await?;
        export.generations().await?;
        export.batches().await?;
    }
    Ok(())
}

struct Export<'a, S> {
    store: &'a dyn Installation,
    tenant: &'a TenantId,
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
        let key = TemplateKey::Name(name.to_owned());
        let Some(template) = there(self.store.template(self.tenant, &key).await)? else { return Ok(()) };
        let mut versions = Vec::new();
        for version in 1..=template.latest {
            match there(self.store.version(self.tenant, template.id, Some(version)).await)? {
                Some(version) => versions.push(version),
                None => return Ok(()),
            }
        }
        self.out.put(&Record::Template(TemplateRecord { id: template.id, name: template.name }))?;
        for version in versions {
            let (source, created_ms) = (version.source, version.created_ms);
            self.out.put(&Record::Version(VersionRecord { source, created_ms }))?;
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

    /// Writes a batch; one that is deleted meanwhile ends as gone.
    async fn batch(&mut self, id: BatchId) -> Result<(), ArchiveError> {
        // It may have ended since it was listed.
        let Some(batch) = there(self.store.batch(self.tenant, id).await)? else { return Ok(()) };
        let Some(beside) = there(self.store.beside(self.tenant, id).await)? else { return Ok(()) };
        self.out.put(&Record::Batch(Box::new(BatchRecord {
            id,
            created_ms: batch.created_ms,
            submitted_ms: batch.submitted_ms,
            idem_key: beside.idem_key,
            spec: batch.spec.clone(),
            limits: batch.limits,
        })))?;
        match self.rest(&batch).await {
            Err(ArchiveError::Store(StoreError::NotFound)) => self.out.put(&Record::Gone),
            result => result,
        }
    }

    async fn rest(&mut self, batch: &Batch) -> Result<(), ArchiveError> {
        self.rows(batch.id).await?;
        let was_worked_on = self.chunks(batch).await?;
        for event in self.store.beside(self.tenant, batch.id).await?.events {
            if event.ver <= batch.ver {
                self.out.put(&Record::Event(Box::new(event)))?;
            }
        }
        let mut deliveries = self.store.deliveries(self.tenant, batch.id, DELIVERIES).await?;
        deliveries.sort_by_key(|delivery| (delivery.created_ms, delivery.id));
        for delivery in deliveries {
            if delivery.event.ver_in(batch.id).is_none_or(|ver| ver <= batch.ver) {
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
        })))
    }

    async fn rows(&mut self, batch: BatchId) -> Result<(), ArchiveError> {
        let parts = self.store.parts(self.tenant, batch).await?;
        let mut after = None;
        let mut blocks = self.store.block_ids(self.tenant, batch, after, PAGE.items).await?.into_iter();
        let mut next = blocks.next();
        for part in parts {
            while let Some(block) = next.take_if(|block| block.part == part.part) {
                after = Some((block.part, block.seq));
                let bytes = self.store.block(self.tenant, batch, block.part, block.seq).await?;
                self.out.put(&Record::Block(BlockRecord { len: block.len, bytes, ids: block.ids }))?;
                next = blocks.next();
                if next.is_none() {
                    blocks = self.store.block_ids(self.tenant, batch, after, PAGE.items).await?.into_iter();
                    next = blocks.next();
                }
            }
            let (part, digest, rows) = (part.part, part.digest, part.rows);
            self.out.put(&Record::Part(PartRecord { part, digest, rows }))?;
        }
        Ok(())
    }

    /// Writes chunks and outcomes; answers whether there was anything to write.
    async fn chunks(&mut self, batch: &Batch) -> Result<bool, ArchiveError> {
        let (mut after, mut any) = (None, false);
        loop {
            let heads = self.store.heads(self.tenant, batch.id, after, HEADS).await?;
            let Some(last) = heads.last() else { return Ok(any) };
            after = Some(last.chunk.n);
            for head in heads {
                if let Some(chunk) = chunk_record(&head) {
                    self.out.put(&Record::Chunk(Box::new(chunk)))?;
                    any = true;
                }
                any |= self.outcomes(batch, &head).await?;
            }
        }
    }

    async fn outcomes(&mut self, batch: &Batch, head: &Head) -> Result<bool, ArchiveError> {
        // What a cancel or a deadline closed stays to be closed in a batch that is not final.
        let is_told = |byte: u8| match ItemCode::from_byte(byte) {
            Some(ItemCode::Open) => false,
            Some(ItemCode::Cancelled | ItemCode::Expired) => batch.state.is_final(),
            _ => true,
        };
        let told = |index: u32| {
            let byte = index.checked_sub(head.base).and_then(|offset| head.done.get(offset as usize));
            byte.is_some_and(|byte| is_told(*byte))
        };
        let behind = head.base.saturating_add(head.len());
        let mut left = head.done.iter().filter(|byte| is_told(**byte)).count();
        let (mut from, any) = (head.base, left > 0);
        while left > 0 {
            let limit = PageLimit { items: behind - from, ..PAGE };
            let page = self.store.outcomes(self.tenant, batch.id, from, limit).await?;
            for outcome in page.outcomes.into_iter().filter(|outcome| told(outcome.index)) {
                left = left.saturating_sub(1);
                self.out.put(&Record::Outcome(outcome_record(outcome)))?;
            }
            match page.next {
                Some(next) if next < behind => from = next,
                _ if left == 0 => {}
                _ => return Err(missing(self.store.batch(self.tenant, batch.id).await)),
            }
        }
        Ok(any)
    }
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
    let record = ChunkRecord {
        n: head.chunk.n,
        kills: head.kills.min(ChunkRecord::MOST_KILLS),
        trying: head.trying.filter(|trying| trying.kills > 0),
        killers,
        totals: head.totals,
        parked,
    };
    let says_nothing = record.kills == 0 && record.totals == Totals::default() && record.parked.is_empty();
    (!says_nothing).then_some(record)
}

fn outcome_record(outcome: StoredOutcome) -> OutcomeRecord {
    OutcomeRecord { index: outcome.index, code: outcome.code.byte(), body: outcome.body }
}

fn delivery_record(delivery: Delivery) -> DeliveryRecord {
    DeliveryRecord {
        id: delivery.id,
        event: delivery.event,
        kind: delivery.kind,
        url: delivery.url,
        sealed_secret: delivery.sealed_secret,
        body: delivery.body,
        state: delivery.state,
        due_ms: delivery.due_ms,
        attempts: delivery.attempts,
        created_ms: delivery.created_ms,
    }
}
