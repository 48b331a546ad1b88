use super::*;
use promptmill_domain::{Counts, LaneId};

fn filter(json: &str) -> ItemFilter {
    serde_json::from_str::<RetryBody>(json).unwrap().filter()
}

fn batch(counts: Option<Counts>) -> Batch {
    let model: ModelRef = "demo:any".parse().unwrap();
    Batch {
        id: BatchId::from_bytes([1; 16]),
        tenant: TenantId::default_tenant(),
        state: if counts.is_some() {
            promptmill_domain::BatchState::Completed
        } else {
            promptmill_domain::BatchState::Running
        },
        ver: 1,
        spec: BatchSpec::new("{}".to_owned(), model, LaneId::new("demo", "none")),
        limits: BatchLimits::default(),
        total: 10,
        created_ms: 1,
        submitted_ms: None,
        finished_ms: None,
        final_counts: counts,
    }
}

#[test]
fn without_a_wish_everything_that_did_not_succeed_runs_again() {
    for json in ["{}", r#"{"outcomes":null,"reasons":[]}"#, r#"{"outcomes":[]}"#] {
        let filter = filter(json);
        assert!(filter.matches(ItemCode::Failed(FailureKind::Timeout)) && filter.matches(ItemCode::Expired));
        assert!(filter.matches(ItemCode::Cancelled) && !filter.matches(ItemCode::Repaired), "{json}");
    }
    let timeouts = filter(r#"{"reasons":["timeout"]}"#);
    assert!(timeouts.matches(ItemCode::Failed(FailureKind::Timeout)));
    assert!(!timeouts.matches(ItemCode::Cancelled));
}

#[test]
fn only_a_final_batch_with_such_items_is_retried() {
    let counts = Counts {
        succeeded: 3,
        failed: [(FailureKind::Timeout, 2), (FailureKind::Internal, 1)].into(),
        expired: 4,
        ..Counts::default()
    };
    let count = |json: &str| matching(&batch(Some(counts.clone())), &filter(json)).map_err(|p| p.id());
    assert_eq!(count("{}"), Ok(7));
    assert_eq!(count(r#"{"reasons":["timeout"]}"#), Ok(2));
    assert_eq!(count(r#"{"outcomes":["cancelled"]}"#), Err(ProblemId::Invalid));
    assert_eq!(matching(&batch(None), &filter("{}")).map_err(|p| p.id()), Err(ProblemId::Conflict));
}
