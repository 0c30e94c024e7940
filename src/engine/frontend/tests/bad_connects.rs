//! Connects, and admin commands, that must fail, with the status they must fail with.

use super::*;
use ibid_wire::nvme_tcp::{
    ConnectRefusal, DISCOVERY_NQN, GetFeatures, GetLogPage, Identify, PropertyGet, SetFeatures,
    cns, fctype, feature, log_page,
};

#[test]
fn before_connect_nothing_else_is_taken() {
    let mut world = World::new(config(4096));
    let conn = world.initialised(0);
    assert_eq!(world.status(conn, &Identify::of(1, 0).emit(1), &[]), Status::SEQUENCE_ERROR, "C1");
    assert_eq!(
        world.status(conn, &write(1, 0, 1, 4096, true), &[0; 4096]),
        Status::SEQUENCE_ERROR,
        "C1"
    );
    assert_eq!(world.status(conn, &connect(0).emit(1), &connect_data(0xffff)), Status::SUCCESS);
    assert_eq!(
        world.status(conn, &connect(0).emit(1), &connect_data(0xffff)),
        Status::SEQUENCE_ERROR,
        "C2"
    );
}

#[test]
fn a_bad_connect_names_what_is_wrong() {
    let good = connect_fields(0xffff);
    let refuse = |ipo, in_data| Some(ConnectRefusal { ipo, in_data });
    let mut unterminated = good;
    unterminated.hostnqn = [b'a'; 256];
    let mut escape = good;
    escape.subnqn[3] = 0x1b;
    let other = ConnectData { subnqn: put_nqn("nqn.2014-08.org.example:other").unwrap(), ..good };
    let base = connect(0);
    let bad = Status::CONNECT_INVALID_PARAMETERS;
    let cases: &[(&str, Connect, ConnectData, Status, Option<ConnectRefusal>)] = &[
        ("C3", Connect { recfmt: 1, ..base }, good, Status::CONNECT_INCOMPATIBLE_FORMAT, None),
        ("C5 control byte", base, escape, bad, refuse(256, true)),
        ("C5 unterminated", base, unterminated, bad, refuse(512, true)),
        ("C5 empty", base, ConnectData { subnqn: [0; 256], ..good }, bad, refuse(256, true)),
        ("C6", base, other, bad, refuse(256, true)),
        ("C8", base, ConnectData { cntlid: 1, ..good }, bad, refuse(16, true)),
        ("C9 no controller", connect(1), ConnectData { cntlid: 7, ..good }, bad, refuse(16, true)),
        ("C11 0", Connect { sqsize: 0, ..base }, good, bad, refuse(44, false)),
        ("C11 too deep", Connect { sqsize: DEPTH, ..base }, good, bad, refuse(44, false)),
        ("C12", Connect { kato_ms: 0, ..base }, good, Status::KEEP_ALIVE_INVALID, None),
    ];
    let mut world = World::new(config(4096));
    for (what, request, data, status, refusal) in cases {
        let conn = world.initialised(0);
        let cqe = world.run(conn, &request.emit(1), &emit(data));
        assert_eq!(cqe.status, *status, "{what}");
        if let Some(refusal) = refusal {
            assert_eq!(ConnectRefusal::parse(cqe.result), *refusal, "{what}");
        }
        // It may try again.
        let again = world.status(conn, &connect(0).emit(1), &connect_data(0xffff));
        assert_eq!(again, Status::SUCCESS, "{what}");
        world.frontend.closed(world.now, conn);
    }
    let conn = world.initialised(0);
    let mut short = connect(0).emit(1);
    short.sgl = Sgl::in_capsule(512);
    assert_eq!(world.status(conn, &short, &[0; 512]), Status::SGL_LENGTH_INVALID, "C4");
    let huge = Connect { kato_ms: u32::MAX, ..connect(0) };
    assert_eq!(
        world.status(conn, &huge.emit(1), &connect_data(0xffff)),
        Status::SUCCESS,
        "C12 is cut"
    );
}

/// What stands behind the NUL of a name is none of it: however it differs, it is one host with one share.
#[test]
fn one_name_is_one_host() {
    let mut world = World::new(config(4096));
    let mut field = put_nqn(HOST).unwrap();
    for last in 1..=2 {
        field[255] = last;
        let conn = world.initialised(0);
        let data = ConnectData { hostnqn: field, ..connect_fields(0xffff) };
        assert_eq!(world.status(conn, &connect(0).emit(1), &emit(&data)), Status::SUCCESS);
    }
    let hosts = world.frontend.hosts.iter().filter(|host| host.controllers > 0);
    assert_eq!(hosts.map(|host| host.controllers).collect::<Vec<_>>(), [2]);
}

/// Discovery asks nobody who he is: however often it is connected to, hosts find a controller.
#[test]
fn discovery_keeps_no_controller_from_hosts() {
    let mut world = World::new(config(4096));
    let first = world.discovery(600_000);
    world.now = world.now.after(Nanos::from_millis(1));
    let second = world.discovery(600_000);
    assert!(world.is_closing(first), "the older one gives way");
    let (admin, _) = world.admin(0);
    assert!(!world.is_closing(second) && !world.is_closing(admin));
    // A controller of a host never does.
    world.frontend.closed(world.now, first);
    world.now = world.now.after(Nanos::from_millis(1));
    world.discovery(600_000);
    assert!(world.is_closing(second) && !world.is_closing(admin));
}

/// … nor does it take anything of a host's share, in whose name anybody may come; and a host that has its share finds discovery.
#[test]
fn discovery_takes_nothing_of_a_hosts_share() {
    let mut base = config(4096);
    base.limits = Limits { connections_per_host: 2, controllers_max: 8, ..base.limits };
    let mut world = World::new(base);
    let held = [(); 2].map(|()| world.discovery(600_000));
    let (_, admin) = world.io(0);
    let late = world.initialised(0);
    let status = world.status(late, &connect(0).emit(1), &emit(&connect_fields(0xffff)));
    assert_eq!(status, Status::CONNECT_BUSY, "two queues are its share");
    assert!(held.iter().all(|conn| !world.is_closing(*conn)), "ended in vain");
    world.now = world.now.after(Nanos::from_millis(1));
    let newest = world.discovery(600_000);
    assert_eq!(held.map(|conn| world.is_closing(conn)), [true, false], "the oldest gives way");
    // What goes gives nothing back that it never took.
    for conn in [newest, held[1]] {
        world.frontend.closed(world.now, conn);
    }
    assert!(!world.is_closing(admin));
    assert_eq!(world.frontend.hosts.iter().map(|host| host.connections).max(), Some(2));
}

#[test]
fn io_queues_belong_to_their_host() {
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    let good = connect_fields(1);
    let cases = [
        ("C2 queue taken", connect(1), good, Status::SEQUENCE_ERROR),
        (
            "C9 host",
            connect(2),
            ConnectData { hostnqn: put_nqn("nqn.2014-08.org.example:thief").unwrap(), ..good },
            Status::CONNECT_INVALID_PARAMETERS,
        ),
        (
            "C9 host id",
            connect(2),
            ConnectData { hostid: [8; 16], ..good },
            Status::CONNECT_INVALID_PARAMETERS,
        ),
        (
            "C9 subsystem",
            connect(2),
            ConnectData { subnqn: put_nqn(DISCOVERY_NQN).unwrap(), ..good },
            Status::CONNECT_INVALID_PARAMETERS,
        ),
        ("C10", connect(3), good, Status::CONNECT_INVALID_PARAMETERS),
    ];
    for (what, request, data, status) in cases {
        let conn = world.initialised(0);
        assert_eq!(world.status(conn, &request.emit(1), &emit(&data)), status, "{what}");
        world.frontend.closed(world.now, conn);
    }
    // C34: disabling closes the queue; until it is enabled again no I/O queue connects.
    let off = PropertySet { wide: Some(false), offset: property::CC, value: 0 };
    assert_eq!(world.status(admin, &off.emit(1), &[]), Status::SUCCESS);
    assert!(world.events.contains(&Event::Attend { conn: io }));
    assert!(world.is_closing(io));
    world.frontend.closed(world.now, io);
    let conn = world.initialised(0);
    assert_eq!(
        world.status(conn, &connect(1).emit(1), &emit(&good)),
        Status::SEQUENCE_ERROR,
        "C34"
    );
}

#[test]
fn a_host_without_a_name_connects_where_any_host_may() {
    let mut world = World::new(config(4096));
    let admin = world.initialised(0);
    let nameless = ConnectData { hostnqn: [0; 256], ..connect_fields(0xffff) };
    assert_eq!(world.status(admin, &connect(0).emit(1), &emit(&nameless)), Status::SUCCESS);
    // A field that only begins like none is a broken name.
    let mut broken = nameless;
    broken.hostnqn[9] = b'x';
    let other = world.initialised(0);
    assert_eq!(
        world.status(other, &connect(0).emit(1), &emit(&broken)),
        Status::CONNECT_INVALID_PARAMETERS
    );
}

#[test]
fn hosts_and_controllers_are_limited() {
    let mut world =
        World::new(TargetConfig { hosts: Some(vec![HOST.to_string()]), ..config(4096) });
    let conn = world.initialised(0);
    let thief = ConnectData {
        hostnqn: put_nqn("nqn.2014-08.org.example:thief").unwrap(),
        ..connect_fields(0xffff)
    };
    assert_eq!(
        world.status(conn, &connect(0).emit(1), &emit(&thief)),
        Status::CONNECT_INVALID_HOST,
        "C7"
    );
    let nameless = ConnectData { hostnqn: [0; 256], ..connect_fields(0xffff) };
    assert_eq!(
        world.status(conn, &connect(0).emit(1), &emit(&nameless)),
        Status::CONNECT_INVALID_HOST,
        "C7: no name is on no list"
    );
    world.admin(0);
    world.admin(0);
    assert_eq!(
        world.status(conn, &connect(0).emit(1), &connect_data(0xffff)),
        Status::CONNECT_BUSY,
        "C13"
    );
    for _ in 3..CONNECTIONS {
        world.open();
    }
    assert_eq!(world.open_from(HOME), None, "R2: without a close");
}

#[test]
fn a_newcomer_replaces_the_oldest_that_has_not_connected_and_never_a_host() {
    let address = |last| IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, last));
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    let newcomers: Vec<ConnId> =
        (2..CONNECTIONS).map(|at| world.open_from(address(at as u8)).unwrap()).collect();
    assert_eq!(world.open_from(HOME), None, "R2: no place without a close");
    // Each that comes replaces the oldest; whoever connects is safe from then on.
    let survivor = newcomers[1];
    world.give(survivor, &icreq(0, 0, 0), usize::MAX);
    world.answer(survivor);
    assert_eq!(world.status(survivor, &connect(0).emit(1), &connect_data(0xffff)), Status::SUCCESS);
    for expected in [newcomers[0], newcomers[2], newcomers[3]] {
        assert_eq!(world.frontend.in_the_way(HOME), Some(expected), "R2");
        world.frontend.closed(world.now, expected);
        assert_eq!(world.frontend.in_the_way(HOME), None, "there is room");
        assert!(world.open_from(HOME).is_some(), "R2");
    }
    // The rest are newcomers of HOME, in the same order.
    for _ in 0..10 {
        let oldest = world.frontend.in_the_way(address(1)).unwrap();
        assert!(![io, admin, survivor].contains(&oldest), "ADM-1");
        world.frontend.closed(world.now, oldest);
        world.open_from(address(1)).unwrap();
    }
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(survivor, &enable.emit(1), &[]), Status::SUCCESS);
    assert_eq!(world.status(io, &Sqe::new(opcode::FLUSH, 1, 1), &[]), Status::SUCCESS);
}

#[test]
fn with_only_hosts_nobody_is_in_the_way_and_nobody_gets_in() {
    let mut base = config(4096);
    base.limits.controllers_max = CONNECTIONS;
    let mut world = World::new(base);
    for _ in 0..CONNECTIONS {
        world.admin(0);
    }
    assert_eq!(world.frontend.in_the_way(HOME), None, "ADM-1");
    assert_eq!(world.open_from(HOME), None);
}

#[test]
fn an_address_has_its_share_and_no_more() {
    let flood = IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 66));
    let mut base = config(4096);
    base.limits.connections_per_address = 3;
    let mut world = World::new(base);
    let other = world.open_from(HOME).unwrap();
    for _ in 0..3 {
        world.open_from(flood).unwrap();
    }
    assert_eq!(world.open_from(flood), None, "R1");
    // Beyond its share it replaces its own, although another's is older and there is room.
    for _ in 0..5 {
        let victim = world.frontend.in_the_way(flood).unwrap();
        assert_ne!(victim, other, "ADM-2");
        world.frontend.closed(world.now, victim);
        assert!(world.open_from(flood).is_some());
    }
    assert_eq!(world.frontend.in_the_way(HOME), None, "the other has room");
    assert!(world.open_from(HOME).is_some());
}

#[test]
fn a_host_has_its_share_of_connections_over_all_its_controllers() {
    let mut base = config(4096);
    base.limits.connections_per_host = 3;
    base.limits.controllers_max = 4;
    let mut world = World::new(base);
    let (io, _) = world.io(0);
    let (second, cntlid) = world.admin(0);
    let conn = world.initialised(0);
    assert_eq!(
        world.status(conn, &connect(1).emit(1), &connect_data(cntlid)),
        Status::CONNECT_BUSY
    );
    assert_eq!(
        world.status(conn, &connect(0).emit(1), &connect_data(0xffff)),
        Status::CONNECT_BUSY
    );
    // Another host has its own share.
    let other = ConnectData {
        hostnqn: put_nqn("nqn.2014-08.org.example:other-host").unwrap(),
        ..connect_fields(0xffff)
    };
    assert_eq!(world.status(conn, &connect(0).emit(1), &emit(&other)), Status::SUCCESS);
    world.frontend.closed(world.now, conn);
    // What goes, comes back: an I/O queue, then a whole controller.
    world.frontend.closed(world.now, io);
    let conn = world.initialised(0);
    assert_eq!(world.status(conn, &connect(1).emit(1), &connect_data(cntlid)), Status::SUCCESS);
    world.frontend.closed(world.now, second);
    world.frontend.closed(world.now, conn);
    let conn = world.initialised(0);
    assert_eq!(world.status(conn, &connect(0).emit(1), &connect_data(0xffff)), Status::SUCCESS);
}

#[test]
fn admin_commands_are_checked() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let log = |lid, bytes, offset| GetLogPage { bytes, offset, ..GetLogPage::of(lid, 4) }.emit(1);
    let identify = |cns, csi, nsid| Identify { csi, ..Identify::of(cns, nsid) }.emit(1);
    let set = |fid, save, value| SetFeatures { fid, save, value }.emit(1);
    let mut for_one = set(feature::ASYNC_EVENTS, false, 0);
    for_one.nsid = 1;
    let mut short = identify(cns::CONTROLLER, 0, 0);
    short.sgl.length = 512;
    let get = |wide, offset| PropertyGet { wide, offset }.emit(1);
    let set_property = |offset, value| PropertySet { wide: Some(false), offset, value }.emit(1);
    let cases = [
        ("C24", Sqe::new(0x80, 1, 0), Status::INVALID_OPCODE),
        ("C29 unknown page", log(0x44, 512, 0), Status::INVALID_LOG_PAGE),
        ("C29 past the end", log(log_page::HEALTH, 512, 516), Status::INVALID_FIELD),
        ("C29 unaligned", log(log_page::HEALTH, 512, 2), Status::INVALID_FIELD),
        ("C29 4 GiB", log(log_page::HEALTH, 1 << 32, 0), Status::INVALID_FIELD),
        ("C29 offset wraps", log(log_page::HEALTH, 512, u64::MAX - 3), Status::INVALID_FIELD),
        ("C30 CNS", identify(0x44, 0, 0), Status::INVALID_FIELD),
        ("C30 CSI", identify(cns::SET_NAMESPACE, 2, 1), Status::INVALID_FIELD),
        ("C30 NSID", identify(cns::NAMESPACE, 0, 2), Status::INVALID_NAMESPACE),
        ("C30 all", identify(cns::NAMESPACE_LIST, 0, u32::MAX), Status::INVALID_NAMESPACE),
        ("Identify with little room", short, Status::SGL_LENGTH_INVALID),
        ("C31 unknown", set(0x7f, false, 0), Status::INVALID_FIELD),
        ("C31 saved", set(feature::KEEP_ALIVE, true, 1000), Status::FEATURE_NOT_SAVEABLE),
        ("C31 one namespace", for_one, Status::FEATURE_NOT_PER_NAMESPACE),
        ("C31 get", GetFeatures { fid: 0x7f, select: 0, value: 0 }.emit(1), Status::INVALID_FIELD),
        ("C12 set", set(feature::KEEP_ALIVE, false, 0), Status::KEEP_ALIVE_INVALID),
        ("queues FFFF", set(feature::QUEUES, false, 0xffff_0000), Status::INVALID_FIELD),
        ("C33 offset", get(Some(false), 0x44), Status::INVALID_FIELD),
        ("C33 size", get(Some(false), property::CAP), Status::INVALID_FIELD),
        ("C33 reserved size", get(None, property::CC), Status::INVALID_FIELD),
        ("C33 read-only", set_property(property::CSTS, 1), Status::INVALID_FIELD),
        (
            "Disconnect of the admin queue",
            Sqe::new(opcode::FABRICS, 1, fctype::DISCONNECT.into()),
            Status::INVALID_FIELD,
        ),
    ];
    for (what, sqe, status) in cases {
        assert_eq!(world.status(admin, &sqe, &[]), status, "{what}");
    }
    for cid in 10..14 {
        let bytes = world.capsule(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, cid, 0), &[]);
        world.give(admin, &bytes, usize::MAX);
    }
    assert!(world.pdus(admin).is_empty(), "an event was told");
    assert_eq!(
        world.status(admin, &Sqe::new(opcode::ASYNC_EVENT_REQUEST, 14, 0), &[]),
        Status::AER_LIMIT_EXCEEDED,
        "C32"
    );
    let mut abort = Sqe::new(opcode::ABORT, 15, 0);
    abort.cdw10 = 12 << 16;
    let bytes = world.capsule(&abort, &[]);
    world.give(admin, &bytes, usize::MAX);
    let ends: Vec<(u16, Status, u64)> = world
        .pdus(admin)
        .iter()
        .map(|pdu| pdu.cqe())
        .map(|cqe| (cqe.cid, cqe.status, cqe.result))
        .collect();
    assert_eq!(ends, [(12, Status::ABORTED_BY_REQUEST, 0), (15, Status::SUCCESS, 0)]);
    abort.cdw10 = 99 << 16;
    assert_eq!(world.run(admin, &abort, &[]).result, 1);
    // C33: an illegal configuration is fatal for the controller, and says so.
    let off = set_property(property::CC, 0);
    assert_eq!(world.status(admin, &off, &[]), Status::SUCCESS);
    assert_eq!(
        world.status(admin, &identify(cns::CONTROLLER, 0, 0), &[]),
        Status::SEQUENCE_ERROR,
        "C34"
    );
    assert_eq!(
        world.status(admin, &set_property(property::CC, 1), &[]),
        Status::INVALID_FIELD,
        "C33"
    );
    assert_eq!(world.run(admin, &get(Some(false), property::CSTS), &[]).result & 2, 2);
}
