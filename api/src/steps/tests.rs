use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;

/// Work that waits for `go` before or behind its point of no return, and then says so.
fn work(
    behind: bool,
    go: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
) -> impl Future<Output = Result<(), Problem>> {
    to_its_end(move |point| async move {
        if behind {
            point.pass()?;
        }
        let _ = go.await;
        point.pass()?;
        let _ = done.send(());
        Ok(())
    })
}

#[tokio::test]
async fn work_ends_with_its_client_before_its_point_of_no_return_and_goes_on_behind_it() {
    for behind in [false, true] {
        let ((go, went), (told, done)) = (oneshot::channel(), oneshot::channel());
        let mut client = Box::pin(work(behind, went, told));
        assert!(client.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
        drop(client);
        let _ = go.send(());
        assert_eq!(done.await.is_ok(), behind);
    }
}

#[tokio::test]
async fn a_client_that_stays_gets_the_answer() {
    let ((go, went), (told, _done)) = (oneshot::channel(), oneshot::channel());
    go.send(()).unwrap();
    assert!(work(false, went, told).await.is_ok());
    let refused = to_its_end(|_| async { Err::<(), _>(ProblemId::NoRoom.into()) }).await;
    assert_eq!(refused.unwrap_err().id(), ProblemId::NoRoom);
}
