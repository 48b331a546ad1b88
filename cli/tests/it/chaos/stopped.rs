//! SIGSTOP and SIGCONT of the server, stopped for longer than it takes to declare a session dead.

use std::time::{Duration, Instant};

use promptmill_doubles::Config;

use super::scene::{SLOTS, Scene, wait_until};
use crate::checker::history::Allowed;
use crate::checker::table;

/// A session is dead after six seconds.
const STOPPED_FOR: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_stopped_for_longer_than_a_session_lives_goes_on() {
    let seed = 1;
    let mut scene = Scene::new(Config { seed, latency: "5..60".parse().unwrap(), ..Config::default() });
    let server = scene.first_server();
    let client = server.client();
    let load = scene.load(&client, seed, 4, 10_000);
    load.wait_for_more("some batches", 12, |told| &told.acked).await;
    scene.look(&client).await;
    let doubles = scene.doubles.clone();
    let calls = || doubles.ledger().totals().calls;
    server.signal("-STOP");
    let stopped = Instant::now();
    wait_until("calls under way to be answered", || doubles.ledger().totals().in_flight == 0);
    let at_rest = calls();
    // The time itself is the fault here.
    tokio::time::sleep(STOPPED_FOR.saturating_sub(stopped.elapsed())).await;
    assert_eq!(calls(), at_rest, "a stopped process calls nobody");
    server.signal("-CONT");
    let last_fault = Instant::now();
    load.wait_for_more("more batches", 8, |told| &told.acked).await;
    wait_until("calls to go on", || calls() > at_rest);
    load.end().await;
    scene.drain(&client, last_fault).await;
    scene.stop(server);
    let allowed = Allowed { deaths: 1, slots: SLOTS, ..Allowed::NOTHING };
    table::conclude("SIGSTOP for 8 s, SIGCONT", seed, &scene.history, &allowed);
}
