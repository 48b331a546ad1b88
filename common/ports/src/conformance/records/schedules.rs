//! Cases about schedules and their ticks.

use promptmill_domain::schedule::{Begun, Decided, Policies, RowSource, Rule, RunSpec, Timing, WhySkipped};
use promptmill_domain::{
    BatchLimits, BatchSpec, LaneId, ModelRef, Schedule, ScheduleId, ScheduleState, TenantId, Tick, TickState,
};

use super::scene::*;
use crate::{Records, StoreError};

fn schedule(tenant: &TenantId, next_ms: Option<u64>) -> Schedule {
    let id = ScheduleId::at(NOW, rand::random());
    let model: ModelRef = "demo:any".parse().unwrap();
    let spec = BatchSpec::new("{\"name\":\"ä\"}".to_owned(), model, LaneId::new("demo", "default"));
    let rule = Rule::Cron { pattern: "0 3 * * *".to_owned(), zone: "Europe/Zurich".to_owned() };
    Schedule {
        id,
        tenant: tenant.clone(),
        name: Some("nightly".to_owned()),
        timing: Timing { rule, start_ms: Some(1), end_ms: None, jitter_ms: 0 },
        policies: Policies::default(),
        state: ScheduleState::Active,
        next_ms,
        begun: None,
        spend: None,
        created_ms: NOW,
        changed_ms: NOW,
        ver: 1,
        run: RunSpec {
            template: None,
            rows: RowSource::Set { set: Schedule::own_rows(id), version: Some(1) },
            previous: None,
            limits: BatchLimits::default(),
            spec,
        },
    }
}

fn tick(schedule: &Schedule, at_ms: u64) -> Tick {
    Tick::decided(schedule, at_ms, Decided::Run)
}

fn times(ticks: &[Tick]) -> Vec<u64> {
    ticks.iter().map(|tick| tick.at_ms).collect()
}

/// Of its tenant alone, oldest first, page by page, until it is deleted.
pub async fn schedules_come_page_by_page_and_are_their_tenants_alone(store: &dyn Records) {
    let (tenant, stranger) = (fresh_tenant(), fresh_tenant());
    let mut all: Vec<_> = (0..5).map(|_| schedule(&tenant, None)).collect();
    all.sort_by_key(|schedule| schedule.id);
    for schedule in all.iter().chain([&schedule(&stranger, None)]) {
        assert!(store.put_schedule(schedule).await.unwrap());
    }
    let first = store.schedules(&tenant, None, 3).await.unwrap();
    assert_eq!(first, all[..3]);
    assert_eq!(store.schedules(&tenant, Some(first[2].id), 3).await.unwrap(), all[3..]);
    assert_eq!(store.schedule_count(&tenant).await.unwrap(), 5);
    assert_eq!(store.schedule_count(&fresh_tenant()).await.unwrap(), 0);
    assert_eq!(store.schedule(&tenant, all[1].id).await.unwrap(), all[1]);
    check_not_found(store.schedule(&stranger, all[1].id).await);
    assert!(!store.delete_schedule(&stranger, all[1].id).await.unwrap());
    assert!(store.delete_schedule(&tenant, all[1].id).await.unwrap());
    assert!(!store.delete_schedule(&tenant, all[1].id).await.unwrap());
    check_not_found(store.schedule(&tenant, all[1].id).await);
    assert_eq!(store.schedule_count(&tenant).await.unwrap(), 4);
}

/// Of changes at the same time one holds, and the others are told.
pub async fn a_schedule_is_changed_only_by_who_knows_its_version(store: &dyn Records) {
    let tenant = fresh_tenant();
    let first = schedule(&tenant, Some(NOW));
    assert!(store.put_schedule(&first).await.unwrap());
    assert!(!store.put_schedule(&first).await.unwrap());
    let begun = Begun { ticks: vec![(NOW, Decided::Run)], missed: None };
    let second = Schedule { ver: 2, next_ms: Some(NOW + 5), begun: Some(begun), ..first.clone() };
    assert!(store.put_schedule(&second).await.unwrap());
    for late in [Schedule { ver: 2, ..first.clone() }, Schedule { ver: 4, ..first.clone() }, first] {
        assert!(!store.put_schedule(&late).await.unwrap());
    }
    assert_eq!(store.schedule(&tenant, second.id).await.unwrap(), second);
    let elsewhere = Schedule { tenant: fresh_tenant(), ver: 3, ..second.clone() };
    assert!(!store.put_schedule(&elsewhere).await.unwrap());
    let third = Schedule { ver: 3, ..second.clone() };
    let (one, other) = tokio::join!(store.put_schedule(&third), store.put_schedule(&third));
    assert!(one.unwrap() != other.unwrap());
    assert!(store.delete_schedule(&tenant, second.id).await.unwrap());
    assert!(!store.put_schedule(&Schedule { ver: 4, ..second }).await.unwrap());
}

/// The earliest first, and none that is not.
pub async fn schedules_are_looked_at_when_they_are_due(store: &dyn Records) {
    let tenant = fresh_tenant();
    let begun = Some(Begun::default());
    let late = schedule(&tenant, Some(30));
    let early = schedule(&fresh_tenant(), Some(10));
    let begun = Schedule { begun, state: ScheduleState::Paused { at_ms: 1 }, ..schedule(&tenant, Some(90)) };
    let paused = Schedule { state: ScheduleState::Paused { at_ms: 1 }, ..schedule(&tenant, Some(10)) };
    for schedule in [&late, &early, &begun, &paused, &schedule(&tenant, None)] {
        assert!(store.put_schedule(schedule).await.unwrap());
    }
    let due = async |now_ms, limit| store.schedules_due(now_ms, limit).await.unwrap();
    assert_eq!(due(9, 9).await, std::slice::from_ref(&begun));
    assert_eq!(due(10, 9).await, [begun.clone(), early.clone()]);
    assert_eq!(due(30, 9).await, [begun.clone(), early.clone(), late.clone()]);
    assert_eq!(due(30, 2).await, [begun.clone(), early.clone()]);
    let decided = Schedule { next_ms: Some(40), ver: 2, ..early.clone() };
    let carried_on = Schedule { begun: None, ver: 2, ..begun };
    assert!(store.put_schedule(&decided).await.unwrap() && store.put_schedule(&carried_on).await.unwrap());
    assert_eq!(due(30, 9).await, [late]);
    let over = Schedule { next_ms: None, ver: 3, ..early };
    assert!(store.put_schedule(&over).await.unwrap());
    assert_eq!(due(u64::MAX, 9).await.len(), 1);
}

/// Whoever adds it again changes nothing.
pub async fn a_tick_is_kept_once_and_changed_only_by_who_knows_its_version(store: &dyn Records) {
    let tenant = fresh_tenant();
    let of = schedule(&tenant, None);
    let first = tick(&of, 60_000);
    store.add_ticks(std::slice::from_ref(&first)).await.unwrap();
    let other = Tick { state: TickState::Failed { why: "ä".to_owned() }, ..first.clone() };
    store.add_ticks(&[other.clone(), tick(&of, 120_000)]).await.unwrap();
    store.add_ticks(&[]).await.unwrap();
    assert_eq!(store.tick(&tenant, of.id, 60_000).await.unwrap(), first);
    assert!(!store.put_tick(&other).await.unwrap());
    let second = Tick { ver: 2, state: TickState::Running { started_ms: 5, retry: 0 }, ..first.clone() };
    assert!(store.put_tick(&second).await.unwrap());
    assert!(!store.put_tick(&Tick { ver: 2, ..other.clone() }).await.unwrap());
    assert!(!store.put_tick(&Tick { ver: 3, tenant: fresh_tenant(), ..other.clone() }).await.unwrap());
    assert_eq!(store.tick(&tenant, of.id, 60_000).await.unwrap(), second);
    assert!(store.put_tick(&Tick { ver: 3, ..other.clone() }).await.unwrap());
    assert!(!store.put_tick(&tick(&of, 7)).await.unwrap());
    check_not_found(store.tick(&tenant, of.id, 7).await);
    check_not_found(store.tick(&fresh_tenant(), of.id, 60_000).await);
}

/// The newest first, its own alone, and they go with it.
pub async fn ticks_of_a_schedule_come_newest_first_and_go_with_it(store: &dyn Records) {
    let tenant = fresh_tenant();
    let (of, other) = (schedule(&tenant, None), schedule(&tenant, None));
    assert!(store.put_schedule(&of).await.unwrap() && store.put_schedule(&other).await.unwrap());
    let ticks: Vec<_> = [5_000, 1, 300, u64::from(u32::MAX) * 1_000].map(|at| tick(&of, at)).into();
    store.add_ticks(&ticks).await.unwrap();
    store.add_ticks(&[tick(&other, 400)]).await.unwrap();
    let page = async |before, limit| times(&store.ticks(&tenant, of.id, before, limit).await.unwrap());
    assert_eq!(page(None, 9).await, [u64::from(u32::MAX) * 1_000, 5_000, 300, 1]);
    assert_eq!(page(Some(5_000), 1).await, [300]);
    assert_eq!(page(Some(1), 9).await, [0; 0]);
    assert!(store.ticks(&fresh_tenant(), of.id, None, 9).await.unwrap().is_empty());
    assert!(store.delete_schedule(&tenant, of.id).await.unwrap());
    assert_eq!(page(None, 9).await, [0; 0]);
    assert_eq!(times(&store.ticks(&tenant, other.id, None, 9).await.unwrap()), [400]);
}

/// Page by page, until they are over.
pub async fn open_ticks_of_all_tenants_come_by_schedule_and_time(store: &dyn Records) {
    let (one, other) = (schedule(&fresh_tenant(), None), schedule(&fresh_tenant(), None));
    let (one, other) = if one.id < other.id { (one, other) } else { (other, one) };
    let missed = Tick::decided(&one, 100, Decided::Missed);
    assert_eq!(missed.state, TickState::Skipped { why: WhySkipped::Missed });
    let running = Tick { state: TickState::Running { started_ms: 1, retry: 2 }, ..tick(&one, 200) };
    let ticks = [tick(&other, 50), running, missed, tick(&one, 70)];
    store.add_ticks(&ticks).await.unwrap();
    let page = async |after, limit| {
        let open = store.open_ticks(after, limit).await.unwrap();
        open.iter().map(|tick| (tick.schedule, tick.at_ms)).collect::<Vec<_>>()
    };
    let all = [(one.id, 70), (one.id, 200), (other.id, 50)];
    assert_eq!(page(None, 9).await, all);
    assert_eq!(page(None, 2).await, all[..2]);
    assert_eq!(page(Some(all[1]), 2).await, all[2..]);
    let ended = TickState::Ended { started_ms: 1, ended_ms: 9, retry: 2 };
    assert!(store.put_tick(&Tick { ver: 2, state: ended, ..tick(&one, 200) }).await.unwrap());
    let again = TickState::Due { tries: 1, not_before_ms: 5 };
    assert!(store.put_tick(&Tick { ver: 2, state: again, ..tick(&other, 50) }).await.unwrap());
    assert_eq!(page(None, 9).await, [all[0], all[2]]);
}

/// A few at a time, and none that is open.
pub async fn only_ticks_that_are_over_are_forgotten(store: &dyn Records) {
    let tenant = fresh_tenant();
    let of = schedule(&tenant, None);
    let over = [10, 20, 30, 40].map(|at| Tick::decided(&of, at, Decided::Missed));
    store.add_ticks(&over).await.unwrap();
    store.add_ticks(&[tick(&of, 15)]).await.unwrap();
    assert_eq!(store.forget_ticks(40, 2).await.unwrap(), 2);
    assert_eq!(times(&store.ticks(&tenant, of.id, None, 9).await.unwrap()), [40, 30, 15]);
    assert_eq!(store.forget_ticks(40, 9).await.unwrap(), 1);
    assert_eq!(store.forget_ticks(40, 9).await.unwrap(), 0);
    assert_eq!(times(&store.ticks(&tenant, of.id, None, 9).await.unwrap()), [40, 15]);
    assert!(matches!(store.tick(&tenant, of.id, 10).await, Err(StoreError::NotFound)));
}
