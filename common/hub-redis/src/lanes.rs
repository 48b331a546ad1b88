//! The lanes of this hub and their keepers: one task each, which tells Redis how the lane is used and asks what it may do.
//!
//! A keeper speaks when somebody waits, when a place is to be given back, when another hub wants it, and once a second as long as the
//! lane is in use. So the places of a hub that died come back when its word no longer holds, and Redis may forget everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_ports::hub::pace::{NotNow, Pace};
use promptmill_ports::{CallNeed, Denied, HubError, LaneReport, Limiter, Permit, Signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::hub::{RedisHub, Scripts};
use crate::lane::{HOLDS_FOR, Lane, Leave, Limit, Report};
use crate::link::Link;
use crate::message::{HubId, Message};
use crate::meter::Meter;

/// By then every hub that lives has spoken.
const ALL_SPEAK_WITHIN: Duration = Duration::from_millis(1_500);
/// For how long Redis counts the calls of a hub that it hears nothing of.
const OWNER_HOLDS_FOR: Duration = HOLDS_FOR.saturating_mul(2);
/// For how long Redis knows a lane that nobody uses.
pub(crate) const LANE_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Every lane this hub has heard of.
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<LaneId, Kept>>,
    desk: Arc<Desk>,
}

struct Kept {
    lane: Arc<Lane>,
    keeper: JoinHandle<()>,
}

/// What a keeper needs to speak to Redis.
pub(crate) struct Desk {
    pub(crate) link: Arc<Link>,
    pub(crate) scripts: Arc<Scripts>,
    pub(crate) prefix: String,
    pub(crate) channel: String,
    pub(crate) hub: HubId,
}

impl Lanes {
    pub(crate) fn new(desk: Desk) -> Self {
        Self { lanes: Mutex::default(), desk: Arc::new(desk) }
    }

    fn lane(&self, id: &LaneId) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = lanes.get(id) {
            return kept.lane.clone();
        }
        let lane = Arc::new(Lane::new(id.clone()));
        let keeper = tokio::spawn(keep(lane.clone(), self.desk.clone()));
        lanes.insert(id.clone(), Kept { lane: lane.clone(), keeper });
        lane
    }

    /// A lane nobody here has used knows nothing that could be outdated.
    fn known(&self, id: &LaneId) -> Option<Arc<Lane>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(id).map(|kept| kept.lane.clone())
    }

    /// Messages may have been missed.
    pub(crate) fn doubt_all(&self) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in lanes.values() {
            kept.lane.doubt();
        }
    }

    /// Gives back every place that is not in use.
    pub(crate) async fn give_back(&self) {
        give_back(self.all(), self.desk.clone()).await;
    }

    fn all(&self) -> Vec<Arc<Lane>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values().map(|kept| kept.lane.clone()).collect()
    }

    /// Another hub, or this one, says something about a lane.
    pub(crate) fn hear(&self, message: &Message) {
        let me = &self.desk.hub;
        match message {
            Message::Signal(Signal::LanePaused { lane, until_ms }) => {
                if let Some(lane) = self.known(lane) {
                    lane.pause(*until_ms);
                }
            }
            Message::PlacesFree(hub, lane) if hub != me => {
                if let Some(lane) = self.known(lane) {
                    lane.ask_if_waiting();
                }
            }
            Message::PlacesWanted(hub, lane) if hub != me => {
                if let Some(lane) = self.known(lane) {
                    lane.ask_if_holding();
                }
            }
            Message::LimitChanged(hub, lane) if hub != me => {
                if let Some(lane) = self.known(lane) {
                    lane.doubt();
                }
            }
            Message::Signal(_)
            | Message::PlacesFree(..)
            | Message::PlacesWanted(..)
            | Message::LimitChanged(..) => {}
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let lanes = std::mem::take(self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner));
        for kept in lanes.values() {
            kept.keeper.abort();
        }
        // Otherwise others wait until Redis takes this hub for dead.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let lanes = lanes.into_values().map(|kept| kept.lane).collect();
            runtime.spawn(give_back(lanes, self.desk.clone()));
        }
    }
}

#[async_trait]
impl Limiter for RedisHub {
    async fn acquire(&self, lane: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied> {
        let lane = self.lanes.lane(lane);
        let mut made_way = false;
        loop {
            let place = lane.acquire(need, now_ms, made_way).await?;
            let Some(pace) = lane.pace() else { return Ok(place) };
            match pace.acquire(need, now_ms, place).await {
                Ok(permit) => return Ok(permit),
                Err(NotNow::Denied(denied)) => return Err(denied),
                Err(NotNow::MakesWay) => made_way = true,
            }
        }
    }

    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError> {
        // This hub keeps to it even when it can tell nobody, and tells it with its next report.
        self.lanes.lane(lane).pause(until_ms);
        self.lanes.desk.pause(lane, until_ms).await
    }

    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError> {
        let lane = self.lanes.lane(lane);
        let set_at = self.lanes.desk.set_limit(&lane, limit).await?;
        lane.limit_was_set(Limit { calls: limit, set_at });
        Ok(())
    }

    fn set_rules(&self, lane: &LaneId, limits: LaneLimits, learned: Learned) {
        let lane = self.lanes.lane(lane);
        lane.set_pace(|lane| {
            let meter = Meter::new(self.lanes.desk.clone(), lane, limits, learned);
            Pace::new(lane.id.clone(), meter)
        });
    }

    fn lanes(&self) -> Vec<LaneReport> {
        let report = |lane: &Arc<Lane>| {
            let mut report = lane.pace()?.report()?;
            report.waiting += lane.waiting();
            Some(report)
        };
        self.lanes.all().iter().filter_map(report).collect()
    }
}

async fn give_back(lanes: Vec<Arc<Lane>>, desk: Arc<Desk>) {
    for lane in lanes {
        if let Some(report) = lane.last_report() {
            let asked_at = Instant::now();
            // Without an answer Redis forgets this hub by itself.
            if let Ok(leave) = desk.sync(&lane.id, &report).await {
                lane.apply(asked_at, &report, &leave);
            }
        }
    }
}

async fn keep(lane: Arc<Lane>, desk: Arc<Desk>) {
    loop {
        if !lane.wait_for_reason().await {
            continue;
        }
        let report = lane.report();
        let asked_at = Instant::now();
        match desk.sync(&lane.id, &report).await {
            Ok(leave) => lane.apply(asked_at, &report, &leave),
            Err(error) => lane.is_away(&error),
        }
    }
}

impl Desk {
    /// The lane's state and its owners, in one slot of a cluster.
    fn keys(&self, lane: &LaneId) -> [String; 2] {
        ["state", "owners"].map(|part| format!("{}:{{lane:{lane}}}:{part}", self.prefix))
    }

    async fn sync(&self, lane: &LaneId, report: &Report) -> Result<Leave, HubError> {
        let [state, owners] = self.keys(lane);
        let args: [Vec<u8>; 12] = [
            self.hub.to_vec(),
            report.calls.to_string().into(),
            report.wanted.to_string().into(),
            OWNER_HOLDS_FOR.as_millis().to_string().into(),
            digits(report.paused_until_ms).into(),
            limit_text(report.limit.calls).into(),
            digits(report.limit.set_at).into(),
            self.channel.clone().into(),
            Message::PlacesFree(self.hub, lane.clone()).to_bytes(),
            Message::PlacesWanted(self.hub, lane.clone()).to_bytes(),
            LANE_KEPT_FOR.as_millis().to_string().into(),
            ALL_SPEAK_WITHIN.as_millis().to_string().into(),
        ];
        let (places, pause, limit, limit_at, others_want): (i64, u64, String, u64, bool) =
            self.scripts.sync.call(&self.link, &[&state, &owners], &args).await?;
        Ok(Leave {
            places: u32::try_from(places).ok(),
            paused_until_ms: pause,
            // A limit that is no number was written by nobody of us, and no limit is the less surprising reading.
            limit: Limit { calls: limit.parse().ok(), set_at: limit_at },
            others_want,
        })
    }

    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError> {
        let [state, _] = self.keys(lane);
        let message = Message::Signal(Signal::LanePaused { lane: lane.clone(), until_ms });
        let args: [Vec<u8>; 4] = [
            digits(until_ms).into(),
            self.channel.clone().into(),
            message.to_bytes(),
            LANE_KEPT_FOR.as_millis().to_string().into(),
        ];
        self.scripts.pause.call(&self.link, &[&state], &args).await
    }

    /// Where the state of a lane that learns is.
    pub(crate) fn meter_key(&self, lane: &LaneId) -> String {
        format!("{}:{{lane:{lane}}}:meter", self.prefix)
    }

    pub(crate) async fn set_limit(&self, lane: &Lane, limit: Option<u32>) -> Result<u64, HubError> {
        let [state, _] = self.keys(&lane.id);
        let args: [Vec<u8>; 5] = [
            limit_text(limit).into(),
            self.channel.clone().into(),
            Message::LimitChanged(self.hub, lane.id.clone()).to_bytes(),
            LANE_KEPT_FOR.as_millis().to_string().into(),
            digits(lane.known_limit().set_at).into(),
        ];
        self.scripts.limit.call(&self.link, &[&state], &args).await
    }
}

/// Texts of one length, which Lua can compare without rounding them.
fn digits(number: u64) -> String {
    format!("{number:020}")
}

fn limit_text(limit: Option<u32>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}
