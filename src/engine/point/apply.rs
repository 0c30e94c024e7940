//! Brings a node's volumes up to a CP: the same code on both nodes, over each one's own log.
//! Takes the list and a way to prove references; gives disk operations, and in the end flushes. The node persists its superblock after.
//! CP-2  a reference is written only after its pages have proved it; what can't be proved is wanted as blocks, never guessed.
//! CP-3  done means: every record written, every volume touched flushed after its last write, and none of it failed.
//! CP-5  bytes are written from the log's memory only if they still are those that were summed when they came.
//! CP-6  after a failure nothing of the CP is done; it begins again with its first record, from the log.

use super::CpList;
use super::list::{part_of_run, reference_digest};
use super::op::{ApplyOp, PayloadAt, Prove, Side, Want};
use crate::Memory;
use crate::log::{LogGeometry, PageTable};
use crate::sync::CatchUp;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock, Mutant, Sector, Sectors, VolumeId};
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
/// Pages summed in one step, or one write's more: 1 MiB, about 100 µs.
const PAGES_PER_STEP: u32 = 256;

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
    side: Side,
    geometry: LogGeometry,
    phase: Phase,
    cp: CpId,
    prove: Prove,
    record: usize,
    /// Sectors of the record at hand that are under way already.
    within: u32,
    /// The record at hand is a reference that is proved.
    proved: bool,
    volume: Option<VolumeId>,
    in_flight: u32,
    /// An operation of this CP failed.
    failed: bool,
    /// Times the CP was begun again.
    restarts: u32,
    /// Pages summed in this step.
    summed: u32,
    /// The last step ended because it was long enough.
    paused: bool,
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
    /// References refused in this CP.
    refused: u64,
    written_blocks: u64,
}

impl Apply {
    /// For the segments of a log, catch-up of so many blocks, and volumes of these capacities.
    pub fn new(
        side: Side,
        geometry: LogGeometry,
        catch_up_blocks: u32,
        volume_sectors: Vec<u64>,
    ) -> Self {
        let records_max = super::records_max(geometry.segment_blocks, catch_up_blocks);
        // A page is referred to by at most four runs of its sectors, a block that is brought is in at most four.
        let pages_max = 8 * geometry.segment_blocks as usize + 4 * catch_up_blocks as usize;
        Self {
            side,
            geometry,
            phase: Phase::Idle,
            cp: CpId::new(0),
            prove: Prove::References,
            record: 0,
            within: 0,
            proved: false,
            volume: None,
            in_flight: 0,
            failed: false,
            restarts: 0,
            summed: 0,
            paused: false,
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
                | RecordKind::Hole
                | RecordKind::Zeroes
                | RecordKind::Deallocate => {
                    let Some(volume) = volume else { return false };
                    let capacity = self.volume_sectors[usize::from(volume.get())];
                    let Some(end) = record.first.checked_end(record.sectors) else { return false };
                    if record.first.get() < below || end.get() > capacity {
                        return false;
                    }
                    below = end.get();
                    if has_pages(record.kind) {
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
        self.cp = cp;
        self.prove = prove;
        self.restarts = 0;
        self.begin();
        true
    }

    /// Begins the CP again with its first record, after a failure and once nothing is under way: everything is written again, from the
    /// log, and then flushed, for what a failed flush covered is nowhere known to be (CP-6). What had come as blocks is wanted again.
    pub fn restart(&mut self) {
        assert!(self.in_flight == 0, "CP-6: a CP begins again when nothing of it is under way");
        assert!(self.phase != Phase::Idle, "CP-6: only a CP that was begun begins again");
        self.lines.iter_mut().for_each(|line| line.wanted = false);
        self.restarts += 1;
        let again = self.touched;
        self.begin();
        if Mutant::RetryFlushesOnly.is_on() {
            (self.touched, self.record) = (again, self.lines.len());
        }
    }

    fn begin(&mut self) {
        self.come[..self.pages as usize].fill(0);
        self.phase = Phase::Writing;
        self.failed = false;
        self.record = 0;
        self.within = 0;
        self.volume = None;
        self.touched = [false; VOLUMES_MAX];
        self.flushing = 0;
        self.missing = 0;
        self.refused = 0;
    }

    /// Forgets a CP that will not be finished here (the session ended). Operations under way are still counted down.
    pub fn stop(&mut self) {
        self.phase = Phase::Idle;
        self.failed = false;
        // Another source may announce a CP of the same number: it is not this one.
        self.cp = CpId::new(0);
    }

    /// True while operations of this CP are under way.
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// The next operation, if one may be started now.
    pub fn next_op<M: Memory>(
        &mut self,
        list: &CpList,
        pages: &PageTable,
        memory: &M,
    ) -> Option<ApplyOp> {
        self.paused = false;
        match self.phase {
            Phase::Idle | Phase::Done => None,
            Phase::Writing | Phase::Flushing if self.failed => None,
            Phase::Writing => {
                self.filling = self.in_flight < if self.filling { DEPTH_MAX } else { DEPTH_LOW };
                if !self.filling {
                    return None;
                }
                for _ in 0..RECORDS_PER_STEP {
                    if self.record == list.len() {
                        let quiet = self.in_flight == 0 || Mutant::FlushBeforeWrites.is_on();
                        if self.missing == 0 && quiet {
                            self.phase = Phase::Flushing;
                            return self.next_flush();
                        }
                        return None;
                    }
                    if self.summed >= PAGES_PER_STEP {
                        break;
                    }
                    let record =
                        list.get(self.record).expect("the list was checked when it was started");
                    if let Some(op) = self.op_of(&record, pages, memory) {
                        self.in_flight += 1;
                        return Some(op);
                    }
                }
                self.summed = 0;
                self.paused = true;
                None
            }
            Phase::Flushing => self.next_flush(),
        }
    }

    /// True where the last step gave nothing only because it was long enough: the next one will go on.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    fn next_flush(&mut self) -> Option<ApplyOp> {
        while self.flushing < self.volume_sectors.len() {
            let volume = self.flushing;
            self.flushing += 1;
            if self.touched[volume] && !Mutant::VolumeFlushSkipped.is_on() {
                self.in_flight += 1;
                return Some(ApplyOp::Flush { volume: VolumeId::new(volume as u16) });
            }
        }
        if self.in_flight == 0 || Mutant::DoneBeforeFlush.is_on() {
            self.phase = Phase::Done;
        }
        None
    }

    /// The operation for what is left of a record; `None` moves on to the next.
    fn op_of<M: Memory>(
        &mut self,
        record: &Record,
        pages: &PageTable,
        memory: &M,
    ) -> Option<ApplyOp> {
        let skipped = match record.kind {
            RecordKind::Volume(volume) => {
                self.volume = Some(volume);
                true
            }
            RecordKind::Hole if Mutant::HoleIgnored.is_on() => true,
            RecordKind::Block | RecordKind::Hole => self.side == Side::Source,
            RecordKind::Zeroes => Mutant::ZeroesIgnored.is_on(),
            RecordKind::Reference(_) | RecordKind::Deallocate => false,
        };
        if skipped {
            self.record += 1;
            return None;
        }
        let volume = self.volume.expect("a checked list names a volume first");
        self.touched[usize::from(volume.get())] = true;
        let left = record.sectors.get() - self.within;
        let first = record.first + Sectors::new(self.within);
        match record.kind {
            RecordKind::Reference(page) => {
                if self.within == 0 {
                    self.proved = self.proves(record, page, pages);
                }
                self.op_of_reference(record, volume, pages, memory)
            }
            RecordKind::Zeroes => {
                let sectors = Sectors::new(left.min(ZERO_SECTORS_MAX));
                self.took(record, sectors.get());
                Some(ApplyOp::Zero { volume, first, sectors })
            }
            RecordKind::Deallocate | RecordKind::Hole => {
                let sectors = Sectors::new(left.min(ZERO_SECTORS_MAX));
                self.took(record, sectors.get());
                Some(ApplyOp::Deallocate { volume, first, sectors })
            }
            RecordKind::Block => {
                self.want(record);
                None
            }
            RecordKind::Volume(_) => None,
        }
    }

    /// The next piece of a reference: as much of it as is sound and one write may have. What is not sound is refused, the whole run, at
    /// the destination (bytes written before are written again), and named page by page at the source.
    fn op_of_reference<M: Memory>(
        &mut self,
        record: &Record,
        volume: VolumeId,
        pages: &PageTable,
        memory: &M,
    ) -> Option<ApplyOp> {
        let RecordKind::Reference(start) = record.kind else { return None };
        let left = record.sectors.get() - self.within;
        let first = record.first + Sectors::new(self.within);
        let page = LogBlock::new(start.get() + (first.block() - record.first.block()) as u32);
        // End on a block boundary, so that the next piece begins a page.
        let most = left.min(WRITE_SECTORS_MAX - first.in_block());
        let count = Sectors::new(most).blocks_from(first);
        let sound = match self.proved {
            true if Mutant::RottenApplied.is_on() => count,
            true => pages.sound(self.cp, page, count, memory),
            false => 0,
        };
        self.summed += if self.proved { count } else { 0 };
        if sound < count && self.side == Side::Destination {
            self.want(record);
            return None;
        }
        let in_pages = |pages: u32| left.min(pages * 8 - first.in_block());
        let sectors = if sound == count { most } else { in_pages(sound.max(1)) };
        self.took(record, sectors);
        let sectors = Sectors::new(sectors);
        Some(if sound > 0 {
            ApplyOp::Write { volume, first, sectors, page }
        } else {
            ApplyOp::Rotten { volume, first, sectors, page }
        })
    }

    /// CP-2.
    fn proves(&self, record: &Record, page: LogBlock, pages: &PageTable) -> bool {
        self.prove == Prove::References
            && reference_digest(self.cp, self.geometry.segment_blocks, page, record, pages)
                == Some(record.digest)
    }

    fn want(&mut self, record: &Record) {
        self.lines[self.record].wanted = true;
        self.missing += u64::from(record.sectors.get());
        self.refused += u64::from(matches!(record.kind, RecordKind::Reference(_)));
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
        let fits = count != 0 && u16::from(first) + u16::from(count) <= 8;
        if self.phase != Phase::Writing || self.failed || ordinal >= self.pages || !fits {
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

    /// True where this piece has come before (its packet may be acknowledged without placing it). After a failure nothing has: it will
    /// be wanted again.
    pub fn block_is_here(&self, ordinal: u32, first: u8, count: u8) -> bool {
        let mask = (((1u32 << count.min(8)) - 1) << first.min(8)) as u8;
        match self.phase {
            Phase::Idle => false,
            Phase::Writing | Phase::Flushing if self.failed => false,
            Phase::Writing => ordinal < self.pages && self.come[ordinal as usize] & mask == mask,
            Phase::Flushing | Phase::Done => true,
        }
    }

    /// An operation of this CP is complete.
    pub fn completed(&mut self) {
        assert!(self.in_flight > 0, "a completion has its operation");
        self.in_flight -= 1;
    }

    /// An operation failed: the CP does not become done, and nothing more of it is started before [`Apply::restart`].
    pub fn failed(&mut self) {
        self.completed();
        // Of a CP that was given up nothing is claimed.
        self.failed |= self.phase != Phase::Idle && !Mutant::FailedWriteDone.is_on();
    }

    /// True where an operation of this CP failed and it did not begin again since.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Times this CP was begun again: blocks sent before count no more.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// True when every record has been looked at, so that it is known which are wanted as blocks.
    pub fn is_scanned(&self, list: &CpList) -> bool {
        self.phase != Phase::Idle && !self.failed && self.record == list.len()
    }

    /// True when the volumes hold the CP durably (CP-3).
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Calls `each` with the index of every reference whose bytes are wanted and have not all come, up to `max` of them. Blocks are not
    /// named: the source sends them unasked.
    pub fn refused(&self, list: &CpList, max: usize, mut each: impl FnMut(u32)) {
        if self.missing == 0 || self.refused == 0 || self.prove == Prove::Nothing {
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
            if record.kind == RecordKind::Block {
                continue;
            }
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

    /// Where the source has the bytes of the list's page `ordinal`, of a CP that brings `catch_up`.
    pub fn payload_at(&self, list: &CpList, catch_up: &CatchUp, ordinal: u32) -> Option<PayloadAt> {
        let (record, page) = self.record_of(list, ordinal)?;
        match record.kind {
            RecordKind::Reference(start) => Some(PayloadAt::Log(LogBlock::new(start.get() + page))),
            RecordKind::Block => {
                let line = self.lines.partition_point(|line| line.ordinal <= ordinal) - 1;
                let volume = VolumeId::new(self.lines[line].volume);
                let block = record.first.block() + u64::from(page);
                catch_up.page_of(volume, block).map(PayloadAt::Staging)
            }
            RecordKind::Zeroes
            | RecordKind::Deallocate
            | RecordKind::Hole
            | RecordKind::Volume(_) => None,
        }
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

/// True where the bytes of a run lie in pages, so that they can travel as payload.
fn has_pages(kind: RecordKind) -> bool {
    match kind {
        RecordKind::Reference(_) | RecordKind::Block => true,
        RecordKind::Zeroes | RecordKind::Deallocate | RecordKind::Hole | RecordKind::Volume(_) => {
            false
        }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
