//! kill -9 under load, again and again: whoever is killed, no acknowledged write is lost, none is torn, none comes back.
//! `make test-kill ROUNDS=300` runs hundreds of rounds; `IBID_KILL_SEED` repeats the order of an earlier run (not its timing).
//!
//! A round: two clients write to a volume each; a node, or both, is killed at a random moment and started again, sometimes killed once
//! more on its way back; when the pair is in sync, every block of both volumes is read and must be what was acknowledged last or what was
//! on its way. After the last round both nodes stop in good order and their volumes are the same, byte for byte.

use crate::common::{alone, assert_files_equal, folder, until};
use crate::link::{Link, links};
use crate::node::{DESTINATION, Pair, SOURCE, status, stop, wait_for_state};
use crate::process::Process;
use crate::stamps::{Random, Stamps, Writer};
use ibid_control::config::{Log, OnPeerLoss, Uuid, Volume};
use ibid_control::status::PairState;
use ibid_units::Nanos;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Who is killed in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Destination,
    Source,
    /// One shortly after the other, in random order.
    Both,
}

const VICTIMS: [Victim; 3] = [Victim::Destination, Victim::Source, Victim::Both];

/// Rounds in `cargo test`: well below a minute.
const ROUNDS: u64 = 6;
const VOLUME_BYTES: u64 = 8 << 20;
const DEPTH: u16 = 16;

/// Two small volumes, so that blocks are overwritten often and whole volumes are read quickly.
fn two_volumes(pair: &mut Pair) {
    for config in &mut pair.configs {
        let first = config.volumes[0].clone();
        let device = first.device.with_file_name("second.img");
        let uuid = Uuid::new(*b"\x02ibid-test-volu\x02");
        config.volumes = vec![
            Volume { size: Some(VOLUME_BYTES), ..first.clone() },
            Volume { name: "second".to_owned(), device, size: Some(VOLUME_BYTES), uuid, ..first },
        ];
        // Many CPs, so that many kills meet one.
        config.log.cp_interval = Nanos::from_millis(400);
    }
}

/// A destination that is killed must not take its peer with it: where there is a choice, not memif (decisions/0001).
fn link() -> Link {
    *links().last().expect("there is always one")
}

fn seed() -> u64 {
    let given = std::env::var("IBID_KILL_SEED").ok();
    let seed = given.map(|text| text.parse().expect("IBID_KILL_SEED is a number"));
    seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64 % 1_000_000_007
    })
}

fn pause(random: &mut Random, max_ms: u64) {
    std::thread::sleep(Duration::from_millis(random.below(max_ms + 1)));
}

/// Kills whoever it is to be, with a short time between two.
fn kill(nodes: &mut [Process; 2], victim: Victim, random: &mut Random) {
    match victim {
        Victim::Destination => nodes[DESTINATION].kill(),
        Victim::Source => nodes[SOURCE].kill(),
        Victim::Both => {
            let first = random.below(2) as usize;
            nodes[first].kill();
            pause(random, 30);
            nodes[1 - first].kill();
        }
    }
}

/// Starts whoever was killed, the one or the other first.
fn start(pair: &Pair, nodes: &mut [Process; 2], victim: Victim, random: &mut Random) {
    let order = if random.below(2) == 0 { [SOURCE, DESTINATION] } else { [DESTINATION, SOURCE] };
    for which in order {
        let was_killed = match victim {
            Victim::Destination => which == DESTINATION,
            Victim::Source => which == SOURCE,
            Victim::Both => true,
        };
        if was_killed {
            nodes[which] = pair.start(which);
            pause(random, 20);
        }
    }
}

fn check_files(pair: &Pair, stamps: &mut [Stamps]) {
    for (place, stamps) in stamps.iter_mut().enumerate() {
        let [source, destination] =
            [SOURCE, DESTINATION].map(|which| pair.configs[which].volumes[place].device.as_path());
        assert_files_equal(source, destination);
        stamps.check_file(destination);
    }
}

#[test]
fn no_acknowledged_write_is_lost_whoever_is_killed() {
    let _alone = alone();
    let rounds = std::env::var("IBID_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("IBID_KILL_ROUNDS is a number"));
    let (seed, link) = (seed(), link());
    println!("{rounds} rounds of kill -9 over {link:?}; IBID_KILL_SEED={seed}");
    let mut random = Random(seed);
    let folder = folder();
    let mut pair = Pair::new(folder.path(), link);
    two_volumes(&mut pair);
    let mut nodes = pair.start_both();
    let mut stamps: Vec<Stamps> =
        (0..2).map(|volume| Stamps::new(volume, VOLUME_BYTES, seed)).collect();
    let (began, mut acknowledged, mut kills) = (Instant::now(), 0, 0);
    for round in 1..=rounds {
        let victim = VICTIMS[random.below(VICTIMS.len() as u64) as usize];
        let (addr, nqn) = pair.target();
        let writers: Vec<Writer> =
            stamps.drain(..).map(|stamps| Writer::start(addr, &nqn, stamps, DEPTH)).collect();
        writers.iter().for_each(|writer| writer.wait_for(20));
        pause(&mut random, 700);
        kill(&mut nodes, victim, &mut random);
        kills += 1;
        // Sometimes long enough for the survivor to miss it.
        let away = if random.below(3) == 0 { 2_500 } else { 200 };
        pause(&mut random, away);
        start(&pair, &mut nodes, victim, &mut random);
        while random.below(3) == 0 {
            pause(&mut random, 500);
            kill(&mut nodes, victim, &mut random);
            kills += 1;
            start(&pair, &mut nodes, victim, &mut random);
        }
        let killed_at = Instant::now();
        pair.wait_in_sync();
        let back = killed_at.elapsed();
        if victim == Victim::Destination {
            // Its clients only had to wait.
            writers.iter().for_each(|writer| writer.wait_for(20));
        }
        for writer in writers {
            acknowledged += writer.acknowledged();
            let (model, result) = writer.finish();
            assert!(result.is_ok() || victim != Victim::Destination, "{result:?}");
            stamps.push(model);
        }
        let mut initiator = pair.connect();
        stamps.iter_mut().for_each(|stamps| stamps.check_target(&mut initiator));
        initiator.disconnect().unwrap();
        println!(
            "round {round}: {victim:?} killed, in sync after {back:?}, {acknowledged} writes acknowledged so far, all there"
        );
    }
    let [source, destination] = &mut nodes;
    assert!(stop(source).success());
    assert!(stop(destination).success());
    check_files(&pair, &mut stamps);
    println!(
        "{rounds} rounds, {kills} kills, {acknowledged} acknowledged writes in {:?}: none lost, none torn",
        began.elapsed()
    );
}

#[test]
fn a_source_that_may_goes_on_alone_and_catches_its_destination_up_while_clients_write() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), link());
    two_volumes(&mut pair);
    for config in &mut pair.configs {
        config.peer.on_loss = OnPeerLoss::Continue;
        config.peer.timeout = Nanos::from_millis(500);
    }
    let [mut source, mut destination] = pair.start_both();
    let (addr, nqn) = pair.target();
    let writers: Vec<Writer> = (0..2)
        .map(|volume| Writer::start(addr, &nqn, Stamps::new(volume, VOLUME_BYTES, 7), DEPTH))
        .collect();
    writers.iter().for_each(|writer| writer.wait_for(200));
    destination.kill();
    let alone = wait_for_state(pair.control(SOURCE), PairState::Alone);
    assert!(alone.promise.line.contains("on this node only"), "{}", alone.promise.line);
    assert!(alone.sync.alone_since_s.is_some());
    // Far more than the log holds, 16 MiB: consistency points are taken alone, and the map knows what the peer lacks.
    writers.iter().for_each(|writer| writer.wait_for(2_500));
    let lacks = pair.status(SOURCE).sync.out_of_sync_bytes;
    assert!(lacks > 0 && lacks <= 2 * VOLUME_BYTES, "{lacks}");

    let mut destination = pair.start(DESTINATION);
    until("catching up begins", || {
        let state = status(pair.control(SOURCE))?.promise.state;
        matches!(state, PairState::CatchingUp | PairState::InSync).then_some(())
    });
    // Half-way it is killed again: the position is kept.
    destination.kill();
    wait_for_state(pair.control(SOURCE), PairState::Alone);
    let began = Instant::now();
    let mut destination = pair.start(DESTINATION);
    pair.wait_in_sync();
    println!("caught up {} KiB beside a load within {:?}", lacks >> 10, began.elapsed());
    let in_sync = pair.status(SOURCE);
    assert_eq!(in_sync.sync.out_of_sync_bytes, 0);
    assert_eq!(in_sync.promise.line, "every acknowledged write is on both nodes");
    writers.iter().for_each(|writer| writer.wait_for(100));
    let mut stamps = Vec::new();
    for writer in writers {
        let (model, result) = writer.finish();
        result.unwrap();
        stamps.push(model);
    }
    let mut initiator = pair.connect();
    stamps.iter_mut().for_each(|stamps| stamps.check_target(&mut initiator));
    initiator.disconnect().unwrap();
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    check_files(&pair, &mut stamps);
}

/// Bytes of the log whose recovery is timed: small in `cargo test`, 1 GiB in `make test-kill`.
fn large_log() -> u64 {
    let given = std::env::var("IBID_RESTART_LOG_MIB").ok();
    given.map_or(64, |text| text.parse::<u64>().expect("IBID_RESTART_LOG_MIB is a number")) << 20
}

#[test]
fn a_source_with_a_full_log_serves_again_soon_after_it_was_killed() {
    /// What is promised of 1 GiB. A build without optimisation checks CRCs more slowly.
    const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });
    const TRIES: u32 = 3;
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), link());
    let log = large_log();
    two_volumes(&mut pair);
    for config in &mut pair.configs {
        config.log = Log {
            segment_size: log / 4,
            // None but those that a full segment starts.
            cp_interval: Nanos::from_millis(3_600_000),
            ..config.log.clone()
        };
        // Alone, a source drains its log only when it must: so it is as full as can be.
        config.peer.on_loss = OnPeerLoss::Continue;
        config.peer.timeout = Nanos::from_millis(500);
        for volume in &mut config.volumes {
            volume.size = Some(log);
        }
    }
    let [mut source, mut destination] = pair.start_both();
    destination.kill();
    wait_for_state(pair.control(SOURCE), PairState::Alone);
    let (addr, nqn) = pair.target();
    let mut stamps = vec![fill_log(addr, &nqn, Stamps::new(0, log, 3), pair.control(SOURCE), log)];
    let mut destination = pair.start(DESTINATION);
    until("the destination answers", || status(pair.control(DESTINATION)));
    // Machines that run tests are noisy: the best of a few counts. The later ones find less in the log, for catching up has begun.
    let mut took = Duration::MAX;
    let mut began = Instant::now();
    for attempt in 0..TRIES {
        source.kill();
        began = Instant::now();
        source = pair.start(SOURCE);
        until("the source takes writes", || {
            let state = status(pair.control(SOURCE))?.promise.state;
            let takes =
                matches!(state, PairState::CatchingUp | PairState::InSync | PairState::Alone);
            takes.then_some(())
        });
        took = began.elapsed();
        let recovery = pair.status(SOURCE).recovery.expect("a killed node recovers");
        println!("a log of {} MiB: serving {took:?} after the start; {recovery}", log >> 20);
        assert!(!recovery.clean);
        assert!(attempt > 0 || recovery.bytes > log / 2, "the log was to be full: {recovery}");
        if took < SOON {
            break;
        }
    }
    println!("{}", source.said());
    assert!(took < SOON, "{took:?}");
    pair.wait_in_sync();
    println!("in sync {:?} after the start", began.elapsed());
    let mut initiator = pair.connect();
    stamps[0].check_target(&mut initiator);
    initiator.disconnect().unwrap();
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    check_files(&pair, &mut stamps);
}

/// Writes until the open segment and those before it hold most of the log.
fn fill_log(
    addr: std::net::SocketAddr,
    nqn: &str,
    stamps: Stamps,
    control: &Path,
    log: u64,
) -> Stamps {
    let writer = Writer::start(addr, nqn, stamps, 64);
    until("the log is filled once", || {
        let volumes = status(control)?.volumes;
        let written: u64 = volumes.iter().map(|volume| volume.write_bytes).sum();
        (written > log / 4 * 3).then_some(())
    });
    let (stamps, result) = writer.finish();
    result.unwrap();
    stamps
}
