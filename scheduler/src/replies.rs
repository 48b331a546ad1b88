//! Replies that rows of a batch shared are forgotten when it is over: nobody asks for them any more.

use std::time::Duration;

use promptmill_ports::{Outlived, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long after a batch's end that is: the last of its replies are with the store by then.
const AFTER: Duration = Duration::from_secs(1);

/// The rest after each step, which is other writers' time.
const REST: Duration = Duration::from_millis(20);

/// Forgets the replies of batches that ended, until it is told to stop. What this does not come to goes with the batch, or when it was kept
/// long enough.
pub(crate) async fn run(
    engine: Engine,
    mut ended: mpsc::UnboundedReceiver<Outlived>,
    stopping: CancellationToken,
) {
    let work = async {
        while let Some(first) = ended.recv().await {
            tokio::time::sleep(AFTER).await;
            let mut all = vec![first];
            while let Ok(further) = ended.try_recv() {
                all.push(further);
            }
            for which in all {
                if let Err(error) = forget(&engine, &which).await {
                    tracing::debug!(error = %error, "replies of a batch that is over are forgotten later");
                }
            }
        }
    };
    stopping.run_until_cancelled(work).await;
}

async fn forget(engine: &Engine, which: &Outlived) -> StoreResult<()> {
    while engine.store.forget_replies(which).await? > 0 {
        tokio::time::sleep(REST).await;
    }
    Ok(())
}
