//! Which sessions are dead, by this scheduler's own monotonic clock.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::SessionId;
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use tokio::time::Instant;

/// A session whose beat stood still for this long, while the store could be read all the time, is dead.
const DEAD_AFTER: Duration = Duration::from_secs(6);

/// What this scheduler has seen of the sessions.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: HashMap<SessionId, (u64, Instant)>,
}

impl Watch {
    /// Looks at every session once; declares dead what stood still for too long.
    pub(crate) async fn run_once(&mut self, engine: &Engine) -> StoreResult<()> {
        let sessions = match engine.store.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                // While the store is away nobody can beat, so the time that passed says nothing about anybody.
                self.seen.clear();
                return Err(error);
            }
        };
        let now = Instant::now();
        self.seen.retain(|id, _| sessions.iter().any(|session| session.session == *id));
        for session in sessions {
            let (beat, since) = self.seen.entry(session.session).or_insert((session.beat, now));
            if *beat != session.beat {
                (*beat, *since) = (session.beat, now);
            } else if now.duration_since(*since) >= DEAD_AFTER {
                let chunks = engine.store.bury(session.session, session.beat, engine.clock.now_ms()).await?;
                if let Some(chunks) = chunks {
                    tracing::warn!(session.id = %session.session, label = session.label, chunks, "a session died; its chunks go on elsewhere");
                }
            }
        }
        Ok(())
    }
}
