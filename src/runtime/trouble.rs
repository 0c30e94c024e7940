//! Errors of volumes that are tried again: what went wrong, since when, how often; and when the next try is due.

use ibid_units::Nanos;

/// A CP that failed on a volume is applied again after so long.
const RETRY_AFTER: Nanos = Nanos::from_millis(1000);

/// The errors since a CP last succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    code: i32,
    since: Nanos,
    count: u64,
    retry_at: Nanos,
}

impl Trouble {
    /// An operation failed with an operating system error code.
    pub(crate) fn note(&mut self, now: Nanos, code: i32) {
        if self.count == 0 {
            self.since = now;
        }
        self.code = code;
        self.count += 1;
        self.retry_at = now.after(RETRY_AFTER);
    }

    /// It may be tried again.
    pub(crate) fn may_retry(&self, now: Nanos) -> bool {
        now >= self.retry_at
    }

    /// It succeeded.
    pub(crate) fn is_over(&mut self) {
        *self = Self::default();
    }

    /// Code, age and number of errors, where there are any.
    pub(crate) fn state(&self, now: Nanos) -> Option<(i32, Nanos, u64)> {
        (self.count > 0).then(|| (self.code, now.since(self.since), self.count))
    }
}
