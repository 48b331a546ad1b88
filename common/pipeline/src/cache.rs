//! The reply cache: an accepted reply is given again to a request that is the same, instead of a call.
//!
//! It is asked before leave to call is waited for. What is under way for one row of a batch is waited for by other rows of it that ask the same, so
//! that a batch of equal rows makes one call in a process and not as many as begin before the first reply. Look-ups and replies of many items go to
//! the store together. A store that fails costs calls and nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use promptmill_domain::{BatchId, CacheScope, Flag, ModelSettings, TenantId};
use promptmill_ports::{Clock, Replies, ReplyKey, decode_body, encode_body};
use promptmill_prompt::Template;
use promptmill_provider::{ChatRequest, ResponseFormat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::plan::Target;

/// Look-ups that go to the store together: as many as replies of the largest size are no burden.
const LOOKUPS_AT_ONCE: usize = 64;

/// How long a look-up is waited for; a call is made then.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// How long replies are gathered before they go to the store together, and how many bytes of them at most.
const GATHERS_FOR: Duration = Duration::from_millis(25);
const BYTES_AT_ONCE: usize = 2 * 1024 * 1024;

/// Bytes of replies that wait to be kept; beyond them a reply is not.
const WAITING_BYTES: u32 = 16 * 1024 * 1024;

/// About what a kept reply takes beside its content.
const BESIDE_CONTENT: usize = 64;

/// A row that waited so long for others whose calls came to nothing calls for itself: what hangs must not hang for each row in turn.
const WAITS_FOR: Duration = Duration::from_secs(30);

/// Whose replies are given again, and what every request to each of the batch's models has in common.
#[derive(Debug, Clone)]
pub(crate) struct Sharing {
    tenant: TenantId,
    scope: CacheScope,
    begun: Vec<Sha256>,
}

/// A reply as it is kept: what was delivered, and how it came to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptReply {
    /// JSON or text.
    pub(crate) content: String,
    /// Whether it took a repair.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) repaired: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) flags: Vec<Flag>,
}

/// What is known of a request that somebody makes.
#[derive(Clone)]
enum UnderWay {
    Nothing,
    /// Its lane stands still until then, or another model is asked.
    Denied(u64),
    /// No reply to it was accepted, and another call may fare no better.
    Failed,
    Reply(Arc<KeptReply>),
}

/// A request of a batch.
type Request = (BatchId, [u8; 32]);

type Requests = Mutex<HashMap<Request, watch::Receiver<UnderWay>>>;

/// Replies that are not with the store yet.
type Fresh = Mutex<HashMap<[u8; 32], Arc<KeptReply>>>;

/// Keys with who waits for what is kept under them.
type Lookups = Vec<(ReplyKey, oneshot::Sender<Option<Bytes>>)>;

/// The reply cache of a process. Its work is done by [`run`](Self::run).
pub struct ReplyCache {
    store: Arc<dyn Replies>,
    clock: Arc<dyn Clock>,
    requests: Arc<Requests>,
    fresh: Arc<Fresh>,
    lookups: Mutex<Lookups>,
    asked: Notify,
    waiting: Mutex<Vec<Waiting>>,
    came: Notify,
    room: Arc<Semaphore>,
    closing: CancellationToken,
}

/// A reply on its way to the store. Until it is there it is given from here.
struct Waiting {
    key: ReplyKey,
    body: Bytes,
    fresh: Arc<Fresh>,
    _lead: Option<Lead>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.fresh).remove(&self.key.digest);
    }
}

/// What the cache says of a request.
pub(crate) enum Looked {
    Reply(Arc<KeptReply>),
    /// There is none; the caller makes the request, and tells what came of it.
    Miss(Miss),
    /// Another row that asks the same was denied leave until then (Unix milliseconds), or goes on with another model.
    Denied {
        until_ms: u64,
    },
}

/// A request that the cache has no reply to. When it is dropped without a word, one of those who wait makes the request.
pub(crate) struct Miss {
    key: ReplyKey,
    lead: Option<Lead>,
}

/// Others wait for what comes of this one's request.
struct Lead {
    requests: Arc<Requests>,
    request: Request,
    tells: watch::Sender<UnderWay>,
}

impl Lead {
    fn tell(&self, what: UnderWay) {
        // Perhaps nobody waits.
        let _ = self.tells.send(what);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        lock(&self.requests).remove(&self.request);
    }
}

impl ReplyCache {
    /// A cache over the store. Look-ups are answered, and replies kept, while [`run`](Self::run) runs.
    pub fn new(store: Arc<dyn Replies>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            requests: Arc::default(),
            fresh: Arc::default(),
            lookups: Mutex::default(),
            asked: Notify::new(),
            waiting: Mutex::default(),
            came: Notify::new(),
            room: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
            closing: CancellationToken::new(),
        }
    }

    /// The reply to the request of one of the batch's rows: a kept one, or the one that another row of it is about to get.
    pub(crate) async fn look(&self, batch: BatchId, key: ReplyKey) -> Looked {
        let begun = Instant::now();
        loop {
            let mut other = match self.lead((batch, key.digest)) {
                Ok(lead) => return self.look_up(key, lead).await,
                Err(other) => other,
            };
            match other.wait_for(|now| !matches!(now, UnderWay::Nothing)).await.as_deref() {
                Ok(UnderWay::Reply(reply)) => return Looked::Reply(reply.clone()),
                Ok(UnderWay::Denied(until_ms)) => return Looked::Denied { until_ms: *until_ms },
                // Whoever made it gave it up: the next one makes it.
                Err(_) if begun.elapsed() < WAITS_FOR => {}
                Ok(UnderWay::Failed | UnderWay::Nothing) | Err(_) => {
                    return Looked::Miss(Miss { key, lead: None });
                }
            }
        }
    }

    /// The right to make a request, or what another one who makes it tells.
    fn lead(&self, request: Request) -> Result<Lead, watch::Receiver<UnderWay>> {
        match lock(&self.requests).entry(request) {
            Entry::Occupied(other) => Err(other.get().clone()),
            Entry::Vacant(mine) => {
                let (tells, told) = watch::channel(UnderWay::Nothing);
                mine.insert(told);
                Ok(Lead { requests: self.requests.clone(), request, tells })
            }
        }
    }

    async fn look_up(&self, key: ReplyKey, lead: Lead) -> Looked {
        if let Some(fresh) = lock(&self.fresh).get(&key.digest).cloned() {
            lead.tell(UnderWay::Reply(fresh.clone()));
            return Looked::Reply(fresh);
        }
        let (answers, answer) = oneshot::channel();
        lock(&self.lookups).push((key.clone(), answers));
        self.asked.notify_one();
        let found = timeout(ANSWERS_WITHIN, answer).await.ok().and_then(Result::ok).flatten();
        // One that a later release wrote in another way is none.
        let Some(reply) = found.and_then(|body| read(&body)) else {
            return Looked::Miss(Miss { key, lead: Some(lead) });
        };
        let reply = Arc::new(reply);
        lead.tell(UnderWay::Reply(reply.clone()));
        Looked::Reply(reply)
    }

    /// Keeps the reply to a request that was missed, unless too much waits to be kept.
    pub(crate) fn keep(&self, Miss { key, lead }: Miss, reply: KeptReply) {
        let (body, reply) = (write(&reply), Arc::new(reply));
        if let Some(lead) = &lead {
            lead.tell(UnderWay::Reply(reply.clone()));
        }
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return };
        lock(&self.fresh).insert(key.digest, reply);
        let fresh = self.fresh.clone();
        lock(&self.waiting).push(Waiting { key, body, fresh, _lead: lead, _room: room });
        self.came.notify_one();
    }

    /// Asks the store and tells it, until [`close`](Self::close) and everything is told.
    pub async fn run(&self) {
        tokio::select! {
            () = self.answer() => {}
            () = self.write() => {}
        }
    }

    async fn answer(&self) {
        loop {
            let some: Lookups = {
                let mut lookups = lock(&self.lookups);
                // Who was not answered in time makes its call.
                lookups.retain(|(_, answer)| !answer.is_closed());
                let count = lookups.len().min(LOOKUPS_AT_ONCE);
                lookups.drain(..count).collect()
            };
            if some.is_empty() {
                self.asked.notified().await;
                continue;
            }
            let (keys, answers): (Vec<_>, Vec<_>) = some.into_iter().unzip();
            match timeout(ANSWERS_WITHIN, self.store.replies(&keys)).await {
                // Whoever asked may have gone.
                Ok(Ok(found)) => {
                    answers.into_iter().zip(found).for_each(|(answer, found)| drop(answer.send(found)));
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %error, "the reply cache could not be asked; calls are made instead");
                }
                Err(_) => {
                    tracing::warn!("the reply cache does not answer; calls are made instead");
                }
            }
        }
    }

    async fn write(&self) {
        loop {
            tokio::select! {
                () = self.came.notified() => sleep(GATHERS_FOR).await,
                () = self.closing.cancelled() => return self.flush().await,
            }
            self.flush().await;
        }
    }

    async fn flush(&self) {
        loop {
            let some: Vec<_> = {
                let mut waiting = lock(&self.waiting);
                let mut bytes = 0;
                let fits = |reply: &&Waiting| {
                    let is_first = bytes == 0;
                    bytes += reply.body.len();
                    is_first || bytes <= BYTES_AT_ONCE
                };
                let count = waiting.iter().take_while(fits).count();
                waiting.drain(..count).collect()
            };
            if some.is_empty() {
                return;
            }
            let replies = some.iter().map(|reply| (reply.key.clone(), reply.body.clone())).collect();
            if let Err(error) = self.store.keep_replies(replies, self.clock.now_ms()).await {
                tracing::warn!(error = %error, "replies could not be kept to be given again");
            }
        }
    }

    /// Nothing more comes: [`run`](Self::run) keeps what still waits, and ends.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

impl Miss {
    /// No reply to it was accepted, and another call may fare no better: rows that wait for it make calls of their own.
    pub(crate) fn failed(self) {
        if let Some(lead) = &self.lead {
            lead.tell(UnderWay::Failed);
        }
    }

    /// The lane stands still until then, or another model is asked: rows that wait for it do the same.
    pub(crate) fn denied(self, until_ms: u64) {
        if let Some(lead) = &self.lead {
            lead.tell(UnderWay::Denied(until_ms));
        }
    }
}

impl Sharing {
    /// Of a batch of the tenant with this template, whose requests go to these models with these settings.
    pub(crate) fn new(
        tenant: &TenantId,
        scope: CacheScope,
        plan: (&Template, &ModelSettings, &ResponseFormat),
        targets: &[Target],
    ) -> Self {
        let (template, settings, format) = plan;
        let begin = |target: &Target| {
            let mut hash = Sha256::new();
            put(&mut hash, b"promptmill reply 1");
            put(&mut hash, tenant.as_str().as_bytes());
            put(&mut hash, target.reference.to_string().as_bytes());
            put(&mut hash, target.lane.as_str().as_bytes());
            put(&mut hash, target.provider.server().as_bytes());
            put(&mut hash, json(settings).as_bytes());
            match format {
                ResponseFormat::Text => put(&mut hash, b"text"),
                ResponseFormat::Json => put(&mut hash, b"json"),
                ResponseFormat::Schema(schema) => {
                    put(&mut hash, b"schema");
                    put(&mut hash, schema.name.as_bytes());
                    put(&mut hash, json(&schema.schema).as_bytes());
                }
            }
            put(&mut hash, template.judged_by().as_bytes());
            hash
        };
        Self { tenant: tenant.clone(), scope, begun: targets.iter().map(begin).collect() }
    }

    /// What the reply to a request to the `at`-th model is kept under.
    pub(crate) fn key(&self, batch: BatchId, at: usize, request: &ChatRequest) -> ReplyKey {
        let batch = (self.scope == CacheScope::Batch).then_some(batch);
        let mut hash = self.begun[at].clone();
        put(&mut hash, batch.as_ref().map_or(&[][..], |batch| batch.as_bytes()));
        for message in &request.messages {
            put(&mut hash, message.role.as_str().as_bytes());
            put(&mut hash, message.content.as_bytes());
        }
        ReplyKey { tenant: self.tenant.clone(), batch, digest: hash.finalize().into() }
    }
}

/// A part with its length before it, so that no two requests are written alike.
fn put(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("settings and schemas have string keys only")
}

/// The bytes of a reply as it is kept.
fn write(reply: &KeptReply) -> Bytes {
    encode_body(reply.content.len() + BESIDE_CONTENT, |body| {
        serde_json::to_writer(body, reply).expect("a vector takes every write")
    })
}

fn read(body: &[u8]) -> Option<KeptReply> {
    serde_json::from_slice(&decode_body(body).ok()?).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole entries only: a panic in between leaves a usable value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
