//! The judge of schedules: each due time is one tick, decided by the policy; each run is one batch; each row of it is one call.
//!
//! Evidence is when a schedule was due by its rule alone, what the API tells of its ticks and lists of its batches, and what the provider
//! counted: a prompt carries the time of its run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What becomes of ticks that nobody looked at in time, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Misfire {
    RunOnce,
    RunEach { most: u32 },
    Skip,
}

impl Misfire {
    /// Runs that follow missed ticks without a gap, at least.
    const fn made_up(self) -> usize {
        match self {
            Self::RunOnce => 1,
            Self::RunEach { most } => most as usize,
            Self::Skip => 0,
        }
    }
}

/// All that is known of one schedule. Times are Unix milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) misfire: Misfire,
    /// Rows of each run.
    pub(crate) rows: u64,
    /// When it was due, ascending.
    pub(crate) due: Vec<u64>,
    /// Its history, ascending.
    pub(crate) ticks: Vec<Told>,
    /// Each batch that is there and says that it is one of this schedule: its id, and of which tick.
    pub(crate) batches: Vec<(String, u64)>,
    pub(crate) calls: Calls,
}

/// How often the provider was called, by the second of the tick and the row.
pub(crate) type Calls = BTreeMap<(u64, u64), u64>;

/// A tick as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) at_ms: u64,
    pub(crate) became: Became,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Became {
    Ran(Run),
    Missed,
    /// What no schedule here comes to.
    Other(String),
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) batch: String,
    pub(crate) state: String,
    pub(crate) rows: u64,
    pub(crate) succeeded: u64,
    /// Whether it began before its time, by the clock of whoever began it.
    pub(crate) is_early: bool,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// The history has each due time once, and nothing else.
    EachTickOnce,
    /// A tick ran when its time had come, or was missed where its policy allows it.
    ByPolicy,
    /// The batches that are there are those of the ticks that ran.
    OneBatch,
    /// A run ends well with exactly its rows.
    WholeRun,
    /// The provider was called once for each row of each run.
    OneCall,
}

/// What broke, with the first that broke it.
pub(crate) type Broken = BTreeMap<Invariant, String>;

impl Story {
    /// The times of ticks that ran.
    pub(crate) fn ran(&self) -> Vec<u64> {
        self.runs().map(|(at_ms, _)| at_ms).collect()
    }

    /// How many were missed.
    pub(crate) fn missed(&self) -> usize {
        self.ticks.iter().filter(|tick| tick.became == Became::Missed).count()
    }

    fn runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.ticks.iter().filter_map(|tick| match &tick.became {
            Became::Ran(run) => Some((tick.at_ms, run)),
            Became::Missed | Became::Other(_) => None,
        })
    }
}

/// Fails the test unless everything held of each schedule.
#[track_caller]
pub(crate) fn check(what: &str, stories: &[Story]) {
    let mut words = String::new();
    for story in stories {
        for (invariant, why) in judge(story) {
            let _ = write!(words, "\n  {} {:?} {invariant:?}: {why}", story.name, story.misfire);
        }
    }
    assert!(words.is_empty(), "{what}:{words}");
}

/// Judges what is known of a schedule.
pub(crate) fn judge(story: &Story) -> Broken {
    let mut broken = Broken::new();
    let mut note = |invariant, is_broken: bool, why: &dyn Fn() -> String| {
        if is_broken {
            broken.entry(invariant).or_insert_with(why);
        }
    };
    let told: Vec<u64> = story.ticks.iter().map(|tick| tick.at_ms).collect();
    note(Invariant::EachTickOnce, told != story.due, &|| difference(&story.due, &told));
    for tick in &story.ticks {
        if let Became::Other(other) = &tick.became {
            note(Invariant::ByPolicy, true, &|| format!("{} is {other}", tick.at_ms));
        }
    }
    for (at_ms, _) in story.runs().filter(|(_, run)| run.is_early) {
        note(Invariant::ByPolicy, true, &|| format!("{at_ms} began before its time"));
    }
    for series in missed_series(story) {
        let runs = story.ticks[series.end..].iter().take_while(|tick| matches!(tick.became, Became::Ran(_)));
        let (runs, wanted) = (runs.take(story.misfire.made_up()).count(), story.misfire.made_up());
        let first_ms = story.ticks[series.start].at_ms;
        note(Invariant::ByPolicy, runs < wanted, &|| {
            format!("{} missed from {first_ms} on are followed by {runs} runs, not {wanted}", series.len())
        });
    }
    let made: Vec<(&str, u64)> = story.runs().map(|(at_ms, run)| (run.batch.as_str(), at_ms)).collect();
    let mut there: Vec<(&str, u64)> = story.batches.iter().map(|(id, at_ms)| (id.as_str(), *at_ms)).collect();
    there.sort_by_key(|(_, at_ms)| *at_ms);
    note(Invariant::OneBatch, made != there, &|| {
        let [made, there] =
            [&made, &there].map(|some| some.iter().map(|(_, at_ms)| *at_ms).collect::<Vec<_>>());
        difference(&made, &there)
    });
    let ids: BTreeSet<&str> = made.iter().map(|(id, _)| *id).collect();
    note(Invariant::OneBatch, ids.len() < made.len(), &|| "one batch is that of several ticks".to_owned());
    for (at_ms, run) in story.runs() {
        let is_whole = run.state == "completed" && (run.rows, run.succeeded) == (story.rows, story.rows);
        note(Invariant::WholeRun, !is_whole, &|| format!("{at_ms}: {run:?}"));
    }
    let rows = |at_ms: u64| (0..story.rows).map(move |row| ((at_ms / 1_000, row), 1));
    let expected: Calls = story.runs().flat_map(|(at_ms, _)| rows(at_ms)).collect();
    note(Invariant::OneCall, story.calls != expected, &|| {
        let odd = |key: &&(u64, u64)| story.calls.get(key) != expected.get(key);
        let odd: BTreeSet<_> = story.calls.keys().chain(expected.keys()).filter(odd).collect();
        let first = odd.first().map(|key| (key, story.calls.get(key), expected.get(key)));
        format!("{} rows of runs; the first, its calls and what they should be: {first:?}", odd.len())
    });
    broken
}

/// Where ticks in a row were missed.
fn missed_series(story: &Story) -> Vec<std::ops::Range<usize>> {
    let mut series: Vec<std::ops::Range<usize>> = Vec::new();
    for (nth, _) in story.ticks.iter().enumerate().filter(|(_, tick)| tick.became == Became::Missed) {
        match series.last_mut() {
            Some(last) if last.end == nth => last.end = nth + 1,
            _ => series.push(nth..nth + 1),
        }
    }
    series
}

/// In what times that are there are others than they should be.
fn difference(should: &[u64], are: &[u64]) -> String {
    let only = |some: &[u64], others: &[u64]| {
        some.iter().filter(|at_ms| !others.contains(at_ms)).copied().collect::<Vec<_>>()
    };
    let twice: Vec<u64> = are.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
    format!("missing {:?}, too many {:?}, twice {twice:?}", only(should, are), only(are, should))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seven ticks a second from each other, those with these numbers missed, two rows each.
    fn story(misfire: Misfire, missed: &[u64]) -> Story {
        let due: Vec<u64> = (0..7).map(|nth| nth * 1_000).collect();
        let batch = |at_ms: u64| format!("batch_{at_ms}");
        let ticks = due.iter().map(|&at_ms| {
            let state = "completed".to_owned();
            let run = Run { batch: batch(at_ms), state, rows: 2, succeeded: 2, is_early: false };
            let is_missed = missed.contains(&(at_ms / 1_000));
            Told { at_ms, became: if is_missed { Became::Missed } else { Became::Ran(run) } }
        });
        let ticks: Vec<Told> = ticks.collect();
        let name = "s".to_owned();
        let mut story = Story { name, misfire, rows: 2, due, ticks, batches: vec![], calls: BTreeMap::new() };
        let ran = story.ran();
        story.batches = ran.iter().map(|at_ms| (batch(*at_ms), *at_ms)).collect();
        story.calls = ran.iter().flat_map(|at_ms| [0, 1].map(|row| ((at_ms / 1_000, row), 1))).collect();
        story
    }

    #[track_caller]
    fn check_broken(story: &Story, expected: &[Invariant]) {
        let broken = judge(story);
        assert_eq!(broken.keys().copied().collect::<Vec<_>>(), expected, "{broken:?}");
    }

    #[test]
    fn what_went_as_it_should_is_green() {
        check_broken(&story(Misfire::Skip, &[]), &[]);
        check_broken(&story(Misfire::Skip, &[0, 1, 6]), &[]);
        check_broken(&story(Misfire::RunOnce, &[1, 2, 4]), &[]);
        check_broken(&story(Misfire::RunEach { most: 2 }, &[0, 3, 4]), &[]);
    }

    #[test]
    fn a_tick_that_is_missing_or_doubled_or_nobodys_is_found() {
        let mut gone = story(Misfire::Skip, &[3]);
        gone.ticks.remove(3);
        check_broken(&gone, &[Invariant::EachTickOnce]);
        let mut twice = story(Misfire::Skip, &[3]);
        twice.ticks.insert(3, twice.ticks[3].clone());
        check_broken(&twice, &[Invariant::EachTickOnce]);
        let mut invented = story(Misfire::Skip, &[3]);
        invented.ticks.insert(4, Told { at_ms: 3_500, became: Became::Missed });
        check_broken(&invented, &[Invariant::EachTickOnce]);
        let mut ran_twice = story(Misfire::Skip, &[]);
        ran_twice.ticks.insert(3, ran_twice.ticks[3].clone());
        check_broken(&ran_twice, &[Invariant::EachTickOnce, Invariant::OneBatch]);
    }

    #[test]
    fn a_miss_against_the_policy_and_a_run_before_its_time_are_found() {
        check_broken(&story(Misfire::RunEach { most: 100 }, &[2]), &[Invariant::ByPolicy]);
        check_broken(&story(Misfire::RunEach { most: 2 }, &[2, 4]), &[Invariant::ByPolicy]);
        check_broken(&story(Misfire::RunOnce, &[5, 6]), &[Invariant::ByPolicy]);
        let mut open = story(Misfire::Skip, &[3]);
        open.ticks[3].became = Became::Other("due".to_owned());
        check_broken(&open, &[Invariant::ByPolicy]);
        let mut early = story(Misfire::Skip, &[3]);
        let Became::Ran(run) = &mut early.ticks[2].became else { panic!("it ran") };
        run.is_early = true;
        check_broken(&early, &[Invariant::ByPolicy]);
    }

    #[test]
    fn a_batch_too_many_or_too_few_is_found() {
        let mut two = story(Misfire::Skip, &[]);
        two.batches.push(("another".to_owned(), 3_000));
        check_broken(&two, &[Invariant::OneBatch]);
        let mut of_missed = story(Misfire::Skip, &[3]);
        of_missed.batches.push(("another".to_owned(), 3_000));
        check_broken(&of_missed, &[Invariant::OneBatch]);
        let mut none = story(Misfire::Skip, &[]);
        none.batches.remove(0);
        check_broken(&none, &[Invariant::OneBatch]);
        let mut shared = story(Misfire::Skip, &[]);
        shared.batches[1].0 = shared.batches[0].0.clone();
        let Became::Ran(run) = &mut shared.ticks[1].became else { panic!("it ran") };
        run.batch = shared.batches[0].0.clone();
        check_broken(&shared, &[Invariant::OneBatch]);
    }

    #[test]
    fn a_run_that_is_not_whole_and_a_call_too_many_or_too_few_are_found() {
        let mut cut = story(Misfire::Skip, &[]);
        let Became::Ran(run) = &mut cut.ticks[2].became else { panic!("it ran") };
        run.succeeded = 1;
        check_broken(&cut, &[Invariant::WholeRun]);
        let mut again = story(Misfire::Skip, &[]);
        again.calls.insert((2, 1), 2);
        check_broken(&again, &[Invariant::OneCall]);
        let mut uncalled = story(Misfire::Skip, &[]);
        uncalled.calls.remove(&(2, 1));
        check_broken(&uncalled, &[Invariant::OneCall]);
        let mut unasked = story(Misfire::Skip, &[2]);
        unasked.calls.insert((2, 0), 1);
        check_broken(&unasked, &[Invariant::OneCall]);
    }
}
