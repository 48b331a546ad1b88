//! Properties of a batch's states under any sequence of events.

use proptest::prelude::*;

use super::*;

fn events() -> impl Strategy<Value = BatchEvent> {
    prop_oneof![
        Just(BatchEvent::BeginSubmit),
        Just(BatchEvent::FinishSubmit),
        Just(BatchEvent::Admit),
        Just(BatchEvent::Pause(PauseReason::Requested)),
        Just(BatchEvent::Pause(PauseReason::Budget)),
        Just(BatchEvent::Resume),
        Just(BatchEvent::Cancel),
        Just(BatchEvent::Expire),
        Just(BatchEvent::Close),
    ]
}

/// How far along a state is; no event leads back.
fn rank(state: &BatchState) -> u8 {
    match state {
        BatchState::Draft => 0,
        BatchState::Submitting => 1,
        BatchState::Queued => 2,
        BatchState::Running | BatchState::Paused { .. } => 3,
        BatchState::Cancelling | BatchState::Expiring => 4,
        BatchState::Completed | BatchState::Cancelled | BatchState::Expired => 5,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_never_goes_back_and_an_event_may_be_repeated(events in prop::collection::vec(events(), 0..40)) {
        let mut state = BatchState::Draft;
        for event in events {
            let Ok(next) = state.decide(&event) else { continue };
            prop_assert!(rank(&next) >= rank(&state), "{state:?} -> {next:?}");
            prop_assert_eq!(next.decide(&event), Ok(next.clone()), "repeating {:?}", event);
            prop_assert!(!state.is_final() || next == state);
            prop_assert!(!(next.may_begin() && next.seals_with().is_some()));
            state = next;
        }
    }
}

#[test]
fn a_batch_that_is_closing_early_ends_as_what_it_was_asked() {
    for (event, end, code) in [
        (BatchEvent::Cancel, BatchState::Cancelled, ItemCode::Cancelled),
        (BatchEvent::Expire, BatchState::Expired, ItemCode::Expired),
    ] {
        let closing = BatchState::Running.decide(&event).unwrap();
        assert_eq!(closing.seals_with(), Some(code));
        assert!(closing.decide(&BatchEvent::Resume).is_err());
        assert_eq!(closing.decide(&BatchEvent::Close), Ok(end));
    }
}

#[test]
fn the_stored_name_of_a_state_is_its_name() {
    let states = [
        BatchState::Draft,
        BatchState::Submitting,
        BatchState::Queued,
        BatchState::Running,
        BatchState::Paused { reason: PauseReason::Requested },
        BatchState::Cancelling,
        BatchState::Expiring,
        BatchState::Completed,
        BatchState::Cancelled,
        BatchState::Expired,
    ];
    for state in states {
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["name"], state.as_str());
        assert_eq!(serde_json::from_value::<BatchState>(json).unwrap(), state);
    }
}

#[test]
fn a_pause_of_our_own_does_not_replace_one_that_is_there_and_a_requested_one_does() {
    let paused = |reason: PauseReason| BatchState::Paused { reason };
    let requested = paused(PauseReason::Requested);
    let budget = BatchEvent::Pause(PauseReason::Budget);
    assert_eq!(requested.decide(&budget), Ok(requested.clone()));
    assert_eq!(paused(PauseReason::Budget).decide(&BatchEvent::Pause(PauseReason::Requested)), Ok(requested));
}
