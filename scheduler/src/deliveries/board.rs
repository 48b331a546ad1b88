//! Which of the deliveries that were taken is tried next, so that no slow receiver holds up another one.
//!
//! Hosts take turns; each has a few tries at a time. Tries to hosts that answer nothing have places of their own, and what waits for such a host is let go: it is
//! due again later, and its place is free for others meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::Url;
use promptmill_ports::Delivery;
use tokio::time::Instant;

/// A host none of whose tries ended for so long, while there were some, is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// For how long a host is taken for slow that does not show the contrary.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// All places together, those of tries that turned out slow included: so many times the places of the others.
const ALL_PLACES: usize = 4;

/// Deliveries that may wait for a slow host.
const WAITING_FOR_SLOW: usize = 8;

/// A delivery that is nobody else's for a while.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// Its try may not begin before; `None` of one whose endpoint does not mind how often it is called. The others of its host do not wait for it.
    pub(super) turn: Option<Instant>,
    /// From when on someone else might take it before a try is over.
    pub(super) begin_until: Instant,
}

#[derive(Debug, Default)]
struct Host {
    trying: usize,
    /// When the first of its tries began or the last one ended, whichever was later; nothing while there is none.
    quiet_since: Option<Instant>,
    /// It is taken for slow so long.
    slow_until: Option<Instant>,
    waiting: VecDeque<Taken>,
}

/// Tries under way and deliveries that wait for theirs.
#[derive(Debug)]
pub(super) struct Board {
    concurrency: usize,
    per_host: usize,
    /// To hosts that are not slow, and to those that are.
    trying: usize,
    trying_slow: usize,
    /// For a place, and for their turn.
    waiting: usize,
    waiting_for_turns: usize,
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
            trying_slow: 0,
            waiting: 0,
            waiting_for_turns: 0,
            hosts: BTreeMap::new(),
            last: "".into(),
        }
    }

    /// How many deliveries wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many wait for their turn, which take no room of the others.
    pub(super) fn waiting_for_turns(&self) -> usize {
        self.waiting_for_turns
    }

    fn count(&mut self, taken: &Taken) -> &mut usize {
        if taken.turn.is_some() { &mut self.waiting_for_turns } else { &mut self.waiting }
    }

    pub(super) fn put(&mut self, taken: Taken) {
        let host = host_of(&taken.delivery.url);
        let name = match (taken.turn, taken.delivery.endpoint) {
            (Some(_), Some(endpoint)) => format!("{host} {endpoint}").into(),
            _ => host,
        };
        *self.count(&taken) += 1;
        self.hosts.entry(name).or_default().waiting.push_back(taken);
    }

    /// The next delivery to try, which is under way from then on, and its host. One that waited here for too long is left to be taken again.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Arc<str>, Delivery)> {
        loop {
            let name = self.next_host(now)?;
            let host = self.hosts.get_mut(&name)?;
            let taken = host.waiting.pop_front()?;
            *self.count(&taken) -= 1;
            self.last = name.clone();
            if taken.begin_until <= now {
                self.tidy(&name);
                continue;
            }
            let host = self.hosts.get_mut(&name)?;
            host.trying += 1;
            host.quiet_since.get_or_insert(now);
            *(if host.slow_until.is_some() { &mut self.trying_slow } else { &mut self.trying }) += 1;
            return Some((name, taken.delivery));
        }
    }

    /// The host behind the last one that has something waiting and a place.
    fn next_host(&self, now: Instant) -> Option<Arc<str>> {
        let behind = self.hosts.range::<str, _>((Bound::Excluded(&*self.last), Bound::Unbounded));
        let around = self.hosts.range::<str, _>((Bound::Unbounded, Bound::Included(&*self.last)));
        let room = self.trying + self.trying_slow < self.concurrency * ALL_PLACES;
        let room_for_slow = room && self.trying_slow < self.concurrency;
        let room_for_others = room && self.trying < self.concurrency;
        if !room_for_slow && !room_for_others {
            return None;
        }
        let may = |host: &Host| {
            let has_room = if host.slow_until.is_some() { room_for_slow } else { room_for_others };
            let may_begin =
                host.waiting.front().is_some_and(|first| first.turn.is_none_or(|turn| turn <= now));
            has_room && may_begin && host.trying < self.per_host
        };
        behind.chain(around).find(|(_, host)| may(host)).map(|(name, _)| name.clone())
    }

    /// A try of the host is over, which took so long.
    pub(super) fn finished(&mut self, name: &str, took: Duration, now: Instant) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.trying = host.trying.saturating_sub(1);
        // It answers, so what waits for it has hope.
        host.quiet_since = (host.trying > 0).then_some(now);
        let its = if host.slow_until.is_some() { &mut self.trying_slow } else { &mut self.trying };
        *its = its.saturating_sub(1);
        if took < SLOW_AFTER && host.slow_until.take().is_some() {
            self.trying_slow = self.trying_slow.saturating_sub(host.trying);
            self.trying += host.trying;
        }
        self.tidy(name);
    }

    /// Finds the hosts that are slow, and lets go of what waits for them, but for a few.
    pub(super) fn let_go_of_slow(&mut self, now: Instant) {
        for host in self.hosts.values_mut() {
            let is_slow = host.quiet_since.is_some_and(|since| now.duration_since(since) >= SLOW_AFTER);
            if is_slow {
                if host.slow_until.replace(now + SLOW_FOR).is_none() {
                    self.trying = self.trying.saturating_sub(host.trying);
                    self.trying_slow += host.trying;
                }
                for let_go in host.waiting.drain(WAITING_FOR_SLOW.min(host.waiting.len())..) {
                    *(if let_go.turn.is_some() { &mut self.waiting_for_turns } else { &mut self.waiting }) -=
                        1;
                }
            } else if host.trying == 0 {
                host.slow_until = host.slow_until.filter(|until| now < *until);
            }
        }
        self.hosts.retain(|_, host| !host.is_nothing());
    }

    fn tidy(&mut self, name: &str) {
        if self.hosts.get(name).is_some_and(Host::is_nothing) {
            self.hosts.remove(name);
        }
    }
}

impl Host {
    /// There is nothing to remember of it.
    fn is_nothing(&self) -> bool {
        self.trying == 0 && self.waiting.is_empty() && self.slow_until.is_none()
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
    use promptmill_domain::{BatchId, DeliveryId, EndpointId, EventId, EventKind, TenantId};
    use promptmill_ports::DeliveryState;

    fn taken(url: &str, begin_until: Instant) -> Taken {
        let delivery = Delivery {
            id: DeliveryId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            batch: Some(BatchId::from_bytes([2; 16])),
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
        Taken { delivery, turn: None, begin_until }
    }

    const QUICK: Duration = Duration::from_millis(50);

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
        board.finished("b:443", QUICK, now);
        assert_eq!(begun(&mut board, now), Vec::<String>::new(), "a has its two");
        board.finished("a:80", QUICK, now);
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
        board.finished("quick:80", QUICK, soon);
        board.let_go_of_slow(soon);
        assert_eq!(board.waiting(), 99 + WAITING_FOR_SLOW);
        assert_eq!(begun(&mut board, soon), ["quick:80"]);
    }

    #[test]
    fn hosts_that_hang_leave_the_places_of_others_and_are_as_good_as_these_once_they_answer() {
        let now = Instant::now();
        let later = now + Duration::from_secs(600);
        let mut board = Board::new(2, 1);
        for host in ["a", "b"] {
            board.put(taken(&format!("http://{host}/"), later));
            board.put(taken(&format!("http://{host}/"), later));
        }
        assert_eq!(begun(&mut board, now), ["a:80", "b:80"]);
        board.put(taken("http://c/", later));
        board.put(taken("http://d/", later));
        assert_eq!(begun(&mut board, now), Vec::<String>::new(), "all places are taken");

        let soon = now + SLOW_AFTER;
        board.let_go_of_slow(soon);
        assert_eq!(begun(&mut board, soon), ["c:80", "d:80"]);
        board.put(taken("http://e/", later));
        assert_eq!(begun(&mut board, soon), Vec::<String>::new());

        // One that took long says nothing good; one that was quick does, and its host needs a place of the others.
        board.finished("a:80", SLOW_AFTER, soon);
        assert_eq!(begun(&mut board, soon), ["a:80"]);
        board.finished("b:80", QUICK, soon);
        assert_eq!(begun(&mut board, soon), Vec::<String>::new());
        board.finished("c:80", QUICK, soon);
        assert_eq!(begun(&mut board, soon), ["b:80"]);
        board.finished("b:80", QUICK, soon);
        assert_eq!(begun(&mut board, soon), ["e:80"]);
    }

    #[test]
    fn what_may_not_begin_yet_waits_and_holds_up_nobody_else() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut board = Board::new(64, 4);
        let soon = now + Duration::from_millis(100);
        let endpoint = EndpointId::from_bytes([7; 16]);
        let mut paced = taken("http://a/", later);
        (paced.delivery.endpoint, paced.turn) = (Some(endpoint), Some(soon));
        board.put(paced);
        assert_eq!((board.waiting(), board.waiting_for_turns()), (0, 1));
        board.put(taken("http://a/", later));
        board.put(taken("http://b/", later));
        assert_eq!(begun(&mut board, now + Duration::from_millis(50)), ["a:80", "b:80"]);
        assert_eq!(begun(&mut board, soon), [format!("a:80 {endpoint}")]);
        assert_eq!((board.waiting(), board.waiting_for_turns()), (0, 0));
    }

    #[test]
    fn a_delivery_that_waited_too_long_is_not_tried_and_nothing_of_it_stays() {
        let now = Instant::now();
        let mut board = Board::new(64, 4);
        board.put(taken("http://a/", now));
        board.put(taken("not a url", now + Duration::from_secs(1)));
        assert_eq!(begun(&mut board, now), [""]);
        board.finished("", QUICK, now);
        assert_eq!((board.waiting(), board.trying, board.hosts.len()), (0, 0, 0));
        // What is known of one that hung is forgotten after a while.
        board.put(taken("http://a/", now + Duration::from_secs(1)));
        assert_eq!(begun(&mut board, now), ["a:80"]);
        board.let_go_of_slow(now + SLOW_AFTER);
        board.finished("a:80", Duration::from_secs(20), now);
        board.let_go_of_slow(now + SLOW_AFTER + SLOW_FOR);
        assert_eq!((board.trying, board.trying_slow, board.hosts.len()), (0, 0, 0));
    }
}
