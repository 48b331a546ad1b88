//! Workers that share one lane: each asks for leave in blocks and tells what came of its calls, a little later.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::provider::{Answer, Provider};
use crate::rate::{Ask, CallEnd, Ended, LaneLimits, LaneState, Learned, Moment, RateHints};

/// How long leave may be used.
const BLOCK_LIVES: f64 = 0.2;

/// How long we wait for an answer.
const DEADLINE: f64 = 5.0;

/// What came of a run.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) taken: u64,
    pub(super) refused: u64,
    /// Calls by when they came to the provider, and whether they were taken.
    pub(super) calls: Vec<(f64, bool)>,
    provider: Provider,
    burst: f64,
}

impl Story {
    /// Calls that were taken, of those that could be.
    pub(super) fn used(&self) -> f64 {
        let taken: Vec<f64> = self.calls.iter().filter(|(_, taken)| *taken).map(|(at, _)| *at).collect();
        let (first, last) = (taken[0], taken[taken.len() - 1]);
        self.taken as f64 / (self.burst + self.provider.capacity(first, last))
    }

    /// The same between two moments, with nothing saved up at the first.
    pub(super) fn used_between(&self, from: f64, to: f64) -> f64 {
        let taken = self.calls.iter().filter(|(at, taken)| *taken && (from..to).contains(at)).count();
        taken as f64 / self.provider.capacity(from, to)
    }

    /// Calls that were refused, of all.
    pub(super) fn refused_part(&self) -> f64 {
        self.refused as f64 / (self.taken + self.refused) as f64
    }

    pub(super) fn calls_between(&self, from: f64, to: f64) -> usize {
        self.calls.iter().filter(|(at, _)| (from..to).contains(at)).count()
    }

    pub(super) fn refused_between(&self, from: f64, to: f64) -> f64 {
        let refused = self.calls.iter().filter(|(at, taken)| !taken && (from..to).contains(at)).count();
        refused as f64 / self.calls_between(from, to).max(1) as f64
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// A worker looks what it may do.
    Look(usize),
    /// A call comes to the provider.
    Arrive(usize),
    /// A call's answer comes to its worker.
    Answered(usize),
}

#[derive(Debug, Clone, Copy)]
struct Call {
    worker: usize,
    nth: u64,
    begun: f64,
    running: u32,
    answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct Worker {
    stock: u32,
    next: u64,
    stock_ends: f64,
    again_at: f64,
    ends: Vec<(f64, Ended)>,
    told_at: f64,
}

pub(super) struct Fleet {
    provider: Provider,
    lanes: Vec<LaneState>,
    workers: Vec<Worker>,
    calls: Vec<Call>,
    rows_left: u64,
    running: Vec<u32>,
    at_provider: u32,
    served_until: Vec<f64>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    what: HashMap<u64, Event>,
    numbers: u64,
    dice: u64,
    now: f64,
    pub(super) ends_at: f64,
    pub(super) forget_at: Option<f64>,
    log: Vec<(f64, bool)>,
}

impl Fleet {
    pub(super) fn new(provider: Provider, workers: usize, rows: u64, seed: u64) -> Self {
        let lane = LaneState::new(moment(0.0), LaneLimits::default(), &Learned::default());
        let served_until = vec![0.0; provider.slots.map_or(0, |(slots, _)| slots as usize)];
        let fleet = Self {
            provider,
            lanes: vec![lane],
            workers: (0..workers).map(|_| Worker::default()).collect(),
            calls: Vec::new(),
            rows_left: rows,
            running: vec![0],
            at_provider: 0,
            served_until,
            events: BinaryHeap::new(),
            what: HashMap::new(),
            numbers: 0,
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: 0.0,
            ends_at: f64::INFINITY,
            forget_at: None,
            log: Vec::new(),
        };
        fleet.begins_at(0.0)
    }

    /// The first rows come then.
    pub(super) fn begins_at(mut self, at: f64) -> Self {
        self.events.clear();
        for worker in 0..self.workers.len() {
            self.at(at + 0.002 * worker as f64, Event::Look(worker));
        }
        self
    }

    /// The workers have a lane each in turn, of so many that share the provider.
    pub(super) fn with_lanes(mut self, lanes: usize) -> Self {
        self.lanes = vec![self.lanes[0].clone(); lanes];
        self.running = vec![0; lanes];
        self
    }

    fn lane_of(&self, worker: usize) -> usize {
        worker % self.lanes.len()
    }

    fn at(&mut self, at: f64, event: Event) {
        self.numbers += 1;
        self.what.insert(self.numbers, event);
        self.events.push(Reverse(((at * 1e6) as u64, self.numbers)));
    }

    fn roll(&mut self, from: f64, to: f64) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        from + (to - from) * (self.dice >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn run(mut self) -> Story {
        let burst = self.provider.burst();
        while let Some(Reverse((at, number))) = self.events.pop() {
            self.now = at as f64 / 1e6;
            if self.now > self.ends_at {
                break;
            }
            match self.what.remove(&number).unwrap() {
                Event::Look(worker) => self.look(worker),
                Event::Arrive(call) => self.arrive(call),
                Event::Answered(call) => self.answered(call),
            }
        }
        let taken = self.log.iter().filter(|(_, taken)| *taken).count() as u64;
        let refused = self.log.len() as u64 - taken;
        Story { taken, refused, calls: self.log, provider: self.provider, burst }
    }

    fn look(&mut self, worker: usize) {
        self.use_stock(worker);
        self.speak(worker, false);
        if self.rows_left > 0 || self.at_provider > 0 || self.running.iter().any(|running| *running > 0) {
            let next = self.workers[worker].again_at.clamp(self.now + 0.001, self.now + 0.1);
            self.at(next, Event::Look(worker));
        }
    }

    /// Tells what came of calls, and asks for leave where rows wait.
    fn speak(&mut self, worker: usize, is_urgent: bool) {
        let lane = self.lane_of(worker);
        if self.forget_at.is_some_and(|at| self.now >= at) {
            self.forget_at = None;
            self.lanes[lane] = self.lanes[lane].clone().emptied(moment(self.now));
        }
        let waits = self.rows_left > 0
            && self.workers[worker].stock == 0
            && self.now >= self.workers[worker].again_at;
        let is_due = self.now - self.workers[worker].told_at >= 0.1 && !self.workers[worker].ends.is_empty();
        if !is_urgent && !waits && !is_due {
            return;
        }
        self.workers[worker].told_at = self.now;
        let now = moment(self.now);
        for (_, end) in std::mem::take(&mut self.workers[worker].ends) {
            self.lanes[lane].ended(now, &end);
        }
        if waits {
            let view = self.lanes[lane].view(now);
            let block = view.allowed_per_s.map_or(64.0, |rate| (rate * 0.1).clamp(1.0, 20.0)) as u64;
            let room = self.lanes[lane].window().unwrap_or(u32::MAX).saturating_sub(self.running[lane]);
            let others = block.min(self.rows_left).min(u64::from(room)) as u32;
            let grant = self.lanes[lane].grant(now, &Ask { others, ..Ask::default() });
            let state = &mut self.workers[worker];
            state.stock = grant.calls;
            state.next = grant.first;
            state.stock_ends = self.now + BLOCK_LIVES;
            state.again_at = grant.again_at.map_or(0.0, |at| at.micros() as f64 / 1e6);
            self.use_stock(worker);
        }
    }

    fn use_stock(&mut self, worker: usize) {
        let lane = self.lane_of(worker);
        while self.workers[worker].stock > 0
            && self.rows_left > 0
            && self.now < self.workers[worker].stock_ends
        {
            let nth = self.workers[worker].next;
            self.workers[worker].stock -= 1;
            self.workers[worker].next += 1;
            self.rows_left -= 1;
            self.running[lane] += 1;
            let running = self.running[lane];
            self.calls.push(Call { worker, nth, begun: self.now, running, answer: None });
            let way = self.roll(0.001, 0.01);
            self.at(self.now + way, Event::Arrive(self.calls.len() - 1));
        }
        if self.workers[worker].stock > 0 {
            self.lanes[lane].give_back(self.workers[worker].stock, 0);
            self.workers[worker].stock = 0;
        }
    }

    fn arrive(&mut self, call: usize) {
        self.at_provider += 1;
        let answer = self.provider.answer(self.now, self.at_provider);
        self.log.push((self.now, matches!(answer, Answer::Taken(_))));
        let way = self.roll(0.001, 0.01);
        let takes = match answer {
            Answer::Taken(_) => {
                let (from, to) = self.provider.takes;
                let takes = self.roll(from, to);
                if let Some(slot) = (0..self.served_until.len())
                    .min_by(|a, b| self.served_until[*a].total_cmp(&self.served_until[*b]))
                {
                    let done = self.served_until[slot].max(self.now) + takes;
                    self.served_until[slot] = done;
                    done - self.now
                } else {
                    takes
                }
            }
            Answer::Silence => DEADLINE,
            Answer::TooOften(..) | Answer::TooMany | Answer::Away => 0.0,
        };
        self.calls[call].answer = Some(answer);
        self.at(self.now + takes + way, Event::Answered(call));
    }

    fn answered(&mut self, call: usize) {
        self.at_provider -= 1;
        let Call { worker, nth, begun, running, answer } = self.calls[call];
        let lane = self.lane_of(worker);
        let (end, hints) = match answer.unwrap() {
            Answer::Taken(hints) => (CallEnd::Taken, hints),
            Answer::TooOften(hints, retry_after) => (CallEnd::TooOften { retry_after }, hints),
            Answer::TooMany => (CallEnd::TooMany { retry_after: None }, RateHints::default()),
            Answer::Away | Answer::Silence => (CallEnd::Away, RateHints::default()),
        };
        let ended = Ended {
            nth,
            begun: moment(begun),
            took: Duration::from_secs_f64(self.now - begun),
            among: running,
            running: self.running[lane],
            end,
            hints,
            tokens_more: 0,
        };
        self.running[lane] -= 1;
        if end != CallEnd::Taken {
            self.rows_left += 1;
        }
        let now = self.now;
        self.workers[worker].ends.push((now, ended));
        self.speak(worker, end != CallEnd::Taken || !hints.is_empty());
    }
}

fn moment(secs: f64) -> Moment {
    Moment::default().after(Duration::from_secs_f64(secs))
}
