//! Counts what a node allocates within its turns, and nothing that the world does meanwhile on its behalf.

use ibid_driver::no_alloc::{Refusal, arm, disarm};
use std::cell::Cell;

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static TOTAL: Cell<u64> = const { Cell::new(0) };
}

/// From now on turns are counted, or not any more.
pub fn count_turns(wanted: bool) {
    WANTED.set(wanted);
}

/// Allocations of turns so far.
pub fn total() -> u64 {
    TOTAL.get()
}

/// Runs a node's own code.
pub fn node<R>(work: impl FnOnce() -> R) -> R {
    if !WANTED.get() {
        return work();
    }
    arm(Refusal::Count);
    ARMED.set(true);
    let result = work();
    ARMED.set(false);
    TOTAL.set(TOTAL.get() + disarm());
    result
}

/// Runs the world's code within a node's turn: a driver in memory may allocate what a real one keeps in a device.
pub fn world<R>(work: impl FnOnce() -> R) -> R {
    if !ARMED.get() {
        return work();
    }
    TOTAL.set(TOTAL.get() + disarm());
    ARMED.set(false);
    let result = work();
    ARMED.set(true);
    arm(Refusal::Count);
    result
}
