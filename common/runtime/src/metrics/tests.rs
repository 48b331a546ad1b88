use super::*;

#[test]
fn every_metric_has_its_help_and_a_name_of_ours() {
    let metrics = Metrics::new();
    metrics.call("demo", None, Duration::from_millis(20));
    metrics.http("/v1/limits", "GET", 200, Duration::from_millis(2));
    metrics.webhook("delivered");
    metrics.settle_took(Duration::from_millis(3));
    for family in metrics.registry.gather() {
        assert!(family.name().starts_with("promptmill_"), "{}", family.name());
        assert!(family.help().ends_with('.'), "{}", family.name());
        let counts = family.name().ends_with("_total");
        assert_eq!(counts, family.get_field_type() == prometheus::proto::MetricType::COUNTER, "{}", family.name());
    }
}
