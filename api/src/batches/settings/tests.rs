use super::*;

fn checked(json: &str) -> Result<ModelSettings, Vec<String>> {
    let body: SettingsBody = serde_json::from_str(json).unwrap();
    body.checked("/settings").map_err(|errors| errors.into_iter().filter_map(|error| error.pointer).collect())
}

#[test]
fn null_is_absence_and_every_setting_has_its_range() {
    let nulls = r#"{"temperature":null,"top_p":null,"max_tokens":null,"seed":null,"stop":null,"extra":null}"#;
    assert_eq!(checked(nulls), Ok(ModelSettings::default()));
    let all = r#"{"temperature":2,"top_p":0,"max_tokens":4294967295,"seed":-1,"stop":["a"],"extra":{"x":1}}"#;
    let all = checked(all).unwrap();
    assert_eq!((all.temperature, all.max_tokens, all.seed), (Some(2.0), Some(u32::MAX), Some(-1)));
    let bad = r#"{"temperature":2.1,"top_p":-0.1,"max_tokens":4294967296,"stop":[""]}"#;
    let pointers = ["/settings/temperature", "/settings/top_p", "/settings/max_tokens", "/settings/stop"];
    assert_eq!(checked(bad).unwrap_err(), pointers);
    assert!(checked(r#"{"max_tokens":0}"#).is_err());
}
