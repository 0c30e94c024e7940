//! One subsystem, two nodes: what hosts see of either, and what they are told when a path comes or goes.

use crate::common::{alone, folder, until};
use crate::link::{Link, links};
use crate::load::{Model, options, write_count};
use crate::node::{DESTINATION, Demo, Pair, SOURCE, VOLUME_BYTES, stop, wait_for_state};
use crate::process::ibid;
use ibid_client::{AnaState, ClientError, Initiator, Status, discover};
use ibid_control::config::Role;
use ibid_control::status::{PairState, PathState};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{DISCOVERY_NQN, IdentifyController, cns, subtype};
use std::net::SocketAddr;

fn connect(addr: SocketAddr, nqn: &str) -> Initiator {
    Initiator::connect(addr, nqn, &options(2, 16, true)).unwrap()
}

fn states(initiator: &mut Initiator) -> Vec<(u32, AnaState)> {
    initiator.access().unwrap().1
}

/// What a host tells one volume and one subsystem from another by.
fn names(initiator: &mut Initiator) -> (IdentifyController, Vec<u8>) {
    let descriptors = initiator.identify(cns::DESCRIPTORS, 1).unwrap().to_vec();
    let controller = initiator.identify(cns::CONTROLLER, 0).unwrap();
    (IdentifyController::parse(controller).unwrap(), descriptors)
}

fn assert_turned_away(result: Result<(), ClientError>) {
    let Err(ClientError::Failed { status, .. }) = result else { panic!("{result:?}") };
    assert_eq!(status, Status::ANA_INACCESSIBLE);
}

#[test]
fn both_nodes_show_one_subsystem_and_the_destination_takes_nothing() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    let referral = "192.0.2.77:8009".parse().unwrap();
    pair.configs[DESTINATION].target.as_mut().unwrap().referrals = vec![referral];
    let [mut source, mut destination] = pair.start_both();
    let status = pair.status(DESTINATION);
    assert_eq!(
        (status.node.role, status.volumes[0].path),
        (Role::Destination, Some(PathState::Inaccessible))
    );
    assert_eq!(pair.status(SOURCE).volumes[0].path, Some(PathState::Optimized));
    assert!(status.to_string().contains("; inaccessible here\n"), "{status}");
    let (here, nqn) = pair.target();
    let there = status.target.expect("the destination has a target").listen;

    let found = discover(there, &options(1, 16, false)).unwrap();
    let records: Vec<_> =
        found.iter().map(|one| (one.kind, one.nqn.as_str(), one.trsvcid.clone())).collect();
    let port = there.port().to_string();
    assert_eq!(
        records,
        [
            (subtype::NVM, nqn.as_str(), port.clone()),
            (subtype::CURRENT, DISCOVERY_NQN, port),
            (subtype::REFERRAL, DISCOVERY_NQN, "8009".to_owned()),
        ]
    );

    let (mut first, mut second) = (connect(here, &nqn), connect(there, &nqn));
    let ((ours, volume), (theirs, same)) = (names(&mut first), names(&mut second));
    assert_eq!(volume, same, "UUID, NGUID and EUI64");
    assert_eq!(
        (ours.serial, ours.model, ours.subnqn),
        (theirs.serial, theirs.model, theirs.subnqn)
    );
    assert!((1..=0x7fef).contains(&ours.cntlid) && theirs.cntlid >= 0x7ff0, "{ours:?} {theirs:?}");
    assert_eq!(first.namespaces(), second.namespaces());
    assert_eq!(states(&mut first), [(1, AnaState::Optimized)]);
    assert_eq!(states(&mut second), [(1, AnaState::Inaccessible)]);

    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut first, &mut model, 16, 500);
    let before = pair.status(DESTINATION).volumes[0].writes;
    for _ in 0..20 {
        assert_turned_away(second.write(0, &[0xA7; 4096]));
        assert_turned_away(second.write(0, &vec![0xA7; 256 << 10]));
        assert_turned_away(second.read(0, &mut [0; 4096]));
        assert_turned_away(second.zeroes(0, 16, true));
        assert_turned_away(second.deallocate(0, 16));
        assert_turned_away(second.flush());
    }
    assert_eq!(pair.status(DESTINATION).volumes[0].writes, before);
    assert_eq!(pair.status(DESTINATION).target.unwrap().controllers, 1);
    write_count(&mut first, &mut model, 16, 500);
    model.check_target(&mut first);
    // A host that stays connected to the destination keeps neither from stopping.
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    pair.assert_identical(&mut model);
}

/// Nothing can be served before the two have met; hosts are told when that takes long, and when it is over, and lose nothing.
#[test]
fn a_source_without_its_peer_after_a_crash_is_no_path_until_it_has_met_it() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    for config in &mut pair.configs {
        config.peer.timeout = Nanos::from_millis(500);
    }
    let [mut source, mut destination] = pair.start_both();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut pair.connect(), &mut model, 16, 200);
    source.kill();
    destination.kill();

    let mut source = pair.start(SOURCE);
    wait_for_state(pair.control(SOURCE), PairState::Connecting);
    let (addr, nqn) = pair.target();
    let mut initiator = connect(addr, &nqn);
    let changes = until("the path to be closed", || {
        let (changes, states) = initiator.access().unwrap();
        (states == [(1, AnaState::Inaccessible)]).then_some(changes)
    });
    assert_eq!(changes, 1);
    assert_eq!(pair.status(SOURCE).volumes[0].path, Some(PathState::Inaccessible));
    assert_turned_away(initiator.write(0, &[1; 4096]));
    let mut destination = pair.start(DESTINATION);
    until("the path to be open", || {
        (initiator.access().unwrap() == (2, vec![(1, AnaState::Optimized)])).then_some(())
    });
    pair.wait_in_sync();
    model.check_target(&mut initiator);
    write_count(&mut initiator, &mut model, 16, 200);
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    pair.assert_identical(&mut model);
}

#[test]
fn a_demonstration_has_two_paths_and_each_names_the_other() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        // Two that nobody has, below those that the kernel gives away by itself.
        let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let start = 20_000 + (std::process::id() % 10_000) as u16;
        let port = (start..).find(|port| is_free(*port) && is_free(port + 1)).unwrap();
        let listen = format!("127.0.0.1:{port}");
        let mut command = ibid();
        command.args(["demo", "--serve", "--size", "32MiB", "--listen", &listen]);
        command.args(["--link", link.word(), "--keep"]).arg(folder.path());
        let mut demo = Demo::start_as(command, folder.path());
        assert_eq!((demo.addr.port(), demo.standby.port()), (port, port + 1));
        for (at, other, state) in [
            (demo.addr, demo.standby, AnaState::Optimized),
            (demo.standby, demo.addr, AnaState::Inaccessible),
        ] {
            assert_eq!(states(&mut connect(at, &demo.nqn)), [(1, state)], "{link:?}");
            let found = discover(at, &options(1, 16, false)).unwrap();
            let referral = found.iter().find(|one| one.kind == subtype::REFERRAL).unwrap();
            assert_eq!(referral.trsvcid, other.port().to_string());
        }
        assert_eq!(demo.stop("TERM"), (Some(0), vec!["mirror identical: yes".to_owned()]));
    }
}
