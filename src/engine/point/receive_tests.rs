//! Lists as the link brings them: in any order, more than once, damaged, of another history, too long.

use super::*;
use alloc::vec::Vec;
use ibid_units::{LogBlock, Lsn, Sector, Sectors, VolumeId};
use ibid_wire::peer::{Record, RecordKind};

const BLOCKS: u32 = 512;
const CATCH_UP: u32 = 64;
const BEFORE: [u8; 32] = [7; 32];

/// A list of `runs` records behind that of its volume.
fn records(runs: u32) -> Vec<Record> {
    let run = |n: u32| Record {
        kind: if n % 5 == 4 {
            RecordKind::Zeroes
        } else {
            RecordKind::Reference(LogBlock::new(1 + n))
        },
        first: Sector::new(u64::from(n) * 24),
        sectors: Sectors::new(8),
        digest: if n % 5 == 4 { 0 } else { n ^ 0xABCD },
    };
    core::iter::once(Record::volume(VolumeId::new(0))).chain((0..runs).map(run)).collect()
}

/// The bytes of a list, and what announces it as CP `cp` after [`BEFORE`].
fn announce(cp: u64, records: &[Record]) -> (CpOpen, Vec<u8>) {
    let bytes: Vec<u8> = records.iter().flat_map(Record::emit).collect();
    let cp = CpId::new(cp);
    let mut chain = ChainDigest::new(&BEFORE, cp);
    records.iter().for_each(|record| chain.push(record));
    let open = CpOpen {
        cp,
        last_lsn: Lsn::new(9),
        records: records.len() as u32,
        batches: 1,
        list_crc: ibid_wire::crc32c(&bytes),
        full: false,
        in_sync: false,
        chain_before: BEFORE,
        chain_after: chain.finish(),
    };
    (open, bytes)
}

struct Receiving {
    lists: ListReceiver,
    list: CpList,
}

impl Receiving {
    fn new() -> Self {
        Self { lists: ListReceiver::new(BLOCKS, CATCH_UP), list: CpList::new(BLOCKS, CATCH_UP) }
    }
    /// Announces after CP 3.
    fn announced(&mut self, open: &CpOpen) -> bool {
        self.lists.announced(open, CpId::new(3), &BEFORE, &mut self.list)
    }
    fn stretch(&mut self, cp: u64, place: usize, bytes: &[u8]) -> bool {
        self.lists.stretch(CpId::new(cp), place as u32, bytes, &mut self.list)
    }
}

#[test]
fn stretches_in_any_order_and_more_than_once_make_the_list() {
    let (open, bytes) = announce(4, &records(100));
    for seed in 1..50u64 {
        let mut random = seed;
        let mut below = |bound: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        let mut at = Receiving::new();
        assert!(!at.stretch(4, 0, &bytes[..RECORD_BYTES]), "nothing is announced");
        assert!(at.announced(&open));
        let mut missing: Vec<usize> = (0..101).collect();
        while !missing.is_empty() {
            assert_eq!(
                at.lists.state(),
                ListState::Collecting,
                "seed {seed}: {} are missing",
                missing.len()
            );
            // Stretches overlap as those of two different cuttings do.
            let place = missing[below(missing.len())];
            let count = (1 + below(30)).min(101 - place);
            assert!(at.stretch(
                4,
                place,
                &bytes[place * RECORD_BYTES..(place + count) * RECORD_BYTES]
            ));
            missing.retain(|n| !(place..place + count).contains(n));
            assert!(at.announced(&open), "an announcement that is repeated begins nothing anew");
        }
        assert_eq!(at.lists.state(), ListState::Whole);
        assert_eq!(at.list.bytes(), bytes);
        // What comes late changes nothing any more.
        assert!(at.stretch(4, 5, &[0; RECORD_BYTES]));
        assert_eq!((at.lists.state(), at.list.bytes()), (ListState::Whole, &bytes[..]));
    }
}

#[test]
fn an_empty_list_is_whole_when_it_is_announced() {
    let (open, _) = announce(4, &[]);
    let mut at = Receiving::new();
    assert!(at.announced(&open));
    assert_eq!(at.lists.state(), ListState::Whole);
    let wrong = CpOpen { chain_after: [0; 32], ..open };
    let mut at = Receiving::new();
    assert!(at.announced(&wrong));
    assert_eq!(at.lists.state(), ListState::Wrong);
}

#[test]
fn a_list_that_is_not_the_one_announced_is_wrong() {
    let (open, bytes) = announce(4, &records(20));
    let outcome = |open: &CpOpen, bytes: &[u8]| {
        let mut at = Receiving::new();
        assert!(at.announced(open));
        assert!(at.stretch(4, 0, bytes));
        at.lists.state()
    };
    assert_eq!(outcome(&open, &bytes), ListState::Whole);
    assert_eq!(
        outcome(&CpOpen { list_crc: !open.list_crc, ..open }, &bytes),
        ListState::Wrong,
        "its sum"
    );
    assert_eq!(
        outcome(&CpOpen { chain_after: [9; 32], ..open }, &bytes),
        ListState::Wrong,
        "its chain digest"
    );
    // Any bit, also where the sum was made to fit: the chain digest finds it, but for a page number, which is no part of history.
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(outcome(&open, &other), ListState::Wrong, "bit {bit}");
        let refitted = CpOpen { list_crc: ibid_wire::crc32c(&other), ..open };
        let record = |from: &[u8]| {
            let at = bit / 8 / RECORD_BYTES * RECORD_BYTES;
            let raw: [u8; RECORD_BYTES] = from[at..][..RECORD_BYTES].try_into().expect("a record");
            Record::parse(&raw).map(|record| record.canonical())
        };
        let expected =
            if record(&other) == record(&bytes) { ListState::Whole } else { ListState::Wrong };
        assert_eq!(outcome(&refitted, &other), expected, "bit {bit}");
    }
}

#[test]
fn only_the_cp_that_follows_in_this_history_is_announced() {
    let list = records(5);
    let (open, bytes) = announce(4, &list);
    let mut at = Receiving::new();
    assert!(at.announced(&announce(3, &list).0), "it is done: taken as a duplicate");
    assert_eq!((at.lists.state(), at.lists.open()), (ListState::Idle, None));
    assert!(!at.announced(&announce(5, &list).0), "one is left out");
    assert!(!at.announced(&CpOpen { chain_before: [8; 32], ..open }), "another history");
    assert_eq!((at.lists.state(), at.lists.open()), (ListState::Idle, None));
    assert!(at.announced(&open));
    assert!(
        !at.announced(&CpOpen { last_lsn: Lsn::new(10), ..open }),
        "the same CP, announced otherwise"
    );
    assert_eq!(at.lists.open(), Some(&open));
    // Stretches of another CP, past the end, or of no whole records are not taken.
    assert!(!at.stretch(5, 0, &bytes));
    assert!(!at.stretch(4, 1, &bytes));
    assert!(!at.stretch(4, u32::MAX as usize, &bytes));
    assert!(!at.stretch(4, 0, &bytes[..RECORD_BYTES + 1]));
    assert_eq!(at.lists.state(), ListState::Collecting);
    assert!(at.stretch(4, 0, &bytes));
    assert_eq!(at.lists.state(), ListState::Whole);
}

#[test]
fn a_list_longer_than_a_segment_can_need_is_refused() {
    let most = super::super::records_max(BLOCKS, CATCH_UP) as u32;
    let (open, _) = announce(4, &[]);
    for records in [most + 1, u32::MAX] {
        let mut at = Receiving::new();
        assert!(!at.announced(&CpOpen { records, ..open }));
        assert_eq!((at.lists.state(), at.lists.open()), (ListState::Idle, None));
    }
    let mut at = Receiving::new();
    assert!(at.announced(&CpOpen { records: most, ..open }));
    assert_eq!(at.lists.state(), ListState::Collecting);
}

#[test]
fn after_a_reset_the_next_list_begins_empty() {
    let (open, bytes) = announce(4, &records(10));
    let mut at = Receiving::new();
    assert!(at.announced(&open));
    assert!(at.stretch(4, 0, &bytes[..5 * RECORD_BYTES]));
    at.lists.reset();
    assert_eq!((at.lists.state(), at.lists.open()), (ListState::Idle, None));
    assert!(!at.stretch(4, 5, &bytes[5 * RECORD_BYTES..]));
    assert!(at.announced(&open));
    assert!(at.stretch(4, 5, &bytes[5 * RECORD_BYTES..]));
    assert_eq!(
        at.lists.state(),
        ListState::Collecting,
        "what came before the reset does not count"
    );
    assert!(at.stretch(4, 0, &bytes[..5 * RECORD_BYTES]));
    assert_eq!(at.lists.state(), ListState::Whole);
}
