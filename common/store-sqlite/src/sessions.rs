//! `Sessions`: who is alive, and taking chunks from who is not.

use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{HeadEvent, SessionId, WorkerReport};
use promptmill_ports::{BeatAnswer, SessionBeat, Sessions, StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, from_json, int, to_json};
use crate::fault::Fault;
use crate::heads::{self, Changed};

const SMALL: usize = 256;

/// After a write that failed it takes this long until a beat that stands still means something again: as long as it must stand still.
const BEATS_MISSED: Duration = Duration::from_secs(6);

#[async_trait]
impl Sessions for SqliteStore {
    async fn open(&self, session: SessionId, label: &str) -> StoreResult<()> {
        let label = label.to_owned();
        self.write(SMALL, move |db| open(db, session, &label)).await
    }

    async fn beat(
        &self,
        session: SessionId,
        beat: u64,
        report: Option<&WorkerReport>,
    ) -> StoreResult<BeatAnswer> {
        let report = report.map(to_json);
        self.write(SMALL + report.as_ref().map_or(0, String::len), move |db| {
            let sql = "UPDATE sessions SET beat = ?2, report = ?3 WHERE id = ?1 AND alive";
            let known = db.prepare_cached(sql)?.execute(params![session.as_bytes(), int(beat), report])?;
            if known == 0 {
                Ok(BeatAnswer::Dead)
            } else {
                Ok(BeatAnswer::Alive { changes: batches::changes(db)? })
            }
        })
        .await
    }

    async fn sessions(&self) -> StoreResult<Vec<SessionBeat>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT id, label, beat, report FROM sessions WHERE alive ORDER BY id")?;
            let mut rows = statement.query([])?;
            let mut sessions = Vec::new();
            while let Some(row) = rows.next()? {
                let report: Option<String> = row.get(3)?;
                sessions.push(SessionBeat {
                    session: SessionId::from_bytes(row.get(0)?),
                    label: row.get(1)?,
                    beat: row.get(2)?,
                    report: report.map(|json| from_json(&json, "the report of a worker")).transpose()?,
                });
            }
            Ok(sessions)
        })
        .await
    }

    async fn bury(&self, session: SessionId, beat: u64, now_ms: u64) -> StoreResult<Option<u32>> {
        if self.write_failed_within(BEATS_MISSED) {
            return Err(StoreError::unavailable("writes failed a moment ago, beats perhaps among them"));
        }
        self.write(SMALL, move |db| bury(db, session, beat, now_ms)).await
    }

    async fn end(&self, session: SessionId, now_ms: u64) -> StoreResult<u32> {
        self.write(SMALL, move |db| {
            db.prepare_cached("DELETE FROM sessions WHERE id = ?1 AND alive")?
                .execute([session.as_bytes()])?;
            take_chunks(db, session, &HeadEvent::HandBack { owner: session }, now_ms)
        })
        .await
    }
}

fn open(db: &Connection, session: SessionId, label: &str) -> Result<(), Fault> {
    let sql = "INSERT OR IGNORE INTO sessions(id, label, beat, alive) VALUES (?1, ?2, 0, 1)";
    db.prepare_cached(sql)?.execute(params![session.as_bytes(), label])?;
    if is_alive(db, session)? { Ok(()) } else { Err(Fault::conflict("the session is dead")) }
}

/// Whether the session is registered and neither ended nor dead.
pub(crate) fn is_alive(db: &Connection, session: SessionId) -> Result<bool, Fault> {
    let sql = "SELECT alive FROM sessions WHERE id = ?1";
    Ok(db.prepare_cached(sql)?.query_row([session.as_bytes()], |row| row.get(0)).optional()?.unwrap_or(false))
}

fn bury(db: &Connection, session: SessionId, beat: u64, now_ms: u64) -> Result<Option<u32>, Fault> {
    let sql = "UPDATE sessions SET alive = 0 WHERE id = ?1 AND (NOT alive OR beat = ?2)";
    if db.prepare_cached(sql)?.execute(params![session.as_bytes(), int(beat)])? == 0 {
        return Ok(None);
    }
    take_chunks(db, session, &HeadEvent::Revoke { owner: session }, now_ms).map(Some)
}

/// Takes every chunk of a session from it by `event`; answers how many.
fn take_chunks(
    db: &Connection,
    session: SessionId,
    event: &HeadEvent<'_>,
    now_ms: u64,
) -> Result<u32, Fault> {
    let mut statement = db.prepare_cached("SELECT id FROM heads WHERE owner = ?1")?;
    let keys =
        statement.query_map([session.as_bytes()], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let mut taken = 0;
    for key in keys {
        if let Changed::Applied(_) = heads::change(db, key, *event, now_ms)? {
            taken += 1;
        }
    }
    Ok(taken)
}

/// Declares every session dead and takes its chunks: the folder's lock says that none of them lives. Answers how many chunks.
pub(crate) fn bury_all(db: &Connection, now_ms: u64) -> Result<u32, Fault> {
    let mut statement = db.prepare_cached("SELECT DISTINCT owner FROM heads WHERE owner IS NOT NULL")?;
    let owners = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<[u8; 16]>, _>>()?;
    let mut taken = 0;
    for owner in owners.into_iter().map(SessionId::from_bytes) {
        taken += take_chunks(db, owner, &HeadEvent::Revoke { owner }, now_ms)?;
    }
    db.prepare_cached("DELETE FROM sessions")?.execute([])?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use promptmill_ports::Retention as _;

    use super::*;
    use crate::SqliteOptions;

    #[tokio::test]
    async fn a_session_that_could_not_beat_is_not_buried_and_failing_writes_show() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap();
        let session = SessionId::from_bytes([1; 16]);
        store.open(session, "test").await.unwrap();
        assert!(store.has_room().await.unwrap());
        // As SQLite does by itself when the disk fails.
        store.write(0, |db| Ok(db.execute_batch("ROLLBACK")?)).await.unwrap_err();
        assert!(matches!(store.has_room().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.bury(session, 0, 1).await, Err(StoreError::Unavailable(_))));
        assert_eq!(store.sessions().await.unwrap().len(), 1);
        // The next beat shows that writes succeed again; what stood still before it says nothing yet.
        store.beat(session, 1, None).await.unwrap();
        assert!(store.has_room().await.unwrap());
        assert!(matches!(store.bury(session, 1, 1).await, Err(StoreError::Unavailable(_))));
    }
}
