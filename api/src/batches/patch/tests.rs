use super::*;
use promptmill_domain::Money;

fn apply(json: &str) -> Result<BatchLimits, Problem> {
    let before = BatchLimits {
        max_concurrency: Some(5),
        max_cost: Some(Money::from_pico(7)),
        guard: false,
        priority: 9,
        deadline_ms: Some(5_000),
    };
    serde_json::from_str::<PatchBody>(json).unwrap().apply(before, 1_000)
}

#[test]
fn null_takes_away_and_absence_leaves() {
    let untouched = apply("{}").unwrap();
    assert_eq!((untouched.max_concurrency, untouched.priority, untouched.guard), (Some(5), 9, false));
    let nulls = r#"{"priority":null,"max_concurrency":null,"max_cost":null,"deadline":null,"guard":null}"#;
    assert_eq!(apply(nulls).unwrap(), BatchLimits::default());
    let changed = apply(r#"{"max_cost":"0.5","deadline":"1970-01-01T00:00:02Z"}"#).unwrap();
    assert_eq!((changed.max_cost, changed.deadline_ms), ("0.5".parse().ok(), Some(2_000)));
    assert_eq!(changed.max_concurrency, Some(5));
}

#[test]
fn a_value_out_of_range_changes_nothing() {
    for bad in [
        r#"{"priority":101}"#,
        r#"{"priority":-9223372036854775808}"#,
        r#"{"max_concurrency":0}"#,
        r#"{"max_cost":"0"}"#,
        r#"{"max_cost":"-1"}"#,
        r#"{"deadline":"1970-01-01T00:00:01Z"}"#,
    ] {
        assert!(apply(bad).is_err(), "{bad}");
    }
}
