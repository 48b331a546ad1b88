//! Template versions that were parsed, which never change; and which template a name stood for a moment ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use promptmill_domain::{TemplateRef, TenantId};
use promptmill_ports::TemplateKey;
use promptmill_prompt::Template;

/// Bytes of template texts that are remembered; a compiled template is some ten times its text.
const MAX_BYTES: usize = 8 << 20;

/// How long a name stands for the template it was found for: one that is deleted elsewhere may be used so long.
const NAMED: Duration = Duration::from_secs(1);

/// Names that are remembered.
const MAX_NAMES: usize = 4_096;

/// Parsed template versions, those asked for least lately go first; and names.
#[derive(Default)]
pub(crate) struct TemplateCache(Mutex<Cached>, Mutex<HashMap<(TenantId, TemplateKey), Named>>);

/// What a name stood for.
#[derive(Debug)]
struct Named {
    newest: TemplateRef,
    at: Instant,
}

#[derive(Default)]
struct Cached {
    templates: HashMap<(promptmill_domain::TemplateId, u32), (Arc<Template>, u64)>,
    bytes: usize,
    /// Counts the looks, so that the least recent one is known.
    looks: u64,
}

impl TemplateCache {
    /// That version, if it was parsed.
    pub(crate) fn get(&self, version: &TemplateRef) -> Option<Arc<Template>> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.looks += 1;
        let now = cached.looks;
        let (template, looked_at) = cached.templates.get_mut(&(version.id, version.version))?;
        *looked_at = now;
        Some(template.clone())
    }

    /// The version of that number, where the name was looked up lately. What the newest one is must be asked for each time.
    pub(crate) fn named(
        &self,
        tenant: &TenantId,
        key: &TemplateKey,
        version: u32,
        now: Instant,
    ) -> Option<TemplateRef> {
        let names = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let named = names.get(&(tenant.clone(), key.clone()))?;
        let is_good = now.duration_since(named.at) < NAMED && version <= named.newest.version;
        is_good.then(|| TemplateRef { version, ..named.newest.clone() })
    }

    /// Remembers what a name stands for, and its newest version.
    pub(crate) fn note(&self, tenant: &TenantId, key: TemplateKey, newest: TemplateRef, now: Instant) {
        let mut names = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert((tenant.clone(), key), Named { newest, at: now });
    }

    /// Forgets what the names of the tenant stand for.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        let mut names = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|(of, _), _| of != tenant);
    }

    /// Remembers a parsed version.
    pub(crate) fn put(&self, version: &TemplateRef, template: &Arc<Template>) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Cached { templates, bytes, looks } = &mut *cached;
        *looks += 1;
        let replaced = templates.insert((version.id, version.version), (template.clone(), *looks));
        *bytes += template.source().len();
        *bytes -= replaced.map_or(0, |(template, _)| template.source().len());
        while *bytes > MAX_BYTES
            && templates.len() > 1
            && let Some(least) = templates.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key)
            && let Some((template, _)) = templates.remove(&least)
        {
            *bytes -= template.source().len();
        }
    }
}

#[cfg(test)]
mod tests;
