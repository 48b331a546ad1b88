//! The conformance suite of the hub ports: each function is one sentence about a fresh hub and panics where it is not true.
//!
//! [`hub_conformance!`](crate::hub_conformance) makes a test of each. What a hub may do beyond (lose, repeat, delay) is not asked
//! here: these are the sentences about a hub whose memory holds.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a conformance case is a test that lives outside cfg(test)"
)]

use std::time::Duration;

use promptmill_domain::rate::{CallEnd, LaneLimits, Learned, RateHints};
use promptmill_domain::{BatchId, ChunkId, LaneId};

use crate::hub_ports::{CallNeed, CallReport, Denied, Limiter, Permit, Queue, Signal, Signals};

/// Everything a hub must offer.
pub trait Hub: Queue + Limiter + Signals {}

impl<T: Queue + Limiter + Signals> Hub for T {}

/// Long enough that it never passes in a test that is right.
const LONG: Duration = Duration::from_secs(60);

/// Makes a `#[tokio::test]` of every case. The expression makes a fresh hub: anything that dereferences to a
/// [`Hub`]; it may await, and is dropped at the end of the case.
#[macro_export]
macro_rules! hub_conformance {
    ($make:expr) => {
        $crate::conformance_tests! { hub, $make;
            a_chunk_is_queued_once_and_again_after_it_was_taken
            hints_come_by_priority_then_arrival
            a_queued_chunk_moves_when_its_priority_changes
            a_chunk_that_moves_is_as_old_as_it_was
            a_pop_takes_no_more_than_it_asked_for
            an_empty_queue_answers_with_nothing_when_the_wait_is_over
            a_waiting_pop_gets_what_is_pushed
            a_lane_runs_no_more_calls_than_its_limit
            a_raised_limit_lets_the_waiting_go
            a_lane_without_a_limit_gives_every_permit
            a_paused_lane_gives_no_permit_before_its_time
            the_later_of_two_pauses_holds
            who_waits_for_a_place_learns_of_a_pause
            lanes_do_not_touch_each_other
            a_lane_with_a_rate_lets_no_more_begin_than_it_says
            a_lane_keeps_to_what_was_learned_before
            nobody_begins_before_the_provider_said
            interactive_calls_go_before_others_that_wait
            an_interactive_call_is_given_the_place_of_one_that_waits_for_leave
            leave_that_was_not_used_is_there_for_others
            who_waits_for_leave_learns_of_a_pause
            every_subscriber_hears_a_signal
            a_pause_is_told_to_subscribers
        }
    };
}

fn chunk(n: u32) -> ChunkId {
    ChunkId { batch: BatchId::from_bytes(rand::random()), n }
}

fn lane() -> LaneId {
    LaneId::new("conformance", &format!("{:x}", rand::random::<u64>()))
}

/// See its name.
pub async fn a_chunk_is_queued_once_and_again_after_it_was_taken(hub: &dyn Hub) {
    let one = chunk(1);
    hub.push(&[(one, 0), (one, 5)]).await.unwrap();
    hub.push(&[(one, 0)]).await.unwrap();
    assert_eq!(hub.depth().await.unwrap(), 1);
    assert_eq!(hub.pop(9, Duration::ZERO).await.unwrap(), [(one, 0)]);
    assert_eq!(hub.depth().await.unwrap(), 0);
    hub.push(&[(one, i16::MIN)]).await.unwrap();
    assert_eq!(hub.pop(9, Duration::ZERO).await.unwrap(), [(one, i16::MIN)]);
}

/// See its name.
pub async fn hints_come_by_priority_then_arrival(hub: &dyn Hub) {
    let chunks: Vec<ChunkId> = (0..4).map(chunk).collect();
    hub.push(&[(chunks[0], 0), (chunks[1], -3)]).await.unwrap();
    hub.push(&[(chunks[2], 7), (chunks[3], 0)]).await.unwrap();
    let taken = hub.pop(9, Duration::ZERO).await.unwrap();
    assert_eq!(taken, [(chunks[2], 7), (chunks[0], 0), (chunks[3], 0), (chunks[1], -3)]);
}

/// See its name.
pub async fn a_queued_chunk_moves_when_its_priority_changes(hub: &dyn Hub) {
    let chunks: Vec<ChunkId> = (0..3).map(chunk).collect();
    hub.push(&[(chunks[0], 0), (chunks[1], 0), (chunks[2], 0)]).await.unwrap();
    hub.push(&[(chunks[2], 1), (chunks[0], -1), (chunks[1], 0)]).await.unwrap();
    assert_eq!(hub.depth().await.unwrap(), 3);
    assert_eq!(hub.pop(9, Duration::ZERO).await.unwrap(), [(chunks[2], 1), (chunks[1], 0), (chunks[0], -1)]);
}

/// See its name.
pub async fn a_chunk_that_moves_is_as_old_as_it_was(hub: &dyn Hub) {
    let chunks: Vec<ChunkId> = (0..5).map(chunk).collect();
    hub.push(&[(chunks[0], 0), (chunks[1], 3), (chunks[2], 0), (chunks[3], 3)]).await.unwrap();
    // There and back, and beside others that came before and after.
    hub.push(&[(chunks[0], -2), (chunks[2], 3)]).await.unwrap();
    hub.push(&[(chunks[0], 0), (chunks[4], 0), (chunks[3], 0)]).await.unwrap();
    let taken = hub.pop(9, Duration::ZERO).await.unwrap();
    assert_eq!(taken, [(chunks[1], 3), (chunks[2], 3), (chunks[0], 0), (chunks[3], 0), (chunks[4], 0)]);
}

/// See its name.
pub async fn a_pop_takes_no_more_than_it_asked_for(hub: &dyn Hub) {
    let hints: Vec<(ChunkId, i16)> = (0..5).map(|n| (chunk(n), 0)).collect();
    hub.push(&hints).await.unwrap();
    assert_eq!(hub.pop(2, Duration::ZERO).await.unwrap().len(), 2);
    assert_eq!(hub.pop(0, Duration::ZERO).await.unwrap().len(), 0);
    assert_eq!(hub.depth().await.unwrap(), 3);
}

/// See its name.
pub async fn an_empty_queue_answers_with_nothing_when_the_wait_is_over(hub: &dyn Hub) {
    assert!(hub.pop(1, Duration::ZERO).await.unwrap().is_empty());
    assert!(hub.pop(1, Duration::from_millis(5)).await.unwrap().is_empty());
}

/// See its name.
pub async fn a_waiting_pop_gets_what_is_pushed(hub: &dyn Hub) {
    let one = chunk(1);
    let push = async {
        tokio::task::yield_now().await;
        hub.push(&[(one, 0)]).await.unwrap();
    };
    let (taken, ()) = tokio::join!(hub.pop(1, LONG), push);
    assert_eq!(taken.unwrap(), [(one, 0)]);
}

/// See its name.
pub async fn a_lane_runs_no_more_calls_than_its_limit(hub: &dyn Hub) {
    let lane = lane();
    hub.set_concurrency(&lane, Some(2)).await.unwrap();
    let first = hub.acquire(&lane, CallNeed::of(1), 0).await.unwrap();
    let _second = hub.acquire(&lane, CallNeed::of(1), 0).await.unwrap();
    let mut third = Box::pin(hub.acquire(&lane, CallNeed::of(1), 0));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop(first);
    assert!(tokio::time::timeout(LONG, third).await.unwrap().is_ok());
}

/// See its name.
pub async fn a_raised_limit_lets_the_waiting_go(hub: &dyn Hub) {
    let lane = lane();
    hub.set_concurrency(&lane, Some(1)).await.unwrap();
    let _held = hub.acquire(&lane, CallNeed::of(1), 0).await.unwrap();
    let mut waiting = Box::pin(hub.acquire(&lane, CallNeed::of(1), 0));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    hub.set_concurrency(&lane, None).await.unwrap();
    assert!(tokio::time::timeout(LONG, waiting).await.unwrap().is_ok());
}

/// See its name.
pub async fn a_lane_without_a_limit_gives_every_permit(hub: &dyn Hub) {
    let lane = lane();
    let mut permits = Vec::new();
    for _ in 0..100 {
        permits.push(hub.acquire(&lane, CallNeed::of(1), 0).await.unwrap());
    }
    assert_eq!(permits.len(), 100);
}

/// See its name.
pub async fn a_paused_lane_gives_no_permit_before_its_time(hub: &dyn Hub) {
    let lane = lane();
    hub.pause(&lane, 1_000).await.unwrap();
    check_paused(hub, &lane, 999, 1_000).await;
    assert!(hub.acquire(&lane, CallNeed::of(1), 1_000).await.is_ok());
}

/// See its name.
pub async fn the_later_of_two_pauses_holds(hub: &dyn Hub) {
    let lane = lane();
    hub.pause(&lane, 2_000).await.unwrap();
    hub.pause(&lane, 1_000).await.unwrap();
    check_paused(hub, &lane, 1_500, 2_000).await;
}

/// See its name.
pub async fn who_waits_for_a_place_learns_of_a_pause(hub: &dyn Hub) {
    let lane = lane();
    hub.set_concurrency(&lane, Some(1)).await.unwrap();
    let _held = hub.acquire(&lane, CallNeed::of(1), 0).await.unwrap();
    let mut waiting = Box::pin(hub.acquire(&lane, CallNeed::of(1), 0));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    hub.pause(&lane, 50).await.unwrap();
    let denied = tokio::time::timeout(LONG, waiting).await.unwrap();
    assert!(matches!(denied, Err(Denied::Paused { until_ms: 50 })), "{denied:?}");
}

/// See its name.
pub async fn lanes_do_not_touch_each_other(hub: &dyn Hub) {
    let (still, other) = (lane(), lane());
    hub.pause(&still, u64::MAX).await.unwrap();
    hub.set_concurrency(&still, Some(1)).await.unwrap();
    assert!(hub.acquire(&other, CallNeed::of(1), 0).await.is_ok());
}

const TAKEN: CallReport =
    CallReport { end: CallEnd::Taken, hints: RateHints { requests: None, tokens: None }, tokens: None };

async fn leave(hub: &dyn Hub, lane: &LaneId, is_interactive: bool) -> Permit {
    let need = CallNeed { tokens: 1, is_interactive };
    let mut permit = tokio::time::timeout(LONG, hub.acquire(lane, need, 0)).await.unwrap().unwrap();
    permit.begin();
    permit
}

/// See its name.
pub async fn a_lane_with_a_rate_lets_no_more_begin_than_it_says(hub: &dyn Hub) {
    let lane = lane();
    let limits = LaneLimits { requests_per_minute: Some(6_000), ..LaneLimits::default() };
    hub.set_rules(&lane, limits, Learned::default());
    let begun = tokio::time::Instant::now();
    for _ in 0..40 {
        leave(hub, &lane, false).await.end(TAKEN);
    }
    // A hundred a second, and nothing was saved up.
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    let report = hub.lanes().into_iter().find(|report| report.lane == lane).unwrap();
    assert_eq!(report.view.allowed_per_s, Some(100.0));
}

/// See its name.
pub async fn a_lane_keeps_to_what_was_learned_before(hub: &dyn Hub) {
    let lane = lane();
    let learned = Learned { per_s: Some(50.0), burst: Some(1.0), concurrency: Some(3) };
    hub.set_rules(&lane, LaneLimits::default(), learned);
    let begun = tokio::time::Instant::now();
    for _ in 0..10 {
        leave(hub, &lane, false).await.end(TAKEN);
    }
    assert!(begun.elapsed() >= Duration::from_millis(180), "{:?}", begun.elapsed());
    let report = hub.lanes().into_iter().find(|report| report.lane == lane).unwrap();
    assert_eq!((report.learned.concurrency, report.view.window), (Some(3), Some(3)));
}

/// See its name.
pub async fn nobody_begins_before_the_provider_said(hub: &dyn Hub) {
    let lane = lane();
    hub.set_rules(&lane, LaneLimits::default(), Learned::default());
    let told = tokio::time::Instant::now();
    let asked = Duration::from_millis(700);
    let end = CallEnd::TooOften { retry_after: Some(asked) };
    leave(hub, &lane, false).await.end(CallReport { end, ..TAKEN });
    leave(hub, &lane, false).await.end(TAKEN);
    assert!(told.elapsed() >= asked, "{:?}", told.elapsed());
}

/// See its name.
pub async fn interactive_calls_go_before_others_that_wait(hub: &dyn Hub) {
    let lane = lane();
    let limits = LaneLimits { requests_per_minute: Some(600), ..LaneLimits::default() };
    hub.set_rules(&lane, limits, Learned::default());
    leave(hub, &lane, false).await.end(TAKEN);
    let bulk = CallNeed::of(1);
    let mut others: Vec<_> = (0..5).map(|_| Box::pin(hub.acquire(&lane, bulk, 0))).collect();
    for other in &mut others {
        assert!(futures_util::poll!(other).is_pending());
    }
    let urgent = tokio::time::Instant::now();
    leave(hub, &lane, true).await.end(TAKEN);
    let waited = urgent.elapsed();
    for other in others {
        let mut permit = tokio::time::timeout(LONG, other).await.unwrap().unwrap();
        permit.begin();
        permit.end(TAKEN);
    }
    assert!(waited < urgent.elapsed() / 2, "{waited:?} of {:?}", urgent.elapsed());
}

/// See its name.
pub async fn an_interactive_call_is_given_the_place_of_one_that_waits_for_leave(hub: &dyn Hub) {
    let lane = lane();
    let limits = LaneLimits { requests_per_minute: Some(120), concurrency: Some(2), ..LaneLimits::default() };
    hub.set_rules(&lane, limits, Learned::default());
    leave(hub, &lane, false).await.end(TAKEN);
    let mut others = futures_util::future::select_all(
        (0..3).map(|_| Box::pin(leave(hub, &lane, false))).collect::<Vec<_>>(),
    );
    // Until two of them have the places.
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut others).await.is_err());
    let urgent = Box::pin(leave(hub, &lane, true));
    match futures_util::future::select(urgent, others).await {
        futures_util::future::Either::Left((permit, others)) => {
            permit.end(TAKEN);
            let (permit, _, mut left) = others.await;
            permit.end(TAKEN);
            while !left.is_empty() {
                let permit;
                (permit, _, left) = futures_util::future::select_all(left).await;
                permit.end(TAKEN);
            }
        }
        futures_util::future::Either::Right(_) => panic!("another one went first"),
    }
}

/// See its name.
pub async fn leave_that_was_not_used_is_there_for_others(hub: &dyn Hub) {
    let lane = lane();
    let limits = LaneLimits { requests_per_minute: Some(40), ..LaneLimits::default() };
    hub.set_rules(&lane, limits, Learned::default());
    let need = CallNeed::of(1);
    let begun = tokio::time::Instant::now();
    drop(tokio::time::timeout(LONG, hub.acquire(&lane, need, 0)).await.unwrap().unwrap());
    let first = begun.elapsed();
    leave(hub, &lane, false).await.end(TAKEN);
    assert!(begun.elapsed() < first * 3 / 2, "{first:?}, then {:?}", begun.elapsed());
}

/// See its name.
pub async fn who_waits_for_leave_learns_of_a_pause(hub: &dyn Hub) {
    let lane = lane();
    let limits = LaneLimits { requests_per_minute: Some(1), ..LaneLimits::default() };
    hub.set_rules(&lane, limits, Learned::default());
    let need = CallNeed::of(1);
    let mut waiting = Box::pin(hub.acquire(&lane, need, 0));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    hub.pause(&lane, 50).await.unwrap();
    let denied = tokio::time::timeout(LONG, waiting).await.unwrap();
    assert!(matches!(denied, Err(Denied::Paused { until_ms: 50 })), "{denied:?}");
}

/// See its name.
pub async fn every_subscriber_hears_a_signal(hub: &dyn Hub) {
    let signal = Signal::BatchChanged(BatchId::from_bytes(rand::random()));
    // Without a subscriber it is lost, and that is no error.
    hub.publish(signal.clone()).await.unwrap();
    let (mut one, mut two) = (hub.subscribe(), hub.subscribe());
    hub.publish(signal.clone()).await.unwrap();
    for heard in [&mut one, &mut two] {
        assert_eq!(tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap(), signal);
    }
}

/// See its name.
pub async fn a_pause_is_told_to_subscribers(hub: &dyn Hub) {
    let lane = lane();
    let mut heard = hub.subscribe();
    hub.pause(&lane, 77).await.unwrap();
    let signal = tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap();
    assert_eq!(signal, Signal::LanePaused { lane, until_ms: 77 });
}

async fn check_paused(hub: &dyn Hub, lane: &LaneId, now_ms: u64, until_ms: u64) {
    match hub.acquire(lane, CallNeed::of(1), now_ms).await {
        Err(Denied::Paused { until_ms: told }) => assert_eq!(told, until_ms),
        Err(Denied::Unavailable(error)) => panic!("{error}"),
        Ok(_) => panic!("a permit of a lane that stands still"),
    }
}
