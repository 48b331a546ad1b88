//! A role's presence in the fleet: a session that beats.
//!
//! What a process begins is kept under its session, so that others can tell what a dead one left from what is being done. A worker's session
//! leases chunks and beats with the worker's own loop; the other roles are present by this.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::SessionId;
use promptmill_ports::{BeatAnswer, StoreError, StoreResult};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;

const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Whoever could not beat for this long may be taken for dead soon.
const FRESH_FOR: Duration = Duration::from_secs(4);

/// A session under which a role is present. Cheap to clone; the beats end with the last clone.
#[derive(Clone)]
pub struct Presence(Arc<Inner>);

struct Inner {
    now: Arc<Mutex<Now>>,
    own: Option<Own>,
}

struct Now {
    session: SessionId,
    beat_sent: Instant,
}

/// Beats, and the engine to end the session with.
struct Own {
    engine: Engine,
    beats: AbortOnDropHandle<()>,
}

impl Presence {
    /// Opens a session for the role and begins to beat. When the session is declared dead, because this process was stopped for a while, a new one
    /// takes its place.
    ///
    /// # Errors
    /// When the store does not take the session.
    pub async fn begin(engine: &Engine, role: &str) -> StoreResult<Self> {
        let label = label(role);
        let now = Now { session: open(engine, &label).await?, beat_sent: Instant::now() };
        let now = Arc::new(Mutex::new(now));
        let beats = tokio::spawn(beat(engine.clone(), label, now.clone()));
        let own = Own { engine: engine.clone(), beats: AbortOnDropHandle::new(beats) };
        Ok(Self(Arc::new(Inner { now, own: Some(own) })))
    }

    /// Under a session that somebody else keeps alive: all roles of one process may share one.
    pub fn shared(session: SessionId) -> Self {
        let now = Arc::new(Mutex::new(Now { session, beat_sent: Instant::now() }));
        Self(Arc::new(Inner { now, own: None }))
    }

    /// The session as it is now.
    pub fn session(&self) -> SessionId {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner).session
    }

    /// Whether the last beat is so recent that nobody takes this process for dead.
    pub fn is_fresh(&self) -> bool {
        let now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.own.is_none() || now.beat_sent.elapsed() <= FRESH_FOR
    }

    /// Ends the session as planned.
    pub async fn end(self) {
        let Some(own) = &self.0.own else { return };
        // A further beat would take the end for a death, and open another session.
        own.beats.abort();
        if let Err(error) = own.engine.store.end(self.session(), own.engine.clock.now_ms()).await {
            tracing::warn!(error = %error, "the session could not be ended; it is found dead in a while");
        }
    }
}

/// What a session of the role is called for people: role and host.
pub fn label(role: &str) -> String {
    let host = rustix::system::uname();
    format!("{role}@{}:{}", host.nodename().to_string_lossy(), std::process::id())
}

async fn open(engine: &Engine, label: &str) -> StoreResult<SessionId> {
    let session = SessionId::at(engine.clock.now_ms(), rand::random());
    engine.store.open(session, label).await?;
    Ok(session)
}

async fn beat(engine: Engine, label: String, now: Arc<Mutex<Now>>) {
    let mut ticks = interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat = 0;
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        beat += 1;
        let session = now.lock().unwrap_or_else(PoisonError::into_inner).session;
        let failed = match engine.store.beat(session, beat, None).await {
            Ok(BeatAnswer::Alive { .. }) => {
                now.lock().unwrap_or_else(PoisonError::into_inner).beat_sent = sent;
                continue;
            }
            Ok(BeatAnswer::Dead) => match open(&engine, &label).await {
                Ok(session) => {
                    tracing::warn!(session.id = %session, "the session was declared dead; a new one took its place");
                    *now.lock().unwrap_or_else(PoisonError::into_inner) = Now { session, beat_sent: sent };
                    beat = 0;
                    continue;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        warn(&failed);
    }
}

fn warn(error: &StoreError) {
    tracing::warn!(error = %error, "a beat could not be stored");
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Presence").field(&self.session()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Providers;

    fn engine(folder: &std::path::Path) -> Engine {
        Engine::embedded(folder, Arc::new(Providers::of([]))).unwrap()
    }

    #[tokio::test]
    async fn a_session_that_was_declared_dead_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        let presence = Presence::begin(&engine, "api").await.unwrap();
        let first = presence.session();
        let known = engine.store.sessions().await.unwrap();
        assert!(known.iter().any(|of| of.session == first && of.label.starts_with("api@")), "{known:?}");
        // A beat may come between the look and the burial, and then it lives.
        while engine.store.sessions().await.unwrap().iter().any(|of| of.session == first) {
            let beat = engine.store.sessions().await.unwrap()[0].beat;
            engine.store.bury(first, beat, 0).await.unwrap();
        }
        while presence.session() == first {
            tokio::task::yield_now().await;
        }
        let living: Vec<_> = engine.store.sessions().await.unwrap();
        assert_eq!(living.iter().map(|of| of.session).collect::<Vec<_>>(), [presence.session()]);
        let kept = presence.clone();
        presence.end().await;
        assert_eq!(engine.store.sessions().await.unwrap(), []);
        while !kept.0.own.as_ref().unwrap().beats.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
