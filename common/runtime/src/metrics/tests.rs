use prometheus::proto::MetricType;
use promptmill_domain::Tokens;

use super::*;

fn has(metrics: &Metrics, line: &str) {
    let text = metrics.gather_text();
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

/// What `promtool check metrics` looks at.
#[test]
fn names_and_help_are_as_prometheus_wants_them() {
    let metrics = Metrics::new();
    metrics.call("demo", None, Duration::from_millis(20));
    metrics.http("/v1/limits", "GET", 200, Duration::from_millis(2));
    metrics.webhook("delivered");
    metrics.ticks("missed", 3);
    metrics.tell_ticks(1, 2);
    let families = metrics.registry.gather();
    assert_eq!(families.len(), 21);
    for family in families {
        let name = family.name();
        assert!(name.starts_with("promptmill_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(family.help().ends_with('.'), "{name}");
        assert_eq!(name.ends_with("_total"), family.get_field_type() == MetricType::COUNTER, "{name}");
        let reserved = ["_count", "_sum", "_bucket", "_milliseconds", "_ms", "_usd"];
        assert!(!reserved.iter().any(|end| name.ends_with(end)), "{name}");
        if family.get_field_type() == MetricType::HISTOGRAM {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}

#[test]
fn every_outcome_is_counted_under_its_name_and_open_items_are_not() {
    let metrics = Metrics::new();
    metrics.item_settled(ItemCode::Open);
    metrics.item_settled(ItemCode::Repaired);
    metrics.items_settled(ItemCode::Cancelled, 40);
    for kind in FailureKind::ALL {
        metrics.items_settled(ItemCode::Failed(kind), kind as u64 + 1);
    }
    has(&metrics, r#"promptmill_items_total{outcome="succeeded",reason=""} 0"#);
    has(&metrics, r#"promptmill_items_total{outcome="succeeded",reason="repaired"} 1"#);
    has(&metrics, r#"promptmill_items_total{outcome="cancelled",reason=""} 40"#);
    for kind in FailureKind::ALL {
        let reason = kind.as_str();
        has(
            &metrics,
            &format!("promptmill_items_total{{outcome=\"failed\",reason=\"{reason}\"}} {}", kind as u64 + 1),
        );
    }
}

#[test]
fn ticks_are_counted_by_what_became_of_them_and_those_that_are_open_by_where_they_stand() {
    let metrics = Metrics::new();
    metrics.ticks("missed", 3);
    metrics.tick_started_after(Duration::from_millis(700));
    metrics.tell_ticks(4, 5);
    metrics.tell_ticks(1, 0);
    has(&metrics, r#"promptmill_schedule_ticks_total{result="missed"} 3"#);
    has(&metrics, r#"promptmill_schedule_ticks_total{result="started"} 1"#);
    has(&metrics, r#"promptmill_schedule_lag_seconds_bucket{le="0.5"} 0"#);
    has(&metrics, r#"promptmill_schedule_lag_seconds_bucket{le="1"} 1"#);
    has(&metrics, r#"promptmill_schedule_open_ticks{state="due"} 1"#);
    has(&metrics, r#"promptmill_schedule_open_ticks{state="running"} 0"#);
}

#[test]
fn whatever_a_client_sends_the_labels_stay_few() {
    let metrics = Metrics::new();
    for (method, status) in [("GET", 200), ("get", 200), ("BREW", 405), ("\n", 4_321)] {
        metrics.http("/v1/batches/{id}", method, status, Duration::from_millis(1));
    }
    let line = |method, status, count| {
        format!(
            "promptmill_http_requests_total{{method=\"{method}\",route=\"/v1/batches/{{id}}\",status=\"{status}\"}} {count}"
        )
    };
    for expected in
        [line("GET", "200", 1), line("other", "200", 1), line("other", "405", 1), line("other", "999", 1)]
    {
        has(&metrics, &expected);
    }
    has(&metrics, "promptmill_http_request_duration_seconds_count{route=\"/v1/batches/{id}\"} 4");
}

#[test]
fn tokens_and_dollars_add_up() {
    let metrics = Metrics::new();
    let cost = "0.25".parse().unwrap();
    for _ in 0..2 {
        metrics.spent(&Totals { calls: 1, tokens: Tokens { prompt: 7, completion: 3 }, cost, cached: 0 });
    }
    has(&metrics, r#"promptmill_tokens_total{kind="prompt"} 14"#);
    has(&metrics, r#"promptmill_tokens_total{kind="completion"} 6"#);
    has(&metrics, "promptmill_cost_dollars_total 0.5");
    has(&metrics, &format!("promptmill_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
}
