//! What must be so of frames whatever happens to them, judged where the cable is: no counter is used twice (SEC-1), a frame is opened
//! once, by the node it is for, and only as it was made (SEC-2, SEC-3), and no hello is answered that was made before its destination had
//! started (SEC-4).

use crate::trace::Event;
use crate::world::DESTINATION;
use ibid_units::Nanos;
use ibid_wire::peer::{
    ANSWER_CONTENT_AT, ANSWER_PUBLIC_AT, CLEAR_BYTES, Envelope, Frame, FrameKind, HEADER_BYTES,
    HELLO_PUBLIC_AT, HelloAnswer, HelloRefusal, Outcome, PUBLIC_BYTES, TAG_BYTES,
};
use std::collections::{BTreeMap, BTreeSet};

/// A frame that a node has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Which: copies have the same.
    pub id: u64,
    /// Who made it.
    pub by: usize,
}

/// Counters so near to one another have keys at the same time: less than a generation of the shortest (`swarm`).
const NEAR: u64 = 400;

/// What tells the keys that a side seals with: its session, and at the destination the public key of its answer, for a hello that is said
/// anew in its session gives that other keys. A source has one set in a session: it is the first that it has a use for.
type Keys = (usize, u64, [u8; PUBLIC_BYTES]);

/// What is known of all frames.
#[derive(Default)]
pub struct Seals {
    next: u64,
    /// The last counter that was sealed with each set of keys.
    counters: BTreeMap<Keys, u64>,
    /// Public keys of handshakes: each is of one message.
    publics: BTreeSet<[u8; PUBLIC_BYTES]>,
    /// That of the last answer that took a source.
    answered: [u8; PUBLIC_BYTES],
    opened: BTreeSet<u64>,
    /// Frames that came as they were made.
    came: BTreeSet<u64>,
    /// The session of the last frame that each side has opened, and the newest counter of that.
    live: [Option<(u64, u64)>; 2],
    /// Session and counter of the last frame that came as it was made, for the first time and in that session, and was not opened.
    refused: [Option<(u64, u64)>; 2],
    /// Hellos, by session and number: when they were made.
    hellos: BTreeMap<(u64, u64), Nanos>,
    /// When each node has last started.
    pub started: [Nanos; 2],
    /// What hellos were answered, by session and number.
    answers: BTreeMap<(u64, u64), Event>,
}

impl Seals {
    /// A side sends a frame, which it has just made of `plain`, or sends again as it was.
    pub fn sent(
        &mut self,
        side: usize,
        now: Nanos,
        plain: Option<&Vec<u8>>,
        sealed: &[u8],
    ) -> Option<Made> {
        self.next += 1;
        let made = Made { id: self.next, by: side };
        // What a test has bent before it was sealed may be no frame any more.
        let Ok(Envelope { header, counter, .. }) = Envelope::parse(sealed) else { return None };
        let hello = (header.session, header.number.get());
        match (header.kind, plain) {
            (FrameKind::Sourced | FrameKind::Reported | FrameKind::Ask | FrameKind::Answer, _) => {
                let answered = if side == DESTINATION { self.answered } else { [0; PUBLIC_BYTES] };
                let last = self.counters.insert((side, header.session, answered), counter);
                let fresh = last.is_none_or(|last| counter > last);
                assert!(fresh, "SEC-1: a counter was used twice: {header:?} {counter}");
            }
            (FrameKind::Hello, Some(_)) => {
                self.note_public(public_at(sealed, HELLO_PUBLIC_AT));
                self.hellos.insert(hello, now);
            }
            (FrameKind::HelloAnswer, Some(plain)) => {
                let made = self.hellos.get(&hello);
                let fresh = made.is_some_and(|made| *made >= self.started[DESTINATION]);
                assert!(fresh, "SEC-4: a hello was answered that is older than its destination");
                let public = public_at(sealed, ANSWER_PUBLIC_AT);
                self.note_public(public);
                if let Some(event) = verdict(plain) {
                    self.answers.insert(hello, event);
                    self.answered = if is_taken(event) { public } else { self.answered };
                }
            }
            (FrameKind::Hello | FrameKind::HelloAnswer | FrameKind::Cookie, _) => {}
        }
        Some(made)
    }

    fn note_public(&mut self, public: [u8; PUBLIC_BYTES]) {
        assert!(self.publics.insert(public), "SEC-1: two handshakes have the same ephemeral key");
    }

    /// A node was shown what came; where that is a frame whose tag is gone, it has opened it.
    pub fn shown(&mut self, side: usize, made: Option<Made>, bytes: &[u8]) {
        let Ok(Envelope { header, counter, .. }) = Envelope::parse(bytes) else { return };
        let of_session = match header.kind {
            FrameKind::Sourced | FrameKind::Reported | FrameKind::Ask | FrameKind::Answer => true,
            FrameKind::Hello | FrameKind::HelloAnswer | FrameKind::Cookie => false,
        };
        if !of_session {
            return;
        }
        let first = made.is_some_and(|made| made.by != side && self.came.insert(made.id));
        if bytes[CLEAR_BYTES..HEADER_BYTES].iter().any(|byte| *byte != 0) {
            let near = self.live[side].is_some_and(|(session, newest)| {
                session == header.session && newest.abs_diff(counter) < NEAR
            });
            if first && near {
                self.refused[side] = Some((header.session, counter));
            }
            return;
        }
        let Some(made) = made else { panic!("SEC-2: a frame was opened that nobody has made") };
        assert!(made.by != side, "SEC-2: a node has opened a frame of its own");
        assert!(self.opened.insert(made.id), "SEC-3: a frame was opened again: {header:?}");
        // The session goes on, so its keys were there.
        let wronged = self.refused[side]
            .is_some_and(|(session, before)| session == header.session && before < counter);
        assert!(!wronged, "SEC-2: what was not authentic has shut out what was: {header:?}");
        let newest = self.live[side].filter(|(session, _)| *session == header.session);
        let newest = newest.map_or(counter, |(_, newest)| newest.max(counter));
        self.live[side] = Some((header.session, newest));
    }

    /// What an answer to a hello says.
    pub fn verdict(&self, sealed: &[u8]) -> Option<Event> {
        let header = Envelope::parse(sealed).ok()?.header;
        self.answers.get(&(header.session, header.number.get())).copied()
    }
}

fn public_at(sealed: &[u8], at: usize) -> [u8; PUBLIC_BYTES] {
    *sealed[at..].first_chunk().expect("a whole message")
}

/// Whether a hello that was answered so has a session.
fn is_taken(event: Event) -> bool {
    matches!(
        event,
        Event::Continues | Event::Fetches | Event::Salvages | Event::RollsBack | Event::Adopts
    )
}

fn verdict(plain: &[u8]) -> Option<Event> {
    let envelope = Envelope::parse(plain).ok()?;
    let content = &plain[ANSWER_CONTENT_AT..plain.len() - TAG_BYTES];
    let frame = Frame::within(&envelope, content).ok()?;
    let (_, body) = frame.sections().next()?;
    Some(match HelloAnswer::parse(body).ok()?.verdict {
        Ok(Outcome::Continue) => Event::Continues,
        Ok(Outcome::Fetch) => Event::Fetches,
        Ok(Outcome::Salvage) => Event::Salvages,
        Ok(Outcome::Rollback) => Event::RollsBack,
        Ok(Outcome::CatchUp) => Event::Adopts,
        Err(HelloRefusal::Blank) => Event::RefusedBlank,
        Err(HelloRefusal::Failed) => Event::RefusedFailed,
        Err(HelloRefusal::Lost) => Event::RefusedLost,
        Err(HelloRefusal::History) => Event::RefusedHistory,
        Err(
            HelloRefusal::Pair
            | HelloRefusal::Epoch
            | HelloRefusal::Geometry
            | HelloRefusal::Volumes
            | HelloRefusal::Encryption,
        ) => Event::RefusedOther,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SOURCE;
    use ibid_units::{CpId, Epoch, Lsn, PacketNumber};
    use ibid_wire::disk::SyncState;
    use ibid_wire::peer::{
        DestinationStanding, FrameEmitter, FrameHeader, HELLO_FRAME_BYTES, HeldList, SectionKind,
        put_counter,
    };

    fn frame(kind: FrameKind, session: u64, number: u64) -> FrameHeader {
        let number = PacketNumber::new(number);
        FrameHeader { kind, shard: 0, session, epoch: Epoch::new(1), number }
    }

    fn say_hello(seals: &mut Seals, session: u64, number: u64, public: u8) {
        let mut hello = vec![0; HELLO_FRAME_BYTES];
        FrameEmitter::new(&mut hello, &frame(FrameKind::Hello, session, number)).finish();
        hello[HELLO_PUBLIC_AT..][..PUBLIC_BYTES].fill(public);
        seals.sent(SOURCE, Nanos::ZERO, Some(&hello.clone()), &hello);
    }

    /// A hello and the answer that takes its source; the answer as it was sent.
    fn meet(seals: &mut Seals, session: u64, number: u64, publics: [u8; 2]) -> Vec<u8> {
        say_hello(seals, session, number, publics[0]);
        let standing = DestinationStanding {
            epoch: Epoch::new(1),
            state: SyncState::InSync,
            fresh: false,
            cp: CpId::new(0),
            last_lsn: Lsn::new(0),
            chain: [0; 32],
            end: Lsn::new(0),
            committed: Lsn::new(0),
            base_cp: CpId::new(0),
            base_chain: [0; 32],
            held: HeldList::EMPTY,
        };
        let verdict = Ok(Outcome::Continue);
        let segment_limit = CpId::new(1);
        let answer = HelloAnswer { verdict, standing, segment_limit, in_memory: false };
        let mut plain = vec![0; HELLO_FRAME_BYTES];
        let header = frame(FrameKind::HelloAnswer, session, number);
        let length =
            FrameEmitter::with_body(&mut plain, &header, SectionKind::HelloAnswer, |out| {
                answer.emit(out)
            });
        plain.truncate(length + TAG_BYTES);
        assert!(verdict_is_taken(&plain), "the answer is one that takes a source");
        let mut sealed = plain.clone();
        sealed[ANSWER_PUBLIC_AT..][..PUBLIC_BYTES].fill(publics[1]);
        seals.sent(DESTINATION, Nanos::ZERO, Some(&plain), &sealed);
        sealed
    }

    fn verdict_is_taken(plain: &[u8]) -> bool {
        verdict(plain).is_some_and(is_taken)
    }

    fn report(seals: &mut Seals, session: u64, counter: u64) {
        let mut report = vec![0; HEADER_BYTES];
        FrameEmitter::new(&mut report, &frame(FrameKind::Reported, session, counter)).finish();
        put_counter(&mut report, counter);
        seals.sent(DESTINATION, Nanos::ZERO, Some(&report.clone()), &report);
    }

    #[test]
    fn keys_that_an_answer_makes_anew_have_counters_of_their_own() {
        let mut seals = Seals::default();
        meet(&mut seals, 7, 0, [1, 2]);
        report(&mut seals, 7, 0);
        meet(&mut seals, 7, 1, [3, 4]);
        report(&mut seals, 7, 0);
        report(&mut seals, 7, 1);
    }

    #[test]
    #[should_panic(expected = "SEC-1: a counter was used twice")]
    fn an_answer_that_is_sent_again_makes_no_keys() {
        let mut seals = Seals::default();
        let sealed = meet(&mut seals, 7, 0, [1, 2]);
        report(&mut seals, 7, 0);
        seals.sent(DESTINATION, Nanos::ZERO, None, &sealed);
        report(&mut seals, 7, 0);
    }

    #[test]
    #[should_panic(expected = "SEC-1: two handshakes have the same ephemeral key")]
    fn an_answer_that_is_made_again_with_the_same_key_is_seen() {
        let mut seals = Seals::default();
        meet(&mut seals, 7, 0, [1, 2]);
        meet(&mut seals, 7, 1, [3, 2]);
    }

    #[test]
    #[should_panic(expected = "SEC-1: a counter was used twice")]
    fn a_source_that_goes_back_to_a_session_is_seen() {
        let mut seals = Seals::default();
        for session in [7, 8, 7] {
            let mut ask = vec![0; HEADER_BYTES];
            FrameEmitter::new(&mut ask, &frame(FrameKind::Ask, session, 0)).finish();
            seals.sent(SOURCE, Nanos::ZERO, Some(&ask.clone()), &ask);
        }
    }
}
