//! What each single fault must come to (E2): the table. A case is a structure, what befalls it, what the pair is doing, and on which node.

use super::operator::Seen;
use crate::{DESTINATION, SOURCE};

/// What is harmed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Structure {
    SuperblockA,
    SuperblockB,
    SegmentHeader,
    Batch,
    Page,
    MapPage,
    /// A frame that carries a CP's announcement or its list of references.
    CpFrame,
    VolumeBlock,
}

pub const STRUCTURES: [Structure; 8] = [
    Structure::SuperblockA,
    Structure::SuperblockB,
    Structure::SegmentHeader,
    Structure::Batch,
    Structure::Page,
    Structure::MapPage,
    Structure::CpFrame,
    Structure::VolumeBlock,
];

/// What befalls it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    BitFlip,
    Zeroed,
    /// An earlier content of the same place.
    Stale,
    /// At rest: a neighbour's content. While it is written: it lands in the neighbour's place.
    Misdirected,
    ReadError,
    WriteError,
    /// The device says that it was written.
    Lost,
}

pub const KINDS: [Kind; 7] = [
    Kind::BitFlip,
    Kind::Zeroed,
    Kind::Stale,
    Kind::Misdirected,
    Kind::ReadError,
    Kind::WriteError,
    Kind::Lost,
];

/// What goes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Activity {
    Idle,
    Write,
    Cp,
    /// The node is down, and starts over what its disk holds.
    Recovery,
    CatchUp,
}

pub const ACTIVITIES: [Activity; 5] =
    [Activity::Idle, Activity::Write, Activity::Cp, Activity::Recovery, Activity::CatchUp];

impl Activity {
    /// The fault befalls what lies there, not what is being written.
    pub const fn is_at_rest(self) -> bool {
        matches!(self, Activity::Idle | Activity::Recovery)
    }
}

/// A cell of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub structure: Structure,
    pub kind: Kind,
    pub activity: Activity,
    pub side: usize,
}

impl Cell {
    /// As the command line takes it.
    pub fn name(&self) -> String {
        let Cell { structure, kind, activity, side } = self;
        format!("cargo xtask sweep matrix --case {structure:?} {kind:?} {activity:?} {side}")
    }

    pub fn parse(words: &[&str]) -> Option<Cell> {
        let [structure, kind, activity, side] = words else { return None };
        Some(Cell {
            structure: STRUCTURES.into_iter().find(|one| format!("{one:?}") == *structure)?,
            kind: KINDS.into_iter().find(|one| format!("{one:?}") == *kind)?,
            activity: ACTIVITIES.into_iter().find(|one| format!("{one:?}") == *activity)?,
            side: side.parse().ok().filter(|side| *side <= DESTINATION)?,
        })
    }
}

/// Every cell.
pub fn cells() -> Vec<Cell> {
    let mut all = Vec::new();
    for structure in STRUCTURES {
        for kind in KINDS {
            for activity in ACTIVITIES {
                for side in [SOURCE, DESTINATION] {
                    all.push(Cell { structure, kind, activity, side });
                }
            }
        }
    }
    all
}

/// What a cell must come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing is lost, the volumes are equal, and nobody need be told.
    Survives,
    /// The same, and the node has said this.
    Named(Seen),
    /// Outside the fault model: the two volumes may differ where the fault was, nowhere else, and no client is told. Only `verify` finds it.
    Undetectable(&'static str),
    /// There is no such case.
    Absent(&'static str),
}

const NOT_WRITTEN: &str = "nothing of it is written then";
const NOT_READ: &str = "nothing of it is read then";
const IS_LOST: &str = "a write that leaves what was there is a lost write: its own row";
const NO_SUMS: &str = "volumes carry no sums of their own";
const ONLY_COPY: &str = "until it is caught up a block is on the source only, and has no sum";
const ONE_MAP: &str = "there is one copy of the map, and a page that checks is believed";

/// The table.
pub fn expect(cell: &Cell) -> Expect {
    match cell.structure {
        Structure::SuperblockA | Structure::SuperblockB => superblock(cell),
        Structure::SegmentHeader | Structure::Batch | Structure::Page => log(cell),
        Structure::MapPage => map(cell),
        Structure::CpFrame => frame(cell),
        Structure::VolumeBlock => volume(cell),
    }
}

/// Two copies, each written and flushed before the other is touched.
fn superblock(cell: &Cell) -> Expect {
    match (cell.activity, cell.kind) {
        (Activity::Write, _) => Expect::Absent("client writes change no superblock"),
        (Activity::Idle, Kind::WriteError | Kind::Lost) => Expect::Absent(NOT_WRITTEN),
        (Activity::Idle | Activity::Recovery, Kind::BitFlip | Kind::Zeroed | Kind::ReadError) => {
            Expect::Named(Seen::SuperblockBad)
        }
        // A copy that checks counts, wherever and of whatever time it is: the other one is newer, or the same.
        (Activity::Idle, _) => Expect::Survives,
        (Activity::Cp | Activity::CatchUp, Kind::Stale) => Expect::Absent(IS_LOST),
        (Activity::Cp | Activity::CatchUp, Kind::ReadError) => Expect::Absent(NOT_READ),
        (_, Kind::WriteError) => Expect::Named(Seen::LogFault),
        (Activity::Cp | Activity::CatchUp, _) => Expect::Survives,
        (Activity::Recovery, _) => Expect::Survives,
    }
}

/// Everything in the log is there twice, once on each node; every piece of it carries a sum and says where it belongs.
fn log(cell: &Cell) -> Expect {
    match (cell.activity, cell.kind) {
        (Activity::Cp, _) => Expect::Absent("a CP writes nothing to the log and reads memory"),
        (Activity::Idle, Kind::WriteError | Kind::Lost) => Expect::Absent(NOT_WRITTEN),
        (Activity::Recovery, Kind::WriteError | Kind::Lost) => {
            Expect::Absent("recovery writes the log only to take over a tail that it lacks")
        }
        (Activity::Write | Activity::CatchUp, Kind::Stale) => Expect::Absent(IS_LOST),
        (Activity::Write | Activity::CatchUp, Kind::ReadError) => Expect::Absent(NOT_READ),
        (_, Kind::WriteError) => Expect::Named(Seen::LogFault),
        // Its next start finds that; what it lacks, the other node gives back.
        (Activity::Idle | Activity::Recovery, _) if cell.side == SOURCE => {
            Expect::Named(Seen::Damaged)
        }
        (_, _) => Expect::Survives,
    }
}

/// One copy: a page that does not check counts as all ones.
fn map(cell: &Cell) -> Expect {
    if cell.side == DESTINATION {
        return Expect::Absent("a destination has no map");
    }
    match (cell.activity, cell.kind) {
        (Activity::Write, _) => Expect::Absent("client writes change no page of the map"),
        (Activity::Idle | Activity::Recovery, Kind::WriteError | Kind::Lost) => {
            Expect::Absent(NOT_WRITTEN)
        }
        (Activity::Idle | Activity::Recovery, Kind::Stale) => Expect::Undetectable(ONE_MAP),
        (Activity::Recovery, Kind::ReadError) => Expect::Named(Seen::MapUnreadable),
        (Activity::Idle | Activity::Recovery, _) => Expect::Survives,
        (Activity::Cp | Activity::CatchUp, Kind::Stale) => Expect::Absent(IS_LOST),
        (Activity::Cp | Activity::CatchUp, Kind::ReadError) => Expect::Absent(NOT_READ),
        (Activity::Cp | Activity::CatchUp, Kind::WriteError) => Expect::Named(Seen::LogFault),
        (Activity::Cp, Kind::Lost | Kind::Misdirected) => Expect::Undetectable(ONE_MAP),
        // Bits that stay set name blocks that need not travel.
        (Activity::Cp | Activity::CatchUp, _) => Expect::Survives,
    }
}

fn frame(cell: &Cell) -> Expect {
    if cell.side == SOURCE {
        return Expect::Absent("lists go to the destination only");
    }
    match (cell.activity, cell.kind) {
        (Activity::Idle | Activity::Write | Activity::Recovery, _) => {
            Expect::Absent("no CP is under way then")
        }
        (_, Kind::ReadError | Kind::WriteError) => Expect::Absent("a cable gives no errors"),
        (_, Kind::Misdirected) => {
            Expect::Absent("a frame says where it belongs: one in another's place is a stale one")
        }
        (_, _) => Expect::Survives,
    }
}

/// Raw: no sums, no second copy on the node.
fn volume(cell: &Cell) -> Expect {
    match (cell.activity, cell.kind) {
        (Activity::Write, _) => Expect::Absent("client writes go to the log, not to volumes"),
        (Activity::Idle | Activity::Recovery, Kind::WriteError | Kind::Lost) => {
            Expect::Absent(NOT_WRITTEN)
        }
        (Activity::Cp | Activity::CatchUp, Kind::Stale) => Expect::Absent(IS_LOST),
        (Activity::Cp, Kind::ReadError) => Expect::Absent(NOT_READ),
        (_, Kind::ReadError) if cell.side == DESTINATION => {
            Expect::Absent("a destination reads its volumes for its peer only")
        }
        // It stays out of sync until the block can be read.
        (Activity::CatchUp, Kind::ReadError) => Expect::Named(Seen::VolumeRetry),
        // Answered by the other node.
        (_, Kind::ReadError) => Expect::Survives,
        (_, Kind::WriteError) => Expect::Named(Seen::VolumeRetry),
        (Activity::CatchUp, _) if cell.side == SOURCE => Expect::Undetectable(ONLY_COPY),
        (_, _) => Expect::Undetectable(NO_SUMS),
    }
}
