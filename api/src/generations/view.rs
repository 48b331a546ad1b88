//! A generation as the wire has it.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use promptmill_domain::{Ending, FailureKind, Money};
use promptmill_ports::{Generation, decode_outcome};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::job::StoredRequest;
use crate::outcome_view::{AttemptView, ReasonNames, TokensView, Told};
use crate::problem::Problem;
use crate::time::Time;

/// One immediate generation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Generation)]
pub(super) struct GenerationView {
    /// `gen_` and 32 hexadecimal digits.
    id: String,
    /// `running`, `succeeded` or `failed`.
    #[schema(value_type = String)]
    state: &'static str,
    /// `provider:name`, the one that is asked first.
    model: String,
    /// Those that are asked when it does not do, in that order. A call of one says so.
    fallbacks: Vec<String>,
    /// When it was asked for.
    created_at: Time,
    /// What was delivered: JSON as it was judged, or a string.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    /// Why it failed.
    #[schema(value_type = Option<ReasonNames>, inline)]
    reason: Option<FailureKind>,
    /// The same in words.
    message: Option<String>,
    /// Every attempt, with its calls.
    attempts: Vec<AttemptView>,
    /// Tokens of all calls.
    tokens: TokensView,
    /// Cost in US dollars, where a call told one.
    #[schema(value_type = Option<String>)]
    cost: Option<Money>,
    /// What else is to be known.
    #[schema(value_type = Vec<String>)]
    flags: Vec<&'static str>,
}

impl GenerationView {
    fn of(generation: &Generation) -> Result<Self, Problem> {
        let request = StoredRequest::read(&generation.request).map_err(Problem::internal)?;
        let (state, told) = match &generation.outcome {
            None => ("running", Told::default()),
            Some(body) => {
                let outcome = decode_outcome(body).map_err(Problem::internal)?;
                let state = match outcome.ending {
                    Ending::Succeeded { .. } => "succeeded",
                    Ending::Failed { .. } => "failed",
                };
                (state, Told::from(outcome))
            }
        };
        Ok(Self {
            id: generation.id.to_string(),
            state,
            model: request.spec.model.to_string(),
            fallbacks: request.spec.models().skip(1).map(ToString::to_string).collect(),
            created_at: Time(generation.created_ms),
            output: told.output,
            reason: told.reason,
            message: told.message,
            attempts: told.attempts,
            tokens: told.tokens,
            cost: told.cost,
            flags: told.flags,
        })
    }
}

/// Stored bytes up to which a view is made at once: the way to another thread would take longer.
const SMALL: usize = 8 * 1024;

/// The view's JSON text. An outcome may have megabytes, and then it is made on a blocking thread.
pub(super) async fn text(generation: Arc<Generation>) -> Result<String, Problem> {
    let stored = generation.request.len() + generation.outcome.as_ref().map_or(0, Bytes::len);
    let write = move || {
        let view = GenerationView::of(&generation)?;
        serde_json::to_string(&view).map_err(Problem::internal)
    };
    if stored <= SMALL { write() } else { spawn_blocking(write).await.map_err(Problem::internal)? }
}

/// The answer that shows a generation.
pub(super) async fn show(status: StatusCode, generation: Arc<Generation>) -> Result<Response, Problem> {
    let body = text(generation).await?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
