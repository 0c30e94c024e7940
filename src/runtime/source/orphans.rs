//! Writes in the log whose hosts no longer wait for them: told to try again, or gone. They have their place in the order of writes, before
//! whatever their hosts send later, and may still be committed, or not be found after a crash.
//! ORPHAN-1  what is read after a host was told that its write failed, or lost its connection, is never followed by that write: a read of
//!           its range waits until it is committed (I16).

use ibid_units::{Sector, Sectors, VolumeId};
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Orphan {
    place: u32,
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
}

/// In the order in which they were left, which is mostly that of the log.
#[derive(Debug)]
pub(super) struct Orphans(VecDeque<Orphan>);

impl Orphans {
    /// All memory is taken here.
    pub(super) fn new(writes_max: usize) -> Self {
        Self(VecDeque::with_capacity(writes_max))
    }

    /// Nobody waits for the write in this place any more.
    pub(super) fn add(&mut self, place: u32, run: (VolumeId, Sector, Sectors)) {
        let (volume, first, sectors) = run;
        self.0.push_back(Orphan { place, volume, first, sectors });
    }

    /// The write in this place is committed.
    pub(super) fn committed(&mut self, place: u32) {
        if let Some(at) = self.0.iter().position(|orphan| orphan.place == place) {
            self.0.remove(at);
        }
    }

    /// Whether a run touches one.
    pub(super) fn overlap(&self, volume: VolumeId, first: Sector, sectors: Sectors) -> bool {
        let end = first + sectors;
        self.0.iter().any(|orphan| {
            orphan.volume == volume && orphan.first < end && first < orphan.first + orphan.sectors
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_touches_is_known_until_it_is_committed() {
        let (volume, other) = (VolumeId::new(1), VolumeId::new(0));
        let run = |volume, first, sectors| (volume, Sector::new(first), Sectors::new(sectors));
        let mut orphans = Orphans::new(4);
        orphans.add(7, run(volume, 10, 4));
        orphans.add(3, run(volume, 12, 8));
        let touches = |orphans: &Orphans, volume, first, sectors| {
            orphans.overlap(volume, Sector::new(first), Sectors::new(sectors))
        };
        assert!(touches(&orphans, volume, 0, 11));
        assert!(!touches(&orphans, volume, 0, 10));
        assert!(!touches(&orphans, volume, 20, 9));
        assert!(!touches(&orphans, other, 0, 100));
        orphans.committed(7);
        orphans.committed(8);
        assert!(!touches(&orphans, volume, 10, 2));
        assert!(touches(&orphans, volume, 10, 3));
        orphans.committed(3);
        assert!(!touches(&orphans, volume, 0, 100));
    }
}
