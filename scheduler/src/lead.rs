//! Which of several schedulers leads: the one whose session is the oldest of those that beat.
//!
//! The others stand by, so that a batch is looked at once and not by each of them. Nothing rests on there being one only: every step of a
//! scheduler may be done twice at once, and for a moment after a leader came back from a stop two of them do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use promptmill_domain::SessionId;
use promptmill_runtime::Presence;

use crate::config::Standing;

/// The first word of the label of a scheduler's session.
pub(crate) const ROLE: &str = "scheduler";

/// Whether the session of this label is a scheduler's.
pub(crate) fn is_scheduler(label: &str) -> bool {
    label.split('@').next() == Some(ROLE)
}

/// Whether this scheduler leads, for all of its loops.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    presence: Option<Presence>,
    leads: Arc<AtomicBool>,
}

impl Lead {
    pub(crate) fn of(standing: Standing) -> Self {
        match standing {
            Standing::Alone => Self { presence: None, leads: Arc::new(AtomicBool::new(true)) },
            Standing::OneOfSeveral(presence) => {
                Self { presence: Some(presence), leads: Arc::new(AtomicBool::new(false)) }
            }
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Takes the lead or gives it up, by who is the oldest of the schedulers that beat.
    pub(crate) fn decide(&self, oldest: Option<SessionId>) {
        let Some(presence) = &self.presence else { return };
        let leads = oldest == Some(presence.session());
        if self.leads.swap(leads, Ordering::Relaxed) != leads {
            let what = if leads { "this scheduler leads" } else { "another scheduler leads" };
            tracing::info!(session.id = %presence.session(), "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u8) -> SessionId {
        SessionId::from_bytes([n; 16])
    }

    #[test]
    fn of_several_schedulers_the_oldest_that_beats_leads() {
        let lead = Lead::of(Standing::OneOfSeveral(Presence::shared(session(2))));
        assert!(!lead.is_ours(), "nobody leads before it looked around");
        lead.decide(Some(session(2)));
        assert!(lead.is_ours());
        lead.decide(Some(session(1)));
        assert!(!lead.is_ours());
        lead.decide(None);
        assert!(!lead.is_ours());
        assert!(Lead::of(Standing::Alone).is_ours());
    }

    #[test]
    fn a_scheduler_is_told_by_the_first_word_of_its_label() {
        assert!(is_scheduler("scheduler@host:1") && is_scheduler("scheduler"));
        assert!(!is_scheduler("worker@scheduler:1") && !is_scheduler("schedulers@host"));
    }
}
