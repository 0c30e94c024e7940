//! Reads: which bytes of a run come from the log, which are zero, which from the volume. Decided at one instant, so that a read of
//! several blocks sees each write whole or not at all.

use crate::log::{BlockSource, SourceLog};
use ibid_units::{CpId, LogBlock, Mutant, Sector, Sectors, VolumeId};

/// A stretch of a read, in the order of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// In the log: from sector `in_page` of `page` on, over contiguous pages.
    Log {
        /// The segment; pin it while its pages are read.
        segment: CpId,
        /// The first page.
        page: LogBlock,
        /// First sector in that page.
        in_page: u32,
        /// Length.
        sectors: u32,
    },
    /// Zero.
    Zeroes {
        /// Length.
        sectors: u32,
    },
    /// In the volume.
    Volume {
        /// First sector.
        first: Sector,
        /// Length.
        sectors: u32,
    },
}

impl Fragment {
    /// Length in sectors.
    pub const fn sectors(&self) -> u32 {
        match *self {
            Fragment::Log { sectors, .. }
            | Fragment::Zeroes { sectors }
            | Fragment::Volume { sectors, .. } => sectors,
        }
    }

    /// Takes `next` into this fragment where it goes on exactly there.
    fn join(&mut self, next: &Fragment) -> bool {
        match (self, *next) {
            (
                Fragment::Log { segment, page, in_page, sectors },
                Fragment::Log {
                    segment: next_segment,
                    page: next_page,
                    in_page: next_in,
                    sectors: more,
                },
            ) => {
                let end = page.get() * 8 + *in_page + *sectors;
                let joins = *segment == next_segment && end == next_page.get() * 8 + next_in;
                *sectors += if joins { more } else { 0 };
                joins
            }
            (Fragment::Zeroes { sectors }, Fragment::Zeroes { sectors: more })
            | (Fragment::Volume { sectors, .. }, Fragment::Volume { sectors: more, .. }) => {
                *sectors += more;
                true
            }
            _ => false,
        }
    }
}

/// Calls `each` with the fragments of a run, in order, as long as they can be made.
pub fn plan_read(
    log: &SourceLog,
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
    mut each: impl FnMut(Fragment),
) {
    let end = first + sectors;
    let mut held: Option<Fragment> = None;
    let mut at = first.get();
    while at < end.get() {
        let block = at / 8;
        let from = (at % 8) as u32;
        let to = (end.get() - block * 8).min(8) as u32;
        let wanted = (((1u16 << (to - from)) - 1) << from) as u8;
        let places = log.lookup(volume, block, wanted);
        for sector in from..to {
            let next = match places[sector as usize] {
                Some((segment, BlockSource::Page(page))) => {
                    Fragment::Log { segment, page, in_page: sector, sectors: 1 }
                }
                Some((_, BlockSource::Zeroes | BlockSource::Deallocated))
                    if !Mutant::ZeroesFromVolume.is_on() =>
                {
                    Fragment::Zeroes { sectors: 1 }
                }
                Some(_) | None => Fragment::Volume {
                    first: Sector::new(block * 8 + u64::from(sector)),
                    sectors: 1,
                },
            };
            if held.as_mut().is_some_and(|fragment| fragment.join(&next)) {
                continue;
            }
            if let Some(done) = held.replace(next) {
                each(done);
            }
        }
        at = block * 8 + u64::from(to);
    }
    if let Some(last) = held {
        each(last);
    }
}

/// Keeps a CP from writing into a volume under a read that began before the CP's blocks were all readable from the log: such a read
/// could see half of a write. Reads count themselves in and out; a CP waits until those before it are out.
#[derive(Debug, Default)]
pub struct ReadGate {
    under_way: [u32; 2],
    generation: usize,
}

impl ReadGate {
    /// A read of the volume begins; keep what this returns for [`ReadGate::leave`].
    pub fn enter(&mut self) -> usize {
        self.under_way[self.generation] += 1;
        self.generation
    }
    /// It is over.
    pub fn leave(&mut self, generation: usize) {
        assert!(self.under_way[generation] > 0, "a read leaves once");
        self.under_way[generation] -= 1;
    }
    /// A CP is about to write: reads from now on count apart.
    pub fn turn(&mut self) {
        assert!(self.under_way[1 - self.generation] == 0, "one CP writes at a time");
        self.generation = 1 - self.generation;
    }
    /// True when every read from before the turn is over.
    pub fn is_clear(&self) -> bool {
        self.under_way[1 - self.generation] == 0 || Mutant::ReadGateOpen.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cp_waits_for_the_reads_before_it_and_for_no_others() {
        let mut gate = ReadGate::default();
        let before = gate.enter();
        gate.turn();
        let after = gate.enter();
        assert!(!gate.is_clear());
        gate.leave(before);
        assert!(gate.is_clear());
        gate.leave(after);
        gate.turn();
        assert!(gate.is_clear());
    }

    #[test]
    fn fragments_join_only_where_they_go_on() {
        let log = |page, in_page, sectors| Fragment::Log {
            segment: CpId::new(3),
            page: LogBlock::new(page),
            in_page,
            sectors,
        };
        let mut held = log(4, 6, 2);
        assert!(held.join(&log(5, 0, 8)));
        assert_eq!(held, log(4, 6, 10));
        assert!(!held.join(&log(6, 1, 1)));
        assert!(!held.join(&Fragment::Zeroes { sectors: 1 }));
    }
}
