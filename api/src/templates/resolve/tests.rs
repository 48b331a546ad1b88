use super::*;

#[test]
fn a_template_is_named_by_name_or_id_with_or_without_version() {
    let read = |text: &str| text.parse::<TemplateArg>();
    assert!(
        matches!(read("a.b-c"), Ok(TemplateArg::Stored(TemplateKey::Name(name), None)) if name == "a.b-c")
    );
    assert!(matches!(read("a@3"), Ok(TemplateArg::Stored(TemplateKey::Name(_), Some(3)))));
    let id = TemplateId::from_bytes([7; 16]);
    let text = format!("{id}@12");
    assert!(matches!(read(&text), Ok(TemplateArg::Stored(TemplateKey::Id(found), Some(12))) if found == id));
    for bad in ["", "@1", "a@", "a@0", "a@01", "a@-1", "a@+1", "a@1@2", "a@99999999999"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let inline: TemplateArg = serde_json::from_str(r#"{"name":  "x"}"#).unwrap();
    assert!(matches!(inline, TemplateArg::Inline(text) if text == r#"{"name":  "x"}"#));
    assert!(serde_json::from_str::<TemplateArg>("7").is_err());
}
