//! `Sessions`: who is alive, and taking chunks from who is not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use mongodb::bson::{Bson, DateTime, Document, doc};
use promptmill_domain::{ChunkId, Head, HeadEvent, SessionId, WorkerReport};
use promptmill_ports::{BeatAnswer, SAFE_FOR, SessionBeat, Sessions, StoreError, StoreResult};

use crate::MongoStore;
use crate::codec::{Fields, binary, conflict, corrupt, from_json, int, to_json};
use crate::collections::{HEADS, SESSIONS};
use crate::commands::{Commands, Concern, Query, Update};
use crate::{batches, heads, usage};

/// After a write that failed it takes this long until a beat that stands still means something again: as long as it must stand still.
const BEATS_MISSED: Duration = Duration::from_secs(6);
/// How long a session certainly lives on after it began a beat that was taken.
const SURE_FOR: Duration = Duration::from_secs(3);
const _: () =
    assert!(SURE_FOR.as_secs() < SAFE_FOR.as_secs(), "who beat so short a time ago may have been buried");
/// Chunks taken in one step.
const CHUNKS: u32 = 500;
/// How often chunks of sessions that are no more are looked for at most.
const STRAYS_EVERY: Duration = Duration::from_secs(2);

/// When chunks of sessions that are no more were looked for last.
#[derive(Debug, Default)]
pub(crate) struct Strays(Mutex<Option<Instant>>);

impl Strays {
    /// Whether it is time to look again, which counts as looked.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let are_due = looked.is_none_or(|at| now.duration_since(at) >= STRAYS_EVERY);
        if are_due {
            *looked = Some(now);
        }
        are_due
    }
}

/// When sessions of this process began the last beat that was taken. By both clocks: the monotonic one stands still while a machine sleeps, and
/// the other one jumps.
#[derive(Debug, Default)]
pub(crate) struct Beats(Mutex<HashMap<SessionId, Moment>>);

/// A moment by both clocks.
type Moment = (Instant, SystemTime);

fn now() -> Moment {
    (Instant::now(), SystemTime::now())
}

impl Beats {
    fn note(&self, session: SessionId, begun: Moment) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session, begun);
    }

    fn forget(&self, session: SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }

    /// Whether the session cannot have been buried by now.
    fn are_fresh(&self, session: SessionId, (now, wall): Moment) -> bool {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&session).copied();
        begun.is_some_and(|(begun, begun_wall)| {
            let by_wall = wall.duration_since(begun_wall).is_ok_and(|age| age < SURE_FOR);
            by_wall && now.duration_since(begun) < SURE_FOR
        })
    }
}

#[async_trait]
impl Sessions for MongoStore {
    async fn open(&self, session: SessionId, label: &str) -> StoreResult<()> {
        let commands = self.commands();
        let document =
            doc! { "_id": binary(*session.as_bytes()), "label": label, "beat": 0_i64, "alive": true };
        let is_new = commands.insert_one(SESSIONS, &document).await?;
        if is_new || is_alive(commands, session).await? {
            Ok(())
        } else {
            Err(conflict("the session is dead"))
        }
    }

    async fn beat(
        &self,
        session: SessionId,
        beat: u64,
        report: Option<&WorkerReport>,
    ) -> StoreResult<BeatAnswer> {
        let (commands, begun) = (self.commands(), now());
        let report = report.map_or(Bson::Null, |report| to_json(report).into());
        let change = doc! { "$set": { "beat": int(beat), "report": report } };
        if commands.update(SESSIONS, vec![Update::one(living(session), change)]).await?.n == 0 {
            self.beats().forget(session);
            return Ok(BeatAnswer::Dead);
        }
        self.beats().note(session, begun);
        usage::write_beside(self);
        Ok(BeatAnswer::Alive { changes: batches::changes(commands).await? })
    }

    async fn sessions(&self) -> StoreResult<Vec<SessionBeat>> {
        let query = Query::of(doc! { "alive": true }).sort(doc! { "_id": 1 });
        let found = self.commands().find(SESSIONS, query, Concern::Majority).await?;
        found
            .iter()
            .map(|found| {
                let fields = Fields(found);
                let report = fields.maybe_text("report")?;
                Ok(SessionBeat {
                    session: SessionId::from_bytes(fields.id("_id")?),
                    label: fields.text("label")?.to_owned(),
                    beat: fields.uint("beat")?,
                    report: report.map(|json| from_json(json, "the report of a worker")).transpose()?,
                })
            })
            .collect()
    }

    async fn bury(&self, session: SessionId, beat: u64, now_ms: u64) -> StoreResult<Option<u32>> {
        let commands = self.commands();
        if commands.write_failed_within(BEATS_MISSED) {
            return Err(StoreError::unavailable("writes failed a moment ago, beats perhaps among them"));
        }
        self.beats().forget(session);
        let filter = doc! {
            "_id": binary(*session.as_bytes()), "ended": { "$ne": true },
            "$or": [{ "alive": false }, { "beat": int(beat) }],
        };
        let change = doc! { "$set": { "alive": false, "died": DateTime::from_millis(int(now_ms)) } };
        if commands.update(SESSIONS, vec![Update::one(filter, change)]).await?.n == 0 {
            return Ok(None);
        }
        take_chunks(self, session, &HeadEvent::Revoke { owner: session }, now_ms).await.map(Some)
    }

    async fn end(&self, session: SessionId, now_ms: u64) -> StoreResult<u32> {
        let commands = self.commands();
        self.beats().forget(session);
        if let Err(error) = usage::write(commands).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "usage is not counted");
        }
        // Not forgotten before its chunks are back: a sweep must see that nobody died.
        let change = doc! { "$set": { "alive": false, "ended": true } };
        commands.update(SESSIONS, vec![Update::one(living(session), change)]).await?;
        let event = HeadEvent::HandBack { owner: session };
        let taken = take_chunks(self, session, &event, now_ms).await?;
        commands.delete(SESSIONS, doc! { "_id": binary(*session.as_bytes()), "ended": true }).await?;
        Ok(taken)
    }
}

fn living(session: SessionId) -> Document {
    doc! { "_id": binary(*session.as_bytes()), "alive": true }
}

/// Whether the session is registered and neither ended nor dead.
async fn is_alive(commands: &Commands, session: SessionId) -> StoreResult<bool> {
    let query = Query::of(living(session)).fields(doc! { "_id": 1 });
    Ok(commands.find_one(SESSIONS, query, Concern::Local).await?.is_some())
}

/// [`is_alive`] without a question where a beat of a moment ago answers it.
pub(crate) async fn lives(store: &MongoStore, session: SessionId) -> StoreResult<bool> {
    if store.beats().are_fresh(session, now()) {
        return Ok(true);
    }
    is_alive(store.commands(), session).await
}

/// Takes every chunk of a session from it by `event`; answers how many.
pub(crate) async fn take_chunks(
    store: &MongoStore,
    session: SessionId,
    event: &HeadEvent<'_>,
    now_ms: u64,
) -> StoreResult<u32> {
    let mut taken = 0;
    loop {
        let query = Query::of(doc! { "owner": binary(*session.as_bytes()) }).limit(CHUNKS);
        let chunks: Vec<ChunkId> = heads::ids(store.commands(), query, Concern::Local).await?;
        if chunks.is_empty() {
            return Ok(taken);
        }
        let take = |_, head: &mut Head| head.apply(*event, now_ms);
        let changed = heads::change_plain(store, &chunks, take).await?;
        taken += changed.iter().map(|changed| u32::from(changed.is_applied())).sum::<u32>();
    }
}

/// Takes the chunks of sessions that are no more: a claim may have come just after its session was buried, and crashed before it saw that.
pub(crate) async fn take_strays(store: &MongoStore, now_ms: u64) -> StoreResult<()> {
    let commands = store.commands();
    let distinct = doc! { "distinct": HEADS, "key": "owner", "query": { "owner": { "$exists": true } } };
    let owners = commands.run(distinct).await?;
    let owners = owners.get_array("values").map_err(|_| corrupt("an answer"))?.clone();
    if owners.is_empty() {
        return Ok(());
    }
    // Read after the heads: who owns one was registered before.
    let query = Query::of(doc! { "_id": { "$in": owners.clone() } }).fields(doc! { "alive": 1, "ended": 1 });
    let known = commands.find(SESSIONS, query, Concern::Local).await?;
    for id in owners {
        let session = known.iter().find(|session| session.get("_id") == Some(&id));
        if session.is_some_and(|session| Fields(session).flag("alive")) {
            continue;
        }
        let Bson::Binary(id) = &id else { continue };
        let Ok(id) = <[u8; 16]>::try_from(id.bytes.as_slice()) else { continue };
        let owner = SessionId::from_bytes(id);
        // One that is not known any more ended as planned; the dead are remembered.
        let died = session.is_some_and(|session| !Fields(session).flag("ended"));
        let event = if died { HeadEvent::Revoke { owner } } else { HeadEvent::HandBack { owner } };
        let taken = take_chunks(store, owner, &event, now_ms).await?;
        tracing::info!(session = %owner, chunks = taken, "took chunks of a session that is no more");
    }
    Ok(())
}

/// Forgets sessions that died before then.
pub(crate) async fn forget_dead(commands: &Commands, before_ms: u64) -> StoreResult<()> {
    let died = DateTime::from_millis(int(before_ms));
    commands.delete(SESSIONS, doc! { "alive": false, "died": { "$lt": died } }).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_surely_lives_for_a_while_after_its_beat_by_both_clocks_and_not_when_it_was_buried() {
        let (beats, session) = (Beats::default(), SessionId::from_bytes([1; 16]));
        let (at, wall) = now();
        assert!(!beats.are_fresh(session, (at, wall)));
        beats.note(session, (at, wall));
        let shortly = SURE_FOR - Duration::from_millis(1);
        for (passed, passed_by_wall, expected) in [
            (Duration::ZERO, Duration::ZERO, true),
            (shortly, shortly, true),
            (SURE_FOR, shortly, false),
            (shortly, SURE_FOR, false),
        ] {
            let later = (at + passed, wall + passed_by_wall);
            assert_eq!(beats.are_fresh(session, later), expected, "{passed:?} {passed_by_wall:?}");
        }
        assert!(!beats.are_fresh(session, (at, wall - Duration::from_secs(1))), "the clock was set back");
        beats.forget(session);
        assert!(!beats.are_fresh(session, (at, wall)));
    }
}
