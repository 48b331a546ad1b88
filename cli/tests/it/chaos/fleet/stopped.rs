//! SIGSTOP of a worker past its death, and SIGCONT while another one has its chunks.

use std::time::Instant;

use super::{Trial, seed};
use crate::chaos::scene::wait_until;
use crate::checker::journal::Answer;
use crate::fleet::{Servers, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_up_after_it_was_taken_for_dead_changes_nothing() {
    let size = Size { workers: 2, concurrency: 8, ..Size::ONE };
    let mut trial = Trial::begin(seed(1), "150..250", Servers::start(), size);
    assert_eq!(trial.scene.submit(&trial.client, &mut trial.dice, 600).await, Answer::Acked);
    trial.wait_for_calls_of_every_worker(size.concurrency);
    let ledger = trial.scene.doubles.ledger().clone();
    trial.fleet.workers[0].signal("-STOP");
    trial.wait_until_worker_is_dead(0);
    // The replies to its calls lie in its sockets, and the rows of these calls are now another's.
    trial.fleet.workers[0].signal("-CONT");
    let last_fault = Instant::now();
    // Whatever of its ends was accepted would be given out here, and the other worker would call for it later.
    trial.wait_for_end_of_worker(0).await;
    wait_until("the other worker to call for the same rows", || ledger.totals().calls_after_valid > 0);
    trial.fleet.workers[0].restart(&trial.scene.desk);
    trial.conclude("SIGSTOP of a worker past its death, SIGCONT", last_fault).await;
}
