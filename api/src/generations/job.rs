//! A generation ready to run, and the form in which what was asked is kept.

use std::sync::Arc;

use bytes::Bytes;
use promptmill_domain::{BatchId, BatchSpec, GenerationId, Message, TenantId};
use promptmill_pipeline::{BatchPlan, ItemContent};
use promptmill_ports::Generation;
use promptmill_prompt::Template;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::heavy::heavy;
use crate::problem::Problem;

/// What was asked, with the template's text pinned. Holds no secrets: credentials stay with the provider.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredRequest {
    pub(super) spec: BatchSpec,
    pub(super) content: StoredContent,
}

/// From what the messages come.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredContent {
    /// Checked variables as JSON text.
    Variables(String),
    /// The messages themselves.
    Messages(Vec<Message>),
}

impl StoredRequest {
    /// Reads what [`Job::new`] stored.
    ///
    /// # Errors
    /// When it is something else; its content is not repeated.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, CorruptRequest> {
        serde_json::from_slice(bytes).map_err(|_| CorruptRequest)
    }
}

/// A stored request that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a stored generation cannot be read")]
pub(super) struct CorruptRequest;

/// A generation that can be run.
pub(super) struct Job {
    /// As it is kept while it runs.
    pub(super) begun: Generation,
    /// Its template compiled and its provider found.
    pub(super) plan: BatchPlan,
    /// From what its messages come.
    pub(super) content: ItemContent,
}

impl Job {
    /// A generation that is asked for now.
    ///
    /// # Errors
    /// When this process cannot run it.
    pub(super) fn new(
        app: &App,
        tenant: &TenantId,
        id: GenerationId,
        request: StoredRequest,
        template: Arc<Template>,
    ) -> Result<Self, Problem> {
        let text = serde_json::to_vec(&request).map_err(Problem::internal)?;
        let begun = Generation {
            id,
            tenant: tenant.clone(),
            request: Bytes::from(text),
            outcome: None,
            created_ms: app.now_ms(),
            owner: app.session(),
        };
        Self::of(app, begun, request, template)
    }

    /// A generation that was asked for before.
    ///
    /// # Errors
    /// When it cannot be read, or this process cannot run it.
    pub(super) async fn of_stored(app: &App, begun: Generation) -> Result<Self, Problem> {
        let request = StoredRequest::read(&begun.request).map_err(Problem::internal)?;
        let source = request.spec.template.clone();
        let template = heavy(move || Template::parse(&source)).await?;
        let template = template.map_err(|_| Problem::internal(CorruptRequest))?;
        Self::of(app, begun, request, Arc::new(template))
    }

    fn of(
        app: &App,
        begun: Generation,
        request: StoredRequest,
        template: Arc<Template>,
    ) -> Result<Self, Problem> {
        let StoredRequest { spec, content } = request;
        // Only names the calls: a generation belongs to no batch.
        let name = BatchId::from_bytes(*begun.id.as_bytes());
        let find = |provider: &str| app.engine().providers.get(provider);
        let plan = BatchPlan::among(template.into(), name, &spec, find)
            .map_err(|_| Problem::invalid("/model", "its provider is not configured any more"))?;
        plan.set_interactive(true);
        let content = match content {
            StoredContent::Variables(variables) => ItemContent::Variables(variables),
            StoredContent::Messages(messages) => ItemContent::Messages(messages),
        };
        Ok(Self { begun, plan, content })
    }
}
