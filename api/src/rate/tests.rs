use super::*;

#[test]
fn a_burst_is_allowed_at_once_and_the_rate_after_it() {
    let rate = Rate::new(50, 100);
    let now = Instant::now();
    for left in (0..100).rev() {
        assert_eq!(rate.take("a", now).map(|left| left.requests), Ok(left));
    }
    assert_eq!(rate.take("a", now), Err(Duration::from_millis(20)));
    assert_eq!(rate.take("b", now).map(|left| left.requests), Ok(99));
    assert_eq!(rate.take("a", now + Duration::from_millis(20)).map(|left| left.requests), Ok(0));
    assert_eq!(rate.take("a", now + Duration::from_secs(3)).map(|left| left.requests), Ok(99));
}

#[test]
fn callers_are_bounded_and_those_at_rest_are_forgotten() {
    let rate = Rate::new(1, 2);
    let now = Instant::now();
    for caller in 0..MAX_CALLERS {
        rate.take(caller, now).unwrap();
    }
    assert!(rate.take(MAX_CALLERS, now).is_err());
    assert!(rate.take(0, now).is_ok());
    assert!(rate.take(MAX_CALLERS, now + Duration::from_secs(3)).is_ok());
    assert_eq!(rate.paid_at.lock().unwrap().len(), 1);
}
