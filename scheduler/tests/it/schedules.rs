//! Batches that recur: each due tick has its batch once, whatever happened between the looks.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::schedule::{
    Begun, Concurrency, Decided, Misfire, Policies, RetryFailed, RowSource, Rule, RunSpec, TemplateChoice,
    TickBy, Timing, WhySkipped,
};
use promptmill_domain::{
    Batch, BatchEvent, BatchLimits, BatchSpec, BatchState, EventKind, FailureKind, ItemCode, LaneId, Money,
    Period, Release, RowSetId, Schedule, ScheduleId, ScheduleState, SettledItem, TemplateId, Tick, TickState,
    UploadId, Webhook,
};
use promptmill_ports::{
    BatchFilter, MemoryHub, NewBatch, PageLimit, RowBlock, RowSet, RowSetVersion, StoreError,
};
use promptmill_rowio::{BlockBuilder, RowContent, StoredRow, decode_block};
use promptmill_scheduler::{Recurring, Scheduler, SchedulerConfig};

use crate::deliveries::{SECRET, endpoint, vault, webhooks};
use crate::receiver::{Got, Receiver};
use crate::support::{Scene, eventually};

pub(crate) const MINUTE: u64 = 60_000;

/// A template of rows with a city.
const CITY: &str = r#"{"name":"c","messages":[{"role":"user","content":"{{ city }}"}]}"#;

fn scheduler(scene: &Scene) -> Scheduler {
    let config = SchedulerConfig { recurring: Some(Recurring::new(vault())), ..SchedulerConfig::default() };
    Scheduler::with(scene.engine.clone(), config)
}

/// The next whole minute.
fn next_minute(scene: &Scene) -> u64 {
    scene.engine.clock.now_ms() / MINUTE * MINUTE + MINUTE
}

pub(crate) async fn rows(scene: &Scene, set: RowSetId, name: Option<&str>, rows: &[String]) {
    let upload = UploadId::at(1, rand::random());
    let mut builder = BlockBuilder::new();
    let row = |json: &String| StoredRow::of_variables(None, json.clone());
    let mut blocks: Vec<_> = rows.iter().filter_map(|json| builder.push(&row(json))).collect();
    blocks.extend(builder.finish());
    let numbered = (0..).zip(&blocks).map(|(seq, block)| RowBlock {
        seq,
        len: block.len,
        bytes: block.bytes.clone().into(),
        ids: block.ids.clone().into(),
    });
    let (records, now_ms) = (&scene.engine.records, scene.engine.clock.now_ms());
    records.put_set_blocks(&scene.tenant, set, upload, numbered.collect(), now_ms).await.unwrap();
    let version = RowSetVersion {
        version: 1,
        upload,
        blocks: u32::try_from(blocks.len()).unwrap(),
        rows: rows.len() as u64,
        bytes: 1,
        digest: String::new(),
        created_ms: now_ms,
        origin: None,
    };
    let set = RowSet {
        id: set,
        tenant: scene.tenant.clone(),
        name: name.map(str::to_owned),
        versions: vec![version],
        created_ms: now_ms,
        ver: 1,
    };
    assert!(records.put_row_set(&set, now_ms).await.unwrap());
}

/// A schedule of every minute from the next one on, of two rows, kept as `change` makes it.
pub(crate) async fn schedule(scene: &Scene, change: impl FnOnce(&mut Schedule)) -> Schedule {
    let now_ms = scene.engine.clock.now_ms();
    let id = ScheduleId::at(now_ms, rand::random());
    let spec =
        BatchSpec::new(CITY.to_owned(), "scripted:any".parse().unwrap(), LaneId::new("scripted", "none"));
    let next_ms = next_minute(scene);
    let mut schedule = Schedule {
        id,
        tenant: scene.tenant.clone(),
        name: None,
        timing: Timing {
            rule: Rule::Every { seconds: 60, from_ms: next_ms },
            start_ms: None,
            end_ms: None,
            jitter_ms: 0,
        },
        policies: Policies::default(),
        state: ScheduleState::Active,
        next_ms: Some(next_ms),
        begun: None,
        spend: None,
        created_ms: now_ms,
        changed_ms: now_ms,
        ver: 1,
        run: RunSpec {
            template: None,
            rows: RowSource::Set { set: Schedule::own_rows(id), version: Some(1) },
            previous: None,
            limits: BatchLimits::default(),
            spec,
        },
    };
    rows(scene, Schedule::own_rows(id), None, &[city("Bern"), city("Biel")]).await;
    change(&mut schedule);
    assert!(scene.engine.records.put_schedule(&schedule).await.unwrap());
    schedule
}

pub(crate) fn city(name: &str) -> String {
    format!("{{\"city\":\"{name}\"}}")
}

/// Puts the clock forward to that moment.
pub(crate) fn advance_to(scene: &Scene, at_ms: u64) {
    scene.clock.advance_ms(at_ms.saturating_sub(scene.engine.clock.now_ms()));
}

async fn ticks(scene: &Scene, of: &Schedule) -> Vec<Tick> {
    let mut ticks = scene.engine.records.ticks(&scene.tenant, of.id, None, 1_000).await.unwrap();
    ticks.reverse();
    ticks
}

pub(crate) async fn batch(scene: &Scene, of: &Schedule, at_ms: u64) -> Batch {
    scene.engine.store.batch(&scene.tenant, Tick::batch(of.id, at_ms, 0)).await.unwrap()
}

/// All batches that are there.
async fn batches(scene: &Scene) -> Vec<Batch> {
    let page = PageLimit { items: 1_000, bytes: usize::MAX };
    scene.engine.store.batches(&scene.tenant, &BatchFilter::default(), None, page).await.unwrap().batches
}

pub(crate) async fn in_state(scene: &Scene, of: &Schedule, at_ms: u64, state: &str) {
    let what = format!("the tick {at_ms} is {state}");
    eventually(&what, async || match scene.engine.records.tick(&scene.tenant, of.id, at_ms).await {
        Ok(tick) => tick.state.as_str() == state,
        Err(StoreError::NotFound) => false,
        Err(error) => panic!("{error}"),
    })
    .await;
}

pub(crate) async fn rows_of(scene: &Scene, batch: &Batch) -> Vec<String> {
    let mut all = Vec::new();
    let mut seq = 0;
    loop {
        let block = match scene.engine.store.block(&scene.tenant, batch.id, 0, seq).await {
            Ok(block) => block,
            Err(StoreError::NotFound) => return all,
            Err(error) => panic!("{error}"),
        };
        let rows = decode_block(&block).unwrap().into_iter().map(|row| match row.content {
            RowContent::Variables(json) | RowContent::Messages(json) => json,
        });
        all.extend(rows);
        seq += 1;
    }
}

#[tokio::test]
async fn each_due_tick_has_its_batch_and_ends_with_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        schedule.run.spec.name = Some("hourly".to_owned());
        schedule.run.spec.completion_window_ms = Some(MINUTE);
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    assert!(ticks(&scene, &of).await.is_empty());
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    let made = batch(&scene, &of, first).await;
    assert_eq!((made.total, made.spec.name.as_deref()), (2, Some("hourly")));
    let tick = made.spec.tick.unwrap();
    assert_eq!((tick.schedule, tick.at_ms), (of.id, first));
    // Its window begins with it.
    let deadline = made.limits.deadline_ms.unwrap() - MINUTE;
    assert!(deadline >= first && deadline <= scene.engine.clock.now_ms());
    assert_eq!(rows_of(&scene, &made).await, [city("Bern"), city("Biel")]);
    scene.work_through(2).await;
    scene.ended(made.id, BatchState::Completed).await;
    in_state(&scene, &of, first, "ended").await;
    scene.beat().await;
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first + MINUTE, "running").await;
    assert_eq!(batches(&scene).await.len(), 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn what_was_due_while_nobody_looked_follows_the_policy() {
    let scene = Scene::on(MemoryHub::new()).await;
    let mut all = Vec::new();
    for misfire in [Misfire::RunOnce, Misfire::RunEach { most: 2 }, Misfire::Skip] {
        let policies =
            Policies { misfire, concurrency: Concurrency::Allow, grace_ms: 1_000, ..Policies::default() };
        all.push(schedule(&scene, |schedule| schedule.policies = policies).await);
    }
    let first = all[0].next_ms.unwrap();
    // Ticks 0 to 4 are late by more than a second.
    advance_to(&scene, first + 4 * MINUTE + 30_000);
    let scheduler = scheduler(&scene);
    for (of, ran) in all.iter().zip([vec![4], vec![3, 4], vec![]]) {
        eventually("all are decided", async || ticks(&scene, of).await.len() == 5).await;
        for (nth, at_ms) in (0..5).map(|nth| (nth, first + nth * MINUTE)) {
            if ran.contains(&nth) {
                in_state(&scene, of, at_ms, "running").await;
                continue;
            }
            let tick = scene.engine.records.tick(&scene.tenant, of.id, at_ms).await.unwrap();
            assert_eq!(tick.state, TickState::Skipped { why: WhySkipped::Missed });
        }
        let after = scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap();
        assert_eq!(after.next_ms, Some(first + 5 * MINUTE));
    }
    assert_eq!(batches(&scene).await.len(), 3);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_tick_during_an_earlier_run_is_skipped_or_runs_beside_or_takes_its_place() {
    let scene = Scene::on(MemoryHub::new()).await;
    let mut all = Vec::new();
    for concurrency in [Concurrency::Skip, Concurrency::Allow, Concurrency::Replace] {
        let policies = Policies { concurrency, ..Policies::default() };
        all.push(schedule(&scene, |schedule| schedule.policies = policies).await);
    }
    let scheduler = scheduler(&scene);
    let first = all[0].next_ms.unwrap();
    let second = first + MINUTE;
    advance_to(&scene, first);
    for of in &all {
        in_state(&scene, of, first, "running").await;
    }
    advance_to(&scene, second);
    in_state(&scene, &all[0], second, "skipped").await;
    let tick = scene.engine.records.tick(&scene.tenant, all[0].id, second).await.unwrap();
    assert_eq!(tick.state, TickState::Skipped { why: WhySkipped::Overlaps });
    in_state(&scene, &all[1], second, "running").await;
    in_state(&scene, &all[1], first, "running").await;
    in_state(&scene, &all[2], second, "running").await;
    in_state(&scene, &all[2], first, "ended").await;
    assert_eq!(batch(&scene, &all[2], first).await.state, BatchState::Cancelled);
    assert_eq!(batches(&scene).await.len(), 5);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_paused_schedule_makes_nothing_but_what_is_asked_for() {
    let scene = Scene::on(MemoryHub::new()).await;
    let paused = schedule(&scene, |schedule| schedule.state = ScheduleState::Paused { at_ms: 1 }).await;
    let beside = schedule(&scene, |_| {}).await;
    let scheduler = scheduler(&scene);
    let first = paused.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &beside, first, "running").await;
    assert!(ticks(&scene, &paused).await.is_empty());
    let tick = Tick {
        schedule: paused.id,
        tenant: scene.tenant.clone(),
        at_ms: first + 7,
        by: TickBy::Request,
        state: TickState::DUE,
        ver: 1,
    };
    scene.engine.records.add_ticks(&[tick]).await.unwrap();
    in_state(&scene, &paused, first + 7, "running").await;
    assert_eq!(batch(&scene, &paused, first + 7).await.total, 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn two_schedulers_that_both_lead_make_each_batch_once() {
    let scene = Scene::on(MemoryHub::new()).await;
    let mut all = Vec::new();
    for _ in 0..40 {
        let policies = Policies { concurrency: Concurrency::Allow, ..Policies::default() };
        all.push(schedule(&scene, |schedule| schedule.policies = policies).await);
    }
    let (one, other) = (scheduler(&scene), scheduler(&scene));
    let first = all[0].next_ms.unwrap();
    for nth in 0..3 {
        advance_to(&scene, first + nth * MINUTE);
        for of in &all {
            in_state(&scene, of, first + nth * MINUTE, "running").await;
        }
    }
    one.stop().await;
    other.stop().await;
    assert_eq!(batches(&scene).await.len(), 120);
    for of in &all {
        assert_eq!(ticks(&scene, of).await.len(), 3);
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_makes_nothing_twice() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| schedule.policies.concurrency = Concurrency::Allow).await;
    let before = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first + 5 * MINUTE);
    in_state(&scene, &of, first + 5 * MINUTE, "running").await;
    before.stop().await;
    let made = batches(&scene).await.len();
    // Whoever leads next has the right time again: five minutes earlier.
    let mut engine = scene.engine.clone();
    engine.clock = Arc::new(promptmill_runtime::SystemClock);
    let config = SchedulerConfig { recurring: Some(Recurring::new(vault())), ..SchedulerConfig::default() };
    let after = Scheduler::with(engine, config);
    tokio::time::sleep(Duration::from_millis(600)).await;
    after.stop().await;
    assert_eq!(batches(&scene).await.len(), made);
    assert_eq!(ticks(&scene, &of).await.len(), 6);
}

#[tokio::test]
async fn what_a_crash_left_half_done_is_carried_on() {
    let scene = Scene::on(MemoryHub::new()).await;
    let at_ms = next_minute(&scene) - MINUTE;
    // It was decided, and nothing else.
    let begun = Begun { ticks: vec![(at_ms - MINUTE, Decided::Missed), (at_ms, Decided::Run)], missed: None };
    let decided = schedule(&scene, |schedule| schedule.begun = Some(begun)).await;
    // Its tick is there, and a draft with its id.
    let drafted = schedule(&scene, |_| {}).await;
    let draft = NewBatch {
        id: Tick::batch(drafted.id, at_ms, 0),
        spec: drafted.run.spec.clone(),
        limits: BatchLimits::default(),
        idem_key: None,
        now_ms: at_ms,
    };
    scene.engine.store.create(&scene.tenant, draft).await.unwrap();
    scene.engine.records.add_ticks(&[Tick::decided(&drafted, at_ms, Decided::Run)]).await.unwrap();
    let scheduler = scheduler(&scene);
    for of in [&decided, &drafted] {
        in_state(&scene, of, at_ms, "running").await;
        assert_eq!(batch(&scene, of, at_ms).await.total, 2);
    }
    in_state(&scene, &decided, at_ms - MINUTE, "skipped").await;
    // All is done but that it is noted.
    let tick = scene.engine.records.tick(&scene.tenant, decided.id, at_ms).await.unwrap();
    let again = Tick { state: TickState::DUE, ver: tick.ver + 1, ..tick };
    assert!(scene.engine.records.put_tick(&again).await.unwrap());
    in_state(&scene, &decided, at_ms, "running").await;
    scheduler.stop().await;
    assert_eq!(batches(&scene).await.len(), 2);
    let after = scene.engine.records.schedule(&scene.tenant, decided.id).await.unwrap();
    assert_eq!((after.begun, after.next_ms), (None, decided.next_ms));
}

#[tokio::test]
async fn rows_know_when_their_run_was_due_and_of_the_run_before() {
    const ASKS: &str = r#"{"name":"c","messages":[{"role":"user","content":"{{ city }} {{ scheduled_at }} {{ previous_run.state }}"}]}"#;
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| schedule.run.spec.template = ASKS.to_owned()).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    let row = async |at_ms| {
        let rows = rows_of(&scene, &batch(&scene, &of, at_ms).await).await;
        serde_json::from_str::<serde_json::Value>(&rows[1]).unwrap()
    };
    let found = row(first).await;
    assert_eq!((&found["city"], &found["previous_run"]["batch"]), (&"Biel".into(), &serde_json::Value::Null));
    let at = found["scheduled_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(u64::try_from(at.as_millisecond()).unwrap(), first);
    scene.work_through(2).await;
    in_state(&scene, &of, first, "ended").await;
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first + MINUTE, "running").await;
    let found = row(first + MINUTE).await;
    let previous = &found["previous_run"];
    assert_eq!(previous["batch"], Tick::batch(of.id, first, 0).to_string());
    assert_eq!((&previous["state"], &previous["succeeded"]), (&"completed".into(), &2.into()));
    scheduler.stop().await;
}

#[tokio::test]
async fn rows_of_a_large_set_come_by_steps_and_all_of_them() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |_| {}).await;
    let set = RowSetId::at(1, rand::random());
    let many: Vec<_> = (0..2_000).map(|n| city(&format!("city {n}"))).collect();
    rows(&scene, set, Some("cities"), &many).await;
    let newest = RowSource::Set { set, version: None };
    let run = RunSpec { rows: newest, ..of.run.clone() };
    assert!(scene.engine.records.put_schedule(&Schedule { run, ver: 2, ..of.clone() }).await.unwrap());
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    let made = batch(&scene, &of, first).await;
    assert_eq!(made.total, 2_000);
    assert_eq!(rows_of(&scene, &made).await, many);
    scheduler.stop().await;
}

#[tokio::test]
async fn rows_that_do_not_fit_the_newest_template_fail_the_tick_and_leave_nothing() {
    let scene = Scene::on(MemoryHub::new()).await;
    let template = TemplateId::at(1, rand::random());
    let records = &scene.engine.records;
    records.add_template(&scene.tenant, template, "c", CITY, 1).await.unwrap();
    let of = schedule(&scene, |schedule| {
        schedule.run.template = Some(TemplateChoice { id: template, label: None });
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    let reference = batch(&scene, &of, first).await.spec.template_ref.unwrap();
    assert_eq!((reference.id, reference.version), (template, 1));
    let country = CITY.replace("city", "country");
    records.add_version(&scene.tenant, template, 1, &country, 2).await.unwrap();
    scene.work_through(2).await;
    in_state(&scene, &of, first, "ended").await;
    let second = first + MINUTE;
    advance_to(&scene, second);
    in_state(&scene, &of, second, "failed").await;
    let tick = records.tick(&scene.tenant, of.id, second).await.unwrap();
    let TickState::Failed { why } = tick.state else { panic!("it failed") };
    assert!(why.starts_with("2 of 2 rows cannot be used") && why.contains("country"), "{why}");
    assert!(!why.contains("Bern"), "{why}");
    assert_eq!(batches(&scene).await.len(), 1);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_at_a_label_runs_the_version_that_has_it_at_each_tick() {
    let scene = Scene::on(MemoryHub::new()).await;
    let template = TemplateId::at(1, rand::random());
    let records = &scene.engine.records;
    records.add_template(&scene.tenant, template, "c", CITY, 1).await.unwrap();
    for (after, words) in [(1, "second"), (2, "third")] {
        let text = CITY.replace("{{ city }}", &format!("{words} {{{{ city }}}}"));
        records.add_version(&scene.tenant, template, after, &text, 2).await.unwrap();
    }
    let label = "production";
    records.put_label(&scene.tenant, template, label, 2, 3).await.unwrap();
    let of = schedule(&scene, |schedule| {
        let choice = TemplateChoice { id: template, label: Some(label.to_owned()) };
        schedule.run.template = Some(choice);
    })
    .await;
    let scheduler = scheduler(&scene);
    let mut at_ms = of.next_ms.unwrap();
    for version in [2, 3, 1] {
        records.put_label(&scene.tenant, template, label, version, 4).await.unwrap();
        advance_to(&scene, at_ms);
        in_state(&scene, &of, at_ms, "running").await;
        let spec = batch(&scene, &of, at_ms).await.spec;
        assert_eq!(spec.template_ref.map(|found| (found.id, found.version)), Some((template, version)));
        let text = records.version(&scene.tenant, template, Some(version)).await.unwrap().source;
        assert_eq!(spec.template, text);
        scene.work_through(2).await;
        in_state(&scene, &of, at_ms, "ended").await;
        at_ms += MINUTE;
    }
    // Neither the newest version nor the one that had it takes its place.
    assert!(records.remove_label(&scene.tenant, template, label).await.unwrap());
    advance_to(&scene, at_ms);
    in_state(&scene, &of, at_ms, "failed").await;
    let tick = records.tick(&scene.tenant, of.id, at_ms).await.unwrap();
    let TickState::Failed { why } = tick.state else { panic!("it failed") };
    assert_eq!(why, "the template has no such label any more");
    assert_eq!(batches(&scene).await.len(), 3);
    // Put again, it is followed again.
    records.put_label(&scene.tenant, template, label, 3, 5).await.unwrap();
    advance_to(&scene, at_ms + MINUTE);
    in_state(&scene, &of, at_ms + MINUTE, "running").await;
    scheduler.stop().await;
}

#[tokio::test]
async fn the_webhook_of_a_run_has_the_secret_of_its_schedule_sealed_for_its_batch() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        let context = Webhook::context(&schedule.tenant, Schedule::sealed_for(schedule.id));
        let sealed_secret = vault().seal(&context, b"whsec_canary").unwrap();
        let url = "https://receiver.example/hook".to_owned();
        schedule.run.spec.webhook = Some(Webhook { url, sealed_secret, results: true });
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    let made = batch(&scene, &of, first).await;
    let told = made.spec.webhook.unwrap();
    let opened = vault().open(&Webhook::context(&scene.tenant, made.id), &told.sealed_secret).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&opened), b"whsec_canary");
    assert!(told.results);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_deleted_schedule_is_not_run() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |_| {}).await;
    let at_ms = of.next_ms.unwrap();
    let records = &scene.engine.records;
    assert!(records.delete_schedule(&scene.tenant, of.id).await.unwrap());
    // Decided just before, and kept just after.
    records.add_ticks(&[Tick::decided(&of, at_ms, Decided::Run)]).await.unwrap();
    let scheduler = scheduler(&scene);
    in_state(&scene, &of, at_ms, "failed").await;
    assert!(batches(&scene).await.is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn ticks_without_a_run_are_told_to_the_webhook_and_to_endpoints_once() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (webhook, listener) = (Receiver::taking().await, Receiver::taking().await);
    endpoint(&scene, &listener.url(), &[EventKind::ScheduleMissed]).await;
    let of = schedule(&scene, |schedule| {
        let context = Webhook::context(&schedule.tenant, Schedule::sealed_for(schedule.id));
        let sealed_secret = vault().seal(&context, SECRET.as_bytes()).unwrap();
        schedule.run.spec.webhook = Some(Webhook { url: webhook.url(), sealed_secret, results: false });
        schedule.run.spec.metadata = Some("{\"order\":17}".to_owned());
        schedule.policies.grace_ms = 1_000;
        schedule.name = Some("nightly".to_owned());
    })
    .await;
    let config = || SchedulerConfig {
        recurring: Some(Recurring::new(vault())),
        webhooks: Some(webhooks(1)),
        ..SchedulerConfig::default()
    };
    let of_kind = |receiver: &Receiver| {
        let missed = receiver.got().into_iter().filter(|got| got.json()["type"] == "schedule.missed");
        missed.collect::<Vec<_>>()
    };
    let first = of.next_ms.unwrap();
    // Two were missed, and the third runs.
    advance_to(&scene, first + 2 * MINUTE + 500);
    let scheduler = Scheduler::with(scene.engine.clone(), config());
    in_state(&scene, &of, first + 2 * MINUTE, "running").await;
    // During it another is due.
    scene.beat().await;
    advance_to(&scene, first + 3 * MINUTE);
    in_state(&scene, &of, first + 3 * MINUTE, "skipped").await;
    scene.work_through(2).await;
    in_state(&scene, &of, first + 2 * MINUTE, "ended").await;
    // And then its rows are gone.
    assert!(scene.engine.records.delete_row_set(&scene.tenant, Schedule::own_rows(of.id)).await.unwrap());
    scene.beat().await;
    advance_to(&scene, first + 4 * MINUTE);
    in_state(&scene, &of, first + 4 * MINUTE, "failed").await;
    for receiver in [&webhook, &listener] {
        eventually("all three are told", async || of_kind(receiver).len() == 3).await;
        let told: Vec<_> = of_kind(receiver).iter().map(Got::json).collect();
        let reasons = told.iter().map(|body| body["data"]["reason"].as_str().unwrap());
        let mut reasons: Vec<_> = reasons.collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["failed", "missed", "overlaps"]);
        for body in &told {
            let data = &body["data"];
            assert_eq!((&data["schedule_id"], &data["name"]), (&of.id.to_string().into(), &"nightly".into()));
            assert_eq!(data["metadata"]["order"], 17);
            match data["reason"].as_str() {
                Some("missed") => assert_eq!((&data["ticks"], &data["more"]), (&2.into(), &false.into())),
                Some("failed") => assert_eq!(data["error"], "the row set was deleted"),
                _ => assert_eq!((&data["ticks"], &data["error"]), (&1.into(), &serde_json::Value::Null)),
            }
        }
    }
    for got in of_kind(&webhook) {
        got.check_signed_with(SECRET);
    }
    scheduler.stop().await;
    // A crash before it was noted that a look was carried on: it is told again, and that is nothing new.
    let now = scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap();
    let missed = promptmill_domain::schedule::Missed {
        first_ms: first,
        last_ms: first + MINUTE,
        count: 2,
        is_exact: true,
    };
    let begun = Begun { ticks: vec![(first + MINUTE, Decided::Missed)], missed: Some(missed) };
    let again = Schedule { begun: Some(begun), ver: now.ver + 1, ..now };
    assert!(scene.engine.records.put_schedule(&again).await.unwrap());
    let scheduler = Scheduler::with(scene.engine.clone(), config());
    eventually("the look is carried on", async || {
        scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap().begun.is_none()
    })
    .await;
    // Whatever is told later comes later.
    advance_to(&scene, first + 5 * MINUTE);
    in_state(&scene, &of, first + 5 * MINUTE, "failed").await;
    eventually("the next is told", async || of_kind(&listener).len() == 4).await;
    scheduler.stop().await;
    assert_eq!(of_kind(&listener).len(), 4);
    // The batch that ran tells of which tick it is.
    let ended = webhook.got().into_iter().find(|got| got.json()["type"] == "batch.completed").unwrap().json();
    assert_eq!(ended["data"]["schedule"]["id"], of.id.to_string());
}

/// Settles every item of so many chunks as failed.
pub(crate) async fn fail(scene: &Scene, chunks: usize) {
    let mut done = 0;
    while done < chunks {
        for lease in scene.claim(&scene.hints(chunks).await).await {
            let code = ItemCode::Failed(FailureKind::Timeout);
            let settled = (0..lease.head.len()).map(|offset| (SettledItem { offset, code }, "body".into()));
            scene.settle(&lease, settled.collect(), Release::Keep).await;
            done += 1;
        }
    }
}

#[tokio::test]
async fn failed_rows_run_again_after_a_run_as_often_as_the_policy_says() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        schedule.policies.retry = Some(RetryFailed { times: 2, after_ms: 10 * MINUTE });
        schedule.policies.concurrency = Concurrency::Skip;
        schedule.timing.rule = Rule::Every { seconds: 86_400, from_ms: schedule.next_ms.unwrap() };
        schedule.run.limits.max_cost = Some("5".parse().unwrap());
        schedule.run.spec.name = Some("nightly".to_owned());
    })
    .await;
    let scheduler = scheduler(&scene);
    let at_ms = of.next_ms.unwrap();
    let nth = async |retry| {
        let id = Tick::batch(of.id, at_ms, retry);
        scene.engine.store.batch(&scene.tenant, id).await
    };
    advance_to(&scene, at_ms);
    in_state(&scene, &of, at_ms, "running").await;
    // One of the two fails.
    fail(&scene, 1).await;
    scene.work_through(1).await;
    in_state(&scene, &of, at_ms, "again").await;
    let first = nth(0).await.unwrap();
    assert!(matches!(nth(1).await, Err(StoreError::NotFound)));
    scene.beat().await;
    scene.clock.advance_ms(10 * MINUTE);
    in_state(&scene, &of, at_ms, "running").await;
    let second = nth(1).await.unwrap();
    assert_eq!((second.total, second.spec.name.as_deref()), (1, Some("nightly")));
    assert_eq!(second.spec.retry_of.as_ref().unwrap().batch, first.id);
    assert_eq!((second.spec.tick, second.limits.max_cost), (first.spec.tick, first.limits.max_cost));
    let failed = rows_of(&scene, &second).await;
    assert!(failed == [city("Bern")] || failed == [city("Biel")], "{failed:?}");
    fail(&scene, 1).await;
    in_state(&scene, &of, at_ms, "again").await;
    scene.beat().await;
    scene.clock.advance_ms(10 * MINUTE);
    in_state(&scene, &of, at_ms, "running").await;
    assert_eq!(rows_of(&scene, &nth(2).await.unwrap()).await, failed);
    // It was the last time.
    fail(&scene, 1).await;
    in_state(&scene, &of, at_ms, "ended").await;
    let tick = scene.engine.records.tick(&scene.tenant, of.id, at_ms).await.unwrap();
    assert!(matches!(tick.state, TickState::Ended { retry: 2, .. }), "{:?}", tick.state);
    assert_eq!(batches(&scene).await.len(), 3);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_run_whose_batch_was_cancelled_or_whose_rows_all_succeeded_is_not_run_again() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        schedule.policies.retry = Some(RetryFailed { times: 2, after_ms: 0 });
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    scene.work_through(2).await;
    in_state(&scene, &of, first, "ended").await;
    scene.beat().await;
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first + MINUTE, "running").await;
    fail(&scene, 1).await;
    scene.steer(Tick::batch(of.id, first + MINUTE, 0), BatchEvent::Cancel).await;
    in_state(&scene, &of, first + MINUTE, "ended").await;
    assert_eq!(batches(&scene).await.len(), 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn runs_of_a_month_may_cost_what_it_has_and_no_more() {
    let scene = Scene::on(MemoryHub::new()).await;
    let usd = |text: &str| text.parse::<Money>().unwrap();
    let (now_ms, day_ms) = (scene.engine.clock.now_ms(), 86_400_000);
    if Period::Month.of(now_ms) != Period::Month.of(now_ms + day_ms) {
        // All of it is to lie in one month.
        scene.clock.advance_ms(day_ms);
        scene.beat().await;
    }
    let of = schedule(&scene, |schedule| {
        schedule.policies.concurrency = Concurrency::Allow;
        schedule.policies.max_cost_per_month = Some(usd("5"));
        schedule.run.limits.max_cost = Some(usd("3"));
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    let (second, third, fourth) = (first + MINUTE, first + 2 * MINUTE, first + 3 * MINUTE);
    for (at_ms, may) in [(first, "3"), (second, "2")] {
        advance_to(&scene, at_ms);
        in_state(&scene, &of, at_ms, "running").await;
        assert_eq!(batch(&scene, &of, at_ms).await.limits.max_cost, Some(usd(may)));
    }
    advance_to(&scene, third);
    in_state(&scene, &of, third, "skipped").await;
    let tick = scene.engine.records.tick(&scene.tenant, of.id, third).await.unwrap();
    assert_eq!(tick.state, TickState::Skipped { why: WhySkipped::Budget });
    // Both cost nothing in the end.
    scene.beat().await;
    scene.work_through(4).await;
    for at_ms in [first, second] {
        in_state(&scene, &of, at_ms, "ended").await;
    }
    scene.beat().await;
    advance_to(&scene, fourth);
    in_state(&scene, &of, fourth, "running").await;
    assert_eq!(batch(&scene, &of, fourth).await.limits.max_cost, Some(usd("3")));
    let spend = scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap().spend.unwrap();
    assert_eq!((spend.spent, spend.held), (usd("0"), vec![(fourth, usd("3"))]));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_month_what_it_had() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        // All that is left would be held for a run.
        schedule.policies.max_cost_per_month = Some("5".parse().unwrap());
    })
    .await;
    let own = scene.engine.records.row_set(&scene.tenant, Schedule::own_rows(of.id)).await.unwrap();
    assert!(scene.engine.records.delete_row_set(&scene.tenant, own.id).await.unwrap());
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "failed").await;
    rows(&scene, Schedule::own_rows(of.id), None, &[city("Bern")]).await;
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first + MINUTE, "running").await;
    assert_eq!(batch(&scene, &of, first + MINUTE).await.limits.max_cost, Some("5".parse().unwrap()));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_replaced_goes_on() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| schedule.policies.concurrency = Concurrency::Replace).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    assert!(scene.engine.records.delete_row_set(&scene.tenant, Schedule::own_rows(of.id)).await.unwrap());
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first + MINUTE, "failed").await;
    in_state(&scene, &of, first, "running").await;
    assert!(!batch(&scene, &of, first).await.state.is_final());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_run_that_holds_what_the_month_has_makes_way_for_the_one_that_replaces_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        schedule.policies.concurrency = Concurrency::Replace;
        schedule.policies.max_cost_per_month = Some("5".parse().unwrap());
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    advance_to(&scene, first + MINUTE);
    in_state(&scene, &of, first, "ended").await;
    // It is tried again after five seconds.
    scene.clock.advance_ms(6_000);
    in_state(&scene, &of, first + MINUTE, "running").await;
    assert_eq!(batch(&scene, &of, first).await.state, BatchState::Cancelled);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_tick_that_was_decided_before_a_pause_and_not_begun_does_not_begin() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| schedule.state = ScheduleState::Paused { at_ms: 1 }).await;
    let at_ms = of.next_ms.unwrap();
    scene.engine.records.add_ticks(&[Tick::decided(&of, at_ms, Decided::Run)]).await.unwrap();
    let scheduler = scheduler(&scene);
    in_state(&scene, &of, at_ms, "skipped").await;
    let tick = scene.engine.records.tick(&scene.tenant, of.id, at_ms).await.unwrap();
    assert_eq!(tick.state, TickState::Skipped { why: WhySkipped::Paused });
    assert!(batches(&scene).await.is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_draft_that_an_earlier_try_left_is_made_anew() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| schedule.run.spec.completion_window_ms = Some(MINUTE)).await;
    let at_ms = of.next_ms.unwrap() - MINUTE;
    let draft = NewBatch {
        id: Tick::batch(of.id, at_ms, 0),
        spec: BatchSpec { name: Some("old".to_owned()), ..of.run.spec.clone() },
        limits: BatchLimits { deadline_ms: Some(1), ..BatchLimits::default() },
        idem_key: None,
        now_ms: at_ms,
    };
    scene.engine.store.create(&scene.tenant, draft).await.unwrap();
    scene.engine.records.add_ticks(&[Tick::decided(&of, at_ms, Decided::Run)]).await.unwrap();
    let scheduler = scheduler(&scene);
    in_state(&scene, &of, at_ms, "running").await;
    let made = batch(&scene, &of, at_ms).await;
    assert_eq!((made.spec.name.as_deref(), made.total), (None, 2));
    assert!(made.limits.deadline_ms.unwrap() > scene.engine.clock.now_ms());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_tick_that_is_replaced_while_its_batch_is_made_leaves_none_that_runs() {
    let scene = Scene::on(MemoryHub::new()).await;
    let second = next_minute(&scene) - MINUTE;
    let first = second - MINUTE;
    let mut all = Vec::new();
    for _ in 0..20 {
        let policies = Policies { concurrency: Concurrency::Replace, ..Policies::default() };
        let of = schedule(&scene, |schedule| schedule.policies = policies).await;
        // Both were decided, and whoever did it is gone: they are begun at once.
        let ticks = [first, second].map(|at_ms| Tick::decided(&of, at_ms, Decided::Run));
        scene.engine.records.add_ticks(&ticks).await.unwrap();
        all.push(of);
    }
    let scheduler = scheduler(&scene);
    for of in &all {
        in_state(&scene, of, second, "running").await;
        eventually("the first gives way", async || {
            let tick = scene.engine.records.tick(&scene.tenant, of.id, first).await.unwrap();
            let batch = scene.engine.store.batch(&scene.tenant, Tick::batch(of.id, first, 0)).await;
            !tick.state.is_open() && batch.map_or(true, |batch| batch.state == BatchState::Cancelled)
        })
        .await;
    }
    scheduler.stop().await;
}
