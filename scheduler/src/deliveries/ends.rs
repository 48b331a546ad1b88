//! Ends of batches whose failures are still to be told.
//!
//! An event that is held stays in the outbox, so that whoever leads next begins with it again; the others go on beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use promptmill_domain::{Event, EventId};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Ends {
    held: Mutex<BTreeMap<EventId, Event>>,
    came: Notify,
}

impl Ends {
    fn held(&self) -> MutexGuard<'_, BTreeMap<EventId, Event>> {
        // Whole events are put in and taken out.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ids(&self) -> BTreeSet<EventId> {
        self.held().keys().copied().collect()
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.held().values().cloned().collect()
    }

    pub(super) fn hold(&self, events: Vec<Event>) {
        if !events.is_empty() {
            self.held().extend(events.into_iter().map(|event| (event.id, event)));
            self.came.notify_one();
        }
    }

    /// Waits until some come.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// Those that are handed on.
    pub(super) fn let_go(&self, events: &[EventId]) {
        let mut held = self.held();
        for event in events {
            held.remove(event);
        }
    }

    /// Who does not lead holds none.
    pub(super) fn clear(&self) {
        self.held().clear();
    }
}
