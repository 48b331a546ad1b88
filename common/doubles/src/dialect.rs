//! The providers' envelopes: how each one wraps a reply, streams it, breaks it and says no.

pub(crate) mod completions;
pub(crate) mod ollama;
mod refusals;
mod swollen;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Provider;
use crate::fault::{Fault, RetryAfter};
use crate::ledger::Delivery;
use crate::plan::Step;
use crate::reply::{self, Speech};
use crate::request::{Asked, Refusal};
use crate::wire::{Answer, Ending, JSON};

/// One answer's particulars.
pub(crate) struct Particulars<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) marker: Option<&'a str>,
    /// Tells calls with the same body apart.
    pub(crate) id: u64,
    /// Hash of provider and key, for the pause a 429 asks for.
    pub(crate) credential: u64,
    /// Pause before each piece of a dripping reply.
    pub(crate) drip: Duration,
}

/// The answer to a request in order that meets `step`.
pub(crate) fn answer(call: &Particulars<'_>, step: &Step) -> Answer {
    let asked = call.asked;
    let fault = match step {
        Step::Fault(fault) => Some(*fault),
        Step::Clean | Step::Say(_) => None,
    };
    if let Some(fault) = fault {
        if let Some(status) = fault.status(asked.provider) {
            return refused(call, fault, status);
        }
        match fault {
            Fault::NotJson => return Answer::whole(200, JSON, "{\"id\": \"gen-1\", choices: [oops"),
            Fault::Html => {
                return Answer::whole(
                    200,
                    "text/html",
                    "<!doctype html><html><body><h1>One moment</h1></body></html>",
                );
            }
            Fault::WrongContentType => {
                return Answer::whole(200, "text/plain", "The service will be back in a moment.");
            }
            Fault::Huge => return swollen::huge(asked.chance),
            Fault::GzipBomb => return swollen::gzip_bomb(),
            _ => {}
        }
    }
    let speech = reply::speak(asked, call.marker, step);
    let answer = match asked.provider {
        Provider::Ollama => ollama::reply(call, &speech, fault),
        Provider::OpenRouter | Provider::OpenAi => completions::reply(call, &speech, fault),
    };
    match fault {
        Some(Fault::Cut) if !asked.stream && asked.provider != Provider::Ollama => {
            answer.broken(Ending::Closed)
        }
        Some(Fault::ResetMidBody) => answer.broken(Ending::Reset),
        Some(Fault::Dribble) => answer.dribbled(asked.chance),
        Some(Fault::Drip) => answer.dripping(asked.chance, call.drip),
        Some(Fault::NotANumber) => swollen::not_a_number(answer),
        _ => answer,
    }
}

/// The answer to a request that is not in order.
pub(crate) fn refusal(provider: Provider, refusal: &Refusal) -> Answer {
    Answer::whole(refusal.status, JSON, refusals::plain(provider, refusal.status, &refusal.reason))
}

fn refused(call: &Particulars<'_>, fault: Fault, status: u16) -> Answer {
    let mut answer = Answer::whole(status, JSON, refusals::body(call.asked, fault, status));
    let (Fault::RateLimited(retry_after) | Fault::Overloaded(retry_after)) = fault else {
        return answer;
    };
    let now = SystemTime::now();
    let (text, pause) = match retry_after {
        RetryAfter::Absent => return answer,
        RetryAfter::Seconds(seconds) => (seconds.to_string(), Duration::from_secs(seconds.into())),
        RetryAfter::Date(seconds) => {
            let whole = unix_seconds(now).saturating_add(u64::from(seconds)) + 1;
            let date = UNIX_EPOCH + Duration::from_secs(whole);
            (httpdate::fmt_http_date(date), date.duration_since(now).unwrap_or_default())
        }
    };
    if matches!(fault, Fault::RateLimited(_)) {
        answer.delivery.pause = Some((call.credential, pause));
    }
    answer.header("retry-after", text)
}

pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is recorded when `speech` has left in an envelope that reports its tokens.
fn delivery(speech: &Speech, cost_pico: u64) -> Delivery {
    Delivery {
        ok: true,
        valid: speech.valid,
        prompt_tokens: speech.prompt_tokens,
        completion_tokens: speech.completion_tokens,
        cost_pico,
        pause: None,
    }
}
