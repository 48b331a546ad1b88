use proptest::prelude::*;

use super::*;

/// A call that comes so many milliseconds after the one before, with so many bytes, and how long a group takes that begins with it.
type Coming = (u64, usize, u64);

fn calls() -> impl Strategy<Value = Vec<Coming>> {
    let bytes = prop_oneof![8 => 0..1_000_usize, 1 => BYTES - 1..=2 * BYTES];
    prop::collection::vec((0..12_u64, bytes, 0..30_u64), 1..60)
}

/// What became of calls by a clock of whole milliseconds.
#[derive(Debug, Default)]
struct Played {
    /// When each call came.
    came: Vec<u64>,
    /// When each group began and ended, and its calls.
    groups: Vec<(u64, u64, Vec<usize>)>,
}

fn play(coming: &[Coming]) -> Played {
    let zero = Instant::now();
    let at = |ms: u64| zero + Duration::from_millis(ms);
    let (mut queue, mut played) = (Queue::default(), Played::default());
    let mut now = 0;
    for (after, _, _) in coming {
        played.came.push(played.came.last().copied().unwrap_or(0) + after);
    }
    let (mut next_call, mut driver, mut ends) = (0, None, None);
    while next_call < coming.len() || driver.is_some() || ends.is_some() {
        while next_call < coming.len() && played.came[next_call] == now {
            if queue.join(next_call, coming[next_call].1) {
                assert!(driver.is_none() && ends.is_none(), "two take groups");
                driver = Some(now);
            }
            next_call += 1;
        }
        if ends == Some(now) {
            queue.ended();
            (ends, driver) = (None, Some(now));
        }
        if driver == Some(now) {
            driver = match queue.next(at(now)) {
                Next::Rest => None,
                Next::At(then) => Some(u64::try_from((then - zero).as_millis()).unwrap()),
                Next::Group(group) => {
                    let end = now + coming[group[0]].2.max(1);
                    played.groups.push((now, end, group));
                    ends = Some(end);
                    None
                }
            };
        }
        now += 1;
    }
    played
}

proptest! {
    #[test]
    fn every_call_goes_in_one_group_and_in_order_and_none_waits_long(coming in calls()) {
        let played = play(&coming);
        let gone: Vec<_> = played.groups.iter().flat_map(|(_, _, calls)| calls.iter().copied()).collect();
        prop_assert_eq!(gone, (0..coming.len()).collect::<Vec<_>>());
        let pace = u64::try_from(PACE.as_millis()).unwrap();
        for (at, pair) in played.groups.windows(2).enumerate() {
            let ((begun, ended, calls), (next, _, of_next)) = (&pair[0], &pair[1]);
            prop_assert!(next >= ended, "groups {} and the next are under way at once", at);
            let crowded = calls.len() > 1 || played.came[of_next[0]] <= *ended;
            let free = (*ended).max(if crowded { begun + pace } else { 0 });
            prop_assert_eq!(*next, free.max(played.came[of_next[0]]), "group {} is early or late", at + 1);
        }
    }

    #[test]
    fn a_group_is_bounded_by_bytes_and_never_empty(coming in calls()) {
        for (_, _, calls) in play(&coming).groups {
            let bytes: usize = calls.iter().map(|call| coming[*call].1).sum();
            prop_assert!(calls.len() == 1 || (bytes <= BYTES && calls.len() <= CALLS));
            prop_assert!(!calls.is_empty());
        }
    }
}

#[test]
fn a_lone_call_waits_for_nothing_however_soon_it_follows_the_one_before() {
    let played = play(&[(3, 1, 1), (2, 1, 2), (3, 1, 1), (2, 1, 1)]);
    let waits: Vec<_> = played.groups.iter().map(|(begun, _, calls)| begun - played.came[calls[0]]).collect();
    assert_eq!(waits, [0; 4]);
}

fn together() -> Arc<Together<u32, u32>> {
    Arc::default()
}

/// Doubles even numbers; odd ones are refused one by one, and 13 spoils its group.
async fn double(calls: Arc<[u32]>) -> StoreResult<Vec<StoreResult<u32>>> {
    tokio::task::yield_now().await;
    if calls.contains(&13) {
        return Err(StoreError::Conflict("13".to_owned()));
    }
    let one = |call: &u32| match call % 2 {
        0 => Ok(2 * call),
        _ => Err(StoreError::NotFound),
    };
    Ok(calls.iter().map(one).collect())
}

#[tokio::test]
async fn each_call_has_its_own_answer_and_one_that_spoils_its_group_fails_alone() {
    let together = together();
    let calls = [1, 2, 13, 4, 5].map(|call| {
        let together = Arc::clone(&together);
        tokio::spawn(async move { together.call(call, 1, double).await })
    });
    let mut answers = Vec::new();
    for call in calls {
        answers.push(match call.await.unwrap() {
            Ok(double) => double.to_string(),
            Err(error) => error.to_string(),
        });
    }
    assert_eq!(answers, ["not found", "4", "13", "8", "not found"]);
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_is_done_and_one_that_panics_leaves_nobody_waiting() {
    let together = together();
    let (done, ended) = oneshot::channel();
    let done = Mutex::new(Some(done));
    let mut call = Box::pin(together.call(2, 1, move |calls| {
        let done = done.lock().unwrap().take();
        async move {
            tokio::task::yield_now().await;
            let answers = double(calls).await;
            let _ = done.map(|done| done.send(()));
            answers
        }
    }));
    assert!(futures_poll(&mut call).await.is_none());
    drop(call);
    ended.await.unwrap();

    let panics = together.call(3, 1, |_| async { panic!("a group that panics") });
    assert!(matches!(panics.await, Err(StoreError::Unavailable(_))));
    assert_eq!(together.call(4, 1, double).await.unwrap(), 8);
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
