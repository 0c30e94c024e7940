//! Which node is a path to the volumes: hosts at the destination, and a source that cannot serve.

use crate::{WRITES, do_read, do_write, write};
use ibid_engine::frontend::AnaState;
use ibid_runtime::Shard as _;
use ibid_sim::effects::Effect;
use ibid_sim::guard;
use ibid_sim::host::{Done, Op, Queue, QueueConfig, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::random::Random;
use ibid_sim::{Crash, DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;

const INACCESSIBLE: [AnaState; 2] = [AnaState::Inaccessible; 2];
const OPTIMIZED: [AnaState; 2] = [AnaState::Optimized; 2];

/// A host at the destination: its admin queue and one I/O queue.
struct Host {
    queues: Vec<Queue>,
}

impl Host {
    fn connect(world: &mut World) -> Host {
        let mut host = Host { queues: Vec::new() };
        for qid in 0..2 {
            let cntlid = host.queues.first().map_or(0, Queue::cntlid);
            let config = QueueConfig { qid, cntlid, ..world.config.queue };
            host.queues.push(Queue::open(&world.standby, config, Random::new(u64::from(qid))));
            for _ in 0..200_000 {
                host.step(world);
                if host.queues.iter().all(Queue::is_ready) {
                    break;
                }
            }
            assert!(host.queues.iter().all(Queue::is_ready), "queue {qid} is not connected");
        }
        host
    }

    /// One step of the world; what ended at this host. Nothing may end at another.
    fn step(&mut self, world: &mut World) -> Vec<Done> {
        assert!(world.step().is_empty());
        let mut done = Vec::new();
        for queue in &mut self.queues {
            queue.poll(world.now, &mut done);
        }
        done
    }

    fn command(&mut self, world: &mut World, request: Request) -> Status {
        self.queues[1].submit(1, request);
        for _ in 0..200_000 {
            if let Some(done) = self.step(world).pop() {
                assert_eq!(done.tag, 1);
                return done.status;
            }
        }
        panic!("a command does not end: {}", world.tell());
    }
}

fn standby(seed: u64) -> WorldConfig {
    WorldConfig {
        standby: true,
        cp_interval: Nanos::from_millis(1_000_000),
        ..WorldConfig::calm(seed)
    }
}

/// A write, a read and the rest, small and large, with data in the capsule and data that would have to be asked for.
fn requests() -> Vec<Request> {
    let request = |blocks, op| Request { nsid: 1, slba: 16, blocks, lba_bytes: 512, op };
    let data = |blocks: usize| vec![0xA7; blocks * 512];
    vec![
        request(8, Op::Write { data: data(8), in_capsule: true }),
        request(8, Op::Write { data: data(8), in_capsule: false }),
        request(2000, Op::Write { data: data(2000), in_capsule: false }),
        request(8, Op::Read),
        request(8, Op::Zeroes { deallocate: false }),
        request(8, Op::Zeroes { deallocate: true }),
        request(8, Op::Deallocate(vec![(0, 8), (16, 8)])),
        request(8, Op::Flush),
    ]
}

/// DST-3. Whatever a host sends to the destination is answered with 3/02h; its log, its memory, its volumes and its disk stay as they are.
#[test]
fn a_host_of_the_destination_is_turned_away_and_nothing_of_it_arrives() {
    let mut world = World::new(standby(1));
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 64);
    world.cp();
    do_write(&mut world, 8, 64);
    assert_eq!(world.snapshot(SOURCE).access, OPTIMIZED);
    assert_eq!(world.snapshot(DESTINATION).access, INACCESSIBLE);
    let mut host = Host::connect(&mut world);
    let arena = |world: &World| {
        let mut bytes = vec![0; world.arenas[DESTINATION].len()];
        world.arenas[DESTINATION].copy_out(0, &mut bytes);
        bytes
    };
    world.pass(Nanos::from_millis(100));
    let (before, lsn) = (arena(&world), world.snapshot(DESTINATION).lsn);
    // Those of disks: nobody writes meanwhile, on neither node.
    let disks = |world: &World| world.effects.kinds()[..Effect::Sent as usize].to_vec();
    let effects = disks(&world);
    for _ in 0..3 {
        for request in requests() {
            assert_eq!(host.command(&mut world, request), Status::ANA_INACCESSIBLE);
        }
    }
    assert!(arena(&world) == before, "a host's bytes are in the destination's memory");
    let after = world.snapshot(DESTINATION);
    assert_eq!(after.lsn, lsn);
    assert_eq!(after.target, [1, 2, 0]);
    assert_eq!(disks(&world), effects, "a disk was touched");
    // The source and its hosts have not noticed, and both volumes are what the source's hosts wrote.
    do_write(&mut world, 16, 8);
    do_read(&mut world, 0, 80);
    world.stop();
}

/// The destination polls for frames; hosts it looks for now and then, and more often only while one of them says something.
#[test]
fn a_destination_without_hosts_does_not_look_for_them_in_every_turn() {
    let mut world = World::new(standby(2));
    world.wait_connected();
    let looks = |world: &World| world.standby.borrow().looks;
    let (before, began) = (looks(&world), world.now);
    let destination = world.destination.as_mut().expect("it runs");
    for turn in 0..10_000 {
        destination.turn(began.after(Nanos::new(turn * 200)));
    }
    let looked = looks(&world) - before;
    assert!((2..=4).contains(&looked), "{looked} times in two milliseconds and ten thousand turns");
}

#[test]
fn hosts_of_the_destination_cost_no_memory_and_end_with_it() {
    let mut world = World::new(standby(3));
    world.connect();
    world.wait_connected();
    let mut host = Host::connect(&mut world);
    let mut round = |world: &mut World| {
        for request in requests() {
            assert_eq!(host.command(world, request), Status::ANA_INACCESSIBLE);
        }
    };
    round(&mut world);
    guard::count_turns(true);
    let before = guard::total();
    round(&mut world);
    guard::count_turns(false);
    assert_eq!(guard::total() - before, 0, "turns allocate");
    world.stop();
    assert_eq!(world.standby.borrow().open_to_target, 0, "a connection outlives the node");
}

/// More hosts than there is room for, and hosts that say nothing, cost the mirror nothing.
#[test]
fn silent_and_surplus_hosts_of_the_destination_harm_nobody() {
    let mut world = World::new(standby(4));
    world.connect();
    world.wait_connected();
    for _ in 0..30 {
        world.standby.borrow_mut().connect();
    }
    Load::new(LoadConfig { commands: 200, reads: 200, ..WRITES }).run(&mut world);
    assert_eq!(world.standby.borrow().open_to_target, 8);
    world.pass(Nanos::from_millis(6_000));
    assert_eq!(world.standby.borrow().open_to_target, 0, "five seconds without an ICReq");
    world.stop();
}

/// A source that starts after an unclean stop and finds nobody can neither read nor write: after a while it says so, and takes it back when
/// its peer is there.
#[test]
fn a_source_that_waits_for_its_peer_in_vain_is_no_path_until_that_is_back() {
    let mut world = World::new(WorldConfig::calm(5));
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 8);
    for side in [SOURCE, DESTINATION] {
        world.crash(side, Crash::Kill);
    }
    world.queues.clear();
    world.start_source();
    world.await_start();
    world.connect();
    assert_eq!(world.snapshot(SOURCE).access, OPTIMIZED, "its peer may come at any moment");
    let (number, request) = write(&mut world, 8, 8);
    world.queues[1].submit(1, request);
    let read = Request { nsid: 1, slba: 0, blocks: 8, lba_bytes: 512, op: Op::Read };
    world.queues[2].submit(2, read.clone());
    let mut ended = Vec::new();
    while ended.len() < 2 {
        ended.extend(world.step());
    }
    assert!(ended.iter().all(|(_, done)| done.status == Status::ANA_INACCESSIBLE), "{ended:?}");
    world.model.end_unsure(number);
    assert_eq!(world.snapshot(SOURCE).access, INACCESSIBLE);
    assert_eq!(world.command(2, read).status, Status::ANA_INACCESSIBLE);
    world.start_destination();
    world.run_until("the path", |world| world.snapshot(SOURCE).access == OPTIMIZED);
    do_write(&mut world, 16, 8);
    do_read(&mut world, 0, 24);
    world.stop();
}
