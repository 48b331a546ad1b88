//! Points in a lane's time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment of a lane's time in microseconds. Where zero lies is for whoever keeps the lane to say; only differences count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// The moment so many microseconds after zero.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since zero.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; nothing where that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment after that time.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The moment after so many seconds; a number that is none, or too large, is ten minutes.
    pub(super) fn after_secs(self, secs: f64) -> Self {
        const LONGEST: f64 = 600.0;
        self.after(Duration::from_secs_f64(if secs.is_nan() { LONGEST } else { secs.clamp(0.0, LONGEST) }))
    }
}
