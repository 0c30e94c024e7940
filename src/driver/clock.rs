//! The system's monotonic clock as a [`Clock`]. Takes nothing, gives nanoseconds; not wall-clock time.
//! `CLOCK_MONOTONIC` through the vDSO costs about 25 ns, once per turn; reading the TSC ourselves would save little and
//! need a calibration.

use ibid_units::Nanos;

use crate::Clock;

/// `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl MonotonicClock {
    /// The clock.
    pub const fn new() -> Self {
        Self
    }
}

impl Clock for MonotonicClock {
    fn now(&mut self) -> Nanos {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one `timespec` to the address of ours.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        assert!(result == 0, "CLOCK_MONOTONIC exists on every Linux");
        let seconds = u64::try_from(time.tv_sec).expect("monotonic time starts at 0");
        let nanos = u64::try_from(time.tv_nsec).expect("a part of a second is not negative");
        Nanos::new(seconds * 1_000_000_000 + nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_never_turns_back() {
        let mut clock = MonotonicClock::new();
        let start = clock.now();
        let mut last = start;
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(clock.now().since(start) >= Nanos::from_millis(2));
    }
}
