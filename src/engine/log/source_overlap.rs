//! Which entries of a run the log has that nobody can read yet.

use super::{Logged, SourceLog};
use ibid_units::{Lsn, Sector, Sectors, VolumeId};

impl Logged {
    fn overlaps(&self, volume: VolumeId, first: Sector, sectors: Sectors) -> bool {
        let entry = &self.entry;
        entry.volume == volume
            && entry.first < first + sectors
            && first < entry.first + entry.sectors
    }
}

impl SourceLog {
    /// How far the log must have committed before a read of this run shows every entry of it that was given to the log until now;
    /// `None` where it shows them already. Where such an entry waits for its Lsn, any progress may be enough: ask again then.
    pub fn committed_for(&self, volume: VolumeId, first: Sector, sectors: Sectors) -> Option<Lsn> {
        if self.waiting.iter().any(|logged| logged.overlaps(volume, first, sectors)) {
            return Some(self.committed.next());
        }
        let newest =
            self.entries.iter().rposition(|logged| logged.overlaps(volume, first, sectors));
        newest.map(|at| self.committed.plus(at as u64 + 1))
    }
}
