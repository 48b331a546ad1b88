//! A lane without Redis: what it lets begin on which answer, and when it wants to ask.

use futures_util::{FutureExt as _, poll};

use super::*;

const ANY: CallNeed = CallNeed::of(1);

fn lane() -> Arc<Lane> {
    Arc::new(Lane::new(LaneId::new("test", "one")))
}

/// Redis answers a report made now with so many places.
fn give(lane: &Arc<Lane>, places: Option<u32>) -> Report {
    let report = lane.report();
    let leave = Leave { places, paused_until_ms: 0, limit: report.limit, others_want: false };
    lane.apply(Instant::now(), &report, &leave);
    report
}

/// Whether the lane asked to be heard since the last time.
fn asked(lane: &Lane) -> bool {
    std::mem::take(&mut lane.lock().is_urgent)
}

#[tokio::test]
async fn nobody_calls_before_redis_answered_and_all_who_wait_then_do() {
    let lane = lane();
    let mut first = Box::pin(lane.acquire(ANY, 0, false));
    let mut second = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert!(asked(&lane));
    assert_eq!(give(&lane, None).wanted, 2);
    let _permits = (first.await.unwrap(), second.await.unwrap());
    // Without asking again.
    let _third = lane.acquire(ANY, 0, false).now_or_never().unwrap().unwrap();
    assert!(!asked(&lane));
}

#[tokio::test]
async fn a_place_that_is_free_again_goes_to_the_one_who_waited_first() {
    let lane = lane();
    let mut first = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut first).is_pending());
    give(&lane, Some(1));
    let permit = first.await.unwrap();
    let (mut second, mut third) =
        (Box::pin(lane.acquire(ANY, 0, false)), Box::pin(lane.acquire(ANY, 0, false)));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    give(&lane, Some(1));
    let _ = asked(&lane);
    drop(permit);
    assert!(poll!(&mut third).is_pending());
    assert!(second.now_or_never().unwrap().is_ok());
    assert!(!asked(&lane), "a place that goes from hand to hand costs no command");
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_place_to_the_next() {
    let lane = lane();
    let mut held = Box::pin(lane.acquire(ANY, 0, false));
    let mut gone = Box::pin(lane.acquire(ANY, 0, false));
    let mut next = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut held).is_pending() && poll!(&mut gone).is_pending() && poll!(&mut next).is_pending());
    give(&lane, Some(1));
    let held = held.await.unwrap();
    drop(gone);
    drop(held);
    let permit = next.now_or_never().unwrap().unwrap();
    // One that was given and never looked at is given back too.
    let mut unread = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut unread).is_pending());
    drop(permit);
    drop(unread);
    assert_eq!(lane.report().calls, 0);
    assert!(lane.acquire(ANY, 0, false).now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_only_for_a_while() {
    let lane = lane();
    let mut first = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut first).is_pending());
    give(&lane, None);
    drop(first.await.unwrap());
    tokio::time::advance(HOLDS_FOR).await;
    let mut second = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut second).is_pending());
    assert!(asked(&lane));
}

#[tokio::test]
async fn one_that_has_more_than_its_share_tells_of_each_place_it_gives_back() {
    let lane = lane();
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(lane.acquire(ANY, 0, false))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    give(&lane, Some(3));
    let mut permits = Vec::new();
    for call in calls {
        permits.push(call.await.unwrap());
    }
    let _ = asked(&lane);
    give(&lane, Some(1));
    let mut waiting = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut waiting).is_pending());
    permits.pop();
    assert!(asked(&lane));
    assert!(poll!(&mut waiting).is_pending(), "a place that belongs to others was used again");
    permits.pop();
    assert!(asked(&lane));
    assert_eq!(lane.report().calls, 1);
}

#[tokio::test]
async fn places_are_not_asked_for_again_where_there_are_no_more() {
    let lane = lane();
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(lane.acquire(ANY, 0, false))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    assert!(asked(&lane));
    give(&lane, Some(2));
    let mut fourth = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut fourth).is_pending());
    assert!(!asked(&lane));
    lane.ask_if_waiting();
    assert!(asked(&lane));
}

#[tokio::test]
async fn who_waits_where_nothing_is_in_use_is_asked_for_even_if_the_last_answer_was_too_little() {
    let lane = lane();
    let mut gone = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut gone).is_pending());
    give(&lane, Some(0));
    drop(gone);
    lane.report();
    let _ = asked(&lane);
    assert!(lane.lock().next_beat().is_none());
    let mut call = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut call).is_pending());
    assert!(asked(&lane), "no beat will ask for it either");
}

#[tokio::test]
async fn a_limit_that_was_just_set_is_not_undone_by_an_older_answer() {
    let lane = lane();
    let report = lane.report();
    lane.limit_was_set(Limit { calls: Some(1), set_at: 2 });
    let _ = asked(&lane);
    let older = Leave {
        places: None,
        paused_until_ms: 0,
        limit: Limit { calls: None, set_at: 1 },
        others_want: false,
    };
    lane.apply(Instant::now(), &report, &older);
    assert!(asked(&lane));
    assert_eq!(lane.report().limit, Limit { calls: Some(1), set_at: 2 });
    let mut call = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut call).is_pending());
}

#[tokio::test]
async fn redis_being_away_ends_the_waiting_but_not_the_calls() {
    let lane = lane();
    let mut call = Box::pin(lane.acquire(ANY, 0, false));
    assert!(poll!(&mut call).is_pending());
    lane.is_away(&HubError("refused".into()));
    assert!(matches!(call.await, Err(Denied::Unavailable(_))));
    // A pause that is known holds all the same.
    lane.pause(10);
    assert!(matches!(lane.acquire(ANY, 9, false).await, Err(Denied::Paused { until_ms: 10 })));
}

#[tokio::test]
async fn what_is_reported_is_the_most_that_was_needed_since_the_last_report() {
    let lane = lane();
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(lane.acquire(ANY, 0, false))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    give(&lane, Some(3));
    for call in calls {
        drop(call.await.unwrap());
    }
    let report = lane.report();
    assert_eq!((report.calls, report.wanted), (0, 3));
    let report = lane.report();
    assert_eq!((report.calls, report.wanted), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn places_that_others_want_are_not_kept_for_a_second() {
    let lane = lane();
    let mut calls: Vec<_> = (0..2).map(|_| Box::pin(lane.acquire(ANY, 0, false))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    let report = lane.report();
    let leave = Leave { places: Some(2), paused_until_ms: 0, limit: report.limit, others_want: true };
    let told_at = Instant::now();
    lane.apply(told_at, &report, &leave);
    let mut permits = Vec::new();
    for call in calls {
        permits.push(call.await.unwrap());
    }
    assert_eq!(lane.lock().next_beat(), Some(told_at + BEAT));

    permits.pop();

    assert_eq!(lane.lock().next_beat(), Some(told_at + BEAT_OF_THE_IDLE));
    // The keeper, which sleeps until the later beat, looks again and then speaks at the sooner.
    while !lane.wait_for_reason().await {}
    assert!(told_at.elapsed() < BEAT);
    let _ = lane.report();
    assert_eq!(lane.report().wanted, 1);
}
