use super::*;

#[test]
fn only_harmless_request_ids_are_taken_over() {
    let id_of = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(text));
        request_id(&headers)
    };
    assert_eq!(id_of("abc-1_Z"), "abc-1_Z");
    for bad in ["", "a b", "a/b", "\"x\""] {
        assert_eq!(id_of(bad).len(), 32);
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_and_its_words_stay_here() {
    use tower_service::Service as _;

    let (app, _folder) = crate::state::alone();
    let boom = axum::routing::get(async || -> StatusCode { panic!("SECRET") });
    let mut router =
        axum::Router::new().route("/boom", boom).layer(axum::middleware::from_fn_with_state(app, frame));
    let request = Request::builder().uri("/boom").body(axum::body::Body::empty()).unwrap();
    let response = router.call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["code"], &body["instance"]), (&"internal".into(), &"/boom".into()));
    assert!(!body.to_string().contains("SECRET"));
}
