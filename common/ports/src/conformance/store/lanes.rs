//! Cases about what is kept of lanes.

use promptmill_domain::LaneId;
use promptmill_domain::rate::Learned;

use crate::{LaneRecord, Store};

fn record(lane: &str, per_s: f64, paused_until_ms: u64, at_ms: u64) -> LaneRecord {
    let learned = Learned { per_s: Some(per_s), burst: None, concurrency: Some(7) };
    LaneRecord { lane: LaneId::new("lanes", lane), learned, paused_until_ms, at_ms }
}

/// See its name.
pub async fn what_is_kept_of_lanes_is_the_newest_and_the_longest_pause(store: &dyn Store) {
    assert_eq!(store.lanes().await.unwrap(), []);
    store.keep_lanes(&[]).await.unwrap();
    let (one, other) = (record("one", 2.5, 0, 10), record("other", 9.0, 500, 10));
    store.keep_lanes(&[one.clone(), other.clone()]).await.unwrap();
    let sorted = async || {
        let mut lanes = store.lanes().await.unwrap();
        lanes.sort_by(|a, b| a.lane.as_str().cmp(b.lane.as_str()));
        lanes
    };
    assert_eq!(sorted().await, [one, other.clone()]);
    // What is older says nothing new of the rate, and a pause that ends later holds.
    store.keep_lanes(&[record("one", 99.0, 800, 9), record("other", 3.0, 100, 11)]).await.unwrap();
    assert_eq!(sorted().await, [record("one", 2.5, 800, 10), record("other", 3.0, 500, 11)]);
}
