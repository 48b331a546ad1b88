//! What another process promised and did not finish.

use std::time::Duration;

use promptmill_domain::{Ending, FailureKind, Outcome, SessionId, Totals};
use promptmill_ports::{Generation, StoreResult, encode_outcome};

use super::generator::{STORE_AGAIN, Start, store};
use super::job::Job;
use crate::App;
use crate::problem::chain;

/// Generations that are taken up at once.
const AT_ONCE: u32 = 64;

/// How often is looked for generations whose process died.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Goes on with the generations that processes promised which are no more, now and as long as this one lives. Returns at once; they are run
/// beside what is asked anew.
pub fn recover(app: &App) {
    let app = app.clone();
    tokio::spawn(async move {
        while !app.stopping().is_cancelled() {
            let pause = match take_up(&app).await {
                Ok(begun) if begun.is_empty() => LOOK_EVERY,
                Ok(begun) => {
                    tracing::info!(count = begun.len(), "going on with unfinished generations");
                    futures_util::future::join_all(begun.into_iter().map(|begun| finish(&app, begun))).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "unfinished generations could not be read");
                    STORE_AGAIN
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = app.stopping().cancelled() => {}
            }
        }
    });
}

/// Takes over generations that no living process runs.
async fn take_up(app: &App) -> StoreResult<Vec<Generation>> {
    let mut orphans = app.engine().records.orphaned(&living(app).await?, AT_ONCE).await?;
    if orphans.is_empty() {
        return Ok(orphans);
    }
    // One may have been begun by a process that was not there yet at the first look.
    let living = living(app).await?;
    orphans.retain(|orphan| !living.contains(&orphan.owner));
    let mut taken = Vec::with_capacity(orphans.len());
    for orphan in orphans {
        let owner = app.session();
        if app.engine().records.adopt(orphan.id, orphan.owner, owner).await? {
            taken.push(Generation { owner, ..orphan });
        }
    }
    Ok(taken)
}

async fn living(app: &App) -> StoreResult<Vec<SessionId>> {
    let sessions = app.engine().store.sessions().await?;
    Ok(sessions.into_iter().map(|of| of.session).chain([app.session()]).collect())
}

/// Runs a generation of another process to its outcome. One that cannot be run fails, since its client was told to wait for it.
async fn finish(app: &App, begun: Generation) {
    loop {
        let started = match Job::of_stored(app, begun.clone()).await {
            Ok(job) => app.generator().start(app, Start { job, deltas: None }),
            Err(_) => {
                return fail(app, begun, "what was asked cannot be run by this release and configuration")
                    .await;
            }
        };
        if let Ok(mut running) = started {
            if running.finished().await.is_none() && !app.stopping().is_cancelled() {
                fail(app, begun, "working on it broke off").await;
            }
            return;
        }
        // Too many under way; or the service stops, and then the next process takes it up.
        tokio::select! {
            () = tokio::time::sleep(STORE_AGAIN) => {}
            () = app.stopping().cancelled() => return,
        }
    }
}

async fn fail(app: &App, begun: Generation, message: &str) {
    let ending = Ending::Failed { kind: FailureKind::Internal, message: message.to_owned() };
    let (attempts, cut, flags) = (Vec::new(), Totals::default(), Vec::new());
    let outcome = Outcome { custom_id: None, ending, attempts, cut, flags };
    store(app, &Generation { outcome: Some(encode_outcome(&outcome)), ..begun }).await;
}
