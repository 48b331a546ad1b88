//! A provider that does with each row what the test says, and keeps a ledger of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{FailureKind, Money, Tokens};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, ModelListing};
use tokio::sync::Semaphore;

/// What every call costs.
pub(crate) const COST: Money = Money::from_pico(1_000_000);

/// What the provider does with a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    Answer,
    /// Answers once [`Scripted::release`] let it.
    AnswerLater,
    Fail(FailureKind),
    /// Fails, and the lane is to stand still for so many milliseconds.
    SlowDown(u64),
    Panic,
    Hang,
}

#[derive(Debug, Default)]
struct Ledger {
    begun: HashMap<u64, u32>,
    answered: HashMap<u64, u32>,
    asked: HashMap<u64, String>,
    now: usize,
    most: usize,
}

type Script = dyn Fn(u64, u32) -> Does + Send + Sync;

pub(crate) struct Scripted {
    name: &'static str,
    script: Mutex<Arc<Script>>,
    ledger: Mutex<Ledger>,
    released: Semaphore,
}

impl Scripted {
    /// `script` gets the row and how often it was called before.
    pub(crate) fn new(script: impl Fn(u64, u32) -> Does + Send + Sync + 'static) -> Arc<Self> {
        Self::named("scripted", script)
    }

    /// The same under this name, which is its lane's too.
    pub(crate) fn named(
        name: &'static str,
        script: impl Fn(u64, u32) -> Does + Send + Sync + 'static,
    ) -> Arc<Self> {
        let script = Mutex::new(Arc::new(script) as Arc<Script>);
        Arc::new(Self { name, script, ledger: Mutex::default(), released: Semaphore::new(0) })
    }

    /// Does something else from now on.
    pub(crate) fn change(&self, script: impl Fn(u64, u32) -> Does + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Lets so many of the calls that wait be answered.
    pub(crate) fn release(&self, calls: usize) {
        self.released.add_permits(calls);
    }

    /// Calls begun, over all rows.
    pub(crate) fn begun(&self) -> usize {
        self.ledger.lock().unwrap().begun.values().map(|calls| *calls as usize).sum()
    }

    /// Calls begun for one row.
    pub(crate) fn begun_of(&self, row: u64) -> u32 {
        self.ledger.lock().unwrap().begun.get(&row).copied().unwrap_or(0)
    }

    /// The last message a row was called with.
    pub(crate) fn asked(&self, row: u64) -> String {
        self.ledger.lock().unwrap().asked.get(&row).cloned().unwrap_or_default()
    }

    /// Rows that were called.
    pub(crate) fn rows_begun(&self) -> usize {
        self.ledger.lock().unwrap().begun.len()
    }

    /// The most calls of one row that were answered.
    pub(crate) fn most_answered(&self) -> u32 {
        self.ledger.lock().unwrap().answered.values().max().copied().unwrap_or(0)
    }

    /// Calls under way now.
    pub(crate) fn now(&self) -> usize {
        self.ledger.lock().unwrap().now
    }

    /// The most calls at once since the last time this was asked.
    pub(crate) fn take_most(&self) -> usize {
        let mut ledger = self.ledger.lock().unwrap();
        std::mem::take(&mut ledger.most)
    }
}

/// Counts a call as under way as long as it lives, dropped ones too.
struct UnderWay<'a>(&'a Mutex<Ledger>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).now -= 1;
    }
}

#[async_trait]
impl ChatProvider for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn credential_name(&self) -> &str {
        "none"
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        let row = request.seed_hint;
        let before = {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.now += 1;
            ledger.most = ledger.most.max(ledger.now);
            let last = request.messages.last().map(|message| message.content.chars().take(100).collect());
            ledger.asked.insert(row, last.unwrap_or_default());
            let begun = ledger.begun.entry(row).or_default();
            *begun += 1;
            *begun - 1
        };
        let _under_way = UnderWay(&self.ledger);
        tokio::task::yield_now().await;
        let script = self.script.lock().unwrap().clone();
        match script(row, before) {
            Does::Answer => {}
            Does::AnswerLater => self.released.acquire().await.unwrap().forget(),
            Does::Fail(kind) => return Err(CallFailure::new(kind, "as the script says")),
            Does::SlowDown(ms) => {
                let mut failure = CallFailure::new(FailureKind::RateLimited, "slow down");
                failure.retry_after = Some(Duration::from_millis(ms));
                failure.lane_wide = true;
                return Err(failure);
            }
            Does::Panic => panic!("the script says so"),
            Does::Hang => std::future::pending().await,
        }
        *self.ledger.lock().unwrap().answered.entry(row).or_default() += 1;
        Ok(ChatReply {
            content: format!("reply to {row}"),
            usage: Some(Tokens { prompt: 2, completion: 1 }),
            cost: Some(COST),
            status: 200,
            ..ChatReply::default()
        })
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        Ok(vec![])
    }
}
