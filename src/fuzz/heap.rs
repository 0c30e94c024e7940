//! How many bytes of heap the running thread has and has not given back: after a script it must be what it was before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
#[derive(Debug)]
struct Counting;

fn count(bytes: isize) {
    // A thread that ends has no counter any more, and nobody who asks.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

fn size(layout: Layout) -> isize {
    layout.size().try_into().expect("a layout's size fits an isize")
}

// SAFETY: every call is passed on to the system's allocator as it came; the counter is a cell of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller's promise is passed on. Passed on as it is, or large arenas would be written to.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes that this thread has taken and not given back.
pub(crate) fn live() -> isize {
    LIVE.get()
}
