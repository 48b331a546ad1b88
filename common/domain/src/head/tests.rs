//! Properties of a head under any sequence of events, and the cases a reader asks about first.

use proptest::prelude::*;

use super::*;
use crate::batch::Counts;
use crate::ids::BatchId;
use crate::money::Money;
use crate::outcome::Tokens;

const START: u64 = 1_000;
const OWNERS: u8 = 3;

fn head(len: usize) -> Head {
    Head {
        chunk: ChunkId { batch: BatchId::from_bytes([1; 16]), n: 0 },
        tenant: TenantId::default_tenant(),
        rows: RowsRef { upload: UploadId::from_bytes([2; 16]), seq: 0, skip: 0 },
        base: 0,
        lane: LaneId::new("demo", "none"),
        state: ChunkState::Waiting,
        ver: 0,
        kills: 0,
        trying: None,
        done: vec![ItemCode::Open.byte(); len],
        parked: Vec::new(),
        totals: Totals::default(),
        settles: 0,
    }
}

fn owner(byte: u8) -> SessionId {
    SessionId::from_bytes([byte; 16])
}

fn token(byte: u8) -> LeaseToken {
    LeaseToken::from_bytes([byte; 16])
}

fn spent(calls: u64) -> Totals {
    Totals {
        calls,
        tokens: Tokens { prompt: calls, completion: calls },
        cost: Money::from_pico(calls),
        cached: calls,
    }
}

fn waits(offset: u32, due_ms: u64) -> ParkedItem {
    let reason = FailureKind::RateLimited;
    ParkedItem {
        offset,
        due_ms,
        counted: 1,
        reason,
        begun_ms: START,
        attempts: vec![],
        cut: Totals::default(),
    }
}

/// An event that owns what it refers to. `current` says to use the token of the present lease, if there is one.
#[derive(Debug, Clone)]
enum Op {
    Admit,
    Claim(u8),
    Settle {
        current: bool,
        settled: Vec<SettledItem>,
        parked: Vec<ParkedItem>,
        seq: u32,
        spent: u64,
        release: Release,
    },
    Try {
        current: bool,
        offset: u32,
    },
    Revoke(u8),
    HandBack(u8),
    Wake,
    Seal(ItemCode),
}

impl Op {
    fn apply(&self, head: &mut Head, fresh: u8, now_ms: u64) -> Result<(), Refusal> {
        let held = match &head.state {
            ChunkState::Leased { token, .. } => Some(*token),
            _ => None,
        };
        let choose = |current: &bool| held.filter(|_| *current).unwrap_or(token(255));
        let event = match self {
            Self::Admit => HeadEvent::Admit,
            Self::Claim(who) => HeadEvent::Claim { owner: owner(*who), token: token(fresh) },
            Self::Settle { current, settled, parked, seq, spent: calls, release } => {
                let (token, spent) = (choose(current), spent(*calls));
                HeadEvent::Settle { token, settled, parked, seq: *seq, spent, release: *release }
            }
            Self::Try { current, offset } => HeadEvent::Try { token: choose(current), offset: *offset },
            Self::Revoke(who) => HeadEvent::Revoke { owner: owner(*who) },
            Self::HandBack(who) => HeadEvent::HandBack { owner: owner(*who) },
            Self::Wake => HeadEvent::Wake,
            Self::Seal(code) => HeadEvent::Seal(*code),
        };
        head.apply(event, now_ms)
    }
}

fn codes() -> impl Strategy<Value = ItemCode> {
    let failed = prop::sample::select(&FailureKind::ALL[..]).prop_map(ItemCode::Failed);
    prop_oneof![8 => Just(ItemCode::Succeeded), 3 => Just(ItemCode::Repaired), 6 => failed, 1 => Just(ItemCode::Open)]
}

fn ops(len: u32) -> impl Strategy<Value = Op> {
    // One beyond the end now and then.
    let offset = 0..=len;
    let item = (offset.clone(), codes()).prop_map(|(offset, code)| SettledItem { offset, code });
    let wait = (offset.clone(), START..START + 300).prop_map(|(offset, due_ms)| waits(offset, due_ms));
    let release = prop_oneof![
        3 => Just(Release::Keep),
        2 => Just(Release::LetGo),
        1 => (START..START + 300).prop_map(Release::ParkUntil),
    ];
    let settle = (
        prop::bool::weighted(0.9),
        prop::collection::vec(item, 0..3),
        prop::collection::vec(wait, 0..3),
        0..6u32,
        0..4u64,
        release,
    )
        .prop_map(|(current, settled, parked, seq, spent, release)| Op::Settle {
            current,
            settled,
            parked,
            seq,
            spent,
            release,
        });
    prop_oneof![
        3 => Just(Op::Admit),
        6 => (0..OWNERS).prop_map(Op::Claim),
        8 => settle,
        3 => (prop::bool::weighted(0.9), offset).prop_map(|(current, offset)| Op::Try { current, offset }),
        3 => (0..OWNERS).prop_map(Op::Revoke),
        1 => (0..OWNERS).prop_map(Op::HandBack),
        3 => Just(Op::Wake),
        1 => prop_oneof![Just(ItemCode::Cancelled), Just(ItemCode::Expired)].prop_map(Op::Seal),
    ]
}

fn walks() -> impl Strategy<Value = (u32, Vec<Op>)> {
    (1..6u32).prop_flat_map(|len| (Just(len), prop::collection::vec(ops(len), 0..60)))
}

fn check_invariants(head: &Head, len: u32) -> Result<(), TestCaseError> {
    prop_assert_eq!(head.len(), len);
    let mut counts = Counts::default();
    counts.add(head);
    prop_assert_eq!(counts.open() + counts.settled(), u64::from(len));
    prop_assert_eq!(counts.open(), u64::from(head.open()));

    let mut offsets: Vec<_> = head.parked.iter().map(|item| item.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    prop_assert_eq!(offsets.len(), head.parked.len(), "an item waits once");
    for offset in offsets {
        prop_assert_eq!(head.done[offset as usize], ItemCode::Open.byte(), "only open items wait");
    }
    match &head.state {
        ChunkState::Done => prop_assert!(head.open() == 0 && head.parked.is_empty()),
        ChunkState::Sealed => {
            prop_assert!(head.open() == 0 && head.parked.is_empty() && head.trying.is_none());
        }
        ChunkState::Parked { due_ms } => {
            prop_assert!(head.open() > 0);
            // Where every open item waits, nothing is missed by waiting for the earliest of them or longer for the lane.
            let earliest = head.parked.iter().map(|item| item.due_ms).min();
            if head.parked.len() == head.open() as usize {
                prop_assert!(earliest.is_some_and(|earliest| earliest <= *due_ms));
            }
        }
        ChunkState::Waiting | ChunkState::Ready | ChunkState::Leased { .. } => prop_assert!(head.open() > 0),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_a_head((len, ops) in walks()) {
        let mut head = head(len as usize);
        for (op, step) in ops.iter().zip(0u8..) {
            let before = head.clone();
            let applied = op.apply(&mut head, step, START + u64::from(step) * 5);
            check_invariants(&head, len)?;
            match applied {
                Ok(()) => {
                    prop_assert_eq!(head.ver, before.ver + 1);
                    prop_assert!(!before.state.is_final(), "{op:?} changed a final chunk");
                }
                Err(_) => prop_assert_eq!(&head, &before, "a refusal changes nothing"),
            }
            for (old, new) in before.done.iter().zip(&head.done) {
                prop_assert!(*old == ItemCode::Open.byte() || old == new, "an outcome changed");
            }
            prop_assert!(head.kills >= before.kills && head.totals.calls >= before.totals.calls);
        }
    }

    #[test]
    fn a_token_that_is_not_the_leases_is_refused((len, ops) in walks(), item in 0..6u32) {
        let mut head = head(len as usize);
        for (op, step) in ops.iter().zip(0u8..) {
            let _ = op.apply(&mut head, step, START);
            let settled = [SettledItem { offset: item % len, code: ItemCode::Succeeded }];
            let (token, seq, spent) = (token(254), 99, spent(1));
            let stale = HeadEvent::Settle { token, settled: &settled, parked: &[], seq, spent, release: Release::LetGo };
            prop_assert_eq!(head.apply(stale, START), Err(Refusal::Fenced));
            prop_assert_eq!(head.apply(HeadEvent::Try { token, offset: 0 }, START), Err(Refusal::Fenced));
            prop_assert_eq!(head.apply(HeadEvent::Revoke { owner: owner(200) }, START), Err(Refusal::Fenced));
        }
    }

    #[test]
    fn a_settle_that_is_repeated_changes_only_the_version((len, ops) in walks()) {
        let mut head = head(len as usize);
        for (op, step) in ops.iter().zip(0u8..) {
            let _ = op.apply(&mut head, step, START);
            let once = head.clone();
            if matches!(op, Op::Settle { .. }) && op.apply(&mut head, step, START).is_ok() {
                head.ver = once.ver;
                prop_assert_eq!(&head, &once);
            }
        }
    }

    #[test]
    fn every_open_chunk_can_be_brought_to_its_end((len, ops) in walks()) {
        let mut head = head(len as usize);
        for (op, step) in ops.iter().zip(0u8..) {
            let _ = op.apply(&mut head, step, START);
        }
        let late = u64::MAX;
        let _ = head.apply(HeadEvent::Admit, late);
        let _ = head.apply(HeadEvent::Wake, late);
        if let ChunkState::Leased { owner, .. } = head.state {
            head.apply(HeadEvent::HandBack { owner }, late).unwrap();
        }
        if !head.state.is_final() {
            head.apply(HeadEvent::Claim { owner: owner(9), token: token(9) }, late).unwrap();
            let settled: Vec<_> = (0..len).map(|offset| SettledItem { offset, code: ItemCode::Succeeded }).collect();
            prop_assert!(head.parked.iter().all(|item| head.is_due(item.offset, late)));
            let (token, seq, spent) = (token(9), 1, Totals::default());
            let all = HeadEvent::Settle { token, settled: &settled, parked: &[], seq, spent, release: Release::Keep };
            head.apply(all, late).unwrap();
        }
        prop_assert!(head.state.is_final());
        prop_assert_eq!(head.open(), 0);
    }
}

/// A head of `len` items under [`token`]`(1)` of [`owner`]`(1)`.
fn leased(len: usize) -> Head {
    let mut head = head(len);
    head.apply(HeadEvent::Admit, START).unwrap();
    head.apply(HeadEvent::Claim { owner: owner(1), token: token(1) }, START).unwrap();
    head
}

fn settle(head: &mut Head, settled: &[SettledItem], parked: &[ParkedItem], release: Release) {
    let (token, seq, spent) = (token(1), head.settles + 1, spent(1));
    head.apply(HeadEvent::Settle { token, settled, parked, seq, spent, release }, START).unwrap();
}

#[test]
fn a_sealed_head_refuses_everything() {
    let mut head = leased(2);
    head.apply(HeadEvent::Seal(ItemCode::Cancelled), START).unwrap();
    let sealed = head.clone();
    let ops = [
        Op::Admit,
        Op::Claim(1),
        Op::Try { current: true, offset: 0 },
        Op::Revoke(1),
        Op::HandBack(1),
        Op::Wake,
        Op::Seal(ItemCode::Expired),
    ];
    for op in ops {
        assert!(op.apply(&mut head, 1, START).is_err(), "{op:?}");
    }
    assert_eq!(head, sealed);
}

#[test]
fn a_chunk_is_parked_until_its_earliest_item_only_when_all_of_them_wait() {
    let mut some = leased(2);
    settle(&mut some, &[], &[waits(0, START + 10)], Release::LetGo);
    assert_eq!(some.state, ChunkState::Ready);

    let mut all = leased(2);
    settle(&mut all, &[], &[waits(0, START + 10), waits(1, START + 5)], Release::LetGo);
    assert_eq!(all.state, ChunkState::Parked { due_ms: START + 5 });
    assert!(all.apply(HeadEvent::Wake, START + 4).is_err());
    all.apply(HeadEvent::Wake, START + 5).unwrap();
    assert_eq!(all.state, ChunkState::Ready);
}

#[test]
fn a_lane_that_stands_still_parks_a_chunk_that_could_go_on() {
    let mut head = leased(2);
    settle(&mut head, &[], &[], Release::ParkUntil(START + 50));
    assert_eq!(head.state, ChunkState::Parked { due_ms: START + 50 });
    let mut past = leased(2);
    settle(&mut past, &[], &[], Release::ParkUntil(START));
    assert_eq!(past.state, ChunkState::Ready);
    let mut done = leased(1);
    settle(
        &mut done,
        &[SettledItem { offset: 0, code: ItemCode::Succeeded }],
        &[],
        Release::ParkUntil(START + 50),
    );
    assert_eq!(done.state, ChunkState::Done);
}

#[test]
fn only_the_item_that_was_tried_at_every_death_is_the_killer() {
    let mut head = head(2);
    head.apply(HeadEvent::Admit, START).unwrap();
    for (offset, death) in [(0, 1u8), (1, 2), (0, 3), (0, 4)] {
        head.apply(HeadEvent::Claim { owner: owner(death), token: token(death) }, START).unwrap();
        head.apply(HeadEvent::Try { token: token(death), offset }, START).unwrap();
        assert_eq!(head.open(), 2);
        head.apply(HeadEvent::Revoke { owner: owner(death) }, START).unwrap();
    }
    assert_eq!(head.done, [ItemCode::Failed(FailureKind::WorkerKiller).byte(), ItemCode::Open.byte()]);
    assert_eq!((head.kills, head.trying, head.state), (4, None, ChunkState::Ready));
}
