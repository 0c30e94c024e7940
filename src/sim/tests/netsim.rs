//! How the link behaves, as a table of text (`netsim.snap`): goodput, frames sent again, probes, recovery, for each kind of bad cable.
//! Every row is a whole pair in virtual time, from a fixed seed: the same code gives the same table, and a change of it is a diff to be
//! read. `IBID_SNAPSHOT=write cargo test -p ibid-sim --test netsim` writes it anew.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is nothing else")]

use ibid_runtime::SyncState;
use ibid_sim::host::{Op, Request};
use ibid_sim::net::NetFaults;
use ibid_sim::random::Random;
use ibid_sim::{DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::{Nanos, VolumeId};
use std::fmt::Write as _;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netsim.snap");
/// 10 Gbit/s, in bytes.
const RATE: u64 = 1_250_000_000;
/// What the bottleneck lets wait, unless a row says otherwise: more than a window.
const QUEUE: u64 = 4 << 20;
/// Sectors of one write, and how many are under way.
const WRITE: u64 = 128;
const DEPTH: usize = 96;
const SECTORS: u64 = 32_768;
/// What stays of the goodput where one frame in a thousand is lost.
const GOODPUT_MIN: f64 = 0.85;
/// From the end of a blackout to the next acknowledgement.
const RECOVERY_MAX: Nanos = Nanos::from_millis(1_000);
/// Blocks that a new destination lacks.
const CAUGHT_UP_BLOCKS: u64 = 16_384;
/// Steps of the world after which a row has failed.
const STEPS_MAX: u64 = 4_000_000;

/// A cable, and what is sent over it.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    mtu: usize,
    /// Microseconds, there and back.
    round_trip: u64,
    faults: NetFaults,
    queue: u64,
    mib: u64,
}

const CALM: Row =
    Row { name: "", mtu: 9000, round_trip: 100, faults: NetFaults::NONE, queue: QUEUE, mib: 32 };

/// What a row measured.
struct Measured {
    /// MB of acknowledged writes in a second.
    goodput: f64,
    text: String,
}

fn config(row: &Row) -> WorldConfig {
    let mut config = WorldConfig::calm(1);
    config.segments = 8;
    config.segment_blocks = 2048;
    config.volumes = vec![(SECTORS, 4096)];
    config.cp_interval = Nanos::from_millis(10_000);
    config.mtu = row.mtu;
    config.queues = 4;
    config.queue.depth = 31;
    config.late_turns = 0;
    let half = row.round_trip * 500;
    config.net = NetFaults {
        delay: (half, half + half / 100),
        bottleneck: Some((RATE, row.queue)),
        ..row.faults
    };
    config
}

fn world(row: &Row) -> World {
    let mut world = World::new(config(row));
    world.connect();
    world.wait_connected();
    world
}

/// Writes that go on one behind the other.
struct Stream {
    next: u64,
    under: std::collections::BTreeMap<u64, u32>,
    acknowledged: u64,
}

impl Stream {
    fn new() -> Stream {
        Stream { next: 0, under: Default::default(), acknowledged: 0 }
    }

    /// Keeps `DEPTH` writes under way, up to `bytes` in all, for one step.
    fn step(&mut self, world: &mut World, bytes: u64) {
        while self.under.len() < DEPTH && self.next * WRITE * 512 < bytes {
            let Some(at) = (1..world.queues.len()).find(|at| world.queues[*at].has_room()) else {
                break;
            };
            let first = self.next * WRITE % SECTORS;
            let (write, data) = world.model.begin_write(0, first, WRITE, false);
            let op = Op::Write { data, in_capsule: false };
            world.queues[at].submit(self.next, Request::of((0, 4096), first, WRITE, op));
            self.under.insert(self.next, write);
            self.next += 1;
        }
        for (_, done) in world.step() {
            assert!(done.status.is_success(), "a write ends with {}", done.status);
            world.model.end_write(self.under.remove(&done.tag).expect("a write under way"));
            self.acknowledged += WRITE * 512;
        }
        assert!(world.steps < STEPS_MAX, "the row does not end: {}", world.tell());
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn measure(row: &Row) -> Measured {
    let mut world = world(row);
    let bytes = row.mib << 20;
    let before = world.snapshot(SOURCE);
    let began = world.now;
    let mut stream = Stream::new();
    while stream.acknowledged < bytes {
        stream.step(&mut world, bytes);
    }
    let took = world.now.since(began);
    let after = world.snapshot(SOURCE);
    let there = world.snapshot(DESTINATION);
    let goodput = bytes as f64 * 1e3 / took.get() as f64;
    let frames = after.port.tx_frames - before.port.tx_frames;
    let again = after.tx_repeated - before.tx_repeated;
    let text = format!(
        "{:<28} {:>5} {:>6} {:>9.1} {:>8.2} {:>8} {:>7} {:>7} {:>8}",
        row.name,
        row.mtu,
        row.round_trip as f64 / 1e3,
        goodput,
        percent(again, frames),
        there.rx_repeated,
        after.probes - before.probes,
        world.net.borrow().overflowed,
        after.rtt.get() / 1000,
    );
    // Whatever the cable did, both hold the same.
    world.net.borrow_mut().heal();
    world.stop();
    Measured { goodput, text }
}

/// The table's head: of frames sent, how many were sent again; frames that came twice; probe timeouts; frames that the bottleneck's queue
/// dropped; the smoothed round trip at the end.
fn head() -> String {
    format!(
        "{:<28} {:>5} {:>6} {:>9} {:>8} {:>8} {:>7} {:>7} {:>8}",
        "cable", "MTU", "RTT ms", "MB/s", "again %", "doubled", "probes", "dropped", "srtt us"
    )
}

fn rows() -> Vec<Row> {
    let faulty = |name, change: fn(&mut NetFaults)| {
        let mut row = Row { name, ..CALM };
        change(&mut row.faults);
        row
    };
    let mut rows = vec![
        Row { name: "as it should be", ..CALM },
        Row { name: "as it should be", mtu: 4200, ..CALM },
        Row { name: "as it should be", mtu: 1500, ..CALM },
        Row { name: "as it should be", round_trip: 1_000, mib: 128, ..CALM },
        Row { name: "as it should be", round_trip: 20_000, mib: 128, ..CALM },
    ];
    let lossy = [
        faulty("loss 0.1 %", |faults| faults.loss = 1),
        faulty("loss 1 %", |faults| faults.loss = 10),
        faulty("loss 5 %", |faults| faults.loss = 50),
        faulty("loss 30 %", |faults| faults.loss = 300),
    ];
    for mut row in lossy {
        // So many that the rare loss is not left to chance.
        row.mib = if row.faults.loss == 1 { 128 } else { row.mib };
        rows.push(row);
        rows.push(Row { mtu: 1500, ..row });
        rows.push(Row { round_trip: 1_000, ..row });
        rows.push(Row { round_trip: 20_000, ..row });
    }
    let late = |faults: &mut NetFaults| (faults.reorder, faults.late) = (100, (20_000, 1_000_000));
    rows.extend([
        faulty("duplicates 10 %", |faults| faults.double = 100),
        faulty("reordered 10 %, up to 1 ms", late),
        faulty("corrupted 1 %", |faults| faults.corrupt = 10),
    ]);
    for (name, queue) in [("queue of 128 KiB", 128 << 10), ("queue of 512 KiB", 512 << 10)] {
        for round_trip in [100, 1_000, 20_000] {
            rows.push(Row { name, queue, round_trip, ..CALM });
        }
    }
    rows
}

/// Nothing passes for so long, with writes under way; time from its end to the next acknowledgement.
fn blackout(length: Nanos) -> Nanos {
    let mut world = world(&Row { mib: 0, ..CALM });
    world.config.idle = Nanos::from_millis(5);
    let mut stream = Stream::new();
    while stream.acknowledged < 4 << 20 {
        stream.step(&mut world, u64::MAX);
    }
    world.net.borrow_mut().cut = true;
    let dark = world.now.after(length);
    while world.now < dark {
        stream.step(&mut world, u64::MAX);
    }
    world.net.borrow_mut().cut = false;
    let (ended, before) = (world.now, stream.acknowledged);
    while stream.acknowledged == before {
        stream.step(&mut world, u64::MAX);
    }
    let took = world.now.since(ended);
    while !stream.under.is_empty() {
        stream.step(&mut world, 0);
    }
    world.stop();
    took
}

/// A destination that is new catches up with 64 MiB while a client writes 4 KiB, one write after the other, and afterwards: what the catch-up
/// passed in MB/s, and the 50th and 99th hundredth of the writes' latency in microseconds, beside it and alone.
fn catch_up() -> (f64, [[u64; 2]; 2]) {
    let mut config = config(&CALM);
    config.volumes = vec![(CAUGHT_UP_BLOCKS * 8, 4096)];
    config.allocated = vec![(VolumeId::new(0), 0, CAUGHT_UP_BLOCKS)];
    config.catch_up_blocks = 1024;
    config.staging_blocks = 1024;
    config.cp_interval = Nanos::from_millis(10_000);
    let mut world = World::unborn(config);
    world.preload(&mut Random::new(1));
    world.start_source();
    world.start_destination();
    world.await_start();
    world.connect();
    world.run_until("catching up", |world| {
        world.snapshot(SOURCE).sync == SyncState::CatchingUp && world.snapshot(SOURCE).log_open
    });
    let (began, before) = (world.now, world.snapshot(SOURCE).port.tx_bytes);
    let mut latencies = [Vec::new(), Vec::new()];
    let mut caught_up = None;
    while latencies[1].len() < 300 {
        let is_alone = world.snapshot(SOURCE).sync == SyncState::InSync;
        if is_alone && caught_up.is_none() {
            caught_up = Some((world.now, world.snapshot(SOURCE).port.tx_bytes));
        }
        let first = (latencies[0].len() + latencies[1].len()) as u64 * 8 % SECTORS;
        let (write, data) = world.model.begin_write(0, first, 8, false);
        let asked = world.now;
        let op = Op::Write { data, in_capsule: true };
        let done = world.command(1, Request::of((0, 4096), first, 8, op));
        assert!(done.status.is_success(), "a write ends with {}", done.status);
        world.model.end_write(write);
        latencies[usize::from(is_alone)].push(world.now.since(asked).get() / 1000);
    }
    let (ended, after) = caught_up.expect("it caught up");
    let sent: u64 = after.iter().zip(before).map(|(after, before)| after - before).sum();
    let rate = sent as f64 * 1e3 / ended.since(began).get() as f64;
    world.stop();
    let hundredths = latencies.map(|mut all| {
        all.sort_unstable();
        [50, 99].map(|part| all[all.len() * part / 100])
    });
    (rate, hundredths)
}

/// Lines of one text that the other does not have in that place.
fn difference(was: &str, is: &str) -> String {
    let (mut was, mut is) = (was.lines(), is.lines());
    let mut text = String::new();
    loop {
        match (was.next(), is.next()) {
            (None, None) => return text,
            (was, is) if was == is => {}
            (was, is) => {
                was.iter().for_each(|line| writeln!(text, "- {line}").unwrap());
                is.iter().for_each(|line| writeln!(text, "+ {line}").unwrap());
            }
        }
    }
}

#[test]
fn the_link_behaves_as_its_table_says() {
    let mut text = format!("{}\n", head());
    let mut calm = std::collections::BTreeMap::new();
    for row in rows() {
        let measured = measure(&row);
        let goodput = measured.goodput;
        assert!(goodput > 0.5, "{}: nothing passes", row.name);
        let whole = *calm.entry((row.mtu, row.round_trip)).or_insert(goodput);
        if row.faults.loss == 1 {
            assert!(goodput >= GOODPUT_MIN * whole, "{}: {goodput} of {whole} MB/s", row.name);
        }
        writeln!(text, "{}", measured.text).unwrap();
    }
    writeln!(text, "\n{:<28} {:>11}", "blackout", "recovery ms").unwrap();
    for (name, length) in [("1 s", 1_000), ("60 s, the session ended", 60_000)] {
        let took = blackout(Nanos::from_millis(length));
        assert!(took < RECOVERY_MAX, "{name} dark, and {took:?} more");
        writeln!(text, "{name:<28} {:>11.1}", took.get() as f64 / 1e6).unwrap();
    }
    let (rate, [beside, alone]) = catch_up();
    assert!(beside[1] <= 3 * alone[1], "{beside:?} us beside a catch-up, {alone:?} alone");
    assert!(rate > 0.75 * RATE as f64 / 1e6, "a catch-up of {rate} MB/s");
    writeln!(
        text,
        "\n{:<28} {:>9} {:>9} {:>9}",
        "4 KiB writes, depth 1", "MB/s", "p50 us", "p99 us"
    )
    .unwrap();
    writeln!(text, "{:<28} {:>9} {:>9} {:>9}", "alone", "", alone[0], alone[1]).unwrap();
    writeln!(text, "{:<28} {rate:>9.1} {:>9} {:>9}", "beside a catch-up", beside[0], beside[1])
        .unwrap();
    if std::env::var("IBID_SNAPSHOT").is_ok_and(|value| value == "write") {
        std::fs::write(SNAPSHOT, &text).unwrap();
        return;
    }
    let was = std::fs::read_to_string(SNAPSHOT).unwrap();
    assert!(
        was == text,
        "the link behaves otherwise than {SNAPSHOT} says; where that is meant, write it anew: IBID_SNAPSHOT=write cargo test -p ibid-sim --test netsim\n{}\n{}",
        head(),
        difference(&was, &text)
    );
}
