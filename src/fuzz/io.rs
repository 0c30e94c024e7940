//! Target `io`: I/O commands of a good host and of one that is nearly good, on two queues, with data in the capsule or by R2T in parts of
//! any size that interleave, pairs of compare and write, and pages that move. A copy of the volumes beside the target says what
//! every command must come to, and what every byte must be.

use crate::host::{Done, by_transport, in_capsule, pattern};
use crate::input::Input;
use crate::shard::{Answers, TRANSFER, VOLUME_BYTES, VOLUMES};
use crate::world::{DEPTH, IN_CAPSULE, LBA_BYTES, World, connect, connect_data};
use ibid_wire::nvme_tcp::{DataPdu, Deallocate, DsmRange, Io, Sgl, Sqe, Status, opcode, psdt};
use std::collections::BTreeMap;
use std::ops::Range;

/// Steps of a script, at most.
const STEPS_MAX: usize = 100;
/// Commands that may owe data on a queue: with a pair more it is not full.
const OWING_MAX: usize = DEPTH as usize - 3;

/// What a command must come to.
#[derive(Debug)]
enum Expected {
    This(Status),
    Data(Vec<u8>),
    /// Any error.
    Refusal,
}

/// A command whose data is on its way.
#[derive(Debug)]
struct Owing {
    cid: u16,
    is_write: bool,
    place: Range<usize>,
    data: Vec<u8>,
    /// Bytes of the data that were sent.
    paid: usize,
    /// A digest of them was wrong.
    spoiled: bool,
    /// The other command of its pair.
    pair: Option<u16>,
}

impl Owing {
    fn is_there(&self) -> bool {
        self.paid == self.data.len()
    }
}

/// One queue.
struct Queue {
    place: usize,
    digests: bool,
    owing: Vec<Owing>,
    expected: BTreeMap<u16, Expected>,
}

struct Model {
    queues: Vec<Queue>,
    /// Both volumes, one behind the other.
    mirror: Vec<u8>,
    serial: u16,
}

/// Runs a script.
pub fn script(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let mut world = World::new(Answers::AtEnd);
    let (first, admin) = world.connected(flags & 3, 0).expect("a good host is let in");
    let digests = flags >> 2 & 3;
    let second = world.initialised(flags >> 4, digests).expect("a good host is let in");
    let cntlid = 1;
    world.ask(second, &connect(2, 0).emit(1), &connect_data(cntlid));
    world.read_all();
    for place in [admin, first, second] {
        let host = world.host(place).expect("a good host stays");
        assert!(host.done.drain(..).all(|done| done.status.is_success()), "a good connect");
    }
    let queue = |place, digests: u8| Queue {
        place,
        digests: digests & 2 != 0,
        owing: Vec::new(),
        expected: BTreeMap::new(),
    };
    let mut model = Model {
        queues: vec![queue(first, flags), queue(second, digests)],
        mirror: vec![0; (u64::from(VOLUMES) * VOLUME_BYTES) as usize],
        serial: 0,
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let q = usize::from(step >> 7);
        if step & 0x40 != 0 {
            // Where a write's data comes, its pages move now.
            world.answer(&mut Input::new(&[step & 7, 0]));
        }
        model.step(&mut world, q, step & 15, &mut input);
        model.hear(&mut world, q);
        world.audit();
    }
    for q in 0..model.queues.len() {
        model.hear(&mut world, q);
        while let Some(owing) = model.queues[q].owing.first() {
            let cid = owing.cid;
            model.pay(&mut world, q, cid, u32::MAX, 0);
            model.hear(&mut world, q);
        }
        assert!(model.queues[q].expected.is_empty(), "{:?} never ends", model.queues[q].expected);
    }
    for volume in 0..VOLUMES {
        let kept = world.shard.volume(volume, 0, VOLUME_BYTES);
        let at = usize::from(volume) * VOLUME_BYTES as usize;
        assert!(
            kept == &model.mirror[at..][..kept.len()],
            "volume {volume} is not what was written"
        );
    }
    world.finish(flags & 0x80 != 0);
}

/// A run of a namespace; the bytes of it in the mirror if there are such.
#[derive(Clone, Copy)]
struct Run {
    nsid: u32,
    io: Io,
    bytes: usize,
    at: Option<usize>,
}

impl Run {
    fn new(input: &mut Input<'_>) -> Self {
        let (nsid, slba, blocks) = (input.u8(), input.u16(), input.u8());
        let nsid = if nsid < 250 { u32::from(nsid & 1) + 1 } else { u32::from(nsid) };
        let lba = LBA_BYTES[usize::from(nsid == 2)];
        let count = VOLUME_BYTES / u64::from(lba);
        // Near the end now and then, and far behind it.
        let slba = if slba < 0xff00 {
            u64::from(slba) % (count + 2)
        } else {
            u64::MAX - u64::from(blocks)
        };
        let most = TRANSFER / lba;
        let blocks = u32::from(blocks) % (most + 1) + 1;
        let bytes = (blocks * lba) as usize;
        let lies = nsid <= 2 && slba.checked_add(blocks.into()).is_some_and(|end| end <= count);
        let at =
            lies.then(|| (u64::from(nsid - 1) * VOLUME_BYTES + slba * u64::from(lba)) as usize);
        Self { nsid, io: Io { slba, blocks, fua: false }, bytes, at }
    }
    fn place(&self) -> Option<Range<usize>> {
        self.at.map(|at| at..at + self.bytes)
    }
    fn fits(&self) -> bool {
        self.bytes <= TRANSFER as usize
    }
}

impl Model {
    fn cid(&mut self) -> u16 {
        self.serial += 1;
        self.serial
    }

    fn expect(&mut self, q: usize, cid: u16, what: Expected) {
        self.queues[q].expected.insert(cid, what);
    }

    fn step(&mut self, world: &mut World, q: usize, kind: u8, input: &mut Input<'_>) {
        let place = self.queues[q].place;
        let may_owe = self.queues[q].owing.len() < OWING_MAX;
        match kind {
            0..=2 if may_owe => {
                let (run, how) = (Run::new(input), input.u8());
                let code = if kind == 2 { opcode::COMPARE } else { opcode::WRITE };
                let data = self.data(&run, code, how);
                self.give(world, q, code, 0, run, how, data, None);
            }
            3 => {
                let (run, odd) = (Run::new(input), input.u8());
                let cid = self.cid();
                let read = run.io.emit(opcode::READ, cid, run.nsid);
                let mut sqe = by_transport(read, run.bytes);
                if odd > 240 {
                    sqe.sgl.length ^= 512;
                }
                let is_right = run.fits() && odd <= 240;
                let expected = match run.place() {
                    Some(place) if is_right => Expected::Data(self.mirror[place].to_vec()),
                    _ => Expected::Refusal,
                };
                self.expect(q, cid, expected);
                world.ask(place, &sqe, &[]);
            }
            4 | 5 => {
                let (run, is_verify) = (Run::new(input), kind == 5);
                let cid = self.cid();
                let sqe = if is_verify {
                    run.io.emit(opcode::VERIFY, cid, run.nsid)
                } else {
                    run.io.emit_zeroes(cid, run.nsid, run.bytes & 1024 != 0)
                };
                let expected = match run.place() {
                    Some(place) => {
                        if !is_verify {
                            self.mirror[place].fill(0);
                        }
                        Expected::This(Status::SUCCESS)
                    }
                    None => Expected::Refusal,
                };
                self.expect(q, cid, expected);
                world.ask(place, &sqe, &[]);
            }
            6 => self.ranges(world, q, input),
            7 => {
                let cid = self.cid();
                let nsid = u32::from(input.u8() & 3);
                let expected = if matches!(nsid, 1 | 2) {
                    Expected::This(Status::SUCCESS)
                } else {
                    Expected::Refusal
                };
                self.expect(q, cid, expected);
                world.ask(place, &Sqe::new(opcode::FLUSH, cid, nsid), &[]);
            }
            8 | 9 if may_owe => self.pair(world, q, input),
            // A first or a second command without the other.
            10 if may_owe => {
                let (run, how) = (Run::new(input), input.u8());
                let (code, fuse) = if how & 0x80 == 0 {
                    (opcode::COMPARE, psdt::FUSE_FIRST)
                } else {
                    (opcode::WRITE, psdt::FUSE_SECOND)
                };
                let cid = self.cid();
                let sqe = in_capsule(run.io.emit(code, cid, run.nsid), run.bytes).fused(fuse);
                if run.bytes <= IN_CAPSULE as usize {
                    self.expect(q, cid, Expected::Refusal);
                    world.ask(place, &sqe, &pattern(run.bytes, how));
                    // What comes next ends it, whatever that is.
                    let cid = self.cid();
                    self.expect(q, cid, Expected::This(Status::SUCCESS));
                    world.ask(place, &Sqe::new(opcode::FLUSH, cid, 1), &[]);
                }
            }
            _ => {
                let (which, len, odd) = (input.u8(), input.u16(), input.u8());
                let owing = &self.queues[q].owing;
                if let Some(owing) = owing.get(usize::from(which) % owing.len().max(1)) {
                    let (cid, len) = (owing.cid, if len == 0 { u32::MAX } else { len.into() });
                    self.pay(world, q, cid, len, odd);
                }
            }
        }
    }

    /// Data for a write, or for a compare what is there, or nearly.
    fn data(&self, run: &Run, code: u8, how: u8) -> Vec<u8> {
        match run.place() {
            Some(place) if code == opcode::COMPARE && how & 8 == 0 => self.mirror[place].to_vec(),
            _ => pattern(run.bytes, how ^ self.serial as u8),
        }
    }

    /// Gives a write or compare. `how`: 1 in the capsule, 2 a wrong digest, 4 an SGL of another length. Its identifier.
    #[expect(clippy::too_many_arguments, reason = "a command has so many parts")]
    fn give(
        &mut self,
        world: &mut World,
        q: usize,
        code: u8,
        fuse: u8,
        run: Run,
        how: u8,
        data: Vec<u8>,
        pair: Option<u16>,
    ) -> u16 {
        let cid = self.cid();
        let place = self.queues[q].place;
        let bare = run.io.emit(code, cid, run.nsid).fused(fuse);
        let inline = how & 1 != 0 && run.bytes <= IN_CAPSULE as usize;
        let is_odd = how & 4 != 0 && !inline && fuse == 0;
        let mut sqe = bare;
        sqe.sgl = if inline {
            Sgl::in_capsule(run.bytes as u32)
        } else {
            Sgl::transport(run.bytes as u32 ^ if is_odd { 512 } else { 0 })
        };
        let spoiled = inline && how & 2 != 0 && self.queues[q].digests;
        let Some(host) = world.host(place) else { panic!("a good host's connection is gone") };
        let mut bytes = host.ask(&sqe, if inline { &data } else { &[] });
        if spoiled {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        if let (Some(place), true, false) = (run.place(), run.fits(), is_odd) {
            let paid = if inline { data.len() } else { 0 };
            let is_write = code == opcode::WRITE;
            self.queues[q].owing.push(Owing { cid, is_write, place, data, paid, spoiled, pair });
        } else {
            self.expect(q, cid, Expected::Refusal);
        }
        if fuse != psdt::FUSE_FIRST {
            self.resolve(q);
        }
        world.give(place, &bytes);
        cid
    }

    /// A compare and a write that are one.
    fn pair(&mut self, world: &mut World, q: usize, input: &mut Input<'_>) {
        let (run, how, second) = (Run::new(input), input.u8(), input.u8());
        // Longer ones are refused; how, that is told by what a single one comes to.
        if run.place().is_none() || run.bytes > IN_CAPSULE as usize {
            return;
        }
        if second & 0x40 != 0 {
            self.unequal_pair(world, q, run);
            return;
        }
        let compared = self.data(&run, opcode::COMPARE, how);
        let next = self.serial + 2;
        let how = how & 0xfb;
        let first =
            self.give(world, q, opcode::COMPARE, psdt::FUSE_FIRST, run, how, compared, Some(next));
        let data = pattern(run.bytes, second ^ 0x55);
        let second = second & 0xfb;
        self.give(world, q, opcode::WRITE, psdt::FUSE_SECOND, run, second, data, Some(first));
    }

    /// A compare and a write of another range: neither has an effect.
    fn unequal_pair(&mut self, world: &mut World, q: usize, run: Run) {
        let place = self.queues[q].place;
        let data = pattern(run.bytes, 0x11);
        let other = Io { slba: run.io.slba ^ 1, ..run.io };
        for (code, io, fuse) in
            [(opcode::COMPARE, run.io, psdt::FUSE_FIRST), (opcode::WRITE, other, psdt::FUSE_SECOND)]
        {
            let cid = self.cid();
            self.expect(q, cid, Expected::Refusal);
            let sqe = in_capsule(io.emit(code, cid, run.nsid).fused(fuse), run.bytes);
            world.ask(place, &sqe, &data);
        }
    }

    fn ranges(&mut self, world: &mut World, q: usize, input: &mut Input<'_>) {
        let (count, nsid, flags) = (input.u8() % 5 + 1, u32::from(input.u8() & 1) + 1, input.u8());
        let cid = self.cid();
        let mut list = Vec::new();
        let mut places = Some(Vec::new());
        for _ in 0..count {
            let run = Run { nsid, ..Run::new(input) };
            let lba = LBA_BYTES[usize::from(nsid == 2)];
            let Io { slba, blocks, .. } = run.io;
            let end = slba.checked_add(blocks.into());
            if end.is_some_and(|end| end <= VOLUME_BYTES / u64::from(lba)) {
                let at = u64::from(nsid - 1) * VOLUME_BYTES + slba * u64::from(lba);
                let range = at as usize..at as usize + (blocks * lba) as usize;
                places = places.map(|mut places| {
                    places.push(range);
                    places
                });
            } else {
                places = None;
            }
            let mut bytes = [0; DsmRange::BYTES];
            DsmRange { attributes: 0, blocks, slba }.emit(&mut bytes);
            list.extend_from_slice(&bytes);
        }
        let deallocate = flags & 1 == 0;
        let sqe = Deallocate { ranges: count.into(), deallocate }.emit(cid, nsid);
        let expected = match (places, deallocate) {
            (Some(places), true) => {
                for place in places {
                    self.mirror[place].fill(0);
                }
                Expected::This(Status::SUCCESS)
            }
            (None, true) => Expected::Refusal,
            (_, false) => Expected::This(Status::SUCCESS),
        };
        self.expect(q, cid, expected);
        world.ask(self.queues[q].place, &sqe, &list);
    }

    /// Sends a part of the data that a command owes. `odd`: with a wrong digest, or in two pieces between which its pages move.
    fn pay(&mut self, world: &mut World, q: usize, cid: u16, len: u32, odd: u8) {
        let queue = &mut self.queues[q];
        let digests = queue.digests;
        world.read(queue.place, usize::MAX);
        let host = world.host(queue.place).expect("a good host's connection stays");
        let r2t = host.r2ts.iter().position(|(r2t, _)| r2t.cccid == cid);
        let owing = queue.owing.iter_mut().find(|owing| owing.cid == cid);
        let (Some(r2t), Some(owing)) = (r2t, owing) else {
            // It ended before its data was asked for, or is to be ended by the other one of its pair.
            let pair = queue.owing.iter().find(|owing| owing.cid == cid).and_then(|it| it.pair);
            assert!(
                !host.awaits(cid) || pair.is_some_and(|pair| host.awaits(pair)),
                "command {cid} is never asked for its data, and never ends"
            );
            if let Some(pair) = pair.filter(|_| host.awaits(cid)) {
                self.pay(world, q, pair, len, 0);
            }
            return;
        };
        let (head, _) = host.r2ts[r2t];
        let left = owing.data.len() - owing.paid;
        let len = left.min(len as usize);
        let part = &owing.data[owing.paid..][..len];
        let pdu =
            DataPdu { cccid: cid, ttag: head.ttag, datao: owing.paid as u32, datal: len as u32 };
        let mut bytes = host.h2c(pdu, part, len == left);
        owing.paid += len;
        if odd > 250 && digests {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            owing.spoiled = true;
        }
        if owing.is_there() {
            host.r2ts.remove(r2t);
        }
        self.resolve(q);
        let place = self.queues[q].place;
        if odd & 1 != 0 {
            let (head, tail) = bytes.split_at(bytes.len() / 2);
            world.give(place, head);
            world.answer(&mut Input::new(&[odd >> 1 & 7, 0]));
            world.give(place, tail);
        } else {
            world.give(place, &bytes);
        }
    }

    /// Everything whose data is there takes its effect.
    fn resolve(&mut self, q: usize) {
        loop {
            let queue = &self.queues[q];
            let other =
                |owing: &Owing| queue.owing.iter().find(|other| Some(other.cid) == owing.pair);
            // Of a pair whose one half is spoiled the other one ends when it may; see `hear`.
            let ready = queue.owing.iter().position(|owing| {
                owing.is_there()
                    && match owing.pair {
                        None => true,
                        Some(_) => {
                            !owing.is_write
                                && !owing.spoiled
                                && other(owing)
                                    .is_some_and(|other| other.is_there() && !other.spoiled)
                        }
                    }
            });
            let Some(index) = ready else { return };
            let owing = self.queues[q].owing.remove(index);
            let is_same = self.mirror[owing.place.clone()] == owing.data;
            let compared = if is_same { Status::SUCCESS } else { Status::COMPARE_FAILURE };
            let status = match (owing.spoiled, owing.is_write) {
                (true, _) => Status::TRANSIENT_TRANSPORT_ERROR,
                (false, false) => compared,
                (false, true) => {
                    self.mirror[owing.place.clone()].copy_from_slice(&owing.data);
                    Status::SUCCESS
                }
            };
            self.expect(q, owing.cid, Expected::This(status));
            if let Some(pair) = owing.pair {
                let at = self.queues[q].owing.iter().position(|other| other.cid == pair);
                let write = self.queues[q].owing.remove(at.expect("it was found before"));
                let mut status = Status::ABORTED_FAILED_FUSED;
                if is_same {
                    self.mirror[write.place].copy_from_slice(&write.data);
                    status = Status::SUCCESS;
                }
                self.expect(q, pair, Expected::This(status));
            }
        }
    }

    fn hear(&mut self, world: &mut World, q: usize) {
        let queue = &mut self.queues[q];
        world.read(queue.place, usize::MAX);
        let host = world.host(queue.place).expect("nothing here costs a good host its connection");
        for done in std::mem::take(&mut host.done) {
            let Done { cid, status, .. } = done;
            match queue.expected.remove(&cid) {
                Some(Expected::This(expected)) => {
                    assert!(status == expected, "command {cid}: {status}, not {expected}");
                }
                Some(Expected::Data(data)) => {
                    assert!(status.is_success(), "a good read: {status}");
                    assert!(done.data == data, "a read gives other bytes than were written");
                }
                Some(Expected::Refusal) => {
                    assert!(!status.is_success(), "command {cid} succeeds, and must not");
                }
                None => {
                    // A half of a pair of which one was spoiled: neither has an effect.
                    let at = queue.owing.iter().position(|owing| owing.cid == cid);
                    let owing = queue.owing.remove(at.expect("a command ends twice"));
                    assert!(owing.pair.is_some(), "command {cid} ends before its data: {status}");
                    assert!(!status.is_success(), "half of a spoiled pair succeeds");
                }
            }
        }
    }
}
