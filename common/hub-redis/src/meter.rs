//! The state of a lane that learns, kept in Redis and shared by all hubs.
//!
//! Redis knows nothing of its meaning: a hub reads it, lets it learn and give leave, and writes it back if nobody else did meanwhile.
//! So the rules are the same as in one process, and Redis's clock is the lane's. A state that is gone is written again by the hub that
//! notices it, as that hub knew it last and with an empty bucket; one that no hub ever saw begins with what was learned before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::rate::{Ask, Grant, LaneLimits, LaneState, Learned, Moment};
use promptmill_ports::HubError;
use promptmill_ports::hub::pace::{Exchanged, PaceDesk, Told};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::lane::{HOLDS_FOR, Lane, Limit};
use crate::lanes::{Desk, LANE_KEPT_FOR};

/// How often a state that others write at the same time is read again.
const TRIES: u32 = 12;

/// Hubs guess Redis's clock between its answers, which may be wrong by less than this; if it is more, the clock was set back.
const CLOCK_WENT_BACK: Duration = Duration::from_secs(2);

/// For how long the calls of a hub that says nothing count as running.
const RUNNING_HOLDS_FOR: Duration = HOLDS_FOR.saturating_mul(2);

/// What is in Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shared {
    state: LaneState,
    /// The latest moment of Redis's clock at which it was changed.
    #[serde(default)]
    at: Moment,
    /// Calls that run, and those of them that are late, by hub, and when it said so.
    running: BTreeMap<String, (u32, u32, Moment)>,
}

/// A hub's view of it.
#[derive(Debug, Clone)]
struct Seen {
    version: String,
    shared: Shared,
}

/// Whether everything the state waits for would come that much too late.
fn clock_went_back(shared: &Shared, now: Moment) -> bool {
    shared.at.since(now) > CLOCK_WENT_BACK
}

/// The desk of one lane.
pub(crate) struct Meter {
    desk: Arc<Desk>,
    lane: Weak<Lane>,
    limits: LaneLimits,
    seen: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    seen: Option<Seen>,
    /// Redis's time at a moment of ours.
    clock: Option<(Instant, Moment)>,
    learned: Learned,
    /// Redis knows of no call of this hub.
    told_nothing: bool,
}

impl Meter {
    pub(crate) fn new(desk: Arc<Desk>, lane: &Arc<Lane>, limits: LaneLimits, learned: Learned) -> Self {
        let known = Known { learned, ..Known::default() };
        Self { desk, lane: Arc::downgrade(lane), limits, seen: Mutex::new(known) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Whole values are put in and taken out.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks Redis; remembers what is there. Answers whether it is `write`.
    async fn ask(&self, lane: &Lane, write: Option<(&str, &Shared)>) -> Result<bool, HubError> {
        let version = format!("{:016x}", rand::random::<u64>());
        let (expected, blob) = match write {
            Some((expected, shared)) => {
                let blob = serde_json::to_vec(shared).map_err(|error| HubError(error.into()))?;
                (expected.as_bytes().to_vec(), blob)
            }
            None => (vec![], vec![]),
        };
        let args = [expected, blob, version.clone().into(), LANE_KEPT_FOR.as_millis().to_string().into()];
        let (now, there, state): (u64, String, Vec<u8>) =
            self.desk.scripts.meter.call(&self.desk.link, &[&self.desk.meter_key(&lane.id)], &args).await?;
        let now = Moment::from_micros(now);
        let mut known = self.known();
        known.clock = Some((Instant::now(), now));
        if let Some((_, shared)) = write
            && there == version
        {
            known.learned = shared.state.learned();
            known.seen = Some(Seen { version, shared: shared.clone() });
            return Ok(true);
        }
        let shared = if state.is_empty() {
            self.after_loss(now, &known)
        } else {
            // What another version of this program wrote and we cannot read is written anew.
            serde_json::from_slice(&state).unwrap_or_else(|_| {
                tracing::warn!(lane = %lane.id, "what a lane learned could not be read and is learned anew");
                self.anew(now, &known.learned)
            })
        };
        known.learned = shared.state.learned();
        known.seen = Some(Seen { version: there, shared });
        Ok(false)
    }

    fn now(&self) -> Option<Moment> {
        self.known().clock.map(|(at, moment)| moment.after(at.elapsed()))
    }

    /// A state with nothing saved up.
    fn anew(&self, now: Moment, learned: &Learned) -> Shared {
        Shared { state: LaneState::new(now, self.limits, learned), at: now, running: BTreeMap::new() }
    }

    /// What Redis lost, as this hub knew it last, with nothing saved up.
    fn after_loss(&self, now: Moment, known: &Known) -> Shared {
        match &known.seen {
            Some(Seen { shared, .. }) if !clock_went_back(shared, now) => {
                Shared { state: shared.state.clone().emptied(now), ..shared.clone() }
            }
            _ => self.anew(now, &known.learned),
        }
    }

    fn step(&self, shared: &mut Shared, now: Moment, told: &Told, ask: &Ask) -> Grant {
        if clock_went_back(shared, now) {
            *shared = self.anew(now, &shared.state.learned());
        }
        shared.at = shared.at.max(now);
        let me = format!("{:016x}", u64::from_be_bytes(self.desk.hub));
        shared.running.retain(|_, (_, _, at)| now.since(*at) < RUNNING_HOLDS_FOR);
        shared.running.remove(&me);
        let others: u32 = shared.running.values().map(|(running, _, _)| running).sum();
        shared.state.set_limits(self.limits);
        for end in &told.ends {
            let mut end = *end;
            end.among = end.among.saturating_add(others);
            end.running = end.running.saturating_add(others);
            shared.state.ended(now, &end);
        }
        if told.running > 0 {
            shared.running.insert(me, (told.running, told.late, now));
        }
        shared.state.give_back(told.unused, told.tokens_each);
        shared.state.grant(now, ask)
    }

    /// Tells the fleet how many calls may run, where that changed by more than a little.
    async fn set_window(&self, lane: &Arc<Lane>, window: Option<u32>) -> Result<(), HubError> {
        let known = lane.known_limit().calls;
        let is_other = match (known, window) {
            (Some(known), Some(window)) => window < known || window - known > known / 16,
            (known, window) => known != window,
        };
        if is_other {
            let set_at = self.desk.set_limit(lane, window).await?;
            lane.limit_was_set(Limit { calls: window, set_at });
        }
        Ok(())
    }
}

#[async_trait]
impl PaceDesk for Meter {
    async fn exchange(&self, told: &Told, ask: &Ask) -> Result<Exchanged, HubError> {
        let Some(lane) = self.lane.upgrade() else { return Err(HubError("the hub has ended".into())) };
        if told.is_nothing() && *ask == Ask::default() && self.known().told_nothing {
            // Whoever only looks writes nothing.
            self.ask(&lane, None).await?;
            let known = self.known();
            if let (Some(seen), Some((_, now))) = (&known.seen, known.clock) {
                return Ok(Exchanged::of(&seen.shared.state, now, Grant::default()));
            }
        }
        for attempt in 0..TRIES {
            let seen = self.known().seen.clone();
            let (Some(Seen { version, mut shared }), Some(now)) = (seen, self.now()) else {
                self.ask(&lane, None).await?;
                continue;
            };
            let grant = self.step(&mut shared, now, told, ask);
            if self.ask(&lane, Some((&version, &shared))).await? {
                let late: u32 = shared.running.values().map(|(_, late, _)| late).sum();
                let window = shared.state.window().map(|window| window.saturating_add(late));
                self.known().told_nothing = told.running == 0;
                // The state is written: to say so again would count everything twice. The next exchange tells the window again.
                if let Err(error) = self.set_window(&lane, window).await {
                    tracing::debug!(lane = %lane.id, error = %error, "the window of a lane could not be told");
                }
                return Ok(Exchanged::of(&shared.state, now, grant));
            }
            if attempt > 1 {
                // Spread, so that two do not always meet.
                tokio::time::sleep(Duration::from_micros(rand::random_range(100..2_000))).await;
            }
        }
        Err(HubError("too many hubs write the state of the lane at the same time".into()))
    }
}
