use super::*;
use base64::Engine as _;

#[test]
fn the_document_has_the_whole_format_of_templates_without_references() {
    let shown = serde_json::to_value(TemplateDocument::schema()).unwrap();
    assert_eq!(shown["properties"]["name"], parsed()["properties"]["name"]);
    assert_eq!(shown["properties"]["rules"]["items"], parsed()["$defs"]["rule"]);
    assert_eq!(serde_json::to_value(OutputDocument::schema()).unwrap(), parsed()["$defs"]["output"]);
    assert!(!shown.to_string().contains("$ref"), "{shown}");
}

#[test]
fn the_checks_take_the_ends_of_what_the_patterns_take() {
    for amount in ["2.50", "0.000000000001", "9999999.999999999999"] {
        assert!(amount.parse::<promptmill_domain::Money>().is_ok(), "{amount}");
    }
    for bytes in [24, 25, 26, 63, 64] {
        let text = base64::engine::general_purpose::STANDARD.encode(vec![0xff; bytes]);
        assert!(promptmill_egress::Secret::parse(&format!("whsec_{text}")).is_ok(), "{bytes}");
    }
}
