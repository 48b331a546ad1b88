//! What an earlier process promised and did not finish.

use promptmill_domain::{Ending, FailureKind, Outcome, Totals};
use promptmill_ports::{Generation, encode_outcome};

use super::generator::{STORE_AGAIN, Start, store};
use super::job::Job;
use crate::App;
use crate::problem::chain;

/// Generations that are taken up at once.
const AT_ONCE: u32 = 64;

/// Goes on with the generations that an earlier process promised and did not finish. Returns at once; they are run beside what is asked
/// anew. The store is embedded, so what is unfinished before the first request belongs to a process that is dead.
pub async fn recover(app: &App) {
    let app = app.clone();
    let before_ms = app.now_ms().saturating_add(1);
    tokio::spawn(async move {
        while !app.stopping().is_cancelled() {
            let unfinished = app.engine().records.unfinished(before_ms, AT_ONCE).await;
            let unfinished = match unfinished {
                Ok(unfinished) => unfinished,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "unfinished generations could not be read");
                    tokio::time::sleep(STORE_AGAIN).await;
                    continue;
                }
            };
            if unfinished.is_empty() {
                return;
            }
            tracing::info!(count = unfinished.len(), "going on with unfinished generations");
            futures_util::future::join_all(unfinished.into_iter().map(|begun| finish(&app, begun))).await;
        }
    });
}

/// Runs a generation of an earlier process to its outcome. One that cannot be run fails, since its client was told to wait for it.
async fn finish(app: &App, begun: Generation) {
    let started = match Job::of_stored(app, begun.clone()).await {
        Ok(job) => app.generator().start(app, Start { job, deltas: None }),
        Err(_) => {
            return fail(app, begun, "what was asked cannot be run by this release and configuration").await;
        }
    };
    match started {
        Ok(mut running) => {
            if running.finished().await.is_none() && !app.stopping().is_cancelled() {
                fail(app, begun, "working on it broke off").await;
            }
        }
        // Too many under way: the next round takes it up again.
        Err(_) => tokio::time::sleep(STORE_AGAIN).await,
    }
}

async fn fail(app: &App, begun: Generation, message: &str) {
    let ending = Ending::Failed { kind: FailureKind::Internal, message: message.to_owned() };
    let (attempts, cut, flags) = (Vec::new(), Totals::default(), Vec::new());
    let outcome = Outcome { custom_id: None, ending, attempts, cut, flags };
    store(app, &Generation { outcome: Some(encode_outcome(&outcome)), ..begun }).await;
}
