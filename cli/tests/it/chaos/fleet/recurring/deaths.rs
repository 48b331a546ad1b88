//! One of two schedulers is killed or stopped again and again, while thirty schedules are due every other second.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{LEADS, Stand, now_ms, second_in};
use crate::chaos::fleet::seed;
use crate::chaos::scene::wait_until;
use crate::checker::recurring::Misfire;

const SCHEDULES: usize = 30;

/// For so long ticks are due.
const TICKING_MS: u64 = 36_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_that_are_killed_and_stopped_by_turns_make_each_batch_once_and_miss_by_policy() {
    let seed = seed(1);
    let mut dice = StdRng::seed_from_u64(seed);
    let mut stand = Stand::begin(seed, 2);
    let start_ms = second_in(3);
    let end_ms = start_ms + TICKING_MS;
    let policies = [Misfire::RunEach { most: 100 }, Misfire::RunOnce, Misfire::Skip];
    // One half of those of each policy is due with every even second, the other half in between.
    for (nth, misfire) in (0..SCHEDULES).zip(policies.into_iter().cycle()) {
        let offset_ms = if (nth / policies.len()).is_multiple_of(2) { 0 } else { 1_000 };
        stand.every(misfire, 2, (start_ms + offset_ms, end_ms)).await;
    }
    let leads = |stand: &Stand| stand.fleet.schedulers.iter().position(|one| one.has_said(&[LEADS]));
    wait_until("a scheduler to lead", || leads(&stand).is_some());
    let leader = leads(&stand).unwrap();
    stand.wait_for_runs(0, 1).await;
    let (mut nth, mut kills, mut stops) = (0, 0, 0);
    while now_ms() < end_ms {
        // Whoever leads is the first, for longer than it takes until the other one does.
        let victim = if nth == 0 { leader } else { dice.random_range(0..2) };
        let away = Duration::from_millis(dice.random_range(if nth == 0 { 6_000..7_000 } else { 0..7_000 }));
        if nth % 2 == usize::from(seed.is_multiple_of(2)) {
            stand.fleet.schedulers[victim].signal("-STOP");
            // The time itself is the fault here, as it is below.
            tokio::time::sleep(away).await;
            stand.fleet.schedulers[victim].signal("-CONT");
            stops += 1;
        } else {
            stand.fleet.schedulers[victim].kill();
            tokio::time::sleep(away / 2).await;
            stand.fleet.schedulers[victim].restart(&stand.desk);
            kills += 1;
        }
        nth += 1;
        // Any moment of what the two do then.
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..2_500))).await;
    }
    let stories = stand.conclude(&format!("{kills} kills, {stops} stops of schedulers"), seed).await;
    let of = |wanted: Misfire| stories.iter().filter(move |story| story.misfire == wanted);
    assert!(of(policies[0]).all(|story| story.missed() == 0));
    assert!(of(Misfire::Skip).any(|story| story.missed() > 0), "the one that led was away for long enough");
}
