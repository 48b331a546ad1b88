//! Who is told of a tenant's events, beside the webhook that a batch may name itself.

use serde::{Deserialize, Serialize};

use crate::event::EventKind;
use crate::ids::{EndpointId, TenantId};

/// Endpoints a tenant may have.
pub const MOST_ENDPOINTS: usize = 100;

/// How long an endpoint may fail without a success before it is switched off: five days, milliseconds.
pub const FAILS_FOR_MS: u64 = 5 * 24 * 60 * 60 * 1_000;

/// The longest time between two failed tries that belong together: longer than a receiver is waited for between two. What failed before it says nothing of
/// the days since.
const APART_MS: u64 = 60 * 60 * 60 * 1_000;

/// How often it is noted that an endpoint goes on failing.
const NOTED_EVERY_MS: u64 = 60 * 60 * 1_000;

/// How much the clocks of machines may differ.
const SKEW_MS: u64 = 1_000;

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
    /// Who is written to when it is switched off and nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// What it is told of; where there are none, all but what [is told on request alone](EventKind::is_opt_in).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<EventKind>,
    /// What its events are signed with, the newest secret first.
    pub secrets: Vec<EndpointSecret>,
    /// What stands in its requests beside the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<SealedHeaders>,
    /// Whether the results of a batch stand in the event that tells its end, where they are small.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub results: bool,
    /// The most requests to it in a second, over time; `None` for as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_second: Option<u32>,
    /// Whether it is told.
    pub state: EndpointState,
    /// Since when nothing reached it, where tries failed since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// When it was made. It is told of what happens from then on.
    pub created_ms: u64,
    /// Since when it has its URL and is switched on, Unix milliseconds. What was tried before says nothing of it.
    pub since_ms: u64,
    /// Counts its changes, from 1.
    pub ver: u64,
}

/// Tries that failed with no success between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// When the first was made, Unix milliseconds.
    pub since_ms: u64,
    /// When the last was made, to an hour.
    pub last_ms: u64,
}

/// Headers of requests that a tenant set: to an endpoint, or for the rows of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHeaders {
    /// Their names, in lower case.
    pub names: Vec<String>,
    /// All of them as a JSON object, as it is kept: encrypted, because values may be credentials.
    pub sealed: String,
}

/// A signing secret of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSecret {
    /// As it is kept, with the key pair beside it where there is one: encrypted, never in clear.
    pub sealed: String,
    /// The public half of that pair, in clear, for whoever shall check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Until when it is signed with, Unix milliseconds; `None` for the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The request that made it, so that its repetition makes no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
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

    /// What its headers are sealed for.
    pub fn headers_context(tenant: &TenantId, id: EndpointId) -> String {
        format!("{tenant}|endpoint|{id}|headers")
    }

    /// Whether it is to be told of an event of that kind which happened then.
    pub fn wants(&self, kind: EventKind, at_ms: u64) -> bool {
        self.state == EndpointState::Enabled
            && self.created_ms <= at_ms.saturating_add(SKEW_MS)
            && (self.kinds.contains(&kind) || (self.kinds.is_empty() && !kind.is_opt_in()))
    }

    /// The secrets that are signed with then, as they are kept, the newest first.
    pub fn secrets_at(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let is_valid =
            move |secret: &&EndpointSecret| secret.until_ms.is_none_or(|until_ms| now_ms < until_ms);
        self.secrets.iter().filter(is_valid).map(|secret| secret.sealed.as_str())
    }

    /// Signs with a new secret from now on, and with the one before it as long as `grace_ms` says; those before that one are over. Where the newest
    /// secret is of the same request, nothing changes.
    pub fn rotate(&mut self, new: EndpointSecret, now_ms: u64, grace_ms: u64) {
        if new.request.is_some() && self.secrets.first().is_some_and(|newest| newest.request == new.request) {
            return;
        }
        let before = self.secrets.drain(..).next();
        self.secrets.push(EndpointSecret { until_ms: None, ..new });
        if let Some(before) = before.filter(|_| grace_ms > 0) {
            let until_ms = Some(now_ms.saturating_add(grace_ms));
            self.secrets.push(EndpointSecret { until_ms, ..before });
        }
    }

    /// A try was begun at `at_ms` and came to this. Answers whether it changed anything: mostly it does not.
    pub fn tried(&mut self, reached: Reached, at_ms: u64) -> bool {
        if at_ms < self.since_ms {
            return false;
        }
        let before = (self.state, self.failing);
        let disable = |why| EndpointState::Disabled { why, at_ms };
        match reached {
            Reached::Taken => self.failing = None,
            Reached::Failed => {
                let goes_on = |failing: &Failing| at_ms.saturating_sub(failing.last_ms) <= APART_MS;
                let mut failing =
                    self.failing.filter(goes_on).unwrap_or(Failing { since_ms: at_ms, last_ms: at_ms });
                if at_ms.saturating_sub(failing.last_ms) >= NOTED_EVERY_MS {
                    failing.last_ms = at_ms;
                }
                self.failing = Some(failing);
                let has_failed_for = at_ms.saturating_sub(failing.since_ms);
                if self.state == EndpointState::Enabled && has_failed_for >= FAILS_FOR_MS {
                    self.state = disable(WhyDisabled::Failing);
                }
            }
            Reached::Gone if self.state == EndpointState::Enabled => self.state = disable(WhyDisabled::Gone),
            Reached::Gone => {}
        }
        before != (self.state, self.failing)
    }

    /// Is told from now on, at another URL or again, with a clean slate.
    pub fn begin_anew(&mut self, now_ms: u64) {
        self.failing = None;
        self.since_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 60 * 60 * 1_000;
    const DAY_MS: u64 = 24 * HOUR_MS;

    fn secret(sealed: &str, request: Option<&str>) -> EndpointSecret {
        EndpointSecret {
            sealed: sealed.to_owned(),
            public_key: None,
            until_ms: None,
            request: request.map(str::to_owned),
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            id: EndpointId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            url: "https://receiver.example/".to_owned(),
            description: None,
            email: None,
            kinds: vec![],
            secrets: vec![secret("one", None)],
            headers: None,
            results: false,
            max_per_second: None,
            state: EndpointState::Enabled,
            failing: None,
            created_ms: 10_000,
            since_ms: 10_000,
            ver: 1,
        }
    }

    #[test]
    fn an_endpoint_wants_what_it_names_and_what_happened_since_it_is_there() {
        let mut endpoint = endpoint();
        // A second of another machine's clock is no reason to lose an event.
        assert!(
            endpoint.wants(EventKind::BatchPaused, 9_000) && !endpoint.wants(EventKind::BatchPaused, 8_999)
        );
        assert!(!endpoint.wants(EventKind::BatchStarted, 10_000), "that is told on request alone");
        endpoint.kinds = vec![EventKind::BatchCompleted];
        assert!(endpoint.wants(EventKind::BatchCompleted, 10_000));
        assert!(!endpoint.wants(EventKind::BatchPaused, 10_000));
        endpoint.state = EndpointState::Disabled { why: WhyDisabled::Requested, at_ms: 5 };
        assert!(!endpoint.wants(EventKind::BatchCompleted, 10_000));
    }

    #[test]
    fn a_new_secret_is_joined_by_the_one_before_for_a_while_however_often_its_request_is_repeated() {
        let mut endpoint = endpoint();
        let at =
            |endpoint: &Endpoint, now_ms| endpoint.secrets_at(now_ms).map(str::to_owned).collect::<Vec<_>>();
        endpoint.rotate(secret("two", Some("a")), 1_000, 50);
        endpoint.rotate(secret("another", Some("a")), 1_001, 50);
        assert_eq!(at(&endpoint, 1_049), ["two", "one"]);
        assert_eq!(at(&endpoint, 1_050), ["two"]);
        endpoint.rotate(secret("three", Some("b")), 1_010, 50);
        assert_eq!(at(&endpoint, 1_010), ["three", "two"]);
        endpoint.rotate(secret("four", None), 1_020, 0);
        assert_eq!(at(&endpoint, 1_020), ["four"]);
    }

    #[test]
    fn five_days_of_tries_without_a_success_switch_it_off_and_less_does_not() {
        let mut endpoint = endpoint();
        let fails = |endpoint: &mut Endpoint, from_ms: u64, days: u64| {
            for hours in (0..=days * 24).step_by(24) {
                endpoint.tried(Reached::Failed, from_ms + hours * HOUR_MS);
            }
        };
        fails(&mut endpoint, DAY_MS, 4);
        assert_eq!(endpoint.state, EndpointState::Enabled);
        assert!(endpoint.tried(Reached::Taken, 6 * DAY_MS - 1) && endpoint.failing.is_none());
        fails(&mut endpoint, 6 * DAY_MS, 5);
        let off = EndpointState::Disabled { why: WhyDisabled::Failing, at_ms: 11 * DAY_MS };
        assert_eq!(endpoint.state, off);
        // It stays off as it is, whatever comes late.
        endpoint.tried(Reached::Gone, 12 * DAY_MS);
        assert_eq!(endpoint.state, off);
    }

    #[test]
    fn a_failure_of_long_ago_and_one_of_an_earlier_url_say_nothing() {
        let mut endpoint = endpoint();
        assert!(endpoint.tried(Reached::Failed, DAY_MS));
        assert!(!endpoint.tried(Reached::Failed, DAY_MS + 1));
        // A month later the first try fails.
        assert!(endpoint.tried(Reached::Failed, 31 * DAY_MS));
        assert_eq!(endpoint.failing, Some(Failing { since_ms: 31 * DAY_MS, last_ms: 31 * DAY_MS }));
        assert_eq!(endpoint.state, EndpointState::Enabled);
        endpoint.begin_anew(32 * DAY_MS);
        for reached in [Reached::Gone, Reached::Failed] {
            assert!(!endpoint.tried(reached, 32 * DAY_MS - 1));
        }
        assert!(endpoint.tried(Reached::Gone, 32 * DAY_MS));
    }
}
