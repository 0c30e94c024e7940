//! Crashes of a source at any point, with any sectors of what was not flushed, life after life on one device; then damage of every kind. Each
//! recovered log is compared with what was really written.

use super::*;
use crate::log::{
    AdoptRefused, ClosedBatch, Completion, Held, Mirror, MirrorFault, ReserveRefused, SourceLog,
    SourceLogConfig, TOKEN_NONE,
};
use crate::memory::PlainMemory;
use alloc::collections::BTreeSet;
use ibid_units::{Nanos, Sector, Sectors, VolumeId};
use ibid_wire::disk::{Entry, EntryKind};

const VOLUME_SECTORS: u64 = 4096;
const NOW: Nanos = Nanos::from_millis(1);
const PAIR: [u8; 16] = [1; 16];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A log device: what is durable, and what was written since the last flush.
#[derive(Clone)]
struct Device {
    durable: Vec<u8>,
    cache: Vec<(usize, Vec<u8>)>,
}

impl Device {
    fn new(geometry: LogGeometry) -> Device {
        Device { durable: vec![0; geometry.device_bytes() as usize], cache: Vec::new() }
    }

    fn flush(&mut self) {
        for (at, bytes) in self.cache.drain(..) {
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// A power cut: of what was not flushed, any sectors are there.
    fn crash(&mut self, random: &mut Random) {
        for (at, bytes) in core::mem::take(&mut self.cache) {
            for from in (0..bytes.len()).step_by(512) {
                if random.below(2) == 0 {
                    self.durable[at + from..][..512].copy_from_slice(&bytes[from..from + 512]);
                }
            }
        }
    }
}

/// What the superblock says that counts for recovery.
#[derive(Clone, Copy)]
struct Facts {
    epoch: u64,
    agreed: Lsn,
    cp: CpId,
    last_lsn: Lsn,
}

const BLANK: Facts =
    Facts { epoch: 1, agreed: Lsn::new(0), cp: CpId::new(0), last_lsn: Lsn::new(0) };

fn scan_config(geometry: LogGeometry, facts: Facts) -> ScanConfig {
    ScanConfig {
        geometry,
        pair: PAIR,
        cp: facts.cp,
        last_lsn: facts.last_lsn,
        opened: Epoch::new(facts.epoch),
        agreed: facts.agreed,
        volume_sectors: vec![VOLUME_SECTORS; 2],
    }
}

/// Recovers from a device's bytes, with reads that complete in any order; those that touch a block in `bad` (by device block) fail. Memory is
/// full of rubbish before.
fn try_recover(
    geometry: LogGeometry,
    facts: Facts,
    device: &[u8],
    bad: &[u64],
) -> Result<(RecoveredLog, PlainMemory), ScanRefused> {
    let mut memory = PlainMemory(vec![0xEE; geometry.bytes() as usize]);
    let mut random = Random(device.len() as u64);
    let mut scan = Scan::new(scan_config(geometry, facts));
    let mut flying = Vec::new();
    for _ in 0..1_000_000 {
        if scan.is_done() {
            assert!(flying.is_empty(), "nothing is under way when it is done");
            return scan.finish().map(|log| (log, memory));
        }
        while flying.len() < 7 {
            let Some(run) = scan.next_read(&memory) else { break };
            assert!(run.count >= 1);
            assert!(run.count <= RUN_BLOCKS_MAX);
            flying.push(run);
        }
        if flying.is_empty() {
            continue;
        }
        let run: BlockRun = flying.swap_remove(random.below(flying.len() as u64) as usize);
        let (at, span) = (run.device_at(geometry), run.span(geometry));
        let blocks = at / 4096..at / 4096 + u64::from(run.count);
        let read = !bad.iter().any(|block| blocks.contains(block));
        if read {
            memory.0[span.at as usize..span.end() as usize]
                .copy_from_slice(&device[at as usize..][..span.len as usize]);
        }
        scan.read_done(&mut memory, run, read);
    }
    panic!("the scan does not end");
}

fn recover(geometry: LogGeometry, facts: Facts, device: &[u8]) -> (RecoveredLog, PlainMemory) {
    try_recover(geometry, facts, device, &[]).expect("the superblock is the newest")
}

/// One entry as it was written.
#[derive(Clone, PartialEq, Debug)]
struct Written {
    entry: Entry,
    bytes: Vec<u8>,
}

fn payload(memory: &PlainMemory, geometry: LogGeometry, segment: CpId, entry: &Entry) -> Vec<u8> {
    (0..entry.pages)
        .flat_map(|index| {
            let page = LogBlock::new(entry.page.get() + u32::from(index));
            let span = part_span(geometry, segment, page, check::part_of(entry, index));
            memory.0[span.at as usize..span.end() as usize].to_vec()
        })
        .collect()
}

/// Every entry of a recovered log, read from memory.
fn entries_of(log: &RecoveredLog, geometry: LogGeometry, memory: &PlainMemory) -> Vec<Written> {
    let mut out = Vec::new();
    for found in &log.segments {
        for index in 0..found.batches {
            let span = geometry.span(found.segment, geometry.batch_block(index), 1);
            let block = memory.0[span.at as usize..span.end() as usize].to_vec();
            let batch = Batch::parse(&block).expect("a recovered batch parses");
            out.extend(batch.entries().map(|(entry, _)| Written {
                entry,
                bytes: payload(memory, geometry, found.segment, &entry),
            }));
        }
    }
    out
}

/// A source over a device, and what it really wrote.
struct Life {
    geometry: LogGeometry,
    facts: Facts,
    log: SourceLog,
    memory: PlainMemory,
    device: Device,
    /// All entries ever, by Lsn − 1, as far as batches were closed and not lost since.
    written: Vec<Written>,
    ends: BTreeSet<Lsn>,
    batches: Vec<ClosedBatch>,
    unflushed: Lsn,
}

fn source_config(geometry: LogGeometry, facts: Facts) -> SourceLogConfig {
    SourceLogConfig {
        geometry,
        pair: PAIR,
        epoch: Epoch::new(facts.epoch),
        cp: facts.cp,
        last_lsn: facts.last_lsn,
        entries_max: 64,
        batch_bytes_max: 1200,
        late_after: Nanos::from_millis(20),
        opened: true,
        durable_there: facts.last_lsn,
    }
}

impl Life {
    fn new(segments: u32, segment_blocks: u32) -> Life {
        let geometry = LogGeometry { segments, segment_blocks, arena_at: 0 };
        Life {
            geometry,
            facts: BLANK,
            log: SourceLog::new(source_config(geometry, BLANK)),
            memory: PlainMemory(vec![0; geometry.bytes() as usize]),
            device: Device::new(geometry),
            written: Vec::new(),
            ends: BTreeSet::from([Lsn::new(0)]),
            batches: Vec::new(),
            unflushed: Lsn::new(0),
        }
    }

    /// Logs one write; false where the log is full or busy.
    fn write(&mut self, random: &mut Random, sectors_max: u64) -> bool {
        let sectors = 1 + random.below(sectors_max);
        let first = random.below(VOLUME_SECTORS - sectors);
        let kind = match random.below(12) {
            0 => EntryKind::Zeroes,
            1 => EntryKind::Deallocate,
            _ => EntryKind::Write,
        };
        let volume = VolumeId::new(random.below(2) as u16);
        let (first, sectors) = (Sector::new(first), Sectors::new(sectors as u32));
        let Ok(placement) = self.log.reserve(NOW, kind, volume, first, sectors) else {
            return false;
        };
        for index in 0..placement.entry.pages {
            let page = LogBlock::new(placement.entry.page.get() + u32::from(index));
            let part = check::part_of(&placement.entry, index);
            let span = part_span(self.geometry, placement.segment, page, part);
            let bytes = &mut self.memory.0[span.at as usize..span.end() as usize];
            let fill = random.below(1 << 31) as u32;
            for (n, word) in bytes.chunks_mut(4).enumerate() {
                word.copy_from_slice(&(fill ^ n as u32).to_le_bytes());
            }
            self.log.set_page(&placement, index, ibid_wire::crc32c(bytes));
        }
        let bytes = payload(&self.memory, self.geometry, placement.segment, &placement.entry);
        assert_eq!(self.log.complete(NOW, placement, 3), Completion::Logged);
        self.written.push(Written { entry: placement.entry, bytes });
        true
    }

    /// Closes batches and writes them to the device, as the runtime does.
    fn close(&mut self) {
        while let Some(batch) = self.log.close_batch(&mut self.memory) {
            self.persist(batch);
        }
    }

    fn persist(&mut self, batch: ClosedBatch) {
        let ClosedBatch { segment, block, with_header, last } = batch;
        let mut blocks = vec![block];
        if with_header {
            blocks.push(LogBlock::new(0));
        }
        let span = self.geometry.span(segment, block, 1);
        let bytes = self.memory.0[span.at as usize..span.end() as usize].to_vec();
        let parsed = Batch::parse(&bytes).expect("a batch of our own");
        blocks.extend(pages_of(&parsed).map(|(page, _, _)| page));
        for block in blocks {
            let span = self.geometry.span(segment, block, 1);
            let bytes = self.memory.0[span.at as usize..span.end() as usize].to_vec();
            self.device.cache.push((self.geometry.device_at(segment, block) as usize, bytes));
        }
        self.ends.insert(last);
        self.batches.push(batch);
        self.unflushed = last;
    }

    fn flush(&mut self) {
        self.device.flush();
        if self.unflushed > Lsn::new(0) {
            self.log.durable_here(self.unflushed);
        }
    }

    fn commit(&mut self, there: Lsn) {
        assert!(self.log.durable_there(there));
        while self.log.pop_committed().is_some() {}
    }

    /// The newest commit index of all batches of this life but one.
    fn evidence_without(&self, hit: Option<ClosedBatch>) -> Lsn {
        let committed = |batch: &ClosedBatch| {
            let span = self.geometry.span(batch.segment, batch.block, 1);
            let parsed = self.memory.read(span, |bytes| Batch::parse(bytes).map(|b| b.header));
            parsed.expect("a batch of our own").committed
        };
        let others = self.batches.iter().filter(|batch| Some(**batch) != hit);
        others.map(committed).max().expect("other batches")
    }

    /// CPs of everything that can be drained, at most `count`.
    fn drain(&mut self, count: u64) {
        for _ in 0..count {
            let Some(segment) = self.log.drainable() else { return };
            let (last, _) = self.log.closed_segment(segment);
            (self.facts.cp, self.facts.last_lsn) = (segment, last);
            self.log.free(segment);
        }
    }

    /// Writes until `count` batches, each flushed and committed before the next but one.
    fn fill(&mut self, random: &mut Random, count: usize) {
        for _ in 0..count {
            for _ in 0..1 + random.below(4) {
                assert!(self.write(random, 16), "the test's log has room");
            }
            self.close();
            self.flush();
            self.commit(self.log.batched());
        }
    }

    /// The process ends, power with it; the next one begins on what the device has. `check` sees the recovered log first.
    fn crash(&mut self, random: &mut Random) {
        let (durable, batched) = (self.log.durable_here_lsn(), self.log.batched());
        let committed = self.log.committed();
        self.device.crash(random);
        let (log, memory) = recover(self.geometry, self.facts, &self.device.durable);
        assert!(log.end >= durable, "{} recovered, {durable} was flushed", log.end);
        assert!(log.end <= batched, "{} recovered, {batched} was written", log.end);
        assert!(self.ends.contains(&log.end), "REC-1: {} is not the end of a batch", log.end);
        assert!(log.committed <= committed, "{} was never committed", log.committed);
        assert!(!log.is_damaged(), "a torn tail is no damage");
        assert_eq!(log.is_torn(), log.seen > log.end);
        self.written.truncate(log.end.get() as usize);
        self.ends.retain(|end| *end <= log.end);
        let from = self.facts.last_lsn.get() as usize;
        let found = entries_of(&log, self.geometry, &memory);
        assert_eq!(found, self.written[from..], "what is recovered is what was written");
        self.begin_again(log, memory);
    }

    /// A new epoch that goes on after the recovered log.
    fn begin_again(&mut self, log: RecoveredLog, memory: PlainMemory) {
        self.facts.epoch += 1;
        self.facts.agreed = log.end;
        let config = source_config(self.geometry, self.facts);
        self.log = SourceLog::recovered(config, &log, &memory);
        self.memory = memory;
        self.batches.clear();
        self.unflushed = log.end;
        assert_eq!(self.log.batched(), log.end);
        assert_eq!(self.log.durable_here_lsn(), log.end);
        assert_eq!(self.log.committed(), log.committed);
        for found in &log.segments {
            let held = self.log.held(found.segment).expect("a recovered segment is retained");
            let RecoveredSegment { batches, crc, first_lsn, last_lsn, epoch, .. } = *found;
            assert_eq!(held, Held { epoch, batches, crc, first_lsn, last_lsn });
        }
        self.read_everything();
    }

    /// Every sector that a committed entry after the CP wrote reads as its newest such entry says; entries that are not committed can't be read.
    fn read_everything(&self) {
        let from = self.facts.last_lsn.get() as usize;
        let to = self.log.committed().get() as usize;
        let mut model = alloc::collections::BTreeMap::new();
        for written in &self.written[from..to] {
            let first = written.entry.first.get();
            for n in 0..u64::from(written.entry.sectors.get()) {
                let byte = (n * 512) as usize;
                let bytes = match written.entry.kind {
                    EntryKind::Write => Some(written.bytes[byte..byte + 512].to_vec()),
                    EntryKind::Zeroes | EntryKind::Deallocate => None,
                };
                model.insert((written.entry.volume, first + n), bytes);
            }
        }
        for (volume, block) in
            (0..2).flat_map(|v| (0..VOLUME_SECTORS / 8).map(move |b| (VolumeId::new(v), b)))
        {
            for (sector, found) in self.log.lookup(volume, block, 0xFF).into_iter().enumerate() {
                let expected = model.get(&(volume, block * 8 + sector as u64));
                let found = found.map(|(segment, source)| match source {
                    crate::log::BlockSource::Page(page) => {
                        let at = self.geometry.span(segment, page, 1).at as usize + sector * 512;
                        Some(self.memory.0[at..at + 512].to_vec())
                    }
                    crate::log::BlockSource::Zeroes | crate::log::BlockSource::Deallocated => None,
                });
                assert_eq!(found.as_ref(), expected, "LOG-4: {volume} block {block}");
            }
        }
    }
}

/// REC-1, REC-2: any crash leaves a prefix that holds everything flushed, life after life.
#[test]
fn a_crash_at_any_time_leaves_a_prefix_with_all_that_was_flushed() {
    let mut torn = 0;
    for seed in 1..25 {
        let mut random = Random(seed);
        let blocks = if seed % 4 == 0 { 700 } else { 64 };
        let mut life = Life::new(3 + seed as u32 % 3, blocks);
        for _ in 0..12 {
            for _ in 0..random.below(60) {
                match random.below(10) {
                    0..5 => {
                        for _ in 0..random.below(5) {
                            life.write(&mut random, 60);
                        }
                        life.close();
                    }
                    5..7 => life.flush(),
                    7 => {
                        // Somewhere between nothing and everything is durable at the peer.
                        let (low, high) = (life.log.durable_there_lsn(), life.log.batched());
                        let there =
                            low.get() + random.below(high.get() - low.get().min(high.get()) + 1);
                        life.commit(Lsn::new(there.min(high.get())));
                    }
                    8 => {
                        life.log.seal(NOW);
                        if random.below(3) == 0 {
                            life.close();
                            life.log.seal_for_cp(NOW);
                        }
                    }
                    _ => life.drain(random.below(3)),
                }
            }
            life.close();
            let batched = life.log.batched();
            let before = life.device.cache.len();
            life.crash(&mut random);
            torn += u32::from(before > 0 && life.log.batched() < batched);
        }
    }
    assert!(torn > 20, "tails were really torn: {torn}");
}

/// What follows a bad batch tells rot from a torn tail: a batch that was closed when a later entry had been acknowledged.
#[test]
fn damage_below_an_acknowledged_entry_is_told_from_a_torn_tail() {
    let mut damaged = 0;
    let mut shorter = 0;
    for seed in 1..40 {
        let mut random = Random(seed);
        let mut life = Life::new(6, 64);
        life.fill(&mut random, 24);
        let facts = life.facts;
        let hit = random.below(life.batches.len() as u64) as usize;
        let batch = life.batches[hit];
        let span = life.geometry.span(batch.segment, batch.block, 1);
        let bytes = life.memory.0[span.at as usize..span.end() as usize].to_vec();
        let parsed = Batch::parse(&bytes).expect("a batch of our own");
        // A bit of the descriptor, or of a page that it names.
        let page = pages_of(&parsed).next().filter(|_| random.below(2) == 0);
        let in_page = page.is_some();
        let at = match page {
            Some((page, part, _)) => {
                life.geometry.device_at(batch.segment, page) + u64::from(part.first) * 512
            }
            None => {
                life.geometry.device_at(batch.segment, batch.block)
                    + random.below(u64::from(parsed.used_bytes()))
            }
        };
        life.device.durable[at as usize] ^= 1 << random.below(8);
        let (log, memory) = recover(life.geometry, facts, &life.device.durable);
        let end = Lsn::new(parsed.header.first_lsn.get() - 1);
        assert_eq!(log.end, end, "seed {seed}: the log ends before the bad batch");
        assert_eq!(
            entries_of(&log, life.geometry, &memory),
            life.written[..end.get() as usize],
            "seed {seed}"
        );
        // What the batches that are left say; one whose page is bad says it still.
        let told = life.evidence_without((!in_page).then_some(batch));
        assert_eq!(log.committed, told, "seed {seed}: REC-3");
        assert_eq!(log.is_damaged(), told > end, "seed {seed}: REC-3");
        if told > end {
            damaged += 1;
        } else {
            shorter += 1;
        }
    }
    assert!(damaged > 20);
    assert!(shorter > 0);
}

#[test]
fn an_unreadable_block_counts_as_one_that_does_not_check() {
    let mut random = Random(5);
    let mut life = Life::new(6, 64);
    life.fill(&mut random, 24);
    let newest = life.batches.len() - 1;
    for hit in [0, 7, newest] {
        let batch = life.batches[hit];
        let span = life.geometry.span(batch.segment, batch.block, 1);
        let bytes = life.memory.0[span.at as usize..span.end() as usize].to_vec();
        let parsed = Batch::parse(&bytes).expect("a batch of our own");
        let page = pages_of(&parsed).next().map_or(batch.block, |(page, _, _)| page);
        for block in [batch.block, page] {
            let bad = life.geometry.device_at(batch.segment, block) / 4096;
            let (log, _) = try_recover(life.geometry, life.facts, &life.device.durable, &[bad])
                .expect("the superblock is the newest");
            assert_eq!(log.end.get() + 1, parsed.header.first_lsn.get());
            let told = life.evidence_without(Some(batch));
            assert_eq!(log.is_damaged(), told > log.end, "batch {hit}");
            assert!(log.is_damaged() || hit == newest, "batch {hit}");
            assert_eq!(log.blocks_unreadable, 1);
        }
    }
    // The header of the newest segment: its batches still speak.
    let newest = life.batches[newest].segment;
    let first = life.log.held(newest).expect("it is retained").first_lsn;
    let bad = life.geometry.device_at(newest, LogBlock::new(0)) / 4096;
    let (log, _) = try_recover(life.geometry, life.facts, &life.device.durable, &[bad])
        .expect("the superblock is the newest");
    assert_eq!(log.end.next(), first);
    assert!(log.is_damaged(), "REC-3: evidence of a segment without header");
}

/// REC-2: the tail that its own epoch left behind, and that a later one did not take over, is void for good.
#[test]
fn what_was_not_agreed_on_is_void_even_if_it_checks() {
    let mut random = Random(9);
    let mut life = Life::new(4, 64);
    life.fill(&mut random, 6);
    let kept = life.batches[3].last;
    let whole = life.log.batched();
    // Another node was asked, and the tail given up: the superblock says so, the device holds the tail still.
    let facts = Facts { epoch: 2, agreed: kept, ..life.facts };
    let (log, memory) = recover(life.geometry, facts, &life.device.durable);
    assert_eq!((log.end, log.seen), (kept, kept));
    let (all, _) = recover(life.geometry, life.facts, &life.device.durable);
    assert_eq!(all.end, whole);
    // Epoch 2 writes on, in a new segment, past what epoch 1 had.
    life.facts = Facts { epoch: 1, ..life.facts };
    life.written.truncate(kept.get() as usize);
    life.begin_again(log, memory);
    assert_eq!((life.facts.epoch, life.facts.agreed), (2, kept));
    life.fill(&mut random, 10);
    let end = life.log.batched();
    assert!(end > whole);
    // Epoch 3 agrees to all of it: by number the old tail would count again.
    let facts = Facts { epoch: 3, agreed: end, ..life.facts };
    let (log, memory) = recover(life.geometry, facts, &life.device.durable);
    assert_eq!(log.end, end);
    assert_eq!(entries_of(&log, life.geometry, &memory), life.written);
    let epochs: Vec<u64> = log.segments.iter().map(|found| found.epoch.get()).collect();
    assert!(epochs.contains(&1));
    assert!(epochs.contains(&2));
}

#[test]
fn empty_segments_leave_no_trace_and_break_no_row() {
    let mut random = Random(3);
    let mut life = Life::new(6, 64);
    life.fill(&mut random, 2);
    assert!(life.log.seal(NOW));
    assert_eq!(life.log.seal_for_cp(NOW), Some(CpId::new(2)));
    assert_eq!(life.log.seal_for_cp(NOW), Some(CpId::new(3)));
    life.fill(&mut random, 2);
    assert!(life.log.seal(NOW));
    assert_eq!(life.log.seal_for_cp(NOW), Some(CpId::new(5)));
    let (log, _) = recover(life.geometry, life.facts, &life.device.durable);
    let counts: Vec<bool> = log.segments.iter().map(|found| found.batches > 0).collect();
    assert_eq!(counts, [true, false, false, true], "an empty one at the end is not known of");
    assert_eq!(log.end, life.log.batched());
    life.crash(&mut random);
    life.commit(life.log.batched());
    for segment in 1..=4 {
        assert_eq!(life.log.drainable(), Some(CpId::new(segment)));
        life.log.free(CpId::new(segment));
    }
    assert_eq!(life.log.drainable(), None);
}

/// REC-4.
#[test]
fn a_lap_that_the_superblock_excludes_is_refused() {
    let mut random = Random(4);
    let mut life = Life::new(3, 64);
    let old = life.facts;
    while life.log.batched() < Lsn::new(400) {
        life.fill(&mut random, 1);
        life.drain(1);
    }
    assert!(life.facts.cp > CpId::new(4));
    assert!(try_recover(life.geometry, life.facts, &life.device.durable, &[]).is_ok());
    let refused = try_recover(life.geometry, old, &life.device.durable, &[]).expect_err("too old");
    assert!(matches!(refused, ScanRefused::Overwritten { .. }), "{refused}");
    // A stale lap, on the other hand, is what slots usually hold.
    let (log, _) = recover(life.geometry, life.facts, &life.device.durable);
    assert!(log.segments.len() < 3);
}

#[test]
fn recovered_entries_wait_for_the_peer_before_they_can_be_read() {
    let mut random = Random(8);
    let mut life = Life::new(5, 64);
    life.fill(&mut random, 3);
    let committed = life.log.committed();
    while life.log.batched().get() < committed.get() + 60 {
        life.write(&mut random, 4);
        life.close();
        life.flush();
    }
    let end = life.log.batched();
    let (log, memory) = recover(life.geometry, life.facts, &life.device.durable);
    assert_eq!(log.end, end);
    // Fewer may be under way now than were then.
    let config = SourceLogConfig {
        entries_max: 4,
        opened: false,
        epoch: Epoch::new(2),
        ..source_config(life.geometry, life.facts)
    };
    let mut again = SourceLog::recovered(config, &log, &memory);
    assert!(again.committed() < end);
    let tail: Vec<Entry> = life.written[again.committed().get() as usize..]
        .iter()
        .map(|written| written.entry)
        .collect();
    for entry in &tail {
        assert!(again.overlaps_uncommitted_recovered(entry.volume, entry.first, Sectors::new(1)));
    }
    let beside = (0..VOLUME_SECTORS).map(Sector::new).find(|sector| {
        tail.iter().all(|entry| *sector < entry.first || *sector >= entry.first + entry.sectors)
    });
    let beside = beside.expect("a sector that nobody wrote");
    assert!(!again.overlaps_uncommitted_recovered(VolumeId::new(0), beside, Sectors::new(1)));
    let reserve = |log: &mut SourceLog| {
        log.reserve(NOW, EntryKind::Write, VolumeId::new(0), Sector::new(0), Sectors::new(8))
    };
    assert_eq!(reserve(&mut again), Err(ReserveRefused::NotOpen));
    assert_eq!(again.pop_committed(), None, "LOG-1: the peer has said nothing");
    again.open_log();
    let placement = reserve(&mut again).expect("recovered entries leave clients their room");
    assert!(log.segments.iter().all(|found| found.segment < placement.segment), "LOG-6");
    again.abandon(NOW, placement);
    again.commit_alone(true);
    let popped: Vec<_> = core::iter::from_fn(|| again.pop_committed()).collect();
    assert_eq!(popped.len(), tail.len());
    assert!(popped.iter().all(|committed| committed.token == TOKEN_NONE));
    assert!(!again.has_uncommitted_recovered());
    assert_eq!(again.reserved(), 0);
}

/// Copies what a batch is made of from one memory to another; gives the blocks.
fn copy_batch(from: &PlainMemory, to: &mut PlainMemory, geometry: LogGeometry, batch: ClosedBatch) {
    let span = geometry.span(batch.segment, batch.block, 1);
    let bytes = from.0[span.at as usize..span.end() as usize].to_vec();
    let parsed = Batch::parse(&bytes).expect("a whole batch");
    let blocks = pages_of(&parsed).map(|(page, _, _)| page);
    for block in blocks.chain([batch.block, LogBlock::new(0)]) {
        let span = geometry.span(batch.segment, block, 1);
        let range = span.at as usize..span.end() as usize;
        to.0[range.clone()].copy_from_slice(&from.0[range]);
    }
}

/// LOG-6: a source whose device lost its tail takes it back from the peer, batch by batch, and then has the same log.
#[test]
fn a_tail_that_the_peer_holds_is_taken_back_only_as_it_was() {
    let mut random = Random(11);
    let mut life = Life::new(4, 64);
    life.fill(&mut random, 3);
    let kept = life.log.batched();
    let short = life.device.clone();
    life.fill(&mut random, 2);
    assert!(life.log.seal(NOW));
    assert_eq!(life.log.seal_for_cp(NOW), Some(CpId::new(2)));
    life.fill(&mut random, 3);
    let (whole, there) = recover(life.geometry, life.facts, &life.device.durable);
    let (log, mut memory) = recover(life.geometry, life.facts, &short.durable);
    assert_eq!(log.end, kept);
    let config = SourceLogConfig {
        epoch: Epoch::new(2),
        opened: false,
        durable_there: whole.end,
        ..source_config(life.geometry, life.facts)
    };
    let mut again = SourceLog::recovered(config, &log, &memory);
    let volumes = [VOLUME_SECTORS; 2];
    for batch in life.batches[3..].iter().copied() {
        let refused = again.adopt_batch(&memory, batch.segment, &volumes);
        assert!(matches!(refused, Err(AdoptRefused::Fault(_))), "nothing is there: {refused:?}");
        copy_batch(&there, &mut memory, life.geometry, batch);
        let span = life.geometry.span(batch.segment, batch.block, 1);
        memory.0[span.at as usize + 70] ^= 1;
        assert_eq!(
            again.adopt_batch(&memory, batch.segment, &volumes),
            Err(MirrorFault::Structure.into())
        );
        memory.0[span.at as usize + 70] ^= 1;
        assert_eq!(
            again.adopt_batch(&memory, batch.segment, &[1; 2]),
            Err(MirrorFault::Structure.into()),
            "the volumes are smaller here"
        );
        assert_eq!(again.adopt_batch(&memory, batch.segment, &volumes), Ok(batch));
        again.durable_here(batch.last);
    }
    assert_eq!(again.batched(), whole.end);
    for found in &whole.segments {
        assert_eq!(again.held(found.segment), life.log.held(found.segment));
    }
    while again.pop_committed().is_some() {}
    assert_eq!(again.committed(), whole.end);
    again.open_log();
    for found in &whole.segments {
        assert_eq!(again.drainable(), Some(found.segment));
        assert_eq!(again.closed_segment(found.segment), (found.last_lsn, found.batches));
        again.free(found.segment);
    }
    let newest = whole.segments.last().expect("three segments").segment;
    let placement = again
        .reserve(NOW, EntryKind::Write, VolumeId::new(0), Sector::new(0), Sectors::new(8))
        .expect("it is open");
    assert_eq!(placement.segment, newest.next());
}

/// MIR-5: a mirror that is recovered goes on exactly as the one before the crash would have.
#[test]
fn a_recovered_mirror_is_the_one_before_the_crash() {
    let mut random = Random(21);
    let mut life = Life::new(4, 64);
    life.fill(&mut random, 9);
    life.log.seal(NOW);
    life.log.seal_for_cp(NOW);
    life.fill(&mut random, 5);
    let (log, memory) = recover(life.geometry, life.facts, &life.device.durable);
    let volumes = vec![VOLUME_SECTORS; 2];
    let mut mirror = Mirror::recovered(life.geometry, PAIR, &log, &memory, volumes);
    let end = life.log.batched();
    assert_eq!((mirror.ready(), mirror.durable()), (end, end));
    assert_eq!(mirror.next_ready(&memory), Ok(None));
    for found in &log.segments {
        if found.batches == 0 {
            assert_eq!(mirror.held(found.segment), None);
            continue;
        }
        let held = mirror.held(found.segment).expect("it has batches");
        assert_eq!(Some(held), life.log.held(found.segment));
        assert!(mirror.holds(found.segment, found.batches, found.last_lsn));
        assert_eq!(
            mirror.last_lsn_of(&memory, found.segment, 0),
            Some(Lsn::new(found.first_lsn.get() - 1))
        );
        assert_eq!(mirror.last_lsn_of(&memory, found.segment, found.batches), Some(found.last_lsn));
        assert_eq!(mirror.last_lsn_of(&memory, found.segment, found.batches + 1), None);
    }
    // All of it comes again: everything is there.
    for batch in &life.batches {
        let span = life.geometry.span(batch.segment, batch.block, 1);
        let bytes = memory.0[span.at as usize..span.end() as usize].to_vec();
        let parsed = Batch::parse(&bytes).expect("a whole batch");
        let duplicate = Ok(crate::log::Placed::Duplicate);
        let place = batch.block.get() * 4096;
        assert_eq!(mirror.place(batch.segment, place, parsed.used_bytes(), true), duplicate);
        assert_eq!(mirror.place(batch.segment, 0, 64, true), duplicate);
        for (page, part, crc) in pages_of(&parsed) {
            let place = page.get() * 4096 + u32::from(part.first) * 512;
            let length = u32::from(part.count) * 512;
            assert_eq!(mirror.place(batch.segment, place, length, false), duplicate);
            assert_eq!(mirror.pages.part(batch.segment, page), part);
            assert_eq!(mirror.pages.crc(batch.segment, page), crc);
        }
    }
    // Cut back to each batch, from the newest to none, and filled again from what was cut off.
    let ends: Vec<Lsn> = life.batches.iter().map(|batch| batch.last).collect();
    for (n, cut) in ends.iter().enumerate().rev() {
        mirror.truncate(&memory, *cut);
        assert_eq!((mirror.ready(), mirror.durable()), (*cut, *cut));
        if let Some(next) = life.batches.get(n + 1) {
            let place = next.block.get() * 4096;
            let placed = mirror.place(next.segment, place, 512, true);
            assert!(matches!(placed, Ok(crate::log::Placed::New(_))), "{placed:?}");
        }
    }
    mirror.truncate(&memory, Lsn::new(0));
    assert_eq!(mirror.held(CpId::new(1)), None);
    assert_eq!(mirror.segments_in_use(), 0);
    for batch in &life.batches {
        deliver(&mut mirror, &memory, life.geometry, batch);
        let ready = mirror.next_ready(&memory).expect("an honest source").expect("it is whole");
        assert_eq!(ready, *batch);
        mirror.set_durable(ready.last);
    }
    // The source's CP counts here, too.
    mirror.adopt(CpId::new(7), Lsn::new(900));
    assert_eq!((mirror.ready(), mirror.durable()), (Lsn::new(900), Lsn::new(900)));
    assert_eq!(mirror.segment_limit(), CpId::new(11));
    assert_eq!(
        mirror.place(CpId::new(7), 4096, 512, false),
        Err(crate::log::PlaceRefused::Drained)
    );
}

/// The pieces of a batch come; their bytes are in memory already.
fn deliver(mirror: &mut Mirror, memory: &PlainMemory, geometry: LogGeometry, batch: &ClosedBatch) {
    let span = geometry.span(batch.segment, batch.block, 1);
    let bytes = memory.0[span.at as usize..span.end() as usize].to_vec();
    let parsed = Batch::parse(&bytes).expect("a whole batch");
    let mut come = |place: u32, length: u32, structure: bool, crc: u32| {
        if let Ok(crate::log::Placed::New(_)) =
            mirror.place(batch.segment, place, length, structure)
        {
            mirror.arrived(batch.segment, place, length, structure, crc);
        }
    };
    if batch.with_header {
        come(0, 64, true, 0);
    }
    come(batch.block.get() * 4096, parsed.used_bytes(), true, 0);
    for (page, part, crc) in pages_of(&parsed) {
        let place = page.get() * 4096 + u32::from(part.first) * 512;
        come(place, u32::from(part.count) * 512, false, crc);
    }
}

#[test]
#[should_panic(expected = "MIR-5")]
fn a_mirror_is_cut_back_only_at_a_batch() {
    let mut random = Random(21);
    let mut life = Life::new(4, 64);
    for _ in 0..4 {
        assert!(life.write(&mut random, 8));
    }
    life.close();
    life.flush();
    let (log, memory) = recover(life.geometry, life.facts, &life.device.durable);
    let volumes = vec![VOLUME_SECTORS; 2];
    let mut mirror = Mirror::recovered(life.geometry, PAIR, &log, &memory, volumes);
    mirror.truncate(&memory, Lsn::new(2));
}

#[path = "recover_mirror_tests.rs"]
mod mirrors;
