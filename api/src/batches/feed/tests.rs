use futures_util::{StreamExt as _, stream};

use super::*;

/// A body of so many pieces, each of `bytes` and after `gap`.
fn body(pieces: usize, bytes: usize, gap: Duration) -> Body {
    let piece = move |_| async move {
        tokio::time::sleep(gap).await;
        Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes]))
    };
    Body::from_stream(stream::iter(0..pieces).then(piece))
}

async fn fed(body: Body) -> Result<(), ProblemId> {
    let (app, _folder) = crate::state::alone();
    let (send, mut pieces) = channel();
    let taking = tokio::spawn(async move { while pieces.recv().await.is_some() {} });
    let fed = feed(&app, body, send).await;
    taking.await.unwrap();
    fed.map_err(|problem| problem.id())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_trickles_is_given_up_and_a_slow_one_is_not() {
    let second = Duration::from_secs(1);
    assert_eq!(fed(body(40, 1, second)).await, Err(ProblemId::RequestTimeout));
    assert_eq!(fed(body(2, 100_000, 31 * second)).await, Err(ProblemId::RequestTimeout));
    assert_eq!(fed(body(600, 2048, second)).await, Ok(()));
    assert_eq!(fed(body(10, 1, second)).await, Ok(()));
}
