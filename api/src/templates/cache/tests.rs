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

#[test]
fn a_name_stands_for_its_template_for_a_moment_and_no_version_it_may_not_have() {
    let (cache, now) = (TemplateCache::default(), Instant::now());
    let (tenant, other) = (TenantId::default_tenant(), "other".parse().unwrap());
    let key = TemplateKey::Name("ask".to_owned());
    let newest = TemplateRef { id: promptmill_domain::TemplateId::from_bytes([1; 16]), version: 2 };
    cache.note(&tenant, key.clone(), newest.clone(), now);
    assert_eq!(cache.named(&tenant, &key, 2, now), Some(newest.clone()));
    assert_eq!(cache.named(&tenant, &key, 1, now), Some(TemplateRef { version: 1, ..newest.clone() }));
    assert_eq!(cache.named(&tenant, &key, 3, now), None, "another process may have added it");
    assert_eq!(cache.named(&other, &key, 2, now), None);
    assert_eq!(cache.named(&tenant, &key, 2, now + NAMED), None);
    cache.forget(&tenant);
    assert_eq!(cache.named(&tenant, &key, 2, now), None);
}
