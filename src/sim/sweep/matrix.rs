//! E2, the single-fault matrix: every structure, every fault, every activity, either node; one fault in a run, and what it comes to is what
//! the table says (`expect`). The node is started again afterwards, so that what lies on its disk is read.

use super::expect::{Activity, Cell, Expect, Kind, Structure, cells, expect};
use super::operator::Operator;
use super::pool::{Failed, attempt, each};
use super::script::{Script, Step, Variant, config, matrix_steps, settle};
use crate::disk::harm::Harm;
use crate::{Crash, DESTINATION, SOURCE, World};
use ibid_driver::{DiskOp, FileId};
use ibid_units::Nanos;
use ibid_wire::disk::{
    Batch, EntryKind, SEGMENTS_AT, SUPERBLOCK_AT, SUPERBLOCK_BYTES, SegmentHeader,
};
use ibid_wire::peer::{Frame, SectionKind};
use std::cell::Cell as StdCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

const EIO: i32 = 5;
const BLOCK: usize = 4096;
const LOG: FileId = FileId(0);
/// The block of a volume that faults befall: no workload writes it but the steps made for that.
pub const HARMED_FIRST: u64 = 960;
const HARMED_FILE: FileId = FileId(1);
const HARMED_AT: u64 = HARMED_FIRST * 512;
/// Reads that fail in a catch-up.
const READS_FAIL: u64 = 6;
/// Batches of a segment lie in its last blocks; no workload has more.
const BATCHES_MAX: u64 = 60;

/// A place on a node's disk.
type Place = (FileId, u64, usize);

/// Where a structure lies now, and where its neighbour does.
fn places(world: &World, cell: &Cell) -> (Place, Place) {
    let files = world.files[cell.side].borrow();
    let log = files.live(0);
    match cell.structure {
        Structure::SuperblockA | Structure::SuperblockB => {
            let [a, b] = SUPERBLOCK_AT.map(|at| (LOG, at, SUPERBLOCK_BYTES));
            if cell.structure == Structure::SuperblockA { (a, b) } else { (b, a) }
        }
        Structure::MapPage => {
            ((LOG, files.map_at, BLOCK), (LOG, files.map_at + BLOCK as u64, BLOCK))
        }
        Structure::VolumeBlock => {
            ((HARMED_FILE, HARMED_AT, BLOCK), (HARMED_FILE, HARMED_AT + BLOCK as u64, BLOCK))
        }
        Structure::SegmentHeader | Structure::Batch | Structure::Page => {
            let bytes = u64::from(world.config.segment_blocks) * BLOCK as u64;
            let cp = crate::superblock(files.durable(0)).cp;
            let slots = u64::from(world.config.segments);
            let newest = (0..slots)
                .filter_map(|slot| {
                    let at = SEGMENTS_AT + slot * bytes;
                    let header = SegmentHeader::parse(&log[at as usize..]).ok()?;
                    (header.segment > cp).then_some((header.segment, slot))
                })
                .max();
            let (_, slot) = newest.expect("the log holds a segment");
            let start = SEGMENTS_AT + slot * bytes;
            let other = SEGMENTS_AT + (slot + 1) % slots * bytes;
            match cell.structure {
                Structure::SegmentHeader => ((LOG, start, BLOCK), (LOG, other, BLOCK)),
                Structure::Batch => {
                    let last = start + bytes - BLOCK as u64;
                    ((LOG, last, BLOCK), (LOG, last - BLOCK as u64, BLOCK))
                }
                _ => {
                    let last = (start + bytes) as usize - BLOCK;
                    let batch = Batch::parse(&log[last..][..BLOCK]).expect("a batch");
                    let (entry, _) = batch
                        .entries()
                        .find(|(entry, _)| entry.kind == EntryKind::Write)
                        .expect("the first batch has a write");
                    let page = start + u64::from(entry.page.get()) * BLOCK as u64;
                    // Only the part that the entry names carries its sum.
                    let (from, count) = entry.page_part(0);
                    let (from, count) = (u64::from(from) * 512, count as usize * 512);
                    let place = (LOG, page + from, count);
                    (place, (LOG, page + from + BLOCK as u64, count))
                }
            }
        }
        Structure::CpFrame => panic!("a frame lies nowhere"),
    }
}

/// True where an operation touches a structure of this kind.
fn is_of(structure: Structure, op: &DiskOp, segment_bytes: u64, map_at: u64) -> bool {
    let (file, at, len) = match *op {
        DiskOp::Write { file, at, span } => (file, at, u64::from(span.len)),
        DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => (file, at, len),
        DiskOp::Read { .. } | DiskOp::Flush { .. } => return false,
    };
    let in_log = file == LOG && (SEGMENTS_AT..map_at).contains(&at);
    let within = at.saturating_sub(SEGMENTS_AT) % segment_bytes;
    let batches = segment_bytes - BATCHES_MAX * BLOCK as u64;
    match structure {
        Structure::SuperblockA => file == LOG && at == SUPERBLOCK_AT[0],
        Structure::SuperblockB => file == LOG && at == SUPERBLOCK_AT[1],
        Structure::SegmentHeader => in_log && within == 0,
        Structure::Batch => in_log && within >= batches,
        Structure::Page => in_log && within > 0 && within < batches,
        // The first page: that of the volume with the block that is harmed.
        Structure::MapPage => file == LOG && at == map_at,
        Structure::VolumeBlock => file == HARMED_FILE && (at..at + len).contains(&HARMED_AT),
        Structure::CpFrame => false,
    }
}

fn neighbour(structure: Structure) -> i64 {
    let [a, b] = SUPERBLOCK_AT;
    match structure {
        Structure::SuperblockA => b as i64 - a as i64,
        Structure::SuperblockB => a as i64 - b as i64,
        Structure::Batch => -(BLOCK as i64),
        _ => BLOCK as i64,
    }
}

/// Harms what lies at rest. `old` are the files as they once were.
fn rot(world: &World, cell: &Cell, old: &[Vec<u8>]) {
    let ((file, at, len), (_, other, _)) = places(world, cell);
    let mut files = world.files[cell.side].borrow_mut();
    let now = files.bytes(file, at, len);
    let bytes = match cell.kind {
        Kind::BitFlip => {
            let mut bytes = now;
            bytes[40] ^= 4;
            bytes
        }
        Kind::Zeroed => vec![0; len],
        Kind::Stale => old[usize::from(file.0)][at as usize..][..len].to_vec(),
        Kind::Misdirected => files.bytes(file, other, len),
        Kind::ReadError | Kind::WriteError | Kind::Lost => panic!("nothing rots by {cell:?}"),
    };
    files.rot_at_rest(file, at, &bytes);
}

/// Makes reads of the place fail from now on, or the next write of such a structure go wrong. True in what is given once it happened.
fn arm(world: &World, cell: &Cell) -> Rc<StdCell<bool>> {
    let came = Rc::new(StdCell::new(false));
    let happened = came.clone();
    let segment_bytes = u64::from(world.config.segment_blocks) * BLOCK as u64;
    let Cell { structure, kind, .. } = *cell;
    if structure == Structure::CpFrame {
        arm_frame(world, kind, happened);
        return came;
    }
    if kind == Kind::ReadError {
        let ((file, at, len), _) = places(world, cell);
        // What is brought to a peer waits until it can be read: there it is readable again after a while.
        let mut left = if cell.activity == Activity::CatchUp { READS_FAIL } else { u64::MAX };
        world.files[cell.side].borrow_mut().fail = Some(Box::new(move |op| match *op {
            DiskOp::Read { file: of, at: from, span } if of == file => {
                let hit = left > 0 && from < at + len as u64 && at < from + u64::from(span.len);
                left -= u64::from(hit);
                happened.set(happened.get() || hit);
                hit.then_some(EIO)
            }
            _ => None,
        }));
        return came;
    }
    let mut files = world.files[cell.side].borrow_mut();
    let map_at = files.map_at;
    let meets = move |op: &DiskOp| {
        let hit = !happened.get() && is_of(structure, op, segment_bytes, map_at);
        if hit {
            happened.set(true);
        }
        hit
    };
    if kind == Kind::WriteError {
        files.fail = Some(Box::new(move |op| meets(op).then_some(EIO)));
        return came;
    }
    let harm = match kind {
        Kind::BitFlip => Harm::Flipped,
        Kind::Zeroed => Harm::Zeroed,
        Kind::Lost => Harm::Lost,
        Kind::Misdirected => Harm::Misdirected(neighbour(structure)),
        Kind::Stale | Kind::ReadError | Kind::WriteError => {
            panic!("no write goes wrong by {kind:?}")
        }
    };
    files.harm = Some(Box::new(move |op| meets(op).then_some(harm)));
    came
}

/// The next frame of a CP's announcement or list, on its way to the destination.
fn arm_frame(world: &World, kind: Kind, happened: Rc<StdCell<bool>>) {
    let mut old: Option<Vec<u8>> = None;
    world.net.borrow_mut().tamper = Some(Box::new(move |side, datagram| {
        let is_list = Frame::parse(datagram).is_ok_and(|frame| {
            frame.sections().any(|(section, _)| {
                matches!(section.kind, SectionKind::CpOpen | SectionKind::CpList)
            })
        });
        if side != DESTINATION || !is_list || happened.get() {
            return;
        }
        let length = datagram.len();
        match kind {
            Kind::BitFlip => datagram[length - 3] ^= 4,
            Kind::Zeroed => datagram.fill(0),
            Kind::Lost => datagram.clear(),
            Kind::Stale => match &old {
                // Of the CP before: the second one comes as the first did.
                None => {
                    old = Some(datagram.clone());
                    return;
                }
                Some(first) => datagram.clone_from(first),
            },
            Kind::Misdirected | Kind::ReadError | Kind::WriteError => {
                panic!("no frame goes wrong by {kind:?}")
            }
        }
        happened.set(true);
    }));
}

/// What a run came to: what was seen of the node.
#[derive(Debug)]
pub struct Ran {
    pub operator: Operator,
    /// The fault met something.
    pub came: bool,
    /// Blocks of volumes that differed at the end: (file, block).
    pub different: Vec<(usize, usize)>,
}

fn drive(world: &mut World, script: &mut Script, operator: &mut Operator) {
    while !script.is_done() {
        script.turn(world);
        operator.turn(world);
    }
}

/// Runs a cell that exists.
pub fn run(cell: &Cell) -> Ran {
    let Cell { structure, kind, activity, side } = *cell;
    let variant = if activity == Activity::CatchUp || structure == Structure::MapPage {
        Variant::Continue
    } else {
        Variant::Stall
    };
    let alone = variant == Variant::Continue;
    let mut world = World::unborn(config(variant));
    world.start_source();
    world.start_destination();
    let mut operator = Operator::default();
    let mut script = Script::new(matrix_steps::first());
    script.reads_fail = structure == Structure::VolumeBlock && kind == Kind::ReadError;
    drive(&mut world, &mut script, &mut operator);
    settle(&mut world, &mut script, |world| operator.turn(world));
    script.extend(matrix_steps::lap());
    drive(&mut world, &mut script, &mut operator);
    let old: Vec<Vec<u8>> =
        (0..=2).map(|file| world.files[side].borrow().live(file).to_vec()).collect();
    script.extend(matrix_steps::second());
    if alone {
        script.extend(matrix_steps::alone());
    }
    drive(&mut world, &mut script, &mut operator);
    script.extend(vec![Step::Rest(Nanos::from_millis(30))]);
    drive(&mut world, &mut script, &mut operator);
    // What clients could see of a block that nobody can tell is bad, they must not be asked about.
    let undetectable = matches!(expect(cell), Expect::Undetectable(_));
    script.blind = undetectable && structure == Structure::VolumeBlock;

    let came = harm_now(&mut world, cell, &old, &mut script, &mut operator);
    script.extend(match activity {
        Activity::Idle | Activity::Recovery => vec![Step::Rest(Nanos::from_millis(30))],
        Activity::Write => matrix_steps::writes(),
        Activity::Cp if alone => matrix_steps::alone_cp(),
        Activity::Cp => matrix_steps::cp(),
        Activity::CatchUp => matrix_steps::catch_up(),
    });
    script.extend(vec![Step::Rest(Nanos::from_millis(30))]);
    drive(&mut world, &mut script, &mut operator);
    // Read what lies there now.
    if activity != Activity::Recovery && world.runs(side) {
        world.crash(side, Crash::Kill);
    }
    script.extend(matrix_steps::last());
    drive(&mut world, &mut script, &mut operator);
    world.net.borrow_mut().cut = false;
    settle(&mut world, &mut script, |world| operator.turn(world));
    {
        let mut files = world.files[side].borrow_mut();
        (files.fail, files.harm) = (None, None);
    }
    world.net.borrow_mut().tamper = None;
    // A CP, so that the volumes are of one time.
    script.extend(matrix_steps::end());
    drive(&mut world, &mut script, &mut operator);
    settle(&mut world, &mut script, |world| operator.turn(world));
    let different = repair(&mut world, cell, script.harmed);
    world.stop();
    Ran { operator, came: came.get(), different }
}

/// The moment of the fault.
fn harm_now(
    world: &mut World,
    cell: &Cell,
    old: &[Vec<u8>],
    script: &mut Script,
    operator: &mut Operator,
) -> Rc<StdCell<bool>> {
    let rots = matches!(cell.kind, Kind::BitFlip | Kind::Zeroed | Kind::Stale | Kind::Misdirected);
    let is_frame = cell.structure == Structure::CpFrame;
    if cell.activity == Activity::Recovery {
        world.crash(cell.side, Crash::Kill);
    }
    if !(cell.activity.is_at_rest() && rots) || is_frame {
        let came = arm(world, cell);
        if cell.activity == Activity::Recovery {
            world.start(cell.side);
        }
        return came;
    }
    rot(world, cell, old);
    if cell.activity == Activity::Recovery {
        world.start(cell.side);
    }
    script.extend(vec![Step::Rest(Nanos::from_millis(5))]);
    drive(world, script, operator);
    Rc::new(StdCell::new(true))
}

/// What `verify` would find and an operator put right: where the copies differ. Only what the table allows to differ is put right.
fn repair(world: &mut World, cell: &Cell, good: Option<u32>) -> Vec<(usize, usize)> {
    for files in &world.files {
        files.borrow_mut().settle_all();
    }
    let mut different = Vec::new();
    for file in 1..=world.config.volumes.len() {
        let (one, two) = (world.files[SOURCE].borrow(), world.files[DESTINATION].borrow());
        let blocks = one.live(file).chunks(BLOCK).zip(two.live(file).chunks(BLOCK));
        different.extend(
            blocks.enumerate().filter(|(_, (one, two))| one != two).map(|(at, _)| (file, at)),
        );
    }
    if !matches!(expect(cell), Expect::Undetectable(_)) {
        return different;
    }
    let harmed = HARMED_AT as usize / BLOCK;
    for (file, block) in &different {
        let allowed = match cell.structure {
            Structure::VolumeBlock => *file == 1 && (harmed..=harmed + 1).contains(block),
            // The page is that of the first volume.
            Structure::MapPage => *file == 1,
            _ => false,
        };
        assert!(allowed, "I17: block {block} of file {file} differs, far from the fault");
        if cell.structure == Structure::MapPage {
            // What the map has lost, the source holds.
            let at = (*block * BLOCK) as u64;
            let bytes = world.files[SOURCE].borrow().bytes(HARMED_FILE, at, BLOCK);
            world.files[DESTINATION].borrow_mut().rot_at_rest(HARMED_FILE, at, &bytes);
        }
    }
    if cell.structure == Structure::VolumeBlock {
        // A block that travels in a catch-up takes its fault along: both get what was written there, and nothing beside it.
        let (_, _, good) = world.model.content(good.expect("the block was written"));
        for files in &world.files {
            let mut files = files.borrow_mut();
            files.rot_at_rest(HARMED_FILE, HARMED_AT, &good);
            files.rot_at_rest(HARMED_FILE, HARMED_AT + BLOCK as u64, &[0; BLOCK]);
        }
    }
    different
}

/// Runs a cell and compares with the table.
pub fn judge(cell: &Cell) {
    let ran = run(cell);
    let Ran { operator, came, different } = &ran;
    assert!(came, "the fault met nothing: no such case?");
    let (seen, other) = (&operator.seen[cell.side], &operator.seen[1 - cell.side]);
    assert!(other.is_empty(), "the other node is not at fault, and shows {other:?}");
    match expect(cell) {
        Expect::Survives => assert!(different.is_empty(), "blocks differ: {different:?}"),
        Expect::Named(what) => {
            assert!(seen.contains(&what), "the node has not shown {what:?}, but {seen:?}");
            assert!(different.is_empty(), "blocks differ: {different:?}");
        }
        Expect::Undetectable(_) => {}
        Expect::Absent(why) => panic!("there is no such case: {why}"),
    }
}

/// All cells, and what they came to.
#[derive(Debug)]
pub struct Matrix {
    pub outcomes: BTreeMap<String, u64>,
    pub cells: u64,
    pub failures: Vec<Failed>,
    pub time: Duration,
}

pub fn run_all(threads: usize, progress: impl Fn(&str) + Sync) -> Matrix {
    let began = Instant::now();
    let all = cells();
    let work = |cell: &Cell| match expect(cell) {
        Expect::Absent(_) => Ok(()),
        _ => attempt(&cell.name(), || judge(cell)),
    };
    let results =
        each(&all, threads, work, |done| progress(&format!("{done} of {} cells", all.len())));
    let mut matrix = Matrix {
        outcomes: BTreeMap::new(),
        cells: all.len() as u64,
        failures: results.into_iter().filter_map(Result::err).collect(),
        time: began.elapsed(),
    };
    for cell in &all {
        let outcome = match expect(cell) {
            Expect::Survives => "1 survives".to_string(),
            Expect::Named(seen) => format!("2 survives, and the node says {seen:?}"),
            Expect::Undetectable(why) => format!("3 outside the fault model: {why}"),
            Expect::Absent(why) => format!("4 no such case: {why}"),
        };
        *matrix.outcomes.entry(outcome).or_default() += 1;
    }
    matrix
}

impl Matrix {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (outcome, count) in &self.outcomes {
            let _ = writeln!(out, "{count:>5}  {}", &outcome[2..]);
        }
        let _ = writeln!(
            out,
            "{} cells, {} failures, {:.1} s",
            self.cells,
            self.failures.len(),
            self.time.as_secs_f64()
        );
        out
    }
}
