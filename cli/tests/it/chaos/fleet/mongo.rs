//! MongoDB changes its primary in the midst of work, and breaks connections off.

use std::process::Command;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use promptmill_doubles::{FaultProxy, Toxic};

use super::{Trial, seed};
use crate::fleet::{Program, Servers, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_steps_down_or_is_killed_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::set(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    trial.fleet.servers.replica_set().step_down(10);
    load.wait_for_more("batches after the step-down", 6, |told| &told.acked).await;
    trial.look().await;
    let set = trial.fleet.servers.replica_set();
    let primary = set.primary();
    set.kill(primary);
    let last_fault = Instant::now();
    load.wait_for_more("batches under the next primary", 6, |told| &told.acked).await;
    trial.look().await;
    trial.fleet.servers.replica_set().restart(primary);
    load.end().await;
    trial.conclude("step-down, then kill -9, of MongoDB's primary", last_fault).await;
}

/// Some of these commands end so, before or after they took effect.
fn some(commands: &[&str], how: Document) -> Document {
    let mut data = doc! { "failCommands": commands, "appName": "promptmill" };
    data.extend(how);
    doc! { "configureFailPoint": "failCommand", "mode": { "activationProbability": 0.1 }, "data": data }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_break_off_before_or_after_they_took_effect_are_done_once() {
    let stepped_down = doc! { "code": 189, "codeName": "PrimarySteppedDown", "errmsg": "stepped down" };
    let mut trial = Trial::begin(seed(1), "5..30", Servers::own(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    for command in ["insert", "update", "findAndModify"] {
        for how in [doc! { "closeConnection": true }, doc! { "writeConcernError": stepped_down.clone() }] {
            trial.fleet.servers.own_server().command("admin", some(&[command], how));
            load.wait_for_more("batches", 3, |told| &told.acked).await;
        }
        trial.look().await;
    }
    let heal = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    trial.fleet.servers.own_server().command("admin", heal);
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("failCommand on insert, update, findAndModify", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_that_stands_still_for_longer_than_a_session_lives_kills_nobody() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::own(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    let mongod = trial.fleet.servers.own_server().process_id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &mongod]).status().unwrap().success());
    signal("-STOP");
    // The time itself is the fault here: a session is dead after six seconds in which the store could be read.
    tokio::time::sleep(Duration::from_secs(9)).await;
    signal("-CONT");
    let last_fault = Instant::now();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    trial.look().await;
    load.end().await;
    trial.conclude("SIGSTOP of mongod for 9 s", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_from_mongodb_alone_is_replaced_and_changes_nothing() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::own(), Size::ONE);
    let port = trial.fleet.servers.own_server().port();
    let proxy = FaultProxy::start(([127, 0, 0, 1], port).into()).unwrap();
    // The driver would go to where the server says it is, past the proxy.
    let url = format!("mongodb://{}/?directConnection=true", proxy.addr());
    trial.scene.desk.set("PROMPTMILL_MONGO_URL", &url);
    let second = Program::start(&trial.scene.desk, "worker", 1, &["--concurrency", "16"]);
    trial.fleet.workers.push(second);
    let load = trial.load();
    // Nothing passes; commands arrive and are not answered; nobody listens.
    for toxic in [Toxic::BlackHole, Toxic::Mute, Toxic::Refuse] {
        load.wait_for_more("batches", 6, |told| &told.acked).await;
        trial.wait_for_calls_of_every_worker(16);
        proxy.set(toxic);
        trial.wait_until_worker_is_dead(1);
        trial.look().await;
        proxy.set(Toxic::None);
        trial.wait_for_end_of_worker(1).await;
        trial.fleet.workers[1].restart(&trial.scene.desk);
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("one worker cut off from MongoDB", last_fault).await;
}
