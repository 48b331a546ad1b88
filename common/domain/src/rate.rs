//! What a lane may do: how many calls may begin a moment, how many may run, and when it stands still.
//!
//! Some providers tell their limits, some only say "not now", some say it without saying until when. A [`LaneState`] learns from what
//! its calls came to, in whatever order they end, and gives leave accordingly: [`LaneState::grant`] and [`LaneState::ended`] are
//! all there is to drive it. It keeps no clock; one lane of a fleet is one state, wherever it is kept.

mod breaker;
mod chance;
mod estimate;
mod hints;
mod lane;
mod limits;
mod meter;
mod moment;
mod tokens;
mod window;
mod word;

pub use hints::{Quota, RateHints};
pub use lane::{Ask, CallEnd, Ended, Grant, LaneState, LaneView};
pub use limits::{LaneLimits, Learned};
pub use moment::Moment;

#[cfg(test)]
mod tests;
