//! What a scheduler does beside letting chunks run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{Batch, TenantId};
use promptmill_egress::retry::Schedule;
use promptmill_egress::{Deadlines, Patience, Resolver, SystemResolver, UrlPolicy};
use promptmill_intake::Quotas;
use promptmill_mail::Mailer;
use promptmill_runtime::Presence;
use promptmill_vault::{ResultsLink, Vault};

/// How long a link to results is good: longer than the event that tells it may be tried, with every wait doubled as receivers may ask.
const LINK_LIVES_MS: u64 = 7 * 24 * 3_600 * 1_000;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Settings of a scheduler. The default is what one batch without a service needs: nothing is delivered, deleted or held back.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// How events reach their receivers; `None` leaves them where they are.
    pub webhooks: Option<Webhooks>,
    /// What is deleted when; `None` keeps everything.
    pub keeping: Option<Keeping>,
    /// How batches recur; `None` where schedules are left to others.
    pub recurring: Option<Recurring>,
    /// The most batches of one tenant that run at the same time, further ones stay queued; `None` for no limit.
    pub running_batches: Option<usize>,
    /// Tenants whose share of a lane is larger than that of others, so many times. Default: all are equal.
    pub weights: BTreeMap<TenantId, u32>,
    /// Whether there are other schedulers. Default: no.
    pub standing: Standing,
    /// How often is looked for work and for deliveries without being asked; a signal asks at once. Default 100 ms.
    pub poll: Duration,
    /// How long a batch may be `submitting` before its submit counts as cut short and is finished here. Default 5 s.
    pub finish_submit_after: Duration,
}

/// Whether a scheduler is the only one of its store.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It is: the store is embedded and locked.
    Alone,
    /// It is not, and is known to the others under this session.
    OneOfSeveral(Presence),
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            webhooks: None,
            keeping: None,
            recurring: None,
            running_batches: None,
            weights: BTreeMap::new(),
            standing: Standing::Alone,
            poll: Duration::from_millis(100),
            finish_submit_after: Duration::from_secs(5),
        }
    }
}

impl SchedulerConfig {
    /// What a service needs: events are delivered to receivers within `policy`, with secrets from `vault`; the default retention holds;
    /// a tenant has at most 20 batches running.
    pub fn serving(vault: Arc<Vault>, policy: UrlPolicy) -> Self {
        Self {
            recurring: Some(Recurring::new(vault.clone())),
            webhooks: Some(Webhooks::new(vault, policy)),
            keeping: Some(Keeping::default()),
            running_batches: Some(20),
            ..Self::default()
        }
    }
}

impl SchedulerConfig {
    /// The same with links to results in events, at the URL where the api is found, and with mail to whoever an endpoint names.
    #[must_use]
    pub fn telling(self, public_url: Option<String>, mailer: Option<Mailer>) -> Self {
        Self { webhooks: self.webhooks.map(|webhooks| Webhooks { public_url, mailer, ..webhooks }), ..self }
    }
}

impl SchedulerConfig {
    /// The same with rows of schedules from servers within `sources`.
    #[must_use]
    pub fn asking(self, sources: UrlPolicy) -> Self {
        Self { recurring: self.recurring.map(|recurring| Recurring { sources, ..recurring }), ..self }
    }
}

/// How events are delivered.
#[derive(Clone)]
pub struct Webhooks {
    /// Opens the signing secrets. Each is the text of a [`Secret`](promptmill_egress::Secret), sealed for the context
    /// [`Webhook::context`](promptmill_domain::Webhook::context).
    pub vault: Arc<Vault>,
    /// Which receivers may be called.
    pub policy: UrlPolicy,
    /// Looks their names up. Default: the system's resolver.
    pub resolver: Arc<dyn Resolver>,
    /// When a delivery is tried. Default: ten times over three days.
    pub schedule: Schedule,
    /// How long one try may take. Default 20 s.
    pub deadlines: Deadlines,
    /// Sends mail to whoever an endpoint names; `None` where nobody is written to. Default: none.
    pub mailer: Option<Mailer>,
    /// Where the api is found from outside, without a slash at its end, for links to results in events; `None` leaves them out. Default: none.
    pub public_url: Option<String>,
    /// Tries under way at the same time; as many again are begun to receivers known to be slow, and there are never more than four times as many. Default 128.
    pub concurrency: usize,
    /// Tries under way at the same time to one host, so that one slow receiver does not use them all. Default 4.
    pub per_host: usize,
}

impl Webhooks {
    /// Everything else at its default.
    pub fn new(vault: Arc<Vault>, policy: UrlPolicy) -> Self {
        Self {
            vault,
            policy,
            resolver: Arc::new(SystemResolver::default()),
            schedule: Schedule::default(),
            deadlines: Deadlines::default(),
            mailer: None,
            public_url: None,
            concurrency: 128,
            per_host: 4,
        }
    }
}

impl Webhooks {
    /// Where whoever is told of the batch reads its results for a while without a key; `None` where that is not known, or cannot be made.
    pub(crate) fn results_link(&self, batch: &Batch, now_ms: u64) -> Option<String> {
        let base = self.public_url.as_deref()?;
        let link = ResultsLink {
            tenant: batch.tenant.clone(),
            batch: batch.id,
            until_ms: now_ms.saturating_add(LINK_LIVES_MS),
        };
        let text = link.text(&self.vault).inspect_err(|error| {
            tracing::error!(batch.id = %batch.id, error = %error, "a link to results cannot be made");
        });
        Some(format!("{base}/v1/results/{}", text.ok()?))
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// How batches recur.
#[derive(Clone)]
pub struct Recurring {
    /// Opens the webhook secrets of schedules and seals those of their batches, each for its own
    /// ([`Webhook::context`](promptmill_domain::Webhook::context)).
    pub vault: Arc<Vault>,
    /// What tenants may bring in.
    pub quotas: Quotas,
    /// Which servers may be asked for rows. Default: those of the public internet.
    pub sources: UrlPolicy,
    /// Looks their names up. Default: the system's resolver.
    pub resolver: Arc<dyn Resolver>,
    /// How long they may take. Default: 30 s without a sign of life, 10 minutes in all.
    pub patience: Patience,
}

impl Recurring {
    /// Everything else at its default.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self {
            vault,
            quotas: Quotas::default(),
            sources: UrlPolicy::default(),
            resolver: Arc::new(SystemResolver::default()),
            patience: Patience { idle: Duration::from_secs(30), total: Duration::from_secs(600) },
        }
    }
}

impl fmt::Debug for Recurring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recurring").field("quotas", &self.quotas).finish_non_exhaustive()
    }
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeping {
    /// Batches after their end, those that do not say it themselves. Default 30 days.
    pub batches: Duration,
    /// Drafts after the last rows they took. Default 24 h.
    pub drafts: Duration,
    /// Uploads that became no part, after the last rows they took. Default 10 minutes.
    pub uploads: Duration,
    /// Answers to requests with an idempotency key. Default 24 h.
    pub claims: Duration,
    /// Finished immediate generations. Default 30 days.
    pub generations: Duration,
    /// Deliveries that are over. Default 30 days.
    pub deliveries: Duration,
    /// Ticks of schedules that are over, after their time. Default 90 days.
    pub ticks: Duration,
    /// Accounts of money after their last change. Default 62 days, so that the one of a month outlives it.
    pub budgets: Duration,
    /// Replies of the cache after their call. Default 30 days.
    pub replies: Duration,
    /// How often is looked for what was kept long enough. Default 10 s.
    pub every: Duration,
    /// The rest after each step of about 1,000 records, which is other writers' time. Default 20 ms.
    pub rest: Duration,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            batches: 30 * DAY,
            drafts: DAY,
            uploads: Duration::from_secs(600),
            claims: DAY,
            budgets: 62 * DAY,
            replies: 30 * DAY,
            generations: 30 * DAY,
            deliveries: 30 * DAY,
            ticks: 90 * DAY,
            every: Duration::from_secs(10),
            rest: Duration::from_millis(20),
        }
    }
}
