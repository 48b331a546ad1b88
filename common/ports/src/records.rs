//! The record ports: what a service keeps beside the engine's work. Tenants and keys, templates and their labels, answers to repeated requests,
//! immediate generations, deliveries, and what recurs.
//!
//! As for the store ports: each method is one atomic step, an `Ok` survives a power cut, a record of another tenant is
//! [`StoreError::NotFound`](crate::StoreError::NotFound), and time comes from the caller in Unix milliseconds. [`Records`] names the sum.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{
    BatchId, DeliveryId, Endpoint, EndpointId, EventId, EventKind, GenerationId, KeyId, SessionId,
    TemplateId, TenantId,
};
use serde::{Deserialize, Serialize};

use crate::StoreResult;
use crate::schedules::Recurring;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// When it was made.
    pub created_ms: u64,
}

/// What a key's holder is within the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and runs.
    Member,
    /// Manages keys too.
    Admin,
    /// The first of the tenant.
    Owner,
}

/// An API key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What its holder is.
    pub role: Role,
    /// What it may do at most, for example `batches:write`; empty for everything its role may.
    pub scopes: Vec<String>,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The last characters of the secret, to tell keys apart.
    pub hint: String,
    /// When it was made.
    pub created_ms: u64,
    /// From when on it is refused.
    pub expires_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// When it was last used, to about a minute.
    pub used_ms: Option<u64>,
}

/// Tenants and their keys.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Makes a tenant. Answers whether it is new.
    async fn add_tenant(&self, tenant: &Tenant) -> StoreResult<bool>;

    /// Every tenant, by id.
    async fn tenants(&self) -> StoreResult<Vec<Tenant>>;

    /// Keeps a key. A key that is there already stays as it is, so a repeated call brings no revoked key back.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant, `Conflict` when the id is that of another tenant's key.
    async fn add_key(&self, key: &ApiKey) -> StoreResult<()>;

    /// The key of that id, of any tenant, revoked and expired ones too.
    async fn key(&self, id: KeyId) -> StoreResult<Option<ApiKey>>;

    /// The tenant's keys, oldest first.
    async fn keys(&self, tenant: &TenantId) -> StoreResult<Vec<ApiKey>>;

    /// Revokes a key for good. Repeatable; the first time counts.
    async fn revoke_key(&self, tenant: &TenantId, id: KeyId, now_ms: u64) -> StoreResult<()>;

    /// Records when keys were used last. The latest time stays whatever the order of the calls; unknown keys are left out.
    async fn keys_used(&self, used: &[(KeyId, u64)]) -> StoreResult<()>;
}

/// A stored template without the text of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTemplate {
    /// Its id.
    pub id: TemplateId,
    /// Its name, the only one of the tenant.
    pub name: String,
    /// Its newest version; versions count from 1.
    pub latest: u32,
    /// When it was made.
    pub created_ms: u64,
    /// When its newest version was made.
    pub updated_ms: u64,
}

/// One version of a template; it never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateVersion {
    /// Which version, from 1.
    pub version: u32,
    /// Its JSON text.
    pub source: String,
    /// When it was made.
    pub created_ms: u64,
}

/// How a template is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TemplateKey {
    /// By its id.
    Id(TemplateId),
    /// By its name.
    Name(String),
}

/// The tenants' templates.
#[async_trait]
pub trait Templates: Send + Sync {
    /// Keeps a new template with its version 1. Repeating it with the same id answers the one that is there.
    ///
    /// # Errors
    /// `Conflict` when another template of the tenant has the name, or the id is that of another tenant's template.
    async fn add_template(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        name: &str,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate>;

    /// Adds the version behind `after`, which must be the newest. Repeating it with the same text answers the one that is there; so does a text
    /// that equals the newest version's.
    ///
    /// # Errors
    /// `Conflict` when `after` is not the newest version.
    async fn add_version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        after: u32,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate>;

    /// A template.
    async fn template(&self, tenant: &TenantId, key: &TemplateKey) -> StoreResult<StoredTemplate>;

    /// One version, or the newest.
    async fn version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        version: Option<u32>,
    ) -> StoreResult<TemplateVersion>;

    /// Templates by name, those behind `after`, at most `limit`.
    async fn templates(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<StoredTemplate>>;

    /// Versions and when each was made, newest first, those below `below`, at most `limit`.
    async fn versions(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        below: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<(u32, u64)>>;

    /// Deletes a template whose newest version is still `latest`, with all versions. Batches keep the text they pinned.
    ///
    /// # Errors
    /// `Conflict` when `latest` is not the newest version.
    async fn delete_template(&self, tenant: &TenantId, id: TemplateId, latest: u32) -> StoreResult<()>;
}

/// Labels a template may have at the same time.
pub const MOST_TEMPLATE_LABELS: usize = 20;

/// A name for one version of a template, which may be moved to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateLabel {
    /// The name, the only one of the template.
    pub label: String,
    /// The version that has it.
    pub version: u32,
    /// When it was put there.
    pub changed_ms: u64,
}

/// The labels of the tenants' templates. They go with their template: one that is made again under its name has none.
#[async_trait]
pub trait TemplateLabels: Send + Sync {
    /// Puts a label on a version, taking it from the one that has it. Answers the label as it is then. Repeatable: on a version that has it, it stays as
    /// it is. Of calls at once for one label the last holds.
    ///
    /// # Errors
    /// `NotFound` when there is no such template or version, `Conflict` when this would be one more than [`MOST_TEMPLATE_LABELS`].
    async fn put_label(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        label: &str,
        version: u32,
        now_ms: u64,
    ) -> StoreResult<TemplateLabel>;

    /// Takes a label away; answers whether it was there. Of a template that is not there none is.
    async fn remove_label(&self, tenant: &TenantId, id: TemplateId, label: &str) -> StoreResult<bool>;

    /// All labels of a template, by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such template.
    async fn labels(&self, tenant: &TenantId, id: TemplateId) -> StoreResult<Vec<TemplateLabel>>;
}

/// A request that must happen once however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose request.
    pub tenant: TenantId,
    /// Method and route with the client's key.
    pub key: String,
    /// Digest of what is asked; the same key with another digest is a mistake of the client.
    pub fingerprint: [u8; 32],
    /// Random bytes from which the ids of what the request makes are derived, so that whoever runs it again makes the same things.
    pub plan: [u8; 16],
    /// The process that runs it.
    pub owner: [u8; 16],
}

/// The answer that is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers worth repeating, as (name, value).
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The request is new: run it with this plan.
    Run,
    /// An earlier run was begun and left no answer. `owner` runs it, or died.
    Begun {
        /// Who began it.
        owner: [u8; 16],
        /// The plan it began with.
        plan: [u8; 16],
    },
    /// It was done: repeat this.
    Done(StoredAnswer),
    /// The key was used for something else.
    Mismatch,
}

/// Answers to requests that carry an idempotency key.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Begins a request, or says how an earlier one with the same key stands. Of claims made at once exactly one is told to
    /// [`Run`](Claimed::Run). Whoever does not know what became of its claim repeats it, and finds its own plan in
    /// [`Begun`](Claimed::Begun) when it is the one who runs.
    async fn claim(&self, claim: &Claim, now_ms: u64) -> StoreResult<Claimed>;

    /// Makes `owner` the one who runs what `from` began, with the plan it began with. Answers whether this call did it: of calls made at
    /// once one is told so, also when they name the same `owner`. What is answered or unknown is taken over by nobody.
    async fn take_over(
        &self,
        tenant: &TenantId,
        key: &str,
        from: [u8; 16],
        owner: [u8; 16],
    ) -> StoreResult<bool>;

    /// Keeps the answer. Repeatable; the first counts.
    ///
    /// # Errors
    /// `NotFound` when there is no such claim.
    async fn answer(&self, tenant: &TenantId, key: &str, answer: &StoredAnswer) -> StoreResult<()>;

    /// Forgets a request that failed before it had any effect, so that it may be sent again. Changes nothing when `owner` does not run it
    /// or it is answered.
    async fn release(&self, tenant: &TenantId, key: &str, owner: [u8; 16]) -> StoreResult<()>;

    /// Forgets claims made before `before_ms`, answered or not, oldest first, at most `limit`. Answers how many.
    async fn forget_claims(&self, before_ms: u64, limit: u32) -> StoreResult<u32>;
}

/// An immediate generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its id.
    pub id: GenerationId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What was asked, as the API's JSON; opaque to the store.
    pub request: Bytes,
    /// The encoded outcome ([`encode_outcome`](crate::encode_outcome)); `None` while it runs.
    pub outcome: Option<Bytes>,
    /// When it was asked for.
    pub created_ms: u64,
    /// The session of the process that runs it, while it runs.
    pub owner: SessionId,
}

impl Generation {
    /// Bytes of its request and outcome, which quotas count and pages go by.
    pub fn size(&self) -> usize {
        self.request.len() + self.outcome.as_ref().map_or(0, Bytes::len)
    }
}

/// The tenants' immediate generations.
#[async_trait]
pub trait Generations: Send + Sync {
    /// Keeps a generation, replacing what was kept of it. One that has its outcome never changes: the call answers `Ok` and does nothing.
    ///
    /// # Errors
    /// `NotFound` when the id is that of another tenant's generation.
    async fn put_generation(&self, generation: &Generation) -> StoreResult<()>;

    /// One generation.
    async fn generation(&self, tenant: &TenantId, id: GenerationId) -> StoreResult<Generation>;

    /// Up to `limit` generations without an outcome that no session of `living` owns, oldest first.
    async fn orphaned(&self, living: &[SessionId], limit: u32) -> StoreResult<Vec<Generation>>;

    /// Makes `owner` the one who runs a generation without an outcome that `from` owns. Answers whether this call did it: of calls made
    /// at once by different owners one is told so.
    async fn adopt(&self, id: GenerationId, from: SessionId, owner: SessionId) -> StoreResult<bool>;

    /// Forgets finished generations asked for before `before_ms`, at most `limit`. Answers how many.
    async fn forget_generations(&self, before_ms: u64, limit: u32) -> StoreResult<u32>;
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be tried when due.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    GivenUp,
}

/// One try of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// When it began.
    pub at_ms: u64,
    /// How long it took.
    pub duration_ms: u32,
    /// The receiver's status, where it answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// What went wrong, in words of ours; `None` when it was taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// How the receiver's answer begins, at most a kibibyte of it as text; `None` where it said nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answer: Option<String>,
}

/// What was done with a delivery that is due, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    /// Of which delivery.
    pub id: DeliveryId,
    /// What came of the try; `None` where there was none and it is put off.
    pub attempt: Option<DeliveryAttempt>,
    /// Where the delivery stands then.
    pub state: DeliveryState,
    /// When it is tried again, where it is.
    pub due_ms: u64,
}

/// Which deliveries are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// This one, wherever it stands.
    One(DeliveryId),
    /// Those that were given up and made since then (Unix milliseconds); a store may take the oldest 100,000 of them.
    GivenUpSince(u64),
}

/// One event for one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id, the same at every try.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The batch it tells of; `None` where it tells of none.
    pub batch: Option<BatchId>,
    /// The event, which is the `webhook-id` on the wire.
    pub event: EventId,
    /// What happened.
    pub kind: EventKind,
    /// Where it goes.
    pub url: String,
    /// The signing secret, encrypted; empty of one to an endpoint, which has its own.
    pub sealed_secret: String,
    /// The endpoint it goes to; `None` for the webhook of its batch.
    pub endpoint: Option<EndpointId>,
    /// The exact body.
    pub body: Bytes,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it is to be tried next.
    pub due_ms: u64,
    /// Tries so far, in order; of more than 20 the newest.
    pub attempts: Vec<DeliveryAttempt>,
    /// When it was made.
    pub created_ms: u64,
}

/// The tenants' deliveries.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Keeps new deliveries, leaving out those that are there.
    async fn add_deliveries(&self, deliveries: &[Delivery]) -> StoreResult<()>;

    /// Takes up to `limit` pending deliveries that are due, earliest first, and moves their due time to `until_ms`, so that nobody else takes
    /// them before; they are answered with that due time. A crash repeats the try: at least once.
    async fn take_due(&self, now_ms: u64, until_ms: u64, limit: u32) -> StoreResult<Vec<Delivery>>;

    /// Adds tries, and puts deliveries off, and says what follows, of each delivery once. A delivery that is not pending stays as it is, one that went with its batch
    /// stays gone, and a try that equals the last one is not added again, so the step may be repeated.
    async fn record_attempts(&self, attempts: &[Attempted]) -> StoreResult<()>;

    /// Deliveries of a batch, oldest first, at most `limit`; none of a batch that is unknown or another tenant's. Deleting a batch
    /// ([`Close::delete`](crate::Close::delete)) deletes them too, those that are still pending included.
    async fn deliveries(&self, tenant: &TenantId, batch: BatchId, limit: u32) -> StoreResult<Vec<Delivery>>;

    /// Deliveries to an endpoint of the tenant, newest first, at most `limit`.
    async fn deliveries_to(
        &self,
        tenant: &TenantId,
        endpoint: EndpointId,
        limit: u32,
    ) -> StoreResult<Vec<Delivery>>;

    /// Makes deliveries of the tenant due now. Each keeps its tries and its id, so one whose tries are spent has one more.
    /// Answers how many.
    async fn replay(&self, tenant: &TenantId, which: Replay, now_ms: u64) -> StoreResult<u32>;

    /// When the earliest pending delivery is due.
    async fn next_due(&self) -> StoreResult<Option<u64>>;

    /// Forgets deliveries that are over and were made before `before_ms`, at most `limit`. Answers how many.
    async fn forget_deliveries(&self, before_ms: u64, limit: u32) -> StoreResult<u32>;
}

/// The tenants' endpoints.
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// Keeps an endpoint: a new one with version 1, or a change of one whose version is the one before. Answers whether it did.
    /// Every event of the tenant that happens later than [`tells_within`](Self::tells_within) after a new one was kept is written for its endpoints
    /// ([`Outbox`](crate::Outbox)); one that happens before may be or not.
    async fn put_endpoint(&self, endpoint: &Endpoint) -> StoreResult<bool>;

    /// How long it takes at most until every process knows of a new endpoint, and of a change of one.
    fn tells_within(&self) -> Duration;

    /// The tenant's endpoint.
    async fn endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<Endpoint>;

    /// All endpoints of the tenant, oldest first.
    async fn endpoints(&self, tenant: &TenantId) -> StoreResult<Vec<Endpoint>>;

    /// Forgets an endpoint; answers whether it was there. Its deliveries stay, and are given up when they are due.
    async fn delete_endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<bool>;
}

/// Everything a service keeps beside the engine's work.
pub trait Records:
    Accounts + Templates + TemplateLabels + Claims + Generations + Deliveries + Endpoints + Recurring
{
}

impl<T> Records for T where
    T: Accounts + Templates + TemplateLabels + Claims + Generations + Deliveries + Endpoints + Recurring
{
}
