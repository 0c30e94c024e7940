//! I/O commands that must fail, with the status they must fail with, on a connection that goes on.

use super::*;
use ibid_wire::nvme_tcp::{Deallocate, DsmRange, psdt};

#[test]
fn io_commands_are_checked() {
    for digests in [0, 3] {
        let mut world = World::new(config(4096));
        let (io, _) = world.io(digests);
        let blocks = VOLUME_BYTES / 4096;
        let change = |mut sqe: Sqe, f: fn(&mut Sqe)| {
            f(&mut sqe);
            sqe
        };
        let page = [1_u8; 4096];
        let list = [0_u8; 16];
        let dsm = |ranges| Deallocate { ranges, deallocate: true }.emit(1, 1);
        let zeroes = |slba, blocks| Io { slba, blocks, fua: false }.emit_zeroes(1, 1, false);
        let cases: &[(&str, Sqe, &[u8], Status)] = &[
            ("C14 PRP", change(read(1, 0, 1, 4096), |s| s.flags = 0), &[], Status::INVALID_FIELD),
            (
                "C28 fused, and of no kind",
                change(read(1, 0, 1, 4096), |s| s.flags = psdt::SGL | 3),
                &[],
                Status::INVALID_FIELD,
            ),
            (
                "C15 keyed",
                change(read(1, 0, 1, 4096), |s| s.sgl.kind = 0x40),
                &[],
                Status::SGL_TYPE_INVALID,
            ),
            (
                "C15 segment",
                change(write(1, 0, 1, 4096, true), |s| s.sgl.kind = 0x20),
                &page,
                Status::SGL_TYPE_INVALID,
            ),
            (
                "C16 offset",
                change(write(1, 0, 1, 4096, true), |s| s.sgl.address = 4),
                &page,
                Status::SGL_OFFSET_INVALID,
            ),
            (
                "C18 more bytes than SGL",
                write(1, 0, 1, 4096, true),
                &[1; 8192],
                Status::SGL_LENGTH_INVALID,
            ),
            (
                "C18 bytes and transport SGL",
                write(1, 0, 1, 4096, false),
                &page,
                Status::SGL_LENGTH_INVALID,
            ),
            ("C18 no bytes", write(1, 0, 1, 4096, true), &[], Status::SGL_LENGTH_INVALID),
            (
                "C19 write",
                change(write(1, 0, 1, 4096, false), |s| s.sgl.length = u32::MAX),
                &[],
                Status::INVALID_FIELD,
            ),
            ("C19 read", read(1, 0, 17, 4096), &[], Status::INVALID_FIELD),
            (
                "C20 write",
                change(write(1, 0, 2, 4096, false), |s| s.sgl.length = 4096),
                &[],
                Status::SGL_LENGTH_INVALID,
            ),
            (
                "C20 read",
                change(read(1, 0, 1, 4096), |s| s.sgl.length = 8192),
                &[],
                Status::SGL_LENGTH_INVALID,
            ),
            (
                "C21",
                change(read(1, 0, 1, 4096), |s| s.sgl = Sgl::in_capsule(4096)),
                &[],
                Status::INVALID_FIELD,
            ),
            ("C22 read", read(1, blocks, 1, 4096), &[], Status::LBA_OUT_OF_RANGE),
            ("C22 across", read(1, blocks - 1, 2, 4096), &[], Status::LBA_OUT_OF_RANGE),
            ("C22 wrap", read(1, u64::MAX, 1, 4096), &[], Status::LBA_OUT_OF_RANGE),
            ("C22 write", write(1, blocks, 1, 4096, true), &page, Status::LBA_OUT_OF_RANGE),
            ("C22 long write", write(1, blocks - 1, 4, 4096, false), &[], Status::LBA_OUT_OF_RANGE),
            ("C23 0", change(read(1, 0, 1, 4096), |s| s.nsid = 0), &[], Status::INVALID_NAMESPACE),
            (
                "C23 unknown",
                change(write(1, 0, 1, 4096, true), |s| s.nsid = 2),
                &page,
                Status::INVALID_NAMESPACE,
            ),
            (
                "C23 all",
                change(Sqe::new(opcode::FLUSH, 1, 1), |s| s.nsid = u32::MAX),
                &[],
                Status::INVALID_NAMESPACE,
            ),
            ("C24", Sqe::new(0x04, 1, 1), &[], Status::INVALID_OPCODE),
            (
                "C24 with data",
                change(Sqe::new(0x0d, 1, 1), |s| s.sgl = Sgl::in_capsule(4096)),
                &page,
                Status::INVALID_OPCODE,
            ),
            ("C24 fabrics", Sqe::new(opcode::FABRICS, 1, 0x77), &[], Status::INVALID_OPCODE),
            ("C2", connect(1).emit(1), &[], Status::SEQUENCE_ERROR),
            (
                "C26 list too short",
                change(dsm(2), |s| s.sgl = Sgl::in_capsule(16)),
                &list,
                Status::SGL_LENGTH_INVALID,
            ),
            ("C27 zeroes end", zeroes(blocks, 1), &[], Status::LBA_OUT_OF_RANGE),
            ("C27 zeroes limit", zeroes(0, 2049), &[], Status::INVALID_FIELD),
            ("flush with data", Sqe::new(opcode::FLUSH, 1, 1), &page, Status::INVALID_FIELD),
        ];
        for (what, sqe, data, status) in cases {
            assert_eq!(world.status(io, sqe, data), *status, "{what}");
            assert!(world.events.is_empty(), "{what}: the shard was told");
        }
        assert_eq!(world.status(io, &write(1, 0, 1, 4096, true), &page), Status::SUCCESS);
    }
}

#[test]
fn ranges_are_judged_before_the_first_one_is_told() {
    let mut world = World::new(config(512));
    let (io, _) = world.io(0);
    let list = |ranges: &[(u64, u32)]| {
        let mut bytes = vec![0; ranges.len() * 16];
        for (place, &(slba, blocks)) in bytes.chunks_exact_mut(16).zip(ranges) {
            DsmRange { attributes: 0, blocks, slba }.emit(place);
        }
        bytes
    };
    let sqe = |ranges| Deallocate { ranges, deallocate: true }.emit(1, 1);
    let end = VOLUME_BYTES / 512;
    assert_eq!(
        world.status(io, &sqe(2), &list(&[(0, 1), (end, 1)])),
        Status::LBA_OUT_OF_RANGE,
        "C26"
    );
    assert_eq!(world.status(io, &sqe(1), &list(&[(0, 16385)])), Status::COMMAND_SIZE_LIMIT);
    assert_eq!(world.status(io, &sqe(1), &list(&[(u64::MAX, 2)])), Status::LBA_OUT_OF_RANGE);
    assert_eq!(world.status(io, &sqe(1), &list(&[(0, 0)])), Status::SUCCESS);
    let hint = Deallocate { ranges: 1, deallocate: false }.emit(1, 1);
    assert_eq!(world.status(io, &hint, &list(&[(0, 8)])), Status::SUCCESS);
    assert!(world.events.is_empty(), "the shard was told");
    // 256 overlapping ranges are 256 events and one completion.
    assert_eq!(world.status(io, &sqe(256), &list(&[(0, 8); 256])), Status::SUCCESS, "C26");
    assert_eq!(world.events.len(), 256);
    // Linux sends room for 256 ranges with one range in it.
    let mut roomy = sqe(1);
    roomy.sgl = Sgl::in_capsule(4096);
    let mut bytes = list(&[(3, 5)]);
    bytes.resize(4096, 0);
    world.events.clear();
    assert_eq!(world.status(io, &roomy, &bytes), Status::SUCCESS);
    assert!(
        matches!(world.events[..], [Event::Zeroes { first, sectors, .. }] if first == Sector::new(3) && sectors == Sectors::new(5))
    );
    // One failing range fails the command, once.
    world.answers = false;
    world.events.clear();
    let capsule = world.capsule(&sqe(3), &list(&[(0, 1), (1, 1), (2, 1)]));
    world.give(io, &capsule, usize::MAX);
    let Event::Zeroes { cmd, .. } = world.events[0] else { panic!("no range") };
    world.frontend.complete(cmd, Status::SUCCESS);
    world.frontend.complete(cmd, Status::WRITE_FAULT);
    assert!(world.pdus(io).is_empty());
    world.frontend.complete(cmd, Status::SUCCESS);
    assert_eq!(world.answer(io).cqe().status, Status::WRITE_FAULT);
}

#[test]
fn an_identifier_in_use_is_refused_and_the_first_command_unharmed() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    world.answers = false;
    let bytes = world.capsule(&read(9, 0, 1, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    assert_eq!(world.status(io, &read(9, 1, 1, 4096), &[]), Status::CID_CONFLICT, "C25");
    assert_eq!(
        world.status(io, &write(9, 1, 1, 4096, true), &[0; 4096]),
        Status::CID_CONFLICT,
        "C25"
    );
    let Event::Read { cmd, first, sectors, .. } = world.events[0] else { panic!("no read") };
    let pieces = world.pieces(first, sectors);
    world.frontend.read_ready(cmd, &pieces);
    assert_eq!(world.pdus(io).pop().unwrap().cqe().status, Status::SUCCESS);
    world.answers = true;
    world.drain();
    let bytes = world.capsule(&read(9, 0, 1, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    assert_eq!(world.pdus(io).pop().unwrap().cqe().status, Status::SUCCESS);
}

#[test]
fn an_event_request_gives_way_to_a_command_with_its_identifier() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let request = |cid| Sqe::new(opcode::ASYNC_EVENT_REQUEST, cid, 0);
    let hold_four = |world: &mut World| {
        for cid in 0..4 {
            let bytes = world.capsule(&request(cid), &[]);
            world.give(admin, &bytes, usize::MAX);
        }
        assert!(world.pdus(admin).is_empty(), "an event was told");
    };
    hold_four(&mut world);
    // SPDK's host forgets its requests and shuts down with their identifiers.
    for cid in 0..4 {
        assert_eq!(
            world.status(admin, &Sqe::new(opcode::KEEP_ALIVE, cid, 0), &[]),
            Status::SUCCESS
        );
    }
    // None is held any more, and each may be held once again.
    hold_four(&mut world);
    assert_eq!(world.status(admin, &request(4), &[]), Status::AER_LIMIT_EXCEEDED);
}

#[test]
fn more_commands_than_entries_end_the_connection() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    world.answers = false;
    for cid in 0..DEPTH {
        let bytes = world.capsule(&read(cid, 0, 1, 4096), &[]);
        assert!(world.give(io, &bytes, usize::MAX).is_empty());
    }
    let bytes = world.capsule(&read(DEPTH, 0, 1, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    world.assert_fatal(io, FatalError::Sequence, "R3");
    let abandoned =
        world.events.iter().filter(|event| matches!(event, Event::Abandoned { .. })).count();
    assert_eq!(abandoned, usize::from(DEPTH));
}
