//! One attempt at an item: a first call, and repairs in the same conversation while the judge says so.

use std::time::Duration;

use promptmill_domain::{
    Attempt, Call, FailureKind, Flag, Message, ModelRef, Money, Output, Reason, Role, StoreReplies, Tokens,
    Totals, Verdict,
};
use promptmill_prompt::Variables;
use promptmill_provider::{CallFailure, ChatReply, ChatRequest, Delta, Finish, ResponseFormat};

use crate::cache::{KeptReply, Looked};
use crate::gate::Gate;
use crate::lane;
use crate::pipeline::Pipeline;
use crate::plan::{BatchPlan, Target};
use crate::set_aside::CameTo;
use crate::standing::Stage;

/// Reasons of an invalid reply that are kept in the history.
const KEPT_REASONS: usize = 10;

/// Bytes of a raw reply that are kept in the history.
const KEPT_REPLY_BYTES: usize = 1024 * 1024;

/// How an attempt ended.
pub(crate) enum AttemptEnd {
    /// A reply was accepted.
    Accepted { output: Output, repaired: bool, flags: Vec<Flag> },
    /// The item failed for good.
    Failed { kind: FailureKind, message: String },
    /// A further attempt may end better.
    Retry(CallFailure),
    /// The provider refused the call for its credential, and so, as far as is known, every other one of the lane.
    LaneRefused(CallFailure),
    /// The lane stands still until then; the attempt made no further call.
    LanePaused { until_ms: u64 },
    /// The gate closed before the next call.
    Stopped,
}

/// What an attempt works on.
pub(crate) struct AttemptInput<'a> {
    pub(crate) plan: &'a BatchPlan,
    /// Which of the plan's models is asked.
    pub(crate) at: usize,
    /// That model.
    pub(crate) target: &'a Target,
    /// Whether another one follows.
    pub(crate) has_next: bool,
    /// How long its lane is waited for before another one is asked; `None` where none is.
    pub(crate) patience: Option<Duration>,
    pub(crate) gate: &'a dyn Gate,
    pub(crate) variables: &'a Variables,
}

impl AttemptInput<'_> {
    /// The model, where it is not the batch's first.
    fn further_model(&self) -> Option<ModelRef> {
        (self.at > 0).then(|| self.target.reference.clone())
    }
}

impl Pipeline {
    /// Makes one attempt, which begins with the first `asked` messages of `request`; every call it made is in the history it answers,
    /// whatever the end. Where the batch shares replies, the cache is asked before any call.
    pub(crate) async fn attempt(
        &self,
        input: &AttemptInput<'_>,
        request: &mut ChatRequest,
        asked: usize,
    ) -> (Attempt, AttemptEnd) {
        request.messages.truncate(asked);
        let (Some(cache), Some(sharing)) = (&self.cache, &input.plan.sharing) else {
            return self.call(input, request, asked).await;
        };
        if !input.gate.is_open() {
            return (Attempt::default(), AttemptEnd::Stopped);
        }
        let plan = input.plan;
        let stay = plan.standing.enter(Stage::Reply);
        let looked = tokio::select! {
            looked = cache.look(plan.batch, sharing.key(plan.batch, input.at, request)) => looked,
            () = input.gate.closed() => return (Attempt::default(), AttemptEnd::Stopped),
        };
        drop(stay);
        let miss = match looked {
            Looked::Reply(reply) => match self.given_again(input, &reply) {
                Some(cached) => return cached,
                // What the rules say of it rests on more than what was asked.
                None => return self.call(input, request, asked).await,
            },
            Looked::Denied { until_ms } => return (Attempt::default(), AttemptEnd::LanePaused { until_ms }),
            Looked::Miss(miss) => miss,
        };
        let (history, end) = self.call(input, request, asked).await;
        let goes_on = |kind| input.has_next && plan.passes_over_lanes() && plan.goes_on(kind);
        match &end {
            AttemptEnd::Accepted { output, repaired, flags } if !flags.contains(&Flag::ReplyCut) => {
                let content = text(output).to_owned();
                cache.keep(miss, KeptReply { content, repaired: *repaired, flags: flags.clone() });
            }
            AttemptEnd::LanePaused { until_ms } => miss.denied(*until_ms),
            AttemptEnd::Retry(CallFailure { kind, .. }) | AttemptEnd::Failed { kind, .. }
                if goes_on(*kind) =>
            {
                miss.denied(self.clock.now_ms());
            }
            AttemptEnd::Accepted { .. } | AttemptEnd::Failed { .. } => miss.failed(),
            AttemptEnd::Retry(_) | AttemptEnd::LaneRefused(_) | AttemptEnd::Stopped => {}
        }
        (history, end)
    }

    /// The attempt that takes a reply of the cache, where the template accepts it.
    fn given_again(&self, input: &AttemptInput<'_>, reply: &KeptReply) -> Option<(Attempt, AttemptEnd)> {
        let plan = input.plan;
        let judgement = plan.template.judge(&reply.content, input.variables);
        let (Verdict::Accept, Some(output)) = (judgement.verdict, judgement.output) else { return None };
        let call = Call {
            started_ms: self.clock.now_ms(),
            reply: (plan.store_replies == StoreReplies::All).then(|| kept(&reply.content)),
            model: input.further_model(),
            is_cached: true,
            ..Call::default()
        };
        input.gate.spent(&input.target.reference, &Totals::of_call(&call));
        let mut flags = judgement.flags;
        flags.extend(&reply.flags);
        flags.push(Flag::Cached);
        let end = AttemptEnd::Accepted { output, repaired: reply.repaired, flags };
        Some((Attempt { calls: vec![call] }, end))
    }

    async fn call(
        &self,
        input: &AttemptInput<'_>,
        request: &mut ChatRequest,
        asked: usize,
    ) -> (Attempt, AttemptEnd) {
        let plan = input.plan;
        let mut history = Attempt::default();
        let mut repairs_left = plan.template.max_repairs();
        loop {
            let mut leave = match self.leave(input, request).await {
                Ok(leave) => leave,
                Err(end) => return (history, end),
            };
            if let Some(deltas) = &request.deltas {
                deltas.send(Delta::Begin);
            }
            let started_ms = self.clock.now_ms();
            let started = tokio::time::Instant::now();
            leave.begin();
            let result = input.target.provider.chat(request).await;
            let mut call = record(started_ms, started.elapsed(), &result);
            call.model = input.further_model();
            leave.end(lane::report(&result), came_to(&call));
            input.gate.spent(&input.target.reference, &Totals::of_call(&call));
            let reply = match result {
                Ok(reply) => {
                    self.lanes.succeeded(&input.target.lane, started_ms, self.clock.now_ms());
                    reply
                }
                Err(failure) => {
                    history.calls.push(call);
                    let end = if failure.transient {
                        AttemptEnd::Retry(failure)
                    } else if failure.lane_wide
                        && matches!(
                            failure.kind,
                            FailureKind::CredentialRefused | FailureKind::PaymentRequired
                        )
                    {
                        AttemptEnd::LaneRefused(failure)
                    } else {
                        AttemptEnd::Failed { kind: failure.kind, message: failure.message }
                    };
                    return (history, end);
                }
            };
            let judgement = plan.template.judge(&reply.content, input.variables);
            let repaired = request.messages.len() > asked;
            if plan.store_replies != StoreReplies::None {
                call.reply = Some(kept(&reply.content));
            }
            match (judgement.verdict, judgement.output) {
                (Verdict::Accept, Some(output)) if is_whole(&reply, &output) => {
                    if plan.store_replies == StoreReplies::Failed {
                        call.reply = None;
                    }
                    history.calls.push(call);
                    let mut flags = judgement.flags;
                    flags.extend(reply.flags);
                    return (history, AttemptEnd::Accepted { output, repaired, flags });
                }
                (Verdict::Accept, _) => return cut_short(history, call, &reply),
                // A reply whose end we did not keep cannot be judged, and sending a mebibyte back would not mend it.
                (Verdict::Repair(_) | Verdict::Reject(_), _) if reply.flags.contains(&Flag::ReplyCut) => {
                    call.failure = Some(FailureKind::ReplyTooLarge);
                    history.calls.push(call);
                    let message = "the reply is longer than the 1 MiB that is kept".to_owned();
                    return (history, AttemptEnd::Failed { kind: FailureKind::ReplyTooLarge, message });
                }
                // A reply that was cut off is invalid for that reason; telling the model what is missing would not help it.
                (Verdict::Repair(_), _) if reply.finish != Finish::Stop => {
                    return cut_short(history, call, &reply);
                }
                // JSON that was accepted as JSON is whole; a text may miss just what the rule looked for.
                (Verdict::Reject(_), _) if matches!(plan.format, ResponseFormat::Text) && is_cut(&reply) => {
                    return cut_short(history, call, &reply);
                }
                (Verdict::Reject(reasons), _) => {
                    keep_reasons(&mut call, &reasons);
                    call.failure = Some(FailureKind::RejectedOutput);
                    history.calls.push(call);
                    let message = first_reasons(&reasons);
                    return (history, AttemptEnd::Failed { kind: FailureKind::RejectedOutput, message });
                }
                (Verdict::Repair(reasons), _) => {
                    keep_reasons(&mut call, &reasons);
                    call.failure = Some(FailureKind::InvalidOutput);
                    history.calls.push(call);
                    if repairs_left == 0 {
                        let message = first_reasons(&reasons);
                        return (history, AttemptEnd::Failed { kind: FailureKind::InvalidOutput, message });
                    }
                    repairs_left -= 1;
                    // Only the last exchange is kept, so that repairs do not let the prompt grow without bound.
                    request.messages.truncate(asked);
                    request.messages.push(Message { role: Role::Assistant, content: reply.content });
                    request.messages.push(plan.template.repair_message(&reasons));
                }
            }
        }
    }
}

/// An output as the text that is judged to be it.
fn text(output: &Output) -> &str {
    match output {
        Output::Json(json) => json.get(),
        Output::Text(text) => text,
    }
}

/// Whether an accepted output is all of it: JSON that closed is, text that was cut is not.
fn is_whole(reply: &ChatReply, output: &Output) -> bool {
    match output {
        Output::Json(_) => true,
        Output::Text(_) => !is_cut(reply),
    }
}

fn is_cut(reply: &ChatReply) -> bool {
    matches!(reply.finish, Finish::Length | Finish::ContentFilter)
}

fn cut_short(mut history: Attempt, mut call: Call, reply: &ChatReply) -> (Attempt, AttemptEnd) {
    let (kind, message) = match &reply.finish {
        Finish::ContentFilter => {
            (FailureKind::ContentRefused, "the provider's content filter cut the reply".to_owned())
        }
        Finish::Length => (
            FailureKind::TruncatedReply,
            "the reply was cut at the output limit; raise max_tokens or ask for less".to_owned(),
        ),
        Finish::ToolCalls => {
            (FailureKind::MalformedReply, "the model called a tool instead of replying".to_owned())
        }
        Finish::Other(word) => (FailureKind::MalformedReply, format!("the reply ended with {word:?}")),
        Finish::Stop => (FailureKind::Internal, "a reply was accepted without an output".to_owned()),
    };
    call.failure = Some(kind);
    call.problems.push(message.clone());
    history.calls.push(call);
    let mut failure = CallFailure::new(kind, &message);
    failure.status = Some(reply.status);
    let end =
        if failure.transient { AttemptEnd::Retry(failure) } else { AttemptEnd::Failed { kind, message } };
    (history, end)
}

fn record(started_ms: u64, took: Duration, result: &Result<ChatReply, CallFailure>) -> Call {
    let begun = Call {
        started_ms,
        duration_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
        ..Call::default()
    };
    match result {
        Ok(reply) => Call {
            status: Some(reply.status),
            tokens: reply.usage.unwrap_or_default(),
            cost: reply.cost,
            cost_is_estimate: reply.cost_is_estimate,
            generation: reply.generation.clone(),
            ..begun
        },
        Err(failure) => Call {
            failure: Some(failure.kind),
            status: failure.status,
            problems: vec![failure.message.clone()],
            tokens: failure.usage.unwrap_or_default(),
            cost: failure.cost,
            cost_is_estimate: failure.cost_is_estimate,
            generation: failure.generation.clone(),
            ..begun
        },
    }
}

/// What a call came to, as far as anybody knows. One that was given up, or whose reply broke off, may be charged all the same.
fn came_to(call: &Call) -> CameTo {
    let generated = call.failure.is_none_or(|kind| {
        let broke_off =
            matches!(kind, FailureKind::Timeout | FailureKind::MalformedReply | FailureKind::ReplyTooLarge);
        broke_off || call.status == Some(200)
    });
    match call.cost {
        Some(cost) => CameTo::Cost(cost),
        None if generated => CameTo::Unknown,
        None => CameTo::Cost(Money::ZERO),
    }
}

/// As much of a reply as the history keeps.
fn kept(content: &str) -> String {
    content[..content.floor_char_boundary(KEPT_REPLY_BYTES)].to_owned()
}

fn keep_reasons(call: &mut Call, reasons: &[Reason]) {
    call.problems.extend(reasons.iter().take(KEPT_REASONS).map(ToString::to_string));
}

fn first_reasons(reasons: &[Reason]) -> String {
    let shown: Vec<String> = reasons.iter().take(3).map(ToString::to_string).collect();
    let more = reasons.len().saturating_sub(shown.len());
    let joined = shown.join("; ");
    if more == 0 { joined } else { format!("{joined}; and {more} more") }
}

/// Whether the provider reported tokens for every complete reply.
pub(crate) fn usage_known(attempts: &[Attempt]) -> bool {
    attempts
        .iter()
        .flat_map(|attempt| &attempt.calls)
        .all(|call| call.failure.is_some() || call.is_cached || call.tokens != Tokens::default())
}
