//! Rows that bring their own messages beside rows of variables, and rows that cannot be read any more.

use promptmill_domain::{BatchLimits, BatchState, FailureKind, ItemCode, Message, Role};
use promptmill_rowio::{RowContent, StoredRow};

use crate::provider::{Does, Scripted};
use crate::support::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_messages_and_rows_of_variables_run_in_one_batch() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let rows = (0..100).map(|row| {
        let custom_id = Some(format!("id {row}"));
        if row % 2 == 0 {
            return StoredRow::of_variables(custom_id, r#"{"text":"rendered"}"#);
        }
        let message = Message { role: Role::User, content: format!("as it is {row}") };
        StoredRow { custom_id, content: RowContent::of_messages(&[message]) }
    });
    let batch = scene.submit_stored(&provider, rows, BatchLimits::default()).await;
    let worker = scene.worker(8).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 100);
    assert_eq!(provider.asked(0), "Say rendered");
    assert_eq!(provider.asked(1), "as it is 1");
    assert_eq!(provider.asked(99), "as it is 99");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_whose_stored_rows_are_damaged_fail_and_all_others_run() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let row = |text: &str| StoredRow::of_variables(Some(text.to_owned()), r#"{"text":"whole"}"#);
    let batch = scene.submit_damaged(&provider, [row("a"), row("b")], 3).await;
    let worker = scene.worker(8).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    assert_eq!((counts.succeeded, counts.failed.get(&FailureKind::Internal)), (2, Some(&3)));
    let codes: Vec<_> = scene.outcomes(batch).await.into_iter().map(|outcome| outcome.code).collect();
    let damaged = ItemCode::Failed(FailureKind::Internal);
    assert_eq!(codes, [ItemCode::Succeeded, ItemCode::Succeeded, damaged, damaged, damaged]);
    scene.stop(worker).await;
}
