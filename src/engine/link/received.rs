//! Which packet numbers have arrived: a few ranges, newest first.
//! Takes numbers in any order; gives the ranges a report carries. Forgetting an old range only costs a retransmission.

use ibid_wire::peer::{PacketRange, RANGES_MAX, Report};

/// Received packet numbers of one session.
#[derive(Debug, Clone)]
pub struct Received {
    ranges: [PacketRange; RANGES_MAX],
    count: usize,
}

impl Default for Received {
    fn default() -> Self {
        Self { ranges: [PacketRange { first: 0, last: 0 }; RANGES_MAX], count: 0 }
    }
}

impl Received {
    /// Notes a number; false where it was noted before. (A number below all ranges kept counts as new.)
    pub fn insert(&mut self, number: u64) -> bool {
        let mut at = 0;
        while at < self.count && number < self.ranges[at].first {
            at += 1;
        }
        if at < self.count && number <= self.ranges[at].last {
            return false;
        }
        // The number lies above range `at` and below range `at - 1`: join either or both, or stand between.
        let joins_below = at < self.count && self.ranges[at].last + 1 == number;
        let joins_above = at > 0 && number + 1 == self.ranges[at - 1].first;
        match (joins_above, joins_below) {
            (true, true) => {
                self.ranges[at - 1].first = self.ranges[at].first;
                self.ranges.copy_within(at + 1..self.count, at);
                self.count -= 1;
            }
            (true, false) => self.ranges[at - 1].first = number,
            (false, true) => self.ranges[at].last = number,
            (false, false) => {
                if at == RANGES_MAX {
                    return true;
                }
                let kept = self.count.min(RANGES_MAX - 1);
                self.ranges.copy_within(at..kept, at + 1);
                self.ranges[at] = PacketRange { first: number, last: number };
                self.count = kept + 1;
            }
        }
        true
    }

    /// Writes the ranges into a report, newest first.
    pub fn report(&self, report: &mut Report) {
        for range in &self.ranges[..self.count] {
            report.push_range(*range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use ibid_units::{CpId, Lsn};

    #[test]
    fn numbers_in_any_order_become_the_right_ranges() {
        let mut seed = 99u64;
        for _ in 0..200 {
            let mut received = Received::default();
            let mut model = BTreeSet::new();
            for _ in 0..100 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = seed >> 33 & 31;
                assert_eq!(received.insert(number), model.insert(number));
                let mut report = Report::new(Lsn::new(0), CpId::new(0), CpId::new(0), [0; 32]);
                received.report(&mut report);
                let mut below = u64::MAX;
                let mut named = BTreeSet::new();
                for range in report.ranges() {
                    assert!(
                        range.first <= range.last && range.last < below.saturating_sub(1).max(1),
                        "apart and falling"
                    );
                    below = range.first;
                    named.extend(range.first..=range.last);
                }
                assert_eq!(named, model);
            }
        }
    }

    #[test]
    fn more_gaps_than_ranges_forget_the_oldest() {
        let mut received = Received::default();
        for n in 0..2 * RANGES_MAX as u64 {
            assert!(received.insert(n * 2));
        }
        let mut report = Report::new(Lsn::new(0), CpId::new(0), CpId::new(0), [0; 32]);
        received.report(&mut report);
        assert_eq!(report.ranges().len(), RANGES_MAX);
        assert_eq!(report.ranges()[0].last, 2 * (2 * RANGES_MAX as u64 - 1));
        assert!(!received.insert(2 * (2 * RANGES_MAX as u64 - 1)));
    }
}
