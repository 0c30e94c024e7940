//! E1, the crash-point sweep: one fixed workload; behind each effect of a node, its power goes, or the peer's, or both, and of what was not
//! flushed any part survives. It starts again, perhaps to lose its power once more while it recovers, and the workload goes on to its end.
//! Then the pair is whole, and both volumes are each other's and what the model says.

use super::pool::{Failed, attempt, each};
use super::script::{Script, Variant, config, settle, whole};
use crate::disk::cut::{Survive, Unflushed};
use crate::effects::{EFFECTS, Effect};
use crate::random::Random;
use crate::trace::Event;
use crate::{DESTINATION, SOURCE, World};
use ibid_units::Nanos;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Who loses power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    Source,
    Destination,
    Both,
}

pub const VICTIMS: [Victim; 3] = [Victim::Source, Victim::Destination, Victim::Both];

impl Victim {
    pub const fn name(self) -> &'static str {
        match self {
            Victim::Source => "source",
            Victim::Destination => "destination",
            Victim::Both => "both",
        }
    }

    pub fn parse(text: &str) -> Option<Victim> {
        VICTIMS.into_iter().find(|victim| victim.name() == text)
    }

    fn sides(self) -> [bool; 2] {
        [self != Victim::Destination, self != Victim::Source]
    }
}

/// Where power goes and what is left.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub variant: Variant,
    /// Behind this effect.
    pub boundary: u64,
    pub victim: Victim,
    pub survive: Survive,
    /// So many effects after the restart power goes once more, and anything survives.
    pub again: Option<u64>,
}

impl Point {
    /// As the command line takes it.
    pub fn name(&self) -> String {
        let again = self.again.map_or(String::new(), |again| format!(" --again {again}"));
        let Point { variant, boundary, victim, survive, .. } = self;
        format!(
            "cargo xtask sweep at {} {boundary} {} {}{again}",
            variant.name(),
            victim.name(),
            survive.name()
        )
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What there was to choose from, of each side.
    pub unflushed: [Unflushed; 2],
    /// The effect behind which power went.
    pub last: Option<(usize, Effect)>,
    pub recoveries: u64,
    /// Effects of the whole run, by kind.
    pub kinds: [u64; EFFECTS.len()],
    pub effects: u64,
}

/// How long a node is down, by chance of the point: not at all, a moment, longer than a peer's patience.
const DOWN: [Nanos; 3] = [Nanos::ZERO, Nanos::from_millis(30), Nanos::from_millis(1500)];

/// The workload without any harm: its effects. All that it waits for comes.
pub fn undisturbed(variant: Variant) -> Ran {
    let (mut world, mut script) = begin(variant);
    while !script.is_done() {
        script.turn(&mut world);
    }
    assert!(script.untroubled, "the workload reaches what it is to reach");
    assert_eq!((script.failed, script.unanswered), (0, 0));
    settle(&mut world, &mut script, |_| {});
    let (effects, kinds) = (world.effects.count(), world.effects.kinds());
    world.stop();
    Ran { unflushed: Default::default(), last: None, recoveries: 0, kinds, effects }
}

fn begin(variant: Variant) -> (World, Script) {
    let mut world = World::unborn(config(variant));
    world.start_source();
    world.start_destination();
    (world, Script::new(whole(variant)))
}

/// One crash and everything after it.
pub fn run(point: &Point) -> Ran {
    let (mut world, mut script) = begin(point.variant);
    world.effects.cut_after(point.boundary, point.victim.sides());
    let mut random = Random::new(point.boundary * 3 + point.victim as u64);
    let mut again = point.again;
    let mut down: [Option<Nanos>; 2] = [None, None];
    let mut ran = Ran {
        unflushed: Default::default(),
        last: None,
        recoveries: 0,
        kinds: [0; EFFECTS.len()],
        effects: 0,
    };
    let mut operate = |world: &mut World, ran: &mut Ran| {
        if let Some((dead, last)) = world.effects.take_dead() {
            let first = ran.last.is_none();
            for side in (0..2).filter(|side| dead[*side]) {
                let survive = if first { point.survive } else { Survive::Random(random.word()) };
                if first {
                    ran.unflushed[side] = world.files[side].borrow().unflushed(&world.arenas[side]);
                }
                cut(world, side, survive);
                down[side] = Some(world.now.after(DOWN[random.below(3) as usize]));
            }
            ran.last.get_or_insert(last);
        }
        for side in [DESTINATION, SOURCE] {
            if down[side].is_some_and(|until| until <= world.now) {
                down[side] = None;
                ran.recoveries += 1;
                world.start(side);
                if let Some(more) = again.take() {
                    world.effects.cut_after(world.effects.count() + more, point.victim.sides());
                }
            }
        }
        assert!(world.refused.iter().all(Option::is_none), "refused: {:?}", world.refused);
    };
    while !script.is_done() {
        script.turn(&mut world);
        operate(&mut world, &mut ran);
    }
    world.net.borrow_mut().cut = false;
    settle(&mut world, &mut script, |world| operate(world, &mut ran));
    (ran.effects, ran.kinds) = (world.effects.count(), world.effects.kinds());
    // Where the pair was whole before power was to go again.
    world.effects.spare();
    world.stop();
    ran
}

fn cut(world: &mut World, side: usize, survive: Survive) {
    world.trace.event(side, Event::PowerCut, 0);
    if world.runs(side) {
        world.files[side].borrow_mut().power_cut_to(&world.arenas[side], survive);
        if side == SOURCE {
            world.model.crash();
        }
        world.end_node(side);
    }
}

/// How much is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// One boundary in so many; strata: each kind of effect has its share.
    pub every: u64,
    /// All subsets that are told apart below, not a few.
    pub whole: bool,
    pub threads: usize,
    /// Begins somewhere else.
    pub offset: u64,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    pub boundaries: u64,
    pub points: u64,
    pub runs: u64,
    pub recoveries: u64,
    pub kinds: [u64; EFFECTS.len()],
    pub struck: [u64; EFFECTS.len()],
    pub failures: Vec<Failed>,
    pub time: Duration,
}

/// Subsets of what was not flushed that are tried behind one effect.
fn subsets(unflushed: &[Unflushed; 2], sweep: &Sweep, random: &mut Random) -> Vec<Survive> {
    let sectors = unflushed.iter().map(Unflushed::sectors).max().unwrap_or_default();
    if sectors == 0 {
        return Vec::new();
    }
    let completed = unflushed.iter().map(|found| found.completed).max().unwrap_or_default();
    let flying = unflushed.iter().map(|found| found.flying.len()).max().unwrap_or_default() as u64;
    let mut all = vec![Survive::All];
    if completed > 0 && flying > 0 {
        all.push(Survive::Completed);
    }
    let (singles, masks, randoms) = if sweep.whole { (64, 16, 16) } else { (1, 1, 1) };
    if sectors <= singles {
        all.extend((0..sectors).map(Survive::Single));
    } else {
        all.extend((0..singles).map(|_| Survive::Single(random.below(sectors))));
    }
    if sweep.whole {
        all.extend((0..4).map(|_| Survive::AllBut(random.below(sectors))));
    }
    for write in 0..flying.min(if sweep.whole { 64 } else { 1 }) {
        // Shorn: the first 3/8 or 7/8 of each 4 KiB; and any.
        let shorn = [0x07, 0x7F].map(|mask: u64| mask * 0x0101_0101_0101_0101);
        let any = (0..masks).map(|_| random.word());
        let some: Vec<u64> = shorn.into_iter().chain(any).collect();
        let count = if sweep.whole { some.len() } else { 1 };
        let from = random.below(some.len() as u64) as usize;
        for n in 0..count {
            let mask = some[(from + n) % some.len()];
            all.push(Survive::Torn { write, mask, rest: n % 2 == 0 });
        }
    }
    all.extend((0..randoms).map(|_| Survive::Random(random.word())));
    all
}

/// Sweeps a variant.
pub fn sweep(variant: Variant, sweep: Sweep, progress: impl Fn(&str) + Sync) -> Swept {
    let began = Instant::now();
    let calm = undisturbed(variant);
    let count = calm.effects;
    let mut random = Random::new(sweep.every ^ sweep.offset << 32);
    let mut jobs = Vec::new();
    let mut from = 1;
    while from <= count {
        // One of each stratum; every boundary where there is one in each.
        let to = (from + sweep.every).min(count + 1);
        let boundary = from + random.below(to - from);
        for victim in VICTIMS {
            jobs.push((boundary, victim, random.word()));
        }
        from = to;
    }
    let one = |&(boundary, victim, seed): &(u64, Victim, u64)| {
        let mut random = Random::new(seed);
        let mut swept = Swept { points: 1, ..Swept::default() };
        let mut strike = |survive, again| {
            let point = Point { variant, boundary, victim, survive, again };
            swept.runs += 1;
            let name = point.name();
            match attempt(&name, || run(&point)) {
                Ok(ran) => {
                    swept.recoveries += ran.recoveries;
                    Some(ran)
                }
                Err(failed) => {
                    swept.failures.push(failed);
                    None
                }
            }
        };
        if let Some(first) = strike(Survive::None, None) {
            let (_, effect) = first.last.expect("power went");
            let all = subsets(&first.unflushed, &sweep, &mut random);
            for survive in all {
                let again = random.chance(250).then(|| 1 + random.below(120));
                strike(survive, again);
            }
            swept.struck[effect as usize] += 1;
        }
        swept
    };
    let parts = each(&jobs, sweep.threads, one, |done| {
        progress(&format!("{variant:?}: {done} of {} points", jobs.len()));
    });
    let mut sum =
        Swept { boundaries: count, kinds: calm.kinds, time: began.elapsed(), ..Swept::default() };
    for part in parts {
        sum.points += part.points;
        sum.runs += part.runs;
        sum.recoveries += part.recoveries;
        sum.failures.extend(part.failures);
        for (sum, struck) in sum.struck.iter_mut().zip(part.struck) {
            *sum += struck;
        }
    }
    sum
}

impl Swept {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} boundaries, {} points (boundary and victim), {} runs with a subset each, {} recoveries, {} failures, {:.1} s",
            self.boundaries,
            self.points,
            self.runs,
            self.recoveries,
            self.failures.len(),
            self.time.as_secs_f64()
        );
        for ((_, name), (count, struck)) in EFFECTS.iter().zip(self.kinds.iter().zip(self.struck)) {
            let _ = writeln!(out, "  {name:<36}{count:>8} boundaries{struck:>8} points");
        }
        out
    }
}
