//! The whole table of a meeting, spelt out: every combination of what the two standings can say about volumes, and about logs.
//! C the log continues, F the source fetches, S it salvages, R the destination rolls back, A it adopts and is caught up; refused: B blank, H history, L lost.

use super::{BatchEnd, Destination, LogPlan, Meeting, OwnLog, meet};
use alloc::string::String;
use ibid_units::{CpId, Epoch, Lsn};
use ibid_wire::disk::{Superblock, SyncState};
use ibid_wire::peer::{
    DestinationStanding, Held, HeldList, HelloRefusal, Identity, SourceStanding,
};

const IDENTITY: Identity =
    Identity { pair: [1; 16], volumes: [2; 32], segments: 4, segment_blocks: 8 };

/// A log of which each batch is one entry: segment 11 begins with entry 101, each further one eight later.
struct Eights;

fn end(segment: u64, count: u32) -> BatchEnd {
    let last = 100 + (segment - 11) * 8 + u64::from(count);
    BatchEnd { last: Lsn::new(last), crc: last as u32 * 3 }
}

impl OwnLog for Eights {
    fn batch(&self, segment: CpId, count: u32) -> BatchEnd {
        end(segment.get(), count)
    }
}

fn held(epochs: &[(u64, u32)]) -> HeldList {
    let mut list = HeldList::EMPTY;
    for (segment, &(epoch, batches)) in (11..).zip(epochs) {
        let crc = if batches == 0 { 0 } else { end(segment, batches).crc };
        list.push(Held { epoch: Epoch::new(epoch), batches, crc });
    }
    list
}

/// A pair at rest at CP 10, whose newest entry is 100.
fn rest() -> (SourceStanding, DestinationStanding) {
    let source = SourceStanding {
        epoch: Epoch::new(5),
        identity: IDENTITY,
        in_sync: true,
        whole: false,
        cp: CpId::new(10),
        last_lsn: Lsn::new(100),
        chain: [10; 32],
        end: Lsn::new(100),
        committed: Lsn::new(100),
        opened: Epoch::new(4),
        agreed: Lsn::new(0),
        first_end: Lsn::new(0),
        peer_cp: CpId::new(0),
        peer_chain: [0; 32],
        peer_next_chain: [0; 32],
        held: HeldList::EMPTY,
    };
    let destination = DestinationStanding {
        epoch: Epoch::new(4),
        state: SyncState::InSync,
        fresh: false,
        cp: CpId::new(10),
        last_lsn: Lsn::new(100),
        chain: [10; 32],
        end: Lsn::new(100),
        committed: Lsn::new(100),
        base_cp: CpId::new(10),
        base_chain: [10; 32],
        held: HeldList::EMPTY,
    };
    (source, destination)
}

fn letter(source: &SourceStanding, mine: &DestinationStanding) -> char {
    let own = Destination { identity: &IDENTITY, failed: false, standing: mine };
    match meet(source, own, &Eights) {
        Meeting::Level { log: LogPlan::Continue { .. }, .. } => 'C',
        Meeting::Level { log: LogPlan::Fetch { .. }, .. } => 'F',
        Meeting::Level { log: LogPlan::Rollback { .. }, .. } => 'R',
        Meeting::Salvage { .. } => 'S',
        Meeting::CatchUp { .. } => 'A',
        Meeting::Refuse(HelloRefusal::Blank) => 'B',
        Meeting::Refuse(HelloRefusal::History) => 'H',
        Meeting::Refuse(HelloRefusal::Lost) => 'L',
        Meeting::Refuse(
            HelloRefusal::Pair
            | HelloRefusal::Epoch
            | HelloRefusal::Geometry
            | HelloRefusal::Volumes
            | HelloRefusal::Failed
            | HelloRefusal::Encryption,
        ) => '!',
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Same,
    Next,
    NextShort,
    NextLong,
    Behind,
    SameOther,
    Far,
}

/// How the destination's volumes are known to the source.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// Its base is the peer's CP.
    Peer,
    /// Its base is the CP after that.
    AfterPeer,
    /// Its base is older, its CP is the peer's: the source has heard of what it adopted.
    Adopted,
    /// The digest at its base is another.
    Other,
    /// Volumes of no CP, and a map of everything for such a peer.
    NoneWhole,
    /// Volumes of holes, and a map of what is allocated for such a peer.
    NoneFresh,
    /// Volumes of no CP that are not holes, and a map of what is allocated.
    NoneUncovered,
    /// Volumes of no CP, and a map for a peer at a CP.
    NonePeer,
}

/// The standings for which this is so, or nothing where it contradicts itself.
fn volumes(
    in_sync: bool,
    state: SyncState,
    place: Place,
    known: Known,
) -> (SourceStanding, DestinationStanding) {
    let (mut source, mut mine) = rest();
    source.in_sync = in_sync;
    source.held = held(&[(4, 8), (4, 2)]);
    source.end = Lsn::new(110);
    source.first_end = Lsn::new(108);
    mine.state = state;
    let (cp, last, chain) = match place {
        Place::Same => (10, 100, 10),
        Place::Next => (11, 108, 11),
        Place::NextShort => (11, 109, 11),
        Place::NextLong => (11, 107, 11),
        Place::Behind => (7, 70, 7),
        Place::SameOther => (10, 100, 99),
        Place::Far => (12, 110, 12),
    };
    (mine.cp, mine.last_lsn, mine.chain) = (CpId::new(cp), Lsn::new(last), [chain; 32]);
    mine.end = mine.last_lsn;
    mine.committed = Lsn::new(last.min(110));
    let peer = match (known, place) {
        // One CP on from a peer that is where the source is.
        (Known::Peer, Place::Next | Place::NextShort | Place::NextLong | Place::Far) => 10,
        (Known::AfterPeer, _) => cp - 1,
        (Known::Peer | Known::Adopted | Known::Other | Known::NonePeer, _) => cp,
        (Known::NoneWhole | Known::NoneFresh | Known::NoneUncovered, _) => 0,
    };
    (source.peer_cp, source.peer_chain) = (CpId::new(peer), [peer as u8; 32]);
    source.peer_next_chain = [peer as u8 + 1; 32];
    (mine.base_cp, mine.base_chain) = (mine.cp, mine.chain);
    match known {
        Known::Peer | Known::AfterPeer => {}
        Known::Adopted => {
            (mine.base_cp, mine.base_chain) = (CpId::new(3), [3; 32]);
            source.peer_chain = mine.chain;
        }
        Known::Other => source.peer_chain = [77; 32],
        Known::NoneWhole | Known::NoneFresh | Known::NoneUncovered => {
            (source.peer_cp, mine.base_cp) = (Superblock::PEER_NONE, Superblock::PEER_NONE);
            (source.peer_chain, mine.base_chain) = ([0; 32], [0; 32]);
            source.whole = matches!(known, Known::NoneWhole);
            mine.fresh = matches!(known, Known::NoneFresh);
        }
        Known::NonePeer => {
            (mine.base_cp, mine.base_chain) = (Superblock::PEER_NONE, [0; 32]);
            source.peer_chain = [77; 32];
        }
    }
    (source, mine)
}

#[test]
fn every_combination_of_volumes_comes_to_what_the_table_says() {
    use Known::{Adopted, AfterPeer, NoneFresh, NonePeer, NoneUncovered, NoneWhole, Other, Peer};
    use SyncState::{InSync, New, OutOfSync};
    const KNOWN: [Known; 8] =
        [Peer, AfterPeer, Adopted, Other, NoneWhole, NoneFresh, NoneUncovered, NonePeer];
    const PLACES: [Place; 7] = [
        Place::Same,
        Place::Next,
        Place::NextShort,
        Place::NextLong,
        Place::Behind,
        Place::SameOther,
        Place::Far,
    ];
    // Rows: as PLACES. Columns: as KNOWN.
    const TABLE: [(bool, SyncState, [&str; 7]); 6] = [
        // A source in sync asks for nothing but the CP: how it knew its peer has no meaning then.
        (true, New, ["BBBBBBBB"; 7]),
        (
            true,
            InSync,
            ["CCCCCCCC", "CCCCCCCC", "LLLLLLLL", "HHHHHHHH", "HHHHHHHH", "HHHHHHHH", "HHHHHHHH"],
        ),
        // One that adopted and never made a CP holds nobody's volumes.
        (true, OutOfSync, ["HHHHBBBB"; 7]),
        (false, New, ["BBBBAABB"; 7]),
        (
            false,
            InSync,
            ["CCCHCCHH", "CCHHHHHH", "LLHHHHHH", "HHHHHHHH", "AAAHAAHH", "HHHHHHHH", "HHHHHHHH"],
        ),
        (
            false,
            OutOfSync,
            ["CCCHCCHH", "CCHHHHHH", "LLHHHHHH", "HHHHHHHH", "AAAHAABB", "HHHHHHHH", "HHHHHHHH"],
        ),
    ];
    for (in_sync, state, rows) in TABLE {
        for (place, row) in PLACES.into_iter().zip(rows) {
            let one = |known| {
                let (source, mine) = volumes(in_sync, state, place, known);
                letter(&source, &mine)
            };
            let found: String = KNOWN.into_iter().map(one).collect();
            assert_eq!(found, row, "source in sync {in_sync}, destination {state:?}, {place:?}");
        }
    }
}

#[test]
fn nothing_is_adopted_and_no_copy_begun_while_acknowledged_entries_are_missing() {
    let damages: [fn(&mut SourceStanding, &mut DestinationStanding); 3] = [
        |source, _| source.committed = source.end.next(),
        |source, _| source.agreed = source.end.next(),
        |source, mine| mine.committed = source.end.next(),
    ];
    for damage in damages {
        for (in_sync, state, known, whole) in [
            (false, SyncState::OutOfSync, Known::Peer, 'A'),
            (false, SyncState::New, Known::NoneWhole, 'A'),
            (false, SyncState::New, Known::NoneUncovered, 'B'),
            (true, SyncState::New, Known::NonePeer, 'B'),
        ] {
            let (mut source, mut mine) = volumes(in_sync, state, Place::Behind, known);
            assert_eq!(letter(&source, &mine), whole);
            damage(&mut source, &mut mine);
            assert_eq!(letter(&source, &mine), 'L', "{in_sync} {state:?} {known:?}");
        }
    }
}

/// One shape of two logs after CP 10: (epoch, batches) by segment, and where the source's ends and had been opened with.
struct Shape {
    name: &'static str,
    source: &'static [(u64, u32)],
    end: u64,
    agreed: u64,
    destination: &'static [(u64, u32)],
    crc_differs: bool,
    /// By whether the source has opened its log since it started, whether it is in sync, whether the destination had met it since it was
    /// last opened, and what is known to have been acknowledged: nothing new, the destination's last entry, one that nobody has.
    expected: &'static str,
}

const fn shape(
    name: &'static str,
    source: &'static [(u64, u32)],
    (end, agreed): (u64, u64),
    destination: &'static [(u64, u32)],
    expected: &'static str,
) -> Shape {
    Shape { name, source, end, agreed, destination, crc_differs: false, expected }
}

#[test]
fn every_combination_of_logs_comes_to_what_the_table_says() {
    // Of each group of three: nothing new, the destination's last, one that nobody has.
    let shapes = [
        shape("the same", &[(4, 2)], (102, 100), &[(4, 2)], "CCL CCL CCL CCL CCL CCL CCL CCL"),
        shape("both empty", &[], (100, 100), &[], "CCL CCL CCL CCL CCL CCL CCL CCL"),
        shape("source longer", &[(4, 3)], (103, 100), &[(4, 2)], "CCL CCL CCL CCL CCL CCL CCL CCL"),
        shape(
            "source has a segment more",
            &[(4, 8), (5, 1)],
            (109, 100),
            &[(4, 8)],
            "CCL CCL CCL CCL CCL CCL CCL CCL",
        ),
        shape(
            "destination longer",
            &[(4, 2)],
            (102, 100),
            &[(4, 4)],
            "FFL FFL FFL FFL RHL RHL RHL RHL",
        ),
        shape("destination alone", &[], (100, 100), &[(4, 4)], "FFL FFL FFL FFL RHL RHL RHL RHL"),
        shape(
            "destination longer, void",
            &[(3, 2)],
            (102, 102),
            &[(3, 4)],
            "RHL RHL RHL RHL RHL RHL RHL RHL",
        ),
        shape(
            "destination longer, partly void",
            &[(3, 2)],
            (102, 103),
            &[(3, 4)],
            "FHL LLL FHL LLL RHL RHL RHL RHL",
        ),
        shape(
            "destination longer, rotten here",
            &[(3, 2)],
            (102, 104),
            &[(3, 4)],
            "FFL LLL FFL LLL RHL RHL RHL RHL",
        ),
        shape(
            "source later",
            &[(4, 2), (5, 1)],
            (103, 102),
            &[(4, 4)],
            "HHH HHH RHL RHL RHL RHL RHL RHL",
        ),
        shape(
            "source later from the start",
            &[(5, 1)],
            (101, 100),
            &[(4, 4)],
            "HHH HHH RHL RHL RHL RHL RHL RHL",
        ),
        shape(
            "both of one epoch",
            &[(4, 2), (4, 1)],
            (103, 100),
            &[(4, 4)],
            "HHH HHH HHH HHH HHH HHH HHH HHH",
        ),
        shape(
            "destination later",
            &[(3, 2)],
            (102, 100),
            &[(4, 2)],
            "HHH HHH HHH HHH HHH HHH HHH HHH",
        ),
        Shape {
            crc_differs: true,
            ..shape(
                "other contents",
                &[(4, 2)],
                (102, 100),
                &[(4, 2)],
                "HHH HHH HHH HHH HHH HHH HHH HHH",
            )
        },
        shape(
            "an end that is not there",
            &[(4, 2)],
            (103, 100),
            &[(4, 2)],
            "HHH HHH HHH HHH HHH HHH HHH HHH",
        ),
    ];
    for shape in shapes {
        let mut found = String::new();
        for (settled, in_sync, met) in [false, true].into_iter().flat_map(|settled| {
            [true, false].into_iter().flat_map(move |in_sync| {
                [true, false].into_iter().map(move |met| (settled, in_sync, met))
            })
        }) {
            for acknowledged in 0..3 {
                let (mut source, mut mine) = rest();
                source.in_sync = in_sync;
                (source.peer_cp, source.peer_chain) = (source.cp, source.chain);
                source.held = held(shape.source);
                source.end = Lsn::new(shape.end);
                source.opened = Epoch::new(if settled { 5 } else { 4 });
                // When it opened its log it had all but what is of its epoch.
                let new: u32 =
                    shape.source.iter().map(|&(epoch, n)| if epoch == 5 { n } else { 0 }).sum();
                let agreed = if settled { shape.end - u64::from(new) } else { shape.agreed };
                source.agreed = Lsn::new(agreed);
                mine.held = held(shape.destination);
                let last = (11..).zip(shape.destination).last();
                mine.end = last.map_or(mine.end, |(segment, held)| end(segment, held.1).last);
                mine.epoch = Epoch::new(if met { source.opened.get() } else { 3 });
                match acknowledged {
                    0 => {}
                    1 => mine.committed = mine.end,
                    _ => source.committed = Lsn::new(130),
                }
                if shape.crc_differs {
                    let mut other = HeldList::EMPTY;
                    for held in source.held.as_slice() {
                        other.push(Held { crc: held.crc ^ 1, ..*held });
                    }
                    source.held = other;
                }
                found.push(letter(&source, &mine));
            }
            found.push(' ');
        }
        assert_eq!(found.trim_end(), shape.expected, "{}", shape.name);
    }
}

#[test]
fn nodes_that_do_not_belong_together_are_refused_by_name_in_this_order() {
    let (mut source, mut mine) = rest();
    let mut identity = IDENTITY;
    // Each refusal hides those after it; here all apply, and one after the other is mended.
    mine.epoch = Epoch::new(6);
    identity.segments = 9;
    let mut expect = |refusal, change: &mut dyn FnMut(&mut SourceStanding)| {
        change(&mut source);
        let own = Destination { identity: &identity, failed: true, standing: &mine };
        assert_eq!(meet(&source, own, &Eights), Meeting::Refuse(refusal));
    };
    expect(HelloRefusal::Pair, &mut |source| {
        source.identity.pair = [7; 16];
        source.identity.volumes = [7; 32];
        source.chain = [7; 32];
    });
    expect(HelloRefusal::Epoch, &mut |source| source.identity.pair = [1; 16]);
    expect(HelloRefusal::Geometry, &mut |source| source.epoch = Epoch::new(6));
    expect(HelloRefusal::Volumes, &mut |source| source.identity.segments = 9);
    expect(HelloRefusal::Failed, &mut |source| source.identity.volumes = [2; 32]);
    let own = Destination { identity: &identity, failed: false, standing: &mine };
    assert_eq!(meet(&source, own, &Eights), Meeting::Refuse(HelloRefusal::History));
}

/// Changes one thing of a meeting.
type Change = fn(&mut SourceStanding, &mut DestinationStanding);

#[test]
fn what_a_destination_left_behind_holds_beyond_the_sources_log_is_salvaged_before_it_is_caught_up()
{
    // The source has drained segment 11 alone; the destination still has that and two entries of segment 12.
    let left = || {
        let (mut source, mut mine) = rest();
        source.in_sync = false;
        (source.peer_cp, source.peer_chain) = (CpId::new(10), [10; 32]);
        (source.cp, source.last_lsn, source.chain) = (CpId::new(11), Lsn::new(108), [11; 32]);
        (source.end, source.committed) = (Lsn::new(108), Lsn::new(108));
        source.opened = Epoch::new(3);
        mine.held = held(&[(4, 8), (4, 2)]);
        mine.end = Lsn::new(110);
        (source, mine)
    };
    /// Gives the source some of segment 12.
    fn holds(source: &mut SourceStanding, epoch: u64, batches: u32) {
        let crc = end(12, batches).crc;
        source.held.push(Held { epoch: Epoch::new(epoch), batches, crc });
        source.end = end(12, batches).last;
    }
    let cases: [(&str, char, Change); 11] = [
        ("as it is", 'S', |_, _| {}),
        ("some is here", 'S', |source, _| holds(source, 4, 1)),
        ("all is here", 'A', |source, _| holds(source, 4, 2)),
        ("more is here", 'A', |source, _| holds(source, 4, 3)),
        ("something later is here", 'A', |source, _| holds(source, 5, 1)),
        ("something else is here", 'H', |source, _| {
            source.held.push(Held { epoch: Epoch::new(4), batches: 2, crc: 1 });
            source.end = Lsn::new(110);
        }),
        ("the source has opened its log", 'A', |source, _| {
            (source.opened, source.agreed) = (Epoch::new(5), Lsn::new(108));
        }),
        ("it is void", 'A', |source, _| {
            (source.opened, source.agreed) = (Epoch::new(5), Lsn::new(108));
            source.epoch = Epoch::new(6);
        }),
        ("it may be something else", 'L', |source, _| {
            (source.opened, source.agreed) = (Epoch::new(5), Lsn::new(110));
            source.epoch = Epoch::new(6);
        }),
        ("it is not all that is missing", 'L', |source, _| source.committed = Lsn::new(111)),
        ("it is of a log that parted before", 'A', |_, mine| {
            mine.held = held(&[(4, 7)]);
            mine.end = Lsn::new(107);
        }),
    ];
    for (name, expected, change) in cases {
        let (mut source, mut mine) = left();
        change(&mut source, &mut mine);
        assert_eq!(letter(&source, &mine), expected, "{name}");
    }
}
