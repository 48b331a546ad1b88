//! Faults of a fleet on a real MongoDB and a real Redis: any process is killed or stopped, Redis forgets, MongoDB changes its primary.
//!
//! Each test is one [`Trial`]: clients submit all the time and keep a journal, the fault happens, everything is drained, and the
//! [`checker`](crate::checker) judges. `./chaos` runs them with one seed after another.

mod apis;
mod mongo;
mod neighbours;
mod pairs;
mod pressure;
mod recurring;
mod redis;
mod restarts;
mod schedulers;
mod signals;
mod stopped;
mod webhooks;
mod workers;

use std::time::{Duration, Instant};

use promptmill_doubles::Config;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::scene::{Load, SLOTS, Scene, check_log, wait_until};
use crate::checker::history::Allowed;
use crate::checker::table;
use crate::fleet::{Fleet, Servers, Size};
use crate::server::Http;

/// No worker needs longer to find out that it was taken for dead, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// What no process may have resident at the most, KiB.
const PEAK_KIB: u64 = 192 * 1024;

/// The seed that `PROMPTMILL_FAULT_SEED` asks for, or else the one that is usual for the test.
fn seed(usual: u64) -> u64 {
    std::env::var("PROMPTMILL_FAULT_SEED").map_or(usual, |seed| seed.parse().unwrap())
}

/// One run of a fleet.
struct Trial {
    scene: Scene,
    fleet: Fleet,
    client: Http,
    seed: u64,
    dice: StdRng,
    /// How often a worker was killed, or taken for dead.
    deaths: u64,
}

impl Trial {
    /// A fleet whose provider takes so many milliseconds for a call.
    fn begin(seed: u64, latency: &str, servers: Servers, size: Size) -> Self {
        let config = Config { seed, latency: latency.parse().unwrap(), ..Config::default() };
        let mut scene = Scene::new(config);
        let fleet = Fleet::on(&mut scene.desk, servers, size);
        let client = fleet.client();
        Self { scene, fleet, client, seed, dice: StdRng::seed_from_u64(seed), deaths: 0 }
    }

    /// Four clients that submit until they are ended.
    fn load(&self) -> Load {
        self.scene.load(&self.client, self.seed, 4, 10_000)
    }

    /// Reads what was given out so far.
    async fn look(&mut self) {
        self.scene.look(&self.client).await;
    }

    /// Waits until more calls are under way than the other workers could make.
    fn wait_for_calls_of_every_worker(&self, concurrency: u32) {
        let others = self.fleet.workers.len() as u64 - 1;
        wait_until("calls of every worker", || {
            self.scene.doubles.ledger().totals().in_flight > others * u64::from(concurrency)
        });
    }

    /// kill -9 of a worker.
    fn kill_worker(&mut self, n: usize) {
        self.fleet.workers[n].kill();
        self.deaths += 1;
    }

    /// Waits until the scheduler takes this process of a worker for dead, which counts as a death.
    fn wait_until_worker_is_dead(&mut self, n: usize) {
        self.deaths += 1;
        let label = format!(":{}", self.fleet.workers[n].id());
        wait_until("the worker to be taken for dead", || {
            self.fleet.schedulers[0].has_said(&["a session died", "worker@", &label])
        });
    }

    /// Waits for the end of a worker that was taken for dead, and looks meanwhile: whatever of its ends were accepted would be given out.
    async fn wait_for_end_of_worker(&mut self, n: usize) {
        let ends = async {
            while !self.fleet.workers[n].has_ended() {
                self.scene.look(&self.client).await;
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.expect("a worker that is taken for dead ends");
        assert!(self.fleet.workers[n].has_said(&["declared dead"]));
    }

    /// Waits for the end of all work, stops every process in order, and judges.
    async fn conclude(self, fault: &str, last_fault: Instant) {
        self.conclude_within(PEAK_KIB, fault, last_fault).await;
    }

    /// The same where a process may have so much resident.
    async fn conclude_within(mut self, peak_kib: u64, fault: &str, last_fault: Instant) {
        self.scene.drain(&self.client, last_fault).await;
        self.scene.history.peak_kib = self.fleet.peak_kib();
        check_log(&self.fleet.stop());
        let allowed = Allowed { deaths: self.deaths, slots: SLOTS, peak_kib, ..Allowed::NOTHING };
        table::conclude(&format!("fleet: {fault}"), self.seed, &self.scene.history, &allowed);
    }
}
