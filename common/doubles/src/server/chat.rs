//! One chat call: read it, write it down, decide what it meets, wait as long as that takes, and answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Request, Response};

use super::{ResetAsked, Shared};
use crate::config::Provider;
use crate::dialect::{self, Particulars};
use crate::dice::{Dice, hash};
use crate::fault::Fault;
use crate::ledger::Arrival;
use crate::plan::{FaultPlan, Step};
use crate::request::{self, Asked, Refusal};
use crate::socket::Line;
use crate::wire::{Answer, ReplyBody};

/// The largest body that is read.
const LARGEST_BODY: usize = 32 << 20;

pub(super) async fn chat(
    provider: Provider,
    request: Request<Incoming>,
    shared: Arc<Shared>,
    line: Arc<Line>,
) -> Result<Response<ReplyBody>, ResetAsked> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            shared.ledger.refuse("413 request body too large".to_owned());
            let refusal = Refusal::new(413, "request body too large");
            return Ok(dialect::refusal(provider, &refusal).respond(line, None));
        }
        // The caller went away in the middle of its request: nothing was asked.
        Err(_) => return Err(ResetAsked),
    };
    let marker = request::marker(&body);
    let credential = credential(provider, &parts.headers);
    let asked = check(provider, &parts.headers, &body, &shared);
    let plan = shared.plan();
    let arrival = Arrival {
        marker,
        body: (!plan.is_quiet()).then(|| hash(shared.config.seed, &body)),
        repair: asked.as_ref().is_ok_and(|asked| asked.repair),
        credential,
    };
    let (mut call, step) = shared.ledger.begin(arrival, |nth, run| match &asked {
        Ok(asked) => decide(&plan, asked, marker, shared.config.seed, nth, run),
        Err(_) => Step::Clean,
    });
    let asked = match asked {
        Ok(asked) => asked,
        Err(refusal) => {
            shared.ledger.refuse(format!("{} {}", refusal.status, refusal.reason));
            return Ok(dialect::refusal(provider, &refusal).respond(line, Some(call)));
        }
    };

    let latency = shared.config.latency.draw(&mut Dice::new(asked.chance ^ call.seq()));
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    match step {
        Step::Fault(Fault::SlowFirstByte) => tokio::time::sleep(shared.config.slow_first_byte).await,
        Step::Fault(Fault::Hang) => tokio::time::sleep(shared.config.hang).await,
        _ => {}
    }
    if let Step::Fault(Fault::Hang | Fault::ResetBeforeReply) = step {
        line.reset.store(true, Ordering::Relaxed);
        return Err(ResetAsked);
    }
    let id = hash(call.seq(), &asked.chance.to_le_bytes());
    let drip = shared.config.drip;
    let answer: Answer = dialect::answer(&Particulars { asked: &asked, marker, id, credential, drip }, &step);
    call.delivery = answer.delivery;
    Ok(answer.respond(line, Some(call)))
}

fn decide(plan: &FaultPlan, asked: &Asked, marker: Option<&str>, seed: u64, nth: u32, run: u32) -> Step {
    // An empty conversation only loads a model; there is no reply to spoil.
    if plan.is_quiet() || asked.empty {
        return Step::Clean;
    }
    let chance = marker.map_or(asked.chance, |marker| hash(seed, marker.as_bytes()));
    match plan.step(marker, chance, nth, run) {
        Step::Fault(fault) => fault.fit(asked).map_or(Step::Clean, Step::Fault),
        step => step,
    }
}

fn check(provider: Provider, headers: &HeaderMap, body: &Bytes, shared: &Shared) -> Result<Asked, Refusal> {
    check_key(provider, headers, shared)?;
    let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Ollama reads a body whatever it is called; the others document application/json.
    if provider != Provider::Ollama && !json.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(Refusal::new(400, "content-type must be application/json"));
    }
    let asked = request::read(provider, body, shared.config.seed, &|text| shared.read_schema(text))?;
    let models = &shared.config.models;
    if models.is_empty() || models.contains(&asked.model) {
        return Ok(asked);
    }
    let status = if provider == Provider::OpenRouter { 400 } else { 404 };
    Err(Refusal::new(status, format!("model '{}' not found", asked.model)))
}

/// Refuses a key that this provider would refuse.
pub(super) fn check_key(provider: Provider, headers: &HeaderMap, shared: &Shared) -> Result<(), Refusal> {
    let key = bearer(headers);
    let known = match provider {
        // Ollama has no keys of its own and ignores the header.
        Provider::Ollama => true,
        Provider::OpenRouter => key.is_some_and(|key| {
            let keys = &shared.config.openrouter_keys;
            keys.is_empty() || keys.iter().any(|known| known == key)
        }),
        Provider::OpenAi => {
            let keys = &shared.config.openai_keys;
            keys.is_empty() || key.is_some_and(|key| keys.iter().any(|known| known == key))
        }
    };
    if known { Ok(()) } else { Err(Refusal::new(401, "No auth credentials found")) }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

fn credential(provider: Provider, headers: &HeaderMap) -> u64 {
    hash(provider as u64, bearer(headers).unwrap_or_default().as_bytes())
}
