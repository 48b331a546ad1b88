//! Waits for the end of the batch and shows how it goes.

use std::time::Duration;

use promptmill_domain::{BatchId, BatchState, PauseReason, TenantId};
use promptmill_ports::{Progress, Signal, StoreError};
use promptmill_runtime::Engine;
use promptmill_worker::Worker;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::progress::{Shown, View};

/// The shortest time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every item has its outcome.
    Completed,
    /// The batch stands still.
    Paused(PauseReason),
    /// A signal asked to stop.
    Interrupted,
}

/// Looks at the batch until it is final, stands still, or `stop` is cancelled.
pub(crate) async fn until_ended(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    worker: &mut Worker,
    view: &View,
    stop: &CancellationToken,
) -> Result<Ended, Failure> {
    let mut signals = engine.signals.subscribe();
    loop {
        let began = Instant::now();
        match engine.store.progress(tenant, batch).await {
            Ok(progress) => {
                view.show(&Shown::of(&progress.counts, worker.calls_in_flight()));
                if let Some(ended) = end_of(&progress) {
                    return Ok(ended);
                }
            }
            // The worker goes on trying as well.
            Err(StoreError::Unavailable(error)) => {
                view.say(&format!("the state cannot be read ({error}); trying again"));
            }
            Err(error) => return Err(Failure::work("the state of the run cannot be read", error)),
        }
        // Counting a large batch takes a while; looking must stay a small part of the work.
        let next = sleep((began.elapsed() * 20).clamp(LOOK_EVERY, Duration::from_secs(2)));
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                () = stop.cancelled() => return Ok(Ended::Interrupted),
                () = worker.ended() => {
                    let message = "the worker stopped by itself (PROMPTMILL_LOG=warn tells why); --resume goes on from here";
                    return Err(Failure::Work(message.to_owned(), None));
                }
                signal = signals.recv() => match signal {
                    Ok(Signal::BatchChanged(of) | Signal::BatchEnded(of)) if of == batch => break,
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

fn end_of(progress: &Progress) -> Option<Ended> {
    match &progress.state {
        BatchState::Completed | BatchState::Cancelled | BatchState::Expired => Some(Ended::Completed),
        BatchState::Paused { reason } => Some(Ended::Paused(reason.clone())),
        BatchState::Draft
        | BatchState::Submitting
        | BatchState::Queued
        | BatchState::Running
        | BatchState::Cancelling
        | BatchState::Expiring => None,
    }
}
