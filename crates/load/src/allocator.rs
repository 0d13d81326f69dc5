//! A counting allocator: how often the bridge's threads allocate. Off until it is asked for, so that it does not
//! disturb times.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, with a counter before it.
pub(crate) struct Counting;

/// Counts from now on.
pub(crate) fn start() {
    COUNTING.store(true, Ordering::Relaxed);
}

/// What this thread allocates is not counted: it is not the bridge's.
pub(crate) fn leave_out_this_thread() {
    LEFT_OUT.set(true);
}

/// Allocations so far; `None` when they are not counted.
pub(crate) fn count() -> Option<u64> {
    COUNTING.load(Ordering::Relaxed).then(|| COUNT.load(Ordering::Relaxed))
}

fn note() {
    if COUNTING.load(Ordering::Relaxed) && !LEFT_OUT.get() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches only atomics and a cell of the
// thread that
// needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
