//! A chunk's head: the one document that says where every item of the chunk stands.
//!
//! Each write of a head is one [`Head::apply`]; a store reads the head, applies an event and writes the result under a
//! compare-and-set on [`Head::ver`]. A head that waits holds nothing but that, so a store may make it ready under that condition alone. Exactly-once, fencing, conservation and cancel are facts about this one value:
//! an item's byte is set once and never changes, and an event under an old token is refused.

use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, LaneId, LeaseToken, SessionId, TenantId, UploadId};
use crate::outcome::{Attempt, FailureKind, ItemCode, Totals};

/// Deaths of a chunk's holders after which the chunk runs one item at a time.
pub const QUARANTINE_AFTER_KILLS: u32 = 2;

/// Deaths during one and the same item, tried alone, after which that item fails as [`FailureKind::WorkerKiller`].
///
/// Two and not one: a process that is killed from outside in just that moment must not cost an innocent row.
pub const KILLER_AFTER_KILLS_ALONE: u32 = 2;

/// Where the rows of a chunk are stored: `len` rows from `skip` on in block `seq` of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsRef {
    /// The upload that brought the rows.
    pub upload: UploadId,
    /// 0-based number of the block within the upload.
    pub seq: u32,
    /// Rows of the block before the chunk's first.
    pub skip: u32,
}

/// What a chunk is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkState {
    /// Not admitted yet.
    Waiting,
    /// Admitted; a worker may claim it.
    Ready,
    /// Being worked on.
    Leased {
        /// Who holds it.
        owner: SessionId,
        /// The holder's proof.
        token: LeaseToken,
    },
    /// Nothing of it may begin before `due_ms` (Unix milliseconds): every open item waits, or the whole lane stands still.
    Parked {
        /// When that is over.
        due_ms: u64,
    },
    /// Every item has its outcome.
    Done,
    /// Closed by a cancel or a deadline; items that were open have the byte of that.
    Sealed,
}

impl ChunkState {
    /// The name used in stores, metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Leased { .. } => "leased",
            Self::Parked { .. } => "parked",
            Self::Done => "done",
            Self::Sealed => "sealed",
        }
    }

    /// Whether nothing can happen to the chunk any more.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Done | Self::Sealed => true,
            Self::Waiting | Self::Ready | Self::Leased { .. } | Self::Parked { .. } => false,
        }
    }
}

/// An open item that waits for a later attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedItem {
    /// Position of the item in its chunk.
    pub offset: u32,
    /// When its next attempt is due, Unix milliseconds.
    pub due_ms: u64,
    /// Attempts so far that count against the item's limit.
    pub counted: u32,
    /// Why the last attempt failed.
    pub reason: FailureKind,
    /// When its first attempt began, Unix milliseconds.
    pub begun_ms: u64,
    /// Every attempt so far; bounded by whoever parks it.
    pub attempts: Vec<Attempt>,
    /// Calls of attempts that were cut to keep it within that bound.
    #[serde(default)]
    pub cut: Totals,
}

/// An item that got its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledItem {
    /// Position of the item in its chunk.
    pub offset: u32,
    /// Its outcome's code; never [`ItemCode::Open`].
    pub code: ItemCode,
}

/// The item a quarantined chunk's holder is working on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trying {
    /// Position of the item in its chunk.
    pub offset: u32,
    /// How many holders died during it so far.
    pub kills: u32,
}

/// A chunk's head.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Whose batch.
    pub tenant: TenantId,
    /// Where the rows are.
    pub rows: RowsRef,
    /// Index of the chunk's first item in its batch.
    pub base: u32,
    /// The lane its calls go through first.
    pub lane: LaneId,
    /// What the chunk is doing.
    pub state: ChunkState,
    /// Counts the writes; what a store compares before it writes.
    pub ver: u64,
    /// How many holders died holding it.
    pub kills: u32,
    /// In quarantine: the item being tried.
    pub trying: Option<Trying>,
    /// One byte per item, an [`ItemCode`].
    pub done: Vec<u8>,
    /// Open items that wait, by offset.
    pub parked: Vec<ParkedItem>,
    /// Calls, tokens and cost of every recorded call of the chunk.
    pub totals: Totals,
    /// The last settle of the current lease, so that one that is repeated after a lost answer does not count its calls twice.
    pub settles: u32,
}

/// Whether a holder keeps the chunk after a settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It goes on working.
    Keep,
    /// It lets go; open items that do not wait may be claimed again at once.
    LetGo,
    /// It lets go, and nothing of the chunk is to begin before then (Unix milliseconds), because the whole lane stands still.
    ParkUntil(u64),
}

/// What may happen to a chunk.
#[derive(Debug, Clone, Copy)]
pub enum HeadEvent<'a> {
    /// The scheduler lets it run, or the worker to which it hinted a single row without having said so to the store.
    Admit,
    /// A worker takes it.
    Claim {
        /// The worker's session.
        owner: SessionId,
        /// A fresh random token.
        token: LeaseToken,
    },
    /// The holder records outcomes and parked items.
    Settle {
        /// The holder's token.
        token: LeaseToken,
        /// Items with an outcome, whose bodies are already stored.
        settled: &'a [SettledItem],
        /// Items that wait for a later attempt.
        parked: &'a [ParkedItem],
        /// The holder's number of this settle: 1, 2, 3... within the lease.
        seq: u32,
        /// Calls made since the settle before.
        spent: Totals,
        /// Whether the holder lets go of the chunk.
        release: Release,
    },
    /// The holder of a quarantined chunk is about to begin this item.
    Try {
        /// The holder's token.
        token: LeaseToken,
        /// Position of the item in the chunk.
        offset: u32,
    },
    /// The holder's session died.
    Revoke {
        /// The dead session.
        owner: SessionId,
    },
    /// The holder's session ended as planned.
    HandBack {
        /// The ended session.
        owner: SessionId,
    },
    /// What the chunk was parked for is over.
    Wake,
    /// The batch was cancelled or expired: open items get this code.
    Seal(ItemCode),
}

/// Why an event does not apply. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token or session is not the one the chunk is leased under.
    #[error("the lease is no longer held")]
    Fenced,
    /// The chunk is in a state in which the event means nothing.
    #[error("the chunk is {0}")]
    WrongState(&'static str),
    /// The event names an item the chunk does not have, or a code that is no outcome.
    #[error("the event names no item of this chunk")]
    NoSuchItem,
}

impl Head {
    /// Number of items.
    pub fn len(&self) -> u32 {
        u32::try_from(self.done.len()).unwrap_or(u32::MAX)
    }

    /// Whether it has no items; no stored head is empty.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Whether the chunk must run one item at a time.
    pub const fn in_quarantine(&self) -> bool {
        self.kills >= QUARANTINE_AFTER_KILLS
    }

    /// Applies `event` at `now_ms` (Unix milliseconds) and counts the write, or refuses and changes nothing.
    ///
    /// Repeating a [`HeadEvent::Settle`] whose result was lost is safe as long as the lease is held: items that have a byte keep
    /// it, and `spent` counts once by its `seq`.
    pub fn apply(&mut self, event: HeadEvent<'_>, now_ms: u64) -> Result<(), Refusal> {
        match event {
            HeadEvent::Admit => match self.state {
                ChunkState::Waiting => self.state = self.resting(now_ms),
                _ => return Err(self.wrong_state()),
            },
            HeadEvent::Claim { owner, token } => match self.state {
                ChunkState::Ready => {
                    self.state = ChunkState::Leased { owner, token };
                    self.settles = 0;
                }
                _ => return Err(self.wrong_state()),
            },
            HeadEvent::Settle { token, settled, parked, seq, spent, release } => {
                self.settle(token, settled, parked, release, now_ms)?;
                if seq > self.settles {
                    self.settles = seq;
                    self.totals += spent;
                }
            }
            HeadEvent::Try { token, offset } => {
                self.check_token(token)?;
                self.check_offset(offset)?;
                let kills =
                    self.trying.filter(|trying| trying.offset == offset).map_or(0, |trying| trying.kills);
                self.trying = Some(Trying { offset, kills });
            }
            HeadEvent::Revoke { owner } => {
                self.check_owner(owner)?;
                self.revoke(now_ms);
            }
            HeadEvent::HandBack { owner } => {
                self.check_owner(owner)?;
                self.trying = None;
                self.state = self.resting(now_ms);
            }
            HeadEvent::Wake => match self.state {
                ChunkState::Parked { due_ms } if due_ms <= now_ms => self.state = ChunkState::Ready,
                _ => return Err(self.wrong_state()),
            },
            HeadEvent::Seal(code) => {
                if self.state.is_final() {
                    return Err(self.wrong_state());
                }
                for byte in self.done.iter_mut().filter(|byte| **byte == ItemCode::Open.byte()) {
                    *byte = code.byte();
                }
                self.parked.clear();
                self.trying = None;
                self.state = ChunkState::Sealed;
            }
        }
        self.ver += 1;
        Ok(())
    }

    fn settle(
        &mut self,
        token: LeaseToken,
        settled: &[SettledItem],
        parked: &[ParkedItem],
        release: Release,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        self.check_token(token)?;
        for item in settled {
            self.check_offset(item.offset)?;
            if item.code == ItemCode::Open {
                return Err(Refusal::NoSuchItem);
            }
        }
        for item in parked {
            self.check_offset(item.offset)?;
        }
        for item in settled {
            let byte = &mut self.done[item.offset as usize];
            if *byte == ItemCode::Open.byte() {
                *byte = item.code.byte();
            }
            if self.trying.is_some_and(|trying| trying.offset == item.offset) {
                self.trying = None;
            }
        }
        for item in parked {
            if self.trying.is_some_and(|trying| trying.offset == item.offset) {
                self.trying = None;
            }
            match self.parked.iter_mut().find(|old| old.offset == item.offset) {
                Some(old) => old.clone_from(item),
                None => self.parked.push(item.clone()),
            }
        }
        let done = &self.done;
        self.parked.retain(|item| done[item.offset as usize] == ItemCode::Open.byte());
        // An item that was begun alone and given back unharmed is no suspect; one that killed before stays one.
        if release != Release::Keep && self.trying.is_some_and(|trying| trying.kills == 0) {
            self.trying = None;
        }
        match release {
            Release::Keep if self.open() > 0 => {}
            Release::Keep | Release::LetGo => self.state = self.resting(now_ms),
            Release::ParkUntil(lane_due_ms) => {
                self.state = match self.resting(now_ms) {
                    ChunkState::Ready if lane_due_ms > now_ms => ChunkState::Parked { due_ms: lane_due_ms },
                    ChunkState::Parked { due_ms } => ChunkState::Parked { due_ms: due_ms.max(lane_due_ms) },
                    rest => rest,
                }
            }
        }
        Ok(())
    }

    fn revoke(&mut self, now_ms: u64) {
        self.kills = self.kills.saturating_add(1);
        if let Some(trying) = &mut self.trying {
            trying.kills += 1;
            if trying.kills >= KILLER_AFTER_KILLS_ALONE {
                let offset = trying.offset as usize;
                if self.done[offset] == ItemCode::Open.byte() {
                    self.done[offset] = ItemCode::Failed(FailureKind::WorkerKiller).byte();
                }
                self.parked.retain(|item| item.offset as usize != offset);
                self.trying = None;
            }
        }
        self.state = self.resting(now_ms);
    }

    /// Items without an outcome, parked ones included.
    pub fn open(&self) -> u32 {
        let open = self.done.iter().filter(|byte| **byte == ItemCode::Open.byte()).count();
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Whether the item at `offset` may be worked on at `now_ms`: it has no outcome and does not wait.
    pub fn is_due(&self, offset: u32, now_ms: u64) -> bool {
        self.done.get(offset as usize) == Some(&ItemCode::Open.byte())
            && self.parked.iter().all(|item| item.offset != offset || item.due_ms <= now_ms)
    }

    /// The state of a chunk that nobody holds.
    fn resting(&self, now_ms: u64) -> ChunkState {
        let open = self.open();
        if open == 0 {
            return ChunkState::Done;
        }
        let earliest = self.parked.iter().map(|item| item.due_ms).min();
        match earliest {
            Some(due_ms) if self.parked.len() == open as usize && due_ms > now_ms => {
                ChunkState::Parked { due_ms }
            }
            _ => ChunkState::Ready,
        }
    }

    fn check_token(&self, expected: LeaseToken) -> Result<(), Refusal> {
        match &self.state {
            ChunkState::Leased { token, .. } if *token == expected => Ok(()),
            _ => Err(Refusal::Fenced),
        }
    }

    fn check_owner(&self, expected: SessionId) -> Result<(), Refusal> {
        match &self.state {
            ChunkState::Leased { owner, .. } if *owner == expected => Ok(()),
            _ => Err(Refusal::Fenced),
        }
    }

    fn check_offset(&self, offset: u32) -> Result<(), Refusal> {
        if offset < self.len() { Ok(()) } else { Err(Refusal::NoSuchItem) }
    }

    const fn wrong_state(&self) -> Refusal {
        Refusal::WrongState(self.state.as_str())
    }
}

#[cfg(test)]
mod tests;
