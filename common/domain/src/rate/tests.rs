//! Lanes against simulated providers, in virtual time: minutes of a fleet in milliseconds, the same for the same seed.
//!
//! The cells are those that `bench/limits` measures with real processes.

mod fleet;
mod provider;
mod rules;

use fleet::{Fleet, Story};
use provider::{Answer, Hints, Limit, Provider, Trouble};

const SEEDS: [u64; 3] = [1, 2, 3];
const WORKERS: [usize; 2] = [1, 3];

/// As many rows as nobody gets through in the time of a cell.
const ENDLESS: u64 = 10_000_000;

fn rows(provider: &Provider, workers: usize, rows: u64, seed: u64) -> Story {
    let story = Fleet::new(provider.clone(), workers, rows, seed).run();
    assert_eq!(story.taken, rows, "a row was lost");
    story
}

fn minutes(provider: Provider, workers: usize, secs: f64, seed: u64) -> Story {
    let mut fleet = Fleet::new(provider, workers, ENDLESS, seed);
    fleet.ends_at = secs;
    fleet.run()
}

/// Every seed and number of workers uses `used` of the limit and has fewer than `refused` of its calls refused.
#[track_caller]
fn check(provider: &Provider, number: u64, used: f64, refused: f64) {
    for workers in WORKERS {
        for seed in SEEDS {
            let story = rows(provider, workers, number, seed);
            let cell = format!("{workers} workers, seed {seed}");
            assert!(story.used() >= used, "{cell}: {:.4} used", story.used());
            assert!(story.refused_part() < refused, "{cell}: {:.4} refused", story.refused_part());
        }
    }
}

#[test]
fn a_limit_that_is_told_is_used_fully_and_kept() {
    for number in [600, 3_000] {
        check(&Provider::bucket(600.0, Hints::Headers), number, 0.98, 0.01);
        check(&Provider::bucket(137.0, Hints::Headers), number, 0.98, 0.01);
    }
    check(&Provider::bucket(4_321.0, Hints::Headers), 3_000, 0.98, 0.01);
}

#[test]
fn a_limit_of_which_only_retry_after_is_told_is_found_and_kept() {
    for number in [600, 3_000] {
        check(&Provider::bucket(600.0, Hints::RetryAfter), number, 0.95, 0.02);
        check(&Provider::bucket(137.0, Hints::RetryAfter), number, 0.95, 0.02);
    }
    check(&Provider::bucket(4_321.0, Hints::RetryAfter), 3_000, 0.95, 0.02);
}

#[test]
fn a_limit_of_which_nothing_is_told_is_found_and_kept() {
    for number in [600, 3_000] {
        check(&Provider::bucket(600.0, Hints::None), number, 0.90, 0.03);
        check(&Provider::bucket(137.0, Hints::None), number, 0.90, 0.03);
    }
    check(&Provider::bucket(4_321.0, Hints::None), 3_000, 0.90, 0.03);
}

#[test]
fn a_slow_limit_is_found_and_kept_too() {
    for rpm in [20.0, 50.0] {
        for (hints, used, refused) in
            [(Hints::Headers, 0.85, 0.03), (Hints::RetryAfter, 0.70, 0.10), (Hints::None, 0.70, 0.10)]
        {
            check(&Provider::bucket(rpm, hints), 400, used, refused);
        }
    }
}

#[test]
fn a_lane_that_rested_for_an_hour_is_as_good_as_a_new_one() {
    for hints in [Hints::Headers, Hints::RetryAfter, Hints::None] {
        for workers in WORKERS {
            for seed in SEEDS {
                let story =
                    Fleet::new(Provider::bucket(600.0, hints), workers, 600, seed).begins_at(3_600.0).run();
                assert_eq!(story.taken, 600);
                let cell = format!("{hints:?}, {workers} workers, seed {seed}");
                assert!(story.used() > 0.9, "{cell}: {:.4} used", story.used());
                assert!(story.refused_part() < 0.03, "{cell}: {:.4} refused", story.refused_part());
            }
        }
    }
}

#[test]
fn a_limit_that_changes_is_followed() {
    for hints in [Hints::None, Hints::RetryAfter, Hints::Headers] {
        for workers in WORKERS {
            for seed in SEEDS {
                let mut provider = Provider::bucket(600.0, hints);
                provider.rates = vec![(0.0, 10.0), (180.0, 200.0 / 60.0), (360.0, 20.0)];
                let story = minutes(provider, workers, 540.0, seed);
                for begin in [30.0, 210.0, 390.0] {
                    let (used, refused) = (
                        story.used_between(begin, begin + 150.0),
                        story.refused_between(begin, begin + 150.0),
                    );
                    let cell = format!("{hints:?}, {workers} workers, seed {seed}, from {begin} s");
                    assert!(used >= 0.9, "{cell}: {used:.4} used");
                    assert!(refused < 0.03, "{cell}: {refused:.4} refused");
                }
            }
        }
    }
}

#[test]
fn calls_that_are_counted_by_the_minute_are_used_up_too() {
    let fixed = Limit::Fixed { period: 60.0, window: 0, used: 0 };
    let sliding = Limit::Sliding { period: 60.0, taken: Default::default() };
    // What is told, and how much of the limit is used and refused at worst, once the first minutes are over.
    let cases = [
        (fixed.clone(), Hints::Headers, 0.98, 0.01),
        (fixed.clone(), Hints::RetryAfter, 0.95, 0.02),
        (fixed, Hints::None, 0.90, 0.08),
        (sliding.clone(), Hints::Headers, 0.75, 0.08),
        (sliding.clone(), Hints::RetryAfter, 0.60, 0.20),
        (sliding, Hints::None, 0.60, 0.08),
    ];
    for (limit, hints, least, most) in cases {
        for workers in WORKERS {
            for seed in SEEDS {
                let story = minutes(Provider::new(limit.clone(), 600.0, hints), workers, 600.0, seed);
                let (used, refused) = (story.used_between(300.0, 600.0), story.refused_between(300.0, 600.0));
                let cell = format!("{limit:?}, {hints:?}, {workers} workers, seed {seed}");
                assert!(used >= least, "{cell}: {used:.4} used");
                assert!(refused < most, "{cell}: {refused:.4} refused");
            }
        }
    }
}

#[test]
fn lanes_that_share_a_limit_of_which_they_do_not_know_find_their_parts() {
    for hints in [Hints::None, Hints::RetryAfter, Hints::Headers] {
        for seed in SEEDS {
            let fleet = Fleet::new(Provider::bucket(600.0, hints), 2, 3_000, seed).with_lanes(2);
            let story = fleet.run();
            assert_eq!(story.taken, 3_000, "a row was lost");
            assert!(story.refused_part() < 0.05, "{hints:?}, seed {seed}: {:.4}", story.refused_part());
            assert!(story.used() > 0.95, "{hints:?}, seed {seed}: {:.4}", story.used());
        }
    }
}

#[test]
fn a_minute_of_trouble_costs_few_calls_and_its_end_is_noticed_soon() {
    let storm = Answer::TooOften(Default::default(), None);
    for answer in [storm, Answer::TooMany, Answer::Away, Answer::Silence] {
        for workers in WORKERS {
            for seed in SEEDS {
                let mut provider = Provider::bucket(600.0, Hints::None);
                provider.trouble = Some(Trouble { from: 60.0, to: 120.0, answer });
                let story = minutes(provider, workers, 180.0, seed);
                let cell = format!("{answer:?}, {workers} workers, seed {seed}");
                let calls = story.calls_between(60.0, 120.0);
                assert!(calls < 20, "{cell}: {calls} calls");
                let after = story.used_between(125.0, 135.0);
                assert!(after >= 0.9, "{cell}: {after:.3} used after the trouble");
            }
        }
    }
}

#[test]
fn a_server_with_few_slots_is_kept_busy_and_its_queue_is_not_overrun() {
    for workers in WORKERS {
        for seed in SEEDS {
            let mut provider = Provider::new(Limit::Free, 1e9, Hints::None);
            provider.slots = Some((4, 8));
            provider.takes = (0.5, 1.5);
            let story = minutes(provider, workers, 180.0, seed);
            assert_eq!(story.refused_between(30.0, 180.0), 0.0);
            // Four slots and a second a call.
            assert!(story.calls_between(30.0, 180.0) as f64 > 0.95 * 4.0 * 150.0);
        }
    }
}

#[test]
fn a_lane_whose_state_was_lost_begins_with_nothing_saved_up_and_does_not_learn_anew() {
    for workers in WORKERS {
        for seed in SEEDS {
            let mut fleet = Fleet::new(Provider::bucket(600.0, Hints::None), workers, 1_200, seed);
            fleet.forget_at = Some(60.0);
            let story = fleet.run();
            assert_eq!(story.taken, 1_200);
            let block = 1;
            assert!(story.calls_between(60.0, 61.0) <= 10 + 1 + workers * block);
            let past = story.calls.iter().filter(|(at, taken)| !taken && (60.0..70.0).contains(at)).count();
            assert!(past <= workers * block, "{workers} workers, seed {seed}: {past} calls past the limit");
            assert!(story.used() > 0.95 && story.refused_part() < 0.03);
        }
    }
}

#[test]
fn a_provider_without_limits_is_soon_called_as_often_as_there_is_work() {
    let mut provider = Provider::new(Limit::Free, 1e9, Hints::None);
    provider.takes = (0.5, 3.0);
    let slow = minutes(provider.clone(), 1, 9.0, 1);
    assert!(slow.calls_between(8.0, 9.0) > 100, "{}", slow.calls_between(8.0, 9.0));
    provider.takes = (0.0, 0.002);
    let quick = minutes(provider, 1, 0.6, 1);
    assert!(quick.calls_between(0.5, 0.6) > 15, "{}", quick.calls_between(0.5, 0.6));
}

#[test]
fn a_provider_that_refuses_by_chance_is_not_taken_for_a_slow_one() {
    // Without a word, and with a second to wait, for which the whole lane stands still.
    for (chance, secs) in [((0.012, 0.0), 30.0), ((0.05, 0.0), 60.0), ((0.012, 0.005), 90.0)] {
        for takes in [(0.0, 0.002), (0.08, 0.25)] {
            for seed in SEEDS {
                let mut provider = Provider::new(Limit::Free, 1e9, Hints::None);
                (provider.takes, provider.chance) = (takes, chance);
                let mut fleet = Fleet::new(provider, 1, 20_000, seed);
                fleet.ends_at = secs;
                assert_eq!(fleet.run().taken, 20_000, "{chance:?} {takes:?} seed {seed}");
            }
        }
    }
}
