//! What calls cost, where a provider does not say: the price of a model, and the prices somebody wrote down.

use std::fmt;
use std::str::FromStr;

use crate::chat::ModelRef;
use crate::money::{InvalidMoney, Money};
use crate::outcome::Tokens;

const MILLION: u64 = 1_000_000;

/// What a model asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// For one token of the prompt.
    pub prompt: Money,
    /// For one token of the reply.
    pub completion: Money,
    /// For a call beside its tokens.
    pub request: Money,
}

impl Price {
    /// What a call of so many tokens costs. Discounts on tokens that the provider has cached are not known, so it may be less.
    pub fn of(&self, tokens: Tokens) -> Money {
        self.request + self.prompt.times(tokens.prompt) + self.completion.times(tokens.completion)
    }
}

/// A price that somebody wrote down, `PROVIDER:NAME=PROMPT/REPLY` in US dollars for a million tokens: `openai:gpt-4o=2.50/10`. A name that
/// ends with `*` is of every model that begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPrice {
    model: String,
    price: Price,
}

/// A text that is no [`OwnPrice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no price; write PROVIDER:NAME=PROMPT/REPLY in US dollars for a million tokens, for example openai:gpt-4o=2.50/10"
)]
pub struct InvalidPrice(String);

impl OwnPrice {
    fn is_of(&self, model: &ModelRef) -> bool {
        let (pattern, model) = (self.model.as_str(), model.to_string());
        pattern.strip_suffix('*').map_or(pattern == model, |beginning| model.starts_with(beginning))
    }
}

impl FromStr for OwnPrice {
    type Err = InvalidPrice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPrice(text.chars().take(120).collect());
        // Names hold colons and slashes, and may hold an equals sign.
        let (model, prices) = text.trim().rsplit_once('=').ok_or_else(invalid)?;
        let (prompt, completion) = prices.split_once('/').ok_or_else(invalid)?;
        model.trim().parse::<ModelRef>().map_err(|_| invalid())?;
        let of_one = |text: &str| -> Result<Money, InvalidMoney> {
            Ok(Money::from_pico(text.trim().parse::<Money>()?.pico().div_ceil(MILLION)))
        };
        let of_one = |text| of_one(text).map_err(|_| invalid());
        let price = Price { prompt: of_one(prompt)?, completion: of_one(completion)?, request: Money::ZERO };
        Ok(Self { model: model.trim().to_owned(), price })
    }
}

impl fmt::Display for OwnPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompt, completion) = (self.price.prompt.times(MILLION), self.price.completion.times(MILLION));
        write!(f, "{}={prompt}/{completion}", self.model)
    }
}

/// The price of the model among these: of the one that names it, else of the longest beginning.
pub fn own_price(prices: &[OwnPrice], model: &ModelRef) -> Option<Price> {
    let of_it = prices.iter().filter(|own| own.is_of(model));
    of_it.max_by_key(|own| (!own.model.ends_with('*'), own.model.len())).map(|own| own.price)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(texts: &[&str]) -> Vec<OwnPrice> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_price_is_written_for_a_million_tokens_and_applied_to_each() {
        let prices = own(&["openai:gpt-4o=2.50/10"]);
        let price = own_price(&prices, &"openai:gpt-4o".parse().unwrap()).unwrap();
        let cost = price.of(Tokens { prompt: 1_000_000, completion: 100_000 });
        assert_eq!(cost, "3.5".parse().unwrap());
        assert_eq!(price.of(Tokens::default()), Money::ZERO);
        assert_eq!(prices[0].to_string(), "openai:gpt-4o=2.5/10");
        let with_request = Price { request: "0.01".parse().unwrap(), ..price };
        assert_eq!(with_request.of(Tokens::default()), "0.01".parse().unwrap());
    }

    #[test]
    fn the_name_goes_before_the_longest_beginning() {
        let prices =
            own(&["openai:*=1/1", "openai:gpt-*=2/2", "openai:gpt-4o=3/3", "openrouter:a/b:free=0/0"]);
        let prompt = |model: &str| {
            own_price(&prices, &model.parse().unwrap()).map(|price| price.prompt.times(MILLION).to_string())
        };
        assert_eq!(prompt("openai:gpt-4o").as_deref(), Some("3"));
        assert_eq!(prompt("openai:gpt-4o-mini").as_deref(), Some("2"));
        assert_eq!(prompt("openai:other").as_deref(), Some("1"));
        assert_eq!(prompt("openrouter:a/b:free").as_deref(), Some("0"));
        assert_eq!(prompt("openrouter:a/b"), None);
    }

    #[test]
    fn what_is_no_price_says_how_one_is_written() {
        for bad in [
            "",
            "openai:m",
            "openai:m=1",
            "m=1/2",
            "openai:m=-1/2",
            "openai:m=1/2/3",
            "openai:m=one/two",
            "=1/2",
        ] {
            let error = bad.parse::<OwnPrice>().unwrap_err().to_string();
            assert!(error.contains("PROVIDER:NAME=PROMPT/REPLY"), "{error}");
        }
    }
}
