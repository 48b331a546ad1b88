//! Writes and syncs that fail: nothing is acknowledged that may not be on the disk, and work goes on when the disk does.

use std::time::Instant;

use promptmill_doubles::Config;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::failing_file::{FailingFile, Fails};
use super::scene::{ARGS, SLOTS, Scene, check_log, wait_until_it};
use super::tear::{Tear, log_length};
use crate::checker::history::Allowed;
use crate::checker::journal::Answer;
use crate::checker::table;
use crate::server::Server;

async fn fails_for_a_while(seed: u64, fails: Fails) {
    let mut scene = Scene::new(Config { seed, latency: "5..30".parse().unwrap(), ..Config::default() });
    let disk = FailingFile::install(&mut scene.desk);
    let server = scene.first_server();
    let client = server.client();
    let mut dice = StdRng::seed_from_u64(seed);
    let load = scene.load(&client, seed, 3, 10_000);
    for _ in 0..2 {
        load.wait_for_more("batches", 5, |told| &told.acked).await;
        scene.look(&client).await;
        disk.fail(fails);
        disk.wait_for_hits(2);
        // Every commit from here on fails, so whatever is sent now must not be acknowledged.
        let answer = scene.submit(&client, &mut dice, 5).await;
        assert_ne!(answer, Answer::Acked, "{fails:?}: acknowledged while no commit could succeed");
        disk.wait_for_hits(6);
        wait_until_it("readiness to say so", async || client.get("/readyz").await.0 == 503).await;
        disk.heal();
        wait_until_it("readiness to return", async || client.get("/readyz").await.0 == 200).await;
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 5, |told| &told.acked).await;
    load.end().await;
    scene.drain(&client, last_fault).await;
    scene.stop(server);
    let allowed = Allowed { deaths: 2, slots: SLOTS, refusals: &[507], ..Allowed::NOTHING };
    table::conclude(&format!("failing {fails:?}").to_lowercase(), seed, &scene.history, &allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_fail_acknowledge_nothing_and_work_goes_on_without_a_restart() {
    fails_for_a_while(1, Fails::Sync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_fail_acknowledge_nothing_and_work_goes_on_without_a_restart() {
    fails_for_a_while(2, Fails::Write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_without_space_acknowledge_nothing_and_work_goes_on_without_a_restart() {
    fails_for_a_while(3, Fails::Space).await;
}

/// After a failed sync the kernel may have thrown away what was not synced: here the process dies, and all of it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_failed_before_a_power_cut_was_never_acknowledged() {
    let seed = 4;
    let mut scene = Scene::new(Config { seed, latency: "5..30".parse().unwrap(), ..Config::default() });
    let disk = FailingFile::install(&mut scene.desk);
    let server = scene.first_server();
    let (client, key, data) = (server.client(), server.key.clone(), scene.desk.path("data"));
    let mut dice = StdRng::seed_from_u64(seed);
    scene.load(&client, seed, 3, 4).through().await;
    scene.look(&client).await;
    let synced = log_length(&data);
    disk.fail(Fails::Sync);
    disk.wait_for_hits(2);
    for _ in 0..4 {
        assert_ne!(scene.submit(&client, &mut dice, 9).await, Answer::Acked);
    }
    check_log(&server.kill_and_read());
    scene.keep_calls();
    Tear::Zeroed.tear(&data, synced, &mut dice);
    disk.heal();
    let last_fault = Instant::now();
    let server = Server::start(&scene.desk, &key, &ARGS);
    scene.drain(&server.client(), last_fault).await;
    check_log(&server.stop().1);
    let allowed = Allowed { deaths: 1, slots: SLOTS, ..Allowed::NOTHING };
    table::conclude("failing sync, then a power cut", seed, &scene.history, &allowed);
}
