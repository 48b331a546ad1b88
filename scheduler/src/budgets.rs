//! Accounts of money: what the dead held is counted as unknown, and batches go on when the day or month of their tenant's limit is over.

use std::collections::HashSet;

use promptmill_domain::batch::PauseReason;
use promptmill_domain::{Batch, BatchEvent, BatchState, SessionId};
use promptmill_ports::{Signal, StoreError, StoreResult, change_budget};
use promptmill_runtime::Engine;

/// Accounts that are looked at in one step.
const STEP: u32 = 500;

/// Takes the holds of sessions that are dead or ended off every account.
pub(crate) async fn bury_the_dead(engine: &Engine) -> StoreResult<()> {
    let store = engine.store.as_ref();
    let mut after = None;
    loop {
        let scopes = store.open_budgets(after.as_ref(), STEP).await?;
        let Some(last) = scopes.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut holders = Vec::new();
        for scope in scopes {
            let sessions: Vec<_> = store.budget(&scope).await?.budget.sessions().collect();
            holders.push((scope, sessions));
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
            let before = store.budget(&scope).await?.budget.unknown();
            change_budget(store, &scope, now_ms, |budget| {
                for session in &dead {
                    budget.bury(*session, now_ms);
                }
            })
            .await?;
            let unknown = store.budget(&scope).await?.budget.unknown();
            if unknown > before {
                tracing::warn!(budget = %scope, unknown = %unknown, "a process died that held money of a limit; nobody knows whether it was spent, and it counts");
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
