//! Accounts of money: what the dead held is counted as unknown, and batches go on when the day or month of their tenant's limit is over.

use std::collections::HashSet;
use std::time::Duration;

use promptmill_domain::batch::PauseReason;
use promptmill_domain::{Batch, BatchEvent, BatchState, Money, SessionId};
use promptmill_ports::{Signal, StoreError, StoreResult, change_budget};
use promptmill_runtime::Engine;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::lead::Lead;

/// Accounts that are looked at in one step.
const STEP: u32 = 500;

/// How often is looked whether the dead hold money.
const EVERY: Duration = Duration::from_secs(3);

/// Looks for what the dead hold, now and then, until it is told to stop.
pub(crate) async fn run(engine: Engine, lead: Lead, stopping: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        if lead.is_ours()
            && let Err(error) = bury_the_dead(&engine).await
        {
            tracing::warn!(error = %error, "accounts of money could not be looked through");
        }
    }
}

/// Takes the holds of sessions that are dead or ended off every account.
async fn bury_the_dead(engine: &Engine) -> StoreResult<()> {
    let store = engine.store.as_ref();
    let mut after = None;
    loop {
        let scopes = store.open_budgets(after.as_ref(), STEP).await?;
        let Some(last) = scopes.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut holders = Vec::new();
        for scope in scopes {
            match store.budget(&scope).await {
                Ok(record) => holders.push((scope, record.budget.sessions().collect::<Vec<_>>())),
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // The others must not wait for one that is damaged.
                Err(error) => {
                    tracing::error!(budget = %scope, error = %error, "an account of money cannot be read")
                }
            }
        }
        // Read after the accounts: whoever holds something had a session before.
        let alive: HashSet<SessionId> =
            store.sessions().await?.into_iter().map(|beat| beat.session).collect();
        for (scope, sessions) in holders {
            let dead: Vec<_> = sessions.into_iter().filter(|session| !alive.contains(session)).collect();
            if dead.is_empty() {
                continue;
            }
            let now_ms = engine.clock.now_ms();
            let unknown = change_budget(store, &scope, now_ms, |budget| {
                let before = budget.unknown();
                for session in &dead {
                    budget.bury(*session, now_ms);
                }
                budget.unknown().less(before)
            });
            match unknown.await {
                Ok(unknown) if unknown > Money::ZERO => {
                    tracing::warn!(budget = %scope, unknown = %unknown, "a process died that held money of a limit; nobody knows whether it was spent, and it counts");
                }
                Ok(_) => {}
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(budget = %scope, error = %error, "an account of money cannot be changed")
                }
            }
        }
    }
}

/// Lets batches go on that stand still for their tenant's limit of a day or month that is over.
pub(crate) async fn resume(engine: &Engine, batches: &[Batch]) -> StoreResult<()> {
    let now_ms = engine.clock.now_ms();
    for batch in batches {
        let BatchState::Paused { reason: PauseReason::TenantBudget { period, name } } = &batch.state else {
            continue;
        };
        if *name == period.of(now_ms) {
            continue;
        }
        // Somebody may have paused it for another reason meanwhile.
        match engine.store.batch(&batch.tenant, batch.id).await {
            Ok(now) if now.state == batch.state => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            _ => continue,
        }
        match engine.store.steer(&batch.tenant, batch.id, BatchEvent::Resume, now_ms).await {
            Ok(_) => {
                tracing::info!(batch.id = %batch.id, "the {} of a spent limit is over; the batch goes on", period.as_str());
                // A lost signal costs until the next sweep.
                let _ = engine.signals.publish(Signal::BatchChanged(batch.id)).await;
            }
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // Somebody cancelled it meanwhile.
            Err(_) => {}
        }
    }
    Ok(())
}
