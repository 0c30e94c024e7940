//! Hosts that authenticate, with every hash function, with and without a group, one-sided and mutual; and what they may do before.
//! The host's side is put together from `wire` and `chap` by hand, so that it can also be put together wrongly (`bad_auth`).

use super::*;
use crate::frontend::auth_commands::{AUTH_LIMIT, FAILURE_DELAY};
use core::convert::Infallible;
use ibid_chap::{Digest, Done, Exchange, Keys, Role, Secret, Work};
use ibid_wire::nvme_tcp::{
    AuthCommand, AuthHash, AuthMessage, AuthOffer, AuthRefusal, CONNECT_AUTH_REQUIRED,
    DISCOVERY_NQN, DhGroup, Identify, PropertyGet, cns, fctype, psdt,
};

pub(super) const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
pub(super) const CONTROLLER_SECRET: &str =
    "DHHC-1:02:ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoOEhYaHiImKi4yNjo+QkZKTvGwQfg==:";
pub(super) const FREE_HOST: &str = "nqn.2014-08.org.example:free";
/// Room for any message, as Linux gives it.
pub(super) const ROOM: u32 = 4096;

pub(super) fn secret(text: &str) -> Secret {
    Secret::parse(text).unwrap()
}

/// A target that asks the usual host for authentication, another one not, and lets nobody else in.
pub(super) fn auth_config(hashes: &[AuthHash], groups: &[DhGroup]) -> TargetConfig {
    TargetConfig {
        hosts: Some(vec![HOST.to_string(), FREE_HOST.to_string()]),
        auth: AuthConfig {
            hosts: vec![HostAuth {
                nqn: HOST.to_string(),
                secret: secret(SECRET),
                controller_secret: Some(secret(CONTROLLER_SECRET)),
            }],
            hashes: hashes.to_vec(),
            groups: groups.to_vec(),
        },
        ..config(4096)
    }
}

/// Chance that is none: different at each call.
pub(super) fn chance(seed: u8) -> impl FnMut(&mut [u8]) -> Result<(), Infallible> {
    let mut calls = 0_u8;
    move |out| {
        calls += 1;
        out.copy_from_slice(&pattern(out.len(), seed.wrapping_mul(31).wrapping_add(calls)));
        Ok(())
    }
}

/// What a host remembers of an exchange.
pub(super) struct Dialogue {
    pub(super) transaction: u16,
    pub(super) hash: AuthHash,
    pub(super) group: DhGroup,
    pub(super) seqnum: u32,
    pub(super) challenge: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) agreed: Option<Digest>,
    pub(super) own_value: Vec<u8>,
    pub(super) own_challenge: Vec<u8>,
}

impl Dialogue {
    pub(super) fn exchange(&self, role: Role) -> Exchange<'_> {
        let is_host = role == Role::Host;
        Exchange {
            hash: self.hash,
            role,
            challenge: if is_host { &self.challenge } else { &self.own_challenge },
            agreed: self.agreed.as_ref(),
            seqnum: if is_host { self.seqnum } else { 77 },
            transaction: self.transaction,
            own_nqn: if is_host { HOST } else { NQN },
            other_nqn: if is_host { NQN } else { HOST },
        }
    }
    /// R1 of who has this secret.
    pub(super) fn response(&self, of: &str) -> Digest {
        self.exchange(Role::Host).response(&secret(of).key(HOST))
    }
    /// The Reply of who has this secret.
    pub(super) fn reply(&self, of: &str, mutual: bool) -> Vec<u8> {
        let response = self.response(of);
        emit_message(
            self.transaction,
            &AuthMessage::Reply {
                response: response.bytes(),
                challenge: mutual.then_some(&self.own_challenge),
                seqnum: if mutual { 77 } else { 0 },
                value: &self.own_value,
            },
        )
    }
}

pub(super) fn emit_message(transaction: u16, message: &AuthMessage<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.bytes()];
    message.emit(transaction, &mut bytes);
    bytes
}

/// A Negotiate that offers everything, as Linux does.
pub(super) fn negotiate(transaction: u16) -> Vec<u8> {
    let offer = AuthOffer { hashes: &[1, 2, 3], groups: &[0, 1, 2, 3, 4, 5] };
    emit_message(transaction, &AuthMessage::Negotiate { secure_channel: 0, offer: Some(offer) })
}

impl World {
    /// Computes what an authentication asks for, as the shard's thread would.
    pub(super) fn compute(&mut self, conn: ConnId) {
        if let Some(job) = self.frontend.take_auth_job(conn) {
            let seed = self.events.len() as u8 ^ conn.index() as u8;
            self.frontend.auth_computed(self.now, job.run(chance(seed)));
        }
    }

    /// A connection behind Connect, which asked for authentication; the controller's identifier.
    pub(super) fn asked(&mut self, qid: u16, cntlid: u16) -> (ConnId, u16) {
        let conn = self.initialised(0);
        let cqe = self.run(conn, &connect(qid).emit(1), &connect_data(cntlid));
        assert_eq!(cqe.status, Status::SUCCESS);
        assert_eq!(cqe.result & !0xffff, CONNECT_AUTH_REQUIRED);
        (conn, cqe.result as u16)
    }

    /// Sends a message; always succeeds.
    pub(super) fn say(&mut self, conn: ConnId, message: &[u8]) {
        let status = self.try_say(conn, message);
        assert_eq!(status, Status::SUCCESS);
    }

    pub(super) fn try_say(&mut self, conn: ConnId, message: &[u8]) -> Status {
        self.status(conn, &AuthCommand::new(message.len() as u32).emit_send(9), message)
    }

    /// Asks for a message. Whatever comes of it comes later.
    pub(super) fn ask(&mut self, conn: ConnId, room: u32) {
        let bytes = self.capsule(&AuthCommand::new(room).emit_receive(10), &[]);
        assert!(self.give(conn, &bytes, usize::MAX).is_empty());
    }

    /// A message that was asked for.
    pub(super) fn heard(&mut self, conn: ConnId) -> Vec<u8> {
        let pdus = self.pdus(conn);
        let (last, data) = pdus.split_last().expect("something is heard");
        assert_eq!(last.cqe().status, Status::SUCCESS);
        data.iter().flat_map(|pdu| pdu.data().to_vec()).collect()
    }

    pub(super) fn hear(&mut self, conn: ConnId) -> Vec<u8> {
        self.ask(conn, ROOM);
        let bytes = self.heard(conn);
        assert_eq!(bytes.len(), ROOM as usize);
        bytes
    }

    /// Negotiates, and takes the challenge.
    pub(super) fn challenged(&mut self, conn: ConnId, transaction: u16) -> Dialogue {
        self.say(conn, &negotiate(transaction));
        let bytes = self.hear(conn);
        let Ok((t, AuthMessage::Challenge { hash, group, seqnum, challenge, value })) =
            AuthMessage::parse_padded(&bytes)
        else {
            panic!("no challenge: {bytes:x?}");
        };
        assert_eq!(t, transaction);
        let (hash, group) = (AuthHash::new(hash).unwrap(), DhGroup::new(group).unwrap());
        assert_eq!((challenge.len(), value.len()), (hash.bytes(), group.bytes()));
        assert_ne!(seqnum, 0);
        let Ok(Done::Keys(Keys { private, public, .. })) = (Work::Keys { group }).run(chance(200))
        else {
            panic!("no keys");
        };
        let own_value = public.bytes().to_vec();
        let agreed = (group != DhGroup::Null).then(|| {
            let work = Work::agree(group, hash, private, value);
            let Ok(Done::Agreed(Some(agreed))) = work.run(chance(0)) else { panic!("no key") };
            agreed
        });
        Dialogue {
            transaction,
            hash,
            group,
            seqnum,
            challenge: challenge.to_vec(),
            value: value.to_vec(),
            agreed,
            own_value,
            own_challenge: pattern(hash.bytes(), 99),
        }
    }

    /// Authenticates, one-sided or mutual.
    pub(super) fn authenticate(&mut self, conn: ConnId, mutual: bool) -> Dialogue {
        let dialogue = self.challenged(conn, 0x1234);
        self.say(conn, &dialogue.reply(SECRET, mutual));
        let bytes = self.hear(conn);
        let Ok((0x1234, AuthMessage::Success1 { hash_bytes, response })) =
            AuthMessage::parse_padded(&bytes)
        else {
            panic!("no success: {bytes:x?}");
        };
        assert_eq!(usize::from(hash_bytes), dialogue.hash.bytes());
        assert_eq!(response.is_some(), mutual);
        if let Some(response) = response {
            let key = secret(CONTROLLER_SECRET).key(NQN);
            assert!(dialogue.exchange(Role::Controller).response(&key).matches(response));
            assert_eq!(self.probe(conn), Status::AUTHENTICATION_REQUIRED, "AUTH-1");
            self.say(conn, &emit_message(0x1234, &AuthMessage::Success2));
        }
        dialogue
    }

    /// Whether a connection may do anything: a command that is a mistake on every queue.
    pub(super) fn probe(&mut self, conn: ConnId) -> Status {
        self.status(conn, &Sqe::new(0x7d, 5, 1), &[])
    }
}

#[test]
fn a_host_authenticates_by_every_hash_and_group() {
    for hash in AuthHash::ALL {
        for group in [DhGroup::Null, DhGroup::Ffdhe2048] {
            for mutual in [false, true] {
                let mut world = World::new(auth_config(&[hash], &[group]));
                let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
                assert_eq!(world.frontend.authenticating(), 1);
                let dialogue = world.authenticate(admin, mutual);
                assert_eq!((dialogue.hash, dialogue.group), (hash, group));
                assert_eq!(world.frontend.authenticating(), 0);
                let set = PropertySet {
                    wide: Some(false),
                    offset: property::CC,
                    value: Cc::ENABLED.0.into(),
                };
                assert_eq!(world.status(admin, &set.emit(2), &[]), Status::SUCCESS);
                // Each queue by itself.
                let (io, _) = world.asked(1, cntlid);
                let bytes = world.capsule(&write(1, 0, 1, 4096, true), &[7; 4096]);
                assert!(world.give(io, &bytes, usize::MAX).is_empty());
                assert_eq!(world.answer(io).cqe().status, Status::AUTHENTICATION_REQUIRED);
                world.authenticate(io, mutual);
                assert_eq!(
                    world.status(io, &write(1, 0, 1, 4096, true), &[7; 4096]),
                    Status::SUCCESS
                );
                let counters = world.frontend.counters();
                assert_eq!((counters.authenticated, counters.auth_failures), (2, 0));
                assert_eq!(counters.writes, 1);
            }
        }
    }
}

#[test]
fn the_largest_group_and_all_in_between_fit() {
    for group in &DhGroup::ALL[2..] {
        let mut world = World::new(auth_config(&[AuthHash::Sha512], &[*group]));
        let (admin, _) = world.asked(0, ConnectData::CNTLID_ANY);
        assert_eq!(world.authenticate(admin, true).group, *group);
        assert_eq!(world.probe(admin), Status::SEQUENCE_ERROR, "not enabled yet");
    }
}

/// C37.
#[test]
fn before_it_is_authenticated_a_connection_does_nothing_else() {
    let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]));
    let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    let refused = |world: &mut World, conn, at: &str| {
        let commands = [
            ("Identify", Identify::of(cns::CONTROLLER, 0).emit(1)),
            ("enable", enable.emit(1)),
            ("Property Get", PropertyGet { wide: Some(true), offset: property::CAP }.emit(1)),
            ("Keep Alive", Sqe::new(opcode::KEEP_ALIVE, 1, 0)),
            ("an event", Sqe::new(opcode::ASYNC_EVENT_REQUEST, 1, 0)),
            ("Read", read(1, 0, 1, 4096)),
            ("Disconnect", Sqe::new(opcode::FABRICS, 1, fctype::DISCONNECT.into())),
            ("unknown", Sqe::new(0x7d, 1, 0)),
        ];
        for (what, sqe) in commands {
            let status = world.status(conn, &sqe, &[]);
            assert_eq!(status, Status::AUTHENTICATION_REQUIRED, "C37: {what} {at}");
        }
        let again = world.status(conn, &connect(0).emit(1), &connect_data(0xffff));
        assert_eq!(again, Status::AUTHENTICATION_REQUIRED, "C2: Connect {at}");
        let data = world.status(conn, &write(1, 0, 1, 4096, true), &[1; 4096]);
        assert_eq!(data, Status::AUTHENTICATION_REQUIRED, "C37: Write {at}");
    };
    refused(&mut world, admin, "before Negotiate");
    // Nor does its controller serve anybody.
    let other = world.initialised(0);
    let status = world.status(other, &connect(1).emit(1), &connect_data(cntlid));
    assert_eq!(status, Status::SEQUENCE_ERROR);
    let dialogue = world.challenged(admin, 1);
    refused(&mut world, admin, "before Reply");
    world.say(admin, &dialogue.reply(SECRET, true));
    refused(&mut world, admin, "before Success1");
    world.hear(admin);
    refused(&mut world, admin, "before Success2");
    world.say(admin, &emit_message(1, &AuthMessage::Success2));
    assert_eq!(world.status(admin, &enable.emit(1), &[]), Status::SUCCESS);
    assert!(
        world
            .events
            .iter()
            .all(|event| matches!(event, Event::Authenticate { .. } | Event::Attend { .. }))
    );
    assert_eq!(world.frontend.counters().writes, 0);
}

#[test]
fn who_has_no_secret_is_not_asked_and_who_is_not_listed_stays_out() {
    let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]));
    let free = ConnectData { hostnqn: put_nqn(FREE_HOST).unwrap(), ..connect_fields(0xffff) };
    let conn = world.initialised(0);
    let cqe = world.run(conn, &connect(0).emit(1), &emit(&free));
    assert_eq!((cqe.status, cqe.result >> 16), (Status::SUCCESS, 0));
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(conn, &enable.emit(2), &[]), Status::SUCCESS);
    // Not asked, it has nothing to say.
    assert_eq!(world.try_say(conn, &negotiate(1)), Status::SEQUENCE_ERROR);
    let ask = AuthCommand::new(ROOM).emit_receive(1);
    assert_eq!(world.status(conn, &ask, &[]), Status::SEQUENCE_ERROR);
    let thief = ConnectData {
        hostnqn: put_nqn("nqn.2014-08.org.example:thief").unwrap(),
        ..connect_fields(0xffff)
    };
    let conn = world.initialised(0);
    let status = world.status(conn, &connect(0).emit(1), &emit(&thief));
    assert_eq!(status, Status::CONNECT_INVALID_HOST);
    // The discovery controller tells everybody the same, and asks nobody.
    let found = ConnectData { subnqn: put_nqn(DISCOVERY_NQN).unwrap(), ..connect_fields(0xffff) };
    let cqe = world.run(conn, &connect(0).emit(1), &emit(&found));
    assert_eq!((cqe.status, cqe.result >> 16), (Status::SUCCESS, 0));
}

/// A host authenticates again on queues that are in use (as Linux does when it is given another key). They serve it all the while.
#[test]
fn a_host_may_authenticate_again_and_is_served_meanwhile() {
    let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]));
    let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
    world.authenticate(admin, true);
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(admin, &enable.emit(1), &[]), Status::SUCCESS);
    let (io, _) = world.asked(1, cntlid);
    world.authenticate(io, true);
    let mut proved = 2;
    for mutual in [false, true, true] {
        let serves = |world: &mut World| {
            let keep_alive = Sqe::new(opcode::KEEP_ALIVE, 7, 0);
            assert_eq!(world.status(admin, &keep_alive, &[]), Status::SUCCESS);
            assert_eq!(world.status(io, &write(1, 0, 1, 4096, true), &[7; 4096]), Status::SUCCESS);
            assert_eq!(world.frontend.authenticating(), 0);
        };
        for conn in [admin, io] {
            let dialogue = world.challenged(conn, 7);
            serves(&mut world);
            world.say(conn, &dialogue.reply(SECRET, mutual));
            serves(&mut world);
            world.hear(conn);
            serves(&mut world);
            if mutual {
                assert_eq!(world.frontend.counters().authenticated, proved, "half of it is none");
                world.say(conn, &emit_message(7, &AuthMessage::Success2));
            }
            proved += 1;
            assert_eq!(world.frontend.counters().authenticated, proved);
        }
    }
    // What is over takes no time: long after it the queues are there.
    world.now = world.now.after(AUTH_LIMIT).after(Nanos::from_millis(1));
    for connection in [admin, io] {
        assert_eq!(
            world.frontend.connections[connection.index()].step_deadline,
            Nanos::NEVER,
            "a deadline is left"
        );
    }
    assert_eq!(world.frontend.counters().auth_failures, 0);
}

/// Only a Negotiate begins it, and only where the host had to authenticate.
#[test]
fn what_begins_no_authentication_changes_nothing() {
    let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]));
    let (admin, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let old = world.authenticate(admin, false);
    let failure = emit_message(0x1234, &AuthMessage::Failure2 { explanation: 1 });
    let success = emit_message(0x1234, &AuthMessage::Success2);
    let cut = negotiate(4)[..20].to_vec();
    for message in [old.reply(SECRET, true), success, failure, cut, vec![1]] {
        assert_eq!(world.try_say(admin, &message), Status::SEQUENCE_ERROR);
        world.ask(admin, ROOM);
        assert_eq!(world.answer(admin).cqe().status, Status::SEQUENCE_ERROR);
        assert_eq!(world.probe(admin), Status::SEQUENCE_ERROR, "still open, not enabled yet");
    }
    let free = world.initialised(0);
    let data = ConnectData { hostnqn: put_nqn(FREE_HOST).unwrap(), ..connect_fields(0xffff) };
    assert_eq!(world.status(free, &connect(0).emit(1), &emit(&data)), Status::SUCCESS);
    assert_eq!(world.try_say(free, &negotiate(2)), Status::SEQUENCE_ERROR);
    assert!(!world.is_closing(admin) && !world.is_closing(free));
    assert_eq!(world.frontend.counters().auth_failures, 0);
}

/// Who can not prove again what he proved has nothing more from that instant on. What is with the shard comes to its end, and a compare that
/// waits for the second half of its pair ends.
#[test]
fn whoever_fails_to_authenticate_again_is_ended() {
    const OTHER_SECRET: &str = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";
    for told in [true, false] {
        let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Ffdhe2048]));
        let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
        world.authenticate(admin, true);
        let enable =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        assert_eq!(world.status(admin, &enable.emit(1), &[]), Status::SUCCESS);
        let (io, _) = world.asked(1, cntlid);
        world.authenticate(io, true);
        let dialogue = world.challenged(io, 7);
        // While what was agreed is still being computed half of a pair comes.
        world.answers = false;
        world.say(io, &dialogue.reply(OTHER_SECRET, false));
        let first = compare(3, 0, 1, 4096, false).fused(psdt::FUSE_FIRST);
        let bytes = world.capsule(&first, &[]);
        world.give(io, &bytes, usize::MAX);
        assert!(world.pdus(io).is_empty(), "it is taken");
        world.compute(io);
        world.drain();
        let ended = world.answer(io).cqe();
        assert_eq!((ended.cid, ended.status), (3, Status::ABORTED_MISSING_FUSED));
        assert!(world.events.iter().any(|event| matches!(event, Event::Abandoned { .. })));
        assert_eq!(
            world.status(io, &write(1, 0, 1, 4096, true), &[7; 4096]),
            Status::AUTHENTICATION_REQUIRED,
            "AUTH-1"
        );
        assert_eq!(world.status(admin, &Sqe::new(opcode::KEEP_ALIVE, 7, 0), &[]), Status::SUCCESS);
        if told {
            world.ask(io, ROOM);
            world.now = world.now.after(FAILURE_DELAY);
            world.frontend.tick(world.now);
            world.drain();
            let bytes = world.heard(io);
            let failed = AuthMessage::Failure1 { explanation: AuthRefusal::Failed as u8 };
            assert_eq!(AuthMessage::parse_padded(&bytes), Ok((7, failed)));
        } else {
            world.now = world.now.after(AUTH_LIMIT);
            world.frontend.tick(world.now);
            world.drain();
        }
        assert!(world.is_closing(io));
        assert_eq!(world.frontend.counters().auth_failures, 1);
    }
}

/// Whoever begins it again and comes to no end is served until the time for that is over, and who begins it anew in the midst of it no longer.
#[test]
fn an_authentication_again_without_an_end_ends_the_queue() {
    for anew in [false, true] {
        let mut world = World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]));
        let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
        world.authenticate(admin, true);
        let enable =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        assert_eq!(world.status(admin, &enable.emit(1), &[]), Status::SUCCESS);
        let (io, _) = world.asked(1, cntlid);
        world.authenticate(io, true);
        let begun = world.now;
        world.challenged(io, 7);
        let one = write(1, 0, 1, 4096, true);
        let limit = AUTH_LIMIT.get() / 1_000_000;
        for ms in (4_000..limit).step_by(4_000).chain([limit - 1]) {
            world.now = begun.after(Nanos::from_millis(ms));
            world.frontend.tick(world.now);
            world.drain();
            let keep_alive = Sqe::new(opcode::KEEP_ALIVE, 7, 0);
            assert_eq!(world.status(admin, &keep_alive, &[]), Status::SUCCESS);
            assert_eq!(world.status(io, &one, &[7; 4096]), Status::SUCCESS, "after {ms} ms");
            if anew {
                world.say(io, &negotiate(8));
                let status = world.status(io, &one, &[7; 4096]);
                assert_eq!(status, Status::AUTHENTICATION_REQUIRED, "AUTH-1");
                break;
            }
        }
        if !anew {
            world.now = begun.after(AUTH_LIMIT);
            world.frontend.tick(world.now);
            world.drain();
            assert!(world.is_closing(io) && !world.is_closing(admin));
        }
        assert_eq!(world.frontend.counters().auth_failures, u64::from(anew));
    }
}

/// The preferred one of ours counts, not the host's.
#[test]
fn the_target_chooses() {
    let hashes = [AuthHash::Sha384, AuthHash::Sha512];
    let groups = [DhGroup::Ffdhe3072, DhGroup::Ffdhe2048];
    let mut world = World::new(auth_config(&hashes, &groups));
    let (admin, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let dialogue = world.challenged(admin, 7);
    assert_eq!((dialogue.hash, dialogue.group), (AuthHash::Sha384, DhGroup::Ffdhe3072));
    let (other, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let offer = AuthOffer { hashes: &[9, 1, 3], groups: &[0, 77, 1] };
    let message = AuthMessage::Negotiate { secure_channel: 0, offer: Some(offer) };
    world.say(other, &emit_message(1, &message));
    let bytes = world.hear(other);
    let Ok((1, AuthMessage::Challenge { hash: 3, group: 1, .. })) =
        AuthMessage::parse_padded(&bytes)
    else {
        panic!("another choice: {bytes:x?}");
    };
}

/// Whoever computes may be slow: nobody waits for it but the host that asked, and an answer that comes too late changes nothing.
#[test]
fn answers_come_when_they_come() {
    let mut world = World::new(auth_config(&[AuthHash::Sha256], &[DhGroup::Ffdhe2048]));
    world.answers = false;
    let (admin, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.say(admin, &negotiate(1));
    world.ask(admin, ROOM);
    assert!(world.pdus(admin).is_empty(), "the challenge is not there yet");
    assert_eq!(
        world.status(admin, &AuthCommand::new(ROOM).emit_receive(11), &[]),
        Status::SEQUENCE_ERROR
    );
    assert_eq!(world.events.pop(), Some(Event::Authenticate { conn: admin }));
    let job = world.frontend.take_auth_job(admin).unwrap();
    assert!(world.frontend.take_auth_job(admin).is_none(), "a job is taken once");
    let late = job.run(chance(1));
    // The connection ends, and another one takes its place.
    world.frontend.closed(world.now, admin);
    let (next, _) = world.asked(0, ConnectData::CNTLID_ANY);
    assert_eq!(next, admin);
    world.say(next, &negotiate(2));
    world.ask(next, ROOM);
    world.frontend.auth_computed(world.now, late);
    world.drain();
    assert!(world.pdus(next).is_empty(), "another connection's challenge was given");
    let job = world.frontend.take_auth_job(next).unwrap();
    world.frontend.auth_computed(world.now, job.run(chance(2)));
    world.drain();
    assert!(world.events.contains(&Event::Attend { conn: next }));
    let bytes = world.heard(next);
    assert!(matches!(AuthMessage::parse_padded(&bytes), Ok((2, AuthMessage::Challenge { .. }))));
}
