//! The lanes of a process's providers: what is kept of them is read before the first call, and what they learn is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::LaneId;
use promptmill_domain::rate::Learned;
use promptmill_ports::{Clock, LaneRecord, Limiter, Signal, Store, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use crate::engine::Engine;

/// How often what lanes learned is kept, where it is new.
const KEEPS_EVERY: Duration = Duration::from_secs(2);

/// A rate that changed by less than this part is not new.
const NEWS: f64 = 0.02;

/// Keeps what the lanes of a process learn, until it is dropped.
#[derive(Debug)]
pub struct LaneKeeper(JoinHandle<()>);

impl LaneKeeper {
    /// Makes the lanes of the engine's providers learn, with what an earlier process or another one of the fleet learned, and lets those
    /// stand still that are paused. To be called before the first call of a provider.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(engine: &Engine) -> StoreResult<Self> {
        let kept: HashMap<LaneId, LaneRecord> =
            engine.store.lanes().await?.into_iter().map(|lane| (lane.lane.clone(), lane)).collect();
        for (lane, limits) in engine.providers.lanes() {
            let record = kept.get(&lane);
            engine.limiter.set_rules(&lane, limits, record.map(|record| record.learned).unwrap_or_default());
            let until_ms = record.map_or(0, |record| record.paused_until_ms);
            if until_ms > engine.clock.now_ms()
                && let Err(error) = engine.limiter.pause(&lane, until_ms).await
            {
                tracing::warn!(lane = %lane, error = %error, "the pause of a lane could not be told to the fleet");
            }
        }
        let keeping = Keeping {
            store: engine.store.clone(),
            limiter: engine.limiter.clone(),
            clock: engine.clock.clone(),
            kept: kept.into_iter().map(|(lane, record)| (lane, record.learned)).collect(),
            pauses: HashMap::new(),
        };
        Ok(Self(tokio::spawn(keeping.run(engine.signals.subscribe()))))
    }
}

impl Drop for LaneKeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Keeping {
    store: Arc<dyn Store>,
    limiter: Arc<dyn Limiter>,
    clock: Arc<dyn Clock>,
    kept: HashMap<LaneId, Learned>,
    /// Pauses that were told and not kept yet.
    pauses: HashMap<LaneId, u64>,
}

impl Keeping {
    async fn run(mut self, mut signals: tokio::sync::broadcast::Receiver<Signal>) {
        let mut ticks = tokio::time::interval(KEEPS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.keep().await,
                signal = signals.recv() => match signal {
                    Ok(Signal::LanePaused { lane, until_ms }) => {
                        let known = self.pauses.entry(lane).or_default();
                        *known = until_ms.max(*known);
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Writes what is new since it was written last.
    async fn keep(&mut self) {
        let at_ms = self.clock.now_ms();
        let pauses = std::mem::take(&mut self.pauses);
        let learned: HashMap<LaneId, Learned> =
            self.limiter.lanes().into_iter().map(|report| (report.lane, report.learned)).collect();
        let is_new =
            |lane: &LaneId, learned: &Learned| self.kept.get(lane).is_none_or(|kept| differs(kept, learned));
        let mut news: Vec<LaneRecord> = Vec::new();
        for (lane, learned) in &learned {
            let paused_until_ms = pauses.get(lane).copied().unwrap_or(0);
            if paused_until_ms > at_ms || is_new(lane, learned) {
                news.push(LaneRecord { lane: lane.clone(), learned: *learned, paused_until_ms, at_ms });
            }
        }
        if news.is_empty() {
            return;
        }
        match self.store.keep_lanes(&news).await {
            Ok(()) => self.kept.extend(news.into_iter().map(|record| (record.lane, record.learned))),
            // It is tried again with the next news; nothing but time rests on it.
            Err(error) => {
                tracing::debug!(error = %error, "what lanes learned could not be kept");
                self.pauses = pauses;
            }
        }
    }
}

fn differs(kept: &Learned, learned: &Learned) -> bool {
    let far = |kept: Option<f64>, now: Option<f64>| match (kept, now) {
        (Some(kept), Some(now)) => (kept - now).abs() > kept * NEWS,
        (kept, now) => kept != now,
    };
    kept.concurrency != learned.concurrency
        || far(kept.per_s, learned.per_s)
        || far(kept.burst, learned.burst)
}
