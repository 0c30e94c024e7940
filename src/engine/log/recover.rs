//! Finds out what a crash left of the log: which batches are whole, where the log ends, and whether more than a torn tail is missing.
//! Takes the superblock's facts and, block run by block run, what was read into the log's place in the arena; gives a [`RecoveredLog`]. No I/O.
//! REC-1  what is recovered is a prefix of what was logged, cut at a batch: header, descriptor and every page of it have checked.
//! REC-2  a batch of an epoch before the superblock's counts only up to `agreed`; one of an epoch before a later segment's, only below that
//!        segment's first entry.
//! REC-3  `committed` is the newest commit index of any batch found, also of those behind the end: where it lies past the end, acknowledged
//!        entries are missing, and that is told from a torn tail.
//! REC-4  a segment of a lap that the superblock excludes is refused: the superblock is not the newest.

use super::check::{self, Due, last_of, nodes_of, pages_of, part_span};
use super::{LogGeometry, nodes_max};
use crate::memory::Memory;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{BLOCK_BYTES, CpId, Epoch, LogBlock, Lsn, Mutant, Span};
use ibid_wire::disk::{Batch, SegmentHeader};

/// Blocks of one read, at most.
pub const RUN_BLOCKS_MAX: u32 = 256;
/// Descriptor blocks that are looked at in a slot without a header of this lap, for batches that are there all the same.
const LOOK_BLOCKS: u32 = 16;

/// Blocks of one slot that are to be read into their place in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRun {
    /// The segment whose place it is in this lap, whatever lies there.
    pub segment: CpId,
    /// First block.
    pub first: LogBlock,
    /// Number of blocks, at most [`RUN_BLOCKS_MAX`].
    pub count: u32,
}

impl BlockRun {
    /// Where the bytes go.
    pub fn span(&self, geometry: LogGeometry) -> Span {
        geometry.span(self.segment, self.first, self.count)
    }
    /// Where they lie on the device.
    pub fn device_at(&self, geometry: LogGeometry) -> u64 {
        geometry.device_at(self.segment, self.first)
    }
}

/// What the superblock says, and what entries may name.
#[derive(Clone, Debug)]
pub struct ScanConfig {
    /// Slots and their size.
    pub geometry: LogGeometry,
    /// The pair.
    pub pair: [u8; 16],
    /// The newest CP in the volumes …
    pub cp: CpId,
    /// … and its newest entry.
    pub last_lsn: Lsn,
    /// The epoch in which the log was last opened for new writes.
    pub opened: Epoch,
    /// Entries of earlier epochs count up to here.
    pub agreed: Lsn,
    /// Capacities, by place.
    pub volume_sectors: Vec<u64>,
}

/// A segment after the newest CP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredSegment {
    /// Its number.
    pub segment: CpId,
    /// Who wrote it. Of an empty one, whoever wrote the next.
    pub epoch: Epoch,
    /// Whole batches; 0 for a segment that was sealed empty.
    pub batches: u32,
    /// Checksum of the last of them.
    pub crc: u32,
    /// Its first entry.
    pub first_lsn: Lsn,
    /// Its last entry; of an empty one the one before the first.
    pub last_lsn: Lsn,
}

/// What the log holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredLog {
    /// The CP it goes on after.
    pub cp: CpId,
    /// The newest entry in that.
    pub last_lsn: Lsn,
    /// The segments after it, without gaps. The last one has batches.
    pub segments: Vec<RecoveredSegment>,
    /// The newest entry that is whole with all before it.
    pub end: Lsn,
    /// The newest entry that is known to have been committed.
    pub committed: Lsn,
    /// The newest epoch of a header of this lap. More than the superblock's: a newer superblock was lost.
    pub epoch: Epoch,
    /// The newest entry of any batch found; past `end` where the tail is torn, or the log damaged.
    pub seen: Lsn,
    /// Blocks that could not be read.
    pub blocks_unreadable: u32,
    /// Bytes that were asked for.
    pub bytes_read: u64,
}

impl RecoveredLog {
    /// A log that holds nothing.
    pub fn empty(cp: CpId, last_lsn: Lsn, epoch: Epoch) -> Self {
        Self {
            cp,
            last_lsn,
            segments: Vec::new(),
            end: last_lsn,
            committed: last_lsn,
            epoch,
            seen: last_lsn,
            blocks_unreadable: 0,
            bytes_read: 0,
        }
    }
    /// Entries.
    pub fn entries(&self) -> u64 {
        self.end.get() - self.last_lsn.get()
    }
    /// Acknowledged entries are missing here: the device lost what it had made durable.
    pub fn is_damaged(&self) -> bool {
        self.committed > self.end
    }
    /// Only entries are missing that nobody is known to have been told of.
    pub fn is_torn(&self) -> bool {
        self.seen > self.end && !self.is_damaged()
    }
}

/// Why the log can't be recovered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScanRefused {
    /// REC-4.
    #[error(
        "the log holds segment {found}, which takes the place of one that the superblock (consistency point {cp}) still needs: a newer superblock was lost"
    )]
    Overwritten {
        /// What lies there.
        found: CpId,
        /// The superblock's CP.
        cp: CpId,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Every slot's header.
    Headers,
    /// Every slot's descriptors, from the last block down.
    Descriptors,
    /// The pages of the segments that follow one another.
    Pages,
    Done,
}

/// What is known of one slot.
#[derive(Clone, Debug)]
struct SlotScan {
    segment: CpId,
    header: Option<SegmentHeader>,
    /// Entries from here on are void: a later segment of a newer epoch begins with them.
    void_from: Lsn,
    /// Descriptor blocks from here up have been looked at.
    looked: u32,
    /// As many below are being read.
    asked: u32,
    /// Blocks below belong to pages of batches in the chain.
    floor: u32,
    broken: bool,
    batches: u32,
    crc: u32,
    last: Lsn,
    nodes: usize,
}

/// A linked segment on its way through the last phase.
#[derive(Clone, Debug)]
struct Linked {
    found: RecoveredSegment,
    /// Page blocks below have been asked for.
    asked: u32,
    under_way: u32,
}

/// The scan. Ask [`Scan::next_read`] until it has nothing more for now, say [`Scan::read_done`] for each; until [`Scan::is_done`].
#[derive(Debug)]
pub struct Scan {
    config: ScanConfig,
    phase: Phase,
    slots: Vec<SlotScan>,
    asks: VecDeque<BlockRun>,
    /// Single blocks that could not be read.
    unreadable: Vec<(CpId, LogBlock)>,
    under_way: usize,
    linked: Vec<Linked>,
    /// Linked segments whose pages have been checked.
    checked: usize,
    /// A bit per block of a slot: named by a batch. Of the linked segment that is asked for now.
    named: Vec<u64>,
    named_of: Option<usize>,
    /// Where the pages ended the log, if they did.
    cut: bool,
    committed: Lsn,
    seen: Lsn,
    epoch: Epoch,
    bytes_read: u64,
    refused: Option<ScanRefused>,
}

impl Scan {
    /// Begins.
    pub fn new(config: ScanConfig) -> Self {
        let geometry = config.geometry;
        let slots: Vec<SlotScan> = (1..=u64::from(geometry.segments))
            .map(|n| SlotScan {
                segment: CpId::new(config.cp.get() + n),
                header: None,
                void_from: Lsn::new(u64::MAX),
                looked: geometry.segment_blocks,
                asked: 0,
                floor: 1,
                broken: false,
                batches: 0,
                crc: 0,
                last: Lsn::new(0),
                nodes: 0,
            })
            .collect();
        let run =
            |slot: &SlotScan| BlockRun { segment: slot.segment, first: LogBlock::new(0), count: 1 };
        Self {
            phase: Phase::Headers,
            asks: slots.iter().map(run).collect(),
            slots,
            unreadable: Vec::new(),
            under_way: 0,
            linked: Vec::new(),
            checked: 0,
            named: vec![0; (geometry.segment_blocks as usize).div_ceil(64)],
            named_of: None,
            cut: false,
            committed: config.last_lsn,
            seen: config.last_lsn,
            epoch: Epoch::new(0),
            bytes_read: 0,
            refused: None,
            config,
        }
    }

    /// The next run to be read into its place; `None` while nothing can be asked for before what is under way has come.
    pub fn next_read(&mut self, memory: &impl Memory) -> Option<BlockRun> {
        let run = match self.asks.pop_front() {
            Some(run) => run,
            None if self.phase == Phase::Pages => self.next_pages(memory)?,
            None => return None,
        };
        self.under_way += 1;
        self.bytes_read += u64::from(run.count) * BLOCK_BYTES;
        Some(run)
    }

    /// A run was read into its place, or (`read` false) some of its blocks could not be.
    pub fn read_done(&mut self, memory: &mut impl Memory, run: BlockRun, read: bool) {
        self.under_way -= 1;
        let here = |(segment, block): &(CpId, LogBlock)| {
            *segment == run.segment
                && (run.first.get()..run.first.get() + run.count).contains(&block.get())
        };
        // What can be read now could perhaps not be before, beside descriptors: the last word counts.
        self.unreadable.retain(|block| !here(block));
        if read {
            self.came(memory, run);
        } else if run.count > 1 {
            // Which blocks it was shows when each half is read alone.
            let half = run.count / 2;
            self.asks.push_back(BlockRun { count: half, ..run });
            let first = LogBlock::new(run.first.get() + half);
            self.asks.push_back(BlockRun { first, count: run.count - half, ..run });
            return;
        } else {
            // What was in memory there before must not count.
            memory.write(run.span(self.config.geometry), |bytes| bytes.fill(0));
            self.unreadable.push((run.segment, run.first));
            self.came(memory, run);
        }
        if self.under_way == 0 && self.asks.is_empty() {
            self.step(memory);
        }
    }

    /// True when there is nothing more to be read, and nothing is under way.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// What was found.
    ///
    /// # Panics
    /// Before [`Scan::is_done`].
    pub fn finish(self) -> Result<RecoveredLog, ScanRefused> {
        assert!(self.is_done(), "a scan is asked for its result when it is done");
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let mut segments: Vec<RecoveredSegment> =
            self.linked.iter().map(|linked| linked.found).collect();
        while segments.last().is_some_and(|found| found.batches == 0) {
            segments.pop();
        }
        let end = segments.last().map_or(self.config.last_lsn, |found| found.last_lsn);
        Ok(RecoveredLog {
            cp: self.config.cp,
            last_lsn: self.config.last_lsn,
            segments,
            end,
            committed: self.committed,
            epoch: self.epoch,
            seen: self.seen.max(end),
            blocks_unreadable: self.unreadable.len() as u32,
            bytes_read: self.bytes_read,
        })
    }

    /// Takes a run that needs nothing else to be judged. Descriptors are, in order, when all of a slot's chunk is there.
    fn came(&mut self, memory: &impl Memory, run: BlockRun) {
        match self.phase {
            Phase::Headers => self.header_came(memory, run.segment),
            Phase::Pages => {
                let linked = self.linked.iter_mut().find(|l| l.found.segment == run.segment);
                // Blocks are counted, for a run may have come in parts.
                if let Some(linked) = linked {
                    linked.under_way -= run.count;
                }
                self.check_pages(memory);
            }
            Phase::Descriptors | Phase::Done => {}
        }
    }

    /// Everything asked for has come: goes on to what follows from it.
    fn step(&mut self, memory: &impl Memory) {
        if self.phase == Phase::Headers {
            self.headers_done();
            if self.phase == Phase::Done {
                return;
            }
        } else if self.phase == Phase::Descriptors {
            for at in 0..self.slots.len() {
                self.look(memory, at);
            }
        }
        if self.phase == Phase::Descriptors && self.asks.is_empty() {
            self.link();
            self.phase = Phase::Pages;
        }
        if self.phase == Phase::Pages {
            self.check_pages(memory);
        }
    }

    fn header_came(&mut self, memory: &impl Memory, segment: CpId) {
        let Config { geometry, pair, cp, .. } = self.facts();
        let span = geometry.span(segment, LogBlock::new(0), 1);
        let Ok(header) = memory.read(span, SegmentHeader::parse) else { return };
        let here = geometry.slot(header.segment) == geometry.slot(segment);
        if !here || !check::header_fits(&header, geometry, header.segment, pair) {
            return;
        }
        if header.segment > segment {
            self.refused = Some(ScanRefused::Overwritten { found: header.segment, cp });
        } else if header.segment == segment {
            self.slots[(segment.get() - cp.get() - 1) as usize].header = Some(header);
            self.epoch = self.epoch.max(header.epoch);
        }
    }

    fn facts(&self) -> Config {
        let ScanConfig { geometry, pair, cp, opened, agreed, .. } = self.config;
        Config { geometry, pair, cp, opened, agreed }
    }

    fn headers_done(&mut self) {
        if self.refused.is_some() {
            self.phase = Phase::Done;
            return;
        }
        self.phase = Phase::Descriptors;
        let mut newer: Vec<(Epoch, Lsn)> = Vec::new();
        for slot in self.slots.iter_mut().rev() {
            let epoch = slot.header.map_or(Epoch::new(0), |header| header.epoch);
            let voids = newer.iter().filter(|(other, _)| *other > epoch).map(|(_, first)| *first);
            slot.void_from = voids.min().unwrap_or(Lsn::new(u64::MAX));
            if let Some(header) = slot.header {
                newer.push((header.epoch, header.first_lsn));
            }
        }
        for at in 0..self.slots.len() {
            self.ask_descriptors(at);
        }
    }

    fn ask_descriptors(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let most = if slot.header.is_some() { RUN_BLOCKS_MAX } else { LOOK_BLOCKS };
        slot.asked = slot.looked.saturating_sub(slot.floor).min(most);
        if slot.asked > 0 {
            let first = LogBlock::new(slot.looked - slot.asked);
            self.asks.push_back(BlockRun { segment: slot.segment, first, count: slot.asked });
        }
    }

    /// Looks at the descriptor blocks of a slot that were asked for, and asks for those below where any held a batch of the segment.
    fn look(&mut self, memory: &impl Memory, at: usize) {
        let SlotScan { looked, asked, .. } = self.slots[at];
        let mut found = false;
        for block in (looked - asked..looked).rev() {
            found |= self.look_at(memory, at, LogBlock::new(block));
        }
        self.slots[at].looked = looked - asked;
        self.slots[at].asked = 0;
        if found {
            self.ask_descriptors(at);
        }
    }

    /// True where the block holds a batch of the slot's segment, in the chain or behind it.
    fn look_at(&mut self, memory: &impl Memory, at: usize, block: LogBlock) -> bool {
        let Config { geometry, opened, agreed, .. } = self.facts();
        let Self { slots, committed, seen, config, .. } = self;
        let slot = &mut slots[at];
        // A page of the chain's own is no descriptor, whatever a client wrote into it.
        if block.get() < slot.floor {
            return false;
        }
        memory.read(geometry.span(slot.segment, block, 1), |bytes| {
            let batch = match Batch::parse(bytes) {
                Ok(batch) if batch.entry_count > 0 => batch,
                Ok(_) | Err(_) => {
                    slot.broken = true;
                    return false;
                }
            };
            let header = batch.header;
            let its_own = header.segment == slot.segment
                && header.block == block
                && header.block == geometry.batch_block(header.index)
                && header.committed < header.first_lsn
                && slot
                    .header
                    .is_none_or(|of| of.epoch == header.epoch && of.first_lsn <= header.first_lsn);
            let last = last_of(&batch);
            let stale = header.epoch < opened && last > agreed;
            let void = (stale && !Mutant::VoidRecovered.is_on()) || last >= slot.void_from;
            if !its_own || void {
                slot.broken = true;
                return false;
            }
            *committed = (*committed).max(header.committed);
            *seen = (*seen).max(last);
            let Some(of) = slot.header.filter(|_| !slot.broken) else { return true };
            let due = Due {
                geometry,
                volume_sectors: &config.volume_sectors,
                segment: slot.segment,
                epoch: of.epoch,
                index: slot.batches,
                previous: slot.crc,
                first_lsn: if slot.batches == 0 { of.first_lsn } else { slot.last.next() },
            };
            let nodes: usize = batch.entries().map(|(entry, _)| nodes_of(&entry) as usize).sum();
            let follows = due.batch(bytes).is_ok();
            if !follows || slot.nodes + nodes > nodes_max(geometry.segment_blocks) {
                slot.broken = true;
                return true;
            }
            slot.batches += 1;
            slot.crc = batch.crc;
            slot.last = last;
            slot.nodes += nodes;
            let pages_end =
                batch.entries().map(|(entry, _)| entry.page.get() + u32::from(entry.pages));
            slot.floor = slot.floor.max(pages_end.max().unwrap_or(0));
            true
        })
    }

    /// Puts the segments in a row: each begins with the entry after the one before. Those between that have no header are empty.
    fn link(&mut self) {
        let (mut end, mut epoch) = (self.config.last_lsn, Epoch::new(0));
        let mut rest = &self.slots[..];
        loop {
            let next = rest.iter().position(|slot| {
                slot.batches > 0
                    && slot.header.is_some_and(|header| {
                        header.first_lsn == end.next() && header.epoch >= epoch
                    })
            });
            let next = next.filter(|at| *at == 0 || !Mutant::EmptyEndsLog.is_on());
            let Some(at) = next else { return };
            let header = rest[at].header.expect("a chain has its header");
            epoch = header.epoch;
            for (n, slot) in rest[..=at].iter().enumerate() {
                let mut found = RecoveredSegment {
                    segment: slot.segment,
                    epoch,
                    batches: 0,
                    crc: 0,
                    first_lsn: end.next(),
                    last_lsn: end,
                };
                if n == at {
                    (found.batches, found.crc, found.last_lsn) =
                        (slot.batches, slot.crc, slot.last);
                }
                self.linked.push(Linked { found, asked: 1, under_way: 0 });
            }
            end = rest[at].last;
            rest = &rest[at + 1..];
        }
    }

    /// The next run of named pages, segment after segment.
    fn next_pages(&mut self, memory: &impl Memory) -> Option<BlockRun> {
        let geometry = self.config.geometry;
        let blocks = geometry.segment_blocks;
        let first_unasked = self.linked.iter().position(|linked| linked.asked < blocks)?;
        for at in first_unasked..self.linked.len() {
            if self.cut {
                return None;
            }
            if self.named_of != Some(at) {
                self.name_pages(memory, at);
            }
            let named = &self.named;
            let is_named = |block: &u32| named[*block as usize / 64] >> (block % 64) & 1 == 1;
            let linked = &mut self.linked[at];
            let Some(first) = (linked.asked..blocks).find(is_named) else {
                linked.asked = blocks;
                continue;
            };
            let limit = blocks.min(first + RUN_BLOCKS_MAX);
            let end = (first..limit).find(|block| !is_named(block)).unwrap_or(limit);
            linked.asked = end;
            linked.under_way += end - first;
            let segment = linked.found.segment;
            return Some(BlockRun { segment, first: LogBlock::new(first), count: end - first });
        }
        // The last ones had no pages to read.
        if self.under_way == 0 {
            self.check_pages(memory);
        }
        None
    }

    fn name_pages(&mut self, memory: &impl Memory, at: usize) {
        let geometry = self.config.geometry;
        self.named.fill(0);
        self.named_of = Some(at);
        let RecoveredSegment { segment, batches, .. } = self.linked[at].found;
        for index in 0..batches {
            memory.read(geometry.span(segment, geometry.batch_block(index), 1), |bytes| {
                let batch = Batch::parse(bytes).expect("a batch of the chain parses again");
                for (page, _, _) in pages_of(&batch) {
                    self.named[page.get() as usize / 64] |= 1 << (page.get() % 64);
                }
            });
        }
    }

    /// Checks the pages of segments, in order, as far as they are here; the first that does not check ends the log (REC-1).
    fn check_pages(&mut self, memory: &impl Memory) {
        let geometry = self.config.geometry;
        while !self.cut && self.checked < self.linked.len() {
            let linked = &self.linked[self.checked];
            if linked.asked < geometry.segment_blocks || linked.under_way > 0 {
                break;
            }
            let whole = self.whole_batches(memory, &linked.found);
            if whole.batches < linked.found.batches {
                self.cut = true;
                self.linked.truncate(self.checked + 1);
                self.linked[self.checked].found = whole;
            }
            self.checked += 1;
        }
        let all = self.cut || self.checked == self.linked.len();
        if all && self.under_way == 0 && self.asks.is_empty() {
            self.phase = Phase::Done;
        }
    }

    /// The part of a segment whose batches' pages all check.
    fn whole_batches(&self, memory: &impl Memory, found: &RecoveredSegment) -> RecoveredSegment {
        let geometry = self.config.geometry;
        let mut whole = RecoveredSegment {
            batches: 0,
            crc: 0,
            last_lsn: Lsn::new(found.first_lsn.get() - 1),
            ..*found
        };
        for index in 0..found.batches {
            let span = geometry.span(found.segment, geometry.batch_block(index), 1);
            let checks = memory.read(span, |bytes| {
                let batch = Batch::parse(bytes).expect("a batch of the chain parses again");
                let page_checks = |(page, part, crc)| {
                    !self.unreadable.contains(&(found.segment, page))
                        && memory.crc32c(part_span(geometry, found.segment, page, part)) == crc
                };
                let checks = pages_of(&batch).all(page_checks) || Mutant::TornPageRecovered.is_on();
                checks.then(|| (batch.crc, last_of(&batch)))
            });
            let Some((crc, last)) = checks else { break };
            (whole.batches, whole.crc, whole.last_lsn) = (index + 1, crc, last);
        }
        whole
    }
}

/// The facts that most steps want at once.
struct Config {
    geometry: LogGeometry,
    pair: [u8; 16],
    cp: CpId,
    opened: Epoch,
    agreed: Lsn,
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
