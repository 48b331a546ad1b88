//! A provider whose replies the test decides: the model's name says how it behaves, the prompt what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use promptmill_domain::{FailureKind, Money, Role, Tokens};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, Delta, ModelListing};
use tokio::sync::Semaphore;

/// The models:
/// `echo` replies with the last message, and refuses one that holds `REFUSE`; `bold` refuses nothing; `held` is `echo` after leave of the
/// test; `mended` replies with no JSON first and with JSON when asked again.
pub(crate) struct Scripted {
    leave: Semaphore,
    calls: AtomicU32,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { leave: Semaphore::new(0), calls: AtomicU32::new(0) })
    }

    /// Lets so many calls of `held` go on.
    pub(crate) fn let_go(&self, calls: usize) {
        self.leave.add_permits(calls);
    }

    /// Calls that were begun.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ChatProvider for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn credential_name(&self) -> &str {
        "none"
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let said = request.messages.last().map(|message| message.content.clone()).unwrap_or_default();
        if &*request.model == "held" {
            self.leave.acquire().await.expect("the semaphore stays open").forget();
        }
        if &*request.model != "bold" && said.contains("REFUSE") {
            return Err(CallFailure::new(FailureKind::ContentRefused, "not this one").with_status(400));
        }
        let content = match &*request.model {
            "mended" if request.messages.iter().any(|message| message.role == Role::Assistant) => {
                r#"{"mood": "good"}"#.to_owned()
            }
            "mended" => "I would rather not".to_owned(),
            _ => said,
        };
        if let Some(deltas) = &request.deltas {
            for word in content.split_inclusive(' ') {
                deltas.send(Delta::Text(word));
                tokio::task::yield_now().await;
            }
        }
        Ok(ChatReply {
            content,
            usage: Some(Tokens { prompt: 3, completion: 2 }),
            cost: Some(Money::from_pico(1_000_000)),
            status: 200,
            ..ChatReply::default()
        })
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let listing = |id: &str| ModelListing { id: id.to_owned(), ..ModelListing::default() };
        Ok(["echo", "bold", "held", "mended"].map(listing).into())
    }
}
