//! Rows that a server gives at each tick. They become the newest version of the schedule's own row set, unless the server says that they are those which are kept.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use promptmill_domain::schedule::HttpRows;
use promptmill_domain::{RowSetId, Schedule, TenantId, Tick, UploadId};
use promptmill_egress::{GuardedClient, HeaderMap, extra_headers};
use promptmill_intake::{
    Asked, HandedOn, NoRows, Refused, RowsOf, ServedRows, Taken, UsedUp, digest_text, read_and_pack_beside,
    same_ids, served_rows, unpacked,
};
use promptmill_ports::{Origin, RowBlock, RowSet, RowSetVersion, StoreError, StoreResult, TickKey};
use promptmill_rowio::RowLimits;
use promptmill_runtime::Engine;
use promptmill_runtime::places::{Place, Places};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::rows::next_blocks;
use super::start::{NotStarted, may_still};
use crate::config::Recurring;

/// Servers that are asked at the same time, for all tenants and for one.
const ASKING: usize = 64;
const ASKING_OF_TENANT: usize = 8;

/// Ticks of which is remembered that they found no place.
const MOST_CROWDED: usize = 100_000;

/// Pieces of an answer, and blocks, on their way.
const PIECES_IN_FLIGHT: usize = 8;
const BLOCKS_IN_FLIGHT: usize = 16;

/// Bytes of one answer that are read, as many as a part may have that is sent.
const MOST_BYTES: u64 = 2 << 30;

/// Versions that are kept: a run that is being made may read one before the newest.
const KEPT: usize = 4;

/// How often a version is added anew when another one came between.
const TRIES: u32 = 8;

/// Asks servers for rows.
pub(super) struct Served {
    client: OnceLock<GuardedClient>,
    places: Places<TenantId>,
    /// Ticks that wanted a place and found none.
    crowded: Mutex<HashSet<TickKey>>,
}

impl Default for Served {
    fn default() -> Self {
        let places = Places::within(ASKING_OF_TENANT, ASKING);
        Self { client: OnceLock::new(), places, crowded: Mutex::default() }
    }
}

impl From<NoRows> for NotStarted {
    fn from(error: NoRows) -> Self {
        let why = format!("no rows came: {error}");
        if error.may_pass() { Self::NotNow(why) } else { Self::Never(why) }
    }
}

impl Served {
    /// A place to ask a server with.
    ///
    /// # Errors
    /// `Crowded` where none is free.
    fn enter(&self, tick: &Tick) -> Result<Place<TenantId>, NotStarted> {
        if let Some(place) = self.places.enter(tick.tenant.clone()) {
            return Ok(place);
        }
        let mut crowded = self.crowded();
        if crowded.len() >= MOST_CROWDED {
            crowded.clear();
        }
        crowded.insert((tick.schedule, tick.at_ms));
        Err(NotStarted::Crowded)
    }

    /// The tick waits for no place any more.
    pub(super) fn leave(&self, tick: TickKey) {
        self.crowded().remove(&tick);
    }

    /// Whether the tick found no place when it was tried last.
    pub(super) fn waits(&self, tick: &TickKey) -> bool {
        self.crowded().contains(tick)
    }

    /// Places that are free for a tenant.
    pub(super) fn free(&self, tenant: &TenantId) -> usize {
        let of_tenant = ASKING_OF_TENANT.saturating_sub(self.asking_of(tenant));
        ASKING.saturating_sub(self.asking()).min(of_tenant)
    }

    fn crowded(&self) -> MutexGuard<'_, HashSet<TickKey>> {
        self.crowded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts that wait for a server: of all tenants.
    pub(super) fn asking(&self) -> usize {
        self.places.taken()
    }

    /// The same of one tenant.
    pub(super) fn asking_of(&self, tenant: &TenantId) -> usize {
        self.places.held(tenant)
    }

    fn client(&self, recurring: &Recurring) -> Result<&GuardedClient, NotStarted> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let made = GuardedClient::with_resolver(recurring.sources.clone(), recurring.resolver.clone());
        let client = made.map_err(|error| {
            tracing::error!(error = %error, "servers cannot be asked for rows");
            NotStarted::NotNow("this scheduler can ask nobody for rows".to_owned())
        })?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The rows as the server has them now.
    ///
    /// # Errors
    /// `Crowded` where no place is free to ask it with, `NotNow` where it does not give them or others changed the schedule meanwhile, `Never` where they cannot be used.
    pub(super) async fn newest(
        &self,
        engine: &Engine,
        recurring: &Recurring,
        schedule: &Schedule,
        tick: &Tick,
        http: &HttpRows,
    ) -> Result<RowSetVersion, NotStarted> {
        let _place = self.enter(tick)?;
        let kept = found(engine, schedule).await?;
        let newest = kept.as_ref().and_then(|set| set.version(None));
        let digest = digest(http);
        let origin = newest.and_then(|newest| newest.origin.as_ref()).filter(|origin| origin.asked == digest);
        let asked = Asked {
            url: &http.url,
            headers: opened(recurring, schedule, http)?,
            format: http.format,
            known: origin.map(|origin| origin.etag.as_str()),
        };
        let client = self.client(recurring)?;
        match (served_rows(client, asked, recurring.patience).await?, newest) {
            (None, Some(newest)) => Ok(newest.clone()),
            (None, None) => Err(NoRows::Status(304).into()),
            (Some(rows), _) => {
                let origin = rows.etag.clone().map(|etag| Origin { asked: digest, etag });
                let upload = UploadId::at(engine.clock.now_ms(), rand::random());
                let (taken, bytes) = take(engine, recurring, schedule, upload, rows).await?;
                let version = RowSetVersion {
                    version: 1,
                    upload,
                    blocks: taken.blocks,
                    rows: u64::from(taken.rows),
                    bytes,
                    digest: taken.digest_text(),
                    created_ms: engine.clock.now_ms(),
                    origin,
                };
                keep(engine, schedule, tick, version).await
            }
        }
    }
}

/// What a server is asked for.
fn digest(http: &HttpRows) -> String {
    let text = serde_json::to_vec(http).expect("it is written into memory");
    digest_text(&Sha256::digest(text).into())
}

async fn found(engine: &Engine, schedule: &Schedule) -> StoreResult<Option<RowSet>> {
    match engine.records.row_set(&schedule.tenant, Schedule::own_rows(schedule.id)).await {
        Ok(set) => Ok(Some(set)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The headers that the tenant set for the request.
fn opened(recurring: &Recurring, schedule: &Schedule, http: &HttpRows) -> Result<HeaderMap, NotStarted> {
    let Some(set) = &http.headers else { return Ok(HeaderMap::new()) };
    let context = Schedule::headers_context(&schedule.tenant, schedule.id);
    let closed = || NotStarted::never("the headers for the server of the rows cannot be opened");
    let opened = recurring.vault.open(&context, &set.sealed).map_err(|_| closed())?;
    let set = serde_json::from_slice(opened.expose_secret()).map_err(|_| closed())?;
    extra_headers(&set).map_err(|_| closed())
}

/// Stores rows while they come, invisible still. Answers what they are and how many bytes they take.
async fn take(
    engine: &Engine,
    recurring: &Recurring,
    schedule: &Schedule,
    upload: UploadId,
    rows: ServedRows,
) -> Result<(Taken, u64), NotStarted> {
    let (tenant, set) = (&schedule.tenant, Schedule::own_rows(schedule.id));
    let (send, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
    let (hand_on, mut blocks) = mpsc::channel::<RowBlock>(BLOCKS_IN_FLIGHT);
    let quotas = &recurring.quotas;
    let most = u32::try_from(quotas.batch_rows).unwrap_or(u32::MAX);
    let limits = RowLimits { row_bytes: quotas.row_bytes, rows: most };
    let (format, packing) = (rows.format, rows.packing);
    let reading = tokio::task::spawn_blocking(move || {
        let source = unpacked(pieces, packing).map_err(|error| Refused::NotRows(error.to_string()))?;
        let reader = RowsOf::any().reader(source, format, limits);
        read_and_pack_beside(reader, |block| hand_on.blocking_send(block).is_ok())
    });
    let stored = AtomicU64::new(0);
    // Whoever reads learns by the channel's end that nothing more is wanted.
    let counted = &stored;
    let putting = async move {
        while let Some(block) = blocks.recv().await {
            let blocks = next_blocks(block, &mut blocks);
            let now_ms = engine.clock.now_ms();
            let room = quotas.room_bytes(&engine.store.usage(tenant, now_ms).await?)?;
            let bytes: usize = blocks.iter().map(|block| block.bytes.len() + block.ids.len()).sum();
            if bytes as u64 > room {
                return Err(UsedUp::Bytes.into());
            }
            counted.fetch_add(bytes as u64, Ordering::Relaxed);
            engine.records.put_set_blocks(tenant, set, upload, blocks, now_ms).await?;
        }
        Ok::<_, NotStarted>(())
    };
    let (handed_on, put) = tokio::join!(rows.hand_on(send, MOST_BYTES), putting);
    put?;
    if handed_on? == HandedOn::Cut {
        return Err(NoRows::TooLarge(MOST_BYTES).into());
    }
    let taken = reading.await.map_err(|_| NotStarted::NotNow("the rows could not be read".to_owned()))?;
    let taken = taken.map_err(|refused| NotStarted::Never(refused.told()))?;
    let same = same_ids(engine.records.as_ref(), tenant, set, upload, u64::from(taken.rows)).await?;
    match same.first() {
        Some((first, second)) => {
            let (first, second) = (first + 1, second + 1);
            Err(NotStarted::Never(format!("rows {first} and {second} have the same custom_id")))
        }
        None => Ok((taken, stored.into_inner())),
    }
}

/// Makes it the newest version, unless the newest has the same rows; answers the newest then.
async fn keep(
    engine: &Engine,
    schedule: &Schedule,
    tick: &Tick,
    version: RowSetVersion,
) -> Result<RowSetVersion, NotStarted> {
    let set: RowSetId = Schedule::own_rows(schedule.id);
    for _ in 0..TRIES {
        let now_ms = engine.clock.now_ms();
        let kept = found(engine, schedule).await?;
        may_still(engine, schedule, tick).await?;
        let mut kept = kept.unwrap_or_else(|| RowSet {
            id: set,
            tenant: schedule.tenant.clone(),
            name: None,
            versions: Vec::new(),
            created_ms: now_ms,
            ver: 0,
        });
        let newest = match kept.versions.last_mut() {
            // What was stored for it goes with the next sweep.
            Some(newest) if newest.digest == version.digest => {
                if newest.origin == version.origin {
                    return Ok(newest.clone());
                }
                newest.origin.clone_from(&version.origin);
                newest.clone()
            }
            before => {
                let number = before.map_or(1, |before| before.version + 1);
                let newest = RowSetVersion { version: number, ..version.clone() };
                kept.versions.push(newest.clone());
                let old = kept.versions.len().saturating_sub(KEPT);
                kept.versions.drain(..old);
                newest
            }
        };
        kept.ver += 1;
        if engine.records.put_row_set(&kept, now_ms).await? {
            let is_still = may_still(engine, schedule, tick).await;
            if let Err(NotStarted::Never(_)) = is_still {
                // It went with its schedule, and is to go with it again.
                engine.records.delete_row_set(&schedule.tenant, set).await?;
            }
            return is_still.map(|()| newest);
        }
    }
    Err(NotStarted::NotNow("the rows are changed by too many at once".to_owned()))
}
