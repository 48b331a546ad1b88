use promptmill_domain::schedule::{Misfire, Policies, RowSource, Rule, RunSpec, Timing};
use promptmill_domain::{BatchLimits, BatchSpec, LaneId, ScheduleId, TenantId};

use super::*;

const MINUTE: u64 = 60_000;

fn schedule(policies: Policies) -> Schedule {
    let id = ScheduleId::at(1, [9; 10]);
    let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), LaneId::new("demo", "none"));
    let rows = RowSource::Set { set: Schedule::own_rows(id), version: Some(1) };
    Schedule {
        id,
        tenant: TenantId::default_tenant(),
        name: None,
        timing: Timing {
            rule: Rule::Every { seconds: 60, from_ms: 0 },
            start_ms: None,
            end_ms: Some(100 * MINUTE),
            jitter_ms: 0,
        },
        policies,
        state: ScheduleState::Active,
        next_ms: Some(10 * MINUTE),
        begun: None,
        spend: None,
        created_ms: 1,
        changed_ms: 1,
        ver: 1,
        run: RunSpec { template: None, rows, previous: None, limits: BatchLimits::default(), spec },
    }
}

/// The ticks in minutes, with what was decided.
fn decided(schedule: &Schedule, now_ms: u64, is_busy: bool) -> (Vec<(u64, Decided)>, Option<u64>) {
    let after = decide(schedule.clone(), now_ms, is_busy);
    assert_eq!(after.ver, schedule.ver + 1);
    let ticks = after.begun.map(|begun| begun.ticks).unwrap_or_default();
    let minutes = ticks.into_iter().map(|(at_ms, decided)| (at_ms / MINUTE, decided)).collect();
    (minutes, after.next_ms.map(|next| next / MINUTE))
}

#[test]
fn a_tick_that_is_due_runs_and_the_next_one_is_named() {
    let schedule = schedule(Policies::default());
    assert_eq!(decided(&schedule, 10 * MINUTE - 1, false), (vec![], Some(10)));
    assert_eq!(decided(&schedule, 10 * MINUTE, false), (vec![(10, Decided::Run)], Some(11)));
    assert_eq!(decided(&schedule, 10 * MINUTE, true), (vec![(10, Decided::Overlaps)], Some(11)));
}

#[test]
fn late_ticks_run_as_the_policy_says_and_those_that_do_not_are_missed() {
    use Decided::{Missed, Run};
    let with =
        |misfire| schedule(Policies { misfire, concurrency: Concurrency::Allow, ..Policies::default() });
    // The ticks of the minutes 10 to 13 are late, and that of 14 is in time.
    let now_ms = 14 * MINUTE + 30_000;
    let missed = |till: u64| (10..=till).map(|minute| (minute, Missed));
    let ran = |from: u64| (from..=14).map(|minute| (minute, Run));
    for (misfire, first) in [(Misfire::RunOnce, 14), (Misfire::Skip, 14), (Misfire::RunEach { most: 2 }, 12)]
    {
        let expected: Vec<_> = missed(first - 1).chain(ran(first)).collect();
        assert_eq!(decided(&with(misfire), now_ms, false), (expected, Some(15)), "{misfire:?}");
    }
    let ends = Schedule {
        timing: Timing { end_ms: Some(11 * MINUTE), ..with(Misfire::RunOnce).timing },
        ..with(Misfire::RunOnce)
    };
    assert_eq!(decided(&ends, now_ms, false), (vec![(10, Missed), (11, Run)], None));
    let after = decide(with(Misfire::Skip), now_ms, false).begun.and_then(|begun| begun.missed).unwrap();
    assert_eq!((after.first_ms, after.last_ms, after.count), (10 * MINUTE, 13 * MINUTE, 4));
}

#[test]
fn of_several_ticks_at_once_the_policy_says_how_many_run() {
    use Decided::{Overlaps, Replaced, Run};
    let with = |concurrency| {
        let policies = Policies { concurrency, misfire: Misfire::RunEach { most: 3 }, ..Policies::default() };
        Schedule { next_ms: Some(12 * MINUTE), ..schedule(policies) }
    };
    let of = |concurrency, is_busy| {
        let (ticks, _) = decided(&with(concurrency), 14 * MINUTE, is_busy);
        ticks.into_iter().map(|(_, decided)| decided).collect::<Vec<_>>()
    };
    assert_eq!(of(Concurrency::Allow, false), [Run, Run, Run]);
    assert_eq!(of(Concurrency::Skip, false), [Overlaps, Overlaps, Run]);
    assert_eq!(of(Concurrency::Skip, true), [Overlaps, Overlaps, Overlaps]);
    assert_eq!(of(Concurrency::Replace, false), [Replaced, Replaced, Run]);
}

#[test]
fn ticks_of_a_schedule_with_jitter_keep_their_times_and_are_looked_at_later() {
    let mut schedule = schedule(Policies::default());
    schedule.timing.jitter_ms = 30_000;
    let offset = schedule.offset_ms();
    assert!(offset > 0);
    assert_eq!(decided(&schedule, 10 * MINUTE + offset - 1, false), (vec![], Some(10)));
    assert_eq!(decided(&schedule, 10 * MINUTE + offset, false), (vec![(10, Decided::Run)], Some(11)));
}

#[test]
fn a_schedule_whose_rule_is_none_any_more_is_paused() {
    let mut schedule = schedule(Policies::default());
    schedule.timing.rule = Rule::Cron { pattern: "0 0 30 2 *".to_owned(), zone: "UTC".to_owned() };
    let after = decide(schedule, 20 * MINUTE, false);
    assert_eq!((after.state, after.begun), (ScheduleState::Paused { at_ms: 20 * MINUTE }, None));
}
