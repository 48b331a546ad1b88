use super::*;
use promptmill_runtime::Presence;

#[test]
fn a_key_is_read_with_and_without_quotes() {
    let read = |text: &str| read_key(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
    assert_eq!(read("\"8e03-x\"").as_deref(), Some("8e03-x"));
    assert_eq!(read("8e03-x").as_deref(), Some("8e03-x"));
    for bad in ["", "\"\"", "ä", "a\tb", &"x".repeat(256)] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn plans_are_ordered_by_time() {
    assert!(new_plan(1) < new_plan(2));
    assert_ne!(new_plan(1), new_plan(1));
}

#[test]
fn answers_that_say_later_are_not_kept() {
    for (status, kept) in [(201, true), (422, true), (409, true), (429, false), (503, false), (507, false)] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(is_kept(status, &HeaderMap::new()), kept, "{status}");
    }
    let again = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("1"))]);
    assert!(!is_kept(StatusCode::CONFLICT, &again));
}

#[test]
fn a_request_is_the_same_one_in_absolute_form() {
    let target = |uri: &'static str| origin_form(&Uri::from_static(uri)).to_owned();
    assert_eq!(target("http://host:1/v1/x?a=1"), target("/v1/x?a=1"));
    assert_ne!(target("/v1/x?a=1"), target("/v1/x"));
}

fn keyed() -> Idempotency {
    Idempotency { key: Some("k".to_owned()), scope: "POST /v1/x".to_owned(), target: "POST /v1/x".to_owned() }
}

async fn begun(app: &App, caller: &Caller, body: &[u8]) -> Ticket {
    match keyed().begin(app, caller, Digest::of(body)).await.unwrap() {
        Begin::Run(ticket) => ticket,
        Begin::Answered(_) => panic!("it was answered"),
    }
}

async fn refused(app: &App, caller: &Caller, body: &[u8]) -> ProblemId {
    keyed().begin(app, caller, Digest::of(body)).await.err().expect("it is refused").id()
}

#[tokio::test]
async fn while_a_request_runs_the_same_one_waits_and_another_one_is_a_mistake() {
    let (app, _folder) = crate::state::alone();
    let caller = Caller::owner_of(TenantId::default_tenant());
    let ticket = begun(&app, &caller, b"one").await;
    assert_eq!(refused(&app, &caller, b"one").await, ProblemId::IdempotencyInProgress);
    assert_eq!(refused(&app, &caller, b"two").await, ProblemId::IdempotencyMismatch);
    drop(ticket);
    assert_eq!(refused(&app, &caller, b"two").await, ProblemId::IdempotencyMismatch);
}

#[tokio::test]
async fn what_was_cut_off_or_answered_later_runs_again_with_the_same_plan() {
    let (app, _folder) = crate::state::alone();
    let caller = Caller::owner_of(TenantId::default_tenant());
    let plan = begun(&app, &caller, b"one").await.plan();
    assert!(!plan.ran_before);
    let plan = Plan { ran_before: true, ..plan };
    let ticket = begun(&app, &caller, b"one").await;
    assert_eq!(ticket.plan(), plan);
    ticket.finish(StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let ticket = begun(&app, &caller, b"one").await;
    assert_eq!(ticket.plan(), plan);
    ticket.finish((StatusCode::CREATED, "made").into_response()).await;
    let Ok(Begin::Answered(answer)) = keyed().begin(&app, &caller, Digest::of(b"one")).await else {
        panic!("it was answered before");
    };
    assert_eq!(
        (answer.status(), answer.headers()[REPLAYED].to_str().unwrap()),
        (StatusCode::CREATED, "true")
    );
    assert_eq!(axum::body::to_bytes(answer.into_body(), 100).await.unwrap(), "made");
}

#[tokio::test]
async fn an_answer_too_large_to_keep_is_given_and_made_again() {
    let (app, _folder) = crate::state::alone();
    let caller = Caller::owner_of(TenantId::default_tenant());
    let ticket = begun(&app, &caller, b"one").await;
    let plan = ticket.plan();
    let large = vec![b'x'; MAX_ANSWER + 1];
    let answer = ticket.finish((StatusCode::OK, large).into_response()).await;
    assert_eq!(axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().len(), MAX_ANSWER + 1);
    let again = begun(&app, &caller, b"one").await.plan();
    assert_eq!(again, Plan { ran_before: true, ..plan });
}

/// Another process over the same store, which lives when its session is known there.
async fn other(app: &App, session: SessionId, lives: bool) -> App {
    if lives {
        app.engine().store.open(session, "api").await.unwrap();
    }
    let (vault, policy) = (app.vault().clone(), app.url_policy().clone());
    App::new(
        app.engine().clone(),
        vault,
        app.config().clone(),
        policy,
        Presence::shared(session),
        app.treasury().clone(),
    )
}

#[tokio::test]
async fn what_a_living_process_runs_is_run_by_no_other_until_it_is_given_up() {
    let (app, _folder) = crate::state::alone();
    let caller = Caller::owner_of(TenantId::default_tenant());
    let one = other(&app, SessionId::from_bytes([2; 16]), true).await;
    let two = other(&app, SessionId::from_bytes([3; 16]), true).await;
    let ticket = begun(&one, &caller, b"one").await;
    let plan = ticket.plan();
    assert_eq!(refused(&two, &caller, b"one").await, ProblemId::IdempotencyInProgress);
    // Its client went away.
    drop(ticket);
    let again = loop {
        match keyed().begin(&two, &caller, Digest::of(b"one")).await {
            Ok(Begin::Run(ticket)) => break ticket,
            Ok(Begin::Answered(_)) => panic!("it was not answered"),
            Err(problem) => assert_eq!(problem.id(), ProblemId::IdempotencyInProgress),
        }
    };
    assert_eq!(again.plan(), Plan { ran_before: true, ..plan });
    again.finish((StatusCode::CREATED, "made").into_response()).await;
    let answered = keyed().begin(&one, &caller, Digest::of(b"one")).await;
    assert!(matches!(answered, Ok(Begin::Answered(_))));
}

#[tokio::test]
async fn what_a_dead_process_ran_is_run_by_the_next_one_that_is_asked() {
    let (app, _folder) = crate::state::alone();
    let caller = Caller::owner_of(TenantId::default_tenant());
    let dead = other(&app, SessionId::from_bytes([2; 16]), false).await;
    let ticket = begun(&dead, &caller, b"one").await;
    let plan = ticket.plan();
    std::mem::forget(ticket);
    let again = begun(&app, &caller, b"one").await;
    assert_eq!(again.plan(), Plan { ran_before: true, ..plan });
}
