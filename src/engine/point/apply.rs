//! Brings a node's volumes up to a CP: the same code on both nodes, over each one's own log.
//! Takes the list and a way to prove references; gives disk operations, and in the end flushes. The node persists its superblock after.
//! CP-2  a reference is written only after its pages have proved it; what can't be proved is wanted as blocks, never guessed.
//! CP-3  done means: every record written, every volume touched flushed after its last write.

use super::CpList;
use super::list::{part_of_run, reference_digest};
use crate::log::PageTable;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock, Sector, Sectors, VolumeId};
use ibid_wire::disk::VOLUMES_MAX;
use ibid_wire::peer::{Record, RecordKind};

/// Sectors in one write to a volume, at most: 256 KiB keeps reads of clients from waiting behind it.
const WRITE_SECTORS_MAX: u32 = 512;
/// Sectors of zeroes in one operation, at most.
const ZERO_SECTORS_MAX: u32 = 65_528;
/// Disk operations under way, at most …
const DEPTH_MAX: u32 = 64;
/// … and how few must be left before more are started: submitted in groups they cost the kernel, and a virtual disk's host, far less.
const DEPTH_LOW: u32 = 32;
/// Records looked at in one step, at most, so that a list of opcodes for elsewhere does not hold up a turn.
const RECORDS_PER_STEP: usize = 256;

/// A disk operation to be done; tell [`Apply::completed`] afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyOp {
    /// Write sectors of a volume from the log: `first`'s bytes lie at its place in page `page` of the CP's segment, the others behind.
    Write {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
        /// The page that holds the first.
        page: LogBlock,
    },
    /// Make sectors zero, keep the space.
    Zero {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
    },
    /// Make sectors zero, give the space back.
    Deallocate {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
    },
    /// Make a volume's writes durable.
    Flush {
        /// Which volume.
        volume: VolumeId,
    },
}

/// Whether references are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prove {
    /// From this node's own log, after checking (destination), or by construction (source: the same check runs).
    References,
    /// Every run's bytes are to come as blocks (`cp_mode = "full"` at the destination).
    Nothing,
}

/// Where payload that came for a list's page belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Which volume.
    pub volume: VolumeId,
    /// First sector of the piece.
    pub first: Sector,
    /// Its length.
    pub sectors: Sectors,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Ordinal of the record's first page among all pages of the list.
    ordinal: u32,
    volume: u16,
    wanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Writing,
    /// Waits for the last writes, then flushes volume by volume.
    Flushing,
    Done,
}

/// One CP's application.
#[derive(Debug)]
pub struct Apply {
    segment_blocks: u32,
    phase: Phase,
    cp: CpId,
    prove: Prove,
    record: usize,
    /// Sectors of the record at hand that are under way already.
    within: u32,
    volume: Option<VolumeId>,
    in_flight: u32,
    /// A group of operations is being started.
    filling: bool,
    touched: [bool; VOLUMES_MAX],
    flushing: usize,
    volume_sectors: Vec<u64>,
    /// Per record; filled as the list is gone through.
    lines: Vec<Line>,
    pages: u32,
    pages_max: usize,
    /// Per page of the list: sectors of a wanted page that have come.
    come: Vec<u8>,
    /// Sectors wanted and not yet come.
    missing: u64,
    /// Records refused and not yet wholly come, for the report.
    refused: u64,
    written_blocks: u64,
}

impl Apply {
    /// For segments of this size, over volumes of these capacities.
    pub fn new(segment_blocks: u32, volume_sectors: Vec<u64>) -> Self {
        let records_max = super::records_max(segment_blocks);
        // A page is referred to by at most four runs of its sectors.
        let pages_max = 8 * segment_blocks as usize;
        Self {
            segment_blocks,
            phase: Phase::Idle,
            cp: CpId::new(0),
            prove: Prove::References,
            record: 0,
            within: 0,
            volume: None,
            in_flight: 0,
            filling: false,
            touched: [false; VOLUMES_MAX],
            flushing: 0,
            volume_sectors,
            lines: Vec::with_capacity(records_max),
            pages: 0,
            pages_max,
            come: vec![0; pages_max],
            missing: 0,
            refused: 0,
            written_blocks: 0,
        }
    }

    /// Checks a whole list before any of it is applied: every record parses, lies in its volume, rises, and there are not more
    /// pages than a segment can have. False refuses the CP.
    #[must_use]
    pub fn start(&mut self, cp: CpId, list: &CpList, prove: Prove) -> bool {
        assert!(self.in_flight == 0, "one CP is applied at a time");
        self.lines.clear();
        self.pages = 0;
        let mut volume: Option<VolumeId> = None;
        let mut below = 0;
        for index in 0..list.len() {
            let Some(record) = list.get(index) else { return false };
            let ordinal = self.pages;
            match record.kind {
                RecordKind::Volume(next) => {
                    if volume.is_some_and(|volume| next <= volume)
                        || usize::from(next.get()) >= self.volume_sectors.len()
                    {
                        return false;
                    }
                    volume = Some(next);
                    below = 0;
                }
                RecordKind::Reference(_)
                | RecordKind::Block
                | RecordKind::Zeroes
                | RecordKind::Deallocate => {
                    let Some(volume) = volume else { return false };
                    let capacity = self.volume_sectors[usize::from(volume.get())];
                    let Some(end) = record.first.checked_end(record.sectors) else { return false };
                    if record.first.get() < below || end.get() > capacity {
                        return false;
                    }
                    below = end.get();
                    if !matches!(record.kind, RecordKind::Zeroes | RecordKind::Deallocate) {
                        self.pages += record.pages();
                    }
                    if self.pages as usize > self.pages_max {
                        return false;
                    }
                }
            }
            let volume = volume.map_or(0, VolumeId::get);
            self.lines.push(Line { ordinal, volume, wanted: false });
        }
        self.come[..self.pages as usize].fill(0);
        self.phase = Phase::Writing;
        self.cp = cp;
        self.prove = prove;
        self.record = 0;
        self.within = 0;
        self.volume = None;
        self.touched = [false; VOLUMES_MAX];
        self.flushing = 0;
        self.missing = 0;
        self.refused = 0;
        true
    }

    /// Forgets a CP that will not be finished here (the session ended). Operations under way are still counted down.
    pub fn stop(&mut self) {
        self.phase = Phase::Idle;
        // Another source may announce a CP of the same number: it is not this one.
        self.cp = CpId::new(0);
    }

    /// True while operations of this CP are under way.
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// The next disk operation, if one may be started now.
    pub fn next_op(&mut self, list: &CpList, pages: &PageTable) -> Option<ApplyOp> {
        match self.phase {
            Phase::Idle | Phase::Done => None,
            Phase::Writing => {
                self.filling = self.in_flight < if self.filling { DEPTH_MAX } else { DEPTH_LOW };
                if !self.filling {
                    return None;
                }
                for _ in 0..RECORDS_PER_STEP {
                    if self.record == list.len() {
                        if self.missing == 0 && self.in_flight == 0 {
                            self.phase = Phase::Flushing;
                            return self.next_flush();
                        }
                        return None;
                    }
                    let record =
                        list.get(self.record).expect("the list was checked when it was started");
                    if let Some(op) = self.op_of(&record, pages) {
                        self.in_flight += 1;
                        return Some(op);
                    }
                }
                None
            }
            Phase::Flushing => self.next_flush(),
        }
    }

    fn next_flush(&mut self) -> Option<ApplyOp> {
        while self.flushing < self.volume_sectors.len() {
            let volume = self.flushing;
            self.flushing += 1;
            if self.touched[volume] {
                self.in_flight += 1;
                return Some(ApplyOp::Flush { volume: VolumeId::new(volume as u16) });
            }
        }
        if self.in_flight == 0 {
            self.phase = Phase::Done;
        }
        None
    }

    /// The operation for what is left of a record; `None` moves on to the next.
    fn op_of(&mut self, record: &Record, pages: &PageTable) -> Option<ApplyOp> {
        let volume = match record.kind {
            RecordKind::Volume(volume) => {
                self.volume = Some(volume);
                self.record += 1;
                return None;
            }
            RecordKind::Reference(_)
            | RecordKind::Zeroes
            | RecordKind::Deallocate
            | RecordKind::Block => self.volume.expect("a checked list names a volume first"),
        };
        self.touched[usize::from(volume.get())] = true;
        let left = record.sectors.get() - self.within;
        let first = record.first + Sectors::new(self.within);
        match record.kind {
            RecordKind::Reference(page) => {
                if self.within == 0 && !self.proves(record, page, pages) {
                    self.want(record);
                    return None;
                }
                // End on a block boundary, so that the next piece begins a page.
                let room = WRITE_SECTORS_MAX - first.in_block();
                let sectors = left.min(room);
                let at = LogBlock::new(page.get() + (first.block() - record.first.block()) as u32);
                self.took(record, sectors);
                Some(ApplyOp::Write { volume, first, sectors: Sectors::new(sectors), page: at })
            }
            RecordKind::Zeroes | RecordKind::Deallocate => {
                let sectors = left.min(ZERO_SECTORS_MAX);
                self.took(record, sectors);
                let sectors = Sectors::new(sectors);
                Some(if record.kind == RecordKind::Zeroes {
                    ApplyOp::Zero { volume, first, sectors }
                } else {
                    ApplyOp::Deallocate { volume, first, sectors }
                })
            }
            RecordKind::Block => {
                self.want(record);
                None
            }
            RecordKind::Volume(_) => None,
        }
    }

    /// CP-2.
    fn proves(&self, record: &Record, page: LogBlock, pages: &PageTable) -> bool {
        self.prove == Prove::References
            && reference_digest(self.cp, self.segment_blocks, page, record, pages)
                == Some(record.digest)
    }

    fn want(&mut self, record: &Record) {
        self.lines[self.record].wanted = true;
        self.missing += u64::from(record.sectors.get());
        self.refused += 1;
        self.record += 1;
        self.within = 0;
    }

    fn took(&mut self, record: &Record, sectors: u32) {
        self.within += sectors;
        self.written_blocks += u64::from(sectors.div_ceil(8));
        if self.within == record.sectors.get() {
            self.record += 1;
            self.within = 0;
        }
    }

    /// Payload for sectors `first ‥ first + count` of the list's page `ordinal` is here: where to write it, or `None` where it is not
    /// (or no more) wanted. Counted as come and as under way.
    pub fn block_came(
        &mut self,
        list: &CpList,
        ordinal: u32,
        first: u8,
        count: u8,
    ) -> Option<Want> {
        if self.phase != Phase::Writing || ordinal >= self.pages || count == 0 || first + count > 8
        {
            return None;
        }
        let line = self.lines.partition_point(|line| line.ordinal <= ordinal) - 1;
        // Records without pages share the ordinal of the next with pages; the last of equals is the one with pages.
        let Line { ordinal: start, volume, wanted } = self.lines[line];
        let record = list.get(line)?;
        let mask = (((1u16 << count) - 1) << first) as u8;
        let page = ordinal - start;
        if !wanted || page >= record.pages() || part_of_run(&record, page) & mask != mask {
            return None;
        }
        let come = &mut self.come[ordinal as usize];
        if *come & mask != 0 {
            return None;
        }
        *come |= mask;
        self.missing -= u64::from(count);
        self.in_flight += 1;
        self.written_blocks += 1;
        let block = record.first.block() + u64::from(page);
        Some(Want {
            volume: VolumeId::new(volume),
            first: Sector::new(block * 8 + u64::from(first)),
            sectors: Sectors::new(u32::from(count)),
        })
    }

    /// True where this piece has come before (its packet may be acknowledged without placing it).
    pub fn block_is_here(&self, ordinal: u32, first: u8, count: u8) -> bool {
        let mask = (((1u32 << count.min(8)) - 1) << first.min(8)) as u8;
        self.phase == Phase::Done
            || self.phase == Phase::Flushing
            || (self.phase == Phase::Writing
                && ordinal < self.pages
                && self.come[ordinal as usize] & mask == mask)
    }

    /// An operation of this CP is complete.
    pub fn completed(&mut self) {
        assert!(self.in_flight > 0, "a completion has its operation");
        self.in_flight -= 1;
    }

    /// True when every record has been looked at, so that it is known which are wanted as blocks.
    pub fn is_scanned(&self, list: &CpList) -> bool {
        self.phase != Phase::Idle && self.record == list.len()
    }

    /// True when the volumes hold the CP durably (CP-3).
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Calls `each` with the index of every record whose bytes are wanted and have not all come, up to `max` of them.
    pub fn refused(&self, list: &CpList, max: usize, mut each: impl FnMut(u32)) {
        if self.missing == 0 || self.prove == Prove::Nothing {
            return;
        }
        let mut left = max;
        for (index, line) in self.lines[..self.record.min(self.lines.len())].iter().enumerate() {
            if left == 0 {
                return;
            }
            if !line.wanted {
                continue;
            }
            let Some(record) = list.get(index) else { continue };
            let whole = (0..record.pages()).all(|n| {
                let part = part_of_run(&record, n);
                self.come[(line.ordinal + n) as usize] & part == part
            });
            if !whole {
                each(index as u32);
                left -= 1;
            }
        }
    }

    /// The list's page `n` of record `index`: its ordinal, and the record's volume. For the source, which sends blocks.
    pub fn ordinal(&self, index: usize) -> u32 {
        self.lines[index].ordinal
    }

    /// The record that a page belongs to, and the page's number in it.
    pub fn record_of(&self, list: &CpList, ordinal: u32) -> Option<(Record, u32)> {
        if ordinal >= self.pages {
            return None;
        }
        let line = self.lines.partition_point(|line| line.ordinal <= ordinal) - 1;
        let record = list.get(line)?;
        let page = ordinal - self.lines[line].ordinal;
        (page < record.pages()).then_some((record, page))
    }

    /// Pages of the list, over all records with payload.
    pub fn pages(&self) -> u32 {
        self.pages
    }
    /// References that could not be proved, in this CP.
    pub fn refused_count(&self) -> u64 {
        self.refused
    }
    /// Blocks written to volumes since start.
    pub fn written_blocks(&self) -> u64 {
        self.written_blocks
    }
    /// The CP that is applied.
    pub fn cp(&self) -> CpId {
        self.cp
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
