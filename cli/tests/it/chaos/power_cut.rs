//! All processes die at once and the last write is torn; and a page of the database that went bad.
//!
//! What a power cut can tear: SQLite writes commits to the log (`promptmill.db-wal`) and, with `synchronous=FULL`, syncs it before the
//! commit is known to anybody, the client whose 2xx it is included. So all bytes of the log up to its length at the moment of an
//! answer are on the disk; those behind it, of commits that nobody was told of, may be there, half there, in no order, or noise. The
//! database file itself is written only by checkpoints, which sync the log first and of which there is none here (the test makes
//! sure: the log stays shorter than the length at which one begins). The log's index (`-shm`) is never synced and may hold anything.

use std::path::Path;
use std::time::Instant;

use promptmill_doubles::Config;
use rand::rngs::StdRng;
use rand::{Rng, RngCore as _, SeedableRng};

use super::scene::{ARGS, SLOTS, Scene, check_log, copy_folder, tally, wait_until};
use super::tear::{Tear, database, log_length, log_of, truncate};
use crate::checker::history::Allowed;
use crate::checker::journal::Answer;
use crate::checker::judge::{Invariant, judge};
use crate::checker::table;
use crate::server::Server;
use crate::support::Desk;

async fn power_cut(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut scene = Scene::new(Config { seed, latency: "5..40".parse().unwrap(), ..Config::default() });
    let server = scene.first_server();
    let (client, key, data) = (server.client(), server.key.clone(), scene.desk.path("data"));
    scene.load(&client, seed, 3, 4).through().await;
    scene.look(&client).await;
    let synced = log_length(&data);
    // What comes now is acknowledged to nobody: outcomes that settle, beats, and submits whose answers are not read.
    let mut unread = scene.unread(&client, seed, 6);
    let calls = || scene.doubles.ledger().totals().calls;
    // Rows are called for once their batch is in the log.
    let enough = calls() + dice.random_range(3..25);
    wait_until("work nobody was told of", || calls() >= enough && log_length(&data) > synced);
    let log = server.kill_and_read();
    unread.shutdown().await;
    check_log(&log);
    scene.keep_calls();
    let allowed = Allowed { deaths: 1, slots: SLOTS, ..Allowed::NOTHING };
    for tear in Tear::ALL {
        let copy = go_on(&scene, &key, |copy| tear.tear(copy, synced, &mut dice)).await;
        table::conclude(&format!("power cut, log {tear:?}").to_lowercase(), seed, &copy.history, &allowed);
    }
    // A disk that had lied about what is synced would be found out.
    let copy = go_on(&scene, &key, |copy| truncate(&log_of(copy), synced / 2)).await;
    let broken = judge(&copy.history, &allowed).broken;
    assert!(broken.contains_key(&Invariant::NothingLost), "{broken:?}");
}

/// Starts the server on a copy of the folder that was torn, and lets it come to the end of all work.
async fn go_on(scene: &Scene, key: &str, tear: impl FnOnce(&Path)) -> Scene {
    let mut copy = scene.fork(&scene.desk.path("data"));
    tear(&copy.desk.path("data"));
    let last_fault = Instant::now();
    let server = Server::start(&copy.desk, key, &ARGS);
    copy.drain(&server.client(), last_fault).await;
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    check_log(&log);
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_with_a_torn_last_write_loses_nothing_acknowledged() {
    for seed in [1, 2] {
        power_cut(seed).await;
    }
}

/// What became of reading one page that went bad.
async fn read_with_a_bad_page(data: &Path, key: &str, good: &[String]) -> &'static str {
    let desk = Desk::new();
    copy_folder(data, &desk.path("data"));
    let server = match Server::try_start(&desk, key, &ARGS) {
        Ok(server) => server,
        Err(said) => {
            check_log(&said);
            let sentences = said.lines().filter(|line| !line.trim().is_empty()).count();
            assert!(sentences == 1 && said.contains("cannot be opened"), "{said}");
            return "refused to start";
        }
    };
    let client = server.client();
    let mut whole = true;
    let list = client.request(reqwest::Method::GET, "/v1/batches").send().await.unwrap();
    let ids: Vec<String> = match list.status().as_u16() {
        200 => {
            let page: serde_json::Value = serde_json::from_str(&list.text().await.unwrap()).unwrap();
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|batch| batch["id"].as_str().unwrap().to_owned())
                .collect()
        }
        _ => Vec::new(),
    };
    let mut seen = 0;
    for id in &ids {
        let path = format!("/v1/batches/{id}/results?end=true");
        let response = client.request(reqwest::Method::GET, &path).send().await.unwrap();
        let ok = response.status().is_success();
        // A stream that breaks off gives what came before; it has no closing line then.
        let mut body = Vec::new();
        let mut response = response;
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&body);
        let mut ended = false;
        for line in text.split_inclusive('\n').filter(|line| ok && line.ends_with('\n')) {
            if line.contains("\"_end\"") {
                ended = true;
            } else {
                assert!(good.contains(&line.to_owned()), "served what was never stored: {line}");
                seen += 1;
            }
        }
        whole &= ok && ended;
    }
    let (_, log) = server.stop();
    check_log(&log);
    if whole && seen == good.len() {
        return "not needed";
    }
    assert!(log.contains("malformed") || log.contains("corrupt") || log.contains("damaged"), "{log}");
    "told"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_went_bad_is_reported_and_never_served_as_data() {
    let mut dice = StdRng::seed_from_u64(7);
    let scene = Scene::new(Config::default());
    let server = scene.first_server();
    let (client, key, data) = (server.client(), server.key.clone(), scene.desk.path("data"));
    for _ in 0..3 {
        assert_eq!(scene.submit(&client, &mut dice, 150).await, Answer::Acked);
    }
    let mut good = Vec::new();
    let (_, list) = client.get("/v1/batches").await;
    for batch in list["data"].as_array().unwrap() {
        let id = batch["id"].as_str().unwrap();
        client.wait_for_state(id, &["completed"]).await;
        let text = client.text(&format!("/v1/batches/{id}/results")).await;
        good.extend(text.split_inclusive('\n').map(str::to_owned));
    }
    assert_eq!(good.len(), 450);
    assert_eq!(server.stop().0, Some(0));
    let healthy = std::fs::read(database(&data)).unwrap();
    let pages = healthy.len() / 4_096;
    let mut ends = Vec::new();
    for nth in 0..10 {
        // The first page is the one nothing can be opened without; the others are spread over the file.
        let page = if nth == 0 { 0 } else { dice.random_range(1..pages) };
        let mut sick = healthy.clone();
        let spot = &mut sick[page * 4_096..(page + 1) * 4_096];
        if dice.random_bool(0.5) {
            dice.fill_bytes(spot)
        } else {
            spot.fill(0)
        }
        std::fs::write(database(&data), &sick).unwrap();
        ends.push(read_with_a_bad_page(&data, &key, &good).await);
    }
    let ends = tally(ends);
    assert!(ends.contains_key("refused to start") && ends.contains_key("told"), "{ends:?}");
}
