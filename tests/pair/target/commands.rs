//! C14 to C36: commands that must fail, with the status they must fail with, on a connection that goes on.

use super::field::Field;
use super::raw::{self, Raw, read, set_cc, write};
use super::table::{Row, Shown, sent};
use crate::common::until;
use crate::node::DESTINATION;
use ibid_wire::nvme_tcp::{
    Cc, Deallocate, DsmRange, FatalError, GetFeatures, GetLogPage, Identify, Io, PduKind,
    PropertyGet, PropertySet, SetFeatures, Sgl, Sqe, Status, cns, fctype, feature, log_page,
    opcode, property, psdt,
};

pub(crate) const ROWS: &[Row] = &[
    sent("C14", "PRP instead of SGL", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        io.refuses(change(read(1, lba, 1), |sqe| sqe.flags = 0), &[], &[Status::INVALID_FIELD]);
        io.refuses(change(read(1, lba, 1), |sqe| sqe.flags = 0xc0), &[], &[Status::INVALID_FIELD]);
        io.goes_on();
    }),
    sent("C15", "SGLs of unknown kinds", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        for kind in [0x00, 0x10, 0x20, 0x30, 0x40, 0x41, 0x5b, 0xf0, 0xff] {
            let sqe = change(read(1, lba, 1), |sqe| sqe.sgl.kind = kind);
            io.refuses(sqe, &[], &[Status::SGL_TYPE_INVALID]);
            let sqe = change(write(1, lba, 1, true), |sqe| sqe.sgl.kind = kind);
            io.refuses(sqe, &[1; 4096], &[Status::SGL_TYPE_INVALID]);
        }
        io.goes_on();
    }),
    sent("C16", "data in the capsule at an offset", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        for offset in [4, 4096, u64::MAX] {
            let sqe = change(write(1, lba, 1, true), |sqe| sqe.sgl.address = offset);
            io.refuses(sqe, &[1; 4096], &[Status::SGL_OFFSET_INVALID]);
        }
        io.goes_on();
    }),
    sent("C17", "more data than a capsule takes", |field| {
        let (mut io, _admin) = field.io(false);
        let lba = field.lba();
        assert_eq!(io.status(&write(1, lba, 4, true), &[1; 16384]), Status::SUCCESS, "C17: all");
        io.submit(&write(1, lba, 5, true), &[1; 20480]);
        io.assert_fatal("C17", &[FatalError::LimitExceeded]);
        let (mut admin, _) = field.admin(false);
        // 8 KiB are taken on the admin queue, whatever the command.
        let sqe = change(Sqe::new(0xc0, 1, 0), |sqe| sqe.sgl = Sgl::in_capsule(8192));
        assert_eq!(admin.status(&sqe, &[1; 8192]), Status::INVALID_OPCODE, "C17");
        let sqe = change(Sqe::new(0xc0, 1, 0), |sqe| sqe.sgl = Sgl::in_capsule(8196));
        admin.submit(&sqe, &[1; 8196]);
        admin.assert_fatal("C17 admin", &[FatalError::LimitExceeded]);
    }),
    sent("C18", "more or fewer bytes than the SGL says", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        io.refuses(write(1, lba, 1, true), &[1; 8192], &[Status::SGL_LENGTH_INVALID]);
        io.refuses(write(1, lba, 2, true), &[1; 4096], &[Status::SGL_LENGTH_INVALID]);
        io.refuses(write(1, lba, 1, false), &[1; 4096], &[Status::SGL_LENGTH_INVALID]);
        io.refuses(write(1, lba, 1, true), &[], &[Status::SGL_LENGTH_INVALID]);
        io.goes_on();
    }),
    sent("C19", "transfers beyond MDTS, up to 4 GiB", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        for bytes in [(1 << 20) + 4096, 1 << 30, u32::MAX] {
            for sqe in [write(1, lba, 1, false), read(1, lba, 1)] {
                let sqe = change(sqe, |sqe| sqe.sgl.length = bytes);
                io.refuses(sqe, &[], &[Status::INVALID_FIELD]);
            }
        }
        io.refuses(read(1, lba, 257), &[], &[Status::INVALID_FIELD]);
        io.refuses(write(1, lba, 257, false), &[], &[Status::INVALID_FIELD]);
        io.goes_on();
    }),
    sent("C20", "an SGL that is not as long as the blocks", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        for bytes in [0, 512, 4096, 12288] {
            for sqe in [write(1, lba, 2, false), read(1, lba, 2)] {
                let sqe = change(sqe, |sqe| sqe.sgl.length = bytes);
                io.refuses(sqe, &[], &[Status::SGL_LENGTH_INVALID]);
            }
        }
        io.goes_on();
    }),
    sent("C21", "a read into the capsule", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        let sqe = change(read(1, lba, 1), |sqe| sqe.sgl = Sgl::in_capsule(4096));
        io.refuses(sqe, &[], &[Status::INVALID_FIELD]);
        io.refuses(sqe, &[1; 4096], &[Status::INVALID_FIELD]);
        io.goes_on();
    }),
    sent("C22", "blocks past the end, also around 2^64", |field| {
        let end = field.blocks();
        let mut io = Queue::of(field);
        for (slba, blocks) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4)] {
            let refused = &[Status::LBA_OUT_OF_RANGE];
            io.refuses(read(1, slba, blocks), &[], refused);
            io.refuses(write(1, slba, blocks, false), &[], refused);
            io.refuses(write(1, slba, blocks, true), &vec![1; blocks as usize * 4096], refused);
        }
        io.goes_on();
    }),
    sent("C23", "namespaces there are not", |field| {
        let lba = field.lba();
        let mut io = Queue::of(field);
        for nsid in [0, 2, 0x8000_0001, u32::MAX] {
            let refused = &[Status::INVALID_NAMESPACE];
            io.refuses(change(read(1, lba, 1), |sqe| sqe.nsid = nsid), &[], refused);
            let sqe = change(write(1, lba, 1, true), |sqe| sqe.nsid = nsid);
            io.refuses(sqe, &[1; 4096], refused);
            io.refuses(Sqe::new(opcode::FLUSH, 1, nsid), &[], refused);
        }
        io.goes_on();
    }),
    sent("C24", "unknown commands", |field| {
        let mut io = Queue::of(field);
        for code in [0x03, 0x0f, 0x80, 0xfe] {
            io.refuses(Sqe::new(code, 1, 1), &[], &[Status::INVALID_OPCODE]);
            let sqe = change(Sqe::new(code, 1, 1), |sqe| sqe.sgl = Sgl::in_capsule(4096));
            io.refuses(sqe, &[1; 4096], &[Status::INVALID_OPCODE]);
        }
        io.refuses(Sqe::new(opcode::FABRICS, 1, 0x77), &[], &[Status::INVALID_OPCODE]);
        io.goes_on();
        for code in [0x03, 0x7e, 0x80, 0xff] {
            assert_eq!(io.admin.status(&Sqe::new(code, 1, 0), &[]), Status::INVALID_OPCODE, "C24");
        }
        let sqe = Sqe::new(opcode::FABRICS, 1, 0x77);
        assert_eq!(io.admin.status(&sqe, &[]), Status::INVALID_OPCODE, "C24");
    }),
    sent("C25", "an identifier that is outstanding", |field| {
        let (mut io, _admin) = field.io(false);
        let lba = field.lba();
        let r2t = io.ask(&write(9, lba, 8, false));
        assert_eq!(io.status(&read(9, lba, 1), &[]), Status::CID_CONFLICT, "C25");
        let second = write(9, lba, 1, true);
        assert_eq!(io.status(&second, &[9; 4096]), Status::CID_CONFLICT, "C25");
        let bytes = io.h2c(r2t, 0, &[3; 32768], true);
        io.send(&bytes);
        assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "C25: the first is unharmed");
        assert!(io.read(9, lba, 8) == [3; 32768], "C25");
    }),
    sent("C26", "Dataset Management: list and ranges", deallocations),
    sent("C27", "Write Zeroes and Compare beyond limits", |field| {
        let end = field.blocks();
        let mut io = Queue::of(field);
        let zeroes = |slba, blocks| Io { slba, blocks, fua: false }.emit_zeroes(1, 1, false);
        for (slba, blocks) in [(end, 1), (end - 1, 2), (u64::MAX, 1)] {
            io.refuses(zeroes(slba, blocks), &[], &[Status::LBA_OUT_OF_RANGE]);
        }
        for blocks in [2049, 65536] {
            io.refuses(zeroes(0, blocks), &[], &[Status::INVALID_FIELD]);
        }
        let compare = |slba, blocks| {
            let mut sqe = Io { slba, blocks, fua: false }.emit(opcode::COMPARE, 1, 1);
            sqe.sgl = Sgl::transport(blocks.saturating_mul(4096));
            sqe
        };
        io.refuses(compare(end, 1), &[], &[Status::LBA_OUT_OF_RANGE]);
        io.refuses(compare(end - 1, 2), &[], &[Status::LBA_OUT_OF_RANGE]);
        io.refuses(compare(0, 257), &[], &[Status::INVALID_FIELD]);
        let lba = field.lba();
        let within = change(compare(lba, 1), |sqe| sqe.sgl = Sgl::in_capsule(4096));
        let (mut queue, _admin) = field.io(false);
        assert_eq!(queue.status(&write(1, lba, 1, true), &[7; 4096]), Status::SUCCESS);
        assert_eq!(queue.status(&within, &[7; 4096]), Status::SUCCESS, "C27");
        assert_eq!(queue.status(&within, &[6; 4096]), Status::COMPARE_FAILURE, "C27");
        io.goes_on();
    }),
    sent("C28", "fused: alone, in the wrong order, on the admin queue", fused),
    sent("C29", "Get Log Page: past the end, unaligned, 4 GiB", |field| {
        let (mut admin, _) = field.admin(false);
        let page =
            |lid, bytes, offset| GetLogPage { bytes, offset, ..GetLogPage::of(lid, 4) }.emit(1);
        let health = log_page::HEALTH;
        assert_eq!(admin.status(&page(0x44, 512, 0), &[]), Status::INVALID_LOG_PAGE, "C29");
        for (bytes, offset) in
            [(512, 516), (512, 2), (1 << 32, 0), (4 << 32, 0), (512, u64::MAX - 3), (512, 1 << 40)]
        {
            let status = admin.status(&page(health, bytes, offset), &[]);
            assert_eq!(status, Status::INVALID_FIELD, "C29 {bytes} at {offset}");
        }
        // More than the page has, within the limits: filled with zeroes.
        for (bytes, offset, held) in [(8192, 0, 512), (1024, 256, 256), (512, 512, 0)] {
            admin.submit(&page(health, bytes, offset), &[]);
            let mut all = Vec::new();
            loop {
                let pdu = admin.pdu().unwrap();
                if pdu.kind() == PduKind::C2hData {
                    all.extend_from_slice(pdu.data());
                } else {
                    assert_eq!(pdu.cqe().status, Status::SUCCESS, "C29 {bytes} at {offset}");
                    break;
                }
            }
            assert_eq!(all.len() as u64, bytes, "C29");
            assert!(all[held..].iter().all(|byte| *byte == 0), "C29: bytes of something else");
        }
    }),
    sent("C30", "Identify of what there is not", |field| {
        let (mut admin, _) = field.admin(false);
        let identify = |cns, csi, nsid| Identify { csi, ..Identify::of(cns, nsid) }.emit(1);
        for (sqe, status) in [
            (identify(0x44, 0, 0), Status::INVALID_FIELD),
            (identify(0xff, 0xff, u32::MAX), Status::INVALID_FIELD),
            (identify(cns::SET_NAMESPACE, 2, 1), Status::INVALID_FIELD),
            (identify(cns::NAMESPACE, 0, 0), Status::INVALID_NAMESPACE),
            (identify(cns::NAMESPACE, 0, 2), Status::INVALID_NAMESPACE),
            (identify(cns::NAMESPACE_LIST, 0, u32::MAX), Status::INVALID_NAMESPACE),
            (
                change(identify(cns::CONTROLLER, 0, 0), |sqe| sqe.sgl.length = 512),
                Status::SGL_LENGTH_INVALID,
            ),
        ] {
            assert_eq!(admin.status(&sqe, &[]), status, "C30 {sqe:?}");
        }
    }),
    sent("C31", "features there are not, saved, of one namespace", |field| {
        let (mut admin, _) = field.admin(false);
        let set = |fid, save, value| SetFeatures { fid, save, value }.emit(1);
        for (sqe, status) in [
            (set(0x7f, false, 0), Status::INVALID_FIELD),
            (set(feature::KEEP_ALIVE, true, 1000), Status::FEATURE_NOT_SAVEABLE),
            (
                change(set(feature::ASYNC_EVENTS, false, 0), |sqe| sqe.nsid = 1),
                Status::FEATURE_NOT_PER_NAMESPACE,
            ),
            (set(feature::QUEUES, false, 0xffff_0000), Status::INVALID_FIELD),
            (GetFeatures { fid: 0x7f, select: 0, value: 0 }.emit(1), Status::INVALID_FIELD),
        ] {
            assert_eq!(admin.status(&sqe, &[]), status, "C31 {sqe:?}");
        }
    }),
    sent("C32", "too many event requests, and aborts", events_and_aborts),
    sent("C33", "properties: offset, size, illegal configurations", properties),
    sent("C34", "I/O before CC.EN, and after a shutdown", |field| {
        let (mut io, mut admin) = field.io(false);
        let lba = field.lba();
        let off = set_cc(Cc::ENABLED.with_shutdown().0);
        assert_eq!(admin.status(&off, &[]), Status::SUCCESS);
        let sqe = write(1, lba, 1, true);
        assert_eq!(io.status(&sqe, &[1; 4096]), Status::SEQUENCE_ERROR, "C34 shut down");
        assert_eq!(io.status(&read(1, lba, 1), &[]), Status::SEQUENCE_ERROR, "C34 shut down");
        // Disabled: the I/O queues end.
        assert_eq!(admin.status(&set_cc(0), &[]), Status::SUCCESS);
        io.assert_closed("C34 disabled");
        let identify = Identify::of(cns::CONTROLLER, 0).emit(1);
        assert_eq!(admin.status(&identify, &[]), Status::SEQUENCE_ERROR, "C34 disabled");
    }),
    sent("C35", "I/O on a standby node", standby),
    Row {
        id: "C35",
        // When the node's state changes is not the host's to choose.
        what: "data that was still coming when its node became no path",
        shown: Shown::Elsewhere(&[
            "src/engine/frontend/tests/access.rs::a_command_whose_data_was_still_coming_is_judged_again",
        ]),
    },
    sent("C36", "reservations", |field| {
        let mut io = Queue::of(field);
        for code in [0x0d, 0x0e, 0x11, 0x15] {
            for _ in 0..20 {
                io.refuses(Sqe::new(code, 1, 1), &[], &[Status::INVALID_OPCODE]);
                let sqe = change(Sqe::new(code, 1, 1), |sqe| sqe.sgl = Sgl::in_capsule(16));
                io.refuses(sqe, &[0xff; 16], &[Status::INVALID_OPCODE]);
            }
        }
        io.goes_on();
    }),
];

/// The destination's target names the namespace inaccessible: a status that sends a host to its other path, whatever the command, before
/// anything is taken of its data. (Persistent loss and a change under way, 3/01h and 3/03h, are no states of a node of ours.)
fn standby(field: &Field) {
    let away = Status::ANA_INACCESSIBLE;
    assert!(!away.is_final(), "C35: it may be sent again");
    let there = field.pair.status(DESTINATION).target.unwrap().listen;
    let (mut admin, cntlid) = raw::admin(there, &field.nqn, false);
    let mut io = Raw::ready(there, false);
    let data = raw::emit(&raw::connect_fields(&field.nqn, cntlid));
    assert_eq!(io.status(&raw::connect(1).emit(1), &data), Status::SUCCESS);
    let lba = field.lba();
    let of = |code| Io { slba: lba, blocks: 1, fua: false }.emit(code, 5, 1);
    let compare = change(of(opcode::COMPARE), |sqe| sqe.sgl = Sgl::in_capsule(4096));
    for _ in 0..20 {
        assert_eq!(io.status(&write(1, lba, 1, true), &[0x35; 4096]), away, "C35 in the capsule");
        assert_eq!(io.status(&write(2, lba, 256, false), &[]), away, "C35 no R2T");
        assert_eq!(io.status(&read(3, lba, 1), &[]), away, "C35");
        assert_eq!(io.status(&Sqe::new(opcode::FLUSH, 4, 1), &[]), away, "C35");
        assert_eq!(io.status(&compare, &[0; 4096]), away, "C35 Compare");
        for sqe in [of(opcode::VERIFY), of(opcode::WRITE_ZEROES)] {
            assert_eq!(io.status(&sqe, &[]), away, "C35 {sqe:?}");
        }
    }
    assert_eq!(admin.status(&Sqe::new(opcode::KEEP_ALIVE, 9, 0), &[]), Status::SUCCESS);
    drop((io, admin));
    until("C35: the standby node's connections are gone", || {
        (field.pair.status(DESTINATION).target.unwrap().connections == 0).then_some(())
    });
    let (mut io, _admin) = field.io(false);
    assert!(io.read(1, lba, 1) != [0x35; 4096], "C35: it was written all the same");
}

/// An I/O queue on which commands are refused one by one.
struct Queue {
    io: Raw,
    admin: Raw,
    lba: u64,
}

impl Queue {
    fn of(field: &Field) -> Queue {
        let (io, admin) = field.io(false);
        Queue { io, admin, lba: field.lba() }
    }

    fn refuses(&mut self, sqe: Sqe, data: &[u8], allowed: &[Status]) {
        let status = self.io.status(&sqe, data);
        assert!(allowed.contains(&status), "{status:?} for {sqe:?}");
    }

    /// The queue still takes what is right.
    fn goes_on(&mut self) {
        let sqe = write(77, self.lba, 1, true);
        assert_eq!(self.io.status(&sqe, &[0x77; 4096]), Status::SUCCESS);
        assert!(self.io.read(78, self.lba, 1) == [0x77; 4096]);
    }
}

fn change(mut sqe: Sqe, with: impl FnOnce(&mut Sqe)) -> Sqe {
    with(&mut sqe);
    sqe
}

fn deallocations(field: &Field) {
    let (mut io, _admin) = field.io(false);
    let (lba, end) = (field.lba(), field.blocks());
    let list = |ranges: &[(u64, u32)]| {
        let mut bytes = vec![0; ranges.len() * 16];
        for (place, &(slba, blocks)) in bytes.chunks_exact_mut(16).zip(ranges) {
            DsmRange { attributes: 0, blocks, slba }.emit(place);
        }
        bytes
    };
    let dsm = |ranges| Deallocate { ranges, deallocate: true }.emit(1, 1);
    assert_eq!(io.status(&write(2, lba, 1, true), &[5; 4096]), Status::SUCCESS);
    let short = change(dsm(2), |sqe| sqe.sgl = Sgl::in_capsule(16));
    let one = list(&[(lba, 1)]);
    assert_eq!(io.status(&short, &one), Status::SGL_LENGTH_INVALID, "C26");
    for bad in [(end, 1), (end - 1, 2), (u64::MAX, 2)] {
        // The good one before it must not happen either.
        let status = io.status(&dsm(2), &list(&[(lba, 1), bad]));
        assert_eq!(status, Status::LBA_OUT_OF_RANGE, "C26 {bad:?}");
    }
    assert_eq!(io.status(&dsm(1), &list(&[(0, u32::MAX)])), Status::COMMAND_SIZE_LIMIT, "C26");
    assert!(io.read(3, lba, 1) == [5; 4096], "C26: a refused command took effect");
    // 256 ranges that overlap: bounded work, one completion.
    assert_eq!(io.status(&dsm(256), &list(&[(lba, 8); 256])), Status::SUCCESS, "C26");
    assert!(io.read(3, lba, 1) == [0; 4096], "C26");
}

fn fused(field: &Field) {
    let lba = field.lba();
    let (mut io, mut admin) = field.io(false);
    assert_eq!(io.status(&write(1, lba, 1, true), &[8; 4096]), Status::SUCCESS);
    let part = |sqe: Sqe, bits: u8| change(sqe, |sqe| sqe.flags = psdt::SGL | bits);
    // The second without a first, both bits, and a first that is followed by something else, whose own end is not its matter.
    for (bits, refused) in [(2, Status::ABORTED_MISSING_FUSED), (3, Status::INVALID_FIELD)] {
        let status = io.status(&part(write(2, lba, 1, true), bits), &[9; 4096]);
        assert_eq!(status, refused, "C28 {bits}");
    }
    let mut compare = Io { slba: lba, blocks: 1, fua: false }.emit(opcode::COMPARE, 3, 1);
    compare.sgl = Sgl::in_capsule(4096);
    io.submit(&part(compare, 1), &[8; 4096]);
    io.submit(&Sqe::new(opcode::FLUSH, 4, 1), &[]);
    let mut ends: Vec<_> = (0..2).map(|_| io.pdu().unwrap().cqe()).collect();
    ends.sort_by_key(|cqe| cqe.cid);
    assert_eq!(ends[0].status, Status::ABORTED_MISSING_FUSED, "C28");
    assert_eq!(ends[1].status, Status::SUCCESS, "C28: the command behind it");
    let status = admin.status(&part(Sqe::new(opcode::KEEP_ALIVE, 5, 0), 1), &[]);
    assert_eq!(status, Status::INVALID_FIELD, "C28 admin");
    assert!(io.read(6, lba, 1) == [8; 4096], "C28: a part took effect");
}

fn events_and_aborts(field: &Field) {
    let (mut admin, _) = field.admin(false);
    for cid in 10..14 {
        admin.submit(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, cid, 0), &[]);
    }
    let fifth = Sqe::new(opcode::ASYNC_EVENT_REQUEST, 14, 0);
    assert_eq!(admin.status(&fifth, &[]), Status::AER_LIMIT_EXCEEDED, "C32");
    // Aborts are carried out one by one as they come, so their limit is never reached: many at once all end.
    let abort = |cid: u16, of: u16| {
        change(Sqe::new(opcode::ABORT, cid, 0), |sqe| sqe.cdw10 = u32::from(of) << 16)
    };
    let mut bytes = Vec::new();
    for cid in 20..30 {
        bytes.extend(admin.capsule(&abort(cid, 12), &[]));
    }
    admin.send(&bytes);
    let ends: Vec<_> = (0..11).map(|_| admin.pdu().unwrap().cqe()).collect();
    let aborted: Vec<_> = ends.iter().filter(|cqe| cqe.cid == 12).collect();
    assert_eq!(aborted.len(), 1, "C32");
    assert_eq!(aborted[0].status, Status::ABORTED_BY_REQUEST, "C32");
    let done = ends.iter().filter(|cqe| (20..30).contains(&cqe.cid) && cqe.status.is_success());
    assert_eq!(done.count(), 10, "C32");
}

fn properties(field: &Field) {
    let (mut admin, _) = field.admin(false);
    let get = |wide, offset| PropertyGet { wide, offset }.emit(1);
    let set = |wide, offset, value| PropertySet { wide: Some(wide), offset, value }.emit(1);
    for sqe in [
        get(Some(false), 0x44),
        get(Some(true), 0xffff_ffff),
        get(Some(false), property::CAP),
        get(Some(true), property::CC),
        get(None, property::CC),
        set(false, property::CSTS, 1),
        set(true, property::CC, 0),
        set(false, 0x7fff_ffff, 0),
        Sqe::new(opcode::FABRICS, 1, fctype::DISCONNECT.into()),
    ] {
        assert_eq!(admin.status(&sqe, &[]), Status::INVALID_FIELD, "C33 {sqe:?}");
    }
    // Entry sizes, arbitration, page size, command set: each illegal by itself.
    let good = Cc::ENABLED.0;
    for cc in
        [good & !(0xf << 16), good & !(0xf << 20), good | 7 << 11, good | 1 << 7, good | 7 << 4]
    {
        assert_eq!(admin.status(&set_cc(0), &[]), Status::SUCCESS);
        assert_eq!(admin.status(&set_cc(cc), &[]), Status::INVALID_FIELD, "C33 CC {cc:#x}");
        let csts = admin.run(&get(Some(false), property::CSTS), &[]).result;
        assert_eq!(csts & 3, 2, "C33 CC {cc:#x}: CSTS {csts:#x}");
    }
    assert_eq!(admin.status(&set_cc(0), &[]), Status::SUCCESS);
    assert_eq!(admin.status(&set_cc(good), &[]), Status::SUCCESS, "C33: it can be mended");
}
