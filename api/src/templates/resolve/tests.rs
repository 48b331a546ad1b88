use super::*;

#[test]
fn a_template_is_named_by_name_or_id_with_or_without_a_version_or_a_label() {
    let read = |text: &str| match text.parse() {
        Ok(TemplateArg::Stored(key, which)) => Some((key, which)),
        Ok(TemplateArg::Inline(_)) | Err(_) => None,
    };
    let name = |name: &str| TemplateKey::Name(name.to_owned());
    let label = |label: &str| Which::Label(label.to_owned());
    assert_eq!(read("a.b-c"), Some((name("a.b-c"), Which::Newest)));
    assert_eq!(read("a@3"), Some((name("a"), Which::Version(3))));
    assert_eq!(read("a@production"), Some((name("a"), label("production"))));
    assert_eq!(read("a@v1.2_b-3"), Some((name("a"), label("v1.2_b-3"))));
    let longest = "x".repeat(50);
    assert_eq!(read(&format!("a@{longest}")), Some((name("a"), label(&longest))));
    let id = TemplateId::from_bytes([7; 16]);
    assert_eq!(read(&format!("{id}@12")), Some((TemplateKey::Id(id), Which::Version(12))));
    assert_eq!(read(&format!("{id}@beta")), Some((TemplateKey::Id(id), label("beta"))));
    for bad in ["", "@1", "@b", "a@", "a@0", "a@01", "a@-1", "a@+1", "a@1@2", "a@99999999999"] {
        assert_eq!(read(bad), None, "{bad}");
    }
    for bad in ["a@1b", "a@B", "a@-b", "a@.b", "a@_b", "a@b c", "a@ä", "a@b@c", &format!("a@{longest}x")] {
        assert_eq!(read(bad), None, "{bad}");
    }
    let inline: TemplateArg = serde_json::from_str(r#"{"name":  "x"}"#).unwrap();
    assert!(matches!(inline, TemplateArg::Inline(text) if text == r#"{"name":  "x"}"#));
    assert!(serde_json::from_str::<TemplateArg>("7").is_err());
}
