//! `Lanes`: what lanes learned, one row each.

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_ports::{LaneRecord, Lanes, StoreResult};
use rusqlite::params;

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};

/// What the tables gained for lanes.
pub(crate) const STEP: &str = "
    CREATE TABLE lanes(
        lane TEXT PRIMARY KEY, paused_until_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL, learned TEXT NOT NULL) WITHOUT ROWID;
";

/// About what writing a lane costs in a group.
const LANE: usize = 512;

#[async_trait]
impl Lanes for SqliteStore {
    async fn lanes(&self) -> StoreResult<Vec<LaneRecord>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT lane, paused_until_ms, at_ms, learned FROM lanes")?;
            let mut rows = statement.query([])?;
            let mut lanes = Vec::new();
            while let Some(row) = rows.next()? {
                lanes.push(LaneRecord {
                    lane: LaneId::from_stored(row.get(0)?),
                    paused_until_ms: row.get(1)?,
                    at_ms: row.get(2)?,
                    learned: from_json(&row.get::<_, String>(3)?, "what a lane learned")?,
                });
            }
            Ok(lanes)
        })
        .await
    }

    async fn keep_lanes(&self, lanes: &[LaneRecord]) -> StoreResult<()> {
        let lanes = lanes.to_vec();
        self.write(LANE * lanes.len(), move |db| {
            let sql = "INSERT INTO lanes(lane, paused_until_ms, at_ms, learned) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT DO UPDATE SET
                    paused_until_ms = max(paused_until_ms, excluded.paused_until_ms),
                    learned = CASE WHEN excluded.at_ms >= at_ms THEN excluded.learned ELSE learned END,
                    at_ms = max(at_ms, excluded.at_ms)";
            let mut statement = db.prepare_cached(sql)?;
            for lane in &lanes {
                statement.execute(params![
                    lane.lane.as_str(),
                    int(lane.paused_until_ms),
                    int(lane.at_ms),
                    to_json(&lane.learned)
                ])?;
            }
            Ok(())
        })
        .await
    }
}
