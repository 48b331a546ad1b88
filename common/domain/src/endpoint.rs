//! Who is told of a tenant's events, beside the webhook that a batch may name itself.

use serde::{Deserialize, Serialize};

use crate::event::EventKind;
use crate::ids::{EndpointId, TenantId};

/// Endpoints a tenant may have.
pub const MOST_ENDPOINTS: usize = 100;

/// How long an endpoint may fail without a success before it is switched off: five days, milliseconds.
pub const FAILS_FOR_MS: u64 = 5 * 24 * 60 * 60 * 1_000;

/// A receiver of a tenant's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where events are posted.
    pub url: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is told of; all of it where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<EventKind>,
    /// What its events are signed with, the newest secret first.
    pub secrets: Vec<EndpointSecret>,
    /// Whether it is told.
    pub state: EndpointState,
    /// Since when nothing reached it, where something was tried since, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_ms: Option<u64>,
    /// When it was made. It is told of what happens from then on.
    pub created_ms: u64,
    /// Counts its changes, from 1.
    pub ver: u64,
}

/// A signing secret of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSecret {
    /// As it is kept: encrypted, never in clear.
    pub sealed: String,
    /// Until when it is signed with, Unix milliseconds; `None` for the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// Whether an endpoint is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum EndpointState {
    /// It is.
    Enabled,
    /// It is not.
    Disabled {
        /// Why.
        why: WhyDisabled,
        /// Since when, Unix milliseconds.
        at_ms: u64,
    },
}

/// Why an endpoint is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyDisabled {
    /// Its tenant switched it off.
    Requested,
    /// It answered 410: it wants no more.
    Gone,
    /// Nothing reached it for five days.
    Failing,
}

/// What a try to reach an endpoint came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It took the event.
    Taken,
    /// It did not, or was not reached.
    Failed,
    /// It wants no more.
    Gone,
}

impl Endpoint {
    /// What its secrets are sealed for: a copy of one elsewhere does not open.
    pub fn context(tenant: &TenantId, id: EndpointId) -> String {
        format!("{tenant}|endpoint|{id}")
    }

    /// Whether it is to be told of an event of that kind which happened then.
    pub fn wants(&self, kind: EventKind, at_ms: u64) -> bool {
        self.state == EndpointState::Enabled
            && self.created_ms <= at_ms
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }

    /// The secrets that are signed with then, as they are kept, the newest first.
    pub fn secrets_at(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let is_valid =
            move |secret: &&EndpointSecret| secret.until_ms.is_none_or(|until_ms| now_ms < until_ms);
        self.secrets.iter().filter(is_valid).map(|secret| secret.sealed.as_str())
    }

    /// Signs with a new secret from now on, and with the one before it as long as `grace_ms` says; those before that one are over.
    pub fn rotate(&mut self, sealed: String, now_ms: u64, grace_ms: u64) {
        let before = self.secrets.drain(..).next();
        self.secrets.push(EndpointSecret { sealed, until_ms: None });
        if let Some(before) = before.filter(|_| grace_ms > 0) {
            let until_ms = Some(now_ms.saturating_add(grace_ms));
            self.secrets.push(EndpointSecret { until_ms, ..before });
        }
    }

    /// A try was made, at `at_ms`. Answers whether it changed anything: mostly it does not.
    pub fn tried(&mut self, reached: Reached, at_ms: u64) -> bool {
        let before = (self.state, self.failing_since_ms);
        let disable = |why| EndpointState::Disabled { why, at_ms };
        match reached {
            Reached::Taken => self.failing_since_ms = None,
            Reached::Failed => {
                let since_ms = *self.failing_since_ms.get_or_insert(at_ms);
                if self.state == EndpointState::Enabled && at_ms.saturating_sub(since_ms) >= FAILS_FOR_MS {
                    self.state = disable(WhyDisabled::Failing);
                }
            }
            Reached::Gone if self.state == EndpointState::Enabled => self.state = disable(WhyDisabled::Gone),
            Reached::Gone => {}
        }
        before != (self.state, self.failing_since_ms)
    }

    /// Is told again from now on, with a clean slate.
    pub fn enable(&mut self) {
        self.state = EndpointState::Enabled;
        self.failing_since_ms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

    fn endpoint() -> Endpoint {
        Endpoint {
            id: EndpointId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            url: "https://receiver.example/".to_owned(),
            description: None,
            kinds: vec![],
            secrets: vec![EndpointSecret { sealed: "one".to_owned(), until_ms: None }],
            state: EndpointState::Enabled,
            failing_since_ms: None,
            created_ms: 100,
            ver: 1,
        }
    }

    #[test]
    fn an_endpoint_wants_what_it_names_and_what_happened_since_it_is_there() {
        let mut endpoint = endpoint();
        assert!(endpoint.wants(EventKind::BatchPaused, 100) && !endpoint.wants(EventKind::BatchPaused, 99));
        endpoint.kinds = vec![EventKind::BatchCompleted];
        assert!(
            endpoint.wants(EventKind::BatchCompleted, 100) && !endpoint.wants(EventKind::BatchPaused, 100)
        );
        endpoint.state = EndpointState::Disabled { why: WhyDisabled::Requested, at_ms: 5 };
        assert!(!endpoint.wants(EventKind::BatchCompleted, 100));
    }

    #[test]
    fn a_new_secret_is_joined_by_the_one_before_for_a_while() {
        let mut endpoint = endpoint();
        let at =
            |endpoint: &Endpoint, now_ms| endpoint.secrets_at(now_ms).map(str::to_owned).collect::<Vec<_>>();
        endpoint.rotate("two".to_owned(), 1_000, 50);
        assert_eq!(at(&endpoint, 1_049), ["two", "one"]);
        assert_eq!(at(&endpoint, 1_050), ["two"]);
        endpoint.rotate("three".to_owned(), 1_010, 50);
        assert_eq!(at(&endpoint, 1_010), ["three", "two"]);
        endpoint.rotate("four".to_owned(), 1_020, 0);
        assert_eq!(at(&endpoint, 1_020), ["four"]);
    }

    #[test]
    fn five_days_without_a_success_switch_it_off_and_less_does_not() {
        let mut endpoint = endpoint();
        assert!(!endpoint.tried(Reached::Taken, 1));
        assert!(endpoint.tried(Reached::Failed, 10));
        assert!(!endpoint.tried(Reached::Failed, 10 + 5 * DAY_MS - 1));
        assert!(endpoint.tried(Reached::Taken, 11));
        assert!(endpoint.tried(Reached::Failed, 20));
        assert!(endpoint.tried(Reached::Failed, 20 + 5 * DAY_MS));
        let why = WhyDisabled::Failing;
        assert_eq!(endpoint.state, EndpointState::Disabled { why, at_ms: 20 + 5 * DAY_MS });
        // It stays off as it is, whatever comes late.
        assert!(!endpoint.tried(Reached::Failed, 20 + 6 * DAY_MS));
        assert!(!endpoint.tried(Reached::Gone, 20 + 6 * DAY_MS));
        endpoint.enable();
        assert!(endpoint.tried(Reached::Gone, 30) && !endpoint.wants(EventKind::BatchPaused, 100));
    }
}
