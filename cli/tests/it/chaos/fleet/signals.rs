//! Pub/sub is cut: subscriptions break again and again, or nobody may publish. Work finishes all the same.

use std::time::{Duration, Instant};

use super::{Trial, seed};
use crate::fleet::{Servers, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_finishes_while_subscriptions_break_all_the_time() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    for nth in 0..100 {
        trial.fleet.servers.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        // The time itself is the fault here: hubs subscribe again within that.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if nth % 40 == 0 {
            trial.look().await;
        }
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("subscriptions killed for 10 s", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_finishes_though_nobody_may_publish() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size { workers: 2, ..Size::ONE });
    let last_fault = Instant::now();
    trial.fleet.servers.redis.command(&["ACL", "SETUSER", "default", "-publish"]);
    let load = trial.load();
    load.wait_for_more("batches", 12, |told| &told.acked).await;
    trial.look().await;
    load.end().await;
    trial.conclude("PUBLISH denied", last_fault).await;
}
