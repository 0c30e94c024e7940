//! Target `pdu_stream`: bytes of any kind into connections at any stage, cut anywhere, with any answers of the shard. What comes of it
//! must not depend on how the stream was cut.

use crate::host::pattern;
use crate::input::Input;
use crate::shard::Answers;
use crate::world::{CONNECTIONS, IN_CAPSULE, LBA_BYTES, Seen, World};
use ibid_wire::nvme_tcp::{CAPSULE_BYTES, COMMON_BYTES, DataPdu, Io, Sgl, Sqe, opcode, psdt};

/// Steps of a script, at most; libFuzzer bounds its bytes.
const STEPS_MAX: usize = 200;

/// How a script begins.
#[derive(Clone, Copy, Debug)]
struct Setup {
    digests: u8,
    stage: u8,
    answers: Answers,
    cattr: u8,
    patient: bool,
    hpda: u8,
    /// Bytes per receive in the two runs that are compared.
    steps: [usize; 2],
}

impl Setup {
    fn new(input: &mut Input<'_>) -> Self {
        let flags = input.u8();
        let hpda = input.u8();
        let (a, b) = (usize::from(input.u8()), usize::from(input.u8()));
        Self {
            digests: flags & 3,
            stage: flags >> 2 & 3,
            answers: [Answers::AtEnd, Answers::AtEnd, Answers::ByScript, Answers::AtOnce]
                [usize::from(flags >> 4 & 3)],
            cattr: if flags & 0x40 != 0 { 1 << 2 } else { 0 },
            patient: flags & 0x80 != 0,
            hpda,
            steps: [if a == 0 { usize::MAX } else { a }, b + 1],
        }
    }
}

/// Runs a script, twice where the shard's answers come at the same places however the stream is cut.
pub fn script(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let setup = Setup::new(&mut input);
    let (whole, is_the_same) = play(setup, setup.steps[0], input);
    if is_the_same && setup.answers != Answers::AtOnce {
        let (cut, _) = play(setup, setup.steps[1], input);
        for (at, (one, other)) in whole.iter().zip(&cut).enumerate() {
            assert!(one == other, "cut otherwise, {at}: {other:?} instead of {one:?}");
        }
        assert!(whole.len() == cut.len(), "cut otherwise, less is seen, or more");
    }
}

/// An attacked connection.
fn victim(world: &mut World, setup: Setup, stage: u8) -> Option<usize> {
    let place = match stage {
        0 => world.open(2),
        1 => world.initialised(setup.hpda, setup.digests),
        2 => world.admin(setup.hpda, setup.digests).map(|(admin, _)| admin),
        _ => world.connected(setup.digests, setup.cattr).map(|(io, _)| io),
    };
    // From here on commands come that no host has noted, on its admin queue, too.
    for place in 0..CONNECTIONS {
        if let Some(host) = world.host(place) {
            host.strict = false;
        }
    }
    place
}

/// Gives what was seen, and whether the same must be seen however the stream is cut.
fn play(setup: Setup, step: usize, mut input: Input<'_>) -> (Vec<Seen>, bool) {
    let mut world = World::new(setup.answers);
    let mut place = victim(&mut world, setup, setup.stage).expect("the first connection is let in");
    world.step = step;
    world.seen = Some(Vec::new());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.u8() % 11 {
            0 => {
                let count = input.u8().into();
                world.give(place, input.take(count));
            }
            1 => sealed(&mut world, place, &mut input),
            2 => command(&mut world, place, &mut input),
            3 => data(&mut world, place, &mut input),
            4 => {
                let (len, seed) = (input.u16() % (IN_CAPSULE as u16 + 1), input.u8());
                world.give(place, &pattern(len.into(), seed));
            }
            5 => world.pass(u64::from(input.u16()) * 4),
            6 => match input.u16() {
                0 => world.read_all(),
                // How long a last word is depends on the cut, so that it must be read as a whole.
                _ if world.is_closing(place) => world.read(place, usize::MAX),
                most => world.read(place, most.into()),
            },
            7 => world.answer(&mut input),
            8 => {
                world.close(place);
                let stage = input.u8() & 3;
                place = attack(&mut world, setup, stage).unwrap_or(place);
            }
            10 => world.set_access(&mut input),
            _ => {
                let choice = input.u8();
                let other = usize::from(choice >> 2) % CONNECTIONS;
                if world.is_open(other) {
                    place = other;
                } else {
                    place = attack(&mut world, setup, choice & 3).unwrap_or(place);
                }
            }
        }
        world.audit();
    }
    let seen = world.seen.take().unwrap_or_default();
    let is_the_same = !world.shard.digest_was_wrong;
    world.finish(setup.patient);
    (seen, is_the_same)
}

/// One more connection, at a stage that can be reached with what is there: handshakes of a good host need free places.
fn attack(world: &mut World, setup: Setup, stage: u8) -> Option<usize> {
    let free = (0..CONNECTIONS).filter(|&place| !world.is_open(place)).count();
    let stage = if free < 2 || world.frontend.controllers_open() > 1 { stage & 1 } else { stage };
    let step = std::mem::replace(&mut world.step, usize::MAX);
    let place = victim(world, setup, stage);
    world.step = step;
    place
}

/// A PDU whose digests and lengths are right and whose fields are anything.
fn sealed(world: &mut World, place: usize, input: &mut Input<'_>) {
    let (kind, flags, header, data) = (input.u8(), input.u8(), input.u8(), input.u8());
    let mut head = vec![0; usize::from(header).max(COMMON_BYTES)];
    let fields = input.take(head.len() - COMMON_BYTES);
    head[COMMON_BYTES..][..fields.len()].copy_from_slice(fields);
    let data = input.take(data.into());
    if let Some(host) = world.host(place) {
        let bytes = host.seal(kind, head, data, flags);
        world.give(place, &bytes);
    }
}

/// A read, a write or something near it.
fn command(world: &mut World, place: usize, input: &mut Input<'_>) {
    let code = input.of(&[
        opcode::READ,
        opcode::WRITE,
        opcode::COMPARE,
        opcode::FLUSH,
        opcode::WRITE_ZEROES,
        opcode::DATASET_MANAGEMENT,
        opcode::FABRICS,
        opcode::ASYNC_EVENT_REQUEST,
    ]);
    let (cid, nsid) = (input.u8() & 15, input.u8() & 3);
    let (slba, blocks) = (input.u8(), input.u8() & 31);
    let (how, seed) = (input.u8(), input.u8());
    let io = Io { slba: slba.into(), blocks: u32::from(blocks) + 1, fua: how & 8 != 0 };
    let mut sqe: Sqe = io.emit(code, cid.into(), nsid.into());
    let lba = LBA_BYTES[usize::from(nsid == 2)];
    let bytes = io.blocks * lba;
    let inline = how & 1 != 0 && bytes <= 2 * IN_CAPSULE;
    sqe.sgl = if inline { Sgl::in_capsule(bytes) } else { Sgl::transport(bytes) };
    match how >> 4 {
        1 => sqe.sgl.length ^= 1 << (seed & 31),
        2 => sqe.sgl.kind ^= seed,
        3 => sqe.flags = seed,
        4 => sqe.sgl.address = seed.into(),
        5 => sqe.flags = psdt::SGL_METADATA,
        _ => {}
    }
    let data = if inline { pattern(bytes as usize, seed) } else { Vec::new() };
    if let Some(host) = world.host(place) {
        let mut head = vec![0; CAPSULE_BYTES];
        sqe.emit(&mut head[COMMON_BYTES..]);
        let mut bytes = host.seal(ibid_wire::nvme_tcp::PduKind::CapsuleCmd as u8, head, &data, 0);
        if how & 6 == 6 {
            // One bit differs: the end of a data digest where there is one.
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        world.give(place, &bytes);
    }
}

/// Data for an R2T, or something near it.
fn data(world: &mut World, place: usize, input: &mut Input<'_>) {
    let (which, len, tweak, seed) = (input.u8(), input.u16(), input.u8(), input.u8());
    let Some(host) = world.host(place) else { return };
    if host.r2ts.is_empty() {
        return;
    }
    let index = usize::from(which) % host.r2ts.len();
    let (r2t, paid) = host.r2ts[index];
    let left = r2t.r2tl - paid;
    let len = if len == 0 { left } else { u32::from(len).min(left.max(1)) };
    let mut pdu = DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao: paid, datal: len };
    let mut last = paid + len == r2t.r2tl;
    match tweak & 15 {
        1 => pdu.cccid ^= u16::from(seed),
        2 => pdu.ttag ^= 1 << (seed & 15),
        3 => pdu.datao ^= 1 << (seed & 31),
        4 => pdu.datal ^= 1 << (seed & 31),
        5 => last = !last,
        6 => pdu.datao = pdu.datao.wrapping_sub(len),
        _ => {}
    }
    let mut bytes = host.h2c(pdu, &pattern(len as usize, seed), last);
    if tweak & 0x80 != 0 {
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
    }
    host.r2ts[index].1 = paid + len;
    if paid + len >= r2t.r2tl {
        host.r2ts.remove(index);
    }
    world.give(place, &bytes);
}
