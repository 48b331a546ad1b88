//! The item as a whole: attempts, waits, and the end.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{
    Attempt, Chain, Ending, FailureKind, FallbackOn, Flag, LaneId, Message, Outcome, ParkedItem,
    StoreReplies, Totals,
};
use promptmill_ports::{Clock, Limiter};
use promptmill_prompt::Variables;
use promptmill_provider::{CallFailure, ChatRequest, DeltaSink};

use crate::attempt::{AttemptEnd, AttemptInput, usage_known};
use crate::cache::ReplyCache;
use crate::gate::Gate;
use crate::history::{self, OUTCOME_HISTORY_BYTES, PARKED_HISTORY_BYTES};
use crate::lane::{Lanes, RefusalOf};
use crate::places::{Concurrency, Places};
use crate::plan::{BatchPlan, Target};
use crate::retry::RetryPolicy;
use crate::standing::Stage;

/// One item to work on.
#[derive(Debug, Clone)]
pub struct ItemInput {
    /// Its index in the batch.
    pub index: u32,
    /// Its position in the chunk.
    pub offset: u32,
    /// The client's own id of the row.
    pub custom_id: Option<String>,
    /// What it asks.
    pub content: ItemContent,
    /// What earlier work left, when the item was parked.
    pub parked: Option<ParkedItem>,
    /// Who wants the replies as they come; each call is streamed then where the provider can.
    pub deltas: Option<DeltaSink>,
}

/// What an item asks: the row it is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemContent {
    /// Checked variables as JSON text; the template makes the messages of them.
    Variables(String),
    /// The messages themselves, sent as they are; the template only judges the reply, and its rules see no variables.
    Messages(Vec<Message>),
    /// What is stored of the row cannot be read. No call is made: the item fails.
    Damaged,
}

impl ItemContent {
    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Variables(json) => json.len(),
            Self::Messages(messages) => {
                messages.iter().map(|message| size_of::<Message>() + message.content.len()).sum()
            }
            Self::Damaged => 0,
        }
    }
}

/// What became of an item. `spent` is what this run of it called, never what was recorded before.
#[derive(Debug)]
pub enum ItemEnd {
    /// It has its outcome.
    Settled {
        /// The outcome with the whole history.
        outcome: Box<Outcome>,
        /// Calls made now.
        spent: Totals,
    },
    /// It waits for a later attempt.
    Parked {
        /// What to keep of it.
        item: ParkedItem,
        /// Calls made now.
        spent: Totals,
    },
    /// No call was made; the lane stands still until then (Unix milliseconds), or, without a time, the gate closed.
    Untouched {
        /// When the lane goes on.
        lane_paused_until_ms: Option<u64>,
    },
}

/// Runs items. One per process; cheap to share.
pub struct Pipeline {
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) places: Places,
    pub(crate) lanes: Lanes,
    pub(crate) cache: Option<Arc<ReplyCache>>,
    policy: RetryPolicy,
}

/// The work on one item so far.
struct Progress {
    attempts: Vec<Attempt>,
    /// Calls of attempts that are no longer in the history.
    cut: Totals,
    /// Attempts that were made by an earlier run, and so are paid for already.
    inherited: usize,
    counted: u32,
    /// Failures in a row, for the length of the waits.
    failures: u32,
    begun_ms: u64,
    last: Option<FailureKind>,
    chain: Chain,
    /// The earliest end of the pauses of lanes that were passed over.
    lanes_until_ms: Option<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            attempts: Vec::new(),
            cut: Totals::default(),
            inherited: 0,
            counted: 0,
            failures: 0,
            begun_ms: 0,
            last: None,
            chain: Chain::new(1),
            lanes_until_ms: None,
        }
    }
}

impl Progress {
    fn spent(&self) -> Totals {
        Totals::of(self.attempts.iter().skip(self.inherited))
    }

    /// When the last call began, and when an earlier one of the same model ended that failed so, where there was one.
    fn refusals(&self, kind: FailureKind) -> (u64, Option<u64>) {
        let mut calls = self.attempts.iter().rev().flat_map(|attempt| attempt.calls.iter().rev());
        let last = calls.next();
        let called_ms = last.map_or(0, |call| call.started_ms);
        let model = last.and_then(|call| call.model.as_ref());
        let before = calls.find(|call| call.failure == Some(kind) && call.model.as_ref() == model);
        (called_ms, before.map(|call| call.started_ms.saturating_add(call.duration_ms.into())))
    }

    /// When the attempt before the last one was over, or when the last call began where there was none. The wait for leave belongs to
    /// neither: what others met meanwhile says nothing about the item.
    fn since(&self) -> u64 {
        let mut last_calls = self.attempts.iter().rev().filter_map(|attempt| attempt.calls.last());
        let called_ms = last_calls.next().map_or(0, |call| call.started_ms);
        let before = last_calls.next().map(|call| call.started_ms.saturating_add(call.duration_ms.into()));
        before.map_or(called_ms, |over_ms| over_ms.min(called_ms))
    }
}

/// How long a retry waits at least whose lane has made as many as it may: about as long as an outage is looked at again.
const WITHOUT_RETRIES: Duration = Duration::from_secs(15);

/// How long a call waits for a lane when another model may answer.
const GOES_ELSEWHERE_AFTER: Duration = Duration::from_secs(1);

/// The same for one that is taken for gone: long enough that the call asks whether it is back, where that is due.
const ASKS_THE_GONE_FOR: Duration = Duration::from_millis(20);

/// How long a lane stands still whose credential was refused: long enough that all learn of it, and that batches which are not paused for
/// it try it once in a while.
const LANE_REFUSED_FOR: Duration = Duration::from_secs(15);

/// What an item waits for between attempts, and until when (Unix milliseconds).
#[derive(Clone, Copy)]
enum WaitFor {
    /// The end of its lane's pause.
    Lane(u64),
    /// Its next attempt.
    Retry(u64),
}

/// What follows an attempt that gave no outcome.
enum Next {
    Again,
    End(ItemEnd),
}

impl Pipeline {
    /// A pipeline that makes so many calls at the same time.
    pub fn new(
        limiter: Arc<dyn Limiter>,
        clock: Arc<dyn Clock>,
        concurrency: Concurrency,
        policy: RetryPolicy,
    ) -> Self {
        let (places, lanes) = (Places::new(concurrency), Lanes::default());
        Self { limiter, clock, places, lanes, cache: None, policy }
    }

    /// The same with a cache for batches whose rows share replies.
    #[must_use]
    pub fn with_cache(self, cache: Arc<ReplyCache>) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Calls under way now.
    pub fn calls_in_flight(&self) -> usize {
        self.places.taken()
    }

    /// Works on an item until it has an outcome, must wait long, or `gate` closes. Dropping the future gives its call up.
    pub async fn run(&self, plan: &BatchPlan, gate: &dyn Gate, mut input: ItemInput) -> ItemEnd {
        let mut progress = match input.parked.take() {
            Some(parked) => Progress {
                inherited: parked.attempts.len(),
                failures: u32::try_from(parked.attempts.len()).unwrap_or(u32::MAX),
                attempts: parked.attempts,
                cut: parked.cut,
                counted: parked.counted,
                begun_ms: parked.begun_ms,
                last: Some(parked.reason),
                ..Progress::default()
            },
            None => Progress { begun_ms: self.clock.now_ms(), ..Progress::default() },
        };
        let content = std::mem::replace(&mut input.content, ItemContent::Messages(vec![]));
        let (variables, messages) = match prepare(plan, content) {
            Ok(prepared) => prepared,
            Err((kind, message)) => {
                return settled(plan, &input, progress, Ending::Failed { kind, message }, vec![]);
            }
        };
        let Some(chain) = plan.chain(|model| gate.price(model)) else {
            let message = "every model costs more than max_price".to_owned();
            let ending = Ending::Failed { kind: FailureKind::ModelUnavailable, message };
            return settled(plan, &input, progress, ending, vec![]);
        };
        progress.chain = match plan.done_with(&progress.attempts) {
            0 => chain,
            done_with => chain.without(|at| done_with & (1 << at) != 0).unwrap_or(chain),
        };
        let asked = messages.len();
        let mut request = ChatRequest {
            model: plan.targets[0].model.clone(),
            messages,
            settings: plan.settings.clone(),
            format: plan.format.clone(),
            seed_hint: u64::from(input.index),
            item_key: format!("{}-{}", plan.batch, input.index).into(),
            attempt: 0,
            deltas: input.deltas.take(),
        };
        loop {
            let (at, has_next) = (progress.chain.at(), progress.chain.has_next());
            let target = &plan.targets[at];
            request.model = target.model.clone();
            let patience = self.patience(plan, target, progress.chain);
            let attempt = AttemptInput { plan, at, target, has_next, patience, gate, variables: &variables };
            request.attempt = u32::try_from(progress.attempts.len()).unwrap_or(u32::MAX);
            let (history, end) = self.attempt(&attempt, &mut request, asked).await;
            if !history.calls.is_empty() {
                progress.attempts.push(history);
            }
            let next = match end {
                AttemptEnd::Accepted { output, repaired, flags } => {
                    return settled(plan, &input, progress, Ending::Succeeded { output, repaired }, flags);
                }
                AttemptEnd::Failed { kind, message } => {
                    if !plan.goes_on(kind) || !progress.chain.give_up_on_it() {
                        return settled(plan, &input, progress, Ending::Failed { kind, message }, vec![]);
                    }
                    progress.last = Some(kind);
                    Next::Again
                }
                AttemptEnd::Retry(failure) => {
                    self.after_failure(plan, gate, &input, &mut progress, failure).await
                }
                AttemptEnd::LaneRefused(failure) => {
                    self.after_refusal(plan, gate, &input, &mut progress, failure).await
                }
                AttemptEnd::LanePaused { until_ms } => {
                    let until_ms = progress.lanes_until_ms.map_or(until_ms, |other| other.min(until_ms));
                    if plan.passes_over_lanes() && progress.chain.go_on() {
                        progress.lanes_until_ms = Some(until_ms);
                        continue;
                    }
                    self.wait(plan, gate, &input, &mut progress, WaitFor::Lane(until_ms)).await
                }
                AttemptEnd::Stopped => Next::End(self.stopped(&input, &mut progress)),
            };
            match next {
                Next::Again => {}
                Next::End(end) => return end,
            }
        }
    }

    /// How long the lane of a model is waited for before the next one is asked.
    fn patience(&self, plan: &BatchPlan, target: &Target, chain: Chain) -> Option<Duration> {
        if !chain.has_next() {
            return None;
        }
        let is_gone =
            || self.limiter.lanes().iter().any(|told| told.lane == *target.lane && told.view.is_open);
        if plan.on.contains(&FallbackOn::Unavailable) && is_gone() {
            return Some(ASKS_THE_GONE_FOR);
        }
        plan.on.contains(&FallbackOn::OverRate).then_some(GOES_ELSEWHERE_AFTER)
    }

    async fn after_failure(
        &self,
        plan: &BatchPlan,
        gate: &dyn Gate,
        input: &ItemInput,
        progress: &mut Progress,
        failure: CallFailure,
    ) -> Next {
        let now_ms = self.clock.now_ms();
        let lane = &plan.targets[progress.chain.at()].lane;
        let is_lanes_fault = self.lanes.is_to_blame(lane, failure.kind, progress.since());
        progress.failures = progress.failures.saturating_add(1);
        progress.last = Some(failure.kind);
        if !is_lanes_fault {
            progress.counted += 1;
        }
        if let Some(pause) = failure.retry_after.filter(|_| failure.lane_wide) {
            self.pause_lane(lane, later(now_ms, pause)).await;
        }
        if plan.goes_on(failure.kind) && progress.chain.go_on() {
            return Next::Again;
        }
        let age = Duration::from_millis(now_ms.saturating_sub(progress.begun_ms));
        let give_up_after = plan.give_up_after.unwrap_or(self.policy.give_up_after);
        if progress.counted >= plan.max_attempts || age >= give_up_after {
            let ending = Ending::Failed { kind: failure.kind, message: failure.message };
            return Next::End(settled(plan, input, std::mem::take(progress), ending, vec![]));
        }
        // When calls may begin again that came too often is for the lane to say, not for each of its items.
        let failures = if failure.kind == FailureKind::RateLimited { 1 } else { progress.failures };
        let mut wait = self.policy.wait(failures, rand::random());
        if let Some(asked) = failure.retry_after {
            // Never before the provider's word; the jitter on top keeps the lane from coming back all at once.
            wait = asked + wait.min(asked / 4 + Duration::from_millis(250));
        }
        // Being told to wait is the lane's own measure.
        if failure.kind != FailureKind::RateLimited && !self.lanes.may_retry(lane) {
            wait = wait.max(WITHOUT_RETRIES);
        }
        let due_ms = later(now_ms, wait);
        self.wait(plan, gate, input, progress, WaitFor::Retry(due_ms)).await
    }

    /// The credential was refused: the lane stands still for a while, and the batch until somebody resumes it, instead of every item
    /// failing alike.
    async fn after_refusal(
        &self,
        plan: &BatchPlan,
        gate: &dyn Gate,
        input: &ItemInput,
        progress: &mut Progress,
        failure: CallFailure,
    ) -> Next {
        let (called_ms, before_ms) = progress.refusals(failure.kind);
        let now_ms = self.clock.now_ms();
        let until_ms = later(now_ms, LANE_REFUSED_FOR);
        let lane = &plan.targets[progress.chain.at()].lane;
        let refusal = self.lanes.refused(lane, called_ms, before_ms, now_ms);
        progress.last = Some(failure.kind);
        // The batch stands still only when every model of it is refused: another one that is busy now is waited for.
        if plan.goes_on(failure.kind) && progress.chain.give_up_on_it() {
            if refusal == RefusalOf::Lane {
                self.pause_lane(lane, until_ms).await;
            }
            return Next::Again;
        }
        let waits = match refusal {
            RefusalOf::Lane => gate.refused(failure.kind, &failure.message),
            RefusalOf::Item => false,
            RefusalOf::Unknown => true,
        };
        if !waits {
            let ending = Ending::Failed { kind: failure.kind, message: failure.message };
            return Next::End(settled(plan, input, std::mem::take(progress), ending, vec![]));
        }
        if refusal == RefusalOf::Lane {
            self.pause_lane(lane, until_ms).await;
        }
        Next::End(parked(input, progress, until_ms))
    }

    async fn pause_lane(&self, lane: &LaneId, until_ms: u64) {
        if let Err(error) = self.limiter.pause(lane, until_ms).await {
            tracing::warn!(lane = %lane, error = %error, "the pause of a lane could not be told to the fleet");
        }
    }

    /// Waits a short while under the lease, or gives the item back until `due_ms`.
    async fn wait(
        &self,
        plan: &BatchPlan,
        gate: &dyn Gate,
        input: &ItemInput,
        progress: &mut Progress,
        what: WaitFor,
    ) -> Next {
        let (due_ms, for_lane) = match what {
            WaitFor::Lane(until_ms) => (until_ms, true),
            WaitFor::Retry(due_ms) => (due_ms, false),
        };
        progress.chain.begin_anew();
        progress.lanes_until_ms = None;
        let wait = Duration::from_millis(due_ms.saturating_sub(self.clock.now_ms()));
        if wait > self.policy.patience_under_lease {
            let untouched = for_lane && progress.attempts.is_empty();
            return Next::End(if untouched {
                ItemEnd::Untouched { lane_paused_until_ms: Some(due_ms) }
            } else {
                parked(input, progress, due_ms)
            });
        }
        let _stay = plan.standing.enter(if for_lane { Stage::Lane } else { Stage::Retry });
        tokio::select! {
            () = tokio::time::sleep(wait) => Next::Again,
            () = gate.closed() => Next::End(if progress.attempts.is_empty() {
                ItemEnd::Untouched { lane_paused_until_ms: None }
            } else {
                parked(input, progress, due_ms)
            }),
        }
    }

    fn stopped(&self, input: &ItemInput, progress: &mut Progress) -> ItemEnd {
        if progress.attempts.is_empty() {
            ItemEnd::Untouched { lane_paused_until_ms: None }
        } else {
            parked(input, progress, self.clock.now_ms())
        }
    }
}

/// The first millisecond of the clock at which `wait` is surely over: both the clock and the wait may have lost a part of one.
pub(crate) fn later(now_ms: u64, wait: Duration) -> u64 {
    let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    now_ms.saturating_add(wait_ms).saturating_add(u64::from(wait_ms > 0))
}

fn prepare(
    plan: &BatchPlan,
    content: ItemContent,
) -> Result<(Variables, Vec<Message>), (FailureKind, String)> {
    let row = match content {
        ItemContent::Messages(messages) => return Ok((Variables::empty(), messages)),
        ItemContent::Damaged => {
            return Err((FailureKind::Internal, "the stored row cannot be read".to_owned()));
        }
        ItemContent::Variables(row) => row,
    };
    let variables = Variables::from_json(&row).map_err(|error| (FailureKind::Internal, error.to_string()))?;
    let messages =
        plan.template.render(&variables).map_err(|error| (FailureKind::RenderFailed, error.to_string()))?;
    Ok((variables, messages))
}

fn settled(
    plan: &BatchPlan,
    input: &ItemInput,
    mut progress: Progress,
    ending: Ending,
    mut flags: Vec<Flag>,
) -> ItemEnd {
    let spent = progress.spent();
    // What was parked kept its words and numbers, and replies only as far as they are short.
    let parked_without = plan.store_replies != StoreReplies::None
        && history::misses_a_reply(&progress.attempts[..progress.inherited.min(progress.attempts.len())]);
    if !usage_known(&progress.attempts) {
        flags.push(Flag::UsageUnknown);
    }
    if progress.attempts.iter().flat_map(|attempt| &attempt.calls).any(|call| call.cost_is_estimate) {
        flags.push(Flag::CostEstimated);
    }
    let mut cut = progress.cut;
    let shortened = history::bound(&mut progress.attempts, OUTCOME_HISTORY_BYTES);
    cut += shortened.unwrap_or_default();
    if shortened.is_some() || parked_without || !cut.is_zero() {
        flags.push(Flag::HistoryCut);
    }
    if progress
        .attempts
        .last()
        .and_then(|attempt| attempt.calls.last())
        .is_some_and(|call| call.model.is_some())
    {
        flags.push(Flag::Fallback);
    }
    flags.sort_unstable();
    flags.dedup();
    let outcome =
        Outcome { custom_id: input.custom_id.clone(), ending, attempts: progress.attempts, cut, flags };
    ItemEnd::Settled { outcome: Box::new(outcome), spent }
}

fn parked(input: &ItemInput, progress: &mut Progress, due_ms: u64) -> ItemEnd {
    let progress = std::mem::take(progress);
    let spent = progress.spent();
    let mut attempts = progress.attempts;
    let mut cut = progress.cut;
    cut += history::bound(&mut attempts, PARKED_HISTORY_BYTES).unwrap_or_default();
    let item = ParkedItem {
        offset: input.offset,
        due_ms,
        counted: progress.counted,
        // Nothing has failed yet when a closing gate interrupts the first attempt between a call and its repair.
        reason: progress.last.unwrap_or(FailureKind::InvalidOutput),
        begun_ms: progress.begun_ms,
        attempts,
        cut,
    };
    ItemEnd::Parked { item, spent }
}
