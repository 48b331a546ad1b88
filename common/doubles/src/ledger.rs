//! The ledger: what arrived, what it met and what left completely, counted under one lock.
//!
//! A reply counts as sent in the same locked moment in which its last byte is given to the kernel. So whoever has
//! read a reply finds it in the ledger, and a caller that died first is not counted as served.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::plan::Step;
use crate::record::{CallRecord, MarkerRecord, Snapshot, Totals};

/// Refusals kept with their reason.
const REFUSALS_KEPT: usize = 32;
/// A timer may fire this much before the pause's end as we computed it.
const PAUSE_TOLERANCE: Duration = Duration::from_millis(5);

/// A handle on a double's ledger; clones share it.
#[derive(Debug, Clone)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
    early_grace: Duration,
}

#[derive(Debug)]
struct State {
    epoch: Instant,
    generation: u64,
    seq: u64,
    totals: Totals,
    rows: HashMap<Arc<str>, Row>,
    /// Positions of bodies without a marker, kept only while a plan makes faults.
    bodies: HashMap<u64, Position>,
    pauses: HashMap<u64, Pause>,
    refusals: Vec<String>,
}

#[derive(Debug, Default)]
struct Row {
    position: Position,
    record: MarkerRecord,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    nth: u32,
    run: u32,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Instant,
    until: Instant,
}

/// Who calls, as far as the ledger cares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) marker: Option<&'a str>,
    /// Hash of the body, to tell calls without a marker apart; `None` where nothing depends on it.
    pub(crate) body: Option<u64>,
    pub(crate) repair: bool,
    /// Hash of provider and key.
    pub(crate) credential: u64,
}

/// What is recorded when the reply has left completely.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delivery {
    pub(crate) ok: bool,
    pub(crate) valid: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) cost_pico: u64,
    /// The credential that is asked to pause, and for how long.
    pub(crate) pause: Option<(u64, Duration)>,
}

/// One call that is running; dropping it ends the call as undelivered.
#[derive(Debug)]
pub(crate) struct RunningCall {
    ledger: Ledger,
    generation: u64,
    seq: u64,
    place: Option<(Arc<str>, usize)>,
    pub(crate) delivery: Delivery,
    sent: bool,
}

impl Ledger {
    pub(crate) fn new(early_grace: Duration) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(0))), early_grace }
    }

    /// Everything, with each marker's history.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_with(true, true)
    }

    /// The sums alone.
    pub fn totals(&self) -> Totals {
        self.lock().totals.clone()
    }

    /// What is known of one marker; all zero for one never seen.
    pub fn marker(&self, marker: &str) -> MarkerRecord {
        self.lock().rows.get(marker).map(|row| row.record.clone()).unwrap_or_default()
    }

    /// Forgets everything, scripts' positions and pauses included. Calls still running are not counted when they end.
    pub fn reset(&self) {
        let mut state = self.lock();
        *state = State::new(state.generation + 1);
    }

    pub(crate) fn snapshot_with(&self, markers: bool, history: bool) -> Snapshot {
        let state = self.lock();
        let mut copies = BTreeMap::new();
        if markers {
            for (marker, row) in &state.rows {
                let mut record = MarkerRecord { history: Vec::new(), ..row.record.clone() };
                if history {
                    record.history.clone_from(&row.record.history);
                }
                copies.insert(marker.to_string(), record);
            }
        }
        Snapshot { totals: state.totals.clone(), markers: copies, refusals: state.refusals.clone() }
    }

    /// Records a call and what it meets: `decide` is told how many calls its marker made before and how many
    /// transient faults in a row it has just had.
    pub(crate) fn begin(
        &self,
        arrival: Arrival<'_>,
        decide: impl FnOnce(u32, u32) -> Step,
    ) -> (RunningCall, Step) {
        let now = Instant::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        let early = state.pauses.get(&arrival.credential).is_some_and(|pause| {
            now >= pause.since + self.early_grace && now + PAUSE_TOLERANCE < pause.until
        });
        let mut unknown = Position::default();
        let mut row = arrival.marker.map(|marker| state.rows.entry(marker.into()).or_default());
        let position = match (&mut row, arrival.body) {
            (Some(row), _) => &mut row.position,
            (None, Some(body)) => state.bodies.entry(body).or_default(),
            (None, None) => &mut unknown,
        };
        let step = decide(position.nth, position.run);
        position.nth += 1;
        let fault = match &step {
            Step::Fault(fault) => Some(*fault),
            Step::Clean | Step::Say(_) => None,
        };
        position.run =
            if fault.is_some_and(|fault| !fault.leaves_valid_reply()) { position.run + 1 } else { 0 };

        let seq = state.seq;
        state.seq += 1;
        let totals = &mut state.totals;
        *(if arrival.repair { &mut totals.repair_calls } else { &mut totals.calls }) += 1;
        totals.unmarked_calls += u64::from(row.is_none());
        totals.early_calls += u64::from(early);
        totals.in_flight += 1;
        totals.max_concurrent = totals.max_concurrent.max(totals.in_flight);
        count(&mut totals.faults, fault);
        let place = row.map(|row| {
            let record = &mut row.record;
            *(if arrival.repair { &mut record.repair_calls } else { &mut record.calls }) += 1;
            record.early_calls += u64::from(early);
            let again = u64::from(record.valid_replies > 0);
            record.calls_after_valid += again;
            totals.calls_after_valid += again;
            count(&mut record.faults, fault);
            let begun_us = micros(now - state.epoch);
            let fault = fault.map(|fault| fault.name().to_owned());
            let call =
                CallRecord { seq, begun_us, ended_us: None, repair: arrival.repair, fault, sent: false };
            record.history.push(call);
            record.history.len() - 1
        });
        let place = place.zip(arrival.marker).map(|(at, marker)| (marker.into(), at));
        let generation = state.generation;
        drop(guard);
        let delivery = Delivery::default();
        (RunningCall { ledger: self.clone(), generation, seq, place, delivery, sent: false }, step)
    }

    /// Records that a request was refused for what it is.
    pub(crate) fn refuse(&self, reason: String) {
        let mut state = self.lock();
        state.totals.refused += 1;
        if state.refusals.len() < REFUSALS_KEPT {
            state.refusals.push(reason);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningCall {
    /// Its position among all calls.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Runs `write`, which says whether it wrote the last bytes of the reply, and records the delivery if it did,
    /// with no moment in between in which the ledger could be read. Gives the call back when it is not over.
    pub(crate) fn deliver<T>(mut self, write: impl FnOnce() -> (bool, T)) -> (Option<Self>, T) {
        let ledger = self.ledger.clone();
        let mut state = ledger.lock();
        let (over, written) = write();
        if !over {
            return (Some(self), written);
        }
        self.sent = true;
        self.end(&mut state);
        drop(state);
        (None, written)
    }

    fn end(&self, state: &mut State) {
        if state.generation != self.generation {
            return;
        }
        let now = Instant::now();
        let Delivery { ok, valid, prompt_tokens, completion_tokens, cost_pico, pause } = self.delivery;
        state.totals.in_flight -= 1;
        let record = self.place.as_ref().and_then(|(marker, at)| Some((state.rows.get_mut(marker)?, *at)));
        let mut unknown = MarkerRecord::default();
        let record = match record {
            Some((row, at)) => {
                if let Some(call) = row.record.history.get_mut(at) {
                    call.ended_us = Some(micros(now - state.epoch));
                    call.sent = self.sent;
                }
                &mut row.record
            }
            None => &mut unknown,
        };
        if !self.sent {
            state.totals.undelivered += 1;
            record.undelivered += 1;
            return;
        }
        state.totals.replies_sent += u64::from(ok);
        state.totals.valid_replies += u64::from(valid);
        state.totals.prompt_tokens += prompt_tokens;
        state.totals.completion_tokens += completion_tokens;
        state.totals.cost_pico += cost_pico;
        record.replies_sent += u64::from(ok);
        record.valid_replies += u64::from(valid);
        record.prompt_tokens += prompt_tokens;
        record.completion_tokens += completion_tokens;
        if let Some((credential, length)) = pause {
            let until = now + length;
            let pause = state.pauses.entry(credential).or_insert(Pause { since: now, until });
            // A pause that is over makes room for the new one; a second one inside it only moves its end.
            if pause.until < now {
                *pause = Pause { since: now, until };
            }
            pause.until = pause.until.max(until);
        }
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        if !self.sent {
            let ledger = self.ledger.clone();
            self.end(&mut ledger.lock());
        }
    }
}

impl State {
    fn new(generation: u64) -> Self {
        Self {
            epoch: Instant::now(),
            generation,
            seq: 0,
            totals: Totals::default(),
            rows: HashMap::new(),
            bodies: HashMap::new(),
            pauses: HashMap::new(),
            refusals: Vec::new(),
        }
    }
}

fn count(faults: &mut BTreeMap<String, u64>, fault: Option<Fault>) {
    if let Some(fault) = fault {
        *faults.entry(fault.name().to_owned()).or_default() += 1;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
