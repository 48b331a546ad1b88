//! Two faults in the same moment.

use std::time::Instant;

use super::{Trial, seed};
use crate::chaos::scene::wait_until;
use crate::fleet::{Servers, Size};

/// Kills a worker that has work and lets `also` happen, twice.
async fn a_kill_and(servers: Servers, fault: &str, also: impl Fn(&mut Servers)) {
    let mut trial = Trial::begin(seed(1), "20..80", servers, Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    for nth in 0..2 {
        load.wait_for_more("batches", 6, |told| &told.acked).await;
        wait_until("calls", || trial.scene.doubles.ledger().totals().in_flight > 0);
        trial.kill_worker(nth);
        also(&mut trial.fleet.servers);
        load.wait_for_more("batches", 4, |told| &told.acked).await;
        trial.look().await;
        trial.fleet.workers[nth].restart(&trial.scene.desk);
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude(fault, last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_and_an_emptied_redis_together_lose_nothing() {
    a_kill_and(Servers::start(), "kill -9 of a worker and FLUSHALL", |servers| servers.redis.flush()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_and_a_primary_that_steps_down_together_lose_nothing() {
    a_kill_and(Servers::set(), "kill -9 of a worker and a step-down", |servers| {
        servers.replica_set().step_down(5);
    })
    .await;
}
