//! The lanes of a process's providers: what is kept of them is read before the first call, and what they learn is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::LaneId;
use promptmill_domain::rate::Learned;
use promptmill_ports::{Clock, LaneRecord, Limiter, Signal, Store, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// How often what lanes learned is kept, where it is new.
const KEEPS_EVERY: Duration = Duration::from_secs(2);

/// A rate that changed by less than this part is not new.
const NEWS: f64 = 0.02;

/// Keeps what the lanes of a process learn, until it is stopped or dropped.
#[derive(Debug)]
pub struct LaneKeeper {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

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
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeping.run(engine.signals.subscribe(), stop.clone()));
        Ok(Self { task, stop })
    }

    /// Keeps what is new a last time, and lets go of the store.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // A task that broke has let go too.
        let _ = (&mut self.task).await;
    }
}

impl Drop for LaneKeeper {
    fn drop(&mut self) {
        self.task.abort();
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
    async fn run(mut self, mut signals: tokio::sync::broadcast::Receiver<Signal>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(KEEPS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.keep().await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{ProviderSettings, Providers};
    use promptmill_domain::rate::{CallEnd, RateHints};
    use promptmill_ports::{CallNeed, CallReport, Denied};

    fn engine(folder: &std::path::Path) -> Engine {
        Engine::embedded(folder, Arc::new(Providers::new(ProviderSettings::default()).unwrap())).unwrap()
    }

    fn record(lane: &LaneId, per_s: f64, paused_until_ms: u64) -> LaneRecord {
        let learned = Learned { per_s: Some(per_s), burst: None, concurrency: Some(7) };
        LaneRecord { lane: lane.clone(), learned, paused_until_ms, at_ms: 1 }
    }

    #[tokio::test]
    async fn what_was_kept_of_a_lane_is_read_before_its_first_call() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        let (openai, ollama) = (LaneId::new("openai", "default"), LaneId::new("ollama", "default"));
        let until_ms = engine.clock.now_ms() + 3_600_000;
        engine.store.keep_lanes(&[record(&openai, 12.5, 0), record(&ollama, 2.0, until_ms)]).await.unwrap();
        let _keeper = LaneKeeper::start(&engine).await.unwrap();
        let now_ms = engine.clock.now_ms();
        let permit = engine.limiter.acquire(&openai, CallNeed::of(1), now_ms).await.unwrap();
        let report = engine.limiter.lanes().into_iter().find(|report| report.lane == openai).unwrap();
        assert_eq!((report.view.allowed_per_s, report.view.window), (Some(12.5), Some(7)));
        drop(permit);
        let denied = engine.limiter.acquire(&ollama, CallNeed::of(1), now_ms).await;
        assert!(matches!(denied, Err(Denied::Paused { until_ms: until }) if until == until_ms), "{denied:?}");
    }

    #[tokio::test]
    async fn what_a_lane_learns_and_its_pause_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        let lane = LaneId::new("openai", "default");
        let _keeper = LaneKeeper::start(&engine).await.unwrap();
        let now_ms = engine.clock.now_ms();
        let mut permit = engine.limiter.acquire(&lane, CallNeed::of(1), now_ms).await.unwrap();
        permit.begin();
        let end = CallEnd::TooOften { retry_after: Some(Duration::from_secs(1)) };
        permit.end(CallReport { end, hints: RateHints::default(), tokens: None });
        let until_ms = now_ms + 60_000;
        engine.limiter.pause(&lane, until_ms).await.unwrap();
        loop {
            let kept = engine.store.lanes().await.unwrap();
            let kept = kept.iter().find(|kept| kept.lane == lane);
            if kept.is_some_and(|kept| kept.learned.per_s.is_some() && kept.paused_until_ms == until_ms) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
