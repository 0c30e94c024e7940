//! Handshakes and frames, whole, late, recorded and bent. U6 and the like are rows of docs/link-protocol.md, "Bad frames".

use super::*;
use ibid_units::{Epoch, Nanos, PacketNumber};
use ibid_wire::peer::{
    ANSWER_CONTENT_AT, CLEAR_BYTES, COOKIE_FRAME_BYTES, Envelope, FrameEmitter, FrameHeader,
    FrameKind, HEADER_BYTES, HELLO_CONTENT_AT, HELLO_FRAME_BYTES, SectionKind, TAG_BYTES,
};
use snow::Builder;

const NOW: Nanos = Nanos::from_millis(123_000);
const SESSION: u64 = 77;

fn key(byte: u8) -> LinkKey {
    let mut bytes = [byte; 32];
    bytes[0] = !byte;
    LinkKey::new(bytes)
}

fn initiator(secret: u8, entropy: u8) -> Initiator {
    Initiator::new(&key(secret), [entropy; 32])
}

fn responder(secret: u8, entropy: u8) -> Responder {
    Responder::new(&key(secret), [entropy; 32])
}

fn header(kind: FrameKind, number: u64) -> FrameHeader {
    let (epoch, number) = (Epoch::new(5), PacketNumber::new(number));
    FrameHeader { kind, shard: 0, session: SESSION, epoch, number }
}

fn envelope(frame: &[u8]) -> Envelope {
    Envelope::parse(frame).unwrap()
}

fn hello(from: &mut Initiator, number: u64) -> Vec<u8> {
    let mut frame = vec![0; HELLO_FRAME_BYTES];
    FrameEmitter::with_body(
        &mut frame,
        &header(FrameKind::Hello, number),
        SectionKind::Hello,
        |to| {
            to[..5].copy_from_slice(b"hello");
            5
        },
    );
    from.seal(&mut frame);
    frame
}

fn cookie(by: &Responder, now: Nanos, number: u64) -> Vec<u8> {
    let mut frame = vec![0; COOKIE_FRAME_BYTES];
    FrameEmitter::new(&mut frame, &header(FrameKind::Cookie, number)).finish();
    by.seal_cookie(now, &mut frame);
    frame
}

fn answer(by: &mut Responder, handshake: Handshake, number: u64) -> (Vec<u8>, SessionKeys) {
    let mut frame = vec![0; 1000];
    let kind = header(FrameKind::HelloAnswer, number);
    let length = FrameEmitter::with_body(&mut frame, &kind, SectionKind::HelloAnswer, |to| {
        to[..6].copy_from_slice(b"answer");
        6
    });
    frame.truncate(length + TAG_BYTES);
    let keys = by.seal(handshake, &mut frame);
    (frame, keys)
}

fn hear(by: &mut Responder, now: Nanos, frame: &[u8]) -> Result<Option<Handshake>, NotHeard> {
    by.knows(frame)?;
    match by.hear(now, &envelope(frame), frame)? {
        Heard::Fresh(content, handshake) => {
            assert_eq!(&content[20..26], b"hello\0");
            Ok(Some(handshake))
        }
        Heard::NeedsCookie => Ok(None),
    }
}

/// A source with the cookie of a destination.
fn acquainted() -> (Initiator, Responder) {
    let (mut source, mut destination) = (initiator(1, 2), responder(1, 3));
    let first = hello(&mut source, 0);
    assert!(hear(&mut destination, NOW, &first).unwrap().is_none(), "nobody has a cookie at first");
    let frame = cookie(&destination, NOW, 0);
    assert!(frame.len() < first.len());
    source.hear_cookie(&envelope(&frame), &frame).unwrap();
    (source, destination)
}

fn keys() -> (SessionKeys, SessionKeys) {
    let (mut source, mut destination) = acquainted();
    let second = hello(&mut source, 1);
    assert_eq!(source.said(), Some(&second[..]));
    let handshake = hear(&mut destination, NOW, &second).unwrap().expect("it has a cookie");
    let (frame, there) = answer(&mut destination, handshake, 1);
    assert!(frame.len() < second.len());
    let (content, here) = source.hear_answer(&envelope(&frame), &frame).unwrap();
    assert_eq!(&content[20..], b"answer");
    assert_eq!(*here.of_source, *there.of_source);
    assert_eq!(*here.of_destination, *there.of_destination);
    assert_ne!(*here.of_source, *here.of_destination);
    (here, there)
}

fn channels(encryption: Encryption, limits: Limits) -> (Channel, Channel) {
    let (here, there) = keys();
    (
        Channel::new(&here, Side::Source, 0, encryption, limits),
        Channel::new(&there, Side::Destination, 0, encryption, limits),
    )
}

const MODES: [Encryption; 2] = [Encryption::Full, Encryption::IntegrityOnly];

fn plain(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 700];
    FrameEmitter::with_body(
        &mut frame,
        &header(FrameKind::Sourced, number),
        SectionKind::Log,
        |to| {
            to[..600].fill(number as u8);
            600
        },
    );
    frame
}

fn sealed(by: &mut Channel, number: u64) -> Vec<u8> {
    let mut frame = plain(number);
    by.seal(&mut frame);
    frame
}

fn open(by: &mut Channel, frame: &[u8]) -> Result<Vec<u8>, NotOpened> {
    let mut frame = frame.to_vec();
    by.open(&envelope(&frame), &mut frame)?;
    Ok(frame)
}

#[test]
fn a_frame_goes_there_and_one_comes_back() {
    for mode in MODES {
        let (mut source, mut destination) = channels(mode, Limits::LINK);
        for number in 0..100 {
            let frame = sealed(&mut source, number);
            let readable = frame[HEADER_BYTES..] == plain(number)[HEADER_BYTES..];
            assert_eq!(readable, mode == Encryption::IntegrityOnly);
            let opened = open(&mut destination, &frame).unwrap();
            assert_eq!(opened[HEADER_BYTES..], plain(number)[HEADER_BYTES..]);
            assert_eq!(envelope(&opened).header, header(FrameKind::Sourced, number));
            let back = sealed(&mut destination, number);
            open(&mut source, &back).unwrap();
        }
    }
}

/// U6.
#[test]
fn a_frame_with_any_bit_changed_is_not_opened_and_the_true_one_still_is() {
    for mode in MODES {
        let (mut source, mut destination) = channels(mode, Limits::LINK);
        let frame = sealed(&mut source, 3);
        for bit in 0..frame.len() * 8 {
            let mut bent = frame.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let Ok(envelope) = Envelope::parse(&bent) else { continue };
            let error = destination.open(&envelope, &mut bent).unwrap_err();
            assert!(
                matches!(error, NotOpened::Tag | NotOpened::Generation),
                "bit {bit}: {error:?}"
            );
        }
        for length in HEADER_BYTES..frame.len() {
            assert_eq!(open(&mut destination, &frame[..length]), Err(NotOpened::Tag), "cut");
        }
        let longer = [&frame[..], &[0]].concat();
        assert_eq!(open(&mut destination, &longer), Err(NotOpened::Tag), "trailing bytes");
        open(&mut destination, &frame).expect("SEC-2: nothing of those was remembered");
    }
}

/// U7, U8.
#[test]
fn a_frame_is_opened_once_and_not_at_all_behind_the_window() {
    let (mut source, mut destination) = channels(Encryption::Full, Limits::LINK);
    let frames: Vec<Vec<u8>> = (0..WINDOW + 10).map(|number| sealed(&mut source, number)).collect();
    open(&mut destination, &frames[5]).unwrap();
    assert_eq!(open(&mut destination, &frames[5]), Err(NotOpened::Replayed));
    open(&mut destination, &frames[WINDOW as usize + 5]).unwrap();
    assert_eq!(open(&mut destination, &frames[4]), Err(NotOpened::TooOld));
    assert_eq!(open(&mut destination, &frames[5]), Err(NotOpened::TooOld));
    open(&mut destination, &frames[6]).expect("the last that the window reaches");
}

/// U9. Within a key, which is all that a valid tag can come from.
#[test]
fn a_leap_of_the_counter_is_taken_where_its_tag_is_right() {
    let limits = Limits { frames_per_key: 1 << 50, ..Limits::LINK };
    let (mut source, mut destination) = channels(Encryption::Full, limits);
    let late = sealed(&mut source, 0);
    open(&mut destination, &sealed(&mut source, 1)).unwrap();
    source.leap(1 << 40);
    open(&mut destination, &sealed(&mut source, 2)).unwrap();
    assert_eq!(open(&mut destination, &late), Err(NotOpened::TooOld));
    open(&mut destination, &sealed(&mut source, 3)).unwrap();
}

/// U10, U11, U12.
#[test]
fn frames_of_the_other_direction_of_another_session_and_of_another_queue_are_not_opened() {
    let (mut source, mut destination) = channels(Encryption::Full, Limits::LINK);
    let frame = sealed(&mut source, 0);
    assert_eq!(open(&mut source, &frame), Err(NotOpened::Tag), "reflected");
    let (here, _) = keys();
    let mut queue = Channel::new(&here, Side::Destination, 1, Encryption::Full, Limits::LINK);
    let mut same = Channel::new(&here, Side::Destination, 0, Encryption::Full, Limits::LINK);
    // `keys` has no other chance than the first time: only the queue differs.
    assert_eq!(open(&mut queue, &frame), Err(NotOpened::Tag), "another queue");
    open(&mut same, &frame).expect("the same session");

    let (mut source, mut other) = acquainted();
    for number in [1, 2] {
        let hello = hello(&mut source, number);
        let handshake = hear(&mut other, NOW, &hello).unwrap().unwrap();
        let (answer, keys) = answer(&mut other, handshake, number);
        source.hear_answer(&envelope(&answer), &answer).unwrap();
        let mut other = Channel::new(&keys, Side::Destination, 0, Encryption::Full, Limits::LINK);
        let opened = open(&mut other, &frame).is_ok();
        assert_eq!(opened, number == 1, "SEC-1: each handshake has ephemeral keys of its own");
    }
    open(&mut destination, &frame).unwrap();
}

/// U34.
#[test]
fn keys_change_without_a_pause_and_old_ones_are_forgotten() {
    let limits = Limits { frames_per_key: 10_000, ..Limits::LINK };
    let (mut source, mut destination) = channels(Encryption::Full, limits);
    let frames: Vec<Vec<u8>> = (0..40_000).map(|number| sealed(&mut source, number)).collect();
    assert_eq!(source.generations(), [3, 0]);
    // Reordered by up to 4000 frames, so that each change is crossed both ways, and one in seven is lost.
    let mut order: Vec<usize> = (0..frames.len()).filter(|at| at % 7 != 3).collect();
    order.sort_by_key(|at| at + (at * 2_654_435_761) % 4000);
    for at in order {
        open(&mut destination, &frames[at]).unwrap_or_else(|error| panic!("{at}: {error:?}"));
        if at % 10_000 > 9_000 && at > 10_000 {
            assert!(open(&mut destination, &frames[at - 10_000]).is_err());
        }
    }
    assert_eq!(destination.generations(), [0, 3]);
    // Two generations ahead nothing can be told from junk.
    let (mut source, mut destination) = channels(Encryption::Full, limits);
    source.leap(20_000);
    assert_eq!(open(&mut destination, &sealed(&mut source, 0)), Err(NotOpened::Generation));
}

#[test]
fn the_keys_of_two_generations_differ() {
    let limits = Limits { frames_per_key: 1, ..Limits::LINK };
    let (mut source, _) = channels(Encryption::Full, limits);
    let long = Limits { frames_per_key: 1 << 40, ..limits };
    let (_, mut destination) = channels(Encryption::Full, long);
    open(&mut destination, &sealed(&mut source, 0)).expect("the first generation");
    assert_eq!(open(&mut destination, &sealed(&mut source, 1)), Err(NotOpened::Tag));
}

/// U34, U6.
#[test]
fn a_session_ends_before_its_counters_and_when_too_much_fails() {
    let limits = Limits { frames_max: 5, failures_max: 3, ..Limits::LINK };
    let (mut source, mut destination) = channels(Encryption::Full, limits);
    let frames: Vec<Vec<u8>> = (0..5).map(|number| sealed(&mut source, number)).collect();
    assert!(!source.may_seal());
    open(&mut destination, &frames[0]).unwrap();
    for count in 0..3 {
        assert_eq!(destination.is_retired(), count == 3);
        let mut bent = frames[1].clone();
        bent[HEADER_BYTES] ^= 1;
        assert_eq!(open(&mut destination, &bent), Err(NotOpened::Tag));
    }
    assert!(destination.is_retired());
    assert_eq!(open(&mut destination, &frames[1]), Err(NotOpened::Retired));
}

#[test]
fn another_key_is_known_before_anything_else_is_done() {
    let mut source = initiator(9, 2);
    let mut destination = responder(1, 3);
    let frame = hello(&mut source, 0);
    assert_eq!(hear(&mut destination, NOW, &frame).unwrap_err(), NotHeard::Gate);
    let said = cookie(&destination, NOW, 0);
    assert_eq!(source.hear_cookie(&envelope(&said), &said), Err(NotHeard::Gate));
}

/// SEC-4: U12, U16, U17.
#[test]
fn a_hello_is_fresh_or_is_not_heard() {
    let (mut source, mut destination) = acquainted();
    let frame = hello(&mut source, 1);
    for (later, fresh) in [(0, true), (5_000, true), (9_000, true), (20_000, false)] {
        let now = NOW.after(Nanos::from_millis(later));
        assert_eq!(hear(&mut destination, now, &frame).unwrap().is_some(), fresh, "{later} ms");
    }
    let mut restarted = responder(1, 4);
    assert!(hear(&mut restarted, NOW, &frame).unwrap().is_none(), "of the start before");
    // In another session the cookie is not even sent.
    let mut other = vec![0; HELLO_FRAME_BYTES];
    let kind = FrameHeader { session: SESSION + 1, ..header(FrameKind::Hello, 2) };
    FrameEmitter::with_body(&mut other, &kind, SectionKind::Hello, |_| 0);
    source.seal(&mut other);
    destination.knows(&other).unwrap();
    let heard = destination.hear(NOW, &envelope(&other), &other).unwrap();
    assert!(matches!(heard, Heard::NeedsCookie));
}

#[test]
fn a_hello_an_answer_or_a_cookie_with_any_bit_changed_is_not_heard() {
    let (mut source, mut destination) = acquainted();
    let frame = hello(&mut source, 1);
    for bit in 0..frame.len() * 8 {
        let mut bent = frame.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        if Envelope::parse(&bent).is_ok() {
            let error = hear(&mut destination, NOW, &bent).unwrap_err();
            let gated = bit / 8 < HELLO_CONTENT_AT;
            assert_eq!(error, if gated { NotHeard::Gate } else { NotHeard::Noise }, "bit {bit}");
        }
    }
    for length in [HEADER_BYTES, frame.len() - 1] {
        assert_eq!(destination.knows(&frame[..length]), Err(NotHeard::Strange));
    }
    let handshake = hear(&mut destination, NOW, &frame).unwrap().unwrap();
    let (said, _) = answer(&mut destination, handshake, 1);
    for at in 0..ANSWER_CONTENT_AT {
        let mut bent = said.clone();
        bent[at] ^= 1;
        if Envelope::parse(&bent).is_ok() {
            assert!(source.hear_answer(&envelope(&bent), &bent).is_err(), "byte {at}");
        }
    }
    let wrong = cookie(&destination, NOW, 0);
    assert!(source.hear_cookie(&envelope(&wrong), &wrong).is_err(), "of an earlier hello");
    assert!(source.said().is_some(), "none of these ended the handshake");
    source.hear_answer(&envelope(&said), &said).unwrap();
    assert!(source.hear_answer(&envelope(&said), &said).is_err(), "heard once");

    let again = hello(&mut source, 2);
    let handshake = hear(&mut destination, NOW, &again).unwrap().unwrap();
    let (mut bent, _) = answer(&mut destination, handshake, 2);
    bent[ANSWER_CONTENT_AT] ^= 1;
    assert_eq!(source.hear_answer(&envelope(&bent), &bent).unwrap_err(), NotHeard::Noise);
    hello(&mut source, 3);
    let mut bent = cookie(&destination, NOW, 3);
    bent[HEADER_BYTES] ^= 1;
    assert_eq!(source.hear_cookie(&envelope(&bent), &bent), Err(NotHeard::Gate));
}

/// U16. The source's newest is heard whatever comes without a cookie.
#[test]
fn so_many_hellos_without_a_cookie_are_heard_in_a_second() {
    let (mut source, mut destination) = acquainted();
    let stranger = hello(&mut initiator(1, 8), 2);
    let welcome = hello(&mut source, 2);
    let mut heard = 0;
    for millis in 0..10_000 {
        let now = NOW.after(Nanos::from_millis(millis));
        for _ in 0..5 {
            match hear(&mut destination, now, &stranger) {
                Ok(handshake) => {
                    assert!(handshake.is_none());
                    heard += 1;
                }
                Err(error) => assert_eq!(error, NotHeard::Limited),
            }
        }
        if millis % 100 == 0 {
            assert!(hear(&mut destination, now, &welcome).unwrap().is_some());
        }
    }
    let expected = HELLOS_PER_SECOND * 10;
    assert!((expected..=expected + HELLOS_PER_SECOND).contains(&heard), "{heard} in ten seconds");
}

/// U16, U17. A recorded hello costs no handshake but so many in a second, whatever its cookie; and it takes no turn from what is new.
#[test]
fn recorded_hellos_keep_no_new_one_out() {
    let (mut source, mut destination) = acquainted();
    let without = hello(&mut initiator(1, 8), 1);
    let with = hello(&mut source, 1);
    let (mut handshakes, mut heard) = (0, 0);
    for number in 2..100 {
        let now = NOW.after(Nanos::from_millis(10 * number));
        if number % 10 == 2 {
            // Of a source that has no cookie yet, and says hello ten times in a second.
            let new = hello(&mut initiator(1, 8), number);
            assert!(hear(&mut destination, now, &new).unwrap().is_none(), "hello {number}");
        }
        for _ in 0..100 {
            handshakes += u64::from(matches!(hear(&mut destination, now, &with), Ok(Some(_))));
            heard += u64::from(hear(&mut destination, now, &without).is_ok());
        }
    }
    assert!(handshakes > 0 && handshakes + heard <= 2 * HELLOS_PER_SECOND, "{handshakes}, {heard}");
}

/// Noise revision 34 as snow's own primitives do it.
#[test]
fn the_handshake_is_that_of_snow_with_its_own_primitives() {
    let (mut source, mut destination) = acquainted();
    let frame = hello(&mut source, 1);
    let prologue = [&frame[..CLEAR_BYTES], &frame[HEADER_BYTES..HEADER_BYTES + 16]].concat();
    let psk = key(1).handshake();
    let params = "Noise_NNpsk0_25519_AESGCM_SHA256".parse().unwrap();
    let builder = Builder::new(params).prologue(&prologue).unwrap().psk(0, &psk).unwrap();
    let mut snow = builder.build_responder().unwrap();
    let mut content = vec![0; 2000];
    let length = snow.read_message(&frame[HEADER_BYTES + 16..], &mut content).unwrap();
    assert_eq!(&content[20..26], b"hello\0");
    assert_eq!(length, HELLO_FRAME_BYTES - HELLO_CONTENT_AT - TAG_BYTES);
    // Its answer, in a frame whose gate is ours.
    let handshake = hear(&mut destination, NOW, &frame).unwrap().unwrap();
    drop(handshake);
    let mut message = vec![0; 200];
    let length = snow.write_message(b"....................answer", &mut message).unwrap();
    let mut said = vec![0; HEADER_BYTES];
    let mut head = vec![0; 200];
    FrameEmitter::new(&mut head, &header(FrameKind::HelloAnswer, 1)).finish();
    said.copy_from_slice(&head[..HEADER_BYTES]);
    said.extend_from_slice(&message[..length]);
    super::gate::Gate::new(key(1).gate()).close(&mut said, 32);
    let (content, keys) = source.hear_answer(&envelope(&said), &said).unwrap();
    assert_eq!(&content[20..], b"answer");
    let (of_source, of_destination) = snow.dangerously_get_raw_split();
    assert_eq!((*keys.of_source, *keys.of_destination), (of_source, of_destination));
}

#[test]
fn a_key_is_a_text_with_a_checksum() {
    let key = key(7);
    let text = key.text();
    assert_eq!(text.len(), KEY_TEXT_MAX);
    assert!(text.starts_with("ibid-link-1:") && text.ends_with(':'));
    assert_eq!(*LinkKey::parse(&text).unwrap().text(), *text);
    let refused = |text: &str| LinkKey::parse(text).unwrap_err();
    assert_eq!(refused(""), LinkKeyError::Form);
    assert_eq!(refused(&text[1..]), LinkKeyError::Form);
    assert_eq!(refused(&text[..text.len() - 1]), LinkKeyError::Form);
    assert_eq!(refused(&format!("{}\n", &*text)), LinkKeyError::Form);
    assert_eq!(refused("ibid-link-1::"), LinkKeyError::Base64);
    assert_eq!(refused(&text.replace("Bwc", "B!c")), LinkKeyError::Base64);
    assert_eq!(refused(&text.replacen("Bwc", "", 1)), LinkKeyError::Base64);
    assert_eq!(refused(&text.replacen("Bwc", "Bwd", 1)), LinkKeyError::Checksum);
    assert_eq!(refused(&LinkKey::new([0; 32]).text()), LinkKeyError::Trivial);
    assert_eq!(
        format!("{key:?} {:?} {:?}", initiator(1, 1), responder(1, 1)),
        "LinkKey Initiator Responder"
    );
}

#[test]
fn chance_comes_of_its_entropy_and_never_twice() {
    let (mut one, mut two, mut other) =
        (Chance::new([1; 32]), Chance::new([1; 32]), Chance::new([2; 32]));
    let mut seen = std::collections::BTreeSet::new();
    for length in [1, 16, 31, 32, 33, 100] {
        let (mut a, mut b, mut c) = (vec![0; length], vec![0; length], vec![0; length]);
        one.fill(&mut a);
        two.fill(&mut b);
        other.fill(&mut c);
        assert_eq!(a, b);
        assert!(length < 16 || a != c);
        assert!(length < 16 || a.chunks_exact(16).all(|piece| seen.insert(piece.to_vec())));
    }
}
