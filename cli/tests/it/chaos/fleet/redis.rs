//! Redis forgets everything, again and again; is killed and comes back empty; stands still.

use std::process::Command;
use std::time::{Duration, Instant};

use promptmill_doubles::{FaultProxy, Toxic};

use super::{Trial, seed};
use crate::chaos::scene::wait_until;
use crate::fleet::{Program, Servers, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_every_two_seconds_for_thirty_loses_nothing() {
    let size = Size { workers: 2, ..Size::ONE };
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), size);
    let load = trial.load();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    for nth in 0..15 {
        trial.fleet.servers.redis.flush();
        // The time itself is the fault here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        if nth % 5 == 0 {
            trial.look().await;
        }
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("FLUSHALL every 2 s for 30 s", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_comes_back_empty_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    for _ in 0..2 {
        load.wait_for_more("batches", 6, |told| &told.acked).await;
        trial.fleet.servers.redis.kill();
        // The store is the truth, so rows are taken in without Redis too.
        load.wait_for_more("batches without Redis", 3, |told| &told.acked).await;
        trial.look().await;
        trial.fleet.servers.redis.restart();
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("Redis killed and restarted empty", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    let redis = trial.fleet.servers.redis.process_id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &redis]).status().unwrap().success());
    signal("-STOP");
    // The time itself is the fault here.
    tokio::time::sleep(Duration::from_secs(5)).await;
    trial.look().await;
    signal("-CONT");
    let last_fault = Instant::now();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    load.end().await;
    trial.conclude("SIGSTOP of Redis for 5 s", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size { workers: 2, ..Size::ONE });
    let load = trial.load();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    trial.fleet.servers.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    load.wait_for_more("batches without room in Redis", 4, |told| &told.acked).await;
    trial.look().await;
    trial.fleet.servers.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("Redis out of memory", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_from_redis_alone_costs_time_and_nothing_else() {
    let mut trial = Trial::begin(seed(1), "20..60", Servers::start(), Size::ONE);
    let proxy = FaultProxy::start(([127, 0, 0, 1], trial.fleet.servers.redis.port()).into()).unwrap();
    trial.scene.desk.set("PROMPTMILL_REDIS_URL", &format!("redis://{}/", proxy.addr()));
    let second = Program::start(&trial.scene.desk, "worker", 1, &["--concurrency", "16"]);
    trial.fleet.workers.push(second);
    let load = trial.load();
    for toxic in [Toxic::BlackHole, Toxic::Refuse] {
        load.wait_for_more("batches", 6, |told| &told.acked).await;
        proxy.set(toxic);
        // The time itself is the fault here: longer than a session lives without a beat.
        tokio::time::sleep(Duration::from_secs(8)).await;
        trial.look().await;
        proxy.set(Toxic::None);
    }
    let last_fault = Instant::now();
    load.wait_for_more("batches", 4, |told| &told.acked).await;
    load.end().await;
    trial.conclude("one worker cut off from Redis", last_fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_sentinel_replaces_and_that_comes_back_costs_time_and_nothing_else() {
    let size = Size { workers: 2, ..Size::ONE };
    let mut trial = Trial::begin(seed(1), "20..60", Servers::watched(), size);
    let load = trial.load();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    let first = trial.fleet.servers.redis.process_id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &first]).status().unwrap().success());
    signal("-STOP");
    let (replica, sentinel) = trial.fleet.servers.watch.as_ref().unwrap();
    // Sentinel is asked, and not a server whose role it changes: that one drops every connection then.
    wait_until("the replica to be the master", || sentinel.has_master(replica));
    load.wait_for_more("batches under the new master", 6, |told| &told.acked).await;
    wait_until("hints to go to the new master", || {
        replica.command(&["INFO", "commandstats"]).contains("cmdstat_zadd")
    });
    trial.look().await;
    // It believes to be the master still, and Sentinel must tell it first.
    signal("-CONT");
    let servers = &trial.fleet.servers;
    let (_, sentinel) = servers.watch.as_ref().unwrap();
    wait_until("the old master to follow the new one", || sentinel.has_replica(&servers.redis));
    let last_fault = Instant::now();
    load.wait_for_more("batches", 6, |told| &told.acked).await;
    load.end().await;
    trial.conclude("SIGSTOP of Redis, Sentinel's failover, SIGCONT", last_fault).await;
}
