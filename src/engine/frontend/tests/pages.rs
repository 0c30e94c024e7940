//! What can be asked about the target: every log page, list and feature, on both kinds of controllers.

use super::*;
use alloc::string::String;
use ibid_wire::nvme_tcp::{
    AsyncEvent, DISCOVERY_NQN, DiscoveryRecord, GetFeatures, GetLogPage, HealthLog, Identify,
    IdentifyController, IdentifyNamespace, SetFeatures, cns, entry_flag, feature, log_page,
    parse_descriptors, subtype,
};

impl World {
    /// A discovery controller that its host keeps for so long without a sign.
    pub(super) fn discovery(&mut self, kato_ms: u32) -> ConnId {
        let conn = self.initialised(0);
        let data =
            ConnectData { subnqn: put_nqn(DISCOVERY_NQN).unwrap(), ..connect_fields(0xffff) };
        let request = Connect { kato_ms, ..connect(0) };
        assert_eq!(self.status(conn, &request.emit(1), &emit(&data)), Status::SUCCESS);
        let set =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        assert_eq!(self.status(conn, &set.emit(2), &[]), Status::SUCCESS);
        conn
    }

    fn log(&mut self, conn: ConnId, lid: u8, bytes: u32) -> Vec<u8> {
        self.fetch(conn, &GetLogPage::of(lid, bytes).emit(1))
    }
}

fn dword(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[index * 4..][..4].try_into().unwrap())
}

#[test]
fn the_pages_that_are_said_to_be_there_are_and_no_others() {
    let mut world = World::new(config(4096));
    let (io, _) = world.admin(0);
    let discovery = world.discovery(0);
    for (conn, expected) in
        [(io, &[0, 1, 2, 3, 4, 5, 0x0c, 0x12, 0x13][..]), (discovery, &[0, 0x70][..])]
    {
        let supported = world.log(conn, log_page::SUPPORTED, 1024);
        for lid in 0..=u8::MAX {
            let said = dword(&supported, lid.into()) & 1 == 1;
            assert_eq!(said, expected.contains(&lid), "{lid:#x}");
            let status = {
                let bytes = world.capsule(&GetLogPage::of(lid, 64).emit(1), &[]);
                world.give(conn, &bytes, usize::MAX);
                world.pdus(conn).last().unwrap().cqe().status
            };
            let wanted = if said { Status::SUCCESS } else { Status::INVALID_LOG_PAGE };
            assert_eq!(status, wanted, "{lid:#x}");
        }
    }
    // RGO is what the ANA page's own half says.
    assert_eq!(dword(&world.log(io, log_page::SUPPORTED, 1024), 0x0c), 1 << 16 | 1);
    let lpa = |world: &mut World, conn| {
        let bytes = world.fetch(conn, &Identify::of(cns::CONTROLLER, 0).emit(1));
        IdentifyController::parse(&bytes).unwrap().lpa
    };
    assert_eq!((lpa(&mut world, io), lpa(&mut world, discovery)), (0b10_0110, 0b100));
}

/// Every opcode: what the effects log says is there is taken, what it doesn't say is refused as an opcode.
#[test]
fn the_effects_log_is_true_of_every_opcode() {
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    let effects = world.log(admin, log_page::EFFECTS, 4096);
    // Abort and event requests have answers of their own kind, fabrics commands are not in this log.
    for code in (0..=u8::MAX).filter(|code| ![8, 0x0c, 0x7f].contains(code)) {
        for (conn, at) in [(admin, 0), (io, 256)] {
            let said = dword(&effects, at + usize::from(code));
            // Without data and without length, all that have some are refused for that.
            let bytes = world.capsule(&Sqe::new(code, 1, 1), &[]);
            world.give(conn, &bytes, usize::MAX);
            let status = world.pdus(conn).last().unwrap().cqe().status;
            assert_eq!(said & 1 == 1, status != Status::INVALID_OPCODE, "{at} {code:#x} {status}");
            let scope = if at == 0 { 1 << 21 } else { 1 << 20 };
            assert_eq!(said >> 20 << 20, if said & 1 == 1 { scope } else { 0 }, "{code:#x}");
        }
    }
    let mut other = GetLogPage::of(log_page::EFFECTS, 64);
    other.csi = 2;
    assert_eq!(world.status(admin, &other.emit(1), &[]), Status::INVALID_FIELD);
    let mut one = GetLogPage::of(log_page::HEALTH, 64);
    one.nsid = 1;
    assert_eq!(world.status(admin, &one.emit(1), &[]), Status::INVALID_FIELD);
    one.nsid = 0;
    assert_eq!(world.fetch(admin, &one.emit(1)).len(), 64);
}

#[test]
fn every_list_of_namespaces_and_controllers_is_the_same_truth() {
    let mut config = config(4096);
    config.controller_ids = (0x7ff0, 0xffef);
    let mut world = World::new(config);
    let (admin, first) = world.admin(0);
    let (_, second) = world.admin(0);
    assert_eq!((first, second), (0x7ff0, 0x7ff1));
    let mut ask = |cns, nsid, cntid| {
        world.fetch(admin, &Identify { cntid, ..Identify::of(cns, nsid) }.emit(1))
    };
    for list in [cns::NAMESPACE_LIST, cns::SET_NAMESPACE_LIST, cns::ALLOCATED_LIST] {
        assert_eq!(ask(list, 0, 0)[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ask(list, 1, 0)[..4], [0; 4]);
    }
    assert_eq!(ask(cns::NAMESPACE, 1, 0), ask(cns::ALLOCATED_NAMESPACE, 1, 0));
    for list in [cns::CONTROLLER_LIST, cns::ATTACHED_CONTROLLERS] {
        assert_eq!(ask(list, 1, 0)[..8], [2, 0, 0xf0, 0x7f, 0xf1, 0x7f, 0, 0]);
        assert_eq!(ask(list, 1, 0x7ff1)[..6], [1, 0, 0xf1, 0x7f, 0, 0]);
        assert_eq!(ask(list, 1, 0x7ff2)[..4], [0; 4]);
    }
    // One namespace, three names, the same in both places that tell them.
    let id = parse_descriptors(ask(cns::DESCRIPTORS, 1, 0)[..].try_into().unwrap());
    let namespace = IdentifyNamespace::parse(&ask(cns::NAMESPACE, 1, 0)).unwrap();
    assert_eq!((id.nguid, id.eui64), (namespace.nguid, namespace.eui64));
    for cns in [cns::ALLOCATED_NAMESPACE, cns::ATTACHED_CONTROLLERS] {
        let unknown = Identify::of(cns, 2).emit(1);
        assert_eq!(world.status(admin, &unknown, &[]), Status::INVALID_NAMESPACE, "C30");
    }
}

#[test]
fn an_eui64_is_made_of_the_uuid_locally_administered_and_of_its_own() {
    let mut seen = Vec::new();
    for last in 0..48 {
        let mut uuid = [7; 16];
        uuid[15] = last;
        let namespace = NamespaceConfig { uuid, ..config(4096).namespaces[0] };
        let eui64 = namespace.eui64();
        assert_eq!(eui64[0] & 3, 2, "one station's, given by no authority");
        assert!(!seen.contains(&eui64));
        seen.push(eui64);
    }
    // Of 16 zero bytes: a value that must never change, or hosts take a volume for another one.
    let namespace = NamespaceConfig { uuid: [0; 16], ..config(4096).namespaces[0] };
    assert_eq!(namespace.eui64(), [0x8a, 0x20, 0x1f, 0xb9, 0x60, 0xff, 0x64, 0x65]);
}

#[test]
fn features_tell_what_they_are_were_and_may_be() {
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    let mut get = |fid, select, value| {
        let cqe = world.run(admin, &GetFeatures { fid, select, value }.emit(1), &[]);
        assert_eq!(cqe.status, Status::SUCCESS, "{fid:#x} {select}");
        cqe.result as u32
    };
    for fid in [feature::QUEUES, feature::TEMPERATURE, feature::POWER, feature::KEEP_ALIVE] {
        assert_eq!(get(fid, 3, 0), 4, "{fid:#x} can be changed, not saved");
        assert_eq!(get(fid, 1, 0), get(fid, 2, 0), "{fid:#x}: nothing was saved");
    }
    for fid in [feature::ARBITRATION, feature::ERROR_RECOVERY, feature::ATOMICITY, feature::HOST_ID]
    {
        assert_eq!(get(fid, 3, 0), 0, "{fid:#x}");
    }
    assert_eq!((get(feature::KEEP_ALIVE, 0, 0), get(feature::KEEP_ALIVE, 1, 0)), (5000, 0));
    assert_eq!(get(feature::QUEUES, 0, 0), 0x1_0001);
    assert_eq!((get(feature::TEMPERATURE, 0, 0), get(feature::TEMPERATURE, 0, 1 << 20)), (343, 0));
    let set = |fid, save, value| SetFeatures { fid, save, value }.emit(1);
    let get = |fid, select, value| GetFeatures { fid, select, value }.emit(1);
    let mut for_one = set(feature::KEEP_ALIVE, false, 9000);
    for_one.nsid = 1;
    for (what, sqe, status) in [
        ("select", get(feature::QUEUES, 4, 0), Status::INVALID_FIELD),
        ("another sensor", get(feature::TEMPERATURE, 0, 1 << 16), Status::INVALID_FIELD),
        ("all sensors", get(feature::TEMPERATURE, 0, 15 << 16), Status::INVALID_FIELD),
        ("neither over nor under", get(feature::TEMPERATURE, 0, 2 << 20), Status::INVALID_FIELD),
        ("no volatile cache", get(0x06, 0, 0), Status::INVALID_FIELD),
        ("short host identifier", get(feature::HOST_ID, 0, 0), Status::INVALID_FIELD),
        ("C31 saved", set(feature::POWER, true, 0), Status::FEATURE_NOT_SAVEABLE),
        ("power state", set(feature::POWER, false, 1), Status::INVALID_FIELD),
        ("fixed", set(feature::ATOMICITY, false, 1), Status::FEATURE_NOT_CHANGEABLE),
        ("one namespace", for_one, Status::FEATURE_NOT_PER_NAMESPACE),
        ("queues are there", set(feature::QUEUES, false, 0), Status::SEQUENCE_ERROR),
    ] {
        assert_eq!(world.status(admin, &sqe, &[]), status, "{what}");
    }
    let kato = world.run(admin, &get(feature::KEEP_ALIVE, 0, 0), &[]).result;
    assert_eq!(kato, 5000, "what was refused had no effect");
    let mut long = get(feature::HOST_ID, 0, 1);
    long.sgl = Sgl::transport(16);
    assert_eq!(world.fetch(admin, &long), [9; 16]);
    world.frontend.closed(world.now, io);
    assert_eq!(world.status(admin, &set(feature::QUEUES, false, 0), &[]), Status::SUCCESS);
    // LID 12h says which there are.
    let supported = world.log(admin, log_page::FEATURES, 1024);
    for fid in 0..=u8::MAX {
        let status = world.status(admin, &get(fid, 3, 0), &[]);
        let said = dword(&supported, fid.into());
        assert_eq!(said, if status.is_success() { 1 << 21 | 1 } else { 0 }, "{fid:#x}");
    }
}

/// R9. Only a host that has said that it understands it is told when to try an interrupted command again.
#[test]
fn a_host_that_asks_for_it_is_told_when_to_try_again() {
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    world.answers = false;
    let interrupted = |world: &mut World| {
        let bytes = world.capsule(&write(3, 0, 1, 4096, true), &pattern(4096, 1));
        world.give(io, &bytes, usize::MAX);
        let Some(Event::Write { cmd, .. }) = world.events.pop() else { panic!("no write came") };
        world.frontend.complete(cmd, Status::COMMAND_INTERRUPTED);
        world.give(io, &bytes[bytes.len() - 4096..], usize::MAX);
        let cqe = world.answer(io).cqe();
        assert_eq!((cqe.status.sct(), cqe.status.sc(), cqe.status.is_final()), (0, 0x21, false));
        cqe.status.delay()
    };
    let behavior = |acre, len: usize| {
        let mut data = vec![0; len];
        data[0] = acre;
        let set = SetFeatures { fid: feature::HOST_BEHAVIOR, save: false, value: 0 };
        (Sqe { sgl: Sgl::in_capsule(len as u32), ..set.emit(1) }, data)
    };
    let mut get = GetFeatures { fid: feature::HOST_BEHAVIOR, select: 0, value: 0 }.emit(1);
    get.sgl = Sgl::transport(512);
    let identify = Identify::of(cns::CONTROLLER, 0).emit(1);
    let controller = IdentifyController::parse(&world.fetch(admin, &identify)).unwrap();
    assert_eq!(controller.crdt1, 10, "one second");

    assert_eq!(interrupted(&mut world), 0, "it was not asked for");
    for (acre, len, status) in
        [(2, 512, Status::INVALID_FIELD), (1, 508, Status::SGL_LENGTH_INVALID)]
    {
        let (sqe, data) = behavior(acre, len);
        assert_eq!(world.status(admin, &sqe, &data), status);
    }
    assert_eq!(world.fetch(admin, &get), [0; 512]);
    let (sqe, data) = behavior(1, 512);
    assert_eq!(world.status(admin, &sqe, &data), Status::SUCCESS);
    assert_eq!(world.fetch(admin, &get), data);
    assert_eq!(interrupted(&mut world), 1, "CRDT1");
    let (sqe, data) = behavior(0, 512);
    assert_eq!(world.status(admin, &sqe, &data), Status::SUCCESS);
    assert_eq!(interrupted(&mut world), 0);
}

#[test]
fn a_threshold_that_is_passed_warns_once_until_the_log_was_read() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let set = |fid, value| SetFeatures { fid, save: false, value }.emit(1);
    let warning = |world: &mut World| {
        HealthLog::parse(&world.log(admin, log_page::HEALTH, 512)).unwrap().critical
    };
    assert_eq!(warning(&mut world), 0);
    assert_eq!(world.status(admin, &set(feature::ASYNC_EVENTS, 2), &[]), Status::SUCCESS);
    let request = world.capsule(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, 9, 0), &[]);
    world.give(admin, &request, usize::MAX);
    assert_eq!(world.status(admin, &set(feature::TEMPERATURE, 301), &[]), Status::SUCCESS);
    let bytes = world.capsule(&set(feature::TEMPERATURE, 15 << 16 | 300), &[]);
    world.give(admin, &bytes, usize::MAX);
    let told: Vec<_> = world.pdus(admin).iter().map(Pdu::cqe).collect();
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].cid, told[0].result), (9, AsyncEvent::TEMPERATURE.emit().into()));
    world.give(admin, &request, usize::MAX);
    assert_eq!(world.status(admin, &set(feature::TEMPERATURE, 299), &[]), Status::SUCCESS);
    assert!(world.pdus(admin).is_empty(), "masked");
    assert_eq!(warning(&mut world), 2);
    assert_eq!(world.status(admin, &set(feature::TEMPERATURE, 400), &[]), Status::SUCCESS);
    assert_eq!(warning(&mut world), 0);
    // Too cold is a warning too.
    let bytes = world.capsule(&set(feature::TEMPERATURE, 1 << 20 | 300), &[]);
    world.give(admin, &bytes, usize::MAX);
    assert_eq!(world.pdus(admin).len(), 2);
    assert_eq!(warning(&mut world), 2);
}

#[test]
fn the_discovery_log_names_the_subsystem_itself_and_its_neighbours_once_each() {
    let mut config = config(4096);
    config.port_id = 2;
    let referral = |n: u16| Referral { traddr: String::from("2001:db8::9"), trsvcid: 8000 + n };
    config.referrals = (0..REFERRALS_MAX as u16).map(referral).collect();
    let mut world = World::new(config);
    let conn = world.discovery(0);
    let records = 2 + REFERRALS_MAX;
    let bytes = (1 + records) * 1024;
    let whole = world.log(conn, log_page::DISCOVERY, bytes as u32 + 2048);
    assert!(whole[bytes..].iter().all(|&byte| byte == 0), "C29: zeroes behind the end");
    assert_eq!(whole[8..16], (records as u64).to_le_bytes());
    let read: Vec<DiscoveryRecord> = whole[1024..bytes]
        .chunks_exact(1024)
        .map(|record| DiscoveryRecord::parse(record).unwrap())
        .collect();
    for record in &read {
        assert_eq!((record.trtype, record.cntlid, record.treq), (3, 0xffff, 0b100));
        assert_eq!((record.asqsz, record.sectype), (DEPTH, 0));
    }
    let kinds: Vec<u8> = read.iter().map(|record| record.subtype).collect();
    assert_eq!(kinds[..2], [subtype::NVM, subtype::CURRENT]);
    assert!(kinds[2..].iter().all(|&kind| kind == subtype::REFERRAL));
    assert_eq!((read[0].portid, read[0].adrfam, read[0].eflags), (2, 1, 0));
    assert_eq!(read[1].eflags, entry_flag::DUPLICATE | entry_flag::PERSISTENT);
    assert_eq!(read[1].traddr, read[0].traddr);
    for (n, record) in read[2..].iter().enumerate() {
        assert_eq!((record.adrfam, record.subnqn), (2, put_nqn(DISCOVERY_NQN).unwrap()));
        let port = alloc::format!("{:<32}", 8000 + n);
        assert_eq!(record.trsvcid, port.as_bytes());
        assert_eq!(record.traddr[..12], *b"2001:db8::9 ");
    }
    // In any parts, at any offset, it is the same log.
    for (offset, len) in [(0, 4), (4, 5000), (1000, 4096), (1024, 8192), (3000, 3000), (9212, 2052)]
    {
        let mut part = GetLogPage::of(log_page::DISCOVERY, len);
        part.offset = offset as u64;
        let part = world.fetch(conn, &part.emit(1));
        let end = (offset + len as usize).min(whole.len());
        assert_eq!(part[..end - offset], whole[offset..end], "{offset} {len}");
    }
    let mut past = GetLogPage::of(log_page::DISCOVERY, 4);
    past.offset = bytes as u64 + 4;
    assert_eq!(world.status(conn, &past.emit(1), &[]), Status::INVALID_FIELD, "C29");
}

/// A host that gives a keep-alive timeout keeps its discovery controller by it, as long as it likes; nothing of the log changes, so
/// nothing is promised about a change.
#[test]
fn a_discovery_controller_stays_as_long_as_its_host_says() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let conn = world.discovery(10_000);
    let controller = world.fetch(conn, &Identify::of(cns::CONTROLLER, 0).emit(1));
    assert_eq!(IdentifyController::parse(&controller).unwrap().oaes, 0);
    let all = SetFeatures { fid: feature::ASYNC_EVENTS, save: false, value: u32::MAX };
    assert_eq!(world.status(conn, &all.emit(1), &[]), Status::SUCCESS);
    let get = |fid| GetFeatures { fid, select: 0, value: 0 }.emit(1);
    assert_eq!(world.run(conn, &get(feature::ASYNC_EVENTS), &[]).result, 0);
    assert_eq!(world.run(conn, &get(feature::KEEP_ALIVE), &[]).result, 10_000);
    let request = world.capsule(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, 9, 0), &[]);
    world.give(conn, &request, usize::MAX);
    for second in 1..60 {
        world.now = Nanos::from_millis(9_000 * second);
        world.frontend.tick(world.now);
        let alive = Sqe::new(opcode::KEEP_ALIVE, 1, 0);
        assert_eq!(world.status(conn, &alive, &[]), Status::SUCCESS);
    }
    world.frontend.set_access(world.now, VolumeId::new(0), AnaState::Inaccessible);
    assert!(world.pdus(conn).is_empty(), "access is no business of a discovery controller");
    world.now = world.now.after(Nanos::from_millis(10_000));
    world.frontend.tick(world.now);
    world.drain();
    assert!(world.is_closing(conn));
}
