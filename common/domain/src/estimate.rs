//! What a batch will take, told before it is submitted.

use crate::money::Money;
use crate::outcome::Tokens;
use crate::price::Price;

/// Tokens that a reply is taken to have at most where no output limit is set.
pub const REPLY_WITHOUT_LIMIT: u64 = 1_024;

/// What is known of the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Rows that were looked at, one at least.
    pub rows: u64,
    /// Tokens of their prompts, at four bytes of text each.
    pub prompt_tokens: u64,
    /// Rows of the batch, which are taken to be like those that were looked at.
    pub of: u64,
}

/// Calls, tokens and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    /// Calls.
    pub calls: u64,
    /// Their tokens.
    pub tokens: Tokens,
    /// Their cost; `None` where no price is known.
    pub cost: Option<Money>,
}

/// What a batch will take at least and at most, as far as it can be told. Attempts that fail and are repeated come on top: most providers
/// ask nothing for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// One call a row, each with a short prompt for its bytes and a reply of one token.
    pub least: Bound,
    /// Every repair that the template allows, each with a long prompt for its bytes and the longest reply.
    pub most: Bound,
}

impl Estimate {
    /// The estimate for rows like these: `reply_limit` is the most tokens of a reply, where one is set.
    pub fn new(sample: Sample, reply_limit: Option<u32>, max_repairs: u32, price: Option<Price>) -> Self {
        let scaled = |tokens: u64| {
            let all = u128::from(tokens) * u128::from(sample.of) / u128::from(sample.rows.max(1));
            u64::try_from(all).unwrap_or(u64::MAX)
        };
        let prompt = scaled(sample.prompt_tokens);
        let reply = reply_limit.map_or(REPLY_WITHOUT_LIMIT, u64::from);
        let repairs = u64::from(max_repairs);
        let bound = |calls: u64, prompt: u64, completion: u64| {
            let tokens = Tokens { prompt, completion };
            let cost = price.map(|price| price.of(tokens) + price.request.times(calls.saturating_sub(1)));
            Bound { calls, tokens, cost }
        };
        // Words of English have five bytes a token, those of other scripts three and less.
        let (short, long) = (prompt / 5 * 4, prompt.saturating_mul(2));
        let calls = sample.of.saturating_mul(1 + repairs);
        // A repair says the prompt again, the last reply, and what is wrong with it.
        let repeated = long.saturating_add(sample.of.saturating_mul(reply)).saturating_mul(repairs);
        Self {
            least: bound(sample.of, short, sample.of),
            most: bound(calls, long.saturating_add(repeated), calls.saturating_mul(reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        prompt: Money::from_pico(2),
        completion: Money::from_pico(3),
        request: Money::from_pico(100),
    };

    #[test]
    fn a_sample_stands_for_all_rows_and_repairs_are_of_the_most() {
        let sample = Sample { rows: 10, prompt_tokens: 50, of: 1_000 };
        let estimate = Estimate::new(sample, Some(8), 1, Some(PRICE));
        assert_eq!(
            estimate.least,
            Bound {
                calls: 1_000,
                tokens: Tokens { prompt: 4_000, completion: 1_000 },
                cost: Some(Money::from_pico(8_000 + 3_000 + 100_000))
            }
        );
        assert_eq!(
            estimate.most,
            Bound {
                calls: 2_000,
                tokens: Tokens { prompt: 10_000 + 10_000 + 8_000, completion: 16_000 },
                cost: Some(Money::from_pico(56_000 + 48_000 + 200_000))
            }
        );
    }

    #[test]
    fn without_a_price_there_is_no_cost_and_without_a_limit_a_long_reply() {
        let sample = Sample { rows: 1, prompt_tokens: 5, of: 2 };
        let estimate = Estimate::new(sample, None, 0, None);
        assert_eq!((estimate.least.cost, estimate.most.cost), (None, None));
        assert_eq!(estimate.most.tokens.completion, 2 * REPLY_WITHOUT_LIMIT);
    }
}
