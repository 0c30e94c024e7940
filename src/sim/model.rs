//! What a volume may hold: for every sector the writes that could be the newest one, given which commands overlapped in time.
//! Judges every read: each sector by itself, and each write as a whole (all of it is seen, or none).

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

const SECTOR: usize = 512;
const NEVER: u64 = u64::MAX;

/// A write (or zeroes) by its number; 0 is what was there at the start.
pub type Write = u32;

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub volume: usize,
    pub first: u64,
    pub sectors: u64,
    pub zeroes: bool,
    began: u64,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    write: Write,
    zeroes: bool,
    /// It had taken effect by then.
    effective: u64,
    /// It was surely overwritten by then.
    gone: u64,
    /// It took effect before then, or never.
    until: u64,
    /// Whatever began after that comes after it: its host was told that it failed, or has seen its connection closed (I16).
    ordered: u64,
    /// Its host was told that it failed, or has seen its connection closed: a read that began after that, and does not show it, comes
    /// after it.
    told: u64,
}

/// What each sector of a run holds: a write, or `None` for zeroes.
pub type Versions = Vec<Option<Write>>;

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    pub volume: usize,
    pub first: u64,
    sectors: u64,
    began: u64,
}

pub struct Model {
    volumes: Vec<Vec<Vec<Candidate>>>,
    writes: Vec<Line>,
    now: u64,
    crashed: u64,
    reading: BTreeSet<u64>,
    /// Which write came directly behind which, by volume and sector, where a fused pair says so.
    followed: BTreeMap<(usize, u64, Write), Write>,
}

/// The bytes of a sector as write `write` makes them: no two are alike.
fn pattern(write: Write, volume: usize, sector: u64) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let head = u64::from(write) | sector << 32;
    let mut word = Random::new(head ^ (volume as u64) << 56).word() | 1;
    out[..8].copy_from_slice(&head.to_le_bytes());
    for chunk in out[8..].chunks_exact_mut(8) {
        word = word.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ (word >> 29);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    out
}

impl Model {
    /// Volumes of so many sectors, all zero.
    pub fn new(volumes: &[u64]) -> Model {
        let start = Candidate {
            write: 0,
            zeroes: true,
            effective: 0,
            gone: NEVER,
            until: NEVER,
            ordered: 0,
            told: NEVER,
        };
        let nothing = Line { volume: 0, first: 0, sectors: 0, zeroes: true, began: 0 };
        Model {
            volumes: volumes.iter().map(|sectors| vec![vec![start]; *sectors as usize]).collect(),
            writes: vec![nothing],
            now: 0,
            crashed: 0,
            reading: BTreeSet::new(),
            followed: BTreeMap::new(),
        }
    }

    /// A write goes out. Gives its number and its bytes (none for zeroes).
    pub fn begin_write(
        &mut self,
        volume: usize,
        first: u64,
        sectors: u64,
        zeroes: bool,
    ) -> (Write, Vec<u8>) {
        self.now += 1;
        let began = self.now;
        let write = self.writes.len() as Write;
        self.writes.push(Line { volume, first, sectors, zeroes, began });
        let candidate = Candidate {
            write,
            zeroes,
            effective: NEVER,
            gone: NEVER,
            until: NEVER,
            ordered: NEVER,
            told: NEVER,
        };
        let mut bytes = Vec::new();
        for sector in first..first + sectors {
            self.volumes[volume][sector as usize].push(candidate);
            if !zeroes {
                bytes.extend_from_slice(&pattern(write, volume, sector));
            }
        }
        (write, bytes)
    }

    /// A write was completed. (One that fails or is never answered may take effect at any time, or not.)
    pub fn end_write(&mut self, write: Write) {
        self.now += 1;
        let now = self.now;
        let oldest = self.reading.first().copied().unwrap_or(NEVER);
        let Line { volume, first, sectors, began, .. } = self.writes[write as usize];
        for sector in first..first + sectors {
            let candidates = &mut self.volumes[volume][sector as usize];
            for candidate in candidates.iter_mut() {
                if candidate.write == write {
                    candidate.effective = candidate.effective.min(now);
                } else if candidate.effective.min(candidate.until).min(candidate.ordered) < began {
                    candidate.gone = candidate.gone.min(now);
                }
            }
            candidates.retain(|candidate| candidate.gone == NEVER || candidate.gone > oldest);
        }
    }

    /// A write has ended without success as far as its host can tell: it has its place in the order by now, or will have none (I16).
    pub fn end_unsure(&mut self, write: Write) {
        self.now += 1;
        let now = self.now;
        let Line { volume, first, sectors, .. } = self.writes[write as usize];
        for sector in first..first + sectors {
            let candidates = &mut self.volumes[volume][sector as usize];
            for candidate in candidates.iter_mut().filter(|candidate| candidate.write == write) {
                candidate.ordered = candidate.ordered.min(now);
                candidate.told = candidate.told.min(now);
            }
        }
    }

    /// The node that takes writes ends. What is under way may still take effect: in its log, or in what it takes over from its peer.
    pub fn crash(&mut self) {
        self.now += 1;
        self.crashed = self.now;
    }

    /// The node that takes writes has decided what its log holds of the time before its newest start: what was under way then has
    /// taken effect by now, whole, or never will.
    pub fn settled(&mut self) {
        self.now += 1;
        let (now, crashed) = (self.now, self.crashed);
        let Self { volumes, writes, .. } = self;
        for candidate in volumes.iter_mut().flatten().flatten() {
            let began = writes[candidate.write as usize].began;
            if candidate.effective == NEVER && began <= crashed {
                candidate.until = candidate.until.min(now);
            }
        }
    }

    /// What a volume would hold, were a node to start from what its disk has now.
    pub fn check_image(&self, volume: usize, bytes: &[u8]) {
        let all = self.volumes[volume].len() as u64;
        for first in (0..all).step_by(256) {
            let sectors = 256.min(all - first);
            let reading = Reading { volume, first, sectors, began: self.now };
            self.judge(&reading, &bytes[first as usize * SECTOR..][..sectors as usize * SECTOR]);
        }
    }

    pub fn begin_read(&mut self, volume: usize, first: u64, sectors: u64) -> Reading {
        self.now += 1;
        self.reading.insert(self.now);
        Reading { volume, first, sectors, began: self.now }
    }

    /// A client reads.
    pub fn is_read_from(&self) -> bool {
        !self.reading.is_empty()
    }

    /// What a client may believe that a run holds: of each sector the newest version that is surely there, at times another one, at times one
    /// that never was.
    pub fn guess(&self, volume: usize, first: u64, sectors: u64, random: &mut Random) -> Versions {
        let kind = random.below(100);
        let mut versions: Versions = (first..first + sectors)
            .map(|sector| {
                let candidates = &self.volumes[volume][sector as usize];
                let sure = candidates.iter().rev().find(|candidate| candidate.effective != NEVER);
                let newest = candidates.last();
                let any = &candidates[random.below(candidates.len() as u64) as usize];
                let candidate = match kind {
                    0..75 => sure.or(newest),
                    75..90 => newest,
                    _ => Some(any),
                };
                candidate.and_then(|candidate| (!candidate.zeroes).then_some(candidate.write))
            })
            .collect();
        if random.chance(50) {
            let at = random.below(sectors) as usize;
            versions[at] = Some(Write::MAX);
        }
        versions
    }

    /// The bytes of such versions.
    pub fn bytes_of(&self, volume: usize, first: u64, versions: &[Option<Write>]) -> Vec<u8> {
        let bytes = |(sector, version): (u64, &Option<Write>)| {
            version.map_or([0; SECTOR], |write| pattern(write, volume, sector))
        };
        (first..).zip(versions).flat_map(bytes).collect()
    }

    /// A compare found a difference: there must have been one at some time, and not made by the write that it is fused with.
    pub fn differed(
        &mut self,
        reading: &Reading,
        versions: &[Option<Write>],
        fused: Option<Write>,
    ) {
        self.now += 1;
        self.reading.remove(&reading.began);
        let possible = (reading.first..).zip(versions).any(|(sector, version)| {
            self.volumes[reading.volume][sector as usize].iter().any(|candidate| {
                let same = version.map_or(candidate.zeroes, |write| {
                    candidate.write == write && !candidate.zeroes
                });
                !same && candidate.gone >= reading.began && fused != Some(candidate.write)
            })
        });
        assert!(
            possible,
            "a compare of {versions:?} in {reading:?} found a difference: there is none"
        );
    }

    /// A write took effect directly behind these versions, as a fused pair that was completed says. It is not completed in the model yet.
    pub fn follows(&mut self, write: Write, versions: &[Option<Write>]) {
        self.now += 1;
        let now = self.now;
        let Line { volume, first, .. } = self.writes[write as usize];
        for (sector, version) in (first..).zip(versions) {
            if let Some(version) = version {
                let other = self.followed.insert((volume, sector, *version), write);
                assert!(
                    other.is_none(),
                    "volume {volume} sector {sector}: writes {write} and {other:?} both found {version} there, and both took effect"
                );
            }
            let candidates = &mut self.volumes[volume][sector as usize];
            let same = |candidate: &Candidate| {
                version.map_or(candidate.zeroes, |one| candidate.write == one && !candidate.zeroes)
            };
            // Whatever began when the version before it had taken effect comes after that, hence after this one, too.
            let ordered = candidates.iter().filter(|c| same(c)).map(|c| c.effective).max();
            let ordered = ordered.unwrap_or(NEVER);
            let writes = &self.writes;
            let later = candidates.iter().any(|c| {
                let began = writes[c.write as usize].began;
                c.write != write && began > ordered && c.effective <= now
            });
            for candidate in candidates.iter_mut() {
                if candidate.write == write {
                    candidate.ordered = candidate.ordered.min(ordered);
                    if later {
                        candidate.gone = candidate.gone.min(now);
                    }
                } else if version.is_some() && same(candidate) {
                    candidate.gone = candidate.gone.min(now);
                }
            }
        }
    }

    /// A write was refused for good: it has no effect, nor had it any.
    pub fn never(&mut self, write: Write) {
        self.now += 1;
        let Line { volume, first, sectors, .. } = self.writes[write as usize];
        for sector in first..first + sectors {
            let candidates = &mut self.volumes[volume][sector as usize];
            let seen = candidates.iter().any(|c| c.write == write && c.effective != NEVER);
            assert!(!seen, "write {write} was refused, and sector {sector} has shown it");
            candidates.retain(|candidate| candidate.write != write);
        }
    }

    /// A read that nobody answers.
    pub fn drop_read(&mut self, reading: &Reading) {
        self.reading.remove(&reading.began);
    }

    /// A read was answered.
    pub fn end_read(&mut self, reading: &Reading, bytes: &[u8]) {
        self.see(reading, bytes);
    }

    /// A read was answered. Gives the write that each sector shows; `None` for zeroes.
    pub fn see(&mut self, reading: &Reading, bytes: &[u8]) -> Vec<Option<Write>> {
        self.now += 1;
        assert_eq!(bytes.len() as u64, reading.sectors * 512);
        self.reading.remove(&reading.began);
        let seen = self.judge(reading, bytes);
        let (now, began) = (self.now, reading.began);
        for (sector, write) in (reading.first..).zip(seen.iter().copied()) {
            let candidates = &mut self.volumes[reading.volume][sector as usize];
            let zeroes = write.is_none();
            let matches = candidates
                .iter()
                .filter(|c| c.zeroes == zeroes && write.is_none_or(|write| c.write == write))
                .count();
            for candidate in candidates.iter_mut() {
                if candidate.zeroes == zeroes && write.is_none_or(|write| candidate.write == write)
                {
                    if matches == 1 {
                        candidate.effective = candidate.effective.min(now);
                    }
                } else if candidate.effective.min(candidate.until).min(candidate.told) <= began {
                    // A write once read does not vanish: what came before it is not seen again. Nor is one of which the host was
                    // told before the read that it failed: it had its place by then, or has none (I16).
                    candidate.gone = candidate.gone.min(now);
                }
            }
        }
        seen
    }

    /// What each sector shows: a write, or `None` for zeroes.
    fn judge(&self, reading: &Reading, bytes: &[u8]) -> Vec<Option<Write>> {
        let volume = reading.volume;
        let mut seen = Vec::with_capacity(reading.sectors as usize);
        for (sector, shown) in (reading.first..).zip(bytes.chunks_exact(SECTOR)) {
            let write = if shown.iter().all(|byte| *byte == 0) {
                None
            } else {
                let head = u64::from_le_bytes(shown[..8].try_into().expect("eight bytes"));
                let write = head as Write;
                assert!(
                    shown == pattern(write, volume, sector),
                    "volume {volume} sector {sector} holds bytes nobody wrote there"
                );
                Some(write)
            };
            let candidates = &self.volumes[volume][sector as usize];
            let allowed = candidates.iter().any(|candidate| {
                let same = write.map_or(candidate.zeroes, |write| {
                    candidate.write == write && !candidate.zeroes
                });
                same && candidate.gone >= reading.began
            });
            assert!(
                allowed,
                "volume {volume} sector {sector} shows {write:?} in {reading:?}, allowed: {candidates:?}"
            );
            seen.push(write);
        }
        self.judge_whole(reading, &seen);
        seen
    }

    /// Each write is seen whole or not at all.
    fn judge_whole(&self, reading: &Reading, seen: &[Option<Write>]) {
        let mut runs: Vec<(Option<Write>, u64, u64)> = Vec::new();
        for (sector, write) in (reading.first..).zip(seen) {
            match runs.last_mut() {
                Some((last, _, end)) if last == write => *end = sector + 1,
                _ => runs.push((*write, sector, sector + 1)),
            }
        }
        for (one, from, to) in &runs {
            let Some(one) = one else { continue };
            let line = self.writes[*one as usize];
            for (other, start, end) in &runs {
                let overlap = (*start).max(line.first)..(*end).min(line.first + line.sectors);
                if other.as_ref() == Some(one) || overlap.is_empty() {
                    continue;
                }
                match other {
                    Some(other) => {
                        let covered = self.writes[*other as usize];
                        let both =
                            (*from).max(covered.first)..(*to).min(covered.first + covered.sectors);
                        assert!(
                            both.is_empty(),
                            "{reading:?} shows write {one} at {from} and write {other} at {start}: one is torn"
                        );
                    }
                    None => {
                        for sector in overlap {
                            // Zeroes that are newer than this write, and not where it is still seen.
                            let newer = |c: &Candidate| {
                                let Line { first, sectors, .. } = self.writes[c.write as usize];
                                let reaches = first < *to && *from < first + sectors;
                                c.zeroes && c.effective >= line.began && !reaches
                            };
                            let candidates = &self.volumes[reading.volume][sector as usize];
                            assert!(
                                candidates.iter().any(newer),
                                "{reading:?} shows write {one} at {from}, zeroes at {sector}: torn"
                            );
                        }
                    }
                }
            }
        }
    }

    /// A volume when nothing is under way any more.
    pub fn check_volume(&mut self, volume: usize, bytes: &[u8]) {
        let all = self.volumes[volume].len() as u64;
        for first in (0..all).step_by(256) {
            let sectors = 256.min(all - first);
            let reading = self.begin_read(volume, first, sectors);
            self.end_read(&reading, &bytes[first as usize * SECTOR..][..sectors as usize * SECTOR]);
        }
    }

    /// The newest write that was begun.
    pub fn newest(&self) -> Write {
        self.writes.len() as Write - 1
    }

    /// Where a write goes.
    pub fn line(&self, write: Write) -> Line {
        self.writes[write as usize]
    }

    /// Where a write goes and its bytes again.
    pub fn content(&self, write: Write) -> (usize, u64, Vec<u8>) {
        let line = self.writes[write as usize];
        let bytes = if line.zeroes {
            vec![0; line.sectors as usize * SECTOR]
        } else {
            (line.first..line.first + line.sectors)
                .flat_map(|sector| pattern(write, line.volume, sector))
                .collect()
        };
        (line.volume, line.first, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(work: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
    }

    #[test]
    fn a_torn_a_lost_and_a_vanished_write_are_all_seen() {
        let mut model = Model::new(&[64]);
        let (one, first) = model.begin_write(0, 0, 16, false);
        let reading = model.begin_read(0, 0, 16);
        model.end_read(&reading, &vec![0; 16 * 512]);
        let reading = model.begin_read(0, 0, 16);
        let mut torn = first.clone();
        torn[8 * 512..].fill(0);
        assert!(panics(|| model.end_read(&reading, &torn)));
        let reading = model.begin_read(0, 0, 16);
        model.end_read(&reading, &first);
        let reading = model.begin_read(0, 0, 16);
        assert!(panics(|| model.end_read(&reading, &vec![0; 16 * 512])), "it was read before");
        model.end_write(one);
        let (two, second) = model.begin_write(0, 8, 8, false);
        model.end_write(two);
        let reading = model.begin_read(0, 0, 16);
        assert!(panics(|| model.end_read(&reading, &first)), "it was overwritten");
        let mut both = first.clone();
        both[8 * 512..].copy_from_slice(&second);
        let reading = model.begin_read(0, 0, 16);
        model.end_read(&reading, &both);
    }

    #[test]
    fn zeroes_that_are_torn_are_seen() {
        for torn in [true, false] {
            let mut model = Model::new(&[64]);
            let (one, mut bytes) = model.begin_write(0, 0, 16, false);
            model.end_write(one);
            model.begin_write(0, 4, 8, true);
            if !torn {
                model.begin_write(0, 4, 2, true);
            }
            bytes[4 * 512..6 * 512].fill(0);
            let reading = model.begin_read(0, 0, 16);
            assert_eq!(panics(|| model.end_read(&reading, &bytes)), torn);
        }
    }

    #[test]
    fn a_pair_that_is_not_one_is_seen() {
        let start = || {
            let mut model = Model::new(&[8]);
            let (one, _) = model.begin_write(0, 0, 1, false);
            model.end_write(one);
            (model, one)
        };
        let take = |model: &mut Model, versions: &[Option<Write>], write: Write| {
            let reading = model.begin_read(0, 0, 1);
            model.see(&reading, &model.bytes_of(0, 0, versions));
            model.follows(write, versions);
            model.end_write(write);
        };
        // Two that find the same.
        let (mut model, one) = start();
        let [(two, _), (three, _)] = [(); 2].map(|()| model.begin_write(0, 0, 1, false));
        let readings = [(); 2].map(|()| model.begin_read(0, 0, 1));
        for reading in &readings {
            model.see(reading, &model.bytes_of(0, 0, &[Some(one)]));
        }
        model.follows(two, &[Some(one)]);
        model.end_write(two);
        assert!(panics(|| model.follows(three, &[Some(one)])));
        // One with another write in between, which was completed before it or after.
        for other_first in [true, false] {
            let (mut model, one) = start();
            let (pair, bytes) = model.begin_write(0, 0, 1, false);
            let (other, _) = model.begin_write(0, 0, 1, false);
            if other_first {
                let reading = model.begin_read(0, 0, 1);
                model.end_write(other);
                model.see(&reading, &model.bytes_of(0, 0, &[Some(one)]));
                model.follows(pair, &[Some(one)]);
                model.end_write(pair);
            } else {
                take(&mut model, &[Some(one)], pair);
                model.end_write(other);
            }
            let reading = model.begin_read(0, 0, 1);
            assert!(
                panics(|| model.end_read(&reading, &bytes)),
                "{other} must have come after {pair}"
            );
        }
        // One that had to be refused, or must not have been.
        let (mut model, one) = start();
        let (pair, bytes) = model.begin_write(0, 0, 1, false);
        let reading = model.begin_read(0, 0, 1);
        assert!(
            panics(|| model.differed(&reading, &[Some(one)], Some(pair))),
            "nothing else was there"
        );
        let reading = model.begin_read(0, 0, 1);
        model.differed(&reading, &[None], Some(pair));
        model.never(pair);
        let reading = model.begin_read(0, 0, 1);
        assert!(panics(|| model.end_read(&reading, &bytes)));
    }
}
