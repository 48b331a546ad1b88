//! The reference model of a batch: the pure heads in a list, and a map of the bodies that count.

use std::collections::BTreeMap;

use bytes::Bytes;
use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::{
    BatchEvent, BatchState, ChunkState, Counts, Head, HeadEvent, ItemCode, LeaseToken, Refusal, SessionId,
};

use super::scene::{Scene, lane};
use crate::{SettleGroup, Settled, StoredOutcome};

/// What the store must look like.
pub(super) struct Model {
    pub(super) state: BatchState,
    pub(super) heads: Vec<Head>,
    bodies: BTreeMap<u32, Bytes>,
}

impl Model {
    /// A batch that was just queued.
    pub(super) fn queued(scene: &Scene<'_>, cuts: &[ChunkCut]) -> Self {
        let head = |cut: &ChunkCut| Head {
            chunk: scene.chunk(cut.n),
            tenant: scene.tenant.clone(),
            rows: cut.rows,
            base: cut.base,
            lane: lane(),
            state: ChunkState::Waiting,
            ver: 0,
            kills: 0,
            trying: None,
            done: vec![ItemCode::Open.byte(); cut.len as usize],
            parked: Vec::new(),
            totals: promptmill_domain::Totals::default(),
            settles: 0,
        };
        Self { state: BatchState::Queued, heads: cuts.iter().map(head).collect(), bodies: BTreeMap::new() }
    }

    /// Lets a chunk run; answers whether it was waiting.
    pub(super) fn admit(&mut self, n: usize, now_ms: u64) -> bool {
        let Ok(next) = self.state.decide(&BatchEvent::Admit) else {
            return false;
        };
        let admitted = self.heads[n].apply(HeadEvent::Admit, now_ms).is_ok();
        if admitted {
            self.state = next;
        }
        admitted
    }

    /// Leases a chunk; answers the head as it was leased.
    pub(super) fn claim(
        &mut self,
        n: usize,
        owner: SessionId,
        token: LeaseToken,
        now_ms: u64,
    ) -> Option<Head> {
        let claimed =
            self.state.may_begin() && self.heads[n].apply(HeadEvent::Claim { owner, token }, now_ms).is_ok();
        claimed.then(|| self.heads[n].clone())
    }

    /// Records a group as the store must.
    pub(super) fn settle(&mut self, group: &SettleGroup, now_ms: u64) -> Settled {
        let head = &mut self.heads[group.chunk.n as usize];
        let before = head.done.clone();
        let settled: Vec<_> = group.settled.iter().map(|(item, _)| *item).collect();
        let event = HeadEvent::Settle {
            token: group.token,
            settled: &settled,
            parked: &group.parked,
            seq: group.seq,
            spent: group.spent,
            release: group.release,
        };
        match head.apply(event, now_ms) {
            Ok(()) => {}
            Err(Refusal::Fenced) => return Settled::Fenced,
            Err(refusal) => panic!("the walk makes no such group: {refusal}"),
        }
        for (item, body) in &group.settled {
            if before[item.offset as usize] == ItemCode::Open.byte() {
                self.bodies.entry(head.base + item.offset).or_insert_with(|| body.clone());
            }
        }
        Settled::Recorded { done: head.state == ChunkState::Done }
    }

    /// Takes every chunk of a session by `event`; answers how many.
    pub(super) fn take(&mut self, event: &HeadEvent<'_>, now_ms: u64) -> u32 {
        self.heads.iter_mut().map(|head| u32::from(head.apply(*event, now_ms).is_ok())).sum()
    }

    /// The leased chunks, as (number, token).
    pub(super) fn leases(&self) -> Vec<(usize, LeaseToken)> {
        let lease = |(n, head): (usize, &Head)| match &head.state {
            ChunkState::Leased { token, .. } => Some((n, *token)),
            _ => None,
        };
        self.heads.iter().enumerate().filter_map(lease).collect()
    }

    /// How many chunks are neither done nor sealed.
    pub(super) fn open_chunks(&self) -> u32 {
        self.heads.iter().map(|head| u32::from(!head.state.is_final())).sum()
    }

    /// The counts over all heads.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.heads.iter().for_each(|head| counts.add(head));
        counts
    }

    /// Every outcome, by index.
    pub(super) fn outcomes(&self) -> Vec<StoredOutcome> {
        let items = self.heads.iter().flat_map(|head| (head.base..).zip(&head.done));
        let outcome = |(index, byte): (u32, &u8)| match ItemCode::from_byte(*byte).unwrap() {
            ItemCode::Open => None,
            code => Some(StoredOutcome { index, code, body: self.bodies.get(&index).cloned() }),
        };
        items.filter_map(outcome).collect()
    }
}
