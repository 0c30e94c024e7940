//! Asymmetric access: what a host is told when it changes, and that nothing gets past a namespace that is not accessible.

use super::*;
use ibid_wire::nvme_tcp::{
    AnaGroup, AnaHeader, AsyncEvent, Deallocate, DsmRange, GetLogPage, IDENTIFY_BYTES, Identify,
    IdentifyController, IdentifyIndependentNamespace, IdentifyNamespace, SetFeatures, cns,
    event_bit, feature, log_page, parse_ana,
};

const FIRST: VolumeId = VolumeId::new(0);
const SECOND: VolumeId = VolumeId::new(1);

/// Two namespaces, in another order than their numbers.
fn two() -> TargetConfig {
    let mut config = config(4096);
    let other = NamespaceConfig { volume: SECOND, uuid: [3; 16], ..config.namespaces[0] };
    config.namespaces.insert(0, other);
    config
}

impl World {
    fn set_access(&mut self, volume: VolumeId, state: AnaState) {
        self.frontend.set_access(self.now, volume, state);
        self.drain();
    }

    fn hold(&mut self, admin: ConnId, cid: u16) {
        let bytes = self.capsule(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, cid, 0), &[]);
        assert!(self.give(admin, &bytes, usize::MAX).is_empty());
    }

    /// The one event that was told, and with which request.
    fn event(&mut self, admin: ConnId) -> (u16, AsyncEvent) {
        let cqe = self.answer(admin).cqe();
        assert_eq!(cqe.status, Status::SUCCESS);
        (cqe.cid, AsyncEvent::parse(cqe.result as u32))
    }

    /// The change count of the log and each namespace's state.
    fn states(&mut self, admin: ConnId, retain: bool) -> (u64, Vec<(u32, AnaState)>) {
        let page = GetLogPage { retain, ..GetLogPage::of(log_page::ANA, 4096) };
        let bytes = self.fetch(admin, &page.emit(1));
        let mut states = Vec::new();
        let changes = parse_ana(&bytes, |nsid, state| states.push((nsid, state.unwrap()))).unwrap();
        (changes, states)
    }
}

#[test]
fn a_host_hears_of_a_change_reads_the_log_and_finds_the_state() {
    let mut world = World::new(two());
    let (admin, _) = world.admin(0);
    let (other, _) = world.admin(0);
    let both = [AnaState::Optimized; 2];
    assert_eq!(world.states(admin, false), (0, vec![(1, both[0]), (2, both[1])]));
    world.hold(admin, 7);
    world.hold(other, 8);
    world.events.clear();
    world.set_access(SECOND, AnaState::Inaccessible);
    // Every controller is told, each by its own request; the shard is asked to look at both.
    assert_eq!(world.events, [Event::Attend { conn: admin }, Event::Attend { conn: other }]);
    assert_eq!(world.event(admin), (7, AsyncEvent::ACCESS));
    assert_eq!(world.event(other), (8, AsyncEvent::ACCESS));
    let now = vec![(1, AnaState::Optimized), (2, AnaState::Inaccessible)];
    assert_eq!(world.states(admin, false), (1, now.clone()));
    assert_eq!(world.states(other, false), (1, now));
    // The same state again is no change.
    world.hold(admin, 7);
    world.set_access(SECOND, AnaState::Inaccessible);
    assert!(world.pdus(admin).is_empty());
    for (changes, state) in (2..).zip(AnaState::ALL) {
        world.set_access(SECOND, state);
        assert_eq!(world.frontend.access(SECOND), Some(state));
        assert_eq!(world.event(admin), (7, AsyncEvent::ACCESS), "{state:?}");
        assert_eq!(world.states(admin, false), (changes, vec![(1, both[0]), (2, state)]));
        world.hold(admin, 7);
    }
}

#[test]
fn an_event_that_was_told_is_not_told_again_until_its_log_was_read() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let mut changes = 0;
    let mut change = |world: &mut World| {
        changes += 1;
        let states = [AnaState::Optimized, AnaState::Inaccessible];
        world.set_access(FIRST, states[changes % 2]);
    };
    for cid in 1..=4 {
        world.hold(admin, cid);
    }
    change(&mut world);
    let (cid, _) = world.event(admin);
    change(&mut world);
    change(&mut world);
    assert!(world.pdus(admin).is_empty(), "masked");
    // A look that retains the event changes nothing; the log always says how things stand now.
    assert_eq!(world.states(admin, true), (3, vec![(1, AnaState::Inaccessible)]));
    change(&mut world);
    assert!(world.pdus(admin).is_empty(), "still masked");
    assert_eq!(world.states(admin, false), (4, vec![(1, AnaState::Optimized)]));
    assert!(world.pdus(admin).is_empty(), "what the log has told is no news");
    change(&mut world);
    assert_ne!(world.event(admin).0, cid);
    // Another page is no answer to this event.
    world.fetch(admin, &GetLogPage::of(log_page::HEALTH, 512).emit(1));
    change(&mut world);
    assert!(world.pdus(admin).is_empty());
}

#[test]
fn an_event_waits_for_a_request_and_goes_once_its_log_was_read() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    world.set_access(FIRST, AnaState::Inaccessible);
    assert!(world.pdus(admin).is_empty());
    world.hold(admin, 3);
    assert_eq!(world.event(admin), (3, AsyncEvent::ACCESS), "it waited");
    world.states(admin, false);
    // Read before anybody asked: there is nothing left to tell.
    world.set_access(FIRST, AnaState::Optimized);
    world.states(admin, false);
    world.hold(admin, 3);
    assert!(world.pdus(admin).is_empty());
    // A request that is answered is none that is held: as many as ever may follow.
    for cid in 10..13 {
        world.hold(admin, cid);
    }
    let fifth = Sqe::new(opcode::ASYNC_EVENT_REQUEST, 20, 0);
    assert_eq!(world.status(admin, &fifth, &[]), Status::AER_LIMIT_EXCEEDED, "C32");
    world.set_access(FIRST, AnaState::Inaccessible);
    world.event(admin);
    world.hold(admin, 21);
    assert_eq!(world.status(admin, &fifth, &[]), Status::AER_LIMIT_EXCEEDED, "C32");
}

#[test]
fn only_who_wants_an_event_gets_it() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let set = |value| SetFeatures { fid: feature::ASYNC_EVENTS, save: false, value }.emit(1);
    let get = |select| {
        ibid_wire::nvme_tcp::GetFeatures { fid: feature::ASYNC_EVENTS, select, value: 0 }.emit(1)
    };
    assert_eq!(world.run(admin, &get(0), &[]).result, u64::from(event_bit::ACCESS));
    assert_eq!(world.status(admin, &set(0), &[]), Status::SUCCESS);
    world.hold(admin, 2);
    world.set_access(FIRST, AnaState::Inaccessible);
    assert!(world.pdus(admin).is_empty());
    assert_eq!(world.states(admin, false).0, 1, "the log counts all the same");
    // What there is no event for can't be wanted: it reads back as not set.
    assert_eq!(world.status(admin, &set(u32::MAX), &[]), Status::SUCCESS);
    let wanted = u64::from(event_bit::ACCESS | event_bit::HEALTH);
    assert_eq!(world.run(admin, &get(0), &[]).result, wanted);
    world.set_access(FIRST, AnaState::Optimized);
    assert_eq!(world.event(admin), (2, AsyncEvent::ACCESS));
}

#[test]
fn a_reset_forgets_requests_and_events() {
    let mut world = World::new(config(4096));
    let (admin, _) = world.admin(0);
    let cc = |value: Cc| {
        PropertySet { wide: Some(false), offset: property::CC, value: value.0.into() }.emit(1)
    };
    let off = SetFeatures { fid: feature::ASYNC_EVENTS, save: false, value: 0 }.emit(1);
    for cid in 2..6 {
        world.hold(admin, cid);
    }
    world.set_access(FIRST, AnaState::Inaccessible);
    world.event(admin);
    assert_eq!(world.status(admin, &off, &[]), Status::SUCCESS);
    assert_eq!(world.status(admin, &cc(Cc(0)), &[]), Status::SUCCESS);
    world.set_access(FIRST, AnaState::Optimized);
    assert!(world.pdus(admin).is_empty(), "a request outlived the reset");
    assert_eq!(world.status(admin, &cc(Cc::ENABLED), &[]), Status::SUCCESS);
    // What was told or wanted before the reset counts no more.
    for cid in 2..6 {
        world.hold(admin, cid);
    }
    assert!(world.pdus(admin).is_empty());
    world.set_access(FIRST, AnaState::Inaccessible);
    world.event(admin);
    // A connection that is gone takes its events along.
    world.frontend.closed(world.now, admin);
    world.drain();
    world.events.clear();
    world.set_access(FIRST, AnaState::Optimized);
    assert!(world.events.is_empty(), "{:?}", world.events);
}

/// ANA-1, row C35: in every state and for every command, whatever data comes along; and the queue goes on.
#[test]
fn nothing_reaches_the_shard_past_a_namespace_that_is_not_accessible() {
    let list = {
        let mut bytes = [0; DsmRange::BYTES];
        DsmRange { attributes: 0, blocks: 1, slba: 0 }.emit(&mut bytes);
        bytes
    };
    let io = Io { slba: 0, blocks: 1, fua: false };
    let page = [5; 4096];
    let commands: [(Sqe, &[u8]); 10] = [
        (read(1, 0, 1, 4096), &[]),
        (write(1, 0, 1, 4096, true), &page),
        (write(1, 0, 1, 4096, false), &[]),
        (Sqe::new(opcode::FLUSH, 1, 1), &[]),
        (io.emit_zeroes(1, 1, false), &[]),
        (io.emit_zeroes(1, 1, true), &[]),
        (Deallocate { ranges: 1, deallocate: true }.emit(1, 1), &list),
        (compare(1, 0, 1, 4096, true), &page),
        (compare(1, 0, 1, 4096, false), &[]),
        (io.emit(opcode::VERIFY, 1, 1), &[]),
    ];
    for digests in [0, 3] {
        let mut world = World::new(TargetConfig { access: AnaState::Inaccessible, ..two() });
        let (io, _) = world.io(digests);
        for (state, status) in [
            (AnaState::Inaccessible, Some(Status::ANA_INACCESSIBLE)),
            (AnaState::PersistentLoss, Some(Status::ANA_PERSISTENT_LOSS)),
            (AnaState::Change, Some(Status::ANA_TRANSITION)),
            (AnaState::NonOptimized, None),
            (AnaState::Optimized, None),
        ] {
            world.set_access(FIRST, state);
            for (sqe, data) in commands {
                world.events.clear();
                if let Some(status) = status {
                    assert_eq!(world.status(io, &sqe, data), status, "{state:?}");
                    assert!(!status.is_final(), "another path may serve it");
                    assert!(world.events.is_empty(), "{state:?}: {:?}", world.events);
                } else if !data.is_empty() && sqe.opcode != opcode::COMPARE {
                    assert_eq!(world.status(io, &sqe, data), Status::SUCCESS, "{state:?}");
                    assert!(!world.events.is_empty(), "{state:?}");
                }
            }
            // The other namespace is as it was.
            let mut other = read(1, 0, 1, 4096);
            other.nsid = 2;
            assert_eq!(world.status(io, &other, &[]), Status::ANA_INACCESSIBLE);
        }
    }
}

/// A list of ranges is on its way while access goes: it is judged by what is when it is there.
#[test]
fn a_command_whose_data_was_still_coming_is_judged_again() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let mut list = [0; DsmRange::BYTES];
    DsmRange { attributes: 0, blocks: 1, slba: 0 }.emit(&mut list);
    let bytes = world.capsule(&Deallocate { ranges: 1, deallocate: true }.emit(1, 1), &list);
    assert!(world.give(io, &bytes[..bytes.len() - 1], usize::MAX).is_empty());
    world.set_access(FIRST, AnaState::Inaccessible);
    world.events.clear();
    assert!(world.give(io, &bytes[bytes.len() - 1..], usize::MAX).is_empty());
    assert_eq!(world.answer(io).cqe().status, Status::ANA_INACCESSIBLE);
    assert!(world.events.is_empty(), "{:?}", world.events);
}

/// What the shard had before is its own to end.
#[test]
fn a_command_that_the_shard_has_ends_as_the_shard_says() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    world.answers = false;
    let bytes = world.capsule(&write(1, 0, 1, 4096, true), &[5; 4096]);
    let rest = world.give(io, &bytes, usize::MAX).to_vec();
    let Event::Write { cmd, .. } = world.events[0] else { panic!("no write") };
    world.set_access(FIRST, AnaState::Inaccessible);
    world.place(cmd, 4096);
    assert!(world.give(io, &rest, usize::MAX).is_empty());
    assert!(matches!(world.events.last(), Some(Event::Arrived { last: true, .. })));
    world.frontend.complete(cmd, Status::SUCCESS);
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
}

#[test]
fn identify_says_what_the_access_log_is_made_of() {
    let mut world = World::new(two());
    let (admin, _) = world.admin(0);
    let mut ask = |which, nsid| world.fetch(admin, &Identify::of(which, nsid).emit(1));
    let controller = IdentifyController::parse(&ask(cns::CONTROLLER, 0)).unwrap();
    assert_eq!(controller.cmic, 0b1011);
    assert_eq!((controller.anagrpmax, controller.nanagrpid), (2, 2));
    assert_eq!((controller.anacap, controller.anatt), (0b101_1111, 10));
    assert_eq!(controller.oaes, 1 << 11);
    for nsid in [1, 2] {
        let namespace = IdentifyNamespace::parse(&ask(cns::NAMESPACE, nsid)).unwrap();
        assert_eq!((namespace.anagrpid, namespace.nmic), (nsid, 1));
        let independent = ask(cns::INDEPENDENT_NAMESPACE, nsid);
        let independent = IdentifyIndependentNamespace::parse(&independent).unwrap();
        assert_eq!(independent.anagrpid, nsid);
    }
    // Groups alone, as RGO asks; and as long as it is, no longer.
    world.set_access(SECOND, AnaState::Change);
    let mut page = GetLogPage::of(log_page::ANA, 4096);
    page.specific = AnaHeader::GROUPS_ONLY;
    let bytes = world.fetch(admin, &page.emit(1));
    assert_eq!(bytes.len(), IDENTIFY_BYTES);
    let groups: Vec<AnaGroup> =
        bytes[16..80].chunks_exact(32).map(|group| AnaGroup::parse(group).unwrap()).collect();
    let group = |group, changes, state: AnaState| AnaGroup {
        group,
        namespaces: 0,
        changes,
        state: state as u8,
    };
    assert_eq!(groups, [group(1, 0, AnaState::Optimized), group(2, 1, AnaState::Change)]);
    assert!(bytes[80..].iter().all(|&byte| byte == 0));
    page.offset = 80;
    assert!(world.fetch(admin, &page.emit(1)).iter().all(|&byte| byte == 0));
    page.offset = 84;
    assert_eq!(world.status(admin, &page.emit(1), &[]), Status::INVALID_FIELD, "C29");
    page.specific = 0;
    assert_eq!(world.fetch(admin, &page.emit(1)).len(), IDENTIFY_BYTES);
}
