//! Models that are asked when the first one of a batch does not do.

use serde::{Deserialize, Serialize};

use crate::chat::ModelRef;
use crate::ids::LaneId;
use crate::money::Money;
use crate::outcome::FailureKind;
use crate::price::Price;

/// Models of one batch at most, the first one among them.
pub const MOST_MODELS: usize = 8;

/// When the next model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackOn {
    /// The provider is gone, fails, refuses the credential, or does not have the model.
    Unavailable,
    /// The provider takes no more calls for a while, or the lane is so full that a call would wait.
    OverRate,
    /// The reply is invalid after every repair, empty, cut or refused, or the prompt is too long for the model.
    Invalid,
}

impl FallbackOn {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Unavailable, Self::OverRate, Self::Invalid];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::OverRate => "over_rate",
            Self::Invalid => "invalid",
        }
    }

    /// What a failure is a case of; `None` for one that every model would have.
    pub const fn of(kind: FailureKind) -> Option<Self> {
        use FailureKind as K;
        match kind {
            K::RateLimited => Some(Self::OverRate),
            K::ProviderOverloaded
            | K::ProviderError
            | K::Timeout
            | K::ConnectionFailed
            | K::MalformedReply
            | K::ModelUnavailable
            | K::CredentialRefused
            | K::PaymentRequired
            | K::RequestRefused => Some(Self::Unavailable),
            K::InvalidOutput
            | K::RejectedOutput
            | K::ContentRefused
            | K::ContextTooLong
            | K::EmptyReply
            | K::TruncatedReply
            | K::ReplyTooLarge => Some(Self::Invalid),
            K::RenderFailed | K::WorkerKiller | K::Internal => None,
        }
    }
}

/// Whether these may be the models of one batch, the first one first.
///
/// # Errors
/// The position of the one that is wrong, and why in words.
pub fn check_models(models: &[ModelRef]) -> Result<(), (usize, String)> {
    if models.len() > MOST_MODELS {
        return Err((MOST_MODELS, format!("a batch has at most {MOST_MODELS} models")));
    }
    match models.iter().enumerate().find(|(at, model)| models[..*at].contains(model)) {
        Some((at, model)) => Err((at, format!("names {model} again; leave it out"))),
        None => Ok(()),
    }
}

/// A further model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackModel {
    /// Which.
    pub model: ModelRef,
    /// The lane of its calls.
    pub lane: LaneId,
}

/// What follows the first model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fallback {
    /// The models, in the order in which they are asked.
    pub models: Vec<FallbackModel>,
    /// When the next one is asked.
    pub on: Vec<FallbackOn>,
    /// Models whose price is known to be above this are passed over, the first one too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price: Option<MaxPrice>,
}

/// The most that a model may cost, for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPrice {
    /// Of prompts.
    pub prompt: Money,
    /// Of replies.
    pub completion: Money,
}

impl MaxPrice {
    /// Whether a price is within it.
    pub fn allows(self, price: Price) -> bool {
        const MILLION: u64 = 1_000_000;
        price.prompt.times(MILLION) <= self.prompt && price.completion.times(MILLION) <= self.completion
    }
}

impl Fallback {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.max_price.is_none()
    }
}

/// Where one item is in the chain of its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    models: u32,
    at: u32,
    /// Those that were asked since a wait, a bit each.
    asked: u32,
    /// Those whose reply was no good: they are not asked again.
    done_with: u32,
}

impl Chain {
    /// At the first of so many models.
    pub fn new(models: usize) -> Self {
        let models = u32::try_from(models.clamp(1, MOST_MODELS)).unwrap_or(1);
        Self { models, at: 0, asked: 1, done_with: 0 }
    }

    /// The same without those that are not to be asked; `None` when none is left.
    pub fn without(self, is_out: impl Fn(usize) -> bool) -> Option<Self> {
        let out = (0..self.models).filter(|model| is_out(*model as usize));
        let done_with = out.fold(self.done_with, |done, model| done | 1 << model);
        let mut chain = Self { asked: 0, done_with, ..self };
        chain.go_on().then_some(chain)
    }

    /// The one to ask.
    pub const fn at(self) -> usize {
        self.at as usize
    }

    /// Whether one is left that was not asked since the last wait.
    pub fn has_next(self) -> bool {
        self.next_of(self.asked | self.done_with).is_some()
    }

    /// Goes on to the next one that was not asked since the last wait. Answers whether there was one.
    pub fn go_on(&mut self) -> bool {
        let Some(next) = self.next_of(self.asked | self.done_with) else { return false };
        self.at = next;
        self.asked |= 1 << next;
        true
    }

    /// The reply of the one that was asked is no good, and another one may do better. Answers whether there is one.
    pub fn give_up_on_it(&mut self) -> bool {
        self.done_with |= 1 << self.at;
        // One that was not to be had before is asked again: it is the only one left.
        self.go_on() || {
            self.asked = 0;
            self.go_on()
        }
    }

    /// After a wait all are asked anew, from the first.
    pub fn begin_anew(&mut self) {
        self.asked = 0;
        if !self.go_on() {
            self.asked = 1 << self.at;
        }
    }

    fn next_of(self, but: u32) -> Option<u32> {
        (0..self.models).find(|model| but & (1 << model) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_once_before_a_wait_and_all_anew_after_it() {
        let mut chain = Chain::new(3);
        assert_eq!((chain.at(), chain.has_next()), (0, true));
        assert!(chain.go_on() && chain.at() == 1 && chain.go_on() && chain.at() == 2);
        assert!(!chain.has_next() && !chain.go_on() && chain.at() == 2);
        chain.begin_anew();
        assert_eq!((chain.at(), chain.has_next()), (0, true));
    }

    #[test]
    fn one_whose_reply_was_no_good_is_not_asked_again() {
        let mut chain = Chain::new(3);
        assert!(chain.give_up_on_it() && chain.at() == 1);
        // The second is away, the third is no good: the second is waited for.
        assert!(chain.go_on() && chain.at() == 2);
        assert!(chain.give_up_on_it() && chain.at() == 1);
        chain.begin_anew();
        assert_eq!((chain.at(), chain.has_next()), (1, false));
        assert!(!chain.give_up_on_it());
    }

    #[test]
    fn those_that_are_left_out_are_never_asked() {
        let mut chain = Chain::new(3).without(|model| model == 0).unwrap();
        assert_eq!(chain.at(), 1);
        assert!(chain.go_on() && chain.at() == 2 && !chain.has_next());
        chain.begin_anew();
        assert_eq!(chain.at(), 1);
        assert_eq!(Chain::new(2).without(|_| true), None);
    }

    #[test]
    fn a_price_is_within_what_is_allowed_for_a_million_tokens() {
        let most = MaxPrice { prompt: "2.50".parse().unwrap(), completion: "10".parse().unwrap() };
        let price =
            |text: &str| crate::price::own_price(&[text.parse().unwrap()], &"a:b".parse().unwrap()).unwrap();
        assert!(most.allows(price("a:b=2.50/10")) && most.allows(price("a:b=0/0")));
        assert!(!most.allows(price("a:b=2.51/10")) && !most.allows(price("a:b=1/11")));
    }

    #[test]
    fn a_single_model_has_none_that_follows() {
        let mut chain = Chain::new(1);
        assert!(!chain.has_next() && !chain.go_on());
        chain.begin_anew();
        assert_eq!(chain.at(), 0);
        assert!(!chain.give_up_on_it());
    }

    #[test]
    fn what_every_model_would_have_is_no_case_of_a_fallback() {
        let none: Vec<_> =
            FailureKind::ALL.into_iter().filter(|kind| FallbackOn::of(*kind).is_none()).collect();
        assert_eq!(none, [FailureKind::RenderFailed, FailureKind::WorkerKiller, FailureKind::Internal]);
    }
}
