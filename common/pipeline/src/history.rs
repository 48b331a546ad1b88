//! The history of an item, kept within bounds.

use promptmill_domain::{Attempt, Totals};

/// Bytes of history kept in an outcome.
pub(crate) const OUTCOME_HISTORY_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of history kept with a parked item: a head may hold 256 of them.
pub(crate) const PARKED_HISTORY_BYTES: usize = 16 * 1024;

/// Shortens `attempts` to about `limit` bytes: first the words of the older calls go, then the oldest attempts themselves.
/// The last attempt always stays. Answers what the attempts that went had called, or `None` when nothing was cut.
pub(crate) fn bound(attempts: &mut Vec<Attempt>, limit: usize) -> Option<Totals> {
    if size(attempts) <= limit {
        return None;
    }
    let keep_words = attempts.len().saturating_sub(1);
    for call in attempts.iter_mut().take(keep_words).flat_map(|attempt| &mut attempt.calls) {
        call.problems.clear();
    }
    let surplus = size(attempts).saturating_sub(limit);
    let mut freed = 0;
    let gone = attempts.iter().take(keep_words).take_while(|attempt| {
        let go = freed < surplus;
        freed += size(std::slice::from_ref(attempt));
        go
    });
    let gone = gone.count();
    Some(Totals::of(&attempts.drain(..gone).collect::<Vec<_>>()))
}

/// About how many bytes the attempts take when stored.
fn size(attempts: &[Attempt]) -> usize {
    const CALL: usize = 160;
    attempts
        .iter()
        .flat_map(|attempt| &attempt.calls)
        .map(|call| CALL + call.problems.iter().map(|problem| problem.len() + 4).sum::<usize>())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{Call, Tokens};

    fn attempt(words: usize) -> Attempt {
        let call = Call {
            reply: None,
            started_ms: 0,
            duration_ms: 0,
            failure: None,
            status: None,
            problems: vec!["x".repeat(words)],
            tokens: Tokens::default(),
            cost: None,
            generation: None,
        };
        Attempt { calls: vec![call] }
    }

    #[test]
    fn words_go_before_attempts_and_the_last_attempt_stays() {
        let mut attempts = vec![attempt(1_000), attempt(1_000), attempt(10)];
        assert_eq!(bound(&mut attempts.clone(), 10_000), None);
        assert_eq!(bound(&mut attempts, 700), Some(Totals::default()));
        assert_eq!(attempts.len(), 3);
        assert!(attempts[0].calls[0].problems.is_empty());
        assert_eq!(attempts[2].calls[0].problems.len(), 1);
        assert_eq!(bound(&mut attempts, 1).map(|cut| cut.calls), Some(2));
        assert_eq!(attempts.len(), 1);
    }
}
