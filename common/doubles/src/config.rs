//! What a double is started with.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::plan::FaultPlan;

/// Whose API is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// OpenRouter's chat completions.
    OpenRouter,
    /// Ollama's native API.
    Ollama,
    /// Chat completions as servers compatible with OpenAI offer them.
    OpenAi,
}

impl Provider {
    /// The path below which the provider's own documented paths begin.
    pub const fn base_path(self) -> &'static str {
        match self {
            Self::OpenRouter => "/openrouter/api/v1",
            Self::Ollama => "/ollama",
            Self::OpenAi => "/openai/v1",
        }
    }
}

/// How long a call takes before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    shortest: Duration,
    longest: Duration,
}

/// A text that is not a latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidLatency;

impl fmt::Display for InvalidLatency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a latency in milliseconds such as 20 or 5..20")
    }
}

impl std::error::Error for InvalidLatency {}

impl Latency {
    /// No waiting at all.
    pub const NONE: Self = Self { shortest: Duration::ZERO, longest: Duration::ZERO };

    /// The same for every call.
    pub const fn fixed(latency: Duration) -> Self {
        Self { shortest: latency, longest: latency }
    }

    /// Evenly spread from `shortest` to `longest`, which are swapped when they stand the wrong way round.
    pub fn range(shortest: Duration, longest: Duration) -> Self {
        Self { shortest: shortest.min(longest), longest: longest.max(shortest) }
    }

    pub(crate) fn draw(self, dice: &mut Dice) -> Duration {
        let spread = u64::try_from((self.longest - self.shortest).as_micros()).unwrap_or(u64::MAX);
        if spread == 0 {
            self.shortest
        } else {
            self.shortest + Duration::from_micros(dice.below(spread + 1))
        }
    }
}

/// Parses milliseconds: `20` or `5..20`.
impl FromStr for Latency {
    type Err = InvalidLatency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let millis = |text: &str| text.parse().map(Duration::from_millis).map_err(|_| InvalidLatency);
        match text.split_once("..") {
            Some((shortest, longest)) => Ok(Self::range(millis(shortest)?, millis(longest)?)),
            None => Ok(Self::fixed(millis(text)?)),
        }
    }
}

/// Settings of one double.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Default: a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// Decides every reply, latency and fault together with what is asked. Default: 1.
    pub seed: u64,
    /// Which faults happen. Default: none.
    pub plan: FaultPlan,
    /// Time before the first byte of a reply. Default: none.
    pub latency: Latency,
    /// Further delay of [`crate::Fault::SlowFirstByte`]. Default: 250 ms.
    pub slow_first_byte: Duration,
    /// How long [`crate::Fault::Hang`] holds a call before the connection is reset. Default: 5 s.
    pub hang: Duration,
    /// Pause before each piece of a [`crate::Fault::Drip`]. Default: 50 ms.
    pub drip: Duration,
    /// Bearer keys OpenRouter accepts. Default: none named, which accepts any, but one must be sent.
    pub openrouter_keys: Vec<String>,
    /// Bearer keys the compatible server accepts. Default: none named, which asks for no key at all.
    pub openai_keys: Vec<String>,
    /// The models that exist; an unlisted name is refused. Default: none named, which accepts every name.
    pub models: Vec<String>,
    /// After a 429 was sent, calls that arrive within this time count as already on their way. Default: 50 ms.
    pub early_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            plan: FaultPlan::none(),
            latency: Latency::NONE,
            slow_first_byte: Duration::from_millis(250),
            hang: Duration::from_secs(5),
            drip: Duration::from_millis(50),
            openrouter_keys: Vec::new(),
            openai_keys: Vec::new(),
            models: Vec::new(),
            early_grace: Duration::from_millis(50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_one_number_or_a_range() {
        assert_eq!("20".parse(), Ok(Latency::fixed(Duration::from_millis(20))));
        let range: Latency = "20..5".parse().unwrap();
        assert_eq!(range, Latency::range(Duration::from_millis(5), Duration::from_millis(20)));
        let mut dice = Dice::new(3);
        for _ in 0..100 {
            assert!((Duration::from_millis(5)..=Duration::from_millis(20)).contains(&range.draw(&mut dice)));
        }
        for bad in ["", "..", "5..", "-1", "5ms"] {
            assert_eq!(bad.parse::<Latency>(), Err(InvalidLatency), "{bad:?}");
        }
    }
}
