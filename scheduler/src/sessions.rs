//! Which sessions are dead, by this scheduler's own monotonic clock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use promptmill_domain::SessionId;
use promptmill_ports::{SAFE_FOR, StoreResult};
use promptmill_runtime::Engine;
use tokio::time::Instant;

use crate::lead::is_scheduler;

/// A session whose beat stood still for this long, while the store could be read all the time, is dead.
const DEAD_AFTER: Duration = Duration::from_secs(6);

/// The most that one look adds to the time a beat stood still. Between looks that lie further apart this process was stopped or the
/// store was slow, and then the sessions may have been as well: they get the time to beat again.
const LOOK_COUNTS: Duration = Duration::from_secs(2);

// A beat may have begun after the first look that counts.
const _: () = assert!(DEAD_AFTER.as_secs() - LOOK_COUNTS.as_secs() >= SAFE_FOR.as_secs());

/// A scheduler whose beat stood still for this long does not lead, though it may be alive.
const LEADS_WITHIN: Duration = Duration::from_secs(3);

/// What this scheduler has seen of the sessions.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: HashMap<SessionId, Seen>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    beat: u64,
    unchanged_for: Duration,
    is_scheduler: bool,
}

impl Watch {
    /// The oldest of the schedulers that beat.
    pub(crate) fn oldest_scheduler(&self) -> Option<SessionId> {
        let beats = |seen: &Seen| seen.is_scheduler && seen.unchanged_for < LEADS_WITHIN;
        self.seen.iter().filter(|(_, seen)| beats(seen)).map(|(session, _)| *session).min()
    }

    /// Looks at every session once; declares dead what stood still for too long. `now` is taken by the caller just before.
    pub(crate) async fn run_once(&mut self, engine: &Engine, now: Instant) -> StoreResult<()> {
        let since = self.looked.replace(now).map_or(Duration::ZERO, |looked| now.duration_since(looked));
        let sessions = match engine.store.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                // While the store is away nobody can beat, so the time that passed says nothing about anybody.
                self.seen.clear();
                return Err(error);
            }
        };
        self.seen.retain(|id, _| sessions.iter().any(|session| session.session == *id));
        for session in sessions {
            let is_scheduler = is_scheduler(&session.label);
            let fresh = Seen { beat: session.beat, unchanged_for: Duration::ZERO, is_scheduler };
            match self.seen.entry(session.session) {
                Entry::Vacant(entry) => {
                    entry.insert(fresh);
                    continue;
                }
                Entry::Occupied(mut entry) if entry.get().beat != session.beat => {
                    entry.insert(fresh);
                    continue;
                }
                Entry::Occupied(mut entry) => {
                    let seen = entry.get_mut();
                    seen.unchanged_for += since.min(LOOK_COUNTS);
                    if seen.unchanged_for < DEAD_AFTER {
                        continue;
                    }
                }
            }
            let buried = engine.store.bury(session.session, session.beat, engine.clock.now_ms()).await;
            if buried.is_err() {
                // A store that can be read and not written takes no beats either.
                self.seen.clear();
            }
            if let Some(chunks) = buried? {
                tracing::warn!(session.id = %session.session, label = session.label, chunks, "a session died; its chunks go on elsewhere");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_runtime::Providers;
    use std::sync::Arc;

    struct Scene {
        engine: Engine,
        session: SessionId,
        watch: Watch,
        now: Instant,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let engine = Engine::embedded(folder.path(), Arc::new(Providers::of([]))).unwrap();
            let session = SessionId::from_bytes([1; 16]);
            engine.store.open(session, "test").await.unwrap();
            Self { engine, session, watch: Watch::default(), now: Instant::now(), _folder: folder }
        }

        /// Looks after so many seconds, and says whether the session still lives.
        async fn alive_after(&mut self, seconds: f64) -> bool {
            self.now += Duration::from_secs_f64(seconds);
            self.watch.run_once(&self.engine, self.now).await.unwrap();
            !self.engine.store.sessions().await.unwrap().is_empty()
        }
    }

    #[tokio::test]
    async fn a_session_without_a_beat_for_six_seconds_is_dead_and_not_before() {
        let mut scene = Scene::new().await;
        for _ in 0..6 {
            assert!(scene.alive_after(1.0).await);
        }
        assert!(!scene.alive_after(1.0).await);
    }

    #[tokio::test]
    async fn a_session_that_beats_lives() {
        let mut scene = Scene::new().await;
        for beat in 1..30 {
            assert!(scene.alive_after(1.0).await);
            if beat % 4 == 0 {
                scene.engine.store.beat(scene.session, beat, None).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_scheduler_that_was_stopped_itself_kills_nobody_when_it_goes_on() {
        let mut scene = Scene::new().await;
        assert!(scene.alive_after(0.0).await);
        assert!(scene.alive_after(3_600.0).await);
        assert!(scene.alive_after(1.0).await);
        // Who does not beat after that is dead all the same.
        for _ in 0..2 {
            assert!(scene.alive_after(1.0).await);
        }
        assert!(!scene.alive_after(1.0).await);
    }

    #[tokio::test]
    async fn the_oldest_scheduler_is_the_first_session_of_those_that_beat() {
        let mut scene = Scene::new().await;
        let [old, young] = [2, 3].map(|n| SessionId::from_bytes([n; 16]));
        scene.engine.store.open(old, "scheduler@a:1").await.unwrap();
        scene.engine.store.open(young, "scheduler@b:1").await.unwrap();
        scene.alive_after(0.0).await;
        assert_eq!(scene.watch.oldest_scheduler(), Some(old), "a session of another role is none");
        for beat in 1..=3 {
            scene.engine.store.beat(young, beat, None).await.unwrap();
            scene.alive_after(1.0).await;
        }
        assert_eq!(scene.watch.oldest_scheduler(), Some(young), "it stood still for three seconds");
        scene.engine.store.beat(old, 1, None).await.unwrap();
        scene.alive_after(1.0).await;
        assert_eq!(scene.watch.oldest_scheduler(), Some(old));
    }
}
