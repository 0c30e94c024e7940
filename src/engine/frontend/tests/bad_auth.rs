//! Authentications that must fail, and how. Rows of the table of bad input: C38 to C41, R1.

use super::auth::{
    CONTROLLER_SECRET, FREE_HOST, ROOM, SECRET, auth_config, chance, emit_message, negotiate,
};
use super::*;
use crate::frontend::auth_commands::{AUTH_LIMIT, FAILURE_DELAY};
use ibid_wire::nvme_tcp::{
    AuthCommand, AuthHash, AuthMessage, AuthOffer, AuthRefusal, CONNECT_AUTH_REQUIRED, DhGroup,
    SetFeatures, feature,
};

const OTHER_SECRET: &str = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";

fn plain() -> World {
    World::new(auth_config(&AuthHash::ALL, &[DhGroup::Null]))
}

impl World {
    /// The authentication has failed for this reason: that is told after a while, then the connection closes, and nothing was let in.
    fn assert_refused(&mut self, conn: ConnId, transaction: u16, why: AuthRefusal, what: &str) {
        self.ask(conn, ROOM);
        self.assert_told(conn, transaction, why, what);
    }

    fn assert_told(&mut self, conn: ConnId, transaction: u16, why: AuthRefusal, what: &str) {
        assert!(self.pdus(conn).is_empty(), "{what}: told at once");
        assert!(!self.is_closing(conn), "{what}");
        self.now = self.now.after(FAILURE_DELAY);
        assert!(self.frontend.next_deadline() <= self.now, "{what}: nobody would wake");
        self.frontend.tick(self.now);
        self.drain();
        assert!(self.events.contains(&Event::Attend { conn }), "{what}");
        let bytes = self.heard(conn);
        assert_eq!(
            AuthMessage::parse_padded(&bytes),
            Ok((transaction, AuthMessage::Failure1 { explanation: why as u8 })),
            "{what}"
        );
        assert!(self.is_closing(conn), "{what}: goes on");
        assert_eq!(self.frontend.counters().auth_failures, 1, "{what}");
        assert_eq!(self.frontend.counters().authenticated, 0, "{what}");
        assert_eq!(self.frontend.counters().protocol_errors, 0, "{what}");
        self.frontend.closed(self.now, conn);
        self.drain();
        assert_eq!(self.frontend.authenticating(), 0, "{what}");
    }
}

#[test]
fn whoever_does_not_know_the_secret_stays_out() {
    for group in [DhGroup::Null, DhGroup::Ffdhe2048] {
        for mutual in [false, true] {
            for wrong in [OTHER_SECRET, CONTROLLER_SECRET] {
                let mut world = World::new(auth_config(&AuthHash::ALL, &[group]));
                let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
                let dialogue = world.challenged(conn, 3);
                world.say(conn, &dialogue.reply(wrong, mutual));
                // Until it is told, too.
                assert_eq!(world.probe(conn), Status::AUTHENTICATION_REQUIRED);
                world.assert_refused(conn, 3, AuthRefusal::Failed, wrong);
            }
        }
    }
}

/// C38. Each of these was an out-of-bounds read somewhere (CVE-2026-64319, CVE-2026-90230).
#[test]
fn a_negotiate_with_wrong_lengths_is_an_incorrect_payload() {
    let good = negotiate(5);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let cases: [(&str, Vec<u8>, u16); 12] = [
        ("one byte", good[..1].to_vec(), 0),
        ("cut in T_ID", good[..5].to_vec(), 0),
        ("no more than T_ID", good[..6].to_vec(), 5),
        ("header only", good[..8].to_vec(), 5),
        ("cut in the descriptor", good[..71].to_vec(), 5),
        ("a byte more", [&good[..], &[0]].concat(), 5),
        ("the most a capsule takes", [&good[..], &vec![0; 8192 - good.len()]].concat(), 5),
        ("NAPD 0", with(7, 0), 5),
        ("NAPD 2, one there", with(7, 2), 5),
        ("NAPD 255, one there", with(7, 255), 5),
        ("HALEN 31", with(10, 31), 5),
        ("DHLEN 255", with(11, 255), 5),
    ];
    for (what, message, transaction) in cases {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.say(conn, &message);
        world.assert_refused(conn, transaction, AuthRefusal::IncorrectPayload, what);
    }
}

/// C38.
#[test]
fn a_reply_with_wrong_lengths_is_an_incorrect_payload() {
    let change = |name: &'static str, change: fn(&mut Vec<u8>)| (name, change);
    let cases = [
        change("cut in the header", |bytes| bytes.truncate(15)),
        change("cut in the response", |bytes| bytes.truncate(40)),
        change("cut in the value", |bytes| bytes.truncate(bytes.len() - 1)),
        change("a byte more", |bytes| bytes.push(0)),
        change("HL 0", |bytes| bytes[6] = 0),
        change("HL 33", |bytes| bytes[6] = 33),
        change("HL 255", |bytes| bytes[6] = 255),
        change("HL of another hash", |bytes| {
            bytes[6] = 48;
            bytes.splice(16..16, [0; 32]);
        }),
        change("DHVLEN 0, value there", |bytes| bytes[11] = 0),
        change("DHVLEN beyond the end", |bytes| bytes[11] = 255),
        change("no value", |bytes| {
            bytes[10..12].copy_from_slice(&[0, 0]);
            bytes.truncate(16 + 64);
        }),
        change("a value longer than the group's", |bytes| {
            bytes[10..12].copy_from_slice(&257_u16.to_le_bytes());
            bytes.push(1);
        }),
        change("CVALID 2", |bytes| bytes[8] = 2),
        change("a challenge with SEQNUM 0", |bytes| bytes[12..16].fill(0)),
    ];
    for (what, change) in cases {
        let mut world = World::new(auth_config(&[AuthHash::Sha256], &[DhGroup::Ffdhe2048]));
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let dialogue = world.challenged(conn, 3);
        let mut reply = dialogue.reply(SECRET, true);
        change(&mut reply);
        world.say(conn, &reply);
        world.assert_refused(conn, 3, AuthRefusal::IncorrectPayload, what);
    }
    // Without a group there is no value to be had.
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let mut dialogue = world.challenged(conn, 3);
    dialogue.own_value = vec![2];
    world.say(conn, &dialogue.reply(SECRET, false));
    world.assert_refused(conn, 3, AuthRefusal::IncorrectPayload, "a value without a group");
}

/// A value that makes what is agreed known to everybody. That p - 1 and p are among them, in every group, is tested where p is known (`chap`).
#[test]
fn weak_values_are_refused() {
    let group = DhGroup::Ffdhe2048;
    let mut one = vec![0; group.bytes()];
    one[group.bytes() - 1] = 1;
    let all = vec![0xff; group.bytes()];
    for (what, value) in
        [("0", vec![0; group.bytes()]), ("1", one), ("2^2048 - 1", all), ("0, short", vec![0])]
    {
        let mut world = World::new(auth_config(&[AuthHash::Sha256], &[group]));
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let mut dialogue = world.challenged(conn, 3);
        dialogue.own_value = value;
        world.say(conn, &dialogue.reply(SECRET, false));
        world.assert_refused(conn, 3, AuthRefusal::IncorrectPayload, what);
    }
}

/// C39, CVE-2026-72130: not one byte is written into room that does not hold the message.
#[test]
fn room_that_is_too_small_gets_nothing() {
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let small = |world: &mut World, room: u32| {
        world.ask(conn, room);
        // One PDU, the completion: no data.
        assert_eq!(world.answer(conn).cqe().status, Status::INVALID_FIELD, "C39: {room} bytes");
    };
    world.say(conn, &negotiate(1));
    for room in [1, 15, 16, 47] {
        small(&mut world, room);
    }
    // Nothing is lost by it: the least that holds a challenge of SHA-256.
    world.ask(conn, 48);
    let bytes = world.heard(conn);
    let (1, AuthMessage::Challenge { challenge, seqnum, .. }) = AuthMessage::parse(&bytes).unwrap()
    else {
        panic!("no challenge");
    };
    let dialogue = super::auth::Dialogue {
        transaction: 1,
        hash: AuthHash::Sha256,
        group: DhGroup::Null,
        seqnum,
        challenge: challenge.to_vec(),
        value: vec![],
        agreed: None,
        own_value: vec![],
        own_challenge: pattern(32, 1),
    };
    world.say(conn, &dialogue.reply(SECRET, true));
    for room in [1, 15, 16, 47] {
        small(&mut world, room);
    }
    world.ask(conn, 48);
    world.heard(conn);
    world.say(conn, &emit_message(1, &AuthMessage::Success2));
    assert_eq!(world.frontend.counters().authenticated, 1);
    // A failure needs eight bytes.
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.say(conn, &[9]);
    world.now = world.now.after(FAILURE_DELAY);
    world.frontend.tick(world.now);
    for room in [1, 7] {
        world.ask(conn, room);
        assert_eq!(world.answer(conn).cqe().status, Status::INVALID_FIELD, "C39: {room} bytes");
    }
    world.ask(conn, 8);
    assert_eq!(world.heard(conn).len(), 8);
    assert!(world.is_closing(conn));
}

#[test]
fn commands_of_other_protocols_and_lengths_are_refused_and_change_nothing() {
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let message = negotiate(1);
    let good = AuthCommand::new(message.len() as u32);
    let send = |command: AuthCommand| command.emit_send(1);
    let mut longer = send(good);
    longer.cdw11 += 1;
    let mut by_r2t = good.emit_send(1);
    by_r2t.sgl = Sgl::transport(72);
    let cases = [
        ("SECP", send(AuthCommand { secp: 0, ..good }), &message[..], Status::INVALID_FIELD),
        ("SPSP0", send(AuthCommand { spsp: 0x0100, ..good }), &message, Status::INVALID_FIELD),
        ("SPSP1", send(AuthCommand { spsp: 0x0001, ..good }), &message, Status::INVALID_FIELD),
        ("TL 0", send(AuthCommand::new(0)), &[], Status::INVALID_FIELD),
        ("TL is not the data's", longer, &message, Status::SGL_LENGTH_INVALID),
        ("not in the capsule", by_r2t, &[], Status::SGL_TYPE_INVALID),
    ];
    for (what, sqe, data, status) in cases {
        assert_eq!(world.status(conn, &sqe, data), status, "{what}");
    }
    let mut in_capsule = AuthCommand::new(ROOM).emit_receive(1);
    in_capsule.sgl = Sgl::in_capsule(ROOM);
    let mut other = AuthCommand::new(ROOM).emit_receive(1);
    other.cdw11 -= 1;
    let cases = [
        (
            "SECP",
            AuthCommand { secp: 0xea, ..AuthCommand::new(ROOM) }.emit_receive(1),
            Status::INVALID_FIELD,
        ),
        ("AL 0", AuthCommand::new(0).emit_receive(1), Status::INVALID_FIELD),
        ("AL 4 GiB", AuthCommand::new(u32::MAX).emit_receive(1), Status::INVALID_FIELD),
        ("AL is not the room", other, Status::SGL_LENGTH_INVALID),
        ("into the capsule", in_capsule, Status::INVALID_FIELD),
    ];
    for (what, sqe, status) in cases {
        assert_eq!(world.status(conn, &sqe, &[]), status, "{what}");
    }
    world.authenticate(conn, true);
    assert_eq!(world.frontend.counters().authenticated, 1);
}

/// C40.
#[test]
fn messages_out_of_order_end_it() {
    let message = AuthRefusal::IncorrectMessage;
    let success2 = emit_message(4, &AuthMessage::Success2);
    let failure2 = emit_message(4, &AuthMessage::Failure2 { explanation: 1 });
    let reply = emit_message(
        4,
        &AuthMessage::Reply { response: &[1; 32], challenge: None, seqnum: 0, value: &[] },
    );
    let of_controller = [
        emit_message(4, &AuthMessage::Success1 { hash_bytes: 32, response: None }),
        emit_message(4, &AuthMessage::Failure1 { explanation: 1 }),
        emit_message(
            4,
            &AuthMessage::Challenge {
                hash: 1,
                group: 0,
                seqnum: 1,
                challenge: &[1; 32],
                value: &[],
            },
        ),
    ];
    for first in [&success2, &failure2, &reply].into_iter().chain(&of_controller) {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.say(conn, first);
        world.assert_refused(conn, 4, message, "in place of Negotiate");
    }
    for second in [&negotiate(4), &success2].into_iter().chain(&of_controller) {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.challenged(conn, 4);
        world.say(conn, second);
        world.assert_refused(conn, 4, message, "in place of Reply");
    }
    for third in [&negotiate(4), &reply].into_iter().chain(&of_controller) {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let dialogue = world.challenged(conn, 4);
        world.say(conn, &dialogue.reply(SECRET, true));
        world.hear(conn);
        world.say(conn, third);
        world.assert_refused(conn, 4, message, "in place of Success2");
    }
    // While something is computed, nothing else is taken.
    for again in [negotiate(4), reply.clone()] {
        let mut world = plain();
        world.answers = false;
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.say(conn, &negotiate(4));
        let job = world.frontend.take_auth_job(conn).unwrap();
        world.say(conn, &again);
        world.frontend.auth_computed(world.now, job.run(chance(1)));
        world.drain();
        world.assert_refused(conn, 4, message, "while it computes");
    }
    // What was not sent can't be fetched.
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.assert_refused(conn, 0, message, "a fetch before Negotiate");
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.challenged(conn, 4);
    world.assert_refused(conn, 4, message, "a fetch before Reply");
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.say(conn, &[7, 7, 0, 0, 8, 0, 0, 0]);
    world.assert_refused(conn, 8, message, "a message of no protocol");
}

/// C40.
#[test]
fn another_transaction_is_not_this_one() {
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let mut dialogue = world.challenged(conn, 4);
    dialogue.transaction = 5;
    world.say(conn, &dialogue.reply(SECRET, false));
    world.assert_refused(conn, 4, AuthRefusal::IncorrectMessage, "T_ID of Reply");
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let dialogue = world.challenged(conn, 4);
    world.say(conn, &dialogue.reply(SECRET, true));
    world.hear(conn);
    world.say(conn, &emit_message(5, &AuthMessage::Success2));
    world.assert_refused(conn, 4, AuthRefusal::IncorrectMessage, "T_ID of Success2");
}

/// C40: what was right once is wrong ever after, on the same connection and on another, also with the same transaction number.
#[test]
fn a_response_is_good_for_one_challenge() {
    for group in [DhGroup::Null, DhGroup::Ffdhe2048] {
        let mut world = World::new(auth_config(&[AuthHash::Sha256], &[group]));
        let (first, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let old = world.challenged(first, 4);
        let reply = old.reply(SECRET, false);
        world.frontend.closed(world.now, first);
        let (second, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let new = world.challenged(second, 4);
        assert_ne!(new.challenge, old.challenge);
        assert_ne!(new.seqnum, old.seqnum, "SEQNUM is not used again");
        assert!(group == DhGroup::Null || new.value != old.value);
        world.say(second, &reply);
        world.assert_refused(second, 4, AuthRefusal::Failed, "a replayed response");
    }
}

/// C40: a host that gives our challenge back would have us answer it.
#[test]
fn our_own_challenge_is_not_answered() {
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let mut dialogue = world.challenged(conn, 4);
    dialogue.own_challenge = dialogue.challenge.clone();
    world.say(conn, &dialogue.reply(SECRET, true));
    world.assert_refused(conn, 4, AuthRefusal::Failed, "a reflected challenge");
}

#[test]
fn a_host_that_asks_a_target_without_a_secret_is_refused() {
    let mut config = auth_config(&AuthHash::ALL, &[DhGroup::Null]);
    config.auth.hosts[0].controller_secret = None;
    let mut world = World::new(config);
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    let dialogue = world.challenged(conn, 4);
    world.say(conn, &dialogue.reply(SECRET, true));
    world.assert_refused(conn, 4, AuthRefusal::Failed, "no controller secret");
}

/// C41.
#[test]
fn an_offer_below_what_is_allowed_is_refused() {
    let strong = || auth_config(&[AuthHash::Sha384, AuthHash::Sha512], &[DhGroup::Ffdhe3072]);
    let offer = |hashes, groups| AuthMessage::Negotiate {
        secure_channel: 0,
        offer: Some(AuthOffer { hashes, groups }),
    };
    let cases = [
        ("SHA-256 and NULL", offer(&[1], &[0]), AuthRefusal::HashUnusable),
        ("no hash at all", offer(&[], &[2]), AuthRefusal::HashUnusable),
        ("unknown hashes", offer(&[0, 4, 255], &[2]), AuthRefusal::HashUnusable),
        ("NULL", offer(&[1, 2], &[0]), AuthRefusal::GroupUnusable),
        ("another group", offer(&[3], &[0, 1, 3, 4, 5]), AuthRefusal::GroupUnusable),
        ("no group at all", offer(&[3], &[]), AuthRefusal::GroupUnusable),
        (
            "a secure channel",
            AuthMessage::Negotiate {
                secure_channel: 1,
                offer: Some(AuthOffer { hashes: &[3], groups: &[2] }),
            },
            AuthRefusal::SecureChannel,
        ),
    ];
    for (what, message, why) in cases {
        let mut world = World::new(strong());
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.say(conn, &emit_message(6, &message));
        world.assert_refused(conn, 6, why, what);
    }
    let mut other = negotiate(6);
    other[8] = 2;
    let mut world = World::new(strong());
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.say(conn, &other);
    world.assert_refused(conn, 6, AuthRefusal::ProtocolUnusable, "another protocol");
}

#[test]
fn a_host_that_does_not_believe_us_ends_it() {
    for at_reply in [true, false] {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let dialogue = world.challenged(conn, 4);
        if !at_reply {
            world.say(conn, &dialogue.reply(SECRET, true));
            world.hear(conn);
        }
        world.say(conn, &emit_message(4, &AuthMessage::Failure2 { explanation: 1 }));
        assert!(world.is_closing(conn));
        assert_eq!(world.frontend.counters().auth_failures, 1);
    }
}

/// An I/O queue that anybody may have connected, and that does not authenticate, changes nothing for its controller: neither what the host may
/// still set, nor how long the host may be silent (R6).
#[test]
fn a_queue_that_does_not_authenticate_changes_nothing() {
    let mut world = plain();
    let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
    world.authenticate(admin, false);
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(admin, &enable.emit(2), &[]), Status::SUCCESS);
    let since = world.now;
    let (mut stranger, _) = world.asked(1, cntlid);
    let queues = SetFeatures { fid: feature::QUEUES, save: false, value: 0x1_0001 };
    assert_eq!(world.status(admin, &queues.emit(3), &[]), Status::SUCCESS);
    for seconds in 1..=4 {
        world.now = since.after(Nanos::from_millis(seconds * 1000));
        world.frontend.tick(world.now);
        world.drain();
        assert!(!world.is_closing(admin));
        let (next, _) = world.asked(1, cntlid);
        assert!(world.is_closing(stranger), "it gives way to the next");
        world.frontend.closed(world.now, stranger);
        stranger = next;
    }
    world.now = since.after(Nanos::from_millis(5_001));
    world.frontend.tick(world.now);
    world.drain();
    assert!(world.is_closing(admin), "its host was silent");
}

/// There is nobody to compute, or no chance: that says nothing of the host's secret, so it is told nothing, and tries again.
#[test]
fn what_can_not_be_computed_ends_the_connection_without_a_word() {
    for lacks_chance in [true, false] {
        let mut world = plain();
        world.answers = false;
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.say(conn, &negotiate(4));
        let job = world.frontend.take_auth_job(conn).unwrap();
        let answer = if lacks_chance { job.run(|_| Err(())) } else { job.refuse() };
        world.ask(conn, ROOM);
        world.frontend.auth_computed(world.now, answer);
        world.drain();
        assert!(world.pdus(conn).is_empty(), "nothing was computed");
        assert!(world.is_closing(conn));
        assert!(world.events.contains(&Event::Attend { conn }));
        assert_eq!(world.frontend.counters().auth_failures, 0);
        world.frontend.closed(world.now, conn);
        assert_eq!((world.frontend.authenticating(), world.frontend.controllers_open()), (0, 0));
    }
}

/// R1: however its messages are spaced. The keep-alive timeout, five seconds here, runs only afterwards: a host may be silent for longer over
/// an exponentiation.
#[test]
fn an_authentication_has_an_end_and_no_keep_alive() {
    for steps in 0..4 {
        let mut world = plain();
        let begin = world.now;
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let mut dialogue = None;
        for step in 0..steps {
            world.now = world.now.after(Nanos::from_millis(35_000));
            world.frontend.tick(world.now);
            assert_eq!(world.probe(conn), Status::AUTHENTICATION_REQUIRED);
            match step {
                0 => dialogue = Some(world.challenged(conn, 1)),
                1 => world.say(conn, &dialogue.as_ref().unwrap().reply(SECRET, true)),
                _ => drop(world.hear(conn)),
            }
        }
        world.now = Nanos::new(begin.after(AUTH_LIMIT).get() - 1);
        world.frontend.tick(world.now);
        assert!(!world.is_closing(conn));
        world.now = begin.after(AUTH_LIMIT);
        assert!(world.frontend.next_deadline() <= world.now);
        world.frontend.tick(world.now);
        world.drain();
        assert!(world.is_closing(conn), "R1 after {steps} steps");
    }
    // Once it is authenticated nothing of that is left, and the timeout runs.
    let mut world = plain();
    let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.authenticate(conn, false);
    for _ in 0..40 {
        world.now = world.now.after(Nanos::from_millis(4000));
        world.frontend.tick(world.now);
        world.probe(conn);
    }
    assert!(!world.is_closing(conn));
    world.now = world.now.after(Nanos::from_millis(5000));
    world.frontend.tick(world.now);
    assert!(world.is_closing(conn), "R6");
}

/// Whoever knows a host's name, and nothing else, keeps nobody out.
#[test]
fn half_authentications_give_way() {
    let mut world = plain();
    let (first, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.now = world.now.after(Nanos::from_millis(1));
    let (second, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.challenged(second, 1);
    // There are two controllers.
    world.now = world.now.after(Nanos::from_millis(1));
    let (third, _) = world.asked(0, ConnectData::CNTLID_ANY);
    assert!(world.is_closing(first));
    assert!(!world.is_closing(second));
    world.authenticate(third, true);
    world.frontend.closed(world.now, first);
    let (fourth, _) = world.asked(0, ConnectData::CNTLID_ANY);
    assert!(world.is_closing(second));
    world.authenticate(fourth, true);
    // Those two stay.
    let conn = world.initialised(0);
    let status = world.status(conn, &connect(0).emit(1), &connect_data(ConnectData::CNTLID_ANY));
    assert_eq!(status, Status::CONNECT_BUSY);
    assert_eq!(world.probe(fourth), Status::SEQUENCE_ERROR, "not enabled yet");
    assert_eq!(world.frontend.in_the_way(HOME), None);
}

/// A half-authentication is a newcomer like one before Connect, and takes no share of its host's from it for good.
#[test]
fn half_authentications_take_no_place_and_no_share() {
    let mut world = World::new(TargetConfig {
        limits: Limits { connections_per_host: 2, controllers_max: 6, ..config(4096).limits },
        ..auth_config(&AuthHash::ALL, &[DhGroup::Null])
    });
    let (first, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.authenticate(first, false);
    world.now = world.now.after(Nanos::from_millis(1));
    let (second, _) = world.asked(0, ConnectData::CNTLID_ANY);
    world.now = world.now.after(Nanos::from_millis(1));
    // The host has its share of two; the second is only half of one.
    let (third, _) = world.asked(0, ConnectData::CNTLID_ANY);
    assert!(world.is_closing(second) && !world.is_closing(first));
    world.frontend.closed(world.now, second);
    while world.frontend.in_the_way(HOME).is_none() {
        world.open();
    }
    assert_eq!(world.frontend.in_the_way(HOME), Some(third), "it is the oldest");
    world.authenticate(third, false);
    assert_ne!(world.frontend.in_the_way(HOME), Some(third), "ADM-1");
    let conn = world.frontend.in_the_way(HOME).unwrap();
    world.frontend.closed(world.now, conn);
    let conn = world.initialised(0);
    let status = world.status(conn, &connect(0).emit(1), &connect_data(ConnectData::CNTLID_ANY));
    assert_eq!(status, Status::CONNECT_BUSY, "two are authenticated");
}

/// A host that has its share gets nothing, and nobody goes for it: whoever is still authenticating, as another host, stays.
#[test]
fn nobody_gives_way_to_a_host_that_has_its_share() {
    let name = "nqn.2014-08.org.example:other-host";
    let mut base = auth_config(&AuthHash::ALL, &[DhGroup::Null]);
    base.limits = Limits { connections_per_host: 2, controllers_max: 3, ..base.limits };
    base.hosts.as_mut().unwrap().push(name.to_string());
    let other = HostAuth { nqn: name.to_string(), ..base.auth.hosts[0].clone() };
    base.auth.hosts.push(other);
    let mut world = World::new(base);
    for _ in 0..2 {
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        world.authenticate(conn, false);
    }
    let half = world.initialised(0);
    let fields = |name: &str| ConnectData {
        hostnqn: put_nqn(name).unwrap(),
        ..connect_fields(ConnectData::CNTLID_ANY)
    };
    let cqe = world.run(half, &connect(0).emit(1), &emit(&fields(name)));
    assert_eq!(cqe.result & !0xffff, CONNECT_AUTH_REQUIRED);
    // Every controller is in use, by that one too, which may go. It goes for those that get something.
    let conn = world.initialised(0);
    for _ in 0..3 {
        let status = world.status(conn, &connect(0).emit(1), &emit(&fields(HOST)));
        assert_eq!(status, Status::CONNECT_BUSY);
        assert!(!world.is_closing(half), "it was ended in vain");
    }
    let status = world.status(conn, &connect(0).emit(1), &emit(&fields(FREE_HOST)));
    assert_eq!(status, Status::SUCCESS);
    assert!(world.is_closing(half));
}

/// An I/O queue that is only half a host's is not in the way of one that is.
#[test]
fn a_half_authentication_keeps_no_queue_from_its_host() {
    let mut world = plain();
    let (admin, cntlid) = world.asked(0, ConnectData::CNTLID_ANY);
    world.authenticate(admin, true);
    let enable =
        PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(world.status(admin, &enable.emit(1), &[]), Status::SUCCESS);
    let (half, _) = world.asked(1, cntlid);
    let (io, _) = world.asked(1, cntlid);
    assert!(world.is_closing(half) && !world.is_closing(io) && !world.is_closing(admin));
    world.authenticate(io, true);
    let other = world.initialised(0);
    let status = world.status(other, &connect(1).emit(1), &connect_data(cntlid));
    assert_eq!(status, Status::SEQUENCE_ERROR, "C2");
    assert_eq!(world.status(io, &write(1, 0, 1, 4096, true), &[7; 4096]), Status::SUCCESS);
}

/// Any bytes, in any step: nothing breaks, and nobody gets in.
#[test]
fn arbitrary_messages_open_nothing() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..2000 {
        let mut world = plain();
        let (conn, _) = world.asked(0, ConnectData::CNTLID_ANY);
        let mut message = negotiate(1);
        if round % 2 == 0 {
            let dialogue = world.challenged(conn, 1);
            message = dialogue.reply(OTHER_SECRET, round % 4 == 0);
        }
        match next() % 3 {
            0 => message.truncate(1 + next() as usize % message.len()),
            1 => message.resize(1 + next() as usize % 2000, next() as u8),
            _ => {}
        }
        for _ in 0..next() % 4 {
            let at = next() as usize % message.len().min(20);
            message[at] = next() as u8;
        }
        world.say(conn, &message);
        world.ask(conn, 1 + next() as u32 % 2000);
        world.now = world.now.after(FAILURE_DELAY);
        world.frontend.tick(world.now);
        world.drain();
        world.pdus(conn);
        assert_eq!(world.frontend.counters().authenticated, 0);
        if !world.is_closing(conn) {
            assert_eq!(world.probe(conn), Status::AUTHENTICATION_REQUIRED);
        }
    }
}
