//! What a worker tells of itself, why a batch is not faster, and what is counted for the metrics.

use std::time::Duration;

use promptmill_domain::{BatchLimits, BatchState, FailureKind, SlowReason};
use promptmill_pipeline::RetryPolicy;
use promptmill_worker::{Worker, WorkerConfig};

use crate::provider::{Does, Scripted};
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_needs_more_places_than_there_are_waits_for_worker_slots() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(500).await;
    assert_eq!(scene.slow_reasons(batch).await, [SlowReason::NoWorkers]);
    let worker = scene.worker(4).await;
    eventually("it waits for places", async || scene.slow_reasons(batch).await == [SlowReason::WorkerSlots])
        .await;
    let reports = scene.reports().await;
    let [report] = reports.as_slice() else { panic!("one worker lives: {reports:?}") };
    assert_eq!((report.concurrency, report.calls, report.batches.len()), (4, 4, 1));
    assert_eq!((report.batches[0].batch, &report.batches[0].lane), (batch, &scene.lane()));
    assert_eq!((report.batches[0].calling, report.batches[0].settled_per_s), (4, 0.0));
    provider.release(300);
    eventually("its pace is told", async || {
        scene
            .reports()
            .await
            .iter()
            .flat_map(|report| &report.batches)
            .any(|report| report.settled_per_s > 1.0)
    })
    .await;
    provider.release(300);
    scene.ended(batch, BatchState::Completed).await;
    assert_eq!(scene.slow_reasons(batch).await, []);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_on_a_full_lane_waits_for_that_lane() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone()).schedule();
    let lane = scene.lane();
    scene.engine.limiter.set_concurrency(&lane, Some(2)).await.unwrap();
    let batch = scene.submit(500).await;
    let worker = scene.worker(8).await;
    let expected = [SlowReason::LaneLimit { lane: lane.clone() }];
    eventually("it waits for the lane", async || scene.slow_reasons(batch).await == expected).await;
    assert_eq!(provider.now(), 2);
    scene.engine.limiter.set_concurrency(&lane, None).await.unwrap();
    eventually("it waits for places now", async || {
        scene.slow_reasons(batch).await == [SlowReason::WorkerSlots]
    })
    .await;
    provider.release(1_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_at_its_own_limit_says_so() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone()).schedule();
    let limits = BatchLimits { max_concurrency: Some(2), ..BatchLimits::default() };
    let batch = scene.submit_with(500, limits).await;
    let worker = scene.worker(8).await;
    eventually("it waits for its own limit", async || {
        scene.slow_reasons(batch).await == [SlowReason::MaxConcurrency]
    })
    .await;
    assert_eq!(provider.now(), 2);
    provider.release(1_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_calls_fail_waits_to_try_again() {
    let provider = Scripted::new(|_, _| Does::Fail(FailureKind::ProviderError));
    let scene = Scene::new(provider.clone()).schedule();
    // Every wait is long, and all of it under the lease.
    let wait = Duration::from_secs(3_600);
    let retry = RetryPolicy { first: wait, cap: wait, patience_under_lease: wait, ..RetryPolicy::default() };
    let batch = scene.submit(40).await;
    let config = WorkerConfig { concurrency: 4, retry, ..WorkerConfig::default() };
    let worker = Worker::start(scene.engine.clone(), config).await.unwrap();
    eventually("it waits to try again", async || scene.slow_reasons(batch).await == [SlowReason::RetryDelay])
        .await;
    let reports = scene.reports().await;
    assert_eq!(reports[0].batches[0].waiting_retry, 40);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_calls_tokens_and_cost_are_counted_and_nothing_a_client_wrote() {
    let provider = Scripted::new(|row, before| match (row, before) {
        (0, 0) => Does::Fail(FailureKind::EmptyReply),
        (1, _) => Does::Fail(FailureKind::ContentRefused),
        (2, _) => Does::AnswerLater,
        _ => Does::Answer,
    });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(20).await;
    let worker = scene.worker(4).await;
    eventually("all but one are settled", async || {
        let counts = scene.counts(batch).await;
        counts.succeeded + counts.all_failed() == 19
    })
    .await;
    let metrics = scene.engine.metrics.clone();
    eventually("what the store has is counted here too", async || {
        metrics.gather_text().lines().any(|line| line == "promptmill_settle_duration_seconds_count 19")
    })
    .await;
    metrics.refresh(&scene.engine).await;
    let text = metrics.gather_text();
    for line in [
        r#"promptmill_items_total{outcome="succeeded",reason=""} 18"#,
        r#"promptmill_items_total{outcome="failed",reason="content_refused"} 1"#,
        r#"promptmill_calls_total{provider="scripted",result="ok"} 18"#,
        r#"promptmill_calls_total{provider="scripted",result="empty_reply"} 1"#,
        r#"promptmill_calls_total{provider="scripted",result="content_refused"} 1"#,
        r#"promptmill_call_duration_seconds_count{provider="scripted"} 20"#,
        "promptmill_calls_in_flight 1",
        "promptmill_settle_duration_seconds_count 19",
        r#"promptmill_tokens_total{kind="prompt"} 36"#,
        r#"promptmill_tokens_total{kind="completion"} 18"#,
        "promptmill_sessions 1",
        r#"promptmill_open_batches{state="running"} 1"#,
        r#"promptmill_items_open{state="leased"} 1"#,
        "promptmill_store_up 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let cost = text.lines().find_map(|line| line.strip_prefix("promptmill_cost_dollars_total "));
    assert!((cost.unwrap().parse::<f64>().unwrap() - 18e-6).abs() < 1e-12, "{cost:?}");
    assert!(!text.contains("row 1") && !text.contains("reply to"), "{text}");
    provider.release(1);
    scene.ended(batch, BatchState::Completed).await;
    scene.stop(worker).await;
    assert!(metrics.gather_text().lines().any(|line| line == "promptmill_calls_in_flight 0"));
}
