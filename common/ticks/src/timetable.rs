//! A rule with its bounds, ready to be asked.

use promptmill_domain::schedule::{MAX_INTERVAL_SECONDS, Rule};

use crate::cron::Cron;
use crate::rule::RuleError;
use crate::zone::LAST_SECOND;

/// No tick lies behind it, Unix milliseconds.
const LAST_MS: u64 = LAST_SECOND.unsigned_abs() * 1_000;

/// When a schedule is due: a rule, compiled, and the time in which it counts. There is at least one tick.
///
/// No tick lies after the year 9998, and none is repeated: each one is later than the one before it.
///
/// ```
/// use promptmill_ticks::{Rule, Timetable};
///
/// let rule = Rule::Cron { pattern: "30 9 * * MON-FRI".to_owned(), zone: "Europe/Berlin".to_owned() };
/// let timetable = Timetable::new(&rule, None, None)?;
/// // Friday the 10th of January 2025, 9:30 in Berlin, is followed by Monday.
/// let friday = 1_736_497_800_000;
/// assert_eq!(timetable.last_until(friday), Some(friday));
/// assert_eq!(timetable.next_after(friday), Some(friday + 3 * 86_400_000));
/// # Ok::<(), promptmill_ticks::RuleError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Timetable {
    ticks: Ticks,
    start_ms: u64,
    end_ms: u64,
}

#[derive(Debug, Clone)]
enum Ticks {
    Cron(Box<Cron>),
    Every { every_ms: u64, from_ms: u64 },
}

impl Timetable {
    /// Compiles a rule: no tick lies before the start or after the end, where they are given.
    ///
    /// # Errors
    ///
    /// The rule cannot be read, the end is not after the start, or no tick lies between them.
    pub fn new(rule: &Rule, start_ms: Option<u64>, end_ms: Option<u64>) -> Result<Self, RuleError> {
        let ticks = Ticks::new(rule)?;
        let start = start_ms.unwrap_or(0);
        if end_ms.is_some_and(|end| end <= start) {
            return Err(RuleError::End("the end is not after the start; give a later one".to_owned()));
        }
        let timetable = Self { ticks, start_ms: start, end_ms: end_ms.unwrap_or(LAST_MS).min(LAST_MS) };
        match (timetable.first_from(0), end_ms) {
            (Some(_), _) => Ok(timetable),
            (None, Some(_)) => Err(RuleError::End(
                "this never comes, as no tick lies before the end; give a later one".to_owned(),
            )),
            (None, None) => Err(RuleError::Start(
                "this never comes, as no tick lies behind the start; give one before the year 9999"
                    .to_owned(),
            )),
        }
    }

    /// The first tick that is later than a moment.
    pub fn next_after(&self, after_ms: u64) -> Option<u64> {
        self.first_from(after_ms.checked_add(1)?)
    }

    /// The latest tick that is not later than a moment.
    pub fn last_until(&self, until_ms: u64) -> Option<u64> {
        self.ticks.last_until(until_ms.min(self.end_ms)).filter(|tick| *tick >= self.start_ms)
    }

    /// The shortest time between two ticks that follow each other: exact, and at most 366 days.
    ///
    /// Of a pattern it is what the wall clock shows, whatever the bounds are: where the clock is changed two ticks may be nearer to each
    /// other.
    pub fn shortest_gap_ms(&self) -> u64 {
        match &self.ticks {
            Ticks::Cron(cron) => cron.shortest_gap().unsigned_abs() * 1_000,
            Ticks::Every { every_ms, .. } => *every_ms,
        }
    }

    /// The first tick that is not earlier than a moment.
    pub(crate) fn first_from(&self, from_ms: u64) -> Option<u64> {
        self.ticks.first_from(from_ms.max(self.start_ms)).filter(|tick| *tick <= self.end_ms)
    }

    /// How many ticks there are from one to another one, both of them included, and whether there are no more than that: ticks that have
    /// to be looked for are counted up to a number.
    pub(crate) fn count(&self, first_ms: u64, last_ms: u64, most: u64) -> (u64, bool) {
        if let Ticks::Every { every_ms, .. } = self.ticks {
            return ((last_ms - first_ms) / every_ms + 1, true);
        }
        let (mut count, mut at) = (1, first_ms);
        while at < last_ms && count < most {
            let Some(next) = self.next_after(at) else { break };
            (count, at) = (count + 1, next);
        }
        (count, at >= last_ms)
    }
}

impl Ticks {
    fn new(rule: &Rule) -> Result<Self, RuleError> {
        match rule {
            Rule::Cron { pattern, zone } => Ok(Self::Cron(Box::new(Cron::new(pattern, zone)?))),
            Rule::Every { seconds, from_ms } if (1..=MAX_INTERVAL_SECONDS).contains(seconds) => {
                Ok(Self::Every { every_ms: seconds * 1_000, from_ms: *from_ms })
            }
            Rule::Every { seconds, .. } => Err(RuleError::Seconds(format!(
                "an interval of {seconds} seconds is not possible; give 1 to {MAX_INTERVAL_SECONDS}, which is 366 days"
            ))),
        }
    }

    fn first_from(&self, ms: u64) -> Option<u64> {
        let tick = match self {
            Self::Cron(cron) => in_ms(cron.first_from(in_seconds(ms.div_ceil(1_000)))?),
            Self::Every { every_ms, from_ms } => {
                let steps = ms.saturating_sub(*from_ms).div_ceil(*every_ms);
                from_ms.checked_add(steps.checked_mul(*every_ms)?)?
            }
        };
        (tick <= LAST_MS).then_some(tick)
    }

    /// The moment is not behind the last possible tick.
    fn last_until(&self, ms: u64) -> Option<u64> {
        match self {
            Self::Cron(cron) => cron.last_until(in_seconds(ms / 1_000)).map(in_ms),
            Self::Every { every_ms, from_ms } => Some(ms - ms.checked_sub(*from_ms)? % every_ms),
        }
    }
}

fn in_seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Of a tick, which is never before 1970.
fn in_ms(second: i64) -> u64 {
    second.unsigned_abs() * 1_000
}
