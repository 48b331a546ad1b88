//! Single rules of a lane, and what holds for any story at all.

use std::time::Duration;

use proptest::prelude::*;

use crate::rate::{Ask, CallEnd, Ended, LaneLimits, LaneState, Learned, Moment, Quota, RateHints};

fn at(secs: f64) -> Moment {
    Moment::default().after(Duration::from_secs_f64(secs))
}

fn lane(limits: LaneLimits) -> LaneState {
    LaneState::new(at(0.0), limits, &Learned::default())
}

fn others(others: u32) -> Ask {
    Ask { others, ..Ask::default() }
}

fn taken(nth: u64, begun: f64) -> Ended {
    let hints = RateHints::default();
    let took = Duration::from_millis(50);
    Ended { nth, begun: at(begun), took, among: 1, running: 1, end: CallEnd::Taken, hints, tokens_more: 0 }
}

#[test]
fn a_limit_that_was_set_is_never_passed() {
    let mut lane = lane(LaneLimits { requests_per_minute: Some(60), ..LaneLimits::default() });
    let mut begun = 0;
    for tenth in 0..600 {
        let now = f64::from(tenth) / 10.0;
        let grant = lane.grant(at(now), &others(100));
        for nth in 0..u64::from(grant.calls) {
            lane.ended(at(now + 0.05), &taken(grant.first + nth, now));
        }
        begun += grant.calls;
    }
    assert!((58..=60).contains(&begun), "{begun}");
}

#[test]
fn a_limit_that_was_set_holds_after_a_rest_as_well() {
    let mut lane = lane(LaneLimits { requests_per_minute: Some(600), ..LaneLimits::default() });
    for hundredth in 0..2_000 {
        let _ = lane.grant(at(f64::from(hundredth) / 100.0), &others(100));
    }
    assert!(lane.grant(at(4_000.0), &others(1_000)).calls <= 20);
}

#[test]
fn tokens_that_were_used_before_there_was_a_limit_are_not_owed() {
    let mut lane = lane(LaneLimits::default());
    lane.ended(at(1.0), &Ended { tokens_more: 1_000_000_000, ..taken(1, 0.9) });
    lane.set_limits(LaneLimits { tokens_per_minute: Some(6_000), ..LaneLimits::default() });
    let ask = Ask { others: 1, tokens_each: 10, ..Ask::default() };
    assert_eq!(lane.grant(at(3.0), &ask).calls, 1);
    // What a provider says may be nonsense, and costs minutes and not years.
    lane.ended(at(4.0), &Ended { tokens_more: i64::MAX, ..taken(2, 3.0) });
    let _ = lane.grant(at(310.0), &ask);
    assert_eq!(lane.grant(at(320.0), &ask).calls, 1);
}

#[test]
fn a_limit_of_tokens_that_is_told_is_kept() {
    let mut lane = lane(LaneLimits::default());
    let quota = |limit, remaining| Some(Quota { limit, remaining, reset: Some(Duration::from_secs(1)) });
    let hints = RateHints { requests: quota(10_000, 9_900), tokens: quota(60_000, 500) };
    lane.ended(at(1.0), &Ended { hints, ..taken(1, 0.9) });
    let ask = Ask { others: 50, tokens_each: 1_000, ..Ask::default() };
    // A thousand a second come, beside the few that are left; calls would be there for all.
    let begun: u32 = (0..100).map(|tenth| lane.grant(at(1.0 + f64::from(tenth) / 10.0), &ask).calls).sum();
    assert!((9..=11).contains(&begun), "{begun}");
}

#[test]
fn an_outage_at_the_beginning_is_no_full_queue() {
    let mut lane = lane(LaneLimits::default());
    let end = CallEnd::TooMany { retry_after: None };
    for among in [2, 3, 4, 2, 3, 4] {
        lane.ended(at(1.0), &Ended { end, among, ..taken(1, 0.9) });
    }
    assert_eq!(lane.learned().concurrency, None);
    assert_eq!(lane.window(), Some(16));
}

#[test]
fn calls_of_before_a_state_was_lost_do_not_count_ahead() {
    let mut lane = lane(LaneLimits::default());
    let quota = |remaining| Some(Quota { limit: 600, remaining, reset: None });
    let hints = |remaining| RateHints { requests: quota(remaining), tokens: None };
    lane.ended(at(1.0), &Ended { hints: hints(15), ..taken(500_000, 0.5) });
    let first = lane.grant(at(1.1), &others(1)).first;
    lane.ended(at(2.0), &Ended { hints: hints(3), ..taken(first, 1.99) });
    assert!(lane.grant(at(2.0), &others(20)).calls <= 4, "the newer word is heard");
}

#[test]
fn a_new_lane_has_nothing_saved_up() {
    let mut lane = lane(LaneLimits { requests_per_minute: Some(600), ..LaneLimits::default() });
    assert_eq!(lane.grant(at(0.0), &others(100)).calls, 0);
    let grant = lane.grant(at(1.0), &others(100));
    assert_eq!(grant.calls, 10);
    assert_eq!(grant.again_at, Some(at(1.1)));
}

#[test]
fn tokens_are_reserved_and_what_was_really_used_counts() {
    let mut lane = lane(LaneLimits { tokens_per_minute: Some(6_000), ..LaneLimits::default() });
    let ask = Ask { others: 10, tokens_each: 100, ..Ask::default() };
    // A hundred a second came in five seconds; the lane itself still feels its way.
    let mut calls = lane.grant(at(5.0), &ask).calls;
    for step in 1..50 {
        calls += lane.grant(at(5.0 + f64::from(step) / 1_000.0), &ask).calls;
    }
    assert!((1..=5).contains(&calls), "{calls}");
    // The call took five hundred more than was reserved for it, so the next ones wait.
    lane.ended(at(6.0), &Ended { tokens_more: 2_000, ..taken(1, 5.0) });
    let grant = lane.grant(at(6.0), &ask);
    assert_eq!(grant.calls, 0);
    assert!(grant.again_at.unwrap() > at(20.0));
}

#[test]
fn interactive_work_goes_first_and_has_its_own_part() {
    let learned = Learned { per_s: Some(10.0), ..Learned::default() };
    let mut lane = LaneState::new(at(0.0), LaneLimits::default(), &learned);
    let grant = lane.grant(at(1.0), &Ask { interactive: 3, others: 100, ..Ask::default() });
    assert_eq!(grant.calls, 8, "two are kept of ten");
    assert_eq!(lane.grant(at(1.0), &others(100)).calls, 0);
    let grant = lane.grant(at(1.0), &Ask { interactive: 5, others: 100, ..Ask::default() });
    assert_eq!(grant.calls, 2);
}

#[test]
fn what_was_not_used_can_be_given_back() {
    let mut lane = lane(LaneLimits { requests_per_minute: Some(600), ..LaneLimits::default() });
    assert_eq!(lane.grant(at(1.0), &others(10)).calls, 10);
    lane.give_back(4, 0);
    assert_eq!(lane.grant(at(1.0), &others(10)).calls, 4);
}

#[test]
fn nobody_calls_before_the_provider_said() {
    let mut lane = lane(LaneLimits::default());
    let grant = lane.grant(at(1.0), &others(1));
    let end = CallEnd::TooOften { retry_after: Some(Duration::from_secs(7)) };
    lane.ended(at(1.1), &Ended { end, ..taken(grant.first, 1.0) });
    let grant = lane.grant(at(8.0), &others(1));
    assert_eq!((grant.calls, grant.again_at), (0, Some(at(8.1))));
    assert_eq!(lane.grant(at(9.0), &others(1)).calls, 1);
}

#[test]
fn a_provider_that_is_gone_is_asked_by_one_call_at_a_time() {
    let mut lane =
        LaneState::new(at(0.0), LaneLimits::default(), &Learned { per_s: Some(100.0), ..Learned::default() });
    let grant = lane.grant(at(1.0), &others(50));
    for nth in 0..u64::from(grant.calls) {
        lane.ended(at(1.1), &Ended { end: CallEnd::Away, ..taken(grant.first + nth, 1.0) });
    }
    assert!(lane.view(at(1.1)).is_open);
    assert_eq!(lane.grant(at(1.2), &others(50)).calls, 0);
    let probe = lane.grant(at(1.7), &others(50));
    assert_eq!(probe.calls, 1);
    assert_eq!(lane.grant(at(1.8), &others(50)).calls, 0);
    lane.ended(at(1.9), &taken(probe.first, 1.7));
    assert!(!lane.view(at(1.9)).is_open);
    assert!(lane.grant(at(1.9), &others(50)).calls > 1);
}

#[test]
fn calls_of_which_nothing_is_heard_say_that_the_provider_is_gone() {
    let learned = Learned { per_s: Some(100.0), ..Learned::default() };
    let mut lane = LaneState::new(at(0.0), LaneLimits::default(), &learned);
    lane.ended(at(1.0), &taken(1, 0.9));
    let late = |begun: f64| Ended {
        end: CallEnd::Late,
        took: Duration::from_secs_f64(20.0 - begun),
        ..taken(2, begun)
    };
    lane.ended(at(20.0), &late(0.5));
    assert!(!lane.view(at(20.0)).is_open, "others got through since it began");
    lane.ended(at(20.0), &late(5.0));
    assert!(lane.view(at(20.0)).is_open);
}

#[test]
fn the_number_at_the_same_time_is_what_an_operator_says_or_less() {
    let limits = LaneLimits { concurrency: Some(40), ..LaneLimits::default() };
    let mut lane = lane(limits);
    assert_eq!(lane.window(), Some(40), "who says a number need not wait until it is found");
    lane.ended(at(1.0), &taken(1, 0.9));
    let end = CallEnd::TooMany { retry_after: None };
    lane.ended(at(1.1), &Ended { end, among: 13, ..taken(2, 1.0) });
    assert_eq!(lane.window(), Some(40), "one says nothing yet");
    for among in [15, 14] {
        lane.ended(at(1.1), &Ended { end, among, ..taken(2, 1.0) });
    }
    assert_eq!(lane.window(), Some(9));
    assert_eq!(lane.learned().concurrency, Some(9));
}

#[test]
fn what_was_learned_is_known_to_the_next_who_begins() {
    let learned = Learned { per_s: Some(12.5), burst: Some(20.0), concurrency: Some(7) };
    let lane = LaneState::new(at(0.0), LaneLimits::default(), &learned);
    assert_eq!(lane.learned(), learned);
    assert_eq!(lane.window(), Some(7));
    assert_eq!(lane.view(at(0.0)).allowed_per_s, Some(12.5));
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u32, u32, u32),
    End(u64, u8, u32, Option<u64>, Option<(u64, u64, u64)>, i64),
    GiveBack(u32),
}

fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let step = prop_oneof![
        (0..50u32, 0..50u32, 0..10_000u32).prop_map(|(a, b, c)| Step::Grant(a, b, c)),
        (
            any::<u64>(),
            0..6u8,
            any::<u32>(),
            proptest::option::of(any::<u64>()),
            proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>())),
            any::<i64>()
        )
            .prop_map(|(n, k, r, a, h, t)| Step::End(n, k, r, a, h, t)),
        (0..50u32).prop_map(Step::GiveBack),
    ];
    proptest::collection::vec((0..5_000_000u32, step), 0..200)
}

proptest! {
    /// Whatever a provider says, however late and in whatever order, the lane stays one, and lets no more begin than wait.
    #[test]
    fn no_story_breaks_a_lane(steps in steps(), rpm in proptest::option::of(any::<u32>()), tpm in proptest::option::of(any::<u32>())) {
        let limits = LaneLimits { requests_per_minute: rpm, tokens_per_minute: tpm, concurrency: None };
        let mut lane = LaneState::new(Moment::default(), limits, &Learned::default());
        let mut micros = 0u64;
        for (pause, step) in steps {
            micros += u64::from(pause);
            let now = Moment::from_micros(micros);
            match step {
                Step::Grant(interactive, others, tokens_each) => {
                    let grant = lane.grant(now, &Ask { interactive, others, tokens_each });
                    prop_assert!(grant.calls <= interactive + others);
                    prop_assert!(grant.again_at.is_none_or(|at| at >= now || grant.calls > 0));
                }
                Step::End(nth, kind, running, after, quota, tokens_more) => {
                    let retry_after = after.map(Duration::from_millis);
                    let end = match kind {
                        0 => CallEnd::Taken,
                        1 => CallEnd::TooOften { retry_after },
                        2 => CallEnd::TooMany { retry_after },
                        3 => CallEnd::Away,
                        4 => CallEnd::Late,
                        _ => CallEnd::Unknown,
                    };
                    let quota = quota.map(|(limit, remaining, reset)| Quota {
                        limit, remaining, reset: Some(Duration::from_millis(reset)),
                    });
                    let hints = RateHints { requests: quota, tokens: None };
                    let begun = Moment::from_micros(micros.saturating_sub(nth % 10_000_000));
                    let took = Duration::from_millis(nth % 10_000);
                    lane.ended(now, &Ended { nth: nth % 1_000, begun, took, among: running, running, end, hints, tokens_more });
                }
                Step::GiveBack(calls) => lane.give_back(calls, 1),
            }
            prop_assert!(lane.window().is_none_or(|calls| calls >= 1));
            prop_assert!(lane.view(now).allowed_per_s.is_none_or(|rate| rate > 0.0 && rate.is_finite()));
            let text = serde_json::to_string(&lane).unwrap();
            let read: LaneState = serde_json::from_str(&text).unwrap();
            // The last digit of a number may be lost.
            let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() <= a.abs() * 1e-9,
                (a, b) => a == b,
            };
            prop_assert!(near(read.view(now).allowed_per_s, lane.view(now).allowed_per_s));
            prop_assert_eq!(read.view(now).stands_still, lane.view(now).stands_still);
        }
    }
}
