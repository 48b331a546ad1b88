//! kill -9 of the api in the midst of submits.

use std::time::{Duration, Instant};

use rand::Rng as _;

use super::{Trial, seed};
use crate::fleet::{Servers, Size};

async fn kills_during_submits(seed: u64) {
    let mut trial = Trial::begin(seed, "5..30", Servers::start(), Size::ONE);
    let load = trial.load();
    for _ in 0..4 {
        load.wait_for_more("batches", trial.dice.random_range(2..6), |told| &told.acked).await;
        let unread = trial.scene.unread(&trial.client, trial.dice.random::<u32>().into(), 3);
        // Any moment of the submits that are under way.
        tokio::time::sleep(Duration::from_micros(trial.dice.random_range(0..40_000))).await;
        trial.fleet.apis[0].kill();
        drop(unread);
        trial.fleet.apis[0].restart(&trial.scene.desk);
        trial.look().await;
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("kill -9 of the api during submits", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_api_during_submits_keeps_what_was_acknowledged_and_tears_nothing() {
    kills_during_submits(seed(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_api_during_submits_does_so_with_other_seeds_too() {
    for more in 1..=2 {
        kills_during_submits(seed(1) + 1_000 * more).await;
    }
}
