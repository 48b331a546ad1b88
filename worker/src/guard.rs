//! The doomed-batch guard: watches the first outcomes of a batch for one cause that dooms all of it.

use promptmill_domain::batch::GUARD_SAMPLE;
use promptmill_domain::{Counts, Ending, FailureKind, PauseReason};

/// What the first outcomes said so far.
#[derive(Debug)]
pub(crate) enum Guard {
    Off,
    Watching { seen: u32, kind: Option<FailureKind> },
}

impl Guard {
    /// A guard over a batch that stands so; a success in the past settles the question.
    pub(crate) fn new(counts: &Counts) -> Self {
        // Replies of the cache say nothing of the provider as it is now.
        if counts.all_succeeded() <= counts.totals.cached {
            Self::Watching { seen: 0, kind: None }
        } else {
            Self::Off
        }
    }

    /// Takes an outcome in; answers why the batch should pause when this one decided it.
    pub(crate) fn see(&mut self, ending: &Ending) -> Option<PauseReason> {
        let Self::Watching { seen, kind } = self else {
            return None;
        };
        match ending {
            Ending::Failed { kind: cause, message }
                if cause.dooms_batch() && kind.is_none_or(|first| first == *cause) =>
            {
                *kind = Some(*cause);
                *seen += 1;
                if *seen < GUARD_SAMPLE {
                    return None;
                }
                let reason = PauseReason::Suspect { kind: *cause, message: message.clone() };
                *self = Self::Off;
                Some(reason)
            }
            Ending::Failed { .. } | Ending::Succeeded { .. } => {
                *self = Self::Off;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: FailureKind) -> Ending {
        Ending::Failed { kind, message: "no such model".into() }
    }

    fn watch(endings: impl IntoIterator<Item = Ending>) -> Option<PauseReason> {
        let mut guard = Guard::new(&Counts::default());
        endings.into_iter().filter_map(|ending| guard.see(&ending)).next()
    }

    #[test]
    fn the_guard_speaks_when_the_first_items_all_fail_alike_for_a_cause_outside_the_rows() {
        let sample = GUARD_SAMPLE as usize;
        let doomed = vec![failed(FailureKind::ModelUnavailable); sample];
        assert!(matches!(
            watch(doomed.clone()),
            Some(PauseReason::Suspect { kind: FailureKind::ModelUnavailable, .. })
        ));
        assert_eq!(watch(doomed[1..].to_vec()), None);
        let mut mixed = doomed.clone();
        mixed[3] = failed(FailureKind::CredentialRefused);
        mixed.extend(doomed.clone());
        assert_eq!(watch(mixed), None);
        assert_eq!(watch(vec![failed(FailureKind::InvalidOutput); 3 * sample]), None);
    }
}
