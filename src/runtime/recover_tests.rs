//! Recovery over a disk in memory that is slow, full, out of order and partly unreadable.

use super::*;
use crate::layout::LayoutConfig;
use crate::superblock::blank;
use ibid_driver::DiskBusy;
use ibid_engine::log::{LogGeometry, ScanRefused, SourceLog, SourceLogConfig};
use ibid_units::{CpId, Epoch, LogBlock, Lsn, Nanos, Sector, Sectors, VolumeId};
use ibid_wire::disk::{
    Batch, DiskFormatError, EntryKind, SUPERBLOCK_BYTES, SegmentHeader, VolumeIdentity,
};

const SEGMENTS: u32 = 3;
const BLOCKS: u32 = 300;
const MAP_PAGES: u32 = 37;
const PAIR: [u8; 16] = [9; 16];

/// The log device: what can be read, what is durable, and everything that was done to it.
struct TestDisk {
    arena: Arc<Arena>,
    live: Vec<u8>,
    durable: Vec<u8>,
    flying: Vec<(DiskOp, u64)>,
    depth: usize,
    turn: u64,
    /// Device blocks that can't be read.
    bad: Vec<u64>,
    /// Those that can't be read the first time.
    bad_once: Vec<u64>,
    done: Vec<DiskOp>,
}

impl Disk for TestDisk {
    fn submit(&mut self, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        if self.flying.len() >= self.depth {
            return Err(DiskBusy);
        }
        self.flying.push((op, token));
        Ok(())
    }

    fn poll(&mut self, sink: &mut dyn FnMut(u64, Result<(), DiskError>)) -> usize {
        self.turn += 1;
        if self.flying.is_empty() || self.turn.is_multiple_of(3) {
            return 0;
        }
        let at = (self.turn * 7) as usize % self.flying.len();
        let (op, token) = self.flying.swap_remove(at);
        self.done.push(op);
        let mut result = Ok(());
        match op {
            DiskOp::Read { at, span, .. } => {
                let blocks = at / 4096..(at + u64::from(span.len)) / 4096;
                let before = self.bad_once.len();
                self.bad_once.retain(|bad| !blocks.contains(bad));
                let passes = self.bad_once.len() < before;
                if passes || self.bad.iter().any(|bad| blocks.contains(bad)) {
                    result = Err(DiskError(5));
                } else {
                    self.arena.copy_in(span.at, &self.live[at as usize..][..span.len as usize]);
                }
            }
            DiskOp::Write { at, span, .. } => {
                let bytes = self.arena.bytes(span).to_vec();
                self.live[at as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            DiskOp::Zero { at, len, .. } => self.live[at as usize..][..len as usize].fill(0),
            DiskOp::Flush { .. } => {
                assert!(self.flying.is_empty(), "what is under way is not flushed");
                self.durable.copy_from_slice(&self.live);
            }
            DiskOp::Deallocate { .. } => panic!("recovery gives nothing back"),
        }
        sink(token, result);
        1
    }

    fn in_flight(&self) -> usize {
        self.flying.len()
    }
}

fn layout() -> Layout {
    Layout::new(LayoutConfig {
        segments: SEGMENTS,
        segment_blocks: BLOCKS,
        read_blocks: 0,
        staging_blocks: 0,
        catch_up_blocks: 3,
        answer_blocks: 5,
        compare_blocks: 0,
    })
}

fn device_bytes() -> usize {
    (layout().log.map_at() + u64::from(MAP_PAGES) * BLOCK_BYTES) as usize
}

fn expected(source: bool) -> Superblock {
    blank(PAIR, SEGMENTS, BLOCKS, source, &[VolumeIdentity { uuid: [1; 16], sectors: 4096 }])
}

fn put(device: &mut [u8], superblock: &Superblock) {
    superblock.emit(&mut device[superblock.device_at() as usize..][..SUPERBLOCK_BYTES]);
}

type Found = Result<(Recovered<TestDisk>, Vec<(u32, Vec<u8>)>), StartRefused>;

fn recover(device: &[u8], bad: &[u64], expected: Superblock) -> Found {
    recover_in_time(device, bad, &[], expected)
}

fn recover_in_time(device: &[u8], bad: &[u64], once: &[u64], expected: Superblock) -> Found {
    let arena = Arc::new(Arena::new(layout().bytes() as usize, false).expect("memory").0);
    let disk = TestDisk {
        arena: arena.clone(),
        live: device.to_vec(),
        durable: Vec::new(),
        flying: Vec::new(),
        depth: 5,
        turn: 0,
        bad: bad.to_vec(),
        bad_once: once.to_vec(),
        done: Vec::new(),
    };
    let disk = TestDisk { durable: device.to_vec(), ..disk };
    let mut pages = Vec::new();
    let mut unrecovered = Unrecovered::new(disk, layout(), arena, expected, MAP_PAGES);
    for _ in 0..100_000 {
        let turn = unrecovered.turn(&mut |page, bytes| pages.push((page, bytes.to_vec())))?;
        if turn == Turn::Done {
            let recovered = unrecovered.finish();
            assert!(
                matches!(recovered.disk.done.last(), Some(DiskOp::Flush { .. })),
                "RCV-1: the flush is the last thing done"
            );
            assert_eq!(recovered.disk.in_flight(), 0);
            return Ok((recovered, pages));
        }
    }
    panic!("recovery does not end");
}

/// A device with a log of `entries` writes of a block each, a batch each, all acknowledged but the last.
fn with_log(entries: u64, superblock: &Superblock) -> Vec<u8> {
    let mut device = vec![0; device_bytes()];
    put(&mut device, superblock);
    let arena = Arc::new(Arena::new(layout().bytes() as usize, false).expect("memory").0);
    let mut memory = ArenaMemory(arena.clone());
    let geometry: LogGeometry = layout().log;
    let mut log = SourceLog::new(SourceLogConfig {
        geometry,
        pair: PAIR,
        epoch: superblock.epoch,
        cp: superblock.cp,
        last_lsn: superblock.last_lsn,
        entries_max: 1000,
        batch_bytes_max: 1200,
        late_after: Nanos::ZERO,
        opened: true,
        durable_there: superblock.last_lsn,
    });
    let now = Nanos::ZERO;
    for n in 0..entries {
        let (first, sectors) = (Sector::new(8 * (n % 500)), Sectors::new(8));
        let volume = VolumeId::new(0);
        let placement =
            log.reserve(now, EntryKind::Write, volume, first, sectors).expect("there is room");
        let span = geometry.span(placement.segment, placement.entry.page, 1);
        arena.with_mut(span, |bytes| bytes.fill(n as u8));
        log.set_page(&placement, 0, arena.crc32c(span));
        log.complete(now, placement, n);
        let batch = log.close_batch(&mut memory).expect("an entry");
        for block in [LogBlock::new(0), batch.block, placement.entry.page] {
            let at = geometry.device_at(batch.segment, block) as usize;
            let bytes = arena.bytes(geometry.span(batch.segment, block, 1)).to_vec();
            device[at..at + 4096].copy_from_slice(&bytes);
        }
        log.durable_here(batch.last);
        assert!(log.durable_there(batch.last));
        while log.pop_committed().is_some() {}
    }
    device
}

/// RCV-2.
#[test]
fn a_blank_device_loses_its_former_log_before_it_gets_its_superblock() {
    let expected = expected(true);
    let mut device = with_log(20, &Superblock { epoch: Epoch::new(1), ..expected });
    device[..SEGMENTS_AT as usize].fill(0);
    let (found, pages) = recover(&device, &[], expected).expect("it is blank");
    assert!(found.report.blank);
    assert_eq!(found.superblock, expected);
    assert_eq!(found.log.end, Lsn::new(0));
    assert!(pages.is_empty(), "a blank device has no map");
    assert!(found.disk.durable[SEGMENTS_AT as usize..].iter().all(|byte| *byte == 0));
    let order: Vec<&str> = found.disk.done[2..]
        .iter()
        .map(|op| match op {
            DiskOp::Zero { .. } => "zero",
            DiskOp::Write { .. } => "write",
            DiskOp::Flush { .. } => "flush",
            DiskOp::Read { .. } | DiskOp::Deallocate { .. } => "other",
        })
        .collect();
    assert_eq!(order, ["zero", "flush", "write", "flush"]);
    // The next start finds that superblock and no log.
    let (again, _) = recover(&found.disk.durable, &[], expected).expect("it is known now");
    assert!(!again.report.blank);
    assert_eq!((again.report.superblock_copies_good, again.report.superblock_copies_bad), (1, 0));
    assert_eq!(again.log.segments, []);
}

#[test]
fn log_and_map_are_found_whatever_the_device_takes_at_once() {
    let superblock = Superblock {
        sequence: 4,
        epoch: Epoch::new(3),
        cp: CpId::new(7),
        last_lsn: Lsn::new(50),
        ..expected(true)
    };
    let mut device = with_log(400, &superblock);
    put(&mut device, &Superblock { sequence: 3, cp: CpId::new(6), ..superblock });
    let map_at = layout().log.map_at() as usize;
    for page in 0..MAP_PAGES as usize {
        device[map_at + page * 4096] = page as u8 + 1;
    }
    let (found, pages) = recover(&device, &[], superblock).expect("all is well");
    assert_eq!(found.superblock, superblock);
    assert_eq!((found.log.end, found.log.committed), (Lsn::new(450), Lsn::new(449)));
    let report = found.report;
    assert_eq!((report.superblock_copies_good, report.superblock_copies_bad), (2, 0));
    assert_eq!((report.entries, report.segments), (400, 3));
    assert!(!report.torn);
    assert!(!report.damaged);
    let numbers: Vec<u32> = pages.iter().map(|(page, _)| *page).collect();
    assert_eq!(numbers, (0..MAP_PAGES).collect::<Vec<u32>>());
    assert!(pages.iter().all(|(page, bytes)| bytes[0] == *page as u8 + 1 && bytes.len() == 4096));
    // The arena holds the pages where the log has them.
    let first = found.log.segments[0];
    let bytes = found.disk.arena.bytes(layout().log.span(first.segment, LogBlock::new(5), 1));
    assert!(bytes.iter().all(|byte| *byte == 4));
    drop(bytes);

    // In sync the map says nothing; a destination has none.
    for (state, role) in [(SyncState::InSync, 1), (SyncState::OutOfSync, 0)] {
        let other = Superblock { state, role, sequence: 6, ..superblock };
        put(&mut device, &other);
        let (found, pages) = recover(&device, &[], other).expect("all is well");
        assert_eq!(found.superblock, other);
        assert!(pages.is_empty());
    }
}

#[test]
fn blocks_that_can_not_be_read_cost_what_they_hold_and_no_more() {
    let superblock = Superblock { sequence: 4, epoch: Epoch::new(3), ..expected(true) };
    let mut device = with_log(100, &superblock);
    put(&mut device, &Superblock { sequence: 3, ..superblock });
    let map_at = layout().log.map_at() as usize;
    device[map_at..].fill(0xAB);
    let log = layout().log;
    let page = log.device_at(CpId::new(1), LogBlock::new(31)) / 4096;
    let map = map_at as u64 / 4096;
    let bad = [SUPERBLOCK_AT[1] / 4096, page, map + 3, map + 4, map + 36];
    let (found, pages) = recover(&device, &bad, superblock).expect("one copy is enough");
    let report = found.report;
    assert_eq!((report.superblock_copies_good, report.superblock_copies_bad), (1, 1));
    assert_eq!((report.blocks_unreadable, report.map_pages_unreadable), (1, 3));
    assert_eq!(found.log.end, Lsn::new(30));
    assert!(report.damaged);
    assert_eq!(pages.len(), MAP_PAGES as usize);
    // The first page is all zeroes, which is what memory shows in place of what can't be read: it does not check all the same.
    let zeroes = log.device_at(CpId::new(1), LogBlock::new(1)) / 4096;
    let (found, _) = recover(&device, &[zeroes], superblock).expect("it starts");
    assert_eq!((found.log.end, found.report.blocks_unreadable), (Lsn::new(0), 1));
    for (page, bytes) in pages {
        let unread = [3, 4, 36].contains(&page);
        assert!(bytes.iter().all(|byte| *byte == if unread { 0 } else { 0xAB }), "page {page}");
    }
}

#[test]
fn a_torn_superblock_leaves_the_one_before_it() {
    let older = Superblock { sequence: 3, epoch: Epoch::new(1), ..expected(true) };
    let newer = Superblock { sequence: 4, epoch: Epoch::new(2), agreed: Lsn::new(20), ..older };
    let mut device = with_log(20, &older);
    put(&mut device, &newer);
    let (found, _) = recover(&device, &[], older).expect("both are there");
    assert_eq!((found.superblock, found.log.end), (newer, Lsn::new(20)));
    let whole = device.clone();
    device[SUPERBLOCK_AT[0] as usize + 512..][..512].fill(0x55);
    let (found, _) = recover(&device, &[], older).expect("one is there");
    assert_eq!((found.superblock, found.log.end), (older, Lsn::new(20)));
    assert_eq!((found.report.superblock_copies_good, found.report.superblock_copies_bad), (1, 1));
    // Gone altogether is bad as well: only the very first stands alone.
    device[SUPERBLOCK_AT[0] as usize..][..4096].fill(0);
    let (found, _) = recover(&device, &[], older).expect("one is there");
    assert_eq!(found.report.superblock_copies_bad, 1);
    // Each goes to both places: the newest counts wherever it lies.
    let mut second = whole.clone();
    second.copy_within(0..4096, SUPERBLOCK_AT[1] as usize);
    second[..4096].fill(0x55);
    let (found, _) = recover(&second, &[], older).expect("one is there");
    // Counted on by one: the next superblock has to begin in place 0, over the copy that is bad.
    assert_eq!(
        (found.superblock, found.log.end),
        (Superblock { sequence: 5, ..newer }, Lsn::new(20))
    );
    // Neither.
    device[SUPERBLOCK_AT[1] as usize] ^= 1;
    assert!(matches!(recover(&device, &[], older).map(drop), Err(StartRefused::Foreign(_))));
    let both = SUPERBLOCK_AT.map(|at| at / 4096);
    assert!(matches!(recover(&whole, &both, older).map(drop), Err(StartRefused::Io(_))));
    // An error that passes costs nothing: whichever place the newest is in, it is read again.
    for once in [&both[..1], &both[1..], &both[..]] {
        let (found, _) = recover_in_time(&whole, &[], once, older).expect("both are there");
        assert_eq!((found.superblock, found.report.superblock_copies_bad), (newer, 0), "{once:?}");
    }
    let (found, _) = recover(&whole, &both[..1], older).expect("one is there");
    assert_eq!((found.superblock, found.report.superblock_copies_bad), (older, 1));
}

/// The log is newer than the superblock: with a copy lost that is how it comes, and with both whole it can't be.
#[test]
fn a_log_that_is_newer_than_its_superblock_is_refused_unless_a_copy_is_lost() {
    let older = Superblock { sequence: 3, epoch: Epoch::new(1), ..expected(true) };
    let written = Superblock { sequence: 5, epoch: Epoch::new(2), ..older };
    let mut device = with_log(20, &written);
    put(&mut device, &older);
    let (found, _) = recover(&device, &[], older).expect("the newer one is gone");
    assert_eq!((found.superblock.epoch, found.log.epoch), (Epoch::new(1), Epoch::new(2)));
    assert_eq!(found.report.superblock_copies_bad, 1);
    put(&mut device, &Superblock { sequence: 2, ..older });
    let (found, epoch) = (Epoch::new(2), Epoch::new(1));
    let refused = recover(&device, &[], older).map(drop).expect_err("an old superblock");
    assert!(
        matches!(refused, StartRefused::Epoch { found: f, epoch: e } if (f, e) == (found, epoch)),
        "{refused}"
    );
    // A slot that the older superblock still needs is taken by the next lap.
    let at = layout().log.device_at(CpId::new(1), LogBlock::new(0)) as usize;
    let header = SegmentHeader::parse(&device[at..]).expect("a header");
    SegmentHeader { segment: CpId::new(4), ..header }.emit(&mut device[at..at + 4096]);
    let refused = recover(&device, &[], older).map(drop).expect_err("REC-4");
    assert!(
        matches!(refused, StartRefused::Log(ScanRefused::Overwritten { found, .. }) if found == CpId::new(4)),
        "{refused}"
    );
}

#[test]
fn entries_that_were_found_durable_once_and_are_gone_are_damage() {
    let superblock =
        Superblock { sequence: 4, epoch: Epoch::new(3), agreed: Lsn::new(20), ..expected(true) };
    let mut device = with_log(20, &Superblock { epoch: Epoch::new(2), ..superblock });
    put(&mut device, &superblock);
    let (found, _) = recover(&device, &[], superblock).expect("all is well");
    assert!(!found.report.damaged);
    let newest = layout().log.batch_block(19);
    let at = layout().log.device_at(CpId::new(1), newest) as usize;
    assert!(Batch::parse(&device[at..at + 4096]).is_ok());
    device[at + 80] ^= 1;
    let (found, _) = recover(&device, &[], superblock).expect("it starts");
    assert!(!found.log.is_damaged(), "no batch tells of it");
    assert!(found.report.damaged, "the superblock does");
}

#[test]
fn what_is_not_this_nodes_is_refused_by_name() {
    let mine = Superblock { sequence: 2, ..expected(true) };
    let refused = |change: &dyn Fn(&mut Superblock)| {
        let mut other = mine;
        change(&mut other);
        let mut device = vec![0; device_bytes()];
        put(&mut device, &other);
        recover(&device, &[], mine).map(drop).expect_err("it is another's")
    };
    assert!(matches!(refused(&|other| other.pair = [1; 16]), StartRefused::Pair));
    assert!(matches!(refused(&|other| other.role = 0), StartRefused::Role("destination")));
    assert!(matches!(refused(&|other| other.segments = 9), StartRefused::Geometry(9, BLOCKS)));
    assert!(matches!(refused(&|other| other.volumes[0].sectors = 8), StartRefused::Volumes));
    // Another version in either place refuses both.
    let mut device = vec![0; device_bytes()];
    put(&mut device, &mine);
    put(&mut device, &Superblock { sequence: 1, ..mine });
    let copy = &mut device[SUPERBLOCK_AT[1] as usize..][..SUPERBLOCK_BYTES];
    copy[8] = 1;
    copy[12..16].fill(0);
    let crc = ibid_wire::crc32c(copy);
    copy[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(
        recover(&device, &[], mine).map(drop),
        Err(StartRefused::Version(DiskFormatError::Version(1)))
    ));
}
