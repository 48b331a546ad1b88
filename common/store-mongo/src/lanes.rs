//! `Lanes`: what lanes learned, one document each.

use async_trait::async_trait;
use mongodb::bson::doc;
use promptmill_domain::LaneId;
use promptmill_ports::{LaneRecord, Lanes, StoreResult};

use crate::MongoStore;
use crate::codec::{Fields, from_json, int, to_json};
use crate::collections::LANES;
use crate::commands::{Concern, Query, Update};

#[async_trait]
impl Lanes for MongoStore {
    async fn lanes(&self) -> StoreResult<Vec<LaneRecord>> {
        let found = self.commands().find(LANES, Query::of(doc! {}), Concern::Majority).await?;
        let read = |document| {
            let fields = Fields(document);
            Ok(LaneRecord {
                lane: LaneId::from_stored(fields.text("_id")?.to_owned()),
                learned: from_json(fields.text("learned")?, "what a lane learned")?,
                paused_until_ms: fields.uint("paused_until_ms")?,
                at_ms: fields.uint("at_ms")?,
            })
        };
        found.iter().map(read).collect()
    }

    async fn keep_lanes(&self, lanes: &[LaneRecord]) -> StoreResult<()> {
        if lanes.is_empty() {
            return Ok(());
        }
        let write = |lane: &LaneRecord| {
            let at_ms = int(lane.at_ms);
            let is_newer = doc! { "$gte": [at_ms, { "$ifNull": ["$at_ms", 0_i64] }] };
            let learned = doc! { "$cond": [is_newer, { "$literal": to_json(&lane.learned) }, "$learned"] };
            let change = doc! { "$set": {
                "learned": learned,
                "paused_until_ms": { "$max": ["$paused_until_ms", int(lane.paused_until_ms)] },
                "at_ms": { "$max": ["$at_ms", at_ms] },
            } };
            Update::upsert_by(doc! { "_id": lane.lane.as_str() }, vec![change])
        };
        self.commands().update(LANES, lanes.iter().map(write).collect()).await.map(|_| ())
    }
}
