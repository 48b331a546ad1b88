//! `Control`: a running batch is steered.

use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::doc;
use promptmill_domain::{BatchEvent, BatchId, BatchLimits, BatchState, TenantId};
use promptmill_ports::{Control, StoreResult};

use crate::codec::{Fields, conflict, int, to_json};
use crate::commands::Commands;
use crate::outbox::{self, Change};
use crate::{MongoStore, batches, endpoints};

#[async_trait]
impl Control for MongoStore {
    async fn steer(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        event: BatchEvent,
        now_ms: u64,
    ) -> StoreResult<BatchState> {
        let steered = steer(self.commands(), tenant, batch, &event, now_ms).await;
        self.known_open_batches().forget_standing(batch);
        steered
    }

    async fn set_limits(&self, tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> StoreResult<()> {
        set_limits(self.commands(), tenant, batch, limits).await
    }
}

async fn steer(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    event: &BatchEvent,
    now_ms: u64,
) -> StoreResult<BatchState> {
    let number = match event {
        // The one of these that is told; a number that is not used is no harm.
        BatchEvent::Pause(_) => outbox::next_number(commands).await?,
        BatchEvent::Resume | BatchEvent::Cancel | BatchEvent::Expire => 0,
        BatchEvent::BeginSubmit | BatchEvent::FinishSubmit | BatchEvent::Admit | BatchEvent::Close => {
            // A foreign batch is not found, whatever is asked of it.
            batches::check(commands, tenant, batch).await?;
            return Err(conflict("this step of a batch is taken by its own call"));
        }
    };
    let told = match event {
        BatchEvent::Pause(_) => endpoints::tenants(commands).await?,
        _ => Arc::default(),
    };
    let mut steered = None;
    batches::change(commands, tenant, batch, outbox::fields(), |found| {
        let state = batches::state_of(found)?;
        let next = state.decide(event)?;
        let ver = Fields(found).uint("ver")? + 1;
        let mut operators = doc! { "$set": batches::set_state(&next, ver) };
        let change = Change { tenant, batch, state: &next, ver, counts: None, at_ms: now_ms, number };
        let changes = next != state;
        if changes {
            outbox::tell(found, &mut operators, &change, &told)?;
        }
        steered = Some(next);
        Ok(changes.then_some(operators))
    })
    .await?;
    // Whoever repeats the step may be the first to come this far.
    batches::bump_changes(commands).await?;
    steered.ok_or(promptmill_ports::StoreError::NotFound)
}

async fn set_limits(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    limits: BatchLimits,
) -> StoreResult<()> {
    let json = to_json(&limits);
    let fields = doc! { "state": 1, "ver": 1, "limits": 1 };
    batches::change(commands, tenant, batch, fields, |found| {
        let state = batches::state_of(found)?;
        if state.is_final() {
            return Err(conflict(format!("the limits of a batch that is {} cannot change", state.as_str())));
        }
        let ver = Fields(found).uint("ver")? + 1;
        let same = Fields(found).text("limits")? == json;
        Ok((!same).then(|| doc! { "$set": { "limits": json.clone(), "ver": int(ver) } }))
    })
    .await?;
    batches::bump_changes(commands).await
}
