//! Template versions that were parsed. A version never changes, so what is here is never stale.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use promptmill_domain::TemplateRef;
use promptmill_prompt::Template;

/// Bytes of template texts that are remembered; a compiled template is some ten times its text.
const MAX_BYTES: usize = 8 << 20;

/// Parsed template versions; those asked for least lately go first.
#[derive(Default)]
pub(crate) struct TemplateCache(Mutex<Cached>);

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
