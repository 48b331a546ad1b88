//! Cases about requests that are sent more than once.

use bytes::Bytes;

use super::scene::*;
use crate::{Claim, Claimed, Records, StoredAnswer};

const KEY: &str = "POST /v1/batches abc";

fn answer(body: &'static str) -> StoredAnswer {
    let headers =
        vec![("location".to_owned(), "/v1/batches/1".to_owned()), ("etag".to_owned(), "\"v1\"".to_owned())];
    StoredAnswer { status: 201, headers, body: Bytes::from_static(body.as_bytes()) }
}

fn begun(by: &Claim) -> Claimed {
    Claimed::Begun { owner: by.owner, plan: by.plan }
}

/// However many come at the same moment, one runs, and the others are told its plan.
pub async fn of_claims_at_once_exactly_one_runs(store: &dyn Records) {
    let tenant = fresh_tenant();
    for round in 0..8 {
        let key = format!("{KEY}{round}");
        let claims: [Claim; 4] = std::array::from_fn(|_| fresh_claim(&tenant, &key));
        let [a, b, c, d] = &claims;
        let (a, b, c, d) =
            tokio::join!(store.claim(a, NOW), store.claim(b, NOW), store.claim(c, NOW), store.claim(d, NOW));
        let answers = [a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap()];
        let first = answers.iter().position(|answer| *answer == Claimed::Run).unwrap();
        for (n, answer) in answers.iter().enumerate() {
            let expected = if n == first { Claimed::Run } else { begun(&claims[first]) };
            assert_eq!(*answer, expected);
        }
    }
}

/// First that it was begun, by whom and with which plan; then the whole answer.
pub async fn a_repeated_request_is_told_where_the_first_stands(store: &dyn Records) {
    let tenant = fresh_tenant();
    let (first, second) = (fresh_claim(&tenant, KEY), fresh_claim(&tenant, KEY));
    assert_eq!(store.claim(&first, NOW).await.unwrap(), Claimed::Run);
    assert_eq!(store.claim(&second, NOW).await.unwrap(), begun(&first));
    // Whoever does not know what became of its claim finds its own plan.
    assert_eq!(store.claim(&first, NOW).await.unwrap(), begun(&first));
    let answer = answer("{\"ä\":1}");
    store.answer(&tenant, KEY, &answer).await.unwrap();
    for claim in [&first, &second] {
        assert_eq!(store.claim(claim, NOW).await.unwrap(), Claimed::Done(answer.clone()));
    }
    let empty = StoredAnswer { status: 204, headers: vec![], body: Bytes::new() };
    let other = fresh_claim(&tenant, "POST /v1/other abc");
    assert_eq!(store.claim(&other, NOW).await.unwrap(), Claimed::Run);
    store.answer(&tenant, &other.key, &empty).await.unwrap();
    assert_eq!(store.claim(&other, NOW).await.unwrap(), Claimed::Done(empty));
}

/// Before the answer and after it.
pub async fn a_key_that_is_used_for_something_else_is_a_mismatch(store: &dyn Records) {
    let tenant = fresh_tenant();
    let first = fresh_claim(&tenant, KEY);
    let other = Claim { fingerprint: [8; 32], ..fresh_claim(&tenant, KEY) };
    assert_eq!(store.claim(&first, NOW).await.unwrap(), Claimed::Run);
    assert_eq!(store.claim(&other, NOW).await.unwrap(), Claimed::Mismatch);
    store.answer(&tenant, KEY, &answer("done")).await.unwrap();
    assert_eq!(store.claim(&other, NOW).await.unwrap(), Claimed::Mismatch);
    assert_eq!(store.claim(&first, NOW).await.unwrap(), Claimed::Done(answer("done")));
}

/// The plan stays that of the first, so that the successor makes the same things; what is done is taken over by nobody.
pub async fn of_those_who_take_over_exactly_one_does(store: &dyn Records) {
    let tenant = fresh_tenant();
    let dead = fresh_claim(&tenant, KEY);
    let successor = [9; 16];
    assert!(!store.take_over(&tenant, KEY, dead.owner, successor).await.unwrap());
    store.claim(&dead, NOW).await.unwrap();
    assert!(!store.take_over(&tenant, KEY, [1; 16], successor).await.unwrap());
    // Two requests of one process have the same owner, and still one of them only may run.
    let take = || store.take_over(&tenant, KEY, dead.owner, successor);
    let (one, two) = tokio::join!(take(), take());
    assert_ne!(one.unwrap(), two.unwrap());
    let again = store.claim(&fresh_claim(&tenant, KEY), NOW).await.unwrap();
    assert_eq!(again, Claimed::Begun { owner: successor, plan: dead.plan });
    store.answer(&tenant, KEY, &answer("done")).await.unwrap();
    assert!(!store.take_over(&tenant, KEY, successor, [3; 16]).await.unwrap());
}

/// Whoever was slower repeats the answer of the first; there is none without a claim.
pub async fn the_first_answer_counts(store: &dyn Records) {
    let tenant = fresh_tenant();
    check_not_found(store.answer(&tenant, KEY, &answer("nobody asked")).await);
    let claim = fresh_claim(&tenant, KEY);
    store.claim(&claim, NOW).await.unwrap();
    store.answer(&tenant, KEY, &answer("first")).await.unwrap();
    store.answer(&tenant, KEY, &answer("first")).await.unwrap();
    store.answer(&tenant, KEY, &answer("second")).await.unwrap();
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Done(answer("first")));
}

/// Only by who runs it, and only while it is not done.
pub async fn a_released_request_may_be_sent_again(store: &dyn Records) {
    let tenant = fresh_tenant();
    let first = fresh_claim(&tenant, KEY);
    store.release(&tenant, KEY, first.owner).await.unwrap();
    store.claim(&first, NOW).await.unwrap();
    store.release(&tenant, KEY, [1; 16]).await.unwrap();
    assert_eq!(store.claim(&fresh_claim(&tenant, KEY), NOW).await.unwrap(), begun(&first));
    store.release(&tenant, KEY, first.owner).await.unwrap();
    store.release(&tenant, KEY, first.owner).await.unwrap();
    // It may even be another request now.
    let second = Claim { fingerprint: [8; 32], ..fresh_claim(&tenant, KEY) };
    assert_eq!(store.claim(&second, NOW).await.unwrap(), Claimed::Run);
    store.answer(&tenant, KEY, &answer("done")).await.unwrap();
    store.release(&tenant, KEY, second.owner).await.unwrap();
    assert_eq!(store.claim(&second, NOW).await.unwrap(), Claimed::Done(answer("done")));
}

/// The same key of another tenant is another request, for every step.
pub async fn claims_of_two_tenants_never_meet(store: &dyn Records) {
    let (one, two) = (fresh_tenant(), fresh_tenant());
    let (mine, theirs) = (fresh_claim(&one, KEY), fresh_claim(&two, KEY));
    assert_eq!(store.claim(&mine, NOW).await.unwrap(), Claimed::Run);
    assert!(!store.take_over(&two, KEY, mine.owner, theirs.owner).await.unwrap());
    store.release(&two, KEY, mine.owner).await.unwrap();
    check_not_found(store.answer(&two, KEY, &answer("theirs")).await);
    assert_eq!(store.claim(&theirs, NOW).await.unwrap(), Claimed::Run);
    store.answer(&two, KEY, &answer("theirs")).await.unwrap();
    assert_eq!(store.claim(&mine, NOW).await.unwrap(), begun(&mine));
}

/// The oldest first, answered or not; a forgotten request is new again.
pub async fn old_claims_are_forgotten_a_few_at_a_time(store: &dyn Records) {
    let tenant = fresh_tenant();
    let claims: Vec<Claim> = (0..5).map(|n| fresh_claim(&tenant, &format!("{KEY}{n}"))).collect();
    for (claim, age) in claims.iter().zip(0..) {
        store.claim(claim, NOW + age).await.unwrap();
    }
    store.answer(&tenant, &claims[0].key, &answer("done")).await.unwrap();
    assert_eq!(store.forget_claims(NOW, 10).await.unwrap(), 0);
    assert_eq!(store.forget_claims(NOW + 3, 2).await.unwrap(), 2);
    assert_eq!(store.claim(&claims[2], NOW).await.unwrap(), begun(&claims[2]));
    assert_eq!(store.forget_claims(NOW + 3, 2).await.unwrap(), 1);
    assert_eq!(store.forget_claims(NOW + 3, 2).await.unwrap(), 0);
    for claim in &claims[..3] {
        assert_eq!(store.claim(claim, NOW + 9).await.unwrap(), Claimed::Run);
    }
    for claim in &claims[3..] {
        assert_eq!(store.claim(claim, NOW + 9).await.unwrap(), begun(claim));
    }
}
