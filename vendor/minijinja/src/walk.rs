//! promptmill: bounds the work inside of values, which fuel alone does not see.
//!
//! Fuel is charged by the instructions and filters of a template, for what lies at the top of a value.  What lies deeper is
//! visited by code that knows no [`State`](crate::State) and that cannot fail: `Display`, `Eq`, `Ord`, `Hash`, lazy iteration.
//! While a template with fuel is evaluated, this thread therefore has a second budget of the same size, for what such code
//! visits, and a limit to how deep it may recurse.  When the budget is spent, or the limit met, iteration ends, texts are
//! empty and comparisons are settled by chance.  None of that is ever seen: the fuel tracker asks [`is_spent`] before the next
//! instruction and at the end, and the evaluation fails with `OutOfFuel`.
//!
//! Without fuel nothing here has any effect, but for the last part: values that are nested deeply are dropped without
//! recursion, because otherwise the stack would end.
use std::cell::{Cell, RefCell};

/// Cost of visiting one value, in units of fuel (64 are one fuel, and pay for an instruction).
pub(crate) const VISIT_COST: usize = 64;

/// Texts up to this size are paid for by the visit of their value.
const FREE_BYTES: usize = 64;

/// How deep values and lazy iterators may be nested where the engine has to recurse.
const MAX_DEPTH: u32 = 160;

/// How deep values are dropped by recursion.
const MAX_DROP_DEPTH: u32 = 64;

#[derive(Clone, Copy)]
struct Walk {
    /// Units that are left; `None` without fuel.
    left: Option<u64>,
    depth: u32,
}

thread_local! {
    static WALK: Cell<Walk> = const { Cell::new(Walk { left: None, depth: 0 }) };
}

/// The budget of one evaluation.  An evaluation within another one has its own; the other's comes back when it ends.
pub(crate) struct Budget {
    outer: Walk,
}

impl Budget {
    /// Starts the budget of an evaluation that has this much fuel.
    pub(crate) fn start(fuel: Option<u64>) -> Budget {
        let left = fuel.map(|fuel| fuel.saturating_mul(VISIT_COST as u64));
        Budget {
            outer: WALK.with(|walk| walk.replace(Walk { left, depth: 0 })),
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        WALK.with(|walk| walk.set(self.outer));
    }
}

/// Whether this thread is within an evaluation that has fuel.
#[inline(always)]
pub(crate) fn is_limited() -> bool {
    WALK.with(|walk| walk.get().left.is_some())
}

/// Whether the budget is spent, so that nothing that was visited since can be relied on.
#[inline(always)]
pub(crate) fn is_spent() -> bool {
    WALK.with(|walk| walk.get().left == Some(0))
}

/// Takes units from the budget; false if it is spent.
#[inline(always)]
pub(crate) fn spend(units: usize) -> bool {
    WALK.with(|walk| {
        let mut now = walk.get();
        match now.left {
            None => true,
            Some(left) => {
                let left = left.saturating_sub(units as u64);
                now.left = Some(left);
                walk.set(now);
                left > 0
            }
        }
    })
}

/// Pays for a visit of one value.
#[inline(always)]
pub(crate) fn visit() -> bool {
    spend(VISIT_COST)
}

/// Pays for a pass over a text.
#[inline(always)]
pub(crate) fn text(bytes: usize) -> bool {
    if bytes <= FREE_BYTES {
        !is_spent()
    } else {
        spend(bytes)
    }
}

/// Pays for an iterator's items, and ends it when the budget is spent.
pub(crate) fn paid<I: Iterator>(iter: I) -> impl Iterator<Item = I::Item> {
    iter.take_while(|_| visit())
}

/// One level of recursion, which ends when this is dropped.
pub(crate) struct Level(());

impl Level {
    /// Goes one level deeper.  `None` if that is too deep, which spends the budget, or if the budget is spent.
    #[inline(always)]
    pub(crate) fn enter() -> Option<Level> {
        WALK.with(|walk| {
            let mut now = walk.get();
            match now.left {
                None => {}
                Some(0) => return None,
                Some(_) if now.depth >= MAX_DEPTH => {
                    now.left = Some(0);
                    walk.set(now);
                    return None;
                }
                Some(_) => {}
            }
            now.depth = now.depth.saturating_add(1);
            walk.set(now);
            Some(Level(()))
        })
    }
}

impl Drop for Level {
    #[inline(always)]
    fn drop(&mut self) {
        WALK.with(|walk| {
            let mut now = walk.get();
            now.depth = now.depth.saturating_sub(1);
            walk.set(now);
        });
    }
}

/// The iterator of an object.  Each item is paid for, and where iterators are nested each level counts.
struct Visits<I: ?Sized>(Box<I>);

impl<I: Iterator + ?Sized> Iterator for Visits<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        if !visit() {
            return None;
        }
        let _level = some!(Level::enter());
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Has the iteration of an object paid for if the thread is within an evaluation that has fuel.
#[inline(always)]
pub(crate) fn visits<T: 'static>(
    iter: Box<dyn Iterator<Item = T> + Send + Sync>,
) -> Box<dyn Iterator<Item = T> + Send + Sync> {
    if is_limited() {
        Box::new(Visits(iter))
    } else {
        iter
    }
}

struct Drops {
    depth: Cell<u32>,
    waiting: RefCell<Vec<Waiting>>,
}

type Waiting = (*const (), fn(*const ()));

thread_local! {
    static DROPS: Drops = const { Drops { depth: Cell::new(0), waiting: RefCell::new(Vec::new()) } };
}

/// Gives up a reference to an object by calling `release` with it: at once, or after the outermost of the objects that are
/// being dropped, if these are nested too deep.
#[inline]
pub(crate) fn release(object: *const (), release: fn(*const ())) {
    // While a thread ends its storage may be gone.
    if DROPS.try_with(|drops| release_in(drops, object, release)).is_err() {
        release(object);
    }
}

#[inline]
fn release_in(drops: &Drops, object: *const (), release: fn(*const ())) {
    let depth = drops.depth.get();
    if depth >= MAX_DROP_DEPTH {
        drops.waiting.borrow_mut().push((object, release));
        return;
    }
    drops.depth.set(depth + 1);
    release(object);
    if depth == 0 {
        loop {
            let next = drops.waiting.borrow_mut().pop();
            match next {
                Some((object, release)) => release(object),
                None => break,
            }
        }
    }
    drops.depth.set(depth);
}

#[test]
fn test_values_nested_a_million_times_are_dropped() {
    let mut value = crate::Value::from(1);
    for _ in 0..1_000_000 {
        value = crate::Value::from(vec![value]);
    }
    drop(value);
}
