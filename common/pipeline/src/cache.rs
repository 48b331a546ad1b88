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
use promptmill_domain::{BatchId, CacheScope, Flag, TenantId};
use promptmill_ports::{Clock, Replies, ReplyKey};
use promptmill_provider::{ChatRequest, ResponseFormat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::plan::Target;

/// Look-ups that go to the store together: as many as replies of the largest size are no burden.
const LOOKUPS_AT_ONCE: usize = 64;

/// How long replies are gathered before they go to the store together.
const GATHERS_FOR: Duration = Duration::from_millis(25);

/// Bytes of replies that wait to be kept; beyond them items wait.
const WAITING_BYTES: u32 = 16 * 1024 * 1024;

/// How long the store may take for what waits when the process ends.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// Whose replies are given again.
#[derive(Debug, Clone)]
pub(crate) struct Sharing {
    pub(crate) tenant: TenantId,
    pub(crate) scope: CacheScope,
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
    /// No reply to it was accepted, and another call may fare no better.
    Failed,
    Reply(Arc<KeptReply>),
}

type Requests = Mutex<HashMap<(BatchId, [u8; 32]), watch::Receiver<UnderWay>>>;

/// Keys with who waits for what is kept under them.
type Lookups = Vec<(ReplyKey, oneshot::Sender<Option<Bytes>>)>;

/// The reply cache of a process. Its work is done by [`run`](Self::run).
pub struct ReplyCache {
    store: Arc<dyn Replies>,
    clock: Arc<dyn Clock>,
    requests: Arc<Requests>,
    lookups: Mutex<Lookups>,
    asked: Notify,
    waiting: Mutex<Vec<Waiting>>,
    came: Notify,
    room: Arc<Semaphore>,
}

/// A reply on its way to the store. Until it is there it is given from here.
struct Waiting {
    key: ReplyKey,
    body: Bytes,
    _lead: Option<Lead>,
    _room: OwnedSemaphorePermit,
}

/// What the cache says of a request.
pub(crate) enum Looked {
    Reply(Arc<KeptReply>),
    /// There is none; the caller makes the request, and tells what came of it.
    Miss(Miss),
}

/// A request that the cache has no reply to.
pub(crate) struct Miss {
    key: ReplyKey,
    lead: Option<Lead>,
}

/// Others wait for what comes of this one's request. When it is dropped without a word one of them makes it.
struct Lead {
    requests: Arc<Requests>,
    request: (BatchId, [u8; 32]),
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
    /// A cache over the store. Look-ups are answered while [`run`](Self::run) runs.
    pub fn new(store: Arc<dyn Replies>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            requests: Arc::default(),
            lookups: Mutex::default(),
            asked: Notify::new(),
            waiting: Mutex::default(),
            came: Notify::new(),
            room: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
        }
    }

    /// The reply to the request of one of the batch's rows: a kept one, or the one that another row of it is about to get.
    pub(crate) async fn look(&self, batch: BatchId, key: ReplyKey) -> Looked {
        loop {
            let mut other = match self.lead((batch, key.digest)) {
                Ok(lead) => return self.look_up(key, lead).await,
                Err(other) => other,
            };
            match other.wait_for(|now| !matches!(now, UnderWay::Nothing)).await.as_deref() {
                Ok(UnderWay::Reply(reply)) => return Looked::Reply(reply.clone()),
                Ok(UnderWay::Failed | UnderWay::Nothing) => return Looked::Miss(Miss { key, lead: None }),
                // Whoever made it gave it up: the next one makes it.
                Err(_) => {}
            }
        }
    }

    /// The right to make a request, or what another one who makes it tells.
    fn lead(&self, request: (BatchId, [u8; 32])) -> Result<Lead, watch::Receiver<UnderWay>> {
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
        let (answers, answer) = oneshot::channel();
        lock(&self.lookups).push((key.clone(), answers));
        self.asked.notify_one();
        let body = answer.await.ok().flatten();
        // One that a later release wrote in another way is none.
        let Some(reply) = body.and_then(|body| serde_json::from_slice::<KeptReply>(&body).ok()) else {
            return Looked::Miss(Miss { key, lead: Some(lead) });
        };
        let reply = Arc::new(reply);
        lead.tell(UnderWay::Reply(reply.clone()));
        Looked::Reply(reply)
    }

    /// Keeps the reply to a request that was missed.
    pub(crate) async fn keep(&self, Miss { key, lead }: Miss, reply: KeptReply) {
        let Ok(body) = serde_json::to_vec(&reply) else { return };
        if let Some(lead) = &lead {
            lead.tell(UnderWay::Reply(Arc::new(reply)));
        }
        let bytes = u32::try_from(body.len()).unwrap_or(WAITING_BYTES).min(WAITING_BYTES);
        let Ok(room) = self.room.clone().acquire_many_owned(bytes).await else { return };
        lock(&self.waiting).push(Waiting { key, body: body.into(), _lead: lead, _room: room });
        self.came.notify_one();
    }

    /// Asks the store and tells it, without end.
    pub async fn run(&self) {
        tokio::join!(self.answer(), self.write());
    }

    async fn answer(&self) {
        loop {
            let some: Lookups = {
                let mut lookups = lock(&self.lookups);
                let count = lookups.len().min(LOOKUPS_AT_ONCE);
                lookups.drain(..count).collect()
            };
            if some.is_empty() {
                self.asked.notified().await;
                continue;
            }
            let (keys, answers): (Vec<_>, Vec<_>) = some.into_iter().unzip();
            match self.store.replies(&keys).await {
                // Whoever asked may have gone.
                Ok(found) => {
                    answers.into_iter().zip(found).for_each(|(answer, found)| drop(answer.send(found)))
                }
                Err(error) => {
                    tracing::warn!(error = %error, "the reply cache could not be asked; calls are made instead");
                }
            }
        }
    }

    async fn write(&self) {
        loop {
            self.came.notified().await;
            sleep(GATHERS_FOR).await;
            self.flush().await;
        }
    }

    async fn flush(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        if waiting.is_empty() {
            return;
        }
        let replies = waiting.iter().map(|reply| (reply.key.clone(), reply.body.clone())).collect();
        if let Err(error) = self.store.keep_replies(replies, self.clock.now_ms()).await {
            tracing::warn!(error = %error, "replies could not be kept to be given again");
        }
    }

    /// Keeps what still waits, once nothing more comes. A store that is away is waited for five seconds.
    pub async fn close(&self) {
        if timeout(CLOSES_WITHIN, self.flush()).await.is_err() {
            tracing::warn!("replies could not be kept to be given again");
        }
    }
}

impl Miss {
    /// No reply to it was accepted, and another call may fare no better: rows that wait for it make calls of their own.
    pub(crate) fn failed(self) {
        if let Some(lead) = self.lead {
            lead.tell(UnderWay::Failed);
        }
    }
}

impl Sharing {
    /// What the reply to a request to this model is kept under.
    pub(crate) fn key(&self, batch: BatchId, target: &Target, request: &ChatRequest) -> ReplyKey {
        let batch = (self.scope == CacheScope::Batch).then_some(batch);
        let mut hash = Sha256::new();
        // Each part with its length before it, so that no two requests are written alike.
        let mut put = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        put(b"promptmill reply 1");
        put(self.tenant.as_str().as_bytes());
        put(batch.as_ref().map_or(&[][..], |batch| batch.as_bytes()));
        put(target.reference.to_string().as_bytes());
        put(json(&*request.settings).as_bytes());
        match &request.format {
            ResponseFormat::Text => put(b"text"),
            ResponseFormat::Json => put(b"json"),
            ResponseFormat::Schema(schema) => {
                put(b"schema");
                put(schema.name.as_bytes());
                put(json(&schema.schema).as_bytes());
            }
        }
        for message in &request.messages {
            put(message.role.as_str().as_bytes());
            put(message.content.as_bytes());
        }
        ReplyKey { tenant: self.tenant.clone(), batch, digest: hash.finalize().into() }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("settings and schemas have string keys only")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole entries only: a panic in between leaves a usable value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
