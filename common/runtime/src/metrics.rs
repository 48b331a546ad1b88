//! What is counted, for Prometheus.
//!
//! Labels never hold what a client wrote: they are fixed words, names of the configured providers, and route patterns. What an item
//! or a call adds costs a few atomic additions. Gauges that only the store can tell are set by [`Metrics::refresh`] at a scrape.

mod calls;
mod gauges;
mod lanes;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use promptmill_domain::{FailureKind, ItemCode, Money, Totals};
use promptmill_ports::LaneReport;

pub(crate) use calls::CountedProvider;
use gauges::Gauges;
use lanes::LaneGauges;

/// Upper bounds of the seconds a provider call takes.
const CALL_SECONDS: [f64; 17] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Upper bounds of the seconds until an item's end is recorded.
const SETTLE_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Upper bounds of the seconds of an HTTP request.
const HTTP_SECONDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Upper bounds of the seconds from a tick to its batch.
const LAG_SECONDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Methods that are told apart; a client may make up any other.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// The metrics of one process. Names begin with `promptmill_`; labels never hold what a client wrote.
pub struct Metrics {
    registry: Registry,
    succeeded: IntCounter,
    repaired: IntCounter,
    /// By the stored number of the kind.
    failed: Vec<IntCounter>,
    cancelled: IntCounter,
    expired: IntCounter,
    settle_seconds: Histogram,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    calls_in_flight: IntGauge,
    prompt_tokens: IntCounter,
    completion_tokens: IntCounter,
    cost_dollars: Counter,
    cached_replies: IntCounter,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
    webhook_attempts: IntCounterVec,
    ticks: IntCounterVec,
    tick_lag_seconds: Histogram,
    open_ticks: IntGaugeVec,
    gauges: Gauges,
    lanes: LaneGauges,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let at = &registry;
        let items = counters(
            at,
            "promptmill_items_total",
            "Items that got their outcome, by outcome and, where they failed, by reason; succeeded after a repair has the reason repaired.",
            &["outcome", "reason"],
        );
        let item = |outcome, reason| items.with_label_values(&[outcome, reason]);
        let tokens = counters(
            at,
            "promptmill_tokens_total",
            "Tokens as the providers reported them, by kind: prompt or completion.",
            &["kind"],
        );
        let build = IntGaugeVec::new(
            Opts::new("promptmill_build_info", "The version that runs; always 1."),
            &["version"],
        );
        let build = registered(at, build);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            succeeded: item("succeeded", ""),
            repaired: item("succeeded", "repaired"),
            failed: FailureKind::ALL.iter().map(|kind| item("failed", kind.as_str())).collect(),
            cancelled: item("cancelled", ""),
            expired: item("expired", ""),
            settle_seconds: registered(
                at,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "promptmill_settle_duration_seconds",
                        "Seconds from an item's end to its outcome being stored.",
                    )
                    .buckets(SETTLE_SECONDS.to_vec()),
                ),
            ),
            calls: counters(
                at,
                "promptmill_calls_total",
                "Provider calls that are over, by provider and result: ok, a kind of failure, or abandoned.",
                &["provider", "result"],
            ),
            call_seconds: histograms(
                at,
                "promptmill_call_duration_seconds",
                "Seconds a provider call took, whatever its result.",
                "provider",
                &CALL_SECONDS,
            ),
            calls_in_flight: gauge(at, "promptmill_calls_in_flight", "Provider calls under way."),
            prompt_tokens: tokens.with_label_values(&["prompt"]),
            completion_tokens: tokens.with_label_values(&["completion"]),
            cost_dollars: registered(
                at,
                Counter::new(
                    "promptmill_cost_dollars_total",
                    "Cost of calls in US dollars, as the providers reported it.",
                ),
            ),
            cached_replies: registered(
                at,
                IntCounter::new(
                    "promptmill_cached_replies_total",
                    "Items whose reply the cache gave, without a call.",
                ),
            ),
            http_requests: counters(
                at,
                "promptmill_http_requests_total",
                "HTTP requests that were answered, by pattern of the route, method and status.",
                &["route", "method", "status"],
            ),
            http_seconds: histograms(
                at,
                "promptmill_http_request_duration_seconds",
                "Seconds until the head of the answer to an HTTP request was ready.",
                "route",
                &HTTP_SECONDS,
            ),
            webhook_attempts: counters(
                at,
                "promptmill_webhook_attempts_total",
                "Tries to deliver a webhook, by result.",
                &["result"],
            ),
            ticks: counters(
                at,
                "promptmill_schedule_ticks_total",
                "Ticks of schedules, by what became of them: started, overlaps, replaced, budget, paused, missed or failed.",
                &["result"],
            ),
            tick_lag_seconds: registered(
                at,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "promptmill_schedule_lag_seconds",
                        "Seconds from when a scheduled batch was to begin until it was queued.",
                    )
                    .buckets(LAG_SECONDS.to_vec()),
                ),
            ),
            open_ticks: gauges_by(
                at,
                "promptmill_schedule_open_ticks",
                "Ticks of schedules that are not over, by state, due or running, as the scheduler that leads sees them.",
                "state",
            ),
            gauges: Gauges::new(at),
            lanes: LaneGauges::new(at),
            registry,
        }
    }

    /// Where they are gathered from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in the text format 0.0.4 of Prometheus (`text/plain; version=0.0.4`). Call [`Metrics::refresh`] before.
    pub fn gather_text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            // Writing into memory fails only for a family without a metric, which the registry leaves out.
            tracing::error!(error = %error, "the metrics could not be written");
            String::new()
        })
    }

    /// Sets the gauges of lanes to what this process knows of them.
    pub fn tell_lanes(&self, lanes: &[LaneReport]) {
        self.lanes.set(lanes);
    }

    /// An item got its outcome; an open one counts nothing.
    pub fn item_settled(&self, code: ItemCode) {
        self.items_settled(code, 1);
    }

    /// So many items got the same outcome.
    pub fn items_settled(&self, code: ItemCode, items: u64) {
        let counter = match code {
            ItemCode::Open => return,
            ItemCode::Succeeded => &self.succeeded,
            ItemCode::Repaired => &self.repaired,
            ItemCode::Failed(kind) => &self.failed[kind as usize],
            ItemCode::Cancelled => &self.cancelled,
            ItemCode::Expired => &self.expired,
        };
        counter.inc_by(items);
    }

    /// An item's outcome was stored this long after its end.
    pub fn settle_took(&self, took: Duration) {
        self.settle_seconds.observe(took.as_secs_f64());
    }

    /// A provider call is over: `None` for a complete reply, else why there is none. Calls through the providers of an
    /// [`Engine`](crate::Engine) are counted already.
    pub fn call(&self, provider: &str, failure: Option<FailureKind>, took: Duration) {
        let result = failure.map_or(calls::OK, FailureKind::as_str);
        self.calls.with_label_values(&[provider, result]).inc();
        self.call_seconds.with_label_values(&[provider]).observe(took.as_secs_f64());
    }

    /// Calls used tokens and cost money. Calls through the providers of an [`Engine`](crate::Engine) are counted already.
    pub fn spent(&self, totals: &Totals) {
        self.prompt_tokens.inc_by(totals.tokens.prompt);
        self.completion_tokens.inc_by(totals.tokens.completion);
        if totals.cost != Money::ZERO {
            self.cost_dollars.inc_by(dollars(totals.cost));
        }
    }

    /// The cache gave so many replies.
    pub fn cached(&self, replies: u64) {
        self.cached_replies.inc_by(replies);
    }

    /// An HTTP request was answered. `route` is the pattern that matched (`/v1/batches/{id}`), or a fixed word where none did.
    pub fn http(&self, route: &str, method: &str, status: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        // Clients choose among a few dozen statuses of ours at most.
        let mut digits = [0; 3];
        let status = status_label(status, &mut digits);
        self.http_requests.with_label_values(&[route, method, status]).inc();
        self.http_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// A try to deliver a webhook is over. `result` is one of a few words: `delivered`, or the class of what went wrong.
    pub fn webhook(&self, result: &'static str) {
        self.webhook_attempts.with_label_values(&[result]).inc();
    }
}

impl Metrics {
    /// So many ticks of schedules came to that: `started`, `overlaps`, `replaced`, `budget`, `paused`, `missed` or `failed`.
    pub fn ticks(&self, result: &'static str, ticks: u64) {
        self.ticks.with_label_values(&[result]).inc_by(ticks);
    }

    /// A scheduled batch was queued so long after it was to begin.
    pub fn tick_started_after(&self, lag: Duration) {
        self.ticks("started", 1);
        self.tick_lag_seconds.observe(lag.as_secs_f64());
    }

    /// So many ticks are due and running.
    pub fn tell_ticks(&self, due: usize, running: usize) {
        for (state, ticks) in [("due", due), ("running", running)] {
            self.open_ticks.with_label_values(&[state]).set(i64::try_from(ticks).unwrap_or(i64::MAX));
        }
    }
}

/// The three digits of an HTTP status.
fn status_label(status: u16, digits: &mut [u8; 3]) -> &str {
    let mut rest = status.min(999);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    std::str::from_utf8(digits).unwrap_or("000")
}

/// Dollars as the inexact number a metric holds.
fn dollars(money: Money) -> f64 {
    money.pico() as f64 / 1e12
}

/// Registers a collector of ours. Both steps fail only for a wrong or repeated name or label, and all of those are constants here.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("the names and labels of our metrics are valid");
    registry.register(Box::new(collector.clone())).expect("no name of ours is registered twice");
    collector
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(registry: &Registry, name: &str, help: &str, label: &str, bounds: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
    registered(registry, HistogramVec::new(options, &[label]))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

fn gauges_by(registry: &Registry, name: &str, help: &str, label: &str) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label]))
}

#[cfg(test)]
mod tests;
