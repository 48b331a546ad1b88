//! kill -9 of schedulers, of two beside each other and of the only one.

use std::time::Instant;

use rand::Rng as _;

use super::{Trial, seed};
use crate::fleet::{Servers, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_schedulers_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "5..30", Servers::start(), Size { schedulers: 2, ..Size::ONE });
    let load = trial.load();
    // One of two, the other one, and then both, so that nobody schedules for a while.
    for dead in [&[0][..], &[1], &[0, 1]] {
        load.wait_for_more("batches", trial.dice.random_range(3..8), |told| &told.acked).await;
        for &n in dead {
            trial.fleet.schedulers[n].kill();
        }
        trial.look().await;
        load.wait_for_more("batches", 3, |told| &told.acked).await;
        for &n in dead {
            trial.fleet.schedulers[n].restart(&trial.scene.desk);
        }
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("kill -9 of schedulers", last_fault).await;
}
