//! Reads and writes as they should go, in every split and with every choice of digests.

use super::*;
use ibid_wire::nvme_tcp::{
    Cap, ControllerKind, DISCOVERY_NQN, DiscoveryRecord, EFFECTS_SUPPORTED, GetLogPage, Identify,
    IdentifyController, IdentifyNamespace, IdentifyNvmController, PropertyGet, SetFeatures, cns,
    feature, log_page, parse_descriptors,
};

/// A stream with every kind of PDU a host sends after Connect, but for the data that an R2T asks for.
fn commands(world: &World, lba: u32) -> Vec<u8> {
    let blocks = 4096 / lba;
    let mut stream = world.capsule(&write(1, 0, blocks, lba, true), &pattern(4096, 1));
    stream.extend(world.capsule(&read(2, 0, blocks * 4, lba), &[]));
    stream.extend(world.capsule(&write(3, 8, blocks * 2, lba, true), &pattern(8192, 3)));
    stream.extend(world.capsule(&Sqe::new(opcode::FLUSH, 4, 1), &[]));
    stream.extend(world.capsule(&write(5, 8, blocks * 8, lba, false), &[]));
    stream.extend(world.capsule(&write(6, 8, 1, lba, true), &pattern(lba as usize, 6)));
    stream
}

/// What a run of [`commands`] and its R2T's data leads to: everything the target said, and what lies in the pages.
fn outcome(digests: u8, lba: u32, step_in: usize, step_out: usize) -> (Vec<Pdu>, Vec<Vec<u8>>) {
    let mut world = World::new(config(lba));
    let volume = pattern(VOLUME_BYTES as usize, 99);
    world.arena[..volume.len()].copy_from_slice(&volume);
    let (io, _) = world.io(digests);
    let stream = commands(&world, lba);
    assert!(world.give(io, &stream, step_in).is_empty());
    let mut pdus = split_pdus(&world.output(io, step_out));
    let r2t = pdus.iter().find(|pdu| pdu.kind() == PduKind::R2t).unwrap().r2t();
    assert_eq!((r2t.cccid, r2t.r2to, r2t.r2tl), (5, 0, 32768));
    let data = pattern(32768, 5);
    let mut stream = world.h2c(r2t, 0, &data[..20000], false);
    stream.extend(world.capsule(&read(7, 0, 1, lba), &[]));
    stream.extend(world.h2c(r2t, 20000, &data[20000..], true));
    stream.extend(world.capsule(&Sqe::new(opcode::FLUSH, 8, 1), &[]));
    assert!(world.give(io, &stream, step_in).is_empty());
    pdus.extend(split_pdus(&world.output(io, step_out)));
    let mut writes = Vec::new();
    for event in &world.events {
        if let Event::Arrived { span, .. } = event {
            writes.push(world.arena[span.at as usize..span.end() as usize].to_vec());
        }
    }
    let released =
        world.events.iter().filter(|event| matches!(event, Event::Released { .. })).count();
    assert_eq!(released, 2, "FE-4");
    (pdus, writes)
}

#[test]
fn a_stream_means_the_same_in_every_split() {
    for lba in [512, 4096] {
        // One digest without the other is tested with the initiator.
        for digests in [0, 3] {
            let whole = outcome(digests, lba, usize::MAX, usize::MAX);
            let expected = [
                pattern(4096, 1),
                pattern(8192, 3),
                pattern(lba as usize, 6),
                pattern(32768, 5)[..20000].to_vec(),
                pattern(32768, 5)[20000..].to_vec(),
            ];
            assert!(whole.1 == expected);
            let ends: Vec<u16> = whole
                .0
                .iter()
                .filter(|pdu| pdu.kind() == PduKind::CapsuleResp)
                .map(|pdu| pdu.cqe().cid)
                .collect();
            assert_eq!(ends, [1, 2, 3, 4, 6, 7, 5, 8]);
            for step in (1..200).chain([511, 4095, 4096, 4097, 9000]) {
                assert!(
                    outcome(digests, lba, step, usize::MAX) == whole,
                    "P28: {step} bytes at once in"
                );
            }
            for step in [1, 7, 23, 24, 25, 76, 500, 4100] {
                assert!(
                    outcome(digests, lba, usize::MAX, step) == whole,
                    "{step} bytes at once out"
                );
            }
        }
    }
}

#[test]
fn two_receives_at_any_border_mean_the_same_as_one() {
    let whole = outcome(3, 4096, usize::MAX, usize::MAX).0;
    let mut world = World::new(config(4096));
    let (io, _) = world.io(3);
    let stream = commands(&world, 4096);
    let first: Vec<u16> = whole
        .iter()
        .filter(|pdu| pdu.kind() == PduKind::CapsuleResp)
        .map(|pdu| pdu.cqe().cid)
        .take(5)
        .collect();
    for border in (0..stream.len()).step_by(7) {
        let (a, b) = stream.split_at(border);
        assert!(world.give(io, a, usize::MAX).is_empty());
        assert!(world.give(io, b, usize::MAX).is_empty());
        let pdus = world.pdus(io);
        let ends: Vec<u16> = pdus
            .iter()
            .filter(|pdu| pdu.kind() == PduKind::CapsuleResp)
            .map(|pdu| pdu.cqe().cid)
            .collect();
        assert_eq!(ends, first, "P28: split at {border}");
        // The write that waits for data gets it, so that its identifier is free again.
        let r2t = pdus.iter().find(|pdu| pdu.kind() == PduKind::R2t).unwrap().r2t();
        let data = world.h2c(r2t, 0, &[0; 32768], true);
        assert!(world.give(io, &data, usize::MAX).is_empty());
        assert_eq!(world.answer(io).cqe().cid, 5);
        world.events.clear();
    }
}

#[test]
fn one_receive_per_write_carries_payload_and_the_next_header() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(3);
    let bytes = world.capsule(&write(1, 0, 1, 4096, true), &[1; 4096]);
    assert!(world.give(io, &bytes[..76], usize::MAX).is_empty());
    let ReceivePlan::Receive { payload, head } = world.frontend.receive_plan(io) else {
        panic!("no plan")
    };
    // The data, then its digest and the next capsule's header with digest: FE-1, and not a byte less.
    assert_eq!((payload.unwrap().len, head.len()), (4096, 4 + 76));
    assert!(world.give(io, &bytes[76..], usize::MAX).is_empty());
    assert_eq!(world.answer(io).cqe().cid, 1);
    // While an R2T is out the next PDU may be data: only its short header may be asked for.
    let bytes = world.capsule(&write(2, 0, 4, 4096, false), &[]);
    world.give(io, &bytes, usize::MAX);
    let r2t = world.answer(io).r2t();
    let ReceivePlan::Receive { payload: None, head } = world.frontend.receive_plan(io) else {
        panic!("no plan")
    };
    assert_eq!(head.len(), 28);
    // But once this data ends the last R2T, a capsule is next.
    let bytes = world.h2c(r2t, 0, &[1; 16384], true);
    world.give(io, &bytes[..28], usize::MAX);
    let ReceivePlan::Receive { payload, head } = world.frontend.receive_plan(io) else {
        panic!("no plan")
    };
    assert_eq!((payload.unwrap().len, head.len()), (16384, 4 + 76));
}

#[test]
fn in_capsule_data_waits_for_pages_and_goes_straight_there() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    world.answers = false;
    let bytes = world.capsule(&write(1, 3, 2, 4096, true), &pattern(8192, 1));
    let rest = world.give(io, &bytes, usize::MAX);
    assert_eq!(rest.len(), 8192);
    assert_eq!(world.frontend.receive_plan(io), ReceivePlan::Blocked);
    let Some(Event::Write { cmd, first, sectors, .. }) = world.events.pop() else {
        panic!("no write")
    };
    assert_eq!((first, sectors), (Sector::new(24), Sectors::new(16)));
    world.place(cmd, 8192);
    assert!(world.give(io, rest, 1000).is_empty());
    let span = World::pages(cmd, 8192);
    assert_eq!(world.events, [Event::Arrived { cmd, span, digest: None, last: true }]);
    assert!(world.arena[span.at as usize..span.end() as usize] == pattern(8192, 1));
    assert!(world.pdus(io).is_empty(), "completed before the log has it");
    world.frontend.complete(cmd, Status::SUCCESS);
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
    // A late second answer does nothing.
    world.frontend.complete(cmd, Status::WRITE_FAULT);
    assert!(world.pdus(io).is_empty());
}

#[test]
fn a_write_that_is_refused_is_drained_and_answered() {
    for inline in [true, false] {
        for after_pages in [true, false] {
            let mut world = World::new(config(4096));
            let (io, _) = world.io(3);
            world.answers = false;
            let data = [5; 8192];
            let bytes =
                world.capsule(&write(1, 0, 2, 4096, inline), if inline { &data } else { &[] });
            let rest = world.give(io, &bytes, usize::MAX).to_vec();
            let Some(Event::Write { cmd, .. }) = world.events.pop() else { panic!("no write") };
            let mut expects_data = inline;
            if after_pages {
                world.place(cmd, 8192);
                expects_data = true;
            }
            let r2t = (!inline && after_pages).then(|| world.answer(io).r2t());
            world.frontend.complete(cmd, Status::COMMAND_INTERRUPTED);
            let before = world.pdus(io);
            assert_eq!(before.is_empty(), expects_data);
            let late = match r2t {
                Some(r2t) => world.h2c(r2t, 0, &data, true),
                None => rest,
            };
            assert!(world.give(io, &late, 300).is_empty());
            assert!(world.events.is_empty(), "the shard was told of data it does not want");
            let after = world.pdus(io);
            let ends: Vec<Status> =
                before.iter().chain(&after).map(|pdu| pdu.cqe().status).collect();
            assert_eq!(ends, [Status::COMMAND_INTERRUPTED]);
            let span = World::pages(cmd, 8192);
            assert!(
                world.arena[span.at as usize..span.end() as usize].iter().all(|&byte| byte == 0),
                "FE-3"
            );
        }
    }
}

#[test]
fn the_queue_head_follows_completions_and_success_replaces_them_without_flow_control() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    // Connect was the first entry.
    for round in 2..40_u16 {
        let cqe = world.run(io, &Sqe::new(opcode::FLUSH, 1, 1), &[]);
        assert_eq!(cqe.sqhd, round % DEPTH);
    }
    let free = Connect { cattr: Connect::NO_FLOW_CONTROL, ..connect(2) };
    let conn = world.initialised(0);
    let cqe = world.run(conn, &free.emit(1), &connect_data(1));
    assert_eq!((cqe.status, cqe.sqhd), (Status::SUCCESS, 0xffff));
    let bytes = world.capsule(&read(1, 0, 2, 4096), &[]);
    world.give(conn, &bytes, usize::MAX);
    let pdus = world.pdus(conn);
    let flags: Vec<u8> = pdus.iter().map(|pdu| pdu.common.flags).collect();
    assert_eq!(flags, [0, pdu_flag::LAST | pdu_flag::SUCCESS]);
    assert_eq!(pdus[0].data().len() + pdus[1].data().len(), 8192);
    assert_eq!(world.run(conn, &Sqe::new(opcode::FLUSH, 1, 1), &[]).sqhd, 0);
}

#[test]
fn read_data_is_aligned_as_the_host_wants() {
    let mut world = World::new(config(4096));
    let (admin, cntlid) = world.admin(0);
    let conn = world.open();
    world.give(conn, &icreq(0, 31, 0), usize::MAX);
    world.answer(conn);
    assert_eq!(world.status(conn, &connect(1).emit(1), &connect_data(cntlid)), Status::SUCCESS);
    world.arena[..4096].copy_from_slice(&pattern(4096, 1));
    let bytes = world.capsule(&read(1, 0, 1, 4096), &[]);
    world.give(conn, &bytes, usize::MAX);
    let pdus = world.pdus(conn);
    assert_eq!(pdus[0].common.pdo, 128);
    assert!(pdus[0].data() == &pattern(4096, 1)[..512]);
    let _ = admin;
}

#[test]
fn padding_before_data_is_skipped() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let mut bytes = world.capsule(&write(1, 0, 1, 4096, true), &pattern(4096, 8));
    bytes[3] = 96;
    bytes[4..8].copy_from_slice(&(4096_u32 + 96).to_le_bytes());
    let padded = [&bytes[..72], &[0xaa; 24], &bytes[72..]].concat();
    for step in [1, 50, 96, usize::MAX] {
        assert!(world.give(io, &padded, step).is_empty());
        assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
        let Some(Event::Arrived { span, .. }) = world.events.pop() else { panic!("no data") };
        assert!(world.arena[span.at as usize..span.end() as usize] == pattern(4096, 8));
    }
}

impl World {
    /// A command that gets a small structure back.
    pub(super) fn fetch(&mut self, conn: ConnId, sqe: &Sqe) -> Vec<u8> {
        let bytes = self.capsule(sqe, &[]);
        assert!(self.give(conn, &bytes, usize::MAX).is_empty());
        let pdus = self.pdus(conn);
        assert_eq!(pdus.last().unwrap().cqe().status, Status::SUCCESS);
        pdus[..pdus.len() - 1].iter().flat_map(|pdu| pdu.data().to_vec()).collect()
    }
}

#[test]
fn the_controller_says_what_it_does() {
    for (lba, digests) in [(512, 0), (4096, 3)] {
        let mut world = World::new(config(lba));
        let (admin, cntlid) = world.admin(digests);
        let identify = |which, nsid| Identify::of(which, nsid).emit(1);
        let controller =
            IdentifyController::parse(&world.fetch(admin, &identify(cns::CONTROLLER, 0))).unwrap();
        assert_eq!((controller.cntlid, controller.kind), (cntlid, ControllerKind::Io as u8));
        assert_eq!(
            (controller.mdts, controller.ioccsz, controller.iorcsz),
            (4, (64 + IN_CAPSULE) / 16, 1)
        );
        assert_eq!((controller.vwc, controller.oncs, controller.maxcmd), (4, 0x9d, DEPTH));
        let blocks = |field: u16| (u32::from(field) + 1) * lba;
        assert_eq!((controller.fuses, blocks(controller.acwu)), (1, IN_CAPSULE));
        assert_eq!([controller.awun, controller.awupf].map(blocks), [TRANSFER; 2]);
        assert!(controller.kas > 0);
        let namespace =
            IdentifyNamespace::parse(&world.fetch(admin, &identify(cns::NAMESPACE, 1))).unwrap();
        assert_eq!(namespace.nsze * u64::from(lba), VOLUME_BYTES);
        assert_eq!(1 << namespace.lbaf0_shift, lba);
        assert_eq!([namespace.nawun, namespace.nawupf].map(blocks), [TRANSFER; 2]);
        assert_eq!((namespace.nsfeat & 2, blocks(namespace.nacwu)), (2, IN_CAPSULE));
        let boundaries = [namespace.nabsn, namespace.nabo, namespace.nabspf];
        assert_eq!(boundaries, [0; 3], "an atomic write may lie anywhere");
        assert_eq!(namespace.dlfeat, 9);
        let limits =
            IdentifyNvmController::parse(&world.fetch(admin, &identify(cns::SET_CONTROLLER, 0)))
                .unwrap();
        assert_eq!((4096 << limits.wzsl, limits.dmrsl * lba), (8 << 20, 8 << 20));
        assert_eq!((4096 << limits.vsl, limits.dmrl, limits.dmsl), (1 << 20, 0, 0));
        assert_eq!(
            world.fetch(admin, &identify(cns::NAMESPACE_LIST, 0))[..8],
            [1, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(world.fetch(admin, &identify(cns::NAMESPACE_LIST, 1))[..4], [0; 4]);
        assert_eq!(world.fetch(admin, &identify(cns::INDEPENDENT_NAMESPACE, 1))[14], 1);
        assert_eq!(
            world.fetch(admin, &identify(cns::COMMAND_SETS, 0))[..8],
            [1, 0, 0, 0, 0, 0, 0, 0]
        );
        let bytes = world.fetch(admin, &identify(cns::DESCRIPTORS, 1));
        let id = parse_descriptors(bytes[..].try_into().unwrap());
        assert_eq!((id.nguid, id.uuid), ([2; 16], [1; 16]));
        let cap = Cap::parse(
            world
                .run(admin, &PropertyGet { wide: Some(true), offset: property::CAP }.emit(1), &[])
                .result,
        );
        assert_eq!(cap.mqes, DEPTH - 1);
        let queues = SetFeatures { fid: feature::QUEUES, save: false, value: 0x0007_0007 };
        assert_eq!(world.run(admin, &queues.emit(1), &[]).result, 0x0001_0001);
        let log =
            |lid, bytes, offset| GetLogPage { bytes, offset, ..GetLogPage::of(lid, 4) }.emit(1);
        let effects = world.fetch(admin, &log(log_page::EFFECTS, 4096, 0));
        assert_eq!(u32::from(effects[1024 + 4 * usize::from(opcode::READ)]), EFFECTS_SUPPORTED);
        for code in [opcode::COMPARE, opcode::VERIFY] {
            assert_eq!(u32::from(effects[1024 + 4 * usize::from(code)]), EFFECTS_SUPPORTED);
        }
        // C29: what lies past the end of a page reads as zero; more than one chunk works.
        let health = world.fetch(admin, &log(log_page::HEALTH, 8192, 508));
        assert_eq!((health.len(), health.iter().all(|&byte| byte == 0)), (8192, true));
        assert_eq!(world.fetch(admin, &log(log_page::HEALTH, 4, 0))[1..3], 300_u16.to_le_bytes());
    }
}

#[test]
fn discovery_needs_no_keep_alive_and_names_the_subsystem() {
    let mut world = World::new(config(4096));
    let conn = world.initialised(0);
    let data = ConnectData { subnqn: put_nqn(DISCOVERY_NQN).unwrap(), ..connect_fields(0xffff) };
    let request = Connect { kato_ms: 0, ..connect(0) };
    assert_eq!(world.status(conn, &request.emit(1), &emit(&data)), Status::SUCCESS);
    let set = PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(conn, &set.emit(2), &[]), Status::SUCCESS);
    let log = |bytes, offset| {
        GetLogPage { bytes, offset, ..GetLogPage::of(log_page::DISCOVERY, 4) }.emit(1)
    };
    assert_eq!(world.fetch(conn, &log(16, 0))[8..16], 2_u64.to_le_bytes());
    let record = DiscoveryRecord::parse(&world.fetch(conn, &log(1024, 1024))).unwrap();
    assert_eq!((record.trtype, record.adrfam, record.subtype), (3, 1, 2));
    assert_eq!(record.subnqn, put_nqn(NQN).unwrap());
    assert_eq!(record.trsvcid[..5], *b"4420 ");
    assert_eq!(record.traddr[..10], *b"192.0.2.1 ");
    assert_eq!(
        world.status(conn, &Identify::of(cns::NAMESPACE, 1).emit(1), &[]),
        Status::INVALID_FIELD
    );
    let health = GetLogPage::of(log_page::HEALTH, 512);
    assert_eq!(world.status(conn, &health.emit(1), &[]), Status::INVALID_LOG_PAGE);
}
