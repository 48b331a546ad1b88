//! Leave to make one call: the batch's own limit, a place among the process's calls, the lane.
//!
//! Nobody holds a place of the process for long while waiting for a lane, so that a lane that is full keeps no other lane's calls waiting;
//! and nobody holds a permit of the lane while waiting for a place, so that it is still good when the call begins.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use promptmill_domain::Tokens;
use promptmill_ports::{CallNeed, CallReport, Denied, Permit};
use promptmill_provider::ChatRequest;
use tokio::time::timeout;

use crate::attempt::{AttemptEnd, AttemptInput};
use crate::limit::BatchPlace;
use crate::pipeline::{Pipeline, later};
use crate::places::Place;
use crate::plan::BatchPlan;
use crate::set_aside::{CameTo, SetAside};
use crate::standing::{Stage, Stay};

/// How soon a permit is asked for again while the hub is away.
const HUB_RETRY: Duration = Duration::from_millis(200);

/// How long a place is held while the lane is asked: longer than a hub takes to answer, short beside a call.
const LANE_ANSWERS_WITHIN: Duration = Duration::from_millis(10);

/// Leave for one call; everything is given back when it is dropped, the narrowest limit last.
pub(crate) struct Leave<'a> {
    /// What the call may cost.
    aside: SetAside,
    _stay: Stay<'a>,
    permit: Permit,
    _place: Place,
    _of_batch: BatchPlace<'a>,
}

impl Leave<'_> {
    /// The call begins.
    pub(crate) fn begin(&mut self) {
        self.permit.begin();
        self.aside.begin();
    }

    /// The call ended and came to this: everything is given back, and the lane learns of it.
    pub(crate) fn end(self, report: CallReport, came_to: CameTo) {
        self.permit.end(report);
        self.aside.settle(came_to);
    }
}

/// One who waits for a lane without holding a place; the number of them is shared.
struct InLine(Arc<AtomicU32>);

impl InLine {
    fn new(number: Arc<AtomicU32>) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipeline {
    /// Waits for leave to call, until the gate closes.
    pub(crate) async fn leave<'a>(
        &self,
        input: &AttemptInput<'a>,
        request: &ChatRequest,
    ) -> Result<Leave<'a>, AttemptEnd> {
        if !input.gate.is_open() {
            return Err(AttemptEnd::Stopped);
        }
        let mut limits = pin!(self.all_limits(input, about(request)));
        // Mostly nothing is scarce, and then nobody needs to be told that the gate closes.
        let at_once = poll_fn(|context| Poll::Ready(limits.as_mut().poll(context))).await;
        let leave = match at_once {
            Poll::Ready(leave) => leave,
            Poll::Pending => tokio::select! {
                biased;
                leave = limits => leave,
                () = input.gate.closed() => return Err(AttemptEnd::Stopped),
            },
        };
        match leave {
            // The wait may have been long, and nothing may begin once the gate is closed.
            Ok(_) if !input.gate.is_open() => Err(AttemptEnd::Stopped),
            Ok(leave) => Ok(leave),
            Err(Denied::Paused { until_ms }) => Err(AttemptEnd::LanePaused { until_ms }),
            Err(Denied::Unavailable(error)) => {
                tracing::debug!(error = %error, "no permit without the hub");
                Err(AttemptEnd::LanePaused { until_ms: self.clock.now_ms() + HUB_RETRY.as_millis() as u64 })
            }
        }
    }

    async fn all_limits<'a>(&self, input: &AttemptInput<'a>, about: Tokens) -> Result<Leave<'a>, Denied> {
        let plan = input.plan;
        let need = need(plan, about);
        let mut stay = plan.standing.enter(Stage::Batch);
        loop {
            let of_batch = plan.limit.place().await;
            // Before the wait for the lane: what is held for a call that waits is not held in vain, and nobody waits there without.
            let aside = if input.gate.has_limit() {
                stay.go_to(Stage::Money);
                input.gate.set_aside(&input.target.reference, about).await
            } else {
                SetAside::default()
            };
            let (place, permit) = self.place_and_permit(input, need, &mut stay).await?;
            // The limit may have been lowered, and a cost become known, while this one waited for the rest.
            if plan.limit.is_kept() && input.gate.covers(&aside, &input.target.reference, about) {
                stay.go_to(Stage::Call);
                return Ok(Leave { aside, _stay: stay, permit, _place: place, _of_batch: of_batch });
            }
            stay.go_to(Stage::Batch);
        }
    }

    async fn place_and_permit(
        &self,
        input: &AttemptInput<'_>,
        need: CallNeed,
        stay: &mut Stay<'_>,
    ) -> Result<(Place, Permit), Denied> {
        let (plan, lane) = (input.plan, &input.target.lane);
        let line = self.lanes.line(lane);
        // Where others wait for the lane already, a place would only be held in vain.
        let mut place_first = line.load(Ordering::Relaxed) == 0;
        loop {
            let held = if place_first {
                stay.go_to(Stage::Place);
                Some(self.places.take(plan.batch).await)
            } else {
                None
            };
            stay.go_to(Stage::Lane);
            let mut permit = pin!(self.limiter.acquire(lane, need, self.clock.now_ms()));
            if let Some(place) = held
                && let Ok(permit) = timeout(LANE_ANSWERS_WITHIN, &mut permit).await
            {
                return Ok((place, permit?));
            }
            let in_line = InLine::new(line.clone());
            let permit = match input.patience {
                None => permit.await,
                Some(patience) => timeout(patience, permit).await.unwrap_or_else(|_| {
                    Err(Denied::Paused { until_ms: later(self.clock.now_ms(), patience) })
                }),
            }?;
            drop(in_line);
            if let Some(place) = self.places.try_take(plan.batch) {
                return Ok((place, permit));
            }
            // Both are scarce: the permit goes to someone who can use it now, and is asked for again from a place.
            place_first = true;
        }
    }
}

fn need(plan: &BatchPlan, about: Tokens) -> CallNeed {
    let tokens = u32::try_from(about.total()).unwrap_or(u32::MAX);
    CallNeed { tokens, is_interactive: plan.is_interactive() }
}

/// About how many tokens a call will take: four bytes of prompt a token, and the output limit where there is one.
fn about(request: &ChatRequest) -> Tokens {
    let prompt: usize = request.messages.iter().map(|message| message.content.len() / 4 + 4).sum();
    Tokens { prompt: prompt as u64, completion: request.settings.max_tokens.unwrap_or(0).into() }
}
