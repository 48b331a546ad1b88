//! Whether a provider refuses calls for their rate, or by chance.
//!
//! Behind some providers stand many others, and now and then one of those is busy: a few calls of a hundred are refused, however
//! many there are. Who took each of them for a limit would never become fast. A limit that was reached refuses the next calls as well,
//! if they come at once; so some refusals are followed by a few, and where most of those are taken, it was not the limit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// A test is made after the first refusal, and then after so many; one that came when none was due counts as several. While tests are
/// passed there is one after each.
const TESTS_EVERY: u32 = 8;
const UNDUE: u32 = 3;

/// How much tests that were passed are remembered at most, and what one that was failed takes away: chance makes some fail, too.
const MOST_PASSED: u32 = 4;
const FAILED: u32 = 2;

/// Calls of a test, and how many are added for each that would be taken anyway until the first answer comes.
const CALLS: f64 = 3.0;
const CALLS_MORE: f64 = 2.0;

/// A test of which nothing is heard is over after that.
const TEST_ENDS: Duration = Duration::from_secs(10);

/// The part of them that must be taken.
const TAKEN: f64 = 0.65;

/// What refusals say of how calls are refused. `T` is what was known before the refusal that is tested.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Chance<T> {
    passed: u32,
    refusals: u32,
    test: Option<Test<T>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Test<T> {
    since: Moment,
    /// The number of its first call.
    first: u64,
    calls: f64,
    taken: f64,
    refused: f64,
    before: T,
}

/// A refusal that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Refused {
    /// The rate was raised until it came.
    pub(super) was_due: bool,
    /// What the rate is thought to be.
    pub(super) rate: f64,
    /// How long ago the call began.
    pub(super) secs: f64,
}

/// What one call means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Meaning<T> {
    /// It is none of a test's.
    Usual,
    /// It is, and the test goes on.
    Tested,
    /// The limit was reached, as was thought.
    Limit,
    /// It was not; this is what was known before.
    Chance(T),
}

impl<T> Default for Chance<T> {
    fn default() -> Self {
        Self { passed: 0, refusals: TESTS_EVERY, test: None }
    }
}

impl<T: Copy> Chance<T> {
    /// Whether tests said that calls are refused by chance.
    pub(super) fn refuses(&self) -> bool {
        self.passed > 0
    }

    /// After a refusal that counts: how many calls should follow at once to see whether it was one of the limit, if any. The next call is
    /// the `first`.
    pub(super) fn test(&mut self, now: Moment, first: u64, refused: &Refused, before: T) -> Option<f64> {
        self.refusals = self.refusals.saturating_add(if refused.was_due { 1 } else { UNDUE });
        if self.passed == 0 && self.refusals <= TESTS_EVERY {
            return None;
        }
        self.refusals = 0;
        let calls = (CALLS + CALLS_MORE * refused.rate * refused.secs).min(100.0).floor();
        self.test = Some(Test { since: now, first, calls, taken: 0.0, refused: 0.0, before });
        Some(calls)
    }

    /// Whether a test goes on. What other calls come to says nothing meanwhile.
    pub(super) fn is_testing(&self, now: Moment) -> bool {
        self.test.as_ref().is_some_and(|test| now.since(test.since) < TEST_ENDS)
    }

    /// The `nth` call, which began at `begun`, was taken or refused.
    pub(super) fn saw(&mut self, begun: Moment, nth: u64, is_taken: bool) -> Meaning<T> {
        let its = |test: &&mut Test<T>| {
            begun >= test.since && (test.first..test.first + test.calls as u64).contains(&nth)
        };
        let Some(test) = self.test.as_mut().filter(its) else {
            return Meaning::Usual;
        };
        *(if is_taken { &mut test.taken } else { &mut test.refused }) += 1.0;
        let before = test.before;
        if test.taken >= test.calls * TAKEN {
            self.passed = (self.passed + 1).min(MOST_PASSED);
        } else if test.refused > test.calls * (1.0 - TAKEN) {
            self.passed = self.passed.saturating_sub(FAILED);
        } else {
            return Meaning::Tested;
        }
        self.test = None;
        if self.passed > 0 { Meaning::Chance(before) } else { Meaning::Limit }
    }
}
