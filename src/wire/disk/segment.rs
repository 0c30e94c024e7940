//! A log segment's own structure: its header (block 0) and the batches of entry descriptors that grow from its last block down,
//! towards the payload pages that grow from block 1 up.
//! An entry exists if its batch checks and every page it names checks; nothing else makes it exist.

use super::{DiskFormatError, FORMAT_VERSION};
use crate::bytes::{array_at, crc32c_with_hole, put, u16_at, u32_at, u64_at};
use ibid_units::{BLOCK_BYTES, CpId, Epoch, LogBlock, Lsn, Sector, Sectors, VolumeId};

/// Bytes of a segment header that mean something; the rest of block 0 is zero.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes before a batch's first entry.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Bytes of an entry's descriptor, followed by four for each of its pages.
pub const ENTRY_BYTES: usize = 24;
/// Pages of the largest entry: 1 MiB that starts inside a block.
pub const ENTRY_PAGES_MAX: u16 = 257;

mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const CRC: usize = 12;
    pub(super) const SEGMENT: usize = 16;
    pub(super) const EPOCH: usize = 24;
    pub(super) const FIRST_LSN: usize = 32;
    pub(super) const PAIR: usize = 40;
    pub(super) const BLOCKS: usize = 56;
}

mod batch {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 4;
    pub(super) const ENTRIES: usize = 6;
    pub(super) const SEGMENT: usize = 8;
    pub(super) const EPOCH: usize = 16;
    pub(super) const FIRST_LSN: usize = 24;
    pub(super) const BLOCK: usize = 32;
    pub(super) const BYTES: usize = 36;
    pub(super) const INDEX: usize = 40;
    pub(super) const CRC: usize = 44;
    pub(super) const PREVIOUS: usize = 48;
    pub(super) const COMMITTED: usize = 56;
}

mod entry {
    pub(super) const FIRST: usize = 0;
    pub(super) const SECTORS: usize = 8;
    pub(super) const PAGE: usize = 12;
    pub(super) const VOLUME: usize = 16;
    pub(super) const KIND: usize = 18;
    pub(super) const PAGES: usize = 20;
}

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"IBIDSEGM");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"IBBA");

// The largest entry fits a batch that crosses the link in one 1500-byte frame.
const _: () = assert!(BATCH_HEADER_BYTES + ENTRY_BYTES + 4 * ENTRY_PAGES_MAX as usize <= 1200);

/// Block 0 of a segment: which segment the slot holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The segment's number: that of the CP that will drain it.
    pub segment: CpId,
    /// Who wrote it.
    pub epoch: Epoch,
    /// The Lsn of its first entry.
    pub first_lsn: Lsn,
    /// The pair it belongs to.
    pub pair: [u8; 16],
    /// Blocks of the segment, this one included.
    pub blocks: u32,
}

impl SegmentHeader {
    /// Writes the header into the first [`SEGMENT_HEADER_BYTES`] of a block.
    pub fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..SEGMENT_HEADER_BYTES];
        out.fill(0);
        put(out, header::MAGIC, &SEGMENT_MAGIC.to_le_bytes());
        put(out, header::VERSION, &FORMAT_VERSION.to_le_bytes());
        put(out, header::SEGMENT, &self.segment.get().to_le_bytes());
        put(out, header::EPOCH, &self.epoch.get().to_le_bytes());
        put(out, header::FIRST_LSN, &self.first_lsn.get().to_le_bytes());
        put(out, header::PAIR, &self.pair);
        put(out, header::BLOCKS, &self.blocks.to_le_bytes());
        let crc = crc32c_with_hole(out, header::CRC);
        put(out, header::CRC, &crc.to_le_bytes());
    }

    /// Reads a header back from the start of a block.
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, DiskFormatError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(DiskFormatError::Length)?;
        if u64_at(bytes, header::MAGIC) != SEGMENT_MAGIC {
            return Err(DiskFormatError::Magic);
        }
        if u32_at(bytes, header::CRC) != crc32c_with_hole(bytes, header::CRC) {
            return Err(DiskFormatError::Checksum);
        }
        let version = u32_at(bytes, header::VERSION);
        if version != FORMAT_VERSION {
            return Err(DiskFormatError::Version(version));
        }
        Ok(SegmentHeader {
            segment: CpId::new(u64_at(bytes, header::SEGMENT)),
            epoch: Epoch::new(u64_at(bytes, header::EPOCH)),
            first_lsn: Lsn::new(u64_at(bytes, header::FIRST_LSN)),
            pair: array_at(bytes, header::PAIR),
            blocks: u32_at(bytes, header::BLOCKS),
        })
    }
}

/// What an entry does to its run of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// The payload is in the entry's pages.
    Write,
    /// The run reads as zeroes afterwards and keeps its space.
    Zeroes,
    /// The run reads as zeroes afterwards and may give its space back.
    Deallocate,
}

/// One client write in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which volume.
    pub volume: VolumeId,
    /// What is done to the run.
    pub kind: EntryKind,
    /// First sector of the run.
    pub first: Sector,
    /// Length of the run.
    pub sectors: Sectors,
    /// First page of the payload; pages are contiguous. Block 0 where there is no payload.
    pub page: LogBlock,
    /// Number of pages: those of the volume that the run touches, or 0 without payload.
    pub pages: u16,
}

impl Entry {
    /// Bytes of its descriptor with page checksums.
    pub const fn descriptor_bytes(&self) -> usize {
        ENTRY_BYTES + 4 * self.pages as usize
    }

    /// The part of its page number `index` (from 0) that carries payload, as (first sector, sectors): congruence makes
    /// it the part of the volume's block that the run covers.
    pub fn page_part(&self, index: u16) -> (u32, u32) {
        assert!(index < self.pages, "an entry is asked for a page it does not have");
        let start = self.first.in_block();
        let end = start + self.sectors.get();
        let from = u32::from(index) * 8;
        (start.max(from) - from, end.min(from + 8) - start.max(from))
    }
}

/// The fixed part of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The segment it lies in.
    pub segment: CpId,
    /// Who wrote it.
    pub epoch: Epoch,
    /// The Lsn of its first entry; the others follow without gaps.
    pub first_lsn: Lsn,
    /// The block it lies in: a misdirected write shows.
    pub block: LogBlock,
    /// Its number in the segment, from 0; batch i lies in block `blocks − 1 − i`.
    pub index: u32,
    /// Checksum of the batch before it in the segment, 0 for the first: a batch of an earlier lap shows.
    pub previous: u32,
    /// The newest entry that was committed when the batch was closed: recovery's evidence of what was acknowledged.
    pub committed: Lsn,
}

/// Fills a batch's block entry by entry.
pub struct BatchEmitter<'a> {
    out: &'a mut [u8],
    used: usize,
    entries: u16,
    bytes_max: usize,
}

impl<'a> BatchEmitter<'a> {
    /// Starts a batch in `out`, a whole block, of at most `bytes_max` bytes (what one frame of the link carries).
    ///
    /// # Panics
    /// If `out` is not one block.
    pub fn new(out: &'a mut [u8], header: &BatchHeader, bytes_max: usize) -> Self {
        assert_eq!(out.len() as u64, BLOCK_BYTES, "a batch is one block");
        out.fill(0);
        put(out, batch::MAGIC, &BATCH_MAGIC.to_le_bytes());
        put(out, batch::VERSION, &(FORMAT_VERSION as u16).to_le_bytes());
        put(out, batch::SEGMENT, &header.segment.get().to_le_bytes());
        put(out, batch::EPOCH, &header.epoch.get().to_le_bytes());
        put(out, batch::FIRST_LSN, &header.first_lsn.get().to_le_bytes());
        put(out, batch::BLOCK, &header.block.get().to_le_bytes());
        put(out, batch::INDEX, &header.index.to_le_bytes());
        put(out, batch::PREVIOUS, &header.previous.to_le_bytes());
        put(out, batch::COMMITTED, &header.committed.get().to_le_bytes());
        let bytes_max = bytes_max.min(out.len());
        Self { out, used: BATCH_HEADER_BYTES, entries: 0, bytes_max }
    }

    /// Appends an entry and its pages' checksums; false (and nothing done) when the batch has no room for it.
    pub fn push(&mut self, entry: &Entry, mut crc: impl FnMut(u16) -> u32) -> bool {
        if self.used + entry.descriptor_bytes() > self.bytes_max {
            return false;
        }
        let at = self.used;
        let out = &mut self.out[at..at + entry.descriptor_bytes()];
        put(out, entry::FIRST, &entry.first.get().to_le_bytes());
        put(out, entry::SECTORS, &entry.sectors.get().to_le_bytes());
        put(out, entry::PAGE, &entry.page.get().to_le_bytes());
        put(out, entry::VOLUME, &entry.volume.get().to_le_bytes());
        put(out, entry::KIND, &[entry.kind as u8]);
        put(out, entry::PAGES, &entry.pages.to_le_bytes());
        for index in 0..entry.pages {
            put(out, ENTRY_BYTES + 4 * usize::from(index), &crc(index).to_le_bytes());
        }
        self.used += entry.descriptor_bytes();
        self.entries += 1;
        true
    }

    /// Seals the batch; gives (bytes used, checksum).
    pub fn finish(self) -> (u32, u32) {
        put(self.out, batch::ENTRIES, &self.entries.to_le_bytes());
        put(self.out, batch::BYTES, &(self.used as u32).to_le_bytes());
        let crc = crc32c_with_hole(&self.out[..self.used], batch::CRC);
        put(self.out, batch::CRC, &crc.to_le_bytes());
        (self.used as u32, crc)
    }
}

/// A batch whose structure has been checked. (Whether its pages check is for the reader to find out.)
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The fixed part.
    pub header: BatchHeader,
    /// Number of entries.
    pub entry_count: u16,
    /// Its checksum, which the next batch names as `previous`.
    pub crc: u32,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Checks a block that should hold a batch: sums, lengths, kinds, and that pages and runs agree.
    pub fn parse(block: &'a [u8]) -> Result<Batch<'a>, DiskFormatError> {
        if block.len() < BATCH_HEADER_BYTES {
            return Err(DiskFormatError::Length);
        }
        if u32_at(block, batch::MAGIC) != BATCH_MAGIC {
            return Err(DiskFormatError::Magic);
        }
        let used = u32_at(block, batch::BYTES) as usize;
        if used < BATCH_HEADER_BYTES || used > block.len() || used as u64 > BLOCK_BYTES {
            return Err(DiskFormatError::Length);
        }
        let bytes = &block[..used];
        let crc = u32_at(bytes, batch::CRC);
        if crc != crc32c_with_hole(bytes, batch::CRC) {
            return Err(DiskFormatError::Checksum);
        }
        let version = u32::from(u16_at(bytes, batch::VERSION));
        if version != FORMAT_VERSION {
            return Err(DiskFormatError::Version(version));
        }
        let entry_count = u16_at(bytes, batch::ENTRIES);
        let parsed = Batch {
            header: BatchHeader {
                segment: CpId::new(u64_at(bytes, batch::SEGMENT)),
                epoch: Epoch::new(u64_at(bytes, batch::EPOCH)),
                first_lsn: Lsn::new(u64_at(bytes, batch::FIRST_LSN)),
                block: LogBlock::new(u32_at(bytes, batch::BLOCK)),
                index: u32_at(bytes, batch::INDEX),
                previous: u32_at(bytes, batch::PREVIOUS),
                committed: Lsn::new(u64_at(bytes, batch::COMMITTED)),
            },
            entry_count,
            crc,
            bytes,
        };
        let mut at = BATCH_HEADER_BYTES;
        for _ in 0..entry_count {
            let (_, next) = parsed.entry_at(at)?;
            at = next;
        }
        if at != used {
            return Err(DiskFormatError::Length);
        }
        Ok(parsed)
    }

    /// Bytes of the block that are the batch.
    pub fn used_bytes(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The entries in Lsn order, each with the checksums of its pages.
    pub fn entries(&self) -> Entries<'a> {
        Entries { batch: *self, at: BATCH_HEADER_BYTES, left: self.entry_count }
    }

    fn entry_at(&self, at: usize) -> Result<(Entry, usize), DiskFormatError> {
        let bytes = self.bytes.get(at..at + ENTRY_BYTES).ok_or(DiskFormatError::Length)?;
        let kind = match bytes[entry::KIND] {
            0 => EntryKind::Write,
            1 => EntryKind::Zeroes,
            2 => EntryKind::Deallocate,
            _ => return Err(DiskFormatError::Value),
        };
        let found = Entry {
            volume: VolumeId::new(u16_at(bytes, entry::VOLUME)),
            kind,
            first: Sector::new(u64_at(bytes, entry::FIRST)),
            sectors: Sectors::new(u32_at(bytes, entry::SECTORS)),
            page: LogBlock::new(u32_at(bytes, entry::PAGE)),
            pages: u16_at(bytes, entry::PAGES),
        };
        if found.sectors.get() == 0 || found.first.checked_end(found.sectors).is_none() {
            return Err(DiskFormatError::Value);
        }
        let pages_due = match kind {
            EntryKind::Write => found.sectors.blocks_from(found.first),
            EntryKind::Zeroes | EntryKind::Deallocate => 0,
        };
        if u32::from(found.pages) != pages_due || found.pages > ENTRY_PAGES_MAX {
            return Err(DiskFormatError::Value);
        }
        let next = at + found.descriptor_bytes();
        if next > self.bytes.len() {
            return Err(DiskFormatError::Length);
        }
        Ok((found, next))
    }
}

/// Iterates over a checked batch.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    batch: Batch<'a>,
    at: usize,
    left: u16,
}

/// The checksums of one entry's pages.
#[derive(Clone, Copy, Debug)]
pub struct PageCrcs<'a>(&'a [u8]);

impl PageCrcs<'_> {
    /// The checksum of page `index`, from 0.
    pub fn get(&self, index: u16) -> u32 {
        u32_at(self.0, 4 * usize::from(index))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Entry, PageCrcs<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (entry, next) = self.batch.entry_at(self.at).ok()?;
        let crcs = PageCrcs(&self.batch.bytes[self.at + ENTRY_BYTES..next]);
        self.at = next;
        self.left -= 1;
        Some((entry, crcs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            segment: CpId::new(5),
            epoch: Epoch::new(2),
            first_lsn: Lsn::new(100),
            block: LogBlock::new(1023),
            index: 0,
            previous: 0,
            committed: Lsn::new(77),
        }
    }

    fn write(first: u64, sectors: u32, page: u32) -> Entry {
        let (first, sectors) = (Sector::new(first), Sectors::new(sectors));
        Entry {
            volume: VolumeId::new(1),
            kind: EntryKind::Write,
            first,
            sectors,
            page: LogBlock::new(page),
            pages: sectors.blocks_from(first) as u16,
        }
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let mut block = [0xEE; 4096];
        let entries = [
            write(8, 8, 1),
            write(15, 3, 2),
            Entry {
                kind: EntryKind::Zeroes,
                pages: 0,
                page: LogBlock::new(0),
                ..write(64, 640, 0)
            },
        ];
        let mut batch = BatchEmitter::new(&mut block, &header(), 4096);
        for (n, entry) in entries.iter().enumerate() {
            assert!(batch.push(entry, |index| 1000 * n as u32 + u32::from(index)));
        }
        let (used, crc) = batch.finish();
        let parsed = Batch::parse(&block).expect("what was just emitted");
        assert_eq!((parsed.header, parsed.crc, parsed.used_bytes()), (header(), crc, used));
        let back: [Entry; 3] =
            core::array::from_fn(|n| parsed.entries().nth(n).expect("three entries").0);
        assert_eq!(back, entries);
        assert_eq!(parsed.entries().nth(1).expect("the second").1.get(1), 1001);
    }

    #[test]
    fn a_flipped_bit_in_the_used_part_is_refused() {
        let mut block = [0; 4096];
        let mut batch = BatchEmitter::new(&mut block, &header(), 4096);
        assert!(batch.push(&write(7, 9, 4), |_| 3));
        let (used, _) = batch.finish();
        for at in 0..used as usize {
            block[at] ^= 4;
            assert!(Batch::parse(&block).is_err(), "byte {at}");
            block[at] ^= 4;
        }
        assert!(Batch::parse(&block[..used as usize]).is_ok());
        assert_eq!(Batch::parse(&block[..used as usize - 1]).err(), Some(DiskFormatError::Length));
    }

    #[test]
    fn a_full_batch_refuses_the_entry_that_does_not_fit() {
        let mut block = [0; 4096];
        let mut batch = BatchEmitter::new(&mut block, &header(), 1300);
        assert!(batch.push(&write(1, 2048, 1), |_| 0));
        assert!(!batch.push(&write(1, 2048, 300), |_| 0));
        assert!(batch.push(&write(0, 8, 300), |_| 0));
    }

    #[test]
    fn page_parts_cover_exactly_the_run() {
        let entry = write(13, 20, 1);
        assert_eq!(entry.pages, 4);
        let parts: [(u32, u32); 4] = core::array::from_fn(|n| entry.page_part(n as u16));
        assert_eq!(parts, [(5, 3), (0, 8), (0, 8), (0, 1)]);
    }

    #[test]
    fn a_segment_header_round_trips_and_refuses_rot() {
        let mut block = [0; 4096];
        let header = SegmentHeader {
            segment: CpId::new(8),
            epoch: Epoch::new(1),
            first_lsn: Lsn::new(3),
            pair: [9; 16],
            blocks: 64,
        };
        header.emit(&mut block);
        assert_eq!(SegmentHeader::parse(&block), Ok(header));
        block[17] ^= 1;
        assert_eq!(SegmentHeader::parse(&block), Err(DiskFormatError::Checksum));
    }
}
