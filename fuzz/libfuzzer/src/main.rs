//! libFuzzer around one target, which the variable `PROMPTMILL_FUZZ_TARGET` names.
//!
//! An allocator with a budget makes of a large allocation what a panic is: a finding.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libfuzzer_sys::fuzz_target;

/// Bytes that may be allocated at the same time: what a render may use by its fuel, twice, and the fuzzer's own.
const BUDGET: usize = 256 << 20;

struct Budgeted;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator with what it was called with.
unsafe impl GlobalAlloc for Budgeted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if in_use > BUDGET {
            // Nothing here may allocate: the process ends, and libFuzzer keeps the input.
            std::process::abort();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Budgeted = Budgeted;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("PROMPTMILL_FUZZ_TARGET").unwrap_or_default();
    promptmill_fuzz::target(&name).expect("PROMPTMILL_FUZZ_TARGET names a target")
});

fuzz_target!(|input: &[u8]| TARGET(input));
