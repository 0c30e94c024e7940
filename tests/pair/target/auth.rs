//! C37 to C41: authentications that must fail, message by message. Each costs its own connection, which is told why, and nothing else.

use super::field::Field;
use super::raw::{GUARDED, Raw, connect, emit, fields_of, read, set_cc, write};
use super::table::{Row, sent};
use crate::authenticated::SECRET;
use ibid_chap::{Digest, Done, Exchange, Keys, Role, Secret, Work};
use ibid_wire::nvme_tcp::{
    AuthCommand, AuthHash, AuthMessage, AuthOffer, AuthRefusal, CONNECT_AUTH_REQUIRED, Cc,
    ConnectData, DhGroup, Identify, PduKind, Sgl, Sqe, Status, cns, opcode,
};
use std::convert::Infallible;

/// What the target allows, of which hosts here take the first.
const HASH: AuthHash = AuthHash::Sha384;
const GROUP: DhGroup = DhGroup::Ffdhe2048;
const OTHER: &str = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";
/// Room for any message.
const ROOM: u32 = 4096;
/// Bytes of a challenge of that hash function and group.
const CHALLENGE_BYTES: u32 = 16 + 48 + 256;

pub(crate) const ROWS: &[Row] = &[
    sent("C37", "commands before authentication is done", before_authentication),
    sent("C38", "a Negotiate with wrong lengths", |field| {
        let good = negotiate(5);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        for (what, message, transaction) in [
            ("one byte", good[..1].to_vec(), 0),
            ("cut in T_ID", good[..5].to_vec(), 0),
            ("header only", good[..8].to_vec(), 5),
            ("cut in the descriptor", good[..71].to_vec(), 5),
            ("the most a capsule takes", [&good[..], &vec![0; 8192 - good.len()]].concat(), 5),
            ("NAPD 0", with(7, 0), 5),
            ("NAPD 255, one there", with(7, 255), 5),
            ("HALEN 31", with(10, 31), 5),
            ("DHLEN 255", with(11, 255), 5),
        ] {
            let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
            say(&mut raw, &message);
            assert_told(raw, transaction, AuthRefusal::IncorrectPayload, what);
        }
    }),
    sent("C38", "a Reply with wrong lengths", |field| {
        let change = |name: &'static str, change: fn(&mut Vec<u8>)| (name, change);
        for (what, change) in [
            change("cut in the header", |bytes| bytes.truncate(15)),
            change("cut in the response", |bytes| bytes.truncate(40)),
            change("cut in the value", |bytes| bytes.truncate(bytes.len() - 1)),
            change("a byte more", |bytes| bytes.push(0)),
            change("HL 0", |bytes| bytes[6] = 0),
            change("HL 255", |bytes| bytes[6] = 255),
            change("DHVLEN 0, value there", |bytes| bytes[10..12].fill(0)),
            change("DHVLEN beyond the end", |bytes| bytes[11] = 255),
            change("a challenge with SEQNUM 0", |bytes| bytes[12..16].fill(0)),
        ] {
            let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
            let mut reply = challenged(&mut raw, field, 3).reply(SECRET);
            change(&mut reply);
            say(&mut raw, &reply);
            assert_told(raw, 3, AuthRefusal::IncorrectPayload, what);
        }
    }),
    sent("C39", "too little room for a message", too_little_room),
    sent("C40", "messages out of order", out_of_order),
    sent("C40", "another transaction", |field| {
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let mut dialogue = challenged(&mut raw, field, 4);
        dialogue.transaction = 5;
        say(&mut raw, &dialogue.reply(SECRET));
        assert_told(raw, 4, AuthRefusal::IncorrectMessage, "T_ID of Reply");
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let dialogue = challenged(&mut raw, field, 4);
        say(&mut raw, &dialogue.reply(SECRET));
        hear(&mut raw);
        say(&mut raw, &message(5, &AuthMessage::Success2));
        assert_told(raw, 4, AuthRefusal::IncorrectMessage, "T_ID of Success2");
    }),
    sent("C40", "a response that was right once", |field| {
        let (mut first, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let old = challenged(&mut first, field, 4);
        let reply = old.reply(SECRET);
        // It was right: whoever overhears it, on a connection that then broke, has that.
        say(&mut first, &reply);
        old.assert_success(&hear(&mut first), true);
        let (mut second, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let new = challenged(&mut second, field, 4);
        assert_ne!(new.challenge, old.challenge, "C40");
        assert_ne!(new.seqnum, old.seqnum, "C40: SEQNUM is used again");
        say(&mut second, &reply);
        assert_told(second, 4, AuthRefusal::Failed, "a replayed response");
    }),
    sent("C40", "our own challenge given back", |field| {
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let mut dialogue = challenged(&mut raw, field, 4);
        dialogue.own_challenge = dialogue.challenge.clone();
        say(&mut raw, &dialogue.reply(SECRET));
        assert_told(raw, 4, AuthRefusal::Failed, "a reflected challenge");
    }),
    sent("C40", "authenticates again, and fails to", again),
    sent("C41", "an offer below what is allowed, and a secret that is none", |field| {
        let offer = |hashes, groups| AuthMessage::Negotiate {
            secure_channel: 0,
            offer: Some(AuthOffer { hashes, groups }),
        };
        for (what, offer, why) in [
            ("SHA-256 and NULL", offer(&[1], &[0]), AuthRefusal::HashUnusable),
            ("unknown hashes", offer(&[0, 4, 255], &[1]), AuthRefusal::HashUnusable),
            ("SHA-384 and NULL", offer(&[2], &[0]), AuthRefusal::GroupUnusable),
            ("no group at all", offer(&[2, 3], &[]), AuthRefusal::GroupUnusable),
        ] {
            let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
            say(&mut raw, &message(6, &offer));
            assert_told(raw, 6, why, what);
        }
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let dialogue = challenged(&mut raw, field, 6);
        say(&mut raw, &dialogue.reply(OTHER));
        assert_told(raw, 6, AuthRefusal::Failed, "another secret");
    }),
];

fn message(transaction: u16, message: &AuthMessage<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.bytes()];
    message.emit(transaction, &mut bytes);
    bytes
}

fn negotiate(transaction: u16) -> Vec<u8> {
    let offer = Some(AuthOffer { hashes: &[HASH as u8], groups: &[GROUP as u8] });
    message(transaction, &AuthMessage::Negotiate { secure_channel: 0, offer })
}

/// A connection behind Connect, which asked for authentication; the controller's identifier.
fn asked(field: &Field, qid: u16, cntlid: u16) -> (Raw, u16) {
    let mut raw = field.ready(false);
    let data = emit(&fields_of(GUARDED, &field.nqn, cntlid));
    let cqe = raw.run(&connect(qid).emit(1), &data);
    assert_eq!(cqe.status, Status::SUCCESS);
    assert_eq!(cqe.result & !0xffff, CONNECT_AUTH_REQUIRED);
    (raw, cqe.result as u16)
}

/// Sends a message. The command always succeeds: what the message is worth is fetched.
fn say(raw: &mut Raw, message: &[u8]) {
    let sqe = AuthCommand::new(message.len() as u32).emit_send(9);
    assert_eq!(raw.status(&sqe, message), Status::SUCCESS);
}

/// Fetches a message, with the room that it was given.
fn fetch(raw: &mut Raw, room: u32) -> Vec<u8> {
    raw.submit(&AuthCommand::new(room).emit_receive(10), &[]);
    let mut all = Vec::new();
    loop {
        let pdu = raw.pdu().expect("a message comes");
        if pdu.kind() == PduKind::C2hData {
            all.extend_from_slice(pdu.data());
        } else {
            assert_eq!(pdu.cqe().status, Status::SUCCESS);
            assert_eq!(all.len(), room as usize);
            return all;
        }
    }
}

fn hear(raw: &mut Raw) -> Vec<u8> {
    fetch(raw, ROOM)
}

/// It has failed for this reason; that is told, and then the connection closes.
fn assert_told(mut raw: Raw, transaction: u16, why: AuthRefusal, what: &str) {
    let told = hear(&mut raw);
    assert_eq!(
        AuthMessage::parse_padded(&told),
        Ok((transaction, AuthMessage::Failure1 { explanation: why as u8 })),
        "{what}"
    );
    raw.assert_closed(what);
}

/// What a host remembers of an exchange that it means to be mutual.
struct Dialogue {
    subsystem: String,
    transaction: u16,
    seqnum: u32,
    challenge: Vec<u8>,
    agreed: Digest,
    own_value: Vec<u8>,
    own_challenge: Vec<u8>,
}

/// Bytes that are the same in every run, and differ from call to call.
fn chance(seed: u8) -> impl FnMut(&mut [u8]) -> Result<(), Infallible> {
    let mut next = seed;
    move |out| {
        for byte in out {
            next = next.wrapping_mul(61).wrapping_add(91);
            *byte = next;
        }
        Ok(())
    }
}

/// Negotiates, and takes the challenge.
fn challenged(raw: &mut Raw, field: &Field, transaction: u16) -> Dialogue {
    say(raw, &negotiate(transaction));
    Dialogue::new(&field.nqn, transaction, &hear(raw))
}

impl Dialogue {
    fn new(subsystem: &str, transaction: u16, bytes: &[u8]) -> Dialogue {
        let Ok((named, AuthMessage::Challenge { hash, group, seqnum, challenge, value })) =
            AuthMessage::parse_padded(bytes)
        else {
            panic!("no challenge: {bytes:x?}");
        };
        assert_eq!((named, hash, group), (transaction, HASH as u8, GROUP as u8));
        let Ok(Done::Keys(Keys { private, public, .. })) =
            (Work::Keys { group: GROUP }).run(chance(7))
        else {
            panic!("no keys");
        };
        let own_value = public.bytes().to_vec();
        let Ok(Done::Agreed(Some(agreed))) =
            Work::agree(GROUP, HASH, private, value).run(chance(0))
        else {
            panic!("nothing is agreed");
        };
        Dialogue {
            subsystem: subsystem.to_owned(),
            transaction,
            seqnum,
            challenge: challenge.to_vec(),
            agreed,
            own_value,
            own_challenge: vec![0x3c; HASH.bytes()],
        }
    }

    /// The Reply of who has this secret, and wants an answer.
    fn reply(&self, secret: &str) -> Vec<u8> {
        let exchange = Exchange {
            hash: HASH,
            role: Role::Host,
            challenge: &self.challenge,
            agreed: Some(&self.agreed),
            seqnum: self.seqnum,
            transaction: self.transaction,
            own_nqn: GUARDED,
            other_nqn: &self.subsystem,
        };
        let response = exchange.response(&Secret::parse(secret).unwrap().key(GUARDED));
        message(
            self.transaction,
            &AuthMessage::Reply {
                response: response.bytes(),
                challenge: Some(&self.own_challenge),
                seqnum: 77,
                value: &self.own_value,
            },
        )
    }

    /// The target believes us, and has proved to be the one we mean.
    fn assert_success(&self, bytes: &[u8], padded: bool) {
        let parsed =
            if padded { AuthMessage::parse_padded(bytes) } else { AuthMessage::parse(bytes) };
        let Ok((transaction, AuthMessage::Success1 { response: Some(response), .. })) = parsed
        else {
            panic!("no success: {bytes:x?}");
        };
        assert_eq!(transaction, self.transaction);
        let exchange = Exchange {
            hash: HASH,
            role: Role::Controller,
            challenge: &self.own_challenge,
            agreed: Some(&self.agreed),
            seqnum: 77,
            transaction,
            own_nqn: &self.subsystem,
            other_nqn: GUARDED,
        };
        let key = Secret::parse(crate::authenticated::CONTROLLER_SECRET).unwrap();
        assert!(exchange.response(&key.key(&self.subsystem)).matches(response));
    }
}

fn authenticate(raw: &mut Raw, field: &Field) {
    let dialogue = challenged(raw, field, 0x1234);
    say(raw, &dialogue.reply(SECRET));
    dialogue.assert_success(&hear(raw), true);
    say(raw, &message(0x1234, &AuthMessage::Success2));
}

fn before_authentication(field: &Field) {
    let lba = field.lba();
    assert_eq!(field.io(false).0.status(&write(1, lba, 1, true), &[0x38; 4096]), Status::SUCCESS);
    let identify = Identify::of(cns::CONTROLLER, 0).emit(3);
    let keep_alive = Sqe::new(opcode::KEEP_ALIVE, 4, 0);
    let event = Sqe::new(opcode::ASYNC_EVENT_REQUEST, 5, 0);
    let again = emit(&fields_of(GUARDED, &field.nqn, ConnectData::CNTLID_ANY));
    let refused = Status::AUTHENTICATION_REQUIRED;
    let (mut admin, cntlid) = asked(field, 0, ConnectData::CNTLID_ANY);
    for sqe in [identify, keep_alive, event, set_cc(Cc::ENABLED.0)] {
        assert_eq!(admin.status(&sqe, &[]), refused, "C37 {sqe:?}");
    }
    assert_eq!(admin.status(&connect(0).emit(6), &again), refused, "C37 Connect");
    authenticate(&mut admin, field);
    assert_eq!(admin.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
    assert_eq!(admin.status(&keep_alive, &[]), Status::SUCCESS);
    // Every queue by itself.
    let (mut io, _) = asked(field, 1, cntlid);
    let one = write(1, lba, 1, true);
    assert_eq!(io.status(&one, &[0x37; 4096]), refused, "C37 in the capsule");
    assert_eq!(io.status(&write(2, lba, 256, false), &[]), refused, "C37 no R2T");
    assert_eq!(io.status(&read(3, lba, 1), &[]), refused, "C37");
    assert_eq!(io.status(&Sqe::new(opcode::FLUSH, 4, 1), &[]), refused, "C37");
    // In the midst of it, too.
    let dialogue = challenged(&mut io, field, 8);
    assert_eq!(io.status(&one, &[0x37; 4096]), refused, "C37 challenged");
    say(&mut io, &dialogue.reply(SECRET));
    assert_eq!(io.status(&one, &[0x37; 4096]), refused, "C37 replied");
    dialogue.assert_success(&hear(&mut io), true);
    assert_eq!(io.status(&one, &[0x37; 4096]), refused, "C37 before its Success2");
    let found = field.io(false).0.read(1, lba, 1);
    assert!(found == [0x38; 4096], "C37: one of them took effect");
    say(&mut io, &message(8, &AuthMessage::Success2));
    assert_eq!(io.status(&one, &[0x37; 4096]), Status::SUCCESS, "C37");
    assert!(io.read(5, lba, 1) == [0x37; 4096], "C37");
}

/// On queues in use: they are served meanwhile, and until it fails.
fn again(field: &Field) {
    let lba = field.lba();
    let (mut admin, cntlid) = asked(field, 0, ConnectData::CNTLID_ANY);
    authenticate(&mut admin, field);
    assert_eq!(admin.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
    let (mut io, _) = asked(field, 1, cntlid);
    authenticate(&mut io, field);
    let keep_alive = Sqe::new(opcode::KEEP_ALIVE, 4, 0);
    let one = write(1, lba, 1, true);
    for round in 1..=3_u8 {
        let dialogue = challenged(&mut admin, field, round.into());
        assert_eq!(admin.status(&keep_alive, &[]), Status::SUCCESS, "C40 challenged again");
        say(&mut admin, &dialogue.reply(SECRET));
        dialogue.assert_success(&hear(&mut admin), true);
        say(&mut admin, &message(round.into(), &AuthMessage::Success2));
        assert_eq!(admin.status(&keep_alive, &[]), Status::SUCCESS, "C40 again");
        let dialogue = challenged(&mut io, field, round.into());
        assert_eq!(io.status(&one, &[round; 4096]), Status::SUCCESS, "C40 challenged again");
        say(&mut io, &dialogue.reply(SECRET));
        dialogue.assert_success(&hear(&mut io), true);
        assert!(io.read(2, lba, 1) == [round; 4096], "C40 before its Success2");
        say(&mut io, &message(round.into(), &AuthMessage::Success2));
        assert_eq!(io.status(&one, &[round + 100; 4096]), Status::SUCCESS, "C40 again");
    }
    let dialogue = challenged(&mut io, field, 9);
    say(&mut io, &dialogue.reply(OTHER));
    let told = hear(&mut io);
    let failed = AuthMessage::Failure1 { explanation: AuthRefusal::Failed as u8 };
    assert_eq!(AuthMessage::parse_padded(&told), Ok((9, failed)), "C40 again, another secret");
    io.assert_closed("C40 again, another secret");
    // Its controller is there, and takes another queue in its place.
    let (mut io, _) = asked(field, 1, cntlid);
    authenticate(&mut io, field);
    assert!(io.read(3, lba, 1) == [103; 4096], "C40");
}

/// Not one byte comes for room that does not hold the message, and nothing is lost.
fn too_little_room(field: &Field) {
    let small = |raw: &mut Raw, rooms: &[u32]| {
        for room in rooms {
            let sqe = AuthCommand::new(*room).emit_receive(11);
            // One PDU, the completion.
            assert_eq!(raw.status(&sqe, &[]), Status::INVALID_FIELD, "C39: {room} bytes");
        }
    };
    let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
    say(&mut raw, &negotiate(2));
    small(&mut raw, &[0, 1, 15, 16, CHALLENGE_BYTES - 1]);
    let mut other = AuthCommand::new(CHALLENGE_BYTES).emit_receive(11);
    other.sgl = Sgl::transport(1);
    assert_eq!(raw.status(&other, &[]), Status::SGL_LENGTH_INVALID, "C39: AL and SGL differ");
    let dialogue = Dialogue::new(&field.nqn, 2, &fetch(&mut raw, CHALLENGE_BYTES));
    say(&mut raw, &dialogue.reply(SECRET));
    small(&mut raw, &[1, 15, 16, 16 + 47]);
    dialogue.assert_success(&fetch(&mut raw, 16 + 48), false);
    say(&mut raw, &message(2, &AuthMessage::Success2));
    assert_eq!(raw.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS, "C39");
    let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
    say(&mut raw, &[9]);
    small(&mut raw, &[1, 7]);
    fetch(&mut raw, 8);
    raw.assert_closed("C39 a failure");
}

fn out_of_order(field: &Field) {
    let wrong = AuthRefusal::IncorrectMessage;
    let success2 = message(4, &AuthMessage::Success2);
    let value = [1; 256];
    let reply = message(
        4,
        &AuthMessage::Reply { response: &[1; 48], challenge: None, seqnum: 0, value: &value },
    );
    let of_controller = [
        message(4, &AuthMessage::Success1 { hash_bytes: 48, response: None }),
        message(4, &AuthMessage::Failure1 { explanation: 1 }),
        message(
            4,
            &AuthMessage::Challenge {
                hash: HASH as u8,
                group: GROUP as u8,
                seqnum: 1,
                challenge: &[1; 48],
                value: &value,
            },
        ),
    ];
    for first in [&success2, &reply].into_iter().chain(&of_controller) {
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        say(&mut raw, first);
        assert_told(raw, 4, wrong, "in place of Negotiate");
    }
    for second in [&negotiate(4), &success2].into_iter().chain(&of_controller) {
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        challenged(&mut raw, field, 4);
        say(&mut raw, second);
        assert_told(raw, 4, wrong, "in place of Reply");
    }
    for third in [&negotiate(4), &reply].into_iter().chain(&of_controller) {
        let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
        let dialogue = challenged(&mut raw, field, 4);
        say(&mut raw, &dialogue.reply(SECRET));
        hear(&mut raw);
        say(&mut raw, third);
        assert_told(raw, 4, wrong, "in place of Success2");
    }
    // A reply while the challenge is still being computed, or has not been fetched.
    let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
    say(&mut raw, &negotiate(4));
    say(&mut raw, &reply);
    assert_told(raw, 4, wrong, "before the challenge");
    let (raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
    assert_told(raw, 0, wrong, "a fetch before Negotiate");
    // What is open asks for nothing, and is not closed by what it did not ask for.
    let (mut raw, _) = asked(field, 0, ConnectData::CNTLID_ANY);
    authenticate(&mut raw, field);
    for late in [&reply, &success2] {
        let sqe = AuthCommand::new(late.len() as u32).emit_send(9);
        assert_eq!(raw.status(&sqe, late), Status::SEQUENCE_ERROR, "C40");
        let sqe = AuthCommand::new(ROOM).emit_receive(9);
        assert_eq!(raw.status(&sqe, &[]), Status::SEQUENCE_ERROR, "C40");
    }
    assert_eq!(raw.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS, "C40");
}
