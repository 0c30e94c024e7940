//! The scripts that fuzzing begins with: exchanges as a good host has them, and near misses, as short as they can be. They lie in
//! `corpus/` as `seed-*`; a test writes them there and compares (`tests/corpus.rs`). What else lies there was found.

use crate::host::Host;
use crate::world::{connect, connect_data};
use ibid_wire::nvme_tcp::{CAPSULE_BYTES, COMMON_BYTES, ConnectData, PduKind, TermReq};

/// A script's name and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of a target.
pub fn seeds(target: &str) -> Vec<Seed> {
    match target {
        "pdu_stream" => pdu_stream(),
        "fabrics" => fabrics(),
        "log_pages" => log_pages(),
        "auth" => auth(),
        "io" => io_commands(),
        other => panic!("there is no target {other}"),
    }
}

/// Digests of the connection, both.
const DIGESTS: u8 = 3;
const RAW: u8 = 1 << 2;
const ADMIN: u8 = 2 << 2;
const IO: u8 = 3 << 2;
const BY_SCRIPT: u8 = 2 << 4;
const AT_ONCE: u8 = 3 << 4;
const NO_FLOW_CONTROL: u8 = 1 << 6;
const PATIENT: u8 = 1 << 7;

/// Bytes as they are, in as many steps as it takes.
fn raw(bytes: &[u8]) -> Vec<u8> {
    let step = |part: &[u8]| [&[0, part.len() as u8], part].concat();
    bytes.chunks(255).flat_map(step).collect()
}

/// A command: read 0, write 1, flush 3, zeroes 4, ranges 5, AER 7; `how`: 1 in the capsule, 6 with a wrong digest.
const fn io(code: u8, cid: u8, slba: u8, blocks: u8, how: u8) -> [u8; 8] {
    [2, code, cid, 1, slba, blocks - 1, how, 7]
}

/// Data for the oldest R2T, so many bytes or all.
const fn pay(bytes: u16, tweak: u8) -> [u8; 6] {
    let [low, high] = bytes.to_le_bytes();
    [3, 0, low, high, tweak, 1]
}

const READ_ALL: [u8; 3] = [6, 0, 0];

/// The first command the shard has is answered, so.
const fn answer(how: u8) -> [u8; 3] {
    [7, 0, how]
}

/// `flags`, no alignment, all at once against byte by byte, then the steps.
fn stream(flags: u8, steps: &[&[u8]]) -> Vec<u8> {
    [&[flags, 0, 0, 0], steps.concat().as_slice()].concat()
}

fn pdu_stream() -> Vec<Seed> {
    let icreq = Host::default().initialise(0, 0);
    let connect_capsule =
        Host::default().ask(&connect(0, 5000).emit(1), &connect_data(ConnectData::CNTLID_ANY));
    let mut term = vec![0; TermReq::BYTES];
    TermReq { fes: 1, fei: 4 }.emit(&mut term);
    let term = Host::default().seal(PduKind::H2cTermReq as u8, term, &[], 0);
    // An Identify: a capsule without data whose 64 bytes are all in the script.
    let mut identify = [0; CAPSULE_BYTES - COMMON_BYTES];
    identify[..4].copy_from_slice(&[6, 0x40, 9, 0]);
    identify[32..40].copy_from_slice(&[0, 16, 0, 0, 0, 0, 0, 0x5a]);
    identify[40] = 1;
    let sealed =
        [&[1, PduKind::CapsuleCmd as u8, 0, CAPSULE_BYTES as u8, 0], &identify[..]].concat();
    vec![
        ("seed-icreq", stream(0, &[&raw(&icreq), &READ_ALL])),
        ("seed-connect", stream(RAW, &[&raw(&connect_capsule), &READ_ALL])),
        ("seed-identify", stream(ADMIN | DIGESTS, &[&sealed, &READ_ALL, &io(7, 5, 0, 1, 0)])),
        (
            "seed-inline",
            stream(IO, &[&io(1, 1, 0, 2, 1), &READ_ALL, &io(0, 2, 0, 2, 0), &READ_ALL]),
        ),
        (
            "seed-digests",
            stream(
                IO | DIGESTS | PATIENT,
                &[&io(1, 1, 0, 8, 1), &io(1, 2, 8, 8, 7), &READ_ALL, &io(0, 3, 0, 8, 0), &READ_ALL],
            ),
        ),
        (
            "seed-r2t",
            stream(
                IO | DIGESTS,
                &[&io(1, 1, 4, 16, 0), &READ_ALL, &pay(4096, 0), &pay(0, 0), &READ_ALL],
            ),
        ),
        (
            "seed-script",
            stream(
                IO | BY_SCRIPT,
                &[
                    &io(1, 1, 4, 4, 0),
                    &io(0, 2, 0, 4, 0),
                    &io(3, 3, 0, 1, 0),
                    &answer(4),
                    &READ_ALL,
                    &pay(512, 0),
                    &answer(0),
                    &pay(0, 0),
                    &answer(4),
                    &answer(8),
                    &answer(4),
                    &READ_ALL,
                ],
            ),
        ),
        (
            "seed-moves",
            stream(
                IO | BY_SCRIPT,
                &[&io(1, 1, 0, 8, 1), &answer(4), &answer(0), &answer(4), &READ_ALL],
            ),
        ),
        (
            "seed-refused",
            stream(
                IO | BY_SCRIPT | NO_FLOW_CONTROL | PATIENT,
                &[
                    &io(1, 1, 0, 8, 0),
                    &answer(4),
                    &READ_ALL,
                    &pay(1024, 0),
                    &answer(2),
                    &pay(0, 0),
                    &READ_ALL,
                ],
            ),
        ),
        (
            "seed-once",
            stream(
                IO | AT_ONCE,
                &[&io(4, 1, 0, 9, 0), &io(5, 2, 0, 1, 1), &io(0, 3, 0, 31, 0), &[6, 100, 0]],
            ),
        ),
        (
            "seed-stale",
            stream(IO, &[&io(1, 1, 4, 16, 0), &READ_ALL, &pay(0, 0), &READ_ALL, &pay(0, 2)]),
        ),
        ("seed-term", stream(IO | PATIENT, &[&io(1, 1, 4, 16, 0), &READ_ALL, &raw(&term)])),
        (
            "seed-access",
            stream(IO, &[&io(1, 1, 0, 2, 1), &[10, 0, 2], &io(0, 2, 0, 2, 0), &READ_ALL]),
        ),
        (
            "seed-reopen",
            stream(IO, &[&io(0, 1, 0, 16, 0), &[8, 3], &io(1, 1, 0, 1, 1), &[9, 3], &[5, 0, 1]]),
        ),
    ]
}

/// A connection with so many digests (0 to 3).
const fn open(digests: u8) -> [u8; 3] {
    [0, 0, digests]
}

/// A Connect: connection, queue, host and its identifier, subsystem (0 is discovery, 4 ours), the known controller that is meant, odd.
const fn connects(place: u8, qid: u8, host: u8, subsystem: u8, which: u8, odd: u8) -> [u8; 11] {
    [4, place, qid, host, 0, subsystem, which, odd, 0, 0, 0]
}

/// CC: 0 enables, 2 disables, 3 shuts down.
const fn set_cc(place: u8, which: u8) -> [u8; 11] {
    [7, place, 0, 0, 0, 0, 0, 0, which, 0, 0]
}

const fn set_feature(which: u8, value: u16) -> [u8; 10] {
    let [low, high] = value.to_le_bytes();
    [8, 0, which, low, high, 0, 0, 0, 0, 0]
}

const fn get_feature(which: u8) -> [u8; 7] {
    [9, 0, which, 0, 1, 0, 0]
}

const fn pass(time: u16) -> [u8; 4] {
    let [low, high] = time.to_le_bytes();
    [2, 0, low, high]
}

/// A controller of the first host on connection 0, with an I/O queue on connection 1.
fn session(digests: u8) -> Vec<u8> {
    [
        open(digests).as_slice(),
        &connects(0, 0, 0, 4, 0, 5),
        &set_cc(0, 0),
        &open(digests),
        &connects(1, 1, 0, 4, 0, 0),
    ]
    .concat()
}

fn fabrics() -> Vec<Seed> {
    let script = |flags: u8, steps: &[&[u8]]| [&[flags], steps.concat().as_slice()].concat();
    vec![
        ("seed-session", script(1, &[&session(0), &[13, 1, 0, 0, 0], &set_cc(0, 3)])),
        (
            "seed-properties",
            script(
                0,
                &[
                    &session(3),
                    &[6, 0, 0, 0, 0, 0],
                    &[6, 0, 1, 1, 0, 0],
                    &set_cc(0, 2),
                    &[6, 0, 3, 0, 0, 0],
                    &set_cc(0, 0),
                ],
            ),
        ),
        (
            "seed-features",
            script(
                0,
                &[
                    &session(0),
                    &set_feature(0, 1),
                    &set_feature(1, 9000),
                    &set_feature(3, 300),
                    &get_feature(0),
                    &get_feature(1),
                    &get_feature(3),
                    &[9, 0, 8, 0, 1, 0, 0, 0],
                ],
            ),
        ),
        (
            "seed-events",
            script(
                1,
                &[
                    &session(0),
                    &[11, 0, 0, 0],
                    &[11, 0, 0, 0],
                    &[10, 0, 0, 4, 0, 0],
                    &[12, 0, 0, 0],
                    &[0x8b, 0, 0, 0],
                ],
            ),
        ),
        (
            "seed-discovery",
            script(
                0,
                &[
                    &open(1),
                    &connects(0, 0, 2, 0, 0, 0),
                    &set_cc(0, 0),
                    &[14, 0, 1, 0, 255, 1, 0, 0, 0],
                ],
            ),
        ),
        (
            "seed-identify",
            script(0, &[&session(2), &[14, 0, 0, 1, 0, 0, 0, 0], &[14, 0, 0, 0, 0, 1, 0, 0]]),
        ),
        (
            "seed-two-hosts",
            script(
                1,
                &[
                    &session(0),
                    &open(0),
                    &connects(2, 0, 1, 4, 0, 5),
                    &set_cc(2, 0),
                    &open(0),
                    &connects(3, 2, 1, 4, 1, 0),
                    &connects(3, 2, 0, 4, 1, 0),
                    &[1, 0],
                    &pass(100),
                ],
            ),
        ),
        (
            "seed-keep-alive",
            script(0, &[&session(0), &pass(250), &[12, 0, 0, 0], &pass(250), &pass(200), &open(0)]),
        ),
        (
            "seed-stranger",
            script(0, &[&open(0), &connects(0, 0, 2, 4, 0, 5), &connects(0, 0, 3, 4, 0, 5)]),
        ),
    ]
}

/// Get Log Page: which (0 errors, 1 health, 2 firmware, 3 effects, 4 discovery), dwords less one, offset in dwords.
const fn log(which: u8, numd: u16, offset: u16) -> [u8; 18] {
    let [a, b] = numd.to_le_bytes();
    let [c, d] = offset.to_le_bytes();
    [0, which, 0, a, b, 0, 0, c, d, 0, 0, 0, 0, 0, 0, 2 | 1 << 2, 0, 0]
}

const fn identify(what: u8, set: u8, nsid: u8) -> [u8; 7] {
    [1, what, set, nsid, 0, 0, 0]
}

fn log_pages() -> Vec<Seed> {
    let script = |head: [u8; 2], steps: &[&[u8]]| [&head, steps.concat().as_slice()].concat();
    vec![
        ("seed-errors", script([0, 0], &[&log(0, 15, 0), &log(0, 3, 8)])),
        ("seed-health", script([0x30, 0], &[&log(1, 127, 0), &log(1, 15, 8), &log(1, 255, 100)])),
        ("seed-firmware", script([8, 0], &[&log(2, 127, 0), &log(2, 0, 127)])),
        ("seed-effects", script([3, 0], &[&log(3, 1023, 0), &log(3, 2000, 512)])),
        ("seed-discovery", script([4, 0], &[&log(4, 255, 0), &log(4, 255, 256), &log(4, 511, 0)])),
        ("seed-aligned", script([7, 7], &[&log(4, 1023, 128), &identify(1, 0, 0)])),
        (
            "seed-identify",
            script(
                [0, 0],
                &[
                    &identify(0, 0, 1),
                    &identify(1, 0, 0),
                    &identify(2, 0, 0),
                    &identify(3, 0, 2),
                    &identify(5, 0, 1),
                    &identify(6, 0, 0),
                    &identify(7, 0, 0),
                    &identify(8, 0, 1),
                    &identify(0x1c, 0, 0),
                ],
            ),
        ),
    ]
}

/// The admin connection of a host that must authenticate.
const fn enter(place: u8) -> [u8; 4] {
    [0, place, 0, 0]
}

/// Hash functions and groups to offer, as `what` says: 0 all, 4 a group, 1 the longest hash.
const fn negotiate(place: u8, what: u8) -> [u8; 8] {
    [2, place, what, 7, 0, 0, 0, 0]
}

/// A Reply, wrong in one of many ways or right (0), and whether it asks for an answer.
const fn reply(place: u8, how: u8, mutual: bool) -> [u8; 6] {
    [4, place, how, mutual as u8, 0, 0]
}

const fn fetch(place: u8) -> [u8; 3] {
    [6, place, 0]
}

const fn probe(place: u8, which: u8) -> [u8; 3] {
    [12, place, which]
}

fn auth() -> Vec<Seed> {
    let script = |flags: u8, steps: &[&[u8]]| [&[flags], steps.concat().as_slice()].concat();
    let talk = |what: u8| [&enter(0)[..], &negotiate(0, what), &fetch(0)].concat();
    let again = [&negotiate(0, 0)[..], &fetch(0)].concat();
    let success2 = [8, 0, 0, 0];
    let soon = [13, 0, 3];
    let told = [[0x4e, 0, 0, 0], [14, 0, 0, 0]].concat();
    vec![
        (
            "seed-once",
            script(0, &[&talk(0), &reply(0, 0, false), &fetch(0), &probe(0, 0), &probe(0, 1)]),
        ),
        (
            "seed-mutual",
            script(
                2,
                &[
                    &talk(1),
                    &probe(0, 2),
                    &reply(0, 0, true),
                    &fetch(0),
                    &probe(0, 0),
                    &success2,
                    &probe(0, 0),
                ],
            ),
        ),
        (
            "seed-group",
            script(0, &[&talk(4), &reply(0, 0, true), &fetch(0), &success2, &probe(0, 3)]),
        ),
        ("seed-wrong", script(2, &[&talk(0), &reply(0, 2, false), &fetch(0), &soon])),
        ("seed-reflected", script(0, &[&talk(0), &reply(0, 5, true), &soon, &fetch(0)])),
        ("seed-other", script(0, &[&talk(0), &reply(0, 1, false), &soon, &fetch(0)])),
        ("seed-order", script(2, &[&enter(0), &fetch(0), &negotiate(0, 0), &soon])),
        (
            "seed-no-room",
            script(0, &[&enter(0), &negotiate(0, 0), &[6, 0, 6], &fetch(0), &reply(0, 6, false)]),
        ),
        ("seed-nothing", script(0, &[&enter(0), &[2, 0, 8 | 4, 7, 0, 0, 0, 0], &soon, &fetch(0)])),
        ("seed-give-up", script(0, &[&talk(0), &reply(0, 0, true), &fetch(0), &[9, 0, 1, 0, 0]])),
        (
            "seed-replay",
            script(
                0,
                &[
                    &talk(0),
                    &enter(1),
                    &negotiate(1, 0),
                    &fetch(1),
                    &reply(0, 0, false),
                    &[11, 1, 0, 0],
                    &fetch(0),
                    &fetch(1),
                    &soon,
                ],
            ),
        ),
        (
            "seed-late",
            script(
                1,
                &[
                    &enter(0),
                    &negotiate(0, 0),
                    &fetch(0),
                    &told,
                    &reply(0, 0, false),
                    &fetch(0),
                    &probe(0, 0),
                ],
            ),
        ),
        (
            "seed-again",
            script(
                0,
                &[
                    &talk(0),
                    &reply(0, 0, true),
                    &fetch(0),
                    &success2,
                    &probe(0, 0),
                    &again,
                    &probe(0, 3),
                    &reply(0, 0, false),
                    &fetch(0),
                    &again,
                    &reply(0, 0, true),
                    &fetch(0),
                    &probe(0, 3),
                    &success2,
                    &probe(0, 1),
                ],
            ),
        ),
        (
            "seed-again-wrong",
            script(
                0,
                &[
                    &talk(0),
                    &reply(0, 0, false),
                    &fetch(0),
                    &probe(0, 0),
                    &again,
                    &reply(0, 2, false),
                    &probe(0, 3),
                    &soon,
                    &fetch(0),
                ],
            ),
        ),
        (
            "seed-io-queue",
            script(
                0,
                &[
                    &talk(0),
                    &reply(0, 0, false),
                    &fetch(0),
                    &probe(0, 0),
                    &[0, 1, 1, 3],
                    &negotiate(1, 0),
                    &fetch(1),
                    &reply(1, 0, false),
                    &fetch(1),
                    &probe(1, 4),
                ],
            ),
        ),
    ]
}

/// A step and a run of blocks in a namespace (0 or 1); of the second queue with 80h.
const fn on(step: u8, namespace: u8, slba: u8, blocks: u8) -> [u8; 5] {
    [step, namespace, slba, 0, blocks - 1]
}

/// So many bytes for the command that has owed data for longest, or all.
const fn owed(queue: u8, which: u8, bytes: u16) -> [u8; 5] {
    let [low, high] = bytes.to_le_bytes();
    [queue | 11, which, low, high, 0]
}

fn io_commands() -> Vec<Seed> {
    let script = |flags: u8, steps: &[&[u8]]| [&[flags], steps.concat().as_slice()].concat();
    // Step and run, then what is special: 1 is data in the capsule.
    let (write, read, compare, pair) = (0, 3, 2, 8);
    vec![
        (
            "seed-inline",
            script(
                0x0e,
                &[&on(write, 0, 0, 8), &[1], &on(read, 0, 0, 8), &[0], &on(0x83, 0, 4, 8), &[0]],
            ),
        ),
        (
            "seed-r2t",
            script(
                3,
                &[
                    &on(write, 1, 0, 2),
                    &[0],
                    &on(0x80, 0, 9, 32),
                    &[0],
                    &owed(0, 0, 512),
                    &owed(0x80, 0, 0),
                    &owed(0, 0, 0),
                    &on(read, 1, 0, 2),
                    &[0],
                ],
            ),
        ),
        (
            "seed-moves",
            script(
                0,
                &[
                    &on(write, 0, 0, 16),
                    &[0],
                    &owed(0, 0, 1000),
                    &owed(0x40, 0, 3000),
                    &owed(0x41, 0, 0),
                ],
            ),
        ),
        (
            "seed-compare",
            script(
                2,
                &[
                    &on(write, 0, 3, 2),
                    &[1],
                    &on(compare, 0, 3, 2),
                    &[1],
                    &on(compare, 0, 3, 2),
                    &[9],
                    &on(compare, 0, 3, 2),
                    &[0],
                ],
            ),
        ),
        (
            "seed-pair",
            script(
                0,
                &[
                    &on(pair, 0, 0, 4),
                    &[1, 1],
                    &on(read, 0, 0, 4),
                    &[0],
                    &on(pair, 0, 0, 4),
                    &[9, 1],
                    &on(pair, 0, 0, 4),
                    &[0, 0],
                    &owed(0, 1, 0),
                    &owed(0, 0, 0),
                ],
            ),
        ),
        (
            "seed-spoiled-pair",
            script(
                3,
                &[
                    &on(pair, 0, 0, 4),
                    &[3, 1],
                    &on(pair, 0, 0, 4),
                    &[1, 3],
                    &on(write, 0, 0, 1),
                    &[3],
                ],
            ),
        ),
        (
            "seed-unequal",
            script(
                0,
                &[&on(pair, 0, 0, 4), &[1, 0x41], &on(write, 0, 0, 16), &[0], &[11, 0, 0, 0, 1]],
            ),
        ),
        ("seed-half", script(0, &[&on(10, 0, 0, 1), &[1], &on(10, 0, 0, 1), &[0x81]])),
        (
            "seed-zeroes",
            script(
                0x80,
                &[
                    &on(write, 0, 0, 8),
                    &[1],
                    &on(4, 0, 2, 3),
                    &on(5, 0, 0, 8),
                    &[6, 1, 0, 0],
                    &[0, 1, 0, 0, 0, 7, 0, 0],
                    &on(read, 0, 0, 8),
                    &[0],
                    &[7, 1],
                ],
            ),
        ),
        (
            "seed-range",
            script(
                0,
                &[
                    &on(write, 0, 255, 4),
                    &[0],
                    &[3, 0, 0, 255, 3, 0],
                    &on(4, 1, 31, 2),
                    &on(read, 0, 0, 33),
                    &[0],
                ],
            ),
        ),
    ]
}
