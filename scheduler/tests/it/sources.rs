//! Rows that do not come with a schedule: from a server, and from the run before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use promptmill_domain::schedule::{
    Concurrency, HttpFormat, HttpRows, PreviousRows, RetryFailed, RowSource, WhySkipped,
};
use promptmill_domain::{OutcomeName, RowSetId, Schedule, ScheduleState, SealedHeaders, Tick, TickState};
use promptmill_egress::UrlPolicy;
use promptmill_ports::{MemoryHub, RowSet, StoreError};
use promptmill_scheduler::{Recurring, Scheduler, SchedulerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::deliveries::{install_tls, vault};
use crate::receiver::{Receiver, Reply};
use crate::schedules::{MINUTE, advance_to, batch, city, fail, in_state, rows_of, schedule};
use crate::support::{Scene, eventually};

/// A scheduler that may ask this machine for rows.
fn scheduler(scene: &Scene) -> Scheduler {
    scheduler_with(scene, |recurring| recurring.sources = UrlPolicy::with_loopback())
}

fn scheduler_with(scene: &Scene, change: impl FnOnce(&mut Recurring)) -> Scheduler {
    install_tls();
    let mut recurring = Recurring::new(vault());
    change(&mut recurring);
    let config = SchedulerConfig { recurring: Some(recurring), ..SchedulerConfig::default() };
    Scheduler::with(scene.engine.clone(), config)
}

/// A server that answers as it is told, the last answer again and again.
async fn server(answers: Vec<Reply>) -> Receiver {
    Receiver::new(move |nth| answers[nth.min(answers.len() - 1)].clone()).await
}

fn csv(etag: &str, rows: &str) -> Reply {
    let head = format!("200 OK\r\ncontent-type: text/csv; charset=utf-8\r\netag: {etag}");
    Reply::Body(head, rows.as_bytes().to_vec())
}

fn from(server: &Receiver) -> RowSource {
    RowSource::Http(HttpRows { url: server.url(), format: None, headers: None })
}

async fn kept(scene: &Scene, of: &Schedule) -> RowSet {
    scene.engine.records.row_set(&scene.tenant, Schedule::own_rows(of.id)).await.unwrap()
}

/// Lets the tick of that time run to its end; answers the rows it had.
async fn run(scene: &Scene, of: &Schedule, at_ms: u64) -> Vec<String> {
    advance_to(scene, at_ms);
    in_state(scene, of, at_ms, "running").await;
    let rows = rows_of(scene, &batch(scene, of, at_ms).await).await;
    scene.beat().await;
    scene.work_through(rows.len()).await;
    in_state(scene, of, at_ms, "ended").await;
    rows
}

async fn state(scene: &Scene, of: &Schedule, at_ms: u64) -> TickState {
    scene.engine.records.tick(&scene.tenant, of.id, at_ms).await.unwrap().state
}

#[tokio::test]
async fn a_server_is_asked_at_each_tick_with_the_tag_of_what_it_gave() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of_csv = csv("\"a\"", "custom_id,city\nb,Bern\n");
    let unchanged = Reply::Head("304 Not Modified\r\netag: \"a\"".to_owned());
    let other = csv("W/\"b\"", "custom_id,city\nb,Bern\nz,Biel\n");
    // The same rows under another tag, and at last without any.
    let renamed = csv("\"c\"", "custom_id,city\nb,Bern\nz,Biel\n");
    let plain =
        Reply::Body("200 OK\r\ncontent-type: application/jsonl".to_owned(), city("Chur").into_bytes());
    let server = server(vec![of_csv, unchanged, other, renamed, plain]).await;
    let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    let nth = |nth: u64| first + nth * MINUTE;
    assert_eq!(run(&scene, &of, nth(0)).await, [city("Bern")]);
    assert_eq!(run(&scene, &of, nth(1)).await, [city("Bern")]);
    assert_eq!(run(&scene, &of, nth(2)).await, [city("Bern"), city("Biel")]);
    let version = kept(&scene, &of).await.version(None).unwrap().version;
    assert_eq!(run(&scene, &of, nth(3)).await, [city("Bern"), city("Biel")]);
    // What has the same rows is no new version.
    assert_eq!(kept(&scene, &of).await.version(None).unwrap().version, version);
    assert_eq!(run(&scene, &of, nth(4)).await, [city("Chur")]);
    let asked = server.got();
    let tags: Vec<_> = asked.iter().map(|got| got.headers.get("if-none-match").map(String::as_str)).collect();
    assert_eq!(tags, [None, Some("\"a\""), Some("\"a\""), Some("W/\"b\""), Some("\"c\"")]);
    assert!(asked[0].headers["user-agent"].starts_with("promptmill/"));
    assert!(kept(&scene, &of).await.versions.len() <= 4);
    scheduler.stop().await;
}

#[tokio::test]
async fn headers_are_sent_that_were_sealed_for_the_schedule_and_no_others() {
    let scene = Scene::on(MemoryHub::new()).await;
    let server = server(vec![csv("\"a\"", "city\nBern\n")]).await;
    let sealed = |context: &str| SealedHeaders {
        names: vec!["authorization".to_owned()],
        sealed: vault().seal(context, br#"{"Authorization": "Bearer key"}"#).unwrap(),
    };
    let of_server = |schedule: &mut Schedule, context: &str| {
        let headers = Some(sealed(context));
        schedule.run.rows = RowSource::Http(HttpRows { url: server.url(), format: None, headers });
    };
    let of = schedule(&scene, |schedule| {
        let context = Schedule::headers_context(&schedule.tenant, schedule.id);
        of_server(schedule, &context);
    })
    .await;
    let other = schedule(&scene, |schedule| of_server(schedule, "elsewhere")).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    assert_eq!(run(&scene, &of, first).await, [city("Bern")]);
    in_state(&scene, &other, first, "failed").await;
    let asked = server.got();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].headers["authorization"], "Bearer key");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_server_that_gives_no_rows_is_asked_again_for_a_while() {
    let scene = Scene::on(MemoryHub::new()).await;
    let still = Reply::Head("200 OK\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked".to_owned());
    let answers = vec![Reply::status(503), still, Reply::status(302), csv("\"a\"", "city\nBern\n")];
    let server = server(answers).await;
    let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    let scheduler = scheduler_with(&scene, |recurring| {
        recurring.sources = UrlPolicy::with_loopback();
        recurring.patience.idle = Duration::from_millis(100);
    });
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    for tries in 1..=3 {
        let what = format!("the tick was tried {tries} times");
        eventually(&what, async || {
            let tick = scene.engine.records.tick(&scene.tenant, of.id, first).await;
            matches!(tick, Ok(Tick { state: TickState::Due { tries: found, .. }, .. }) if found == tries)
        })
        .await;
        scene.beat().await;
        scene.clock.advance_ms(40_000);
    }
    in_state(&scene, &of, first, "running").await;
    assert_eq!(rows_of(&scene, &batch(&scene, &of, first).await).await, [city("Bern")]);
    scheduler.stop().await;
}

#[tokio::test]
async fn what_are_no_rows_fails_the_tick_with_its_place_and_keeps_none_of_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    let jsonl = |rows: &str| {
        Reply::Body("200 OK\r\ncontent-type: application/x-ndjson".to_owned(), rows.as_bytes().to_vec())
    };
    let double = format!("{}\n", r#"{"custom_id":"a","variables":{"city":"Bern"}}"#).repeat(2);
    let cases = [
        (csv("\"a\"", "town\nBern\n"), "1 of 1 rows cannot be used"),
        (jsonl("{\"city\":\"Bern\"}\n{\"city\n"), "1 of 2 rows cannot be used"),
        (jsonl(&double), "custom_id"),
        (jsonl(""), "there are no rows"),
        (Reply::Body("200 OK\r\ncontent-type: text/html".to_owned(), b"<p>".to_vec()), "name the format"),
        (
            Reply::Body("200 OK\r\ncontent-type: text/csv\r\ncontent-encoding: br".to_owned(), vec![1]),
            "packed otherwise",
        ),
        (
            Reply::Body("200 OK\r\ncontent-type: text/csv\r\ncontent-encoding: gzip".to_owned(), vec![1, 2]),
            "gzip",
        ),
    ];
    let mut all = Vec::new();
    for (answer, why) in cases {
        let server = server(vec![answer]).await;
        let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
        all.push((server, of, why));
    }
    let scheduler = scheduler(&scene);
    let first = all[0].1.next_ms.unwrap();
    advance_to(&scene, first);
    for (_, of, expected) in &all {
        in_state(&scene, of, first, "failed").await;
        let TickState::Failed { why } = state(&scene, of, first).await else { panic!("it failed") };
        assert!(why.contains(expected), "{why} lacks {expected}");
        assert!(!why.contains("Bern"), "{why}");
        let made = scene.engine.store.batch(&scene.tenant, Tick::batch(of.id, first, 0)).await;
        assert!(matches!(made, Err(StoreError::NotFound)));
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_never_asked() {
    let scene = Scene::on(MemoryHub::new()).await;
    let server = server(vec![csv("\"a\"", "city\nBern\n")]).await;
    let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    let scheduler = scheduler_with(&scene, |_| {});
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "failed").await;
    assert_eq!(server.got().len(), 0);
    scheduler.stop().await;
}

#[tokio::test]
async fn servers_that_never_answer_delay_nobody_else() {
    let scene = Scene::on(MemoryHub::new()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let server = {
        let asked = asked.clone();
        Receiver::new(move |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            Reply::Hang
        })
        .await
    };
    // More than are asked for one tenant at a time, and than there are places for starts.
    for _ in 0..80 {
        schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    }
    let scheduler = scheduler(&scene);
    let now_ms = scene.engine.clock.now_ms();
    advance_to(&scene, now_ms + 2 * MINUTE);
    eventually("eight of them hold up the server", async || asked.load(Ordering::Relaxed) == 8).await;
    let of = schedule(&scene, |_| {}).await;
    let first = of.next_ms.unwrap();
    scene.beat().await;
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    assert_eq!(asked.load(Ordering::Relaxed), 8);
    scheduler.stop().await;
}

#[tokio::test]
async fn rows_in_a_format_that_nobody_says_are_read_as_the_schedule_says() {
    let scene = Scene::on(MemoryHub::new()).await;
    let body = Reply::Body("200 OK\r\ncontent-type: text/plain".to_owned(), b"city\nBern\n".to_vec());
    let server = server(vec![body]).await;
    let of = schedule(&scene, |schedule| {
        let format = Some(HttpFormat::Csv);
        schedule.run.rows = RowSource::Http(HttpRows { url: server.url(), format, headers: None });
    })
    .await;
    let scheduler = scheduler(&scene);
    assert_eq!(run(&scene, &of, of.next_ms.unwrap()).await, [city("Bern")]);
    scheduler.stop().await;
}

fn of_previous(schedule: &mut Schedule, outcomes: &[OutcomeName]) {
    let outcomes = outcomes.iter().copied().collect();
    schedule.run.previous = Some(PreviousRows { outcomes, since_ms: 0 });
}

#[tokio::test]
async fn a_run_takes_the_rows_of_the_one_before_that_failed_until_none_does() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| of_previous(schedule, &[OutcomeName::Failed])).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    assert_eq!(batch(&scene, &of, first).await.total, 2);
    fail(&scene, 1).await;
    scene.work_through(1).await;
    in_state(&scene, &of, first, "ended").await;
    scene.beat().await;
    let second = run(&scene, &of, first + MINUTE).await;
    assert!(second == [city("Bern")] || second == [city("Biel")], "{second:?}");
    // Nothing failed in that one, nor is there another to look at.
    for nth in 2..4 {
        scene.beat().await;
        advance_to(&scene, first + nth * MINUTE);
        in_state(&scene, &of, first + nth * MINUTE, "skipped").await;
        let skipped = TickState::Skipped { why: WhySkipped::NoRows };
        assert_eq!(state(&scene, &of, first + nth * MINUTE).await, skipped);
    }
    // Where it is gone the rows are the first ones again.
    let before = Tick::batch(of.id, first + MINUTE, 0);
    while !scene.engine.store.delete(&scene.tenant, before).await.unwrap() {}
    assert_eq!(run(&scene, &of, first + 4 * MINUTE).await.len(), 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn what_retries_came_to_counts_as_the_run_does() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| {
        of_previous(schedule, &[OutcomeName::Succeeded]);
        schedule.policies.retry = Some(RetryFailed { times: 1, after_ms: 0 });
        schedule.policies.concurrency = Concurrency::Allow;
    })
    .await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    in_state(&scene, &of, first, "running").await;
    fail(&scene, 2).await;
    let retried = Mutex::new(None);
    eventually("the rows that failed run again", async || {
        let found = scene.engine.store.batch(&scene.tenant, Tick::batch(of.id, first, 1)).await;
        *retried.lock().unwrap() = found.ok();
        retried.lock().unwrap().is_some()
    })
    .await;
    fail(&scene, 1).await;
    scene.work_through(1).await;
    in_state(&scene, &of, first, "ended").await;
    scene.beat().await;
    let second = run(&scene, &of, first + MINUTE).await;
    assert!(second == [city("Bern")] || second == [city("Biel")], "{second:?}");
    scheduler.stop().await;
}

#[tokio::test]
async fn rows_that_were_named_later_are_taken_before_those_of_runs_before() {
    let scene = Scene::on(MemoryHub::new()).await;
    let of = schedule(&scene, |schedule| of_previous(schedule, &[OutcomeName::Succeeded])).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    assert_eq!(run(&scene, &of, first).await.len(), 2);
    let mut changed = scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap();
    // The run that was began when its tick was due.
    changed.run.previous.as_mut().unwrap().since_ms = scene.engine.clock.now_ms();
    changed.run.rows = RowSource::Set { set: other_rows(&scene, &[city("Chur")]).await, version: None };
    changed.ver += 1;
    assert!(scene.engine.records.put_schedule(&changed).await.unwrap());
    scene.beat().await;
    assert_eq!(run(&scene, &of, first + MINUTE).await, [city("Chur")]);
    scene.beat().await;
    assert_eq!(run(&scene, &of, first + 2 * MINUTE).await, [city("Chur")]);
    scheduler.stop().await;
}

async fn other_rows(scene: &Scene, rows: &[String]) -> RowSetId {
    let set = RowSetId::at(1, rand::random());
    crate::schedules::rows(scene, set, Some("others"), rows).await;
    set
}

#[tokio::test]
async fn as_many_servers_are_asked_as_may_be_and_the_next_as_soon_as_one_has_answered() {
    let scene = Scene::on(MemoryHub::new()).await;
    let server = Waiting::start().await;
    let mut all = Vec::new();
    for _ in 0..20 {
        let url = server.url.clone();
        all.push(
            schedule(&scene, |schedule| {
                schedule.run.rows = RowSource::Http(HttpRows { url, format: None, headers: None });
            })
            .await,
        );
    }
    let scheduler = scheduler(&scene);
    let first = all[0].next_ms.unwrap();
    advance_to(&scene, first);
    // No clock moves from here on: none waits for a time.
    server.asked.acquire_many(8).await.unwrap().forget();
    for _ in 8..20 {
        server.go.add_permits(1);
        server.asked.acquire().await.unwrap().forget();
    }
    server.go.add_permits(8);
    for of in &all {
        in_state(&scene, of, first, "running").await;
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn rows_for_which_there_is_no_room_end_the_reading_of_them() {
    let scene = Scene::on(MemoryHub::new()).await;
    let row = |_| format!("{{\"city\":\"{:032x}\"}}\n", rand::random::<u128>());
    let rows: String = (0..100_000).map(row).collect();
    let head = "200 OK\r\ncontent-type: application/jsonl".to_owned();
    let server = server(vec![Reply::Body(head, rows.into_bytes())]).await;
    let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    let scheduler = scheduler_with(&scene, |recurring| {
        recurring.sources = UrlPolicy::with_loopback();
        recurring.quotas.stored_bytes = 300_000;
    });
    let first = of.next_ms.unwrap();
    advance_to(&scene, first);
    eventually("the tick waits for room", async || {
        let tick = scene.engine.records.tick(&scene.tenant, of.id, first).await;
        matches!(tick, Ok(Tick { state: TickState::Due { tries: 1, .. }, .. }))
    })
    .await;
    scheduler.stop().await;
}

/// A server that answers when it is told to.
struct Waiting {
    url: String,
    asked: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Waiting {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/rows", listener.local_addr().unwrap());
        let (asked, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (told, waits) = (asked.clone(), go.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (told, waits) = (told.clone(), waits.clone());
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    told.add_permits(1);
                    waits.acquire().await.unwrap().forget();
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 10\r\n\r\ncity\nBern\n";
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { url, asked, go }
    }
}

#[tokio::test]
async fn a_schedule_that_is_deleted_or_paused_while_its_server_is_asked_begins_nothing() {
    let scene = Scene::on(MemoryHub::new()).await;
    let server = Waiting::start().await;
    let of_server = |schedule: &mut Schedule| {
        schedule.run.rows =
            RowSource::Http(HttpRows { url: server.url.clone(), format: None, headers: None });
    };
    let (deleted, paused) = (schedule(&scene, of_server).await, schedule(&scene, of_server).await);
    let scheduler = scheduler(&scene);
    let first = deleted.next_ms.unwrap();
    advance_to(&scene, first);
    server.asked.acquire_many(2).await.unwrap().forget();
    let records = &scene.engine.records;
    assert!(records.delete_schedule(&scene.tenant, deleted.id).await.unwrap());
    records.delete_row_set(&scene.tenant, Schedule::own_rows(deleted.id)).await.unwrap();
    let mut changed = records.schedule(&scene.tenant, paused.id).await.unwrap();
    (changed.state, changed.ver) = (ScheduleState::Paused { at_ms: first }, changed.ver + 1);
    assert!(records.put_schedule(&changed).await.unwrap());
    server.go.add_permits(2);
    in_state(&scene, &paused, first, "skipped").await;
    let skipped = TickState::Skipped { why: WhySkipped::Paused };
    assert_eq!(state(&scene, &paused, first).await, skipped);
    scheduler.stop().await;
    for of in [&deleted, &paused] {
        let made = scene.engine.store.batch(&scene.tenant, Tick::batch(of.id, first, 0)).await;
        assert!(matches!(made, Err(StoreError::NotFound)));
    }
    let left = records.row_set(&scene.tenant, Schedule::own_rows(deleted.id)).await;
    assert!(matches!(left, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn what_is_asked_for_otherwise_is_asked_for_without_the_tag() {
    let scene = Scene::on(MemoryHub::new()).await;
    let server = server(vec![csv("\"a\"", "city\nBern\n")]).await;
    let of = schedule(&scene, |schedule| schedule.run.rows = from(&server)).await;
    let scheduler = scheduler(&scene);
    let first = of.next_ms.unwrap();
    run(&scene, &of, first).await;
    let mut changed = scene.engine.records.schedule(&scene.tenant, of.id).await.unwrap();
    let format = Some(HttpFormat::Csv);
    changed.run.rows = RowSource::Http(HttpRows { url: server.url(), format, headers: None });
    changed.ver += 1;
    assert!(scene.engine.records.put_schedule(&changed).await.unwrap());
    scene.beat().await;
    run(&scene, &of, first + MINUTE).await;
    assert!(server.got().iter().all(|got| !got.headers.contains_key("if-none-match")));
    scheduler.stop().await;
}
