//! Which of the deliveries that were taken is tried next, so that no slow receiver holds up another one.
//!
//! Hosts take turns; each has a few tries at a time. What waits for a host that answers nothing is let go: it is due again
//! later, and its place is free for others meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::Url;
use promptmill_ports::Delivery;
use tokio::time::Instant;

/// A host none of whose tries ended for so long while all its places were taken is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Deliveries that may wait for a slow host.
const WAITING_FOR_SLOW: usize = 8;

/// A delivery that is nobody else's for a while.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// From when on someone else might take it before a try is over.
    pub(super) begin_until: Instant,
}

#[derive(Debug, Default)]
struct Host {
    trying: usize,
    /// Since when all its places are taken and none of its tries ended.
    full_since: Option<Instant>,
    waiting: VecDeque<Taken>,
}

/// Tries under way and deliveries that wait for theirs.
#[derive(Debug)]
pub(super) struct Board {
    concurrency: usize,
    per_host: usize,
    trying: usize,
    waiting: usize,
    hosts: BTreeMap<Arc<str>, Host>,
    /// Whose turn it was last.
    last: Arc<str>,
}

impl Board {
    pub(super) fn new(concurrency: usize, per_host: usize) -> Self {
        Self {
            concurrency: concurrency.max(1),
            per_host: per_host.max(1),
            trying: 0,
            waiting: 0,
            hosts: BTreeMap::new(),
            last: "".into(),
        }
    }

    /// How many deliveries wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn put(&mut self, taken: Taken) {
        self.hosts.entry(host_of(&taken.delivery.url)).or_default().waiting.push_back(taken);
        self.waiting += 1;
    }

    /// The next delivery to try, which is under way from then on, and its host. One that waited here for too long is left to be taken again.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Arc<str>, Delivery)> {
        while self.trying < self.concurrency {
            let name = self.next_host()?;
            let host = self.hosts.get_mut(&name)?;
            let taken = host.waiting.pop_front()?;
            self.waiting -= 1;
            self.last = name.clone();
            if taken.begin_until <= now {
                self.tidy(&name);
                continue;
            }
            self.trying += 1;
            host.trying += 1;
            if host.trying == self.per_host {
                host.full_since = Some(now);
            }
            return Some((name, taken.delivery));
        }
        None
    }

    /// The host behind the last one that has something waiting and a place.
    fn next_host(&self) -> Option<Arc<str>> {
        let behind = self.hosts.range::<str, _>((Bound::Excluded(&*self.last), Bound::Unbounded));
        let around = self.hosts.range::<str, _>((Bound::Unbounded, Bound::Included(&*self.last)));
        let may = |host: &Host| !host.waiting.is_empty() && host.trying < self.per_host;
        behind.chain(around).find(|(_, host)| may(host)).map(|(name, _)| name.clone())
    }

    /// A try of the host is over.
    pub(super) fn finished(&mut self, name: &str, now: Instant) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.trying = host.trying.saturating_sub(1);
        // It answers, so what waits for it has hope.
        host.full_since = host.full_since.map(|_| now);
        if host.trying == 0 {
            host.full_since = None;
        }
        self.trying = self.trying.saturating_sub(1);
        self.tidy(name);
    }

    /// Lets go of what waits for hosts that are slow, but for a few.
    pub(super) fn let_go_of_slow(&mut self, now: Instant) {
        for host in self.hosts.values_mut() {
            let slow = host.full_since.is_some_and(|since| now.duration_since(since) >= SLOW_AFTER);
            if slow && host.waiting.len() > WAITING_FOR_SLOW {
                self.waiting -= host.waiting.len() - WAITING_FOR_SLOW;
                host.waiting.truncate(WAITING_FOR_SLOW);
            }
        }
    }

    fn tidy(&mut self, name: &str) {
        if self.hosts.get(name).is_some_and(|host| host.trying == 0 && host.waiting.is_empty()) {
            self.hosts.remove(name);
        }
    }
}

/// Host and port of a URL. What is no URL fails at once, and so shares one place.
fn host_of(url: &str) -> Arc<str> {
    let Ok(url) = Url::parse(url) else { return "".into() };
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use promptmill_domain::{BatchId, DeliveryId, EventId, EventKind, TenantId};
    use promptmill_ports::DeliveryState;

    fn taken(url: &str, begin_until: Instant) -> Taken {
        let delivery = Delivery {
            id: DeliveryId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            batch: BatchId::from_bytes([2; 16]),
            event: EventId::from_bytes([1; 16]),
            kind: EventKind::BatchCompleted,
            url: url.to_owned(),
            sealed_secret: String::new(),
            endpoint: None,
            body: Bytes::new(),
            state: DeliveryState::Pending,
            due_ms: 0,
            attempts: vec![],
            created_ms: 0,
        };
        Taken { delivery, begin_until }
    }

    fn begun(board: &mut Board, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| board.next(now)).map(|(host, _)| host.to_string()).collect()
    }

    #[test]
    fn hosts_take_turns_and_none_has_more_than_its_places() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut board = Board::new(5, 2);
        for url in [
            "http://a/",
            "http://a/",
            "http://a/",
            "http://a/",
            "https://b/x",
            "https://b:443/y",
            "http://c/",
        ] {
            board.put(taken(url, later));
        }
        assert_eq!(begun(&mut board, now), ["a:80", "b:443", "c:80", "a:80", "b:443"]);
        assert_eq!(board.waiting(), 2);
        board.finished("b:443", now);
        assert_eq!(begun(&mut board, now), Vec::<String>::new(), "a has its two");
        board.finished("a:80", now);
        assert_eq!(begun(&mut board, now), ["a:80"]);
    }

    #[test]
    fn what_waits_for_a_slow_host_is_let_go_and_what_waits_for_a_quick_one_is_not() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut board = Board::new(64, 1);
        for _ in 0..100 {
            board.put(taken("http://slow/", later));
            board.put(taken("http://quick/", later));
        }
        assert_eq!(begun(&mut board, now).len(), 2);
        let soon = now + SLOW_AFTER;
        board.finished("quick:80", soon);
        board.let_go_of_slow(soon);
        assert_eq!(board.waiting(), 99 + WAITING_FOR_SLOW);
        assert_eq!(begun(&mut board, soon), ["quick:80"]);
    }

    #[test]
    fn a_delivery_that_waited_too_long_is_not_tried_and_nothing_of_it_stays() {
        let now = Instant::now();
        let mut board = Board::new(64, 4);
        board.put(taken("http://a/", now));
        board.put(taken("not a url", now + Duration::from_secs(1)));
        assert_eq!(begun(&mut board, now), [""]);
        board.finished("", now);
        assert_eq!((board.waiting(), board.trying, board.hosts.len()), (0, 0, 0));
    }
}
