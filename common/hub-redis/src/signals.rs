//! Signals: one channel that every hub listens to, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use promptmill_ports::{HubError, Signal, Signals};
use redis::Value;
use redis::aio::{PubSub, PubSubSink};
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;

use crate::hub::RedisHub;
use crate::lanes::Lanes;
use crate::link::Link;
use crate::message::Message;

/// Silence for that long is tested with a question.
const ASKS_AFTER: Duration = Duration::from_secs(2);
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The waits between attempts to subscribe again grow from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[async_trait]
impl Signals for RedisHub {
    async fn publish(&self, signal: Signal) -> Result<(), HubError> {
        let message = Message::Signal(signal).to_bytes();
        self.link.ask(redis::cmd("PUBLISH").arg(&self.keys.channel).arg(message)).await
    }

    fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }
}

/// Who hears what comes over the channel.
pub(crate) struct Listener {
    pub(crate) link: Arc<Link>,
    pub(crate) channel: String,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) signals: broadcast::Sender<Signal>,
}

impl Listener {
    /// Listens for ever, and subscribes again whenever the subscription breaks.
    pub(crate) async fn listen(self, mut subscription: PubSub) {
        loop {
            self.hear(subscription).await;
            tracing::warn!("the hub's subscription broke; signals are missed until it is back");
            subscription = self.subscribe_again().await;
            // What was said meanwhile is unknown; calls must not begin on what was true before.
            self.lanes.doubt_all();
            tracing::info!("the hub's subscription is back");
        }
    }

    async fn hear(&self, subscription: PubSub) {
        let (mut sink, mut messages) = subscription.split();
        let mut silence = tokio::time::interval(ASKS_AFTER);
        silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return };
                    silence.reset();
                    self.take(message.get_payload_bytes());
                }
                _ = silence.tick() => {
                    if !answers(&mut sink).await {
                        return;
                    }
                }
            }
        }
    }

    fn take(&self, payload: &[u8]) {
        let Some(message) = Message::from_bytes(payload) else {
            tracing::debug!(bytes = payload.len(), "a message of another version was left out");
            return;
        };
        // Lanes first: who hears of a pause may ask for a permit at once.
        self.lanes.hear(&message);
        if let Message::Signal(signal) = message {
            // Without a subscriber there is nobody to tell.
            let _ = self.signals.send(signal);
        }
    }

    async fn subscribe_again(&self) -> PubSub {
        let mut wait = FIRST_WAIT;
        loop {
            match self.link.target().subscribe(&self.channel).await {
                Ok(subscription) => return subscription,
                Err(error) => {
                    let error = self.link.unavailable(&error);
                    tracing::debug!(error = %error.0, "the hub cannot be subscribed to");
                }
            }
            // Spread, so that a fleet does not come back in one moment.
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }
}

async fn answers(sink: &mut PubSubSink) -> bool {
    matches!(tokio::time::timeout(ANSWERS_WITHIN, sink.ping::<Value>()).await, Ok(Ok(_)))
}
