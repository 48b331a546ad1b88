//! How often endpoints are called that want no more than so many requests a second.
//!
//! What may begin within a moment is taken and waits for its turn; the rest is put off to when its turn will be about, one after the other, so that it
//! waits in the store and not here.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::EndpointId;
use tokio::time::Instant;

/// What begins within it waits here.
const MOMENT: Duration = Duration::from_secs(2);

/// Endpoints that are remembered; those whose turn is over are forgotten when there are more.
const REMEMBERED: usize = 1_000;

/// When the next request of each may begin.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<EndpointId, Pace>);

#[derive(Debug, Clone, Copy)]
struct Pace {
    next: Instant,
    /// To when the last one was put off.
    put_off: Instant,
}

/// When a request may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Not before that moment, which is near.
    At(Instant),
    /// Not within the next moments: it is looked at again after so long.
    Later(Duration),
}

impl Paces {
    /// When one more request to the endpoint may begin, which wants so many a second. It is put off where it would have to wait and there is no room for that.
    pub(super) fn turn(
        &mut self,
        endpoint: EndpointId,
        per_second: u32,
        has_room: bool,
        now: Instant,
    ) -> Turn {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, pace| pace.next > now || pace.put_off > now);
        }
        let apart = Duration::from_secs(1) / per_second.max(1);
        let pace = self.0.entry(endpoint).or_insert(Pace { next: now, put_off: now });
        let at = pace.next.max(now);
        if at <= now || (has_room && at <= now + MOMENT) {
            pace.next = at + apart;
            return Turn::At(at);
        }
        pace.put_off = pace.put_off.max(at) + apart;
        Turn::Later(pace.put_off - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_lie_apart_and_what_would_wait_for_long_is_put_off_one_after_the_other() {
        let now = Instant::now();
        let mut paces = Paces::default();
        let (one, other) = (EndpointId::from_bytes([1; 16]), EndpointId::from_bytes([2; 16]));
        let turns: Vec<_> = (0..23).map(|_| paces.turn(one, 10, true, now)).collect();
        let tenths = |n: u32| Duration::from_millis(100) * n;
        for (n, turn) in (0..=20).zip(&turns) {
            assert_eq!(*turn, Turn::At(now + tenths(n)));
        }
        assert_eq!(turns[21..], [Turn::Later(tenths(22)), Turn::Later(tenths(23))]);
        assert_eq!(paces.turn(other, 1, false, now), Turn::At(now), "another one waits for nobody");
        assert_eq!(
            paces.turn(other, 1, false, now),
            Turn::Later(Duration::from_secs(2)),
            "there is no room to wait"
        );
        // What was put off has its turn when it comes back.
        let later = now + tenths(22);
        assert_eq!(paces.turn(one, 10, true, later), Turn::At(later));
        assert_eq!(paces.turn(one, 10, true, later), Turn::At(later + tenths(1)));
    }
}
