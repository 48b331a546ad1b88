//! The words at the end of a run.

use std::time::Duration;

use promptmill_domain::Counts;

use super::target::Target;
use crate::args::RunArgs;
use crate::progress::{cents, duration};

/// Prints to standard error what the rows came to, and what it took; `before` items had their outcome when this run began.
pub(crate) fn print(args: &RunArgs, counts: &Counts, took: Duration, before: u64, written: Option<&Target>) {
    if args.quiet {
        return;
    }
    eprint!("{}", text(counts, took, before));
    if let Some(Target::File { path, .. }) = written {
        eprintln!("results: {}", path.display());
    }
}

fn text(counts: &Counts, took: Duration, before: u64) -> String {
    let mut text = format!(
        "{} of {} rows have an outcome: {} succeeded ({} first time, {} repaired), {} failed\n",
        counts.settled(),
        counts.total(),
        counts.all_succeeded(),
        counts.succeeded,
        counts.repaired,
        counts.all_failed(),
    );
    for (kind, items) in &counts.failed {
        text.push_str(&format!("  failed: {items} {}\n", kind.as_str()));
    }
    let totals = &counts.totals;
    let cached = match totals.cached {
        0 => String::new(),
        cached => format!("{cached} replies of the cache, "),
    };
    let rate = counts.settled().saturating_sub(before) as f64 / took.as_secs_f64().max(0.001);
    text.push_str(&format!(
        "{} calls, {cached}{} + {} tokens, ${}, {} ({rate:.0} rows/s)\n",
        totals.calls,
        totals.tokens.prompt,
        totals.tokens.completion,
        cents(totals.cost),
        duration(took),
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::FailureKind;

    #[test]
    fn the_summary_tells_outcomes_reasons_and_what_it_took() {
        let counts = Counts {
            succeeded: 7,
            repaired: 2,
            failed: [(FailureKind::ContentRefused, 1)].into(),
            ..Counts::default()
        };
        let text = text(&counts, Duration::from_secs(2), 4);
        assert_eq!(
            text,
            "10 of 10 rows have an outcome: 9 succeeded (7 first time, 2 repaired), 1 failed\n  failed: 1 content_refused\n\
             0 calls, 0 + 0 tokens, $0, 2.0 s (3 rows/s)\n"
        );
    }
}
