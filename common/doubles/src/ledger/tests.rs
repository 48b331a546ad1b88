use super::*;
use crate::fault::RetryAfter;

fn arrival(marker: &str) -> Arrival<'_> {
    Arrival { marker: Some(marker), body: None, repair: false, credential: 1 }
}

fn send(call: RunningCall) {
    assert!(call.deliver(|| (true, ())).0.is_none());
}

#[test]
fn a_call_that_is_dropped_ends_as_undelivered() {
    let ledger = Ledger::new(Duration::ZERO);
    let (call, _) = ledger.begin(arrival("a"), |_, _| Step::Clean);
    assert_eq!(ledger.totals().in_flight, 1);
    drop(call);
    let (totals, record) = (ledger.totals(), ledger.marker("a"));
    assert_eq!((totals.in_flight, totals.undelivered, totals.max_concurrent), (0, 1, 1));
    assert_eq!((record.undelivered, record.history[0].sent), (1, false));
    assert!(record.history[0].ended_us.is_some());
}

#[test]
fn a_call_after_a_valid_reply_is_noticed() {
    let ledger = Ledger::new(Duration::ZERO);
    for _ in 0..2 {
        let (mut call, _) = ledger.begin(arrival("a"), |_, _| Step::Clean);
        call.delivery = Delivery { ok: true, valid: true, ..Delivery::default() };
        send(call);
    }
    assert_eq!(ledger.marker("a").calls_after_valid, 1);
    assert_eq!((ledger.totals().valid_replies, ledger.totals().calls_after_valid), (2, 1));
}

#[test]
fn position_and_run_of_a_marker_reach_the_decision() {
    let ledger = Ledger::new(Duration::ZERO);
    let mut seen = Vec::new();
    let faulty = Step::Fault(Fault::ServerError);
    for step in [faulty.clone(), faulty, Step::Fault(Fault::Fenced), Step::Clean] {
        drop(ledger.begin(arrival("a"), |nth, run| {
            seen.push((nth, run));
            step
        }));
    }
    assert_eq!(seen, [(0, 0), (1, 1), (2, 2), (3, 0)]);
}

#[test]
fn a_call_inside_a_pause_is_early_and_one_of_another_credential_is_not() {
    let ledger = Ledger::new(Duration::ZERO);
    let refused = Step::Fault(Fault::RateLimited(RetryAfter::Seconds(60)));
    let (mut call, _) = ledger.begin(arrival("a"), |_, _| refused);
    call.delivery.pause = Some((1, Duration::from_secs(60)));
    let (already_running, _) = ledger.begin(arrival("b"), |_, _| Step::Clean);
    send(call);
    send(already_running);
    send(ledger.begin(arrival("c"), |_, _| Step::Clean).0);
    send(ledger.begin(Arrival { credential: 2, ..arrival("d") }, |_, _| Step::Clean).0);
    let early = |marker: &str| ledger.marker(marker).early_calls;
    assert_eq!([early("a"), early("b"), early("c"), early("d")], [0, 0, 1, 0]);
    assert_eq!(ledger.totals().early_calls, 1);
}

#[test]
fn a_call_on_its_way_when_the_pause_began_is_not_early() {
    let ledger = Ledger::new(Duration::from_secs(30));
    let (mut call, _) = ledger.begin(arrival("a"), |_, _| Step::Clean);
    call.delivery.pause = Some((1, Duration::from_secs(60)));
    send(call);
    send(ledger.begin(arrival("a"), |_, _| Step::Clean).0);
    assert_eq!(ledger.totals().early_calls, 0);
}

#[test]
fn a_call_from_before_a_reset_changes_nothing_after_it() {
    let ledger = Ledger::new(Duration::ZERO);
    let (call, _) = ledger.begin(arrival("a"), |_, _| Step::Clean);
    ledger.reset();
    send(call);
    assert_eq!(ledger.snapshot(), Snapshot::default());
}
