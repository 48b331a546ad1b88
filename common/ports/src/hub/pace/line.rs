//! The calls of one process on a lane: those that wait for leave, the leave that is there for them, those under way, and what those that
//! ended are to be told with.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use promptmill_domain::rate::{Ask, CallEnd, Ended, Moment, RateHints};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Exchanged, NotNow, Told};
use crate::hub_ports::PermitEnd;

/// How long leave may be used since it was asked for, and since it came at least.
const BLOCK_LIVES: Duration = Duration::from_millis(200);
const BLOCK_LIVES_AT_LEAST: Duration = Duration::from_millis(50);

/// The most leave that is asked for at once, and the part of a second whose worth it is.
const LARGEST_BLOCK: f64 = 20.0;
const BLOCK_SECS: f64 = 0.1;

/// How long it is taken for true that calls need no leave.
const FREE_FOR: Duration = Duration::from_secs(1);

/// How long what calls came to is gathered: where it is as usual, and where the provider told of its limits.
const GATHERS: Duration = Duration::from_millis(100);
const GATHERS_NEWS: Duration = Duration::from_millis(10);

/// How often a lane in use is told of anyway.
const BEAT: Duration = Duration::from_millis(500);

/// How often it is looked at while it is not in use here: others may use it.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// A call is late that takes longer than this, and than several times what calls take on average.
const LATE: Duration = Duration::from_secs(10);
const LATENCIES: u32 = 8;
/// The same where nothing is known of how long they take.
const LATE_IF_UNKNOWN: Duration = Duration::from_secs(60);

/// What is remembered of calls that ended while the desk was away.
const MOST_ENDS: usize = 10_000;

/// The line of one process.
#[derive(Default)]
pub(super) struct Line {
    /// Interactive calls, and others.
    waiting: [VecDeque<Waiting>; 2],
    /// Leave that may be used until then, by its numbers.
    stock: VecDeque<u64>,
    stock_until: Option<Instant>,
    tokens_each: u32,
    free_until: Option<Instant>,
    /// When asking may bring leave.
    again_at: Option<Instant>,
    known: Option<(Instant, Exchanged)>,
    ends: Vec<Ended>,
    unused: u32,
    /// Calls under way, by when they began and the how-many-th of this process they are.
    running: BTreeMap<(Instant, u64), Running>,
    calls: u64,
    late: u32,
    told_at: Option<Instant>,
    /// Something is to be told now, or after a moment.
    is_urgent: bool,
    is_news: bool,
}

/// A call under way.
#[derive(Debug, Clone, Copy)]
struct Running {
    nth: u64,
    at: Moment,
    /// Calls that ran when it began, it among them.
    among: u32,
    is_late: bool,
}

pub(super) struct Waiting {
    pub(super) now_ms: u64,
    pub(super) tokens: u32,
    pub(super) answer: oneshot::Sender<Result<Begun, NotNow>>,
}

/// Leave that was given to a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Zero where none was needed.
    nth: u64,
    at: Moment,
    among: u32,
    call: (Instant, u64),
    tokens: u32,
}

impl Line {
    fn may_begin(&self, now: Instant) -> bool {
        self.free_until.is_some_and(|until| now < until)
            || (!self.stock.is_empty() && self.stock_until.is_some_and(|until| now < until))
    }

    /// Lets one begin, if there is leave.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Begun> {
        if !self.may_begin(now) {
            return None;
        }
        let (at, known) = self.known.as_ref()?;
        let at = known.now.after(now.saturating_duration_since(*at));
        let nth = self.stock.pop_front().unwrap_or(0);
        self.calls += 1;
        let among = self.running().saturating_add(1);
        self.running.insert((now, self.calls), Running { nth, at, among, is_late: false });
        Some(Begun {
            nth,
            at,
            among,
            call: (now, self.calls),
            tokens: if nth == 0 { 0 } else { self.tokens_each },
        })
    }

    fn running(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// The call is over, or was never made.
    fn leaves(&mut self, begun: &Begun) {
        if self.running.remove(&begun.call).is_some_and(|running| running.is_late) {
            self.late -= 1;
        }
    }

    /// Tells of calls that became late.
    fn look_for_late(&mut self, now: Instant) {
        let latency = self.known.as_ref().and_then(|(_, known)| known.view.latency);
        let late = latency.map_or(LATE_IF_UNKNOWN, |latency| LATE.max(latency * LATENCIES));
        let running = self.running();
        let (mut found, ends) = (0, &mut self.ends);
        for ((since, _), call) in &mut self.running {
            let took = now.saturating_duration_since(*since);
            if took < late {
                break;
            }
            if !std::mem::replace(&mut call.is_late, true) {
                found += 1;
                let (hints, end) = (RateHints::default(), CallEnd::Late);
                ends.push(Ended {
                    nth: call.nth,
                    begun: call.at,
                    took,
                    among: call.among,
                    running,
                    end,
                    hints,
                    tokens_more: 0,
                });
            }
        }
        self.late += found;
    }

    fn forget_the_gone(&mut self) {
        for queue in &mut self.waiting {
            queue.retain(|waiting| !waiting.answer.is_closed());
        }
    }

    /// How many wait.
    pub(super) fn waits(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// When the keeper should speak next.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let told_at = self.told_at.unwrap_or(now);
        let is_idle = self.running.is_empty() && self.waits() == 0;
        let mut due = match self.known {
            Some(_) => told_at + if is_idle { IDLE_BEAT } else { BEAT },
            None => now,
        };
        let mut by = |at: Instant| due = due.min(at);
        if self.is_urgent {
            by(now);
        }
        if self.is_news {
            by(told_at + GATHERS_NEWS);
        }
        if !self.ends.is_empty() || self.unused > 0 {
            by(told_at + GATHERS);
        }
        if self.waits() > 0 && !self.may_begin(now) {
            by(self.again_at.unwrap_or(now));
        }
        if let Some(until) = self.stock_until.filter(|_| !self.stock.is_empty()) {
            by(until);
        }
        due
    }

    /// What is to be said now.
    pub(super) fn speak(&mut self, now: Instant) -> (Told, Ask) {
        self.forget_the_gone();
        self.look_for_late(now);
        if self.stock_until.is_some_and(|until| until <= now) {
            self.drop_stock();
        }
        self.told_at = Some(now);
        (self.is_urgent, self.is_news) = (false, false);
        let told = Told {
            ends: std::mem::take(&mut self.ends),
            unused: std::mem::take(&mut self.unused),
            tokens_each: self.tokens_each,
            running: self.running(),
            late: self.late,
        };
        (told, self.ask(now))
    }

    fn drop_stock(&mut self) {
        self.unused = self.unused.saturating_add(u32::try_from(self.stock.len()).unwrap_or(u32::MAX));
        self.stock.clear();
    }

    fn ask(&self, now: Instant) -> Ask {
        let waiting = if self.may_begin(now) { 0 } else { self.waits() };
        if waiting == 0 {
            return Ask::default();
        }
        let per_s = self.known.as_ref().and_then(|(_, known)| known.view.allowed_per_s);
        let block =
            per_s.map_or(LARGEST_BLOCK, |rate| (rate * BLOCK_SECS).clamp(1.0, LARGEST_BLOCK)) as usize;
        let interactive = self.waiting[0].len().min(block);
        let others = self.waiting[1].len().min(block - interactive);
        let first = self.waiting.iter().flatten().take(block);
        let tokens: u64 = first.map(|waiting| u64::from(waiting.tokens)).sum();
        let tokens_each = tokens / (interactive + others).max(1) as u64;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Ask {
            interactive: number(interactive),
            others: number(others),
            tokens_each: u32::try_from(tokens_each).unwrap_or(u32::MAX),
        }
    }

    /// Lets those who wait begin, as far as there is leave.
    fn let_go(&mut self) {
        let now = Instant::now();
        while self.may_begin(now) {
            let mut queues = self.waiting.iter_mut();
            let Some(waiting) = queues.find_map(VecDeque::pop_front) else { return };
            if waiting.answer.is_closed() {
                continue;
            }
            let Some(begun) = self.begin(now) else { return };
            if waiting.answer.send(Ok(begun)).is_err() {
                self.leaves(&begun);
                if begun.nth > 0 {
                    self.stock.push_front(begun.nth);
                }
            }
        }
    }

    /// One more waits.
    pub(super) fn join(&mut self, is_interactive: bool, waiting: Waiting) {
        self.waiting[usize::from(!is_interactive)].push_back(waiting);
        if is_interactive {
            // What is kept for it may be there already.
            self.again_at = None;
        }
    }

    /// The last of those who wait that is not interactive; it waits no longer.
    pub(super) fn last(&mut self) -> Option<Waiting> {
        std::iter::from_fn(|| self.waiting[1].pop_back()).find(|waiting| !waiting.answer.is_closed())
    }

    /// Those who wait and would begin before that moment; they wait no longer.
    pub(super) fn who_is_early(&mut self, until_ms: u64) -> Vec<Waiting> {
        let mut early = Vec::new();
        for queue in &mut self.waiting {
            let (before, others): (VecDeque<_>, _) =
                queue.drain(..).partition(|waiting| waiting.now_ms < until_ms);
            *queue = others;
            early.extend(before);
        }
        early
    }

    /// What the desk answered last, and when.
    pub(super) fn known(&self) -> Option<(Instant, Exchanged)> {
        self.known
    }

    /// A permit came to its end. Answers whether the keeper should look.
    pub(super) fn end(&mut self, begun: &Begun, end: PermitEnd) -> bool {
        let running = self.running();
        self.leaves(begun);
        let (end, hints, tokens) = match end {
            PermitEnd::Unused => {
                if begun.nth > 0 {
                    // Who waits takes it at once, or it is given back when its time is over.
                    self.stock.push_front(begun.nth);
                }
                self.let_go();
                return true;
            }
            PermitEnd::GivenUp => (CallEnd::Unknown, RateHints::default(), None),
            PermitEnd::Ended(report) => (report.end, report.hints, report.tokens),
        };
        let reserved = i64::from(begun.tokens);
        let tokens_more = match (end, tokens) {
            (_, Some(tokens)) => i64::try_from(tokens).unwrap_or(i64::MAX).saturating_sub(reserved),
            // A call that was refused took none.
            (CallEnd::TooOften { .. } | CallEnd::TooMany { .. }, None) => -reserved,
            // What nobody told of may have been taken all the same.
            (CallEnd::Taken | CallEnd::Away | CallEnd::Late | CallEnd::Unknown, None) => 0,
        };
        let was_quiet = self.ends.is_empty();
        if self.ends.len() < MOST_ENDS {
            let took = begun.call.0.elapsed();
            let (nth, begun, among) = (begun.nth, begun.at, begun.among);
            self.ends.push(Ended { nth, begun, took, among, running, end, hints, tokens_more });
        }
        self.is_urgent |= !matches!(end, CallEnd::Taken | CallEnd::Unknown);
        let becomes_news = !self.is_news && !hints.is_empty();
        self.is_news |= becomes_news;
        was_quiet || self.is_urgent || becomes_news
    }

    /// Takes an answer of the desk in that was asked for at `asked_at`, with so many tokens for each call.
    pub(super) fn apply(&mut self, asked_at: Instant, tokens_each: u32, exchanged: Exchanged) {
        let now = Instant::now();
        if exchanged.grant.calls > 0 {
            self.drop_stock();
            let first = exchanged.grant.first;
            self.stock = (first..first + u64::from(exchanged.grant.calls)).collect();
            // However long the answer took, who waits must come to use it.
            self.stock_until = Some((asked_at + BLOCK_LIVES).max(now + BLOCK_LIVES_AT_LEAST));
            self.tokens_each = tokens_each;
        }
        self.free_until = exchanged.is_free.then(|| asked_at + FREE_FOR);
        self.again_at = exchanged.grant.again_at.map(|at| now + at.since(exchanged.now));
        self.known = Some((now, exchanged));
        self.let_go();
    }

    /// The desk is away: what was told counts as not told, and nobody waits any longer. Answers those who did.
    pub(super) fn is_away(&mut self, told: Told) -> Vec<Waiting> {
        self.unused = self.unused.saturating_add(told.unused);
        let mut ends = told.ends;
        ends.append(&mut self.ends);
        ends.truncate(MOST_ENDS);
        self.ends = ends;
        self.free_until = None;
        self.waiting.iter_mut().flat_map(|queue| queue.drain(..)).collect()
    }
}
