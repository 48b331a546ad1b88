//! A chat server that limits its calls as providers do, and writes down what it was asked: when each call came, and whether it was taken.
//!
//! It speaks OpenAI's API (below `/v1`, which is OpenRouter's too) and Ollama's, on one thread of this process. The limit is a bucket of two
//! seconds of the rate; the rate may change, trouble may come and go, all by the time since the first call.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::serving::OnThread;
use crate::{serving, work};

/// What is told of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hints {
    /// Nothing.
    None,
    /// `Retry-After` beside a refusal, in whole seconds.
    RetryAfter,
    /// The same, and limit, rest and reset beside every reply, as OpenAI tells them.
    Headers,
}

/// What becomes of calls in times of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// 429, without a word on when to come back.
    TooMany,
    /// 503.
    Unavailable,
    /// No answer.
    Silence,
}

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Calls a minute, each from a second on after the first call; none for no limit.
    pub rates: Vec<(f64, f64)>,
    /// What is told of them.
    pub hints: Hints,
    /// Seconds that a call takes, at least and at most.
    pub takes: (f64, f64),
    /// Which of them each call takes.
    pub seed: u64,
    /// Calls that run at the same time, and that wait beyond them.
    pub slots: Option<(u32, u32)>,
    /// Trouble between two seconds after the first call.
    pub trouble: Option<(f64, f64, Trouble)>,
    /// Tokens that a reply tells in all, at least and at most; as many as [`work::REPLY_TOKENS`] where it is not said.
    pub tokens: Option<(u32, u32)>,
}

impl Plan {
    /// A limit of so many calls a minute.
    pub fn of(rpm: f64, hints: Hints, seed: u64) -> Self {
        let takes = (0.08, 0.25);
        Self { rates: vec![(0.0, rpm)], hints, takes, seed, slots: None, trouble: None, tokens: None }
    }

    /// Calls a second at that second.
    fn rate(&self, at: f64) -> Option<f64> {
        self.rates.iter().rev().find(|(from, _)| *from <= at).map(|(_, rpm)| rpm / 60.0)
    }

    /// Calls that the rate allows between two seconds.
    pub fn capacity(&self, from: f64, to: f64) -> f64 {
        let ends = self.rates.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
        let part =
            |((begin, rpm), end): (&(f64, f64), f64)| (end.min(to) - begin.max(from)).max(0.0) * rpm / 60.0;
        self.rates.iter().zip(ends).map(part).sum()
    }

    /// Calls that may come at once at the beginning.
    pub fn burst(&self) -> f64 {
        self.rate(0.0).map_or(0.0, |rate| rate * BURST_SECS)
    }
}

/// What the bucket holds: seconds of the rate.
const BURST_SECS: f64 = 2.0;

/// One call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Came {
    /// Seconds after the first.
    pub at: f64,
    /// It was taken.
    pub taken: bool,
    /// Calls that were worked on when it came, it not among them.
    pub busy: u32,
    /// Tokens that its reply tells, if it has one.
    pub tokens: u32,
}

/// A running server; ends with this value.
#[derive(Debug)]
pub struct Limited {
    /// Where it listens, `http://HOST:PORT`.
    pub url: String,
    /// Its plan.
    pub plan: Plan,
    log: Arc<Mutex<Vec<Came>>>,
    _server: OnThread,
}

impl Limited {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// There is none.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (plan_there, log_there) = (plan.clone(), log.clone());
        let server = OnThread::start(1, move |_, listener| {
            let server = Rc::new(Server::new(plan_there.clone(), log_there.clone()));
            let answer = move |request| {
                let server = server.clone();
                async move { server.answer(request).await }
            };
            tokio::task::spawn_local(serving::accept(listener, answer));
        })?;
        let url = format!("http://{}", server.addresses[0]);
        Ok(Self { url, plan, log, _server: server })
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Came> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Server {
    plan: Plan,
    log: Arc<Mutex<Vec<Came>>>,
    state: RefCell<State>,
    slots: Semaphore,
    openai: Bytes,
    ollama: Bytes,
}

#[derive(Default)]
struct State {
    begun: Option<Instant>,
    level: f64,
    filled_at: f64,
    busy: u32,
    dice: u64,
}

/// What is decided when a call comes.
enum Fate {
    Taken(HeaderMap),
    Refused(StatusCode, HeaderMap),
    Silent,
}

/// A call that is worked on.
struct Busy<'a>(&'a Server);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().busy -= 1;
    }
}

impl Server {
    fn new(plan: Plan, log: Arc<Mutex<Vec<Came>>>) -> Self {
        let slots = plan.slots.map_or(Semaphore::MAX_PERMITS, |(slots, _)| slots as usize);
        let state = State { level: plan.burst(), dice: plan.seed | 1, ..State::default() };
        let answer = work::answer().to_string();
        let ollama = serde_json::json!({
            "model": "bench", "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": answer},
            "done": true, "done_reason": "stop", "prompt_eval_count": 120, "eval_count": 96,
        });
        Self {
            plan,
            log,
            state: RefCell::new(state),
            slots: Semaphore::new(slots),
            openai: work::reply(&work::answer()),
            ollama: Bytes::from(format!("{ollama}\n")),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/chat/completions") => self.openai.clone(),
            (&Method::POST, "/api/chat") => self.ollama.clone(),
            (&Method::GET, "/v1/models") => {
                return json(Bytes::from_static(br#"{"data":[{"id":"bench"}]}"#), HeaderMap::new());
            }
            (&Method::GET, "/api/tags") => {
                return json(Bytes::from_static(br#"{"models":[{"name":"bench"}]}"#), HeaderMap::new());
            }
            _ => return refusal(StatusCode::NOT_FOUND, HeaderMap::new()),
        };
        let tokens = self.tokens();
        let body = if tokens == work::REPLY_TOKENS { body } else { work::reply_of(&work::answer(), tokens) };
        let fate = self.decide(tokens);
        let _ = request.into_body().collect().await;
        match fate {
            Fate::Taken(headers) => {
                let _busy = Busy(self);
                // The semaphore is never closed.
                let Ok(_slot) = self.slots.acquire().await else {
                    return refusal(StatusCode::INTERNAL_SERVER_ERROR, headers);
                };
                let secs = self.roll();
                tokio::time::sleep(Duration::from_secs_f64(secs)).await;
                json(body, headers)
            }
            Fate::Refused(status, headers) => refusal(status, headers),
            Fate::Silent => std::future::pending().await,
        }
    }

    fn tokens(&self) -> u32 {
        let Some((least, most)) = self.plan.tokens else { return work::REPLY_TOKENS };
        least + (f64::from(most - least) * self.part()) as u32
    }

    fn roll(&self) -> f64 {
        let (least, most) = self.plan.takes;
        least + (most - least) * self.part()
    }

    /// From 0 to 1.
    fn part(&self) -> f64 {
        let mut state = self.state.borrow_mut();
        state.dice ^= state.dice << 13;
        state.dice ^= state.dice >> 7;
        state.dice ^= state.dice << 17;
        (state.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn decide(&self, tokens: u32) -> Fate {
        let mut state = self.state.borrow_mut();
        let at = state.begun.get_or_insert_with(Instant::now).elapsed().as_secs_f64();
        let (fate, busy) = (self.fate(&mut state, at), state.busy);
        let taken = matches!(fate, Fate::Taken(_));
        if taken {
            state.busy += 1;
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Came { at, taken, busy, tokens });
        fate
    }

    fn fate(&self, state: &mut State, at: f64) -> Fate {
        let mut headers = HeaderMap::new();
        if let Some((from, to, trouble)) = self.plan.trouble
            && (from..to).contains(&at)
        {
            return match trouble {
                Trouble::TooMany => Fate::Refused(StatusCode::TOO_MANY_REQUESTS, headers),
                Trouble::Unavailable => Fate::Refused(StatusCode::SERVICE_UNAVAILABLE, headers),
                Trouble::Silence => Fate::Silent,
            };
        }
        if self.plan.slots.is_some_and(|(slots, queue)| state.busy >= slots + queue) {
            return Fate::Refused(StatusCode::SERVICE_UNAVAILABLE, headers);
        }
        let Some(rate) = self.plan.rate(at) else { return Fate::Taken(headers) };
        let burst = rate * BURST_SECS;
        state.level = (state.level + (at - state.filled_at) * rate).min(burst);
        state.filled_at = at;
        let taken = state.level >= 1.0;
        if taken {
            state.level -= 1.0;
        }
        if self.plan.hints == Hints::Headers {
            let reset = Duration::from_secs_f64((burst - state.level).max(0.0) / rate);
            for (name, value) in [
                ("x-ratelimit-limit-requests", format!("{:.0}", rate * 60.0)),
                ("x-ratelimit-remaining-requests", format!("{:.0}", state.level.floor())),
                ("x-ratelimit-reset-requests", format!("{}ms", reset.as_millis())),
            ] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
        if taken {
            return Fate::Taken(headers);
        }
        if self.plan.hints != Hints::None {
            let secs = ((1.0 - state.level) / rate).ceil();
            headers.insert(RETRY_AFTER, HeaderValue::from(secs as u32));
        }
        Fate::Refused(StatusCode::TOO_MANY_REQUESTS, headers)
    }
}

fn json(body: Bytes, headers: HeaderMap) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.headers_mut() = headers;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, headers: HeaderMap) -> Response<Full<Bytes>> {
    let mut response = json(Bytes::from_static(br#"{"error":{"message":"not now"}}"#), headers);
    *response.status_mut() = status;
    response
}
