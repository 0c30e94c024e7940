//! How a shard waits when it has nothing to do. Takes the time and whether a turn did anything, gives what to do until
//! the next; doesn't wait itself (the shard turns [`Wait::Sleep`] into a wait for its sockets and disks).
//!
//! Spinning alone ruins a machine with more pollers than cores, yielding alone costs nothing when the core is ours, and
//! sleeping costs a wakeup of 50 to 100 µs. Measured: three pollers on two cores take 1.6 µs when all spin and then yield,
//! but 4,000 µs where one yields beside one that spins. So: spin shortly, then yield, and sleep only when nothing has
//! happened for a millisecond, longer the longer it stays quiet.

use ibid_units::Nanos;

/// Turns without work that are spun through, with a pause instruction each.
pub const SPIN_TURNS_MAX: u32 = 200;
/// Quiet time after which yielding turns into sleeping, at most …
pub const YIELD_SPAN_MAX: Nanos = Nanos::from_millis(1);
/// … and for every busy turn since the last sleep: one heartbeat in the quiet is no load that more of will follow.
pub const YIELD_SPAN_PER_TURN: Nanos = Nanos::from_micros(100);
/// The first sleep, and what it grows to (a quarter more each time).
pub const SLEEP_SPAN_MIN: Nanos = Nanos::from_micros(20);
/// The longest sleep: it bounds how late a frame from a device without a descriptor is seen, so the first write after a quiet
/// time is still done within 2 ms.
pub const SLEEP_SPAN_MAX: Nanos = Nanos::from_micros(1500);

/// Whether a shard ever gives its core away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdleMode {
    /// Never: the core is the shard's own.
    Spin,
    /// Spin, then yield, then sleep.
    Adaptive,
}

/// What to do until the next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Run the next turn at once, after a pause instruction if the last one did nothing.
    Spin,
    /// Let another thread have the core, if one wants it.
    Yield,
    /// Wait so long for sockets and disks, not longer.
    Sleep(Nanos),
}

/// The policy of one shard. Pure: same calls, same answers.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    mode: IdleMode,
    quiet: Option<Quiet>,
    /// Busy turns since the last sleep.
    busy_turns: u32,
    /// The last sleep.
    slept: Nanos,
}

/// A time without work.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    since: Nanos,
    turns: u32,
    yields: Nanos,
    sleep: Nanos,
}

impl Idle {
    /// A shard that starts busy.
    pub const fn new(mode: IdleMode) -> Self {
        Self { mode, quiet: None, busy_turns: 0, slept: SLEEP_SPAN_MIN }
    }

    /// To be asked after every turn: `busy` if anything was received, sent or completed in it.
    pub fn after_turn(&mut self, now: Nanos, busy: bool) -> Wait {
        if busy {
            self.quiet = None;
            self.busy_turns = self.busy_turns.saturating_add(1);
            return Wait::Spin;
        }
        if self.mode == IdleMode::Spin {
            return Wait::Spin;
        }
        let yields =
            Nanos::new(YIELD_SPAN_PER_TURN.get() * u64::from(self.busy_turns)).min(YIELD_SPAN_MAX);
        // After a single event the sleeps need not start from the shortest again.
        let sleep = if yields < YIELD_SPAN_MAX {
            Nanos::new(self.slept.get() / 4).max(SLEEP_SPAN_MIN)
        } else {
            SLEEP_SPAN_MIN
        };
        let quiet = self.quiet.get_or_insert(Quiet { since: now, turns: 0, yields, sleep });
        if quiet.turns < SPIN_TURNS_MAX {
            quiet.turns += 1;
            return Wait::Spin;
        }
        if now.since(quiet.since) < quiet.yields {
            return Wait::Yield;
        }
        let sleep = quiet.sleep;
        quiet.sleep = Nanos::new(sleep.get() + sleep.get() / 4).min(SLEEP_SPAN_MAX);
        self.slept = sleep;
        self.busy_turns = 0;
        Wait::Sleep(sleep)
    }
}

/// A core that a thread could not be bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PinRefused {
    /// This process may not run there (or the machine has no such core).
    #[error(
        "core {core} is not among the {allowed} cores this process may run on (see `taskset -p` and the cgroup's cpuset)"
    )]
    NotAllowed {
        /// The core asked for.
        core: usize,
        /// How many cores there are for this process.
        allowed: usize,
    },
    /// The kernel did not accept the core, or did not say which there are.
    #[error("the kernel refused to bind this thread to core {core}")]
    Refused {
        /// The core asked for.
        core: usize,
    },
}

/// Binds the calling thread to a core, by the number the operating system gives it.
pub fn pin_to(core: usize) -> Result<(), PinRefused> {
    let allowed = core_affinity::get_core_ids().ok_or(PinRefused::Refused { core })?;
    let Some(id) = allowed.iter().find(|id| id.id == core) else {
        return Err(PinRefused::NotAllowed { core, allowed: allowed.len() });
    };
    if core_affinity::set_for_current(*id) { Ok(()) } else { Err(PinRefused::Refused { core }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_turns_spin_then_yield_then_sleep_longer_and_longer() {
        let mut idle = Idle::new(IdleMode::Adaptive);
        let mut now = Nanos::from_millis(7);
        for _ in 0..10 {
            idle.after_turn(now, true);
        }
        for _ in 0..SPIN_TURNS_MAX {
            assert_eq!(idle.after_turn(now, false), Wait::Spin);
        }
        assert_eq!(idle.after_turn(now, false), Wait::Yield);
        now = now.after(YIELD_SPAN_MAX);
        let mut last = Nanos::ZERO;
        let mut sleeps = 0;
        while last < SLEEP_SPAN_MAX {
            let Wait::Sleep(span) = idle.after_turn(now, false) else { panic!("awake when quiet") };
            assert!(span > last && span >= SLEEP_SPAN_MIN, "{span:?} after {last:?}");
            last = span;
            sleeps += 1;
            now = now.after(span);
            assert!(sleeps < 40, "the longest sleep is never reached");
        }
        assert_eq!(idle.after_turn(now, false), Wait::Sleep(SLEEP_SPAN_MAX));
    }

    #[test]
    fn work_ends_the_quiet_and_starts_it_afresh() {
        let mut idle = Idle::new(IdleMode::Adaptive);
        for ms in 0..1000 {
            idle.after_turn(Nanos::from_millis(ms), false);
        }
        let now = Nanos::from_millis(1000);
        assert_eq!(idle.after_turn(now, false), Wait::Sleep(SLEEP_SPAN_MAX));
        for _ in 0..10 {
            assert_eq!(idle.after_turn(now, true), Wait::Spin);
        }
        for _ in 0..SPIN_TURNS_MAX {
            assert_eq!(idle.after_turn(now, false), Wait::Spin);
        }
        assert_eq!(idle.after_turn(now.after(Nanos::from_micros(900)), false), Wait::Yield);
        let Wait::Sleep(first) = idle.after_turn(now.after(YIELD_SPAN_MAX), false) else {
            panic!("awake when quiet")
        };
        assert_eq!(first, SLEEP_SPAN_MIN);
    }

    #[test]
    fn one_event_in_the_quiet_wakes_for_a_short_time_only() {
        let mut idle = Idle::new(IdleMode::Adaptive);
        for ms in 0..1000 {
            idle.after_turn(Nanos::from_millis(ms), false);
        }
        let now = Nanos::from_millis(1000);
        assert_eq!(idle.after_turn(now, true), Wait::Spin);
        for _ in 0..SPIN_TURNS_MAX {
            assert_eq!(idle.after_turn(now, false), Wait::Spin);
        }
        assert_eq!(idle.after_turn(now, false), Wait::Yield);
        let Wait::Sleep(first) = idle.after_turn(now.after(YIELD_SPAN_PER_TURN), false) else {
            panic!("awake after one event")
        };
        assert!(first > SLEEP_SPAN_MIN && first < SLEEP_SPAN_MAX);
    }

    #[test]
    fn a_core_of_its_own_is_never_given_away() {
        let mut idle = Idle::new(IdleMode::Spin);
        for ms in 0..10_000 {
            assert_eq!(idle.after_turn(Nanos::from_millis(ms), false), Wait::Spin);
        }
    }

    #[test]
    fn a_thread_is_bound_to_the_core_it_names_or_told_why_not() {
        std::thread::spawn(|| {
            let core = core_affinity::get_core_ids().unwrap()[0].id;
            assert_eq!(pin_to(core), Ok(()));
            // SAFETY: takes nothing, gives a number.
            let here = unsafe { libc::sched_getcpu() };
            assert_eq!(here, i32::try_from(core).unwrap());
            let Err(PinRefused::NotAllowed { core: 100_000, .. }) = pin_to(100_000) else {
                panic!("there is no core 100000")
            };
        })
        .join()
        .unwrap();
    }
}
