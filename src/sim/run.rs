//! One seed from beginning to end: safety, with faults, then liveness: everything that can be is put right, and within a bounded time
//! the pair must be in sync, every command ended, the log empty, both volumes equal to each other and to the model.

use crate::clients::Clients;
use crate::faults::{Classes, FAULTS};
use crate::inject::Injector;
use crate::oracle::Oracle;
use crate::swarm::Plan;
use crate::trace::{Place, Reached};
use crate::{DESTINATION, SOURCE, World};
use ibid_runtime::{PeerState, SyncState};
use ibid_units::Nanos;
use ibid_wire::disk;

/// Simulated time in which a pair that was healed has to be whole again.
const LIVENESS: Nanos = Nanos::from_millis(180_000);
/// And steps: a node that is never at rest keeps time from going on.
const LIVENESS_STEPS: u64 = 20_000_000;
/// Commands that are sent after everything was put right.
const LAST_COMMANDS: u64 = 10;
/// How often, in steps, is asked whether all is well.
const ASK_EVERY: u64 = 32;

/// What came of a seed that held.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub hash: u64,
    pub time: Nanos,
    pub steps: u64,
    pub events: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub unanswered: u64,
    pub faults: [u64; FAULTS.len()],
    pub reached: Reached,
}

/// Runs a seed. Panics where something does not hold.
pub fn run(seed: u64) -> Report {
    run_plan(Plan::from_seed(seed))
}

/// Runs a plan.
pub fn run_plan(plan: Plan) -> Report {
    let Plan { world, clients, classes, rate, steps, mut chance } = plan;
    let seed = world.seed;
    let mut world = World::unborn(world);
    world.preload(&mut chance.fork());
    let mut oracle = Oracle::new(&world);
    let mut clients = Clients::new(clients, chance.fork());
    let mut injector = Injector::new(classes, rate, chance.fork());
    world.trace.note(Place::Operator, "safety", seed);
    while !clients.is_done() && world.steps < steps {
        injector.turn(&mut world, &mut oracle);
        step(&mut world, &mut clients, &mut oracle, &classes);
    }
    world.trace.note(Place::Operator, "liveness", clients.sent());
    injector.heal(&mut world);
    clients.heal(&mut world);
    clients.only(LAST_COMMANDS);
    settle(&mut world, &mut clients, &mut oracle, &mut injector);
    oracle.turn(&mut world);
    oracle.deep(&world);
    oracle.image(&world, SOURCE);
    oracle.image(&world, DESTINATION);
    world.stop();
    oracle.turn(&mut world);
    for side in [SOURCE, DESTINATION] {
        let state = oracle.superblock(side).map(|found| found.state);
        assert!(state == Some(disk::SyncState::InSync), "V2: side {side} ends {state:?}");
    }
    Report {
        seed,
        hash: world.trace.hash(),
        time: world.now,
        steps: world.steps,
        events: world.trace.events(),
        acknowledged: clients.acknowledged,
        failed: clients.failed,
        unanswered: clients.unanswered,
        faults: world.trace.faults(),
        reached: world.trace.reached(),
    }
}

fn step(world: &mut World, clients: &mut Clients, oracle: &mut Oracle, classes: &Classes) {
    clients.turn(world, oracle, classes);
    for (_, done) in world.step() {
        clients.ended(world, oracle, done);
    }
    oracle.turn(world);
}

/// V1 to V3: everything ends, the peer is there again, the log can be drained.
fn settle(world: &mut World, clients: &mut Clients, oracle: &mut Oracle, injector: &mut Injector) {
    let began = world.now;
    let mut rounds = 0u64;
    loop {
        step(world, clients, oracle, &Classes::NONE);
        rounds += 1;
        if !rounds.is_multiple_of(ASK_EVERY) {
            continue;
        }
        injector.look(world);
        if clients.is_done() {
            let glance = world.glance(SOURCE);
            // A source that was started again may still be fetching what its peer's log has more (SYNC-2): a stop then is not a clean one.
            let whole = glance.sync == SyncState::InSync && glance.log_open;
            let whole = whole && glance.out_of_sync == 0;
            let both = [SOURCE, DESTINATION].iter().all(|side| world.is_up(*side));
            // A destination that has just been started again: its source may not have noticed that it was gone.
            let both = both && world.glance(DESTINATION).peer == PeerState::Connected;
            if whole && both && glance.commands == 0 && world.stopping == [false; 2] {
                return;
            }
        }
        assert!(
            world.now.since(began) < LIVENESS && rounds < LIVENESS_STEPS,
            "V1: all is put right, and after {:?} the pair is not whole: {}",
            LIVENESS,
            world.tell()
        );
    }
}
