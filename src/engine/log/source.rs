//! The source's log: reserves pages for writes, orders them, closes batches, and commits what both nodes hold.
//! Takes reservations, completions of data, durable Lsns of both nodes; gives batches to persist and send, commits, segments to drain.
//! LOG-1  committed rises to min(durable here, durable at the peer) and never falls; durable here ≤ batched < next Lsn.
//! LOG-2  Lsn order is segment order: an entry of segment n + 1 gets its Lsn only after every entry of segment n has.
//! LOG-3  a slot is reused only when its segment's CP is durable on both nodes and no read or late receive pins it.
//! LOG-4  an entry is in the index, and so readable, only once it is committed.
//! LOG-5  a block that holds a batch is written once per lap.
//! LOG-6  nothing is appended to a segment that was recovered but the batches that its own writer closed, each checked like a mirror's.

#[path = "source_overlap.rs"]
mod overlap;
#[path = "source_recovered.rs"]
mod recovered;

use super::{BlockSource, Index, LogGeometry, PagePart, PageTable, nodes_max};
use crate::memory::Memory;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use ibid_units::{CpId, Epoch, LogBlock, Lsn, Mutant, Nanos, Sector, Sectors, VolumeId};
use ibid_wire::disk::{
    BATCH_HEADER_BYTES, BatchEmitter, BatchHeader, ENTRY_BYTES, ENTRY_PAGES_MAX, Entry, EntryKind,
    SegmentHeader,
};

pub use recovered::AdoptRefused;

/// What the source's log is made with.
#[derive(Clone, Copy, Debug)]
pub struct SourceLogConfig {
    /// Slots and their size.
    pub geometry: LogGeometry,
    /// The pair, stamped into segment headers.
    pub pair: [u8; 16],
    /// Who writes.
    pub epoch: Epoch,
    /// The newest CP that both nodes hold; the first segment opened is the one after it.
    pub cp: CpId,
    /// The newest entry in it.
    pub last_lsn: Lsn,
    /// Writes that can be between reservation and commit, in all.
    pub entries_max: usize,
    /// Bytes of a batch, at most: what one frame of the link carries.
    pub batch_bytes_max: usize,
    /// How long a sealed segment waits for data still on its way into it before such entries are moved on.
    pub late_after: Nanos,
    /// False where the log first meets its peer's: it takes no writes before [`SourceLog::open_log`].
    pub opened: bool,
    /// The newest entry that the peer is known to hold durably; nothing above it commits before the peer says more. Of an empty
    /// log `last_lsn`.
    pub durable_there: Lsn,
}

/// The token of an entry that no client of this process waits for: recovery found it.
pub const TOKEN_NONE: u64 = u64::MAX;

/// What a log holds of one segment, as far as batches were closed (source) or are whole (destination).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Who wrote it. Means nothing without batches.
    pub epoch: Epoch,
    /// Number of batches.
    pub batches: u32,
    /// Checksum of the last of them, 0 without.
    pub crc: u32,
    /// The Lsn of its first entry.
    pub first_lsn: Lsn,
    /// The Lsn of its last entry; without batches the one before the first.
    pub last_lsn: Lsn,
}

/// Room reserved for one write. Given back by exactly one of [`SourceLog::complete`] and [`SourceLog::abandon`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The segment.
    pub segment: CpId,
    /// What will be logged.
    pub entry: Entry,
    /// Index nodes reserved.
    nodes: u32,
}

/// Why no room was reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveRefused {
    /// Every segment is full until a CP frees one.
    #[error("the log is full until a consistency point frees a segment")]
    Full,
    /// Too many writes are under way.
    #[error("too many writes are under way")]
    Busy,
    /// The log has not met its peer's yet.
    #[error("the log is not open yet")]
    NotOpen,
}

/// What became of a write whose data is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// It has its Lsn, or will get it when its turn comes.
    Logged,
    /// Its segment was closed without it: reserve again, move the bytes, complete that. The old place stays pinned until
    /// [`SourceLog::release_late`].
    Late,
}

/// A batch that is whole in this node's memory: to be persisted, and sent by the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClosedBatch {
    /// Its segment.
    pub segment: CpId,
    /// Its block.
    pub block: LogBlock,
    /// True for the first of a segment: block 0 goes along.
    pub with_header: bool,
    /// Its last entry.
    pub last: Lsn,
}

/// A write that both nodes hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The caller's name for it; [`TOKEN_NONE`] for an entry that recovery found.
    pub token: u64,
    /// Its Lsn.
    pub lsn: Lsn,
    /// When its data was complete.
    pub arrived: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Free,
    /// Takes reservations.
    Open,
    /// Takes no more reservations; waits for data still on its way (`pending`).
    Sealed,
    /// Every entry has its Lsn and its batch; waits for commits, then for its CP.
    Closed,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    segment: CpId,
    next_page: u32,
    /// Descriptor blocks promised to reservations whose batch is not closed yet.
    promised: u32,
    /// Index nodes promised to reservations that are not committed yet.
    nodes_promised: usize,
    pending: u32,
    sealed_at: Nanos,
    batches: u32,
    previous: u32,
    /// Who wrote its batches.
    epoch: Epoch,
    /// The first entry of its first batch, where it has one.
    first_lsn: Lsn,
    /// The last entry of its last batch, where it has one.
    batched_lsn: Lsn,
    /// The last of all its entries, once it is closed.
    last_lsn: Lsn,
    pins: u32,
    index: Index,
}

impl Slot {
    /// A committed entry becomes readable (LOG-4).
    fn insert(&mut self, entry: &Entry, nodes: u32) {
        let Entry { volume, kind, first, page, pages, sectors } = *entry;
        let end = first + sectors;
        for n in 0..nodes {
            let block = first.block() + u64::from(n);
            let from = first.get().max(block * 8) - block * 8;
            let to = end.get().min(block * 8 + 8) - block * 8;
            let mask = (((1u16 << (to - from)) - 1) << from) as u8;
            let source = match kind {
                EntryKind::Write => {
                    assert!(n < u32::from(pages), "a write has a page for each block");
                    BlockSource::Page(LogBlock::new(page.get() + n))
                }
                EntryKind::Zeroes => BlockSource::Zeroes,
                EntryKind::Deallocate => BlockSource::Deallocated,
            };
            self.index.insert(volume, block, mask, source);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Logged {
    token: u64,
    segment: CpId,
    entry: Entry,
    nodes: u32,
    arrived: Nanos,
}

/// The log of the node that takes writes.
#[derive(Debug)]
pub struct SourceLog {
    config: SourceLogConfig,
    slots: Vec<Slot>,
    /// What is known of each page.
    pub pages: PageTable,
    /// Next segment to be opened.
    next_segment: CpId,
    /// The segment whose entries get Lsns now.
    appending: CpId,
    /// Oldest segment that is not free.
    oldest: CpId,
    open: Option<CpId>,
    segment_limit: CpId,
    next_lsn: Lsn,
    batched: Lsn,
    durable_here: Lsn,
    durable_there: Lsn,
    committed: Lsn,
    /// Entries committed + 1 ‥ next_lsn, in Lsn order.
    entries: VecDeque<Logged>,
    /// Entries whose data is complete but whose segment has not its turn yet.
    waiting: VecDeque<Logged>,
    reserved: usize,
    opened: bool,
    /// What is durable here commits without the peer.
    alone: bool,
}

impl SourceLog {
    /// An empty log that goes on after `config.cp`.
    pub fn new(config: SourceLogConfig) -> Self {
        let geometry = config.geometry;
        assert!(geometry.segments >= 2, "a log has at least two segments");
        assert!(
            config.batch_bytes_max
                >= BATCH_HEADER_BYTES + ENTRY_BYTES + 4 * usize::from(ENTRY_PAGES_MAX),
            "a batch has room for the largest entry"
        );
        let slots = (0..geometry.segments)
            .map(|_| Slot {
                state: SlotState::Free,
                segment: CpId::new(0),
                next_page: 1,
                promised: 0,
                nodes_promised: 0,
                pending: 0,
                sealed_at: Nanos::ZERO,
                batches: 0,
                previous: 0,
                epoch: config.epoch,
                first_lsn: Lsn::new(0),
                batched_lsn: Lsn::new(0),
                last_lsn: Lsn::new(0),
                pins: 0,
                index: Index::new(nodes_max(geometry.segment_blocks)),
            })
            .collect();
        let mut log = Self {
            config,
            slots,
            pages: PageTable::new(geometry),
            next_segment: config.cp.next(),
            appending: config.cp.next(),
            oldest: config.cp.next(),
            open: None,
            segment_limit: CpId::new(u64::MAX),
            next_lsn: config.last_lsn.next(),
            batched: config.last_lsn,
            durable_here: config.last_lsn,
            durable_there: config.durable_there,
            committed: config.last_lsn,
            entries: VecDeque::with_capacity(config.entries_max),
            waiting: VecDeque::with_capacity(config.entries_max),
            reserved: 0,
            opened: config.opened,
            alone: false,
        };
        log.try_open();
        log
    }

    /// The log has met its peer's (or goes on without): it takes writes from now on. Once open it stays so.
    pub fn open_log(&mut self) {
        self.opened = true;
        self.try_open();
    }

    /// True where the log takes writes.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// While true, an entry commits when it is durable on this node, whatever the peer holds.
    pub fn commit_alone(&mut self, alone: bool) {
        self.alone = alone;
        if alone {
            // Whose room counted is away: when it is back it says anew how much it has.
            self.set_segment_limit(CpId::new(u64::MAX));
        }
    }

    /// The log's geometry.
    pub fn geometry(&self) -> LogGeometry {
        self.config.geometry
    }

    fn slot(&self, segment: CpId) -> &Slot {
        &self.slots[self.config.geometry.slot(segment)]
    }

    fn slot_mut(&mut self, segment: CpId) -> &mut Slot {
        let at = self.config.geometry.slot(segment);
        let slot = &mut self.slots[at];
        assert!(slot.segment == segment, "slot {at} holds segment {}, not {segment}", slot.segment);
        slot
    }

    /// Opens the next segment where its slot is free (LOG-3) and the peer has room.
    fn try_open(&mut self) {
        if self.opened && self.open.is_none() && self.next_segment <= self.segment_limit {
            self.take_slot();
        }
    }

    /// Opens the next segment where its slot is free (LOG-3). An entry of it is one of this epoch.
    fn take_slot(&mut self) {
        let segment = self.next_segment;
        let slot = &mut self.slots[self.config.geometry.slot(segment)];
        if slot.state != SlotState::Free || (slot.pins != 0 && !Mutant::ReusedPinned.is_on()) {
            return;
        }
        slot.state = SlotState::Open;
        slot.segment = segment;
        slot.epoch = self.config.epoch;
        slot.first_lsn = Lsn::new(0);
        slot.batched_lsn = Lsn::new(0);
        slot.next_page = 1;
        slot.promised = 0;
        slot.nodes_promised = 0;
        slot.pending = 0;
        slot.batches = 0;
        slot.previous = 0;
        slot.index.clear();
        self.pages.clear(segment);
        self.open = Some(segment);
        self.next_segment = segment.next();
    }

    /// Reserves pages for a write, or index room for an opcode. `now` stamps the segment when this fills it.
    pub fn reserve(
        &mut self,
        now: Nanos,
        kind: EntryKind,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
    ) -> Result<Placement, ReserveRefused> {
        if !self.opened {
            return Err(ReserveRefused::NotOpen);
        }
        if self.reserved == self.config.entries_max {
            return Err(ReserveRefused::Busy);
        }
        let nodes = sectors.blocks_from(first);
        let pages = match kind {
            EntryKind::Write => nodes,
            EntryKind::Zeroes | EntryKind::Deallocate => 0,
        };
        assert!(pages <= u32::from(ENTRY_PAGES_MAX), "a write is at most one MiB");
        assert!(
            self.fits_an_empty_segment(nodes, pages),
            "a segment holds at least the largest entry"
        );
        for _ in 0..2 {
            self.try_open();
            let Some(segment) = self.open else { return Err(ReserveRefused::Full) };
            let blocks = self.config.geometry.segment_blocks;
            let slot = self.slot_mut(segment);
            let blocks_left = blocks - slot.batches - slot.promised - slot.next_page;
            if blocks_left > pages && slot.index.room() - slot.nodes_promised >= nodes as usize {
                let page = LogBlock::new(if pages == 0 { 0 } else { slot.next_page });
                slot.next_page += pages;
                slot.promised += 1;
                slot.nodes_promised += nodes as usize;
                slot.pending += 1;
                self.reserved += 1;
                let entry = Entry { volume, kind, first, sectors, page, pages: pages as u16 };
                return Ok(Placement { segment, entry, nodes });
            }
            self.seal(now);
        }
        Err(ReserveRefused::Full)
    }

    fn fits_an_empty_segment(&self, nodes: u32, pages: u32) -> bool {
        let blocks = self.config.geometry.segment_blocks;
        pages + 2 <= blocks && nodes as usize <= nodes_max(blocks)
    }

    /// Seals the open segment if anything was reserved in it; writes go to the next one from now on.
    pub fn seal(&mut self, now: Nanos) -> bool {
        let Some(segment) = self.open else { return false };
        let slot = self.slot_mut(segment);
        if slot.pending == 0 && slot.promised == 0 && slot.batches == 0 {
            // Pages of abandoned writes are all there is: nothing names them, so they can be given out again.
            slot.next_page = 1;
            return false;
        }
        self.seal_segment(now, segment);
        true
    }

    fn seal_segment(&mut self, now: Nanos, segment: CpId) {
        let slot = self.slot_mut(segment);
        slot.state = SlotState::Sealed;
        slot.sealed_at = now;
        self.open = None;
        self.try_open();
        self.advance(now);
    }

    /// Seals the open segment, empty or not, for a CP that has more to carry than what clients wrote. Also before the log is open, then an empty
    /// one. `None` where no segment is open and none can be; otherwise the segment.
    pub fn seal_for_cp(&mut self, now: Nanos) -> Option<CpId> {
        if self.open.is_none() && self.next_segment <= self.segment_limit {
            self.take_slot();
        }
        let segment = self.open?;
        self.seal_segment(now, segment);
        Some(segment)
    }

    /// True where the open segment holds something that a CP would drain.
    pub fn has_unsealed(&self) -> bool {
        self.open.is_some_and(|segment| {
            let slot = self.slot(segment);
            slot.pending > 0 || slot.promised > 0 || slot.batches > 0
        })
    }

    /// A write's data is complete and its pages' checksums are in [`SourceLog::pages`].
    pub fn complete(&mut self, now: Nanos, placement: Placement, token: u64) -> Completion {
        assert!(token != TOKEN_NONE, "a client's write has a token of its own");
        let slot = self.slot(placement.segment);
        if slot.segment != placement.segment
            || slot.state == SlotState::Closed
            || slot.state == SlotState::Free
        {
            return Completion::Late;
        }
        let logged = Logged {
            token,
            segment: placement.segment,
            entry: placement.entry,
            nodes: placement.nodes,
            arrived: now,
        };
        if placement.segment == self.appending {
            self.append(logged);
            self.advance(now);
        } else {
            self.waiting.push_back(logged);
        }
        Completion::Logged
    }

    fn append(&mut self, logged: Logged) {
        assert!(
            logged.segment == self.appending,
            "LOG-2: entry of segment {} in turn of {}",
            logged.segment,
            self.appending
        );
        self.slot_mut(logged.segment).pending -= 1;
        self.next_lsn = self.next_lsn.next();
        self.entries.push_back(logged);
    }

    /// A write will not be completed: its pages stay unused.
    pub fn abandon(&mut self, now: Nanos, placement: Placement) {
        let slot = self.slot(placement.segment);
        if slot.segment != placement.segment
            || slot.state == SlotState::Closed
            || slot.state == SlotState::Free
        {
            self.release_late(placement);
            return;
        }
        let slot = self.slot_mut(placement.segment);
        slot.pending -= 1;
        slot.promised -= 1;
        slot.nodes_promised -= placement.nodes as usize;
        self.reserved -= 1;
        self.advance(now);
    }

    /// A late write's bytes have been moved (or its connection is gone): its old place may be reused.
    pub fn release_late(&mut self, placement: Placement) {
        let slot = self.slot_mut(placement.segment);
        assert!(slot.pins > 0, "a late write pins its segment until it is released");
        slot.pins -= 1;
    }

    /// Gives up waiting for data that is slow to come into a sealed segment, so that one slow host stops nobody's CP.
    pub fn expire_late(&mut self, now: Nanos) {
        let appending = self.appending;
        let late_after = self.config.late_after;
        if self.open == Some(appending) || self.next_segment <= appending {
            return;
        }
        let slot = self.slot_mut(appending);
        if slot.state == SlotState::Sealed
            && slot.pending > 0
            && now.since(slot.sealed_at) >= late_after
        {
            let late = slot.pending;
            slot.pending = 0;
            slot.pins += if Mutant::LateUnpinned.is_on() { 0 } else { late };
            slot.promised -= late;
            self.reserved -= late as usize;
            self.advance(now);
        }
    }

    /// Moves the turn to the next segment once the sealed one has all its entries (LOG-2). Its last batch is closed
    /// by [`SourceLog::close_batch`], which never mixes segments.
    fn advance(&mut self, _now: Nanos) {
        while self.appending < self.next_segment {
            let appending = self.appending;
            let last = Lsn::new(self.next_lsn.get() - 1);
            let slot = self.slot_mut(appending);
            if slot.state != SlotState::Sealed || slot.pending > 0 {
                return;
            }
            slot.state = SlotState::Closed;
            slot.last_lsn = last;
            self.appending = appending.next();
            for _ in 0..self.waiting.len() {
                let Some(logged) = self.waiting.pop_front() else { break };
                if logged.segment == self.appending {
                    self.append(logged);
                } else {
                    self.waiting.push_back(logged);
                }
            }
        }
    }

    /// Writes the next batch's block, of entries that have their Lsn but no batch; `None` when there are none.
    pub fn close_batch(&mut self, memory: &mut impl Memory) -> Option<ClosedBatch> {
        let skip = (self.batched.get() - self.committed.get()) as usize;
        let segment = self.entries.get(skip)?.segment;
        let (geometry, epoch, pair) = (self.config.geometry, self.config.epoch, self.config.pair);
        let first_lsn = self.batched.next();
        let at = geometry.slot(segment);
        let index = self.slots[at].batches;
        let with_header = index == 0;
        if with_header {
            let header =
                SegmentHeader { segment, epoch, first_lsn, pair, blocks: geometry.segment_blocks };
            memory.write(geometry.span(segment, LogBlock::new(0), 1), |block| {
                block.fill(0);
                header.emit(block);
            });
        }
        let block = geometry.batch_block(index);
        assert!(
            block.get() >= self.slots[at].next_page,
            "LOG-5: a batch lies above the segment's pages"
        );
        let header = BatchHeader {
            segment,
            epoch,
            first_lsn,
            block,
            index,
            previous: self.slots[at].previous,
            committed: if Mutant::CommitIndexAhead.is_on() { self.batched } else { self.committed },
        };
        let bytes_max = self.config.batch_bytes_max;
        let (entries, pages) = (&self.entries, &self.pages);
        let (count, crc) = memory.write(geometry.span(segment, block, 1), |bytes| {
            let mut batch = BatchEmitter::new(bytes, &header, bytes_max);
            let mut count = 0;
            for logged in entries.iter().skip(skip).take_while(|logged| logged.segment == segment) {
                let page = logged.entry.page;
                let crc = |page_index: u16| {
                    pages.crc(segment, LogBlock::new(page.get() + u32::from(page_index)))
                };
                if !batch.push(&logged.entry, crc) {
                    break;
                }
                count += 1;
            }
            (count, batch.finish().1)
        });
        let slot = &mut self.slots[at];
        slot.batches += 1;
        slot.previous = crc;
        slot.promised -= count as u32;
        if with_header {
            slot.first_lsn = first_lsn;
        }
        self.batched = self.batched.plus(count);
        slot.batched_lsn = self.batched;
        Some(ClosedBatch { segment, block, with_header, last: self.batched })
    }

    /// Records checksum and part of a page of a placement, before it is completed.
    pub fn set_page(&mut self, placement: &Placement, index: u16, crc: u32) {
        let (first, count) = placement.entry.page_part(index);
        let part = PagePart { first: first as u8, count: count as u8 };
        let block = LogBlock::new(placement.entry.page.get() + u32::from(index));
        self.pages.set(placement.segment, block, part, crc);
    }

    /// Everything up to `lsn` is durable on this node.
    pub fn durable_here(&mut self, lsn: Lsn) {
        assert!(lsn <= self.batched, "LOG-1: {lsn} durable here, batched {}", self.batched);
        self.durable_here = self.durable_here.max(lsn);
    }

    /// The peer says that everything up to `lsn` is durable there. False, and nothing done, where that was never sent.
    #[must_use]
    pub fn durable_there(&mut self, lsn: Lsn) -> bool {
        if lsn > self.batched {
            return false;
        }
        self.durable_there = self.durable_there.max(lsn);
        true
    }

    /// A session begins with a peer that holds everything up to `lsn` and nothing later. Writes that were completed stay so.
    pub fn restart_peer(&mut self, lsn: Lsn) {
        self.durable_there = lsn;
    }

    /// The peer has room for segments up to this one.
    pub fn set_segment_limit(&mut self, limit: CpId) {
        self.segment_limit = limit;
        self.try_open();
    }

    /// The next write that both nodes hold (alone: this one); it becomes readable now (LOG-4). Entries that recovery found come first, with
    /// [`TOKEN_NONE`].
    pub fn pop_committed(&mut self) -> Option<Committed> {
        let alone = self.alone || Mutant::AckBeforePeer.is_on();
        let there = if alone { self.durable_here } else { self.durable_there };
        let both =
            if Mutant::AckBeforeFlush.is_on() { there } else { self.durable_here.min(there) };
        if self.committed >= both {
            return None;
        }
        let logged = self.entries.pop_front().expect("LOG-1: a durable entry is still queued");
        self.committed = self.committed.next();
        if logged.token != TOKEN_NONE {
            self.reserved -= 1;
        }
        let slot = self.slot_mut(logged.segment);
        slot.nodes_promised -= logged.nodes as usize;
        slot.insert(&logged.entry, logged.nodes);
        Some(Committed { token: logged.token, lsn: self.committed, arrived: logged.arrived })
    }

    /// The oldest segment, once it is closed and every entry of it is committed: ready for its CP.
    pub fn drainable(&self) -> Option<CpId> {
        if self.oldest >= self.next_segment {
            return None;
        }
        let slot = self.slot(self.oldest);
        let closed = slot.state == SlotState::Closed && self.batched >= slot.last_lsn;
        let committed = self.committed >= slot.last_lsn || Mutant::DrainedUncommitted.is_on();
        (closed && committed).then_some(self.oldest)
    }

    /// The index of a segment that is drained.
    pub fn dirty_index(&self, segment: CpId) -> &Index {
        &self.slot(segment).index
    }

    /// A closed segment's last entry and number of batches.
    pub fn closed_segment(&self, segment: CpId) -> (Lsn, u32) {
        let slot = self.slot(segment);
        assert!(slot.state == SlotState::Closed, "only a closed segment has a last entry");
        (slot.last_lsn, slot.batches)
    }

    /// The CP of the oldest segment is durable on both nodes: its slot is free once nothing pins it.
    pub fn free(&mut self, segment: CpId) {
        assert!(segment == self.oldest, "LOG-3: segments are freed in order");
        let slot = self.slot_mut(segment);
        assert!(slot.state == SlotState::Closed, "LOG-3: only a drained segment is freed");
        slot.state = SlotState::Free;
        slot.index.clear();
        self.oldest = segment.next();
        self.try_open();
    }

    /// A read is answered from this segment's pages: they stay until [`SourceLog::unpin_slot`]. Gives the slot.
    pub fn pin(&mut self, segment: CpId) -> usize {
        self.slot_mut(segment).pins += 1;
        self.config.geometry.slot(segment)
    }

    /// The read is over.
    pub fn unpin_slot(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        assert!(slot.pins > 0, "an unpin has its pin");
        slot.pins -= 1;
        self.try_open();
    }

    /// Where each of a block's eight sectors lies, as far as the log has it; newest segment first.
    pub fn lookup(
        &self,
        volume: VolumeId,
        block: u64,
        wanted: u8,
    ) -> [Option<(CpId, BlockSource)>; 8] {
        let mut found = [None; 8];
        let mut left = wanted;
        let newest = self.appending.get().min(self.next_segment.get() - 1);
        let mut segment = newest;
        while left != 0 && segment >= self.oldest.get() {
            let slot = self.slot(CpId::new(if Mutant::OlderVersionWins.is_on() {
                self.oldest.get() + newest - segment
            } else {
                segment
            }));
            for (mask, source) in slot.index.lookup(volume, block) {
                let mask = mask & left;
                for (sector, place) in found.iter_mut().enumerate() {
                    if mask >> sector & 1 == 1 {
                        *place = Some((slot.segment, source));
                    }
                }
                left &= !mask;
            }
            segment -= 1;
        }
        found
    }

    /// What is closed in batches of a segment after the newest CP; `None` where it is not retained.
    pub fn held(&self, segment: CpId) -> Option<Held> {
        if !self.retains(segment) {
            return None;
        }
        let slot = self.slot(segment);
        let before = match slot.state {
            SlotState::Closed => slot.last_lsn,
            SlotState::Free | SlotState::Open | SlotState::Sealed => self.batched,
        };
        let (first_lsn, last_lsn) = match slot.batches {
            0 => (before.next(), before),
            _ => (slot.first_lsn, slot.batched_lsn),
        };
        let Slot { epoch, batches, previous, .. } = *slot;
        Some(Held { epoch, batches, crc: previous, first_lsn, last_lsn })
    }

    /// Batches closed so far in a segment that is retained.
    pub fn batches(&self, segment: CpId) -> u32 {
        self.slot(segment).batches
    }

    /// True when a retained segment gets no more batches.
    pub fn is_closed(&self, segment: CpId) -> bool {
        let slot = self.slot(segment);
        slot.state == SlotState::Closed && self.batched >= slot.last_lsn
    }

    /// True while the segment's bytes are in the log.
    pub fn retains(&self, segment: CpId) -> bool {
        segment >= self.oldest && segment < self.next_segment
    }

    /// The newest entry of a batch.
    pub fn batched(&self) -> Lsn {
        self.batched
    }
    /// The newest committed entry.
    pub fn committed(&self) -> Lsn {
        self.committed
    }
    /// The newest entry durable on this node.
    pub fn durable_here_lsn(&self) -> Lsn {
        self.durable_here
    }
    /// The newest entry durable at the peer.
    pub fn durable_there_lsn(&self) -> Lsn {
        self.durable_there
    }
    /// True while entries wait for a batch.
    pub fn has_unbatched(&self) -> bool {
        self.batched.next() < self.next_lsn
    }
    /// The newest Lsn given.
    pub fn last_lsn(&self) -> Lsn {
        Lsn::new(self.next_lsn.get() - 1)
    }
    /// Oldest segment that is not free, and the next to be opened.
    pub fn segments(&self) -> (CpId, CpId) {
        (self.oldest, self.next_segment)
    }
    /// True where no segment takes reservations.
    pub fn is_full(&self) -> bool {
        self.open.is_none()
    }
    /// The slot that would be opened next if nothing pinned it: what it holds is drained, and only reads and late data keep it.
    pub fn held_slot(&self) -> Option<usize> {
        if !self.opened || self.open.is_some() || self.next_segment > self.segment_limit {
            return None;
        }
        let at = self.config.geometry.slot(self.next_segment);
        let slot = &self.slots[at];
        (slot.state == SlotState::Free && slot.pins > 0).then_some(at)
    }
    /// Writes between reservation and commit.
    pub fn reserved(&self) -> usize {
        self.reserved
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
