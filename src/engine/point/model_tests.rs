//! A whole CP against volumes that are plain bytes: a random segment in both nodes' logs, a random map, rot, lost pages, zero blocks,
//! failures. Afterwards both volumes hold what clients wrote, and the destination the brought blocks as well; nothing else is touched.

use super::*;
use crate::log::{BlockSource, Index, LogGeometry, PagePart, PageTable};
use crate::sync::{CatchUp, OutOfSync};
use crate::{Memory, PlainMemory};
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock, Sector, Sectors, Span, VolumeId};
use ibid_wire::peer::RecordKind;

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
const CP: CpId = CpId::new(1);
const VOLUMES: usize = 2;
const VOLUME_BLOCKS: u64 = 24;
const VOLUME_SECTORS: u64 = VOLUME_BLOCKS * 8;
const GEOMETRY: LogGeometry = LogGeometry { segments: 2, segment_blocks: 96, arena_at: 0 };
const CATCH_UP: u32 = 16;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(4))
            .flat_map(|_| (self.below(1 << 31) as u32).to_le_bytes())
            .take(count)
            .collect()
    }
}

type Volumes = Vec<Vec<u8>>;

fn sectors(first: u64, count: u64) -> core::ops::Range<usize> {
    first as usize * SECTOR..(first + count) as usize * SECTOR
}

/// One of the two.
struct Node {
    memory: PlainMemory,
    pages: PageTable,
    volumes: Volumes,
    apply: Apply,
    /// Nothing was written to the volume since it was flushed.
    flushed: [bool; VOLUMES],
    under_way: Vec<ApplyOp>,
    rotten: u64,
}

impl Node {
    fn new(side: Side, random: &mut Random, volumes: Volumes) -> Self {
        let bytes = GEOMETRY.bytes() as usize;
        Self {
            // What no entry covers may differ between the two.
            memory: PlainMemory(random.bytes(bytes)),
            pages: PageTable::new(GEOMETRY),
            volumes,
            apply: Apply::new(side, GEOMETRY, CATCH_UP, vec![VOLUME_SECTORS; VOLUMES]),
            flushed: [true; VOLUMES],
            under_way: Vec::new(),
            rotten: 0,
        }
    }

    fn part(page: LogBlock, first: u64, count: u64) -> Span {
        let whole = GEOMETRY.span(CP, page, 1);
        Span::new(whole.at + first * SECTOR as u64, count as u32 * SECTOR as u32)
    }

    fn whole_part(&self, page: LogBlock) -> Span {
        let part = self.pages.part(CP, page);
        Self::part(page, u64::from(part.first), u64::from(part.count))
    }

    fn is_sound(&self, page: LogBlock) -> bool {
        self.memory.crc32c(self.whole_part(page)) == self.pages.crc(CP, page)
    }

    /// A page of an entry is placed.
    fn place(&mut self, page: LogBlock, part: PagePart, bytes: &[u8]) {
        let span = Self::part(page, u64::from(part.first), u64::from(part.count));
        self.memory.write(span, |out| out.copy_from_slice(bytes));
        self.pages.set(CP, page, part, self.memory.crc32c(span));
    }

    fn write(&mut self, volume: VolumeId, first: Sector, bytes: &[u8]) {
        let volume = usize::from(volume.get());
        self.flushed[volume] = false;
        self.volumes[volume][first.get() as usize * SECTOR..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Does an operation; `peer` has the bytes that rotted here.
    fn perform(&mut self, op: ApplyOp, peer: &Node) {
        match op {
            ApplyOp::Write { volume, first, sectors, page } => {
                let bytes = self.memory.log_bytes(page, first, sectors);
                self.write(volume, first, &bytes);
            }
            ApplyOp::Rotten { volume, first, sectors, page } => {
                let bytes = peer.memory.log_bytes(page, first, sectors);
                self.write(volume, first, &bytes);
                // All of the page is got from the peer, so that it can be sent as well.
                let part = self.whole_part(page);
                let whole = peer.memory.read(part, <[u8]>::to_vec);
                self.memory.write(part, |out| out.copy_from_slice(&whole));
                self.rotten += 1;
            }
            ApplyOp::Zero { volume, first, sectors }
            | ApplyOp::Deallocate { volume, first, sectors } => {
                self.write(volume, first, &vec![0; sectors.bytes() as usize]);
            }
            ApplyOp::Flush { volume } => self.flushed[usize::from(volume.get())] = true,
        }
    }

    /// A turn: some operations are started, some end, in any order.
    fn turn(&mut self, random: &mut Random, list: &CpList, peer: &Node, failures: &mut u32) {
        for _ in 0..random.below(6) {
            let Some(op) = self.apply.next_op(list, &self.pages, &self.memory) else { break };
            self.under_way.push(op);
        }
        for _ in 0..random.below(6) {
            if self.under_way.is_empty() {
                break;
            }
            let op = self.under_way.swap_remove(random.below(self.under_way.len() as u64) as usize);
            if fails(random, failures) {
                self.apply.failed();
            } else {
                self.perform(op, peer);
                self.apply.completed();
            }
        }
    }
}

/// Whether the next operation fails.
fn fails(random: &mut Random, failures: &mut u32) -> bool {
    let fails = *failures > 0 && random.below(8) == 0;
    *failures -= u32::from(fails);
    fails
}

trait LogBytes {
    fn log_bytes(&self, page: LogBlock, first: Sector, sectors: Sectors) -> Vec<u8>;
}

impl LogBytes for PlainMemory {
    fn log_bytes(&self, page: LogBlock, first: Sector, sectors: Sectors) -> Vec<u8> {
        let whole = GEOMETRY.span(CP, page, sectors.blocks_from(first));
        let at = whole.at as usize + first.in_block() as usize * SECTOR;
        self.0[at..at + sectors.bytes() as usize].to_vec()
    }
}

/// What is known of what a segment wrote.
struct Segment {
    index: Index,
    dirty: BTreeSet<(u16, u64)>,
    pages: u32,
}

/// Random entries, placed in both logs and written to `model`.
fn write_segment(random: &mut Random, nodes: &mut [&mut Node; 2], model: &mut Volumes) -> Segment {
    let mut segment = Segment { index: Index::new(256), dirty: BTreeSet::new(), pages: 0 };
    for _ in 0..random.below(20) {
        let volume = random.below(VOLUMES as u64) as u16;
        let first = random.below(VOLUME_SECTORS);
        let most = [7, 20, 60][random.below(3) as usize];
        let end = (first + 1 + random.below(most)).min(VOLUME_SECTORS);
        let opcode = random.below(6);
        for block in first / 8..end.div_ceil(8) {
            if segment.pages == 80 {
                return segment;
            }
            let (from, to) = (first.max(block * 8) % 8, end.min(block * 8 + 8) - block * 8);
            let part = PagePart { first: from as u8, count: (to - from) as u8 };
            let place = sectors(block * 8 + from, to - from);
            let source = match opcode {
                0 => BlockSource::Zeroes,
                1 => BlockSource::Deallocated,
                _ => {
                    segment.pages += 1;
                    BlockSource::Page(LogBlock::new(segment.pages))
                }
            };
            let bytes = match source {
                BlockSource::Page(page) => {
                    let bytes = random.bytes(place.len());
                    nodes.iter_mut().for_each(|node| node.place(page, part, &bytes));
                    bytes
                }
                BlockSource::Zeroes | BlockSource::Deallocated => vec![0; place.len()],
            };
            model[usize::from(volume)][place].copy_from_slice(&bytes);
            segment.index.insert(VolumeId::new(volume), block, part.mask(), source);
            segment.dirty.extend((block * 8 + from..block * 8 + to).map(|sector| (volume, sector)));
        }
    }
    segment
}

/// Damages pages of one log or the other, never the same in both.
fn damage(random: &mut Random, source: &mut Node, destination: &mut Node, pages: u32) {
    for page in (1..=pages).map(LogBlock::new) {
        let part = source.pages.part(CP, page);
        let sector = u64::from(part.first) + random.below(u64::from(part.count));
        let at = Node::part(page, sector, 1).at as usize + random.below(512) as usize;
        match random.below(24) {
            0 => source.memory.0[at] ^= 1 << random.below(8),
            1 | 2 => destination.memory.0[at] ^= 1 << random.below(8),
            3 => destination.pages.set(CP, page, PagePart::default(), 0),
            4 => destination.pages.set(CP, page, part, 7),
            _ => {}
        }
    }
}

/// What the source sends from.
struct Sender<'a> {
    node: &'a Node,
    catch_up: &'a CatchUp,
    staging: &'a [u8],
    full: bool,
}

impl Sender<'_> {
    /// Sectors of a page of the list; `None` where they rotted in the log here.
    fn payload(&self, list: &CpList, ordinal: u32, first: u64, count: u64) -> Option<Vec<u8>> {
        match self.node.apply.payload_at(list, self.catch_up, ordinal) {
            Some(PayloadAt::Log(page)) => {
                let span = Node::part(page, first, count);
                self.node.is_sound(page).then(|| self.node.memory.read(span, <[u8]>::to_vec))
            }
            Some(PayloadAt::Staging(page)) => {
                Some(self.staging[page as usize * BLOCK..][sectors(first, count)].to_vec())
            }
            None => panic!("a record with pages has its bytes somewhere"),
        }
    }

    /// Sends payload of every record that the destination waits for, in pieces.
    fn send(&self, random: &mut Random, list: &CpList, to: &mut Node, failures: &mut u32) {
        let mut sent = BTreeSet::new();
        to.apply.refused(list, usize::MAX, |index| {
            sent.insert(index as usize);
        });
        for index in 0..list.len() {
            let record = list.get(index).expect("a record");
            let unasked = match record.kind {
                RecordKind::Block => true,
                RecordKind::Reference(_) => self.full,
                _ => false,
            };
            if !unasked && !sent.contains(&index) {
                continue;
            }
            let end = u64::from(record.first.in_block() + record.sectors.get());
            let mut at = u64::from(record.first.in_block());
            while at < end {
                let count = (1 + random.below(8)).min(end - at).min(8 - at % 8);
                let ordinal = self.node.apply.ordinal(index) + (at / 8) as u32;
                if let Some(bytes) = self.payload(list, ordinal, at % 8, count) {
                    Self::arrive(random, list, to, (ordinal, at % 8, count), &bytes, failures);
                }
                at += count;
            }
        }
    }

    fn arrive(
        random: &mut Random,
        list: &CpList,
        to: &mut Node,
        (ordinal, first, count): (u32, u64, u64),
        bytes: &[u8],
        failures: &mut u32,
    ) {
        let (first, count) = (first as u8, count as u8);
        let Some(want) = to.apply.block_came(list, ordinal, first, count) else { return };
        assert!(to.apply.block_is_here(ordinal, first, count));
        assert_eq!(to.apply.block_came(list, ordinal, first, count), None, "twice");
        if fails(random, failures) {
            to.apply.failed();
        } else {
            to.write(want.volume, want.first, bytes);
            to.apply.completed();
        }
    }
}

/// What happened, so that it is known that it did.
#[derive(Default, Debug)]
struct Seen {
    refused: u64,
    rotten: u64,
    blocks: u64,
    holes: u64,
    restarts: u64,
}

/// A map, and the source's volumes: they differ from `there` in some of its blocks.
fn diverge(random: &mut Random, there: &Volumes) -> (OutOfSync, Volumes) {
    let mut map = OutOfSync::new(&[VOLUME_SECTORS; VOLUMES]);
    let mut here = there.clone();
    for _ in 0..random.below(8) {
        let volume = random.below(VOLUMES as u64) as u16;
        let first = random.below(VOLUME_BLOCKS);
        let blocks = (1 + random.below(5)).min(VOLUME_BLOCKS - first);
        map.set_run(VolumeId::new(volume), first, blocks);
        let place = sectors(first * 8, blocks * 8);
        match random.below(4) {
            0 => here[usize::from(volume)][place].fill(0),
            1 => {}
            _ => {
                let bytes = random.bytes(place.len());
                here[usize::from(volume)][place].copy_from_slice(&bytes);
            }
        }
    }
    (map, here)
}

/// Reads what is brought from the source's volumes.
fn stage(
    random: &mut Random,
    catch_up: &mut CatchUp,
    volumes: &Volumes,
    seen: &mut Seen,
) -> Vec<u8> {
    let mut staging = vec![0xAA; CATCH_UP as usize * BLOCK];
    for run in catch_up.runs(1 + random.below(4) as u32) {
        let place = sectors(run.first_block * 8, u64::from(run.blocks) * 8);
        let at = run.first_page as usize * BLOCK;
        let volume = &volumes[usize::from(run.volume.get())];
        staging[at..at + place.len()].copy_from_slice(&volume[place]);
    }
    for page in 0..catch_up.len() {
        if staging[page * BLOCK..][..BLOCK].iter().all(|byte| *byte == 0) {
            catch_up.set_zero(page);
            seen.holes += 1;
        } else {
            seen.blocks += 1;
        }
    }
    staging
}

fn run_cp(seed: u64, seen: &mut Seen) {
    let mut random = Random(seed);
    let there: Volumes =
        (0..VOLUMES).map(|_| random.bytes(VOLUME_SECTORS as usize * SECTOR)).collect();
    let (mut map, here) = diverge(&mut random, &there);
    let mut model = here.clone();
    let mut source = Node::new(Side::Source, &mut random, here);
    let mut destination = Node::new(Side::Destination, &mut random, there.clone());
    let segment = write_segment(&mut random, &mut [&mut source, &mut destination], &mut model);

    let mut catch_up = CatchUp::new(1 + random.below(u64::from(CATCH_UP)) as u32);
    catch_up.begin(&map);
    let staging = stage(&mut random, &mut catch_up, &source.volumes, seen);
    let brought: BTreeSet<(u16, u64)> = (0..catch_up.len())
        .filter_map(|page| catch_up.get(page))
        .flat_map(|at| (at.block * 8..at.block * 8 + 8).map(move |s| (at.volume.get(), s)))
        .collect();

    let mut list = CpList::new(GEOMETRY.segment_blocks, CATCH_UP);
    let mut lister = Lister::new(GEOMETRY.segment_blocks);
    lister.start(&mut list);
    let crc = |page: u32, first: u32, count: u32| {
        ibid_wire::crc32c(&staging[page as usize * BLOCK..][sectors(first.into(), count.into())])
    };
    while !lister.step(CP, &segment.index, &source.pages, &catch_up, crc, &mut list) {}
    damage(&mut random, &mut source, &mut destination, segment.pages);

    let full = random.below(8) == 0;
    let prove = if full { Prove::Nothing } else { Prove::References };
    assert!(source.apply.start(CP, &list, Prove::References), "seed {seed}");
    assert!(destination.apply.start(CP, &list, prove), "seed {seed}");
    let mut failures = random.below(4) as u32;
    let mut turns = 0;
    while !(source.apply.is_done() && destination.apply.is_done()) {
        turns += 1;
        assert!(turns < 5000, "seed {seed}: it ends");
        source.turn(&mut random, &list, &destination, &mut failures);
        destination.turn(&mut random, &list, &source, &mut failures);
        // Also before the list was gone through again: what is late on the link is not wanted yet.
        if random.below(3) == 0 {
            let sender = Sender { node: &source, catch_up: &catch_up, staging: &staging, full };
            sender.send(&mut random, &list, &mut destination, &mut failures);
        }
        for (node, also) in [(&mut source, None), (&mut destination, Some(&brought))] {
            if node.apply.has_failed() && !node.apply.is_busy() {
                assert!(!node.apply.is_done(), "CP-6, seed {seed}");
                // What was written since may be lost, or half there.
                for (volume, sector) in segment.dirty.iter().chain(also.into_iter().flatten()) {
                    if random.below(2) == 0 {
                        node.volumes[usize::from(*volume)][sectors(*sector, 1)].fill(0xEE);
                    }
                }
                node.apply.restart();
                seen.restarts += 1;
            }
        }
    }
    assert!(source.volumes == model, "CP-1, seed {seed}");
    assert_eq!((source.flushed, destination.flushed), ([true; 2], [true; 2]), "CP-3, seed {seed}");
    assert_eq!(destination.rotten, 0, "a destination refuses, seed {seed}");
    catch_up.settle(&mut map);
    for (number, volume) in destination.volumes.iter().enumerate() {
        for sector in 0..VOLUME_SECTORS {
            let at = (number as u16, sector);
            let place = sectors(sector, 1);
            let written = segment.dirty.contains(&at) || brought.contains(&at);
            let expected = if written { &model } else { &there };
            assert!(
                volume[place.clone()] == expected[number][place.clone()],
                "{at:?}, seed {seed}"
            );
            if !map.contains(VolumeId::new(at.0), sector / 8) {
                assert!(
                    volume[place.clone()] == model[number][place],
                    "MAP-2, {at:?}, seed {seed}"
                );
            }
        }
    }
    seen.refused += if full { 0 } else { destination.apply.refused_count() };
    seen.rotten += source.rotten;
}

#[test]
fn after_a_cp_both_volumes_hold_it_and_the_destination_what_it_brought() {
    let mut seen = Seen::default();
    for seed in 1..400 {
        run_cp(seed, &mut seen);
    }
    let Seen { refused, rotten, blocks, holes, restarts } = seen;
    assert!(
        [refused, rotten, blocks, holes, restarts].iter().all(|count| *count > 50),
        "each of them happened: {seen:?}"
    );
}
