use std::collections::BTreeSet;

use super::*;
use crate::chat::ModelRef;
use crate::ids::LaneId;

fn schedule(id: ScheduleId) -> Schedule {
    let model: ModelRef = "demo:any".parse().unwrap();
    Schedule {
        id,
        tenant: TenantId::default_tenant(),
        name: None,
        timing: Timing {
            rule: Rule::Every { seconds: 60, from_ms: 0 },
            start_ms: None,
            end_ms: None,
            jitter_ms: 0,
        },
        policies: Policies::default(),
        state: ScheduleState::Active,
        next_ms: Some(1_000),
        begun: None,
        spend: None,
        created_ms: 1,
        changed_ms: 1,
        ver: 1,
        run: RunSpec {
            template: None,
            rows: RowSource::Set { set: Schedule::own_rows(id), version: Some(1) },
            previous: None,
            limits: BatchLimits::default(),
            spec: BatchSpec::new("{}".to_owned(), model, LaneId::new("demo", "default")),
        },
    }
}

#[test]
fn batches_of_different_ticks_schedules_and_retries_differ_and_whoever_asks_gets_the_same() {
    let schedules = [ScheduleId::at(5, [7; 10]), ScheduleId::at(5, [8; 10])];
    let mut ids = BTreeSet::new();
    for schedule in schedules {
        for at_ms in [0, 60_000, 120_000] {
            for retry in [0, 1, 2, MOST_RETRIES] {
                assert_eq!(Tick::batch(schedule, at_ms, retry), Tick::batch(schedule, at_ms, retry));
                assert!(ids.insert(Tick::batch(schedule, at_ms, retry)));
            }
        }
    }
    // Later ticks sort later, as ids of batches do.
    assert!(Tick::batch(schedules[1], 60_000, 0) < Tick::batch(schedules[0], 120_000, 0));
}

#[test]
fn jitter_puts_all_ticks_of_a_schedule_off_by_the_same_and_spreads_schedules() {
    let mut offsets = BTreeSet::new();
    for nth in 0..1_000_u64 {
        let mut random = [0; 10];
        // As random as ids are: nothing of it may be the same for neighbours.
        let mixed = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random[2..].copy_from_slice(&mixed.to_be_bytes());
        let mut schedule = schedule(ScheduleId::at(1, random));
        assert_eq!(schedule.offset_ms(), 0);
        schedule.timing.jitter_ms = 60_000;
        assert!(schedule.offset_ms() <= 60_000);
        assert_eq!(schedule.look_ms(), Some(1_000 + schedule.offset_ms()));
        offsets.insert(schedule.offset_ms() / 6_000);
    }
    assert!(offsets.len() >= 10);
    let mut extreme = schedule(ScheduleId::at(1, [0xff; 10]));
    extreme.timing.jitter_ms = u64::MAX;
    extreme.next_ms = Some(u64::MAX);
    assert_eq!(extreme.look_ms(), Some(u64::MAX));
}

#[test]
fn a_schedule_is_looked_at_while_something_decided_is_not_among_its_ticks() {
    let mut schedule = schedule(ScheduleId::at(1, [1; 10]));
    schedule.state = ScheduleState::Paused { at_ms: 3 };
    assert_eq!(schedule.look_ms(), None);
    schedule.begun = Some(Begun::default());
    assert_eq!(schedule.look_ms(), Some(0));
    schedule.begun = None;
    schedule.state = ScheduleState::Active;
    schedule.next_ms = None;
    assert_eq!(schedule.look_ms(), None);
}

#[test]
fn a_schedule_survives_its_json_and_what_is_missing_there_has_its_default() {
    let mut schedule = schedule(ScheduleId::at(1, [1; 10]));
    schedule.policies.misfire = Misfire::RunEach { most: 3 };
    schedule.policies.retry = Some(RetryFailed { times: 2, after_ms: 5 });
    schedule.begun = Some(Begun { ticks: vec![(5, Decided::Missed), (6, Decided::Run)], missed: None });
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    assert_eq!(serde_json::from_str::<Policies>("{}").unwrap(), Policies::default());
}

#[test]
fn only_ticks_that_run_or_will_are_open() {
    let schedule = schedule(ScheduleId::at(1, [1; 10]));
    let of = |decided| Tick::decided(&schedule, 5, decided).state;
    assert!(of(Decided::Run).is_open() && !of(Decided::Overlaps).is_open() && !of(Decided::Missed).is_open());
    assert!(TickState::Running { started_ms: 1, retry: 0 }.is_open());
    let ended = TickState::Ended { started_ms: 1, ended_ms: 2, retry: 3 };
    assert!(!ended.is_open() && ended.last_batch() == Some(3) && TickState::DUE.last_batch().is_none());
}

#[test]
fn runs_of_a_month_hold_no_more_than_is_left_of_it() {
    let usd = |text: &str| text.parse::<Money>().unwrap();
    let mut schedule = schedule(ScheduleId::at(1, [1; 10]));
    schedule.run.limits.max_cost = Some(usd("4"));
    // 2026-11-29.
    let now_ms = 1_795_910_400_000;
    let hold = |schedule: &mut Schedule, at_ms| schedule.hold(at_ms, usd("10"), now_ms);
    assert_eq!(hold(&mut schedule, 1), Some(usd("4")));
    assert_eq!(hold(&mut schedule, 1), Some(usd("4")));
    assert_eq!(hold(&mut schedule, 2), Some(usd("4")));
    assert_eq!(hold(&mut schedule, 3), Some(usd("2")));
    assert_eq!(hold(&mut schedule, 4), None);
    // What a run did not need another may use.
    assert!(schedule.settle(1, usd("1")) && !schedule.settle(1, usd("1")) && !schedule.settle(9, usd("1")));
    assert_eq!(hold(&mut schedule, 4), Some(usd("3")));
    assert!(schedule.settle(2, usd("4.5")) && schedule.settle(3, usd("2")) && schedule.settle(4, usd("3")));
    assert_eq!(hold(&mut schedule, 5), None);
    assert_eq!(schedule.spend.as_ref().unwrap().spent, usd("10.5"));
    // The next month begins anew.
    assert_eq!(schedule.hold(6, usd("10"), now_ms + 3 * 86_400_000), Some(usd("4")));
    assert!(!schedule.settle(5, usd("1")));
    // A clock that was ahead and is set right does not give the month before once more.
    assert_eq!(schedule.hold(7, usd("10"), now_ms), Some(usd("4")));
    assert_eq!(schedule.spend.as_ref().unwrap().month, "2026-12");
}
