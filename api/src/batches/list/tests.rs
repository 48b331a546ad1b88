use super::*;

fn filter(query: &ListQuery) -> Option<BatchFilter> {
    query.filter().ok()
}

#[test]
fn a_label_is_a_key_and_a_value_that_may_hold_colons() {
    let of = |label: &str| filter(&ListQuery { label: vec![label.to_owned()], ..ListQuery::default() });
    assert_eq!(of("env:prod:1").unwrap().labels, [("env".to_owned(), "prod:1".to_owned())]);
    assert_eq!(of("env:").unwrap().labels, [("env".to_owned(), String::new())]);
    for bad in ["env", ":x", "a b:c", ""] {
        assert_eq!(of(bad), None, "{bad}");
    }
}

#[test]
fn only_states_that_exist_are_asked_for() {
    let of = |state: &str| filter(&ListQuery { state: Some(state.to_owned()), ..ListQuery::default() });
    assert!(STATES.iter().all(|state| of(state).is_some()));
    assert!(of("done").is_none());
}
