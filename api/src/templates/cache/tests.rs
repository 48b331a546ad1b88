use promptmill_domain::TemplateId;

use super::*;

#[test]
fn what_was_not_asked_for_lately_makes_room() {
    let cache = TemplateCache::default();
    let padding = "x".repeat(60 << 10);
    let source = format!(r#"{{"name":"a","messages":[{{"role":"user","content":"{padding}"}}]}}"#);
    let template = Arc::new(Template::parse(&source).unwrap());
    let version = |n: u32| TemplateRef { id: TemplateId::from_bytes([1; 16]), version: n };
    for n in 0..300 {
        cache.put(&version(n), &template);
        assert!(cache.get(&version(0)).is_some());
    }
    assert!(cache.get(&version(1)).is_none());
    assert!(cache.get(&version(299)).is_some());
    assert!(cache.0.lock().unwrap().bytes <= MAX_BYTES);
}
