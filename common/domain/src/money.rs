//! Money: integer millionths of a millionth of a US dollar, decimal strings outside, never floats.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const PER_DOLLAR: u64 = 1_000_000_000_000;

/// An amount in 10^-12 US dollars; sums saturate at 9.2 million dollars, so an amount always fits a signed 64-bit field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money(u64);

/// A text that is not a non-negative decimal amount of dollars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an amount of US dollars such as 0.25")]
pub struct InvalidMoney;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    const MAX: u64 = i64::MAX.unsigned_abs();

    /// An amount of `pico` 10^-12 dollars.
    pub const fn from_pico(pico: u64) -> Self {
        Self(if pico > Self::MAX { Self::MAX } else { pico })
    }

    /// The amount in 10^-12 dollars.
    pub const fn pico(self) -> u64 {
        self.0
    }

    /// What is left of it without `other`, nothing where that is more.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This price for one, times `count`, saturating.
    pub const fn times(self, count: u64) -> Self {
        Self::from_pico(self.0.saturating_mul(count))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_pico(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// Parses dollars as a JSON number writes them (`0.25`, `4.12e-5`); digits beyond 10^-12 round half up.
impl FromStr for Money {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| InvalidMoney)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = whole.bytes().chain(fraction.bytes());
        if whole.is_empty() || text.len() > 64 || !digits.clone().all(|b| b.is_ascii_digit()) {
            return Err(InvalidMoney);
        }
        let mut value: u128 = 0;
        for digit in digits {
            value = value.checked_mul(10).ok_or(InvalidMoney)? + u128::from(digit - b'0');
        }
        // The amount is value * 10^scale in units of 10^-12 dollars.
        let fraction_digits = i32::try_from(fraction.len()).map_err(|_| InvalidMoney)?;
        let scale =
            exponent.checked_sub(fraction_digits).and_then(|s| s.checked_add(12)).ok_or(InvalidMoney)?;
        let pico = if value == 0 {
            0
        } else if scale >= 0 {
            let factor = 10u128.checked_pow(scale.unsigned_abs()).ok_or(InvalidMoney)?;
            value.checked_mul(factor).ok_or(InvalidMoney)?
        } else {
            match 10u128.checked_pow(scale.unsigned_abs()) {
                Some(divisor) => value.saturating_add(divisor / 2) / divisor,
                None => 0,
            }
        };
        u64::try_from(pico).map(Self::from_pico).map_err(|_| InvalidMoney)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, pico) = (self.0 / PER_DOLLAR, self.0 % PER_DOLLAR);
        if pico == 0 {
            return write!(f, "{dollars}");
        }
        let digits = format!("{pico:012}");
        write!(f, "{dollars}.{}", digits.trim_end_matches('0'))
    }
}

impl TryFrom<String> for Money {
    type Error = InvalidMoney;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_price_is_read_as_written() {
        let cases = [
            ("0", 0),
            ("0.0000005", 500_000),
            ("4.12e-5", 41_200_000),
            ("1E2", 100 * PER_DOLLAR),
            ("0.0000000000005", 1),
            ("0.0000000000004", 0),
            ("1e-400", 0),
        ];
        for (text, pico) in cases {
            assert_eq!(text.parse::<Money>().map(Money::pico), Ok(pico), "{text}");
        }
        for bad in ["", "-1", ".5", "1,5", "NaN", "1e", "1e99", "0x1", "１"] {
            assert!(bad.parse::<Money>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_survives_its_text_form(pico in 0..=Money::MAX) {
            let money = Money::from_pico(pico);
            prop_assert_eq!(money.to_string().parse::<Money>(), Ok(money));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,40}") {
            let _ = text.parse::<Money>();
        }
    }
}
