//! Templates that were compiled a moment ago: many small jobs name the same one, each with a copy of its text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use promptmill_domain::BatchSpec;
use promptmill_pipeline::{CompiledTemplate, PlanError};

/// Templates kept at the same time.
const KEPT: usize = 64;

/// By their text, each with whether it was asked for since the last look.
#[derive(Default)]
pub(crate) struct Templates(Mutex<HashMap<String, (CompiledTemplate, bool)>>);

impl Templates {
    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, (CompiledTemplate, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The template of a batch.
    pub(crate) fn of(&self, spec: &BatchSpec) -> Result<CompiledTemplate, PlanError> {
        if let Some((template, used)) = self.kept().get_mut(&spec.template) {
            *used = true;
            return Ok(template.clone());
        }
        // Two that need it at once compile it twice, and wait for nobody.
        let template = CompiledTemplate::of(spec)?;
        let mut kept = self.kept();
        if kept.len() < KEPT {
            kept.insert(spec.template.clone(), (template.clone(), true));
        }
        Ok(template)
    }

    /// Forgets those that nobody asked for since it was called last.
    pub(crate) fn forget_idle(&self) {
        self.kept().retain(|_, (_, used)| std::mem::take(used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(task: &str) -> BatchSpec {
        let messages = serde_json::json!([{ "role": "user", "content": task }]);
        let template = serde_json::json!({ "name": "t", "messages": messages });
        BatchSpec::new(
            template.to_string(),
            "demo:any".parse().unwrap(),
            promptmill_domain::LaneId::new("demo", "none"),
        )
    }

    #[test]
    fn a_template_is_compiled_once_while_it_is_in_use_and_forgotten_then() {
        let templates = Templates::default();
        let first = templates.of(&spec("a")).unwrap();
        assert!(first.is(&templates.of(&spec("a")).unwrap()));
        assert!(!first.is(&templates.of(&spec("b")).unwrap()));
        templates.forget_idle();
        assert!(first.is(&templates.of(&spec("a")).unwrap()));
        templates.forget_idle();
        templates.forget_idle();
        assert!(!first.is(&templates.of(&spec("a")).unwrap()));
        assert!(templates.of(&BatchSpec { template: "no template".to_owned(), ..spec("a") }).is_err());
    }

    #[test]
    fn of_many_few_are_kept() {
        let templates = Templates::default();
        for n in 0..2 * KEPT {
            templates.of(&spec(&n.to_string())).unwrap();
        }
        assert_eq!(templates.kept().len(), KEPT);
    }
}
