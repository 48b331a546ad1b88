//! The history of an item, kept within bounds.

use promptmill_domain::{Attempt, Call, FailureKind, Totals};

/// Bytes of history kept in an outcome.
pub(crate) const OUTCOME_HISTORY_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of history kept with a parked item: a head may hold 256 of them.
pub(crate) const PARKED_HISTORY_BYTES: usize = 16 * 1024;

/// Shortens `attempts` to about `limit` bytes: first the raw replies go, the oldest first, then the words of the older calls, then the
/// oldest attempts themselves. The last attempt always stays. Answers what the attempts that went had called, or `None` when nothing
/// was cut.
pub(crate) fn bound(attempts: &mut Vec<Attempt>, limit: usize) -> Option<Totals> {
    let mut surplus = size(attempts).checked_sub(limit).filter(|surplus| *surplus > 0)?;
    for call in attempts.iter_mut().flat_map(|attempt| &mut attempt.calls) {
        if surplus == 0 {
            break;
        }
        surplus = surplus.saturating_sub(call.reply.take().map_or(0, |reply| reply.len()));
    }
    if surplus == 0 {
        return Some(Totals::default());
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

/// Whether a reply that was to be kept is not there: an invalid one always was a whole reply.
pub(crate) fn misses_a_reply(attempts: &[Attempt]) -> bool {
    let mut calls = attempts.iter().flat_map(|attempt| &attempt.calls);
    calls.any(|call| call.failure == Some(FailureKind::InvalidOutput) && call.reply.is_none())
}

/// About how many bytes the attempts take when stored.
fn size(attempts: &[Attempt]) -> usize {
    const CALL: usize = 160;
    let words = |call: &Call| call.problems.iter().map(|problem| problem.len() + 4).sum::<usize>();
    let calls = attempts.iter().flat_map(|attempt| &attempt.calls);
    calls.map(|call| CALL + words(call) + call.reply.as_ref().map_or(0, String::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(words: usize) -> Attempt {
        let call = Call { problems: vec!["x".repeat(words)], ..Call::default() };
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

    #[test]
    fn replies_go_first_and_the_oldest_of_them_before_the_others() {
        let mut attempts = vec![attempt(100), attempt(100)];
        for attempt in &mut attempts {
            attempt.calls[0].failure = Some(FailureKind::InvalidOutput);
            attempt.calls[0].reply = Some("x".repeat(10_000));
        }
        assert!(!misses_a_reply(&attempts));
        assert_eq!(bound(&mut attempts, 11_000), Some(Totals::default()));
        assert!(misses_a_reply(&attempts));
        assert!(attempts[0].calls[0].reply.is_none() && attempts[1].calls[0].reply.is_some());
        assert_eq!(attempts[0].calls[0].problems.len(), 1);
        // One attempt whose own replies are too many keeps the later ones.
        let call = attempts[1].calls[0].clone();
        let mut one = vec![Attempt { calls: vec![call; 3] }];
        assert_eq!(bound(&mut one, 21_000), Some(Totals::default()));
        assert_eq!(
            one[0].calls.iter().map(|call| call.reply.is_some()).collect::<Vec<_>>(),
            [false, true, true]
        );
    }
}
