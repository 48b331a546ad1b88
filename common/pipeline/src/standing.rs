//! Where the items of one batch stand that are being worked on: what a worker tells about why a batch is not faster.

use std::sync::atomic::{AtomicU32, Ordering};

/// What an item does or waits for. Between two stages (rendering, judging) it is counted nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its call is under way.
    Call,
    /// It waits for one of the process's places.
    Place,
    /// It waits for leave of the lane.
    Lane,
    /// It waits for the batch's own limit of calls.
    Batch,
    /// It waits to be tried again.
    Retry,
    /// It waits for money: what is left of a limit is held for calls under way.
    Money,
    /// It waits for the reply of another row that asks the same, or for the cache to say whether there is one.
    Reply,
}

/// How many items of a batch are at each stage.
#[derive(Debug, Default)]
pub struct Standing([AtomicU32; 7]);

/// One item's presence at a stage; ends when dropped.
#[derive(Debug)]
pub(crate) struct Stay<'a> {
    standing: &'a Standing,
    stage: Stage,
}

impl Standing {
    /// Items at this stage now.
    pub fn at(&self, stage: Stage) -> u32 {
        self.0[stage as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, stage: Stage) -> Stay<'_> {
        self.0[stage as usize].fetch_add(1, Ordering::Relaxed);
        Stay { standing: self, stage }
    }
}

impl Stay<'_> {
    /// The item goes on to this stage.
    pub(crate) fn go_to(&mut self, stage: Stage) {
        *self = self.standing.enter(stage);
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.standing.0[self.stage as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
