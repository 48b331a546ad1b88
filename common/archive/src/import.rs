//! From an archive to a store that is empty.

use std::io::Read;
use std::time::Duration;

use promptmill_domain::{SessionId, TemplateId, TenantId};
use promptmill_ports::{
    ApiKey, Claim, Claimed, Claims, Delivery, Generation, Installation, SessionBeat, StoreError,
    StoredAnswer, Tenant,
};

use crate::error::ArchiveError;
use crate::export::{Scope, export};
use crate::lines::{ArchiveReader, Digesting};
use crate::record::{
    ClaimRecord, DeliveryRecord, GenerationRecord, KeyRecord, LabelRecord, Record, VersionRecord,
};
use crate::replay::{Importer, LABEL, Replay};
use crate::summary::Summary;

mod recurring;

use recurring::Recurring;

/// Longer than a session that lives rests between two beats.
const BEATS: Duration = Duration::from_secs(3);

/// Makes everything of the archive again in the store, reads it back and compares the digests. No time but `now_ms` (Unix milliseconds) is
/// asked for: what was made keeps its own.
///
/// The store is marked as long as that lasts, so nobody opens what an import has left half-way.
///
/// # Errors
/// When the store is not empty or somebody works on it, the archive is damaged, or what was made differs from what is told.
pub async fn import<R: Read>(
    store: &dyn Installation,
    archive: &mut ArchiveReader<R>,
    now_ms: u64,
) -> Result<Summary, ArchiveError> {
    check_unused(store).await?;
    store.begin_import().await?;
    let session = SessionId::at(now_ms, rand::random());
    store.open(session, LABEL).await?;
    let (importer, recurring) = (Importer { session, now_ms }, Recurring::new(store, now_ms));
    let mut import = Import { store, importer, tenant: None, template: None, recurring };
    let mut batch = None;
    while let Some(record) = archive.next()? {
        batch = import.record(archive, batch, record).await?;
    }
    if batch.is_some() {
        return Err(archive.wrong("a batch does not end"));
    }
    import.recurring.end(archive).await?;
    store.end(session, now_ms).await?;
    let made = archive.summary();
    let mut found = Digesting::default();
    export(store, &Scope::All, &mut found).await?;
    let (found, expected) = (found.finish().digest, made.digest.clone());
    if found != expected {
        return Err(ArchiveError::NotTheSame { found, expected });
    }
    store.end_import(rand::random_range(1..=u16::MAX)).await?;
    Ok(made)
}

/// That no session lives: processes of before may have died without a word.
async fn check_unused(store: &dyn Installation) -> Result<(), ArchiveError> {
    let before = store.sessions().await?;
    if before.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(BEATS).await;
    let is_same =
        |now: &SessionBeat| before.iter().any(|then| then.session == now.session && then.beat == now.beat);
    match store.sessions().await?.into_iter().find(|now| !is_same(now)) {
        Some(living) => Err(ArchiveError::InUse(living.label)),
        None => Ok(()),
    }
}

struct Import<'a> {
    store: &'a dyn Installation,
    importer: Importer,
    tenant: Option<TenantId>,
    template: Option<(TemplateId, String, u32)>,
    recurring: Recurring<'a>,
}

impl<'a> Import<'a> {
    /// Does what a record tells; `batch` is the one that it may be of, and the answer the one that the next may be of.
    async fn record<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        batch: Option<Replay<'a>>,
        record: Record,
    ) -> Result<Option<Replay<'a>>, ArchiveError> {
        match batch {
            Some(batch) => Self::of_batch(archive, batch, record).await,
            None => self.of_tenant(archive, record).await,
        }
    }

    async fn of_batch<R: Read>(
        archive: &ArchiveReader<R>,
        mut batch: Replay<'a>,
        record: Record,
    ) -> Result<Option<Replay<'a>>, ArchiveError> {
        match record {
            Record::Block(block) => batch.block(block).await?,
            Record::Part(part) => batch.part(part).await?,
            Record::Chunk(chunk) => batch.chunk(*chunk).await?,
            Record::Outcome(outcome) => batch.outcome(outcome).await?,
            Record::Event(event) => batch.event(*event),
            Record::Delivery(delivery) => {
                let delivery = delivery_of(&batch, *delivery);
                batch.delivery(delivery);
            }
            Record::End(end) => return batch.end(*end).await.map(|()| None),
            Record::Gone => return batch.gone().await.map(|()| None),
            Record::Tenant(_)
            | Record::Key(_)
            | Record::Template(_)
            | Record::Version(_)
            | Record::Label(_)
            | Record::Claim(_)
            | Record::Generation(_)
            | Record::Endpoint(_)
            | Record::Schedule(_)
            | Record::RowSet(_)
            | Record::Tick(_)
            | Record::Batch(_) => return Err(archive.wrong("a batch does not end before it")),
        }
        Ok(Some(batch))
    }

    async fn of_tenant<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        record: Record,
    ) -> Result<Option<Replay<'a>>, ArchiveError> {
        if !record.is_of_recurring() {
            self.recurring.end(archive).await?;
        }
        let record = match record {
            Record::Tenant(record) => {
                let tenant = Tenant { id: record.id, created_ms: record.created_ms };
                self.store.add_tenant(&tenant).await?;
                (self.tenant, self.template) = (Some(tenant.id), None);
                return Ok(None);
            }
            record => record,
        };
        let Some(tenant) = self.tenant.clone() else {
            return Err(archive.wrong("it is of no tenant"));
        };
        match record {
            Record::Key(key) => self.store.add_key(&key_of(tenant, key)).await?,
            Record::Template(template) => self.template = Some((template.id, template.name, 0)),
            Record::Version(version) => {
                self.version(&tenant, version).await?.ok_or_else(|| archive.wrong("it is of no template"))?;
            }
            Record::Label(label) => {
                let put = self.label(&tenant, label).await?;
                put.ok_or_else(|| archive.wrong("it is of no template, or of a version that is not there"))?;
            }
            Record::Claim(claim) => self.claim(tenant, claim).await?,
            Record::Generation(generation) => {
                self.store.put_generation(&self.generation(tenant, generation)).await?;
            }
            Record::Endpoint(endpoint) => {
                let is_its = endpoint.tenant == tenant;
                // Perhaps it is there because the answer to its making was lost.
                if !is_its
                    || !self.store.put_endpoint(&endpoint).await?
                        && self.store.endpoint(&tenant, endpoint.id).await? != *endpoint
                {
                    return Err(archive.wrong("an endpoint is another tenant's, or another one is there"));
                }
            }
            Record::Schedule(schedule) => self.recurring.schedule(archive, &tenant, *schedule).await?,
            Record::RowSet(set) => self.recurring.row_set(archive, &tenant, *set).await?,
            Record::Block(block) => self.recurring.block(archive, block).await?,
            Record::Tick(tick) => self.recurring.tick(archive, &tenant, *tick).await?,
            Record::Gone if self.recurring.gone(&tenant).await? => {}
            Record::Batch(batch) => return Ok(Some(Replay::new(self.store, self.importer, tenant, *batch))),
            Record::Tenant(_)
            | Record::Part(_)
            | Record::Chunk(_)
            | Record::Outcome(_)
            | Record::Event(_)
            | Record::Delivery(_)
            | Record::End(_)
            | Record::Gone => return Err(archive.wrong("it is of no batch")),
        }
        Ok(None)
    }

    async fn version(
        &mut self,
        tenant: &TenantId,
        version: VersionRecord,
    ) -> Result<Option<()>, ArchiveError> {
        let Some((id, name, latest)) = &mut self.template else { return Ok(None) };
        let VersionRecord { source, created_ms } = version;
        let made = match *latest {
            0 => self.store.add_template(tenant, *id, name, &source, created_ms).await?,
            after => self.store.add_version(tenant, *id, after, &source, created_ms).await?,
        };
        *latest = made.latest;
        Ok(Some(()))
    }

    async fn label(&self, tenant: &TenantId, record: LabelRecord) -> Result<Option<()>, ArchiveError> {
        let Some((id, ..)) = self.template else { return Ok(None) };
        let LabelRecord { label, version, changed_ms } = record;
        match self.store.put_label(tenant, id, &label, version, changed_ms).await {
            Ok(_) => Ok(Some(())),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn claim(&self, tenant: TenantId, record: ClaimRecord) -> Result<(), ArchiveError> {
        let ClaimRecord { key, created_ms, fingerprint, plan, owner, answer } = record;
        let claim = Claim { tenant, key, fingerprint, plan, owner };
        if Claims::claim(self.store, &claim, created_ms).await? != Claimed::Run {
            let words = format!("the request {:?} is there already", claim.key);
            return Err(StoreError::Conflict(words).into());
        }
        if let Some(answer) = answer {
            let answer = StoredAnswer { status: answer.status, headers: answer.headers, body: answer.body };
            self.store.answer(&claim.tenant, &claim.key, &answer).await?;
        }
        Ok(())
    }

    /// One that runs is nobody's, and run again by whoever serves the installation next.
    fn generation(&self, tenant: TenantId, record: GenerationRecord) -> Generation {
        let GenerationRecord { id, created_ms, request, outcome } = record;
        Generation { id, tenant, request, outcome, created_ms, owner: self.importer.session }
    }
}

fn key_of(tenant: TenantId, record: KeyRecord) -> ApiKey {
    ApiKey {
        id: record.id,
        tenant,
        name: record.name,
        role: record.role,
        scopes: record.scopes,
        hash: record.hash,
        hint: record.hint,
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        revoked_ms: record.revoked_ms,
        used_ms: record.used_ms,
    }
}

fn delivery_of(batch: &Replay<'_>, record: DeliveryRecord) -> Delivery {
    Delivery {
        id: record.id,
        tenant: batch.tenant().clone(),
        batch: Some(batch.id()),
        event: record.event,
        kind: record.kind,
        url: record.url,
        sealed_secret: record.sealed_secret,
        endpoint: record.endpoint,
        body: record.body,
        state: record.state,
        due_ms: record.due_ms,
        attempts: record.attempts,
        created_ms: record.created_ms,
    }
}
