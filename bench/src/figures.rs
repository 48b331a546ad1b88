//! Several runs of one figure, and numbers for people.

use std::fmt;

/// The same figure from every run.
#[derive(Debug, Clone, Default)]
pub struct Runs(Vec<f64>);

impl FromIterator<f64> for Runs {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut sorted: Vec<_> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }
}

impl Runs {
    /// Takes the figure of one more run.
    pub fn push(&mut self, figure: f64) {
        let place = self.0.partition_point(|other| other.total_cmp(&figure).is_lt());
        self.0.insert(place, figure);
    }

    /// The one in the middle, the mean of the two there when their number is even; not a number when there was no run.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.as_slice() {
            [] => f64::NAN,
            sorted if sorted.len() % 2 == 1 => sorted[middle],
            sorted => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// What 95 % of them do not exceed; not a number when there was no run.
    pub fn p95(&self) -> f64 {
        let at = (self.0.len() * 95).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The least and the most.
    pub fn spread(&self) -> (f64, f64) {
        let end = |figure: Option<&f64>| figure.copied().unwrap_or(f64::NAN);
        (end(self.0.first()), end(self.0.last()))
    }

    /// How many runs there were.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there was none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number with as many digits as one reads: three where it is small, groups of thousands where it is large.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        let size = number.abs();
        if !number.is_finite() {
            return f.write_str("none");
        }
        if size >= 1000.0 {
            return f.write_str(&thousands(number));
        }
        let digits = match size {
            _ if size >= 100.0 => 0,
            _ if size >= 10.0 => 1,
            _ if size >= 1.0 => 2,
            _ if size >= 0.1 => 3,
            _ => 4,
        };
        let text = format!("{number:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        f.write_str(text)
    }
}

fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::with_capacity(digits.len() + 4);
    if number < 0.0 {
        text.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let of = |figures: &[f64]| figures.iter().copied().collect::<Runs>();
        assert_eq!(of(&[9.0, 1.0, 5.0]).median(), 5.0);
        assert_eq!(of(&[4.0, 1.0, 100.0, 2.0]).median(), 3.0);
        assert_eq!(of(&[7.0]).median(), 7.0);
        assert!(of(&[]).median().is_nan() && of(&[]).is_empty());
        assert_eq!(of(&(1..=20).rev().map(f64::from).collect::<Vec<_>>()).p95(), 19.0);
        assert_eq!(of(&[3.0, 7.0]).p95(), 7.0);
        assert!(of(&[]).p95().is_nan());
        assert_eq!(of(&[9.0, 1.0, 5.0]).spread(), (1.0, 9.0));
        assert_eq!(of(&[9.0, 1.0, 5.0]).len(), 3);
    }

    #[test]
    fn numbers_read_well_at_every_size() {
        for (number, text) in [
            (0.0, "0"),
            (0.0115, "0.0115"),
            (0.00712, "0.0071"),
            (0.45, "0.45"),
            (0.9914, "0.991"),
            (1.0, "1"),
            (2.0, "2"),
            (2.706, "2.71"),
            (13.04, "13"),
            (13.26, "13.3"),
            (100.4, "100"),
            (999.4, "999"),
            (1_000.0, "1,000"),
            (86_412.7, "86,413"),
            (1_250_000.0, "1,250,000"),
            (-1_250.0, "-1,250"),
            (f64::NAN, "none"),
        ] {
            assert_eq!(Number(number).to_string(), text);
        }
    }
}
