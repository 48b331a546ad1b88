//! The session: one beat a second with the worker's account of itself, and what the answer means.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{BatchId, SessionId};
use promptmill_ports::{BeatAnswer, Signal};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::batches::Batches;
use crate::gate::SessionGate;
use crate::slots::Slots;

const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Beats until the session is declared dead. Every beat's answer also tells whether batches changed, so that a lost signal costs a
/// second and not more. Never returns while the session lives; the caller drops it to stop.
pub(crate) async fn keep_alive(
    engine: Engine,
    session: SessionId,
    gate: Arc<SessionGate>,
    batches: Arc<Batches>,
    concurrency: usize,
    slots: Arc<Slots>,
) {
    let mut ticks = interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signals = engine.signals.subscribe();
    let (mut beat, mut known_changes) = (0, None);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let sent = Instant::now();
                beat += 1;
                batches.forget_idle();
                let report = batches.report(concurrency, slots.in_use(), sent);
                match engine.store.beat(session, beat, Some(&report)).await {
                    Ok(BeatAnswer::Alive { changes }) => {
                        gate.beat_stored(sent);
                        // Known only once every batch could be read: what failed now is read again at the next beat.
                        if known_changes != Some(changes) && batches.refresh_all().await {
                            known_changes = Some(changes);
                        }
                    }
                    Ok(BeatAnswer::Dead) => {
                        tracing::error!(session.id = %session, "the session was declared dead; its chunks went to others");
                        return;
                    }
                    // The gate closes by itself when beats stay away too long.
                    Err(error) => tracing::warn!(session.id = %session, error = %error, "a beat could not be stored"),
                }
            }
            changed = batch_changed(&mut signals) => match changed {
                Changed::One(batch) => batches.refresh(batch).await,
                Changed::Ended(batch) => batches.ended(batch),
                Changed::Any => drop(batches.refresh_all().await),
            }
        }
    }
}

/// What signals say of batches.
enum Changed {
    /// This one is another.
    One(BatchId),
    /// This one is over.
    Ended(BatchId),
    /// Signals were lost: any may be.
    Any,
}

/// Ends when a signal says that a batch changed or is over, or signals were lost. Once signals are gone for good it never ends: the beats must
/// go on without them.
async fn batch_changed(signals: &mut Receiver<Signal>) -> Changed {
    loop {
        match signals.recv().await {
            Ok(Signal::BatchChanged(batch)) => return Changed::One(batch),
            Ok(Signal::BatchEnded(batch)) => return Changed::Ended(batch),
            Err(RecvError::Lagged(_)) => return Changed::Any,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
