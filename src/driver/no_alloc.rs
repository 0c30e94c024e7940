//! An allocator that notices. For tests of the promise that a shard allocates nothing after start.
//! Takes the place of the global allocator of a test binary; gives the count of allocations a thread made while it was
//! armed, or stops the process at the first. Not for production: it costs a thread-local load per allocation.
//!
//! ```
//! use ibid_driver::no_alloc::{RefusingAllocator, counted};
//!
//! #[global_allocator]
//! static ALLOCATOR: RefusingAllocator = RefusingAllocator;
//!
//! fn main() {
//!     let (turns, allocations) = counted(|| Box::new(1));
//!     assert_eq!((*turns, allocations), (1, 1));
//! }
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// The system's allocator, with a guard in front.
pub struct RefusingAllocator;

/// What happens to an allocation by an armed thread. Frees are always allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is counted and carried out; the first is reported to stderr with its backtrace, if RUST_BACKTRACE is set.
    Count,
    /// The process aborts, after a line on stderr. (A panic would unwind through the allocator, which is undefined.)
    Abort,
}

thread_local! {
    // `const` and without a destructor: the access itself never allocates.
    static ARMED: Cell<Option<Refusal>> = const { Cell::new(None) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Guards the calling thread from now on; its count starts at zero.
pub fn arm(refusal: Refusal) {
    COUNT.set(0);
    ARMED.set(Some(refusal));
}

/// Lifts the guard of the calling thread; returns how many allocations it made since [`arm`].
pub fn disarm() -> u64 {
    ARMED.set(None);
    COUNT.get()
}

/// Runs `work` with the calling thread guarded, and counts what it allocates.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, u64) {
    arm(Refusal::Count);
    let result = work();
    (result, disarm())
}

fn notice(bytes: usize) {
    match ARMED.get() {
        None => {}
        Some(Refusal::Count) => {
            COUNT.set(COUNT.get() + 1);
            if COUNT.get() == 1 {
                // The report allocates; it must not be counted itself.
                ARMED.set(None);
                let place = std::backtrace::Backtrace::capture();
                report(format_args!("an armed thread allocates {bytes} bytes\n{place}"));
                ARMED.set(Some(Refusal::Count));
            }
        }
        Some(Refusal::Abort) => {
            ARMED.set(None);
            report(format_args!("an armed thread allocates {bytes} bytes: abort"));
            std::process::abort();
        }
    }
}

/// Not `eprintln`: that panics where stderr is closed, and a panic must not leave the allocator.
fn report(text: std::fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{text}").ok();
}

// SAFETY: every call goes on to `System` with the caller's own arguments, so `System`'s promises are ours. `notice` doesn't
// unwind: what it reports, it writes without regard for success.
unsafe impl GlobalAlloc for RefusingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: the caller's promise about the layout, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        notice(bytes);
        // SAFETY: as above, and the caller's promise that `memory` came from here, which is from `System`.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
