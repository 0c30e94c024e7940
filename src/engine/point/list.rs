//! Makes a CP's list: the sealed segment's index, sorted by volume and block, as runs.
//! Works in slices of bounded length, so that writes go on between them. All memory is taken at start.
//! CP-1  the list names every dirty sector of the segment exactly once, in rising order, with its newest version.

use crate::log::{BlockSource, Index, PageTable, nodes_max};
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use ibid_units::{CpId, LogBlock, Sector, Sectors, VolumeId};
use ibid_wire::Crc32c;
use ibid_wire::peer::{RECORD_BYTES, RUN_SECTORS_MAX, Record, RecordKind};

/// Nodes sorted in one step: about 30 µs.
const SORT_NODES: usize = 1024;
/// Nodes merged in one step.
const MERGE_NODES: usize = 512;

/// A list of records, in the form it has on the wire.
#[derive(Debug)]
pub struct CpList {
    records: Vec<[u8; RECORD_BYTES]>,
    records_max: usize,
}

impl CpList {
    /// An empty list with room for what one segment of `blocks` blocks can need.
    pub fn new(segment_blocks: u32) -> Self {
        let records_max = records_max(segment_blocks);
        Self { records: Vec::with_capacity(records_max), records_max }
    }
    /// Takes all records away.
    pub fn clear(&mut self) {
        self.records.clear();
    }
    /// Makes room for `count` records that will be filled in any order; false where there can't be so many.
    #[must_use]
    pub fn resize(&mut self, count: usize) -> bool {
        if count > self.records_max {
            return false;
        }
        self.records.clear();
        self.records.resize(count, [0; RECORD_BYTES]);
        true
    }
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }
    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
    /// The list's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.records.as_flattened()
    }
    /// The list's bytes, to be filled in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.records.as_flattened_mut()
    }
    /// Record `index`, if the bytes there are one.
    pub fn get(&self, index: usize) -> Option<Record> {
        Record::parse(self.records.get(index)?).ok()
    }
    /// Appends a record.
    pub fn push(&mut self, record: &Record) {
        assert!(
            self.records.len() < self.records_max,
            "CP-1: a segment needs no more records than it has room for"
        );
        self.records.push(record.emit());
    }
}

/// Records that the list of one segment can need: four runs of sectors in each version of a block, and a record before each volume.
pub const fn records_max(segment_blocks: u32) -> usize {
    4 * nodes_max(segment_blocks) + ibid_wire::disk::VOLUMES_MAX
}

/// Makes the list of one segment after another.
#[derive(Debug)]
pub struct Lister {
    /// Live nodes, in sorted stretches of [`SORT_NODES`].
    order: Vec<u32>,
    collected: u32,
    sorted: usize,
    /// The next node of each stretch: (key, place in `order`).
    heads: BinaryHeap<Reverse<(u64, u32)>>,
    merging: bool,
    run: Option<Run>,
    volume: Option<VolumeId>,
}

struct Run {
    kind: RecordKind,
    volume: VolumeId,
    first: Sector,
    sectors: u32,
    last_page: u32,
    digest: Crc32c,
}

impl core::fmt::Debug for Run {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Run({:?}, {:?} + {})", self.kind, self.first, self.sectors)
    }
}

impl Lister {
    /// A lister for segments of this many blocks.
    pub fn new(segment_blocks: u32) -> Self {
        let nodes = nodes_max(segment_blocks);
        Self {
            order: Vec::with_capacity(nodes),
            collected: 0,
            sorted: 0,
            heads: BinaryHeap::with_capacity(nodes / SORT_NODES + 2),
            merging: false,
            run: None,
            volume: None,
        }
    }

    /// Begins a new list.
    pub fn start(&mut self, list: &mut CpList) {
        self.order.clear();
        self.collected = 0;
        self.sorted = 0;
        self.heads.clear();
        self.merging = false;
        self.run = None;
        self.volume = None;
        list.clear();
    }

    /// Does a slice of the work; true when the list is complete.
    pub fn step(
        &mut self,
        segment: CpId,
        index: &Index,
        pages: &PageTable,
        list: &mut CpList,
    ) -> bool {
        if !self.merging {
            self.sort_step(index);
            return false;
        }
        for _ in 0..MERGE_NODES {
            let Some(&Reverse((key, _))) = self.heads.peek() else {
                self.end_run(list);
                return true;
            };
            self.merge_block(segment, key, index, pages, list);
        }
        false
    }

    fn sort_step(&mut self, index: &Index) {
        let nodes = index.node_count() as u32;
        while self.collected < nodes && self.order.len() - self.sorted < SORT_NODES {
            if index.node(self.collected).1 != 0 {
                self.order.push(self.collected);
            }
            self.collected += 1;
        }
        let stretch = &mut self.order[self.sorted..];
        if !stretch.is_empty() {
            stretch.sort_unstable_by_key(|node| index.node(*node).0);
            self.heads.push(Reverse((index.node(stretch[0]).0, self.sorted as u32)));
            self.sorted = self.order.len();
        }
        self.merging = self.collected == nodes;
    }

    /// Takes every node of one block off the stretches and turns its sectors into runs.
    fn merge_block(
        &mut self,
        segment: CpId,
        key: u64,
        index: &Index,
        pages: &PageTable,
        list: &mut CpList,
    ) {
        let mut sectors: [Option<BlockSource>; 8] = [None; 8];
        while let Some(&Reverse((head, at))) = self.heads.peek() {
            if head != key {
                break;
            }
            self.heads.pop();
            let (_, mask, source) = index.node(self.order[at as usize]);
            for (sector, place) in sectors.iter_mut().enumerate() {
                if mask >> sector & 1 == 1 {
                    assert!(place.is_none(), "CP-1: a sector has one newest version");
                    *place = Some(source);
                }
            }
            let next = at as usize + 1;
            if !next.is_multiple_of(SORT_NODES) && next < self.order.len() {
                self.heads.push(Reverse((index.node(self.order[next]).0, next as u32)));
            }
        }
        let (volume, block) = crate::log::unkey(key);
        let mut sector = 0;
        while sector < 8 {
            let Some(source) = sectors[sector] else {
                sector += 1;
                continue;
            };
            let same = sectors[sector..].iter().take_while(|other| **other == Some(source)).count();
            let first = Sector::new(block * 8 + sector as u64);
            self.extend(segment, volume, first, same as u32, source, pages, list);
            sector += same;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the run and the three tables it is made from")]
    fn extend(
        &mut self,
        segment: CpId,
        volume: VolumeId,
        first: Sector,
        count: u32,
        source: BlockSource,
        pages: &PageTable,
        list: &mut CpList,
    ) {
        if let Some(run) = &mut self.run {
            let adjoins = run.volume == volume
                && run.first.get() + u64::from(run.sectors) == first.get()
                && run.sectors + count <= RUN_SECTORS_MAX;
            let continues = adjoins
                && match (run.kind, source) {
                    (RecordKind::Reference(_), BlockSource::Page(page)) => {
                        // In the same block the page stays; a new block begins the next page.
                        let due = run.last_page + u32::from(first.in_block() == 0);
                        if page.get() == due && first.in_block() == 0 {
                            run.last_page = due;
                            run.digest.push(pages.crc(segment, page));
                        }
                        page.get() == due
                    }
                    (RecordKind::Zeroes, BlockSource::Zeroes)
                    | (RecordKind::Deallocate, BlockSource::Deallocated) => true,
                    _ => false,
                };
            if continues {
                run.sectors += count;
                return;
            }
        }
        self.end_run(list);
        let mut digest = Crc32c::new();
        let (kind, last_page) = match source {
            BlockSource::Page(page) => {
                digest.push(pages.crc(segment, page));
                (RecordKind::Reference(page), page.get())
            }
            BlockSource::Zeroes => (RecordKind::Zeroes, 0),
            BlockSource::Deallocated => (RecordKind::Deallocate, 0),
        };
        self.run = Some(Run { kind, volume, first, sectors: count, last_page, digest });
    }

    fn end_run(&mut self, list: &mut CpList) {
        let Some(run) = self.run.take() else { return };
        if self.volume != Some(run.volume) {
            self.volume = Some(run.volume);
            list.push(&Record::volume(run.volume));
        }
        let digest = match run.kind {
            RecordKind::Reference(_) => run.digest.finish(),
            RecordKind::Zeroes
            | RecordKind::Deallocate
            | RecordKind::Block
            | RecordKind::Volume(_) => 0,
        };
        list.push(&Record {
            kind: run.kind,
            first: run.first,
            sectors: Sectors::new(run.sectors),
            digest,
        });
    }
}

/// Checks a reference against the pages this node holds: its digest over their checksums, or `None` where a page is outside
/// the segment, unknown here, or does not carry the sectors referred to.
pub(crate) fn reference_digest(
    segment: CpId,
    segment_blocks: u32,
    page: LogBlock,
    record: &Record,
    pages: &PageTable,
) -> Option<u32> {
    let count = record.pages();
    let end = page.get().checked_add(count)?;
    if page.get() == 0 || end > segment_blocks {
        return None;
    }
    let mut digest = Crc32c::new();
    for n in 0..count {
        let block = LogBlock::new(page.get() + n);
        let part = pages.part(segment, block);
        let wanted = part_of_run(record, n);
        if part.count == 0 || part.mask() & wanted != wanted {
            return None;
        }
        digest.push(pages.crc(segment, block));
    }
    Some(digest.finish())
}

/// The sectors of the run's page number `n`, as a bit each.
pub(crate) fn part_of_run(record: &Record, n: u32) -> u8 {
    let start = u64::from(record.first.in_block());
    let end = start + u64::from(record.sectors.get());
    let from = u64::from(n) * 8;
    let first = start.max(from) - from;
    let last = end.min(from + 8) - from;
    (((1u16 << (last - first)) - 1) << first) as u8
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
