//! E3, the N-th failure: of each operation the first fails, then the second, and so on, until the workload ends before its turn comes. Once,
//! and for a while. Nothing acknowledged is lost, the node says what is the matter, and after a restart of it the pair is whole.

use super::operator::{Operator, Seen};
use super::pool::{Failed, attempt, each};
use super::script::{Script, Variant, config, settle, short};
use crate::disk::Fail;
use crate::net::Fate;
use crate::{DESTINATION, SOURCE, World};
use ibid_driver::{DiskOp, FileId};
use ibid_wire::disk::SEGMENTS_AT;
use std::cell::Cell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

const EIO: i32 = 5;
/// Operations that fail one after the other, where it lasts a while.
const WHILE: u64 = 6;

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    LogWrite,
    LogFlush,
    SuperblockWrite,
    MapWrite,
    LogRead,
    VolumeWrite,
    VolumeFlush,
    VolumeRead,
    FrameSent,
    FrameReceived,
    PortBusy,
}

pub const WHATS: [What; 11] = [
    What::LogWrite,
    What::LogFlush,
    What::SuperblockWrite,
    What::MapWrite,
    What::LogRead,
    What::VolumeWrite,
    What::VolumeFlush,
    What::VolumeRead,
    What::FrameSent,
    What::FrameReceived,
    What::PortBusy,
];

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub variant: Variant,
    pub what: What,
    pub side: usize,
    pub lasts: bool,
    pub nth: u64,
}

impl Case {
    /// As the command line takes it.
    pub fn name(&self) -> String {
        let Case { variant, what, side, lasts, nth } = self;
        let lasts = if *lasts { "while" } else { "once" };
        format!("cargo xtask sweep nth --case {} {what:?} {side} {lasts} {nth}", variant.name())
    }

    pub fn parse(words: &[&str]) -> Option<Case> {
        let [variant, what, side, lasts, nth] = words else { return None };
        Some(Case {
            variant: Variant::parse(variant)?,
            what: WHATS.into_iter().find(|one| format!("{one:?}") == *what)?,
            side: side.parse().ok().filter(|side| *side <= DESTINATION)?,
            lasts: *lasts == "while",
            nth: nth.parse().ok()?,
        })
    }
}

/// What a loop came to.
#[derive(Debug)]
pub struct Looped {
    pub what: What,
    pub side: usize,
    pub lasts: bool,
    pub runs: u64,
    pub restarts: u64,
    /// The workload ended before this one's turn came.
    pub untouched_at: u64,
    pub failures: Vec<Failed>,
}

fn matches(what: What, op: &DiskOp, map_at: u64) -> bool {
    match (what, *op) {
        (
            What::LogWrite | What::SuperblockWrite | What::MapWrite,
            DiskOp::Write { file: FileId(0), at, .. }
            | DiskOp::Zero { file: FileId(0), at, .. }
            | DiskOp::Deallocate { file: FileId(0), at, .. },
        ) => match what {
            What::SuperblockWrite => at < SEGMENTS_AT,
            What::MapWrite => at >= map_at,
            _ => (SEGMENTS_AT..map_at).contains(&at),
        },
        (What::LogFlush, DiskOp::Flush { file: FileId(0) })
        | (What::LogRead, DiskOp::Read { file: FileId(0), .. }) => true,
        (
            What::VolumeWrite,
            DiskOp::Write { file, .. }
            | DiskOp::Zero { file, .. }
            | DiskOp::Deallocate { file, .. },
        )
        | (What::VolumeFlush, DiskOp::Flush { file })
        | (What::VolumeRead, DiskOp::Read { file, .. }) => file.0 > 0,
        _ => false,
    }
}

/// Counts operations; true for those that fail.
#[derive(Clone)]
struct Turns {
    count: Rc<Cell<u64>>,
    nth: u64,
    last: u64,
}

impl Turns {
    fn fails(&self) -> bool {
        self.count.set(self.count.get() + 1);
        (self.nth..=self.last).contains(&self.count.get())
    }
}

/// Runs a case; true if its failure came.
pub fn run(case: &Case) -> (bool, u64) {
    let Case { variant, what, side, lasts, nth } = *case;
    let mut world = World::unborn(config(variant));
    world.start_source();
    world.start_destination();
    let mut script = Script::new(short(variant));
    // The one copy that a read can't be had from is answered by the other; alone there is no other.
    script.reads_fail = what == What::VolumeRead;
    let last = if lasts { nth + WHILE - 1 } else { nth };
    let turns = Turns { count: Rc::default(), nth, last };
    arm(&world, what, side, turns.clone());
    let mut operator = Operator::default();
    while !script.is_done() {
        script.turn(&mut world);
        operator.turn(&mut world);
    }
    world.net.borrow_mut().cut = false;
    settle(&mut world, &mut script, |world| operator.turn(world));
    let came = turns.count.get() >= nth;
    world.files[side].borrow_mut().fail = None;
    world.net.borrow_mut().fates = None;
    settle(&mut world, &mut script, |world| operator.turn(world));
    if came {
        judge(case, &operator);
    }
    world.stop();
    (came, operator.restarts)
}

fn arm(world: &World, what: What, side: usize, turns: Turns) {
    let on_link = match what {
        What::FrameSent => Some((true, Fate::Lost)),
        What::FrameReceived => Some((false, Fate::Lost)),
        What::PortBusy => Some((true, Fate::Busy)),
        _ => None,
    };
    if let Some((of_sent, fate)) = on_link {
        world.net.borrow_mut().fates = Some(Box::new(move |of, sent| {
            if of == side && sent == of_sent && turns.fails() { fate } else { Fate::Passes }
        }));
        return;
    }
    let mut files = world.files[side].borrow_mut();
    let map_at = files.map_at;
    let fail: Fail =
        Box::new(move |op| (matches(what, op, map_at) && turns.fails()).then_some(EIO));
    files.fail = Some(fail);
}

/// The node said what was the matter.
fn judge(case: &Case, operator: &Operator) {
    let seen = &operator.seen[case.side];
    let other = &operator.seen[1 - case.side];
    let named = match case.what {
        What::LogWrite | What::LogFlush | What::SuperblockWrite | What::MapWrite => {
            seen.contains(&Seen::LogFault) || seen.contains(&Seen::RefusedIo)
        }
        What::VolumeWrite | What::VolumeFlush => seen.contains(&Seen::VolumeRetry),
        What::LogRead | What::VolumeRead => !seen.contains(&Seen::LogFault),
        What::FrameSent | What::FrameReceived | What::PortBusy => seen.is_empty(),
    };
    assert!(named, "{case:?} came, and of the node was seen: {seen:?}");
    assert!(other.is_empty(), "{case:?}: the other node is not at fault, and shows {other:?}");
}

/// N = 1, 2, 3 … until the failure does not come any more. `every`: not all of them.
pub fn run_loop(variant: Variant, what: What, side: usize, lasts: bool, every: u64) -> Looped {
    let mut looped =
        Looped { what, side, lasts, runs: 0, restarts: 0, untouched_at: 0, failures: Vec::new() };
    let mut nth = 1;
    loop {
        let case = Case { variant, what, side, lasts, nth };
        looped.runs += 1;
        match attempt(&case.name(), || run(&case)) {
            Ok((true, restarts)) => looped.restarts += restarts,
            Ok((false, _)) => break,
            Err(failed) => looped.failures.push(failed),
        }
        nth += every;
        assert!(nth < 10_000, "a short workload has an end");
    }
    looped.untouched_at = nth;
    looped
}

/// All loops.
pub fn run_all(
    every: u64,
    threads: usize,
    progress: impl Fn(&str) + Sync,
) -> (Vec<Looped>, Duration) {
    let began = Instant::now();
    let mut jobs = Vec::new();
    for variant in super::script::VARIANTS {
        for what in WHATS {
            for side in [SOURCE, DESTINATION] {
                for lasts in [false, true] {
                    jobs.push((variant, what, side, lasts));
                }
            }
        }
    }
    let work = |&(variant, what, side, lasts): &(Variant, What, usize, bool)| {
        run_loop(variant, what, side, lasts, every)
    };
    let all =
        each(&jobs, threads, work, |done| progress(&format!("{done} of {} loops", jobs.len())));
    (all, began.elapsed())
}

/// For people.
pub fn text(all: &[Looped], time: Duration) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "what             node         lasts   runs  restarts  failures");
    for looped in all {
        let node = if looped.side == SOURCE { "source" } else { "destination" };
        let Looped { what, lasts, runs, restarts, failures, .. } = looped;
        let _ = writeln!(
            out,
            "{:<17}{node:<13}{:<7}{runs:>5}{restarts:>10}{:>10}",
            format!("{what:?}"),
            if *lasts { "while" } else { "once" },
            failures.len()
        );
    }
    let runs: u64 = all.iter().map(|looped| looped.runs).sum();
    let failures: usize = all.iter().map(|looped| looped.failures.len()).sum();
    let _ = writeln!(out, "{runs} runs, {failures} failures, {:.1} s", time.as_secs_f64());
    out
}
