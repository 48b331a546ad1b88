//! What an archive holds, in numbers.

use std::collections::BTreeSet;
use std::fmt;

use promptmill_domain::schedule::{HttpRows, RowSource};

use crate::record::Record;

/// What an archive holds, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tenants.
    pub tenants: u64,
    /// API keys.
    pub keys: u64,
    /// Templates.
    pub templates: u64,
    /// Batches, those that were deleted while they were read not counted.
    pub batches: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// Immediate generations.
    pub generations: u64,
    /// Deliveries of webhooks.
    pub deliveries: u64,
    /// Schedules, those that were deleted while they were read not counted.
    pub schedules: u64,
    /// Row sets, those of rows that came with a schedule not counted.
    pub row_sets: u64,
    /// Ids of the master keys that webhook secrets and kept answers in it are sealed under. Whoever is to deliver and repeat these needs the keys.
    pub master_keys: BTreeSet<String>,
    /// SHA-256 over its records, in hexadecimal digits: the same for stores that hold the same.
    pub digest: String,
}

impl Summary {
    /// Counts a record.
    pub(crate) fn count(&mut self, record: &Record) {
        let number = match record {
            Record::Tenant(_) => &mut self.tenants,
            Record::Key(_) => &mut self.keys,
            Record::Template(_) => &mut self.templates,
            Record::End(_) => &mut self.batches,
            Record::Outcome(_) => &mut self.outcomes,
            Record::Generation(_) => &mut self.generations,
            Record::Delivery(delivery) => {
                self.note_sealed(&delivery.sealed_secret);
                &mut self.deliveries
            }
            Record::Schedule(schedule) => {
                if let Some(webhook) = &schedule.run.spec.webhook {
                    self.note_sealed(&webhook.sealed_secret);
                }
                if let RowSource::Http(HttpRows { headers: Some(headers), .. }) = &schedule.run.rows {
                    self.note_sealed(&headers.sealed);
                }
                &mut self.schedules
            }
            Record::RowSet(set) if set.name.is_some() => &mut self.row_sets,
            Record::Batch(batch) => {
                if let Some(webhook) = &batch.spec.webhook {
                    self.note_sealed(&webhook.sealed_secret);
                }
                return;
            }
            Record::Endpoint(endpoint) => {
                endpoint.secrets.iter().for_each(|secret| self.note_sealed(&secret.sealed));
                endpoint.headers.iter().for_each(|headers| self.note_sealed(&headers.sealed));
                return;
            }
            Record::Claim(claim) => {
                let body = claim.answer.as_ref().and_then(|answer| std::str::from_utf8(&answer.body).ok());
                self.note_sealed(body.unwrap_or_default());
                return;
            }
            Record::Version(_)
            | Record::Label(_)
            | Record::RowSet(_)
            | Record::Tick(_)
            | Record::Block(_)
            | Record::Part(_)
            | Record::Chunk(_)
            | Record::Event(_)
            | Record::Gone => return,
        };
        *number += 1;
    }

    /// A sealed text is `pmv1.<key id>.<ciphertext>`; any other has no key.
    fn note_sealed(&mut self, sealed: &str) {
        if let Some(("pmv1", behind)) = sealed.split_once('.')
            && let Some((id, _)) = behind.split_once('.')
            && !self.master_keys.contains(id)
        {
            self.master_keys.insert(id.to_owned());
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tenants,
            keys,
            templates,
            batches,
            outcomes,
            generations,
            deliveries,
            schedules,
            row_sets,
            ..
        } = self;
        write!(
            f,
            "tenants {tenants}, keys {keys}, templates {templates}, batches {batches} with {outcomes} outcomes, \
             generations {generations}, deliveries {deliveries}, schedules {schedules}, row sets {row_sets}; sha256 {}",
            self.digest
        )
    }
}
