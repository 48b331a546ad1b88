use super::*;

#[test]
fn codes_are_distinct_and_found_again() {
    for id in ProblemId::ALL {
        assert_eq!(ProblemId::of_code(id.code()), Some(*id));
        assert!(id.status().is_client_error() || id.status().is_server_error());
    }
}

async fn body_of(problem: Problem) -> (StatusCode, Option<String>, serde_json::Value) {
    let response = problem.into_response();
    let retry = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, retry, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_single_error_is_the_detail() {
    let (status, _, body) = body_of(Problem::invalid("/rows/3", "is not an object")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["detail"], "/rows/3: is not an object");
    assert_eq!(body["errors"], serde_json::json!([{"pointer": "/rows/3", "detail": "is not an object"}]));
}

#[tokio::test]
async fn what_the_store_says_becomes_a_status_and_a_cause_is_never_shown() {
    let cases = [
        (StoreError::NotFound, 404, None),
        (StoreError::Conflict("it is taken".to_owned()), 409, None),
        (StoreError::unavailable("SECRET"), 503, Some("1")),
        (StoreError::Corrupt("SECRET".to_owned()), 500, None),
    ];
    for (error, expected, expected_retry) in cases {
        let (status, retry, body) = body_of(error.into()).await;
        assert_eq!((status.as_u16(), retry.as_deref()), (expected, expected_retry));
        assert!(!body.to_string().contains("SECRET"));
    }
}
