//! A counting allocator: how often the bridge's threads allocate. Off in the generator, whose threads allocate much more.

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

/// Counts from now on. The bridge allocates once in some fifty packets: what counting that takes does not show in what a packet costs.
pub(crate) fn start() {
    COUNTING.store(true, Ordering::Relaxed);
}

/// What this thread allocates is not counted: it is not the bridge's.
pub(crate) fn leave_out_this_thread() {
    LEFT_OUT.set(true);
}

/// Allocations so far.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_left_out_does_not_count() {
        // Tests run beside each other and share the count: the others may add some hundreds, not a million.
        const MANY: u64 = 1_000_000;
        let allocate = || (0..MANY).for_each(|n| drop(std::hint::black_box(Box::new(n))));
        let counted = |run: &dyn Fn()| {
            let before = count();
            run();
            count() - before
        };
        assert_eq!(counted(&allocate), 0, "nothing is counted before it is asked for");
        start();
        assert!(counted(&allocate) >= MANY);
        leave_out_this_thread();
        assert!(counted(&allocate) < MANY);
    }
}
