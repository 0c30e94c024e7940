//! Arenas that go from run to run on a thread: taking memory of the kernel, page by page, would cost more than a run.

use ibid_driver::Arena;
use ibid_units::Span;
use std::cell::RefCell;
use std::sync::Arc;

/// Arenas kept per thread, at most.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Arc<Arena>>> = const { RefCell::new(Vec::new()) };
}

/// An arena of at least so many bytes, all zero.
pub(crate) fn take(bytes: u64) -> Arc<Arena> {
    let found = POOL.with_borrow_mut(|pool| {
        let at = pool
            .iter()
            .position(|arena| arena.len() as u64 >= bytes && Arc::strong_count(arena) == 1)?;
        Some(pool.swap_remove(at))
    });
    match found {
        Some(arena) => {
            // As much as this run can see: what lies behind is out of its layout.
            let bytes = u32::try_from(bytes).expect("a simulated arena is small");
            arena.zero(Span::new(0, bytes));
            arena
        }
        None => {
            let bytes = usize::try_from(bytes).expect("it fits memory");
            Arc::new(Arena::new(bytes, false).expect("memory").0)
        }
    }
}

/// Gives an arena back. Whoever still holds it keeps it from being used.
pub(crate) fn give(arena: Arc<Arena>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(arena);
        }
    });
}
