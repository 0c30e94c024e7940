//! Makes a CP's list: the sealed segment's index, sorted by volume and block, as runs; and between them what the CP brings from the
//! out-of-sync map. Works in slices of bounded length, so that writes go on between them. All memory is taken at start.
//! CP-1  the list names every dirty sector of the segment, with its newest version, and every other sector of a block that is
//!       brought, exactly once and in rising order. How the segment is cut into runs does not depend on what is brought.

use crate::log::{BlockSource, Index, PageTable, nodes_max};
use crate::sync::CatchUp;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use ibid_units::{CpId, LogBlock, Mutant, Sector, Sectors, VolumeId};
use ibid_wire::Crc32c;
use ibid_wire::peer::{RECORD_BYTES, RUN_SECTORS_MAX, Record, RecordKind};

/// Nodes sorted in one step: about 30 µs.
const SORT_NODES: usize = 1024;
/// Nodes merged in one step …
const MERGE_NODES: usize = 512;
/// … of which a block that is brought counts as so many, for its bytes are summed: 64 of them in a step, 256 KiB.
const BROUGHT_NODES: usize = 8;

/// A list of records, in the form it has on the wire.
#[derive(Debug)]
pub struct CpList {
    records: Vec<[u8; RECORD_BYTES]>,
    records_max: usize,
}

impl CpList {
    /// An empty list with room for what one segment of so many blocks can need, and catch-up of so many.
    pub fn new(segment_blocks: u32, catch_up_blocks: u32) -> Self {
        let records_max = records_max(segment_blocks, catch_up_blocks);
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
            "CP-1: a CP needs no more records than its list has room for"
        );
        self.records.push(record.emit());
    }
}

/// Records that the list of one CP can need: four runs of sectors in each version of a block, as many between them in a block that is
/// brought, and a record before each volume.
pub const fn records_max(segment_blocks: u32, catch_up_blocks: u32) -> usize {
    4 * (nodes_max(segment_blocks) + catch_up_blocks as usize) + ibid_wire::disk::VOLUMES_MAX
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
    /// Blocks of the catch-up that are in the list.
    brought: usize,
    run: Option<Run>,
    volume: Option<VolumeId>,
}

/// Where a sector's bytes are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the log, or nowhere because of an opcode there.
    Log(BlockSource),
    /// In this page of staging memory.
    Staging(u32),
    /// Nowhere: the block that is brought is zero.
    Hole,
}

/// What a list is made from.
struct Tables<'a, F> {
    segment: CpId,
    pages: &'a PageTable,
    /// Sums a part of a staging page.
    staged_crc: F,
}

impl<F: FnMut(u32, u32, u32) -> u32> Tables<'_, F> {
    /// How the list names a place: the kind, the page that holds it and the sum of that page's part, where there is one.
    fn name(
        &mut self,
        place: Place,
        first: Sector,
        count: u32,
    ) -> (RecordKind, Option<(u32, u32)>) {
        match place {
            Place::Log(BlockSource::Page(page)) => {
                let crc = self.pages.crc(self.segment, page);
                (RecordKind::Reference(page), Some((page.get(), crc)))
            }
            Place::Log(BlockSource::Zeroes) => (RecordKind::Zeroes, None),
            Place::Log(BlockSource::Deallocated) => (RecordKind::Deallocate, None),
            Place::Staging(page) => {
                let crc = (self.staged_crc)(page, first.in_block(), count);
                (RecordKind::Block, Some((page, crc)))
            }
            Place::Hole => (RecordKind::Hole, None),
        }
    }
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
            brought: 0,
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
        self.brought = 0;
        self.run = None;
        self.volume = None;
        list.clear();
    }

    /// Does a slice of the work; true when the list is complete. `staged_crc` sums sectors `(page, first, count)` of staging memory.
    pub fn step(
        &mut self,
        segment: CpId,
        index: &Index,
        pages: &PageTable,
        catch_up: &CatchUp,
        staged_crc: impl FnMut(u32, u32, u32) -> u32,
        list: &mut CpList,
    ) -> bool {
        if !self.merging {
            self.sort_step(index);
            return false;
        }
        let mut tables = Tables { segment, pages, staged_crc };
        let mut nodes = 0;
        while nodes < MERGE_NODES {
            let written = self.heads.peek().map(|Reverse((key, _))| *key);
            let brought = catch_up
                .get(self.brought)
                .map(|brought| crate::log::key(brought.volume, brought.block));
            let Some(key) = written.into_iter().chain(brought).min() else {
                if !Mutant::LastRunDropped.is_on() {
                    self.end_run(list);
                }
                return true;
            };
            let mut sectors = [None; 8];
            nodes += 1;
            if written == Some(key) {
                self.take_written(key, index, &mut sectors);
            }
            if brought == Some(key) {
                nodes += BROUGHT_NODES;
                self.take_brought(catch_up, &mut sectors);
            }
            self.merge_block(key, &sectors, &mut tables, list);
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

    /// Takes every node of one block off the stretches: its dirty sectors.
    fn take_written(&mut self, key: u64, index: &Index, sectors: &mut [Option<Place>; 8]) {
        while let Some(&Reverse((head, at))) = self.heads.peek() {
            if head != key {
                break;
            }
            self.heads.pop();
            let (_, mask, source) = index.node(self.order[at as usize]);
            let mask = if Mutant::SectorDropped.is_on() { mask & 0x7F } else { mask };
            for (sector, place) in sectors.iter_mut().enumerate() {
                if mask >> sector & 1 == 1 {
                    assert!(place.is_none(), "CP-1: a sector has one newest version");
                    *place = Some(Place::Log(source));
                }
            }
            let next = at as usize + 1;
            if !next.is_multiple_of(SORT_NODES) && next < self.order.len() {
                self.heads.push(Reverse((index.node(self.order[next]).0, next as u32)));
            }
        }
    }

    /// Takes the next block of the catch-up: the sectors that the segment does not write.
    fn take_brought(&mut self, catch_up: &CatchUp, sectors: &mut [Option<Place>; 8]) {
        let page = self.brought as u32;
        let Some(brought) = catch_up.get(self.brought) else { return };
        self.brought += 1;
        // What could not be read stays in the map.
        if brought.bad {
            return;
        }
        let zero = brought.zero;
        for place in
            sectors.iter_mut().filter(|place| place.is_none() || Mutant::BroughtWins.is_on())
        {
            *place = Some(if zero { Place::Hole } else { Place::Staging(page) });
        }
    }

    /// Turns the sectors of one block into runs.
    fn merge_block(
        &mut self,
        key: u64,
        sectors: &[Option<Place>; 8],
        tables: &mut Tables<'_, impl FnMut(u32, u32, u32) -> u32>,
        list: &mut CpList,
    ) {
        let (volume, block) = crate::log::unkey(key);
        let mut sector = 0;
        while sector < 8 {
            let Some(place) = sectors[sector] else {
                sector += 1;
                continue;
            };
            let same = sectors[sector..].iter().take_while(|other| **other == Some(place)).count();
            let first = Sector::new(block * 8 + sector as u64);
            let (kind, page) = tables.name(place, first, same as u32);
            self.extend(volume, first, same as u32, kind, page, list);
            sector += same;
        }
    }

    /// Adds sectors of one block to the run at hand where they go on there, else ends it and begins another.
    fn extend(
        &mut self,
        volume: VolumeId,
        first: Sector,
        count: u32,
        kind: RecordKind,
        page: Option<(u32, u32)>,
        list: &mut CpList,
    ) {
        if let Some(run) = &mut self.run {
            let adjoins = run.volume == volume
                && run.first.get() + u64::from(run.sectors) == first.get()
                && run.sectors + count <= RUN_SECTORS_MAX;
            let same_kind = match (run.kind, kind) {
                (RecordKind::Reference(_), RecordKind::Reference(_)) => true,
                (one, other) => one == other,
            };
            // A new block begins the next page; within a block another page is another version.
            let goes_on =
                page.is_none_or(|(page, _)| first.in_block() == 0 && page == run.last_page + 1);
            if adjoins && same_kind && goes_on {
                run.sectors += count;
                if let Some((page, crc)) = page {
                    run.last_page = page;
                    run.digest.push(crc);
                }
                return;
            }
        }
        self.end_run(list);
        let mut digest = Crc32c::new();
        let mut last_page = 0;
        if let Some((page, crc)) = page {
            last_page = page;
            digest.push(crc);
        }
        self.run = Some(Run { kind, volume, first, sectors: count, last_page, digest });
    }

    fn end_run(&mut self, list: &mut CpList) {
        let Some(run) = self.run.take() else { return };
        if self.volume != Some(run.volume) {
            self.volume = Some(run.volume);
            list.push(&Record::volume(run.volume));
        }
        let digest = match run.kind {
            RecordKind::Reference(_) | RecordKind::Block => run.digest.finish(),
            RecordKind::Zeroes
            | RecordKind::Deallocate
            | RecordKind::Hole
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
