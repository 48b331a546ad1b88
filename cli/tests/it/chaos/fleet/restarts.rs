//! SIGTERM and a new start of every process, one after another, as an upgrade does it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Trial, seed};
use crate::fleet::{Fleet, Program, Servers, Size};

/// Stops a process in order and starts it again.
fn restart(trial: &mut Trial, choose: impl Fn(&mut Fleet) -> &mut Program) {
    let program = choose(&mut trial.fleet);
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    program.restart(&trial.scene.desk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_restarted_in_order_fail_no_request_and_repeat_no_call() {
    let mut trial = Trial::begin(seed(1), "20..80", Servers::start(), Size::TWO);
    // The clients use the api that stays, as they would behind a balancer; the other one is restarted while it is idle.
    let load = trial.load();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    for n in 0..2 {
        restart(&mut trial, |fleet| &mut fleet.workers[n]);
        load.wait_for_more("batches", 3, |told| &told.acked).await;
        restart(&mut trial, |fleet| &mut fleet.schedulers[n]);
        load.wait_for_more("batches", 3, |told| &told.acked).await;
        trial.look().await;
    }
    restart(&mut trial, |fleet| &mut fleet.apis[1]);
    let last_fault = Instant::now();
    load.wait_for_more("batches", 3, |told| &told.acked).await;
    let told = load.told();
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    assert_eq!((count(&told.unknown), count(&told.refused)), (0, 0), "every request was answered well");
    load.end().await;
    trial.conclude("SIGTERM of every process in turn", last_fault).await;
}
