//! Which parts of a volume can hold anything but zeroes: where the first synchronisation of a volume that holds data begins.
//! Takes an open [`DiskFile`]; gives its allocated extents, or one that is all of it where the device can't tell. Start-up only:
//! it waits for the file system and takes memory.
//!
//! EXTENT-1  Every byte that is not zero lies in an extent that is given; extents rise, don't touch, and begin and end with a block of 4 KiB, or with the file.

use crate::file::DiskFile;
use ibid_units::BLOCK_BYTES;
use std::io;
use std::os::fd::RawFd;

/// Most extents that are given; of a file with more, the narrowest gaps are taken for data until it has as few.
pub const EXTENTS_MAX: usize = 4096;

impl DiskFile {
    /// The allocated extents as (byte, length), at most [`EXTENTS_MAX`], by rising byte. A block device is one extent: no device says
    /// reliably what it has never been given.
    ///
    /// Nobody may write meanwhile: what is written behind the place that was looked at would be missed.
    pub fn allocated(&self) -> io::Result<Vec<(u64, u64)>> {
        if self.bytes() == 0 {
            return Ok(Vec::new());
        }
        if self.is_block_device() {
            return Ok(vec![(0, self.bytes())]);
        }
        let mut extents = Extents::new(EXTENTS_MAX);
        let mut at = 0;
        while at < self.bytes() {
            let Some(data) = seek(self.descriptor(), at, libc::SEEK_DATA)? else {
                break;
            };
            // There is a hole at the end of every file, at the latest.
            let hole = seek(self.descriptor(), data, libc::SEEK_HOLE)?.unwrap_or(self.bytes());
            // A file longer than when it was opened has no volume there.
            let end = hole.min(self.bytes());
            if data >= end {
                break;
            }
            extents.add(data, end);
            at = end;
        }
        Ok(extents.finish(self.bytes()))
    }
}

/// Where data (or a hole) begins from `at` on; `None` where there is none. A file system that knows nothing of holes calls it all data
/// (lseek(2)).
fn seek(file: RawFd, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let from =
        libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: `lseek` takes a descriptor that is open, as a `DiskFile`'s is; the file's own position is used by nobody.
    let found = unsafe { libc::lseek(file, from, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        _ => Err(error),
    }
}

/// Extents with a bound on their number.
struct Extents {
    /// (first byte, end), in whole blocks.
    found: Vec<(u64, u64)>,
    max: usize,
}

impl Extents {
    fn new(max: usize) -> Self {
        assert!(max >= 1, "EXTENT-1: data needs an extent to lie in");
        Self { found: Vec::new(), max }
    }

    /// Adds one that begins behind all others.
    fn add(&mut self, first: u64, end: u64) {
        let (first, end) =
            (first / BLOCK_BYTES * BLOCK_BYTES, end.div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
        match self.found.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => self.found.push((first, end)),
        }
        // With twice as many as allowed, half go: so the work for each stays the same however many there are.
        if self.found.len() >= 2 * self.max {
            self.thin();
        }
    }

    /// Closes the narrowest gaps until there are few enough.
    fn thin(&mut self) {
        let Some(too_many) = self.found.len().checked_sub(self.max).filter(|count| *count > 0)
        else {
            return;
        };
        let mut gaps: Vec<(u64, usize)> = self
            .found
            .windows(2)
            .enumerate()
            .map(|(place, pair)| (pair[1].0 - pair[0].1, place + 1))
            .collect();
        // Of gaps of one width the first go, so that the same file always gives the same extents.
        gaps.select_nth_unstable(too_many - 1);
        let mut closed = vec![false; self.found.len()];
        for (_, place) in &gaps[..too_many] {
            closed[*place] = true;
        }
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(self.max);
        for (place, extent) in self.found.iter().enumerate() {
            match kept.last_mut() {
                Some(last) if closed[place] => last.1 = extent.1,
                _ => kept.push(*extent),
            }
        }
        self.found = kept;
    }

    /// (byte, length) of each, none of which ends past `bytes`.
    fn finish(mut self, bytes: u64) -> Vec<(u64, u64)> {
        self.thin();
        assert!(self.found.len() <= self.max, "EXTENT-1: too many extents");
        self.found.iter().map(|(first, end)| (*first, (*end).min(bytes) - first)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::OpenOptions;
    use std::path::Path;

    fn open(path: &Path, bytes: u64) -> DiskFile {
        let options = OpenOptions { create_bytes: Some(bytes), ..OpenOptions::default() };
        DiskFile::open(path, options).unwrap().0
    }

    /// Whether every block that was written lies in an extent, and extents rise without touching.
    fn assert_covers(extents: &[(u64, u64)], blocks: impl IntoIterator<Item = u64>, bytes: u64) {
        assert!(extents.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "{extents:?}");
        for (at, len) in extents {
            assert!(at.is_multiple_of(4096) && *len > 0 && at + len <= bytes);
        }
        for block in blocks {
            let at = block * 4096;
            assert!(
                extents.iter().any(|(from, len)| *from <= at && at + 4096 <= from + len),
                "block {block} is missed"
            );
        }
    }

    #[test]
    fn a_volume_of_holes_has_no_extent_and_what_is_written_has() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = open(&folder.path().join("volume"), 64 << 20);
        assert_eq!(file.allocated().unwrap(), []);
        // Far enough apart for any file system's own unit.
        let blocks = [0, 4096, 4097, 16383];
        for block in blocks {
            file.write_at(block * 4096, &[7; 4096]).unwrap();
        }
        file.flush().unwrap();
        let extents = file.allocated().unwrap();
        assert_covers(&extents, blocks, 64 << 20);
        let covered: u64 = extents.iter().map(|(_, len)| len).sum();
        assert!(covered < 4 << 20, "{covered} bytes for four blocks: {extents:?}");
    }

    #[test]
    fn a_file_full_of_data_is_one_extent() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let options =
            OpenOptions { create_bytes: Some(3 << 20), written: true, ..OpenOptions::default() };
        let (file, _) = DiskFile::open(&folder.path().join("log"), options).unwrap();
        assert_eq!(file.allocated().unwrap(), [(0, 3 << 20)]);
    }

    #[test]
    fn a_file_in_a_thousand_pieces_is_covered_by_as_few_as_are_allowed() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let pieces = EXTENTS_MAX as u64 * 2 + 100;
        let bytes = pieces * 2 * 4096;
        let file = open(&folder.path().join("volume"), bytes);
        let blocks = || (0..pieces).map(|piece| piece * 2);
        for block in blocks() {
            file.write_at(block * 4096, &[1; 4096]).unwrap();
        }
        file.flush().unwrap();
        let extents = file.allocated().unwrap();
        assert!(extents.len() <= EXTENTS_MAX, "{}", extents.len());
        assert_covers(&extents, blocks(), bytes);
    }

    #[test]
    fn the_widest_gaps_stay() {
        let mut extents = Extents::new(2);
        // Gaps of 1, 9, 2 and 3 blocks; then one that continues the last.
        for (first, end) in [(0, 1), (2, 3), (12, 13), (15, 16), (19, 20), (20, 21)] {
            extents.add(first * 4096, end * 4096);
        }
        assert_eq!(extents.finish(21 * 4096), [(0, 3 * 4096), (12 * 4096, 9 * 4096)]);
        // Whole blocks, whatever the file system counts in.
        let mut odd = Extents::new(8);
        odd.add(5000, 5001);
        odd.add(8192, 8193);
        assert_eq!(odd.finish(9000), [(4096, 9000 - 4096)]);
    }
}
