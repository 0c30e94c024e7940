//! Messages of DH-HMAC-CHAP: each survives the wire, and no cut, no length and no flipped bit makes one out of what is none.

extern crate alloc;

use super::auth::*;
use super::command::Sqe;
use alloc::{vec, vec::Vec};

fn samples() -> Vec<AuthMessage<'static>> {
    vec![
        AuthMessage::Negotiate {
            secure_channel: 0,
            offer: Some(AuthOffer { hashes: &[1, 2, 3], groups: &[0, 1, 2, 3, 4, 5] }),
        },
        AuthMessage::Challenge {
            hash: 2,
            group: 1,
            seqnum: 0x0102_0304,
            challenge: &[7; 48],
            value: &[8; 256],
        },
        AuthMessage::Reply {
            response: &[9; 64],
            challenge: Some(&[10; 64]),
            seqnum: 5,
            value: &[11; 1024],
        },
        AuthMessage::Reply { response: &[9; 32], challenge: None, seqnum: 0, value: &[] },
        AuthMessage::Success1 { hash_bytes: 32, response: Some(&[12; 32]) },
        AuthMessage::Success1 { hash_bytes: 64, response: None },
        AuthMessage::Success2,
        AuthMessage::Failure1 { explanation: 6 },
        AuthMessage::Failure2 { explanation: 1 },
    ]
}

#[test]
fn messages_survive_the_wire_and_no_cut_of_them_does() {
    for message in samples() {
        let mut bytes = vec![0xff; AUTH_BYTES_MAX + 9];
        let len = message.emit(0xbeef, &mut bytes);
        assert_eq!(len, message.bytes());
        assert!(len <= AUTH_BYTES_MAX);
        assert_eq!(AuthMessage::parse(&bytes[..len]), Ok((0xbeef, message)));
        for cut in 0..len {
            let bad = AuthMessage::parse(&bytes[..cut]).unwrap_err();
            assert_eq!(bad.refusal, AuthRefusal::IncorrectPayload, "{message:?} cut to {cut}");
            assert_eq!(bad.transaction, (cut >= 6).then_some(0xbeef));
        }
        let bad = AuthMessage::parse(&bytes[..len + 1]).unwrap_err();
        assert_eq!(bad.refusal, AuthRefusal::IncorrectPayload, "{message:?} with a byte more");
        // Whatever it becomes, it is read within its bounds.
        for bit in 0..len.min(16) * 8 {
            let mut flipped = bytes[..len].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = AuthMessage::parse(&flipped);
            let _ = AuthMessage::parse_padded(&flipped);
        }
    }
}

/// The bytes are those of Base 8.13.5, and of what Linux has in `include/linux/nvme.h`.
#[test]
fn fields_stand_where_the_standard_has_them() {
    let mut bytes = [0xff; 72];
    let offer = AuthOffer { hashes: &[1, 2], groups: &[0, 5] };
    let negotiate = AuthMessage::Negotiate { secure_channel: 0, offer: Some(offer) };
    assert_eq!(negotiate.emit(0x0201, &mut bytes), 72);
    assert_eq!(bytes[..14], [0, 0, 0, 0, 1, 2, 0, 1, 1, 0, 2, 2, 1, 2]);
    assert_eq!(bytes[42..46], [0, 5, 0, 0]);

    let mut bytes = [0xff; 50];
    let challenge = AuthMessage::Challenge {
        hash: 1,
        group: 3,
        seqnum: 0x0605_0403,
        challenge: &[7; 32],
        value: &[9; 2],
    };
    assert_eq!(challenge.emit(0x0201, &mut bytes), 50);
    assert_eq!(bytes[..16], [1, 1, 0, 0, 1, 2, 32, 0, 1, 3, 2, 0, 3, 4, 5, 6]);
    assert_eq!(bytes[47..], [7, 9, 9]);

    let mut bytes = [0xff; 82];
    let reply = AuthMessage::Reply {
        response: &[7; 32],
        challenge: Some(&[8; 32]),
        seqnum: 0x0605_0403,
        value: &[9; 2],
    };
    assert_eq!(reply.emit(0x0201, &mut bytes), 82);
    assert_eq!(bytes[..16], [1, 2, 0, 0, 1, 2, 32, 0, 1, 0, 2, 0, 3, 4, 5, 6]);
    assert_eq!(bytes[47..49], [7, 8]);
    assert_eq!(bytes[79..], [8, 9, 9]);

    let mut bytes = [0xff; 48];
    let success = AuthMessage::Success1 { hash_bytes: 32, response: Some(&[7; 32]) };
    assert_eq!(success.emit(0x0201, &mut bytes), 48);
    assert_eq!(bytes[..17], [1, 3, 0, 0, 1, 2, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(AuthMessage::Success2.emit(0x0201, &mut bytes), 16);
    assert_eq!(bytes[..16], [1, 4, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(AuthMessage::Failure1 { explanation: 6 }.emit(0x0201, &mut bytes), 8);
    assert_eq!(bytes[..8], [0, 0xf1, 0, 0, 1, 2, 1, 6]);
    assert_eq!(AuthMessage::Failure2 { explanation: 7 }.emit(0x0201, &mut bytes), 8);
    assert_eq!(bytes[..8], [0, 0xf0, 0, 0, 1, 2, 1, 7]);
}

/// C38: each length field alone may claim more than came.
#[test]
fn lengths_are_believed_only_as_far_as_bytes_came() {
    let payload = |bytes: &[u8]| {
        assert_eq!(
            AuthMessage::parse(bytes).unwrap_err().refusal,
            AuthRefusal::IncorrectPayload,
            "{bytes:x?}"
        );
    };
    let mut negotiate = [0; 72];
    let offer = AuthOffer { hashes: &[1], groups: &[0] };
    AuthMessage::Negotiate { secure_channel: 0, offer: Some(offer) }.emit(1, &mut negotiate);
    // NAPD, HALEN, DHLEN.
    for (at, value) in [(7, 0), (7, 2), (7, 255), (10, 31), (10, 255), (11, 31), (11, 255)] {
        let mut bytes = negotiate;
        bytes[at] = value;
        payload(&bytes);
    }
    let mut reply = vec![0; AUTH_BYTES_MAX];
    let message =
        AuthMessage::Reply { response: &[9; 32], challenge: None, seqnum: 0, value: &[1; 4] };
    let len = message.emit(1, &mut reply);
    reply.truncate(len);
    // HL, CVALID, both bytes of DHVLEN.
    for (at, value) in [(6, 0), (6, 33), (6, 255), (8, 2), (10, 0), (10, 5), (11, 255)] {
        let mut bytes = reply.clone();
        bytes[at] = value;
        payload(&bytes);
    }
    // A protocol that is none of ours is no broken message.
    let mut other = negotiate;
    other[8] = 2;
    assert_eq!(
        AuthMessage::parse(&other),
        Ok((1, AuthMessage::Negotiate { secure_channel: 0, offer: None }))
    );
    // Two descriptors: ours may be the second.
    let mut two = [0; 136];
    two[..72].copy_from_slice(&other);
    two[72..].copy_from_slice(&negotiate[8..]);
    two[7] = 2;
    assert_eq!(
        AuthMessage::parse(&two),
        Ok((1, AuthMessage::Negotiate { secure_channel: 0, offer: Some(offer) }))
    );
    for (kind, name) in [(0, 1), (0, 0xf2), (1, 0), (1, 5), (2, 0), (255, 255)] {
        let bytes = [kind, name, 0, 0, 1, 0, 0, 0];
        let bad = AuthMessage::parse(&bytes).unwrap_err();
        assert_eq!(bad.refusal, AuthRefusal::IncorrectMessage);
    }
}

#[test]
fn a_message_may_stand_at_the_front_of_zeroes() {
    for message in samples() {
        if matches!(message, AuthMessage::Negotiate { .. } | AuthMessage::Reply { .. }) {
            // The host sends these; it never receives them.
            continue;
        }
        let mut bytes = vec![0; 4096];
        let len = message.emit(3, &mut bytes);
        assert_eq!(AuthMessage::parse_padded(&bytes), Ok((3, message)));
        assert_eq!(AuthMessage::parse_padded(&bytes[..len]), Ok((3, message)));
        bytes[4000] = 1;
        assert!(AuthMessage::parse_padded(&bytes).is_err());
    }
    assert!(AuthMessage::parse_padded(&[]).is_err());
}

#[test]
fn auth_commands_survive_the_wire() {
    let command = AuthCommand::new(1168);
    let send = command.emit_send(9);
    let mut bytes = [0; Sqe::BYTES];
    send.emit(&mut bytes);
    assert_eq!((bytes[0], bytes[4], bytes[39]), (0x7f, 0x05, 0x01));
    assert_eq!(bytes[40..48], [0, 1, 1, 0xe9, 0x90, 4, 0, 0]);
    assert_eq!(AuthCommand::parse(&Sqe::parse(&bytes).unwrap()), command);
    let receive = command.emit_receive(9);
    assert_eq!((receive.fctype(), receive.sgl.kind), (0x06, 0x5a));
    assert!(AuthCommand::parse(&receive).is_nvme());
    assert!(!AuthCommand { secp: 0, ..command }.is_nvme());
    assert!(!AuthCommand { spsp: 0x0100, ..command }.is_nvme());
}

#[test]
fn only_the_standards_identifiers_exist() {
    for id in 0..=255 {
        assert_eq!(AuthHash::new(id).map(|hash| hash as u8), (1..=3).contains(&id).then_some(id));
        assert_eq!(DhGroup::new(id).map(|group| group as u8), (id <= 5).then_some(id));
        assert_eq!(AuthRefusal::new(id).map(|why| why as u8), (1..=7).contains(&id).then_some(id));
    }
}
