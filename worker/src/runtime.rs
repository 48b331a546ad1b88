//! The apalis runtime: our [`Backend`] over the pump's channel, and the service that runs one item.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis::prelude::Task;
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::builder::TaskBuilder;
use apalis_core::worker::context::WorkerContext;
use promptmill_domain::{Attempt, Ending, FailureKind, Outcome, Totals};
use promptmill_pipeline::{ItemEnd, ItemInput, Pipeline};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tower_layer::Identity;

use crate::active::{ActiveBatch, Running};
use crate::end::End;
use crate::settler::{LeaseKey, SettlerHandle};
use crate::slots::Slot;

/// One item on its way: an apalis task's arguments.
pub(crate) struct Job {
    pub(crate) key: LeaseKey,
    pub(crate) batch: Arc<ActiveBatch>,
    pub(crate) input: ItemInput,
    /// Counted while the item has not come to its end.
    pub(crate) running: Running,
    /// Its slot; given back when its end is recorded.
    pub(crate) slot: Slot,
}

/// The apalis backend: the receiving end of the pump's channel.
///
/// It never fails and never ends by itself: apalis would drop what is in flight on an error, and would not stop on an end. The
/// pump retries inside, and [`WorkerContext::stop`] ends the worker.
pub(crate) struct JobBackend {
    jobs: mpsc::Receiver<Job>,
}

impl JobBackend {
    pub(crate) fn new(jobs: mpsc::Receiver<Job>) -> Self {
        Self { jobs }
    }
}

impl Backend for JobBackend {
    type Task = Task<Job>;
    type Error = std::convert::Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Self::Error>>> {
        match std::task::ready!(self.jobs.poll_recv(cx)) {
            Some(job) => Poll::Ready(Some(Ok(TaskBuilder::new(job).build()))),
            None => {
                // The pump is gone, so nothing comes any more; apalis does not stop on the end of its tasks alone.
                if let Err(error) = worker.stop() {
                    tracing::debug!(error = %error, "the worker was stopping already");
                }
                Poll::Ready(None)
            }
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        self.jobs.close();
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for JobBackend {
    type Args = Job;
    type Id = ();
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        Identity::new()
    }
}

/// Runs one item and hands its end to the settler.
#[derive(Clone)]
pub(crate) struct ItemService {
    pipeline: Arc<Pipeline>,
    settler: SettlerHandle,
}

impl ItemService {
    pub(crate) fn new(pipeline: Arc<Pipeline>, settler: SettlerHandle) -> Self {
        Self { pipeline, settler }
    }
}

impl tower_service::Service<Task<Job>> for ItemService {
    type Response = ();
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<(), std::convert::Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Job>) -> Self::Future {
        let Job { key, batch, input, running, slot } = task.args;
        let (pipeline, settler) = (self.pipeline.clone(), self.settler.clone());
        Box::pin(async move {
            let offset = input.offset;
            let custom_id = input.custom_id.clone();
            // A task of its own: items spread over the runtime's threads, a panic stays with its item, and the item ends with the worker.
            let run = tokio::spawn({
                let batch = batch.clone();
                async move {
                    let _running = running;
                    let end = pipeline.run(&batch.plan, batch.as_ref(), input).await;
                    // Here and not below: whole rows of calls could end before the runtime comes to look at this one.
                    if let ItemEnd::Settled { outcome, .. } = &end {
                        batch.came_to(outcome);
                    }
                    End::from(end)
                }
            });
            let end = match AbortOnDropHandle::new(run).await {
                Ok(end) => end,
                Err(error) if error.is_panic() => panicked(custom_id).into(),
                // The process is being torn down, which says nothing about the item.
                Err(_) => End::Untouched { lane_paused_until_ms: None },
            };
            settler.ended(key, offset, end, slot);
            Ok(())
        })
    }
}

fn panicked(custom_id: Option<String>) -> ItemEnd {
    tracing::error!("working on an item panicked; the item fails, the worker goes on");
    let ending = Ending::Failed {
        kind: FailureKind::Internal,
        message: "an internal fault; see the worker's log".to_owned(),
    };
    let outcome =
        Outcome { custom_id, ending, attempts: Vec::<Attempt>::new(), cut: Totals::default(), flags: vec![] };
    ItemEnd::Settled { outcome: Box::new(outcome), spent: Totals::default() }
}
