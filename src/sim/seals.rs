//! What must be so of frames whatever happens to them, judged where the cable is: no counter is used twice (SEC-1), a frame is opened
//! once, by the node it is for, and only as it was made (SEC-2, SEC-3), and no hello is answered that was made before its destination had
//! started (SEC-4).

use crate::trace::Event;
use crate::world::DESTINATION;
use ibid_units::Nanos;
use ibid_wire::peer::{
    ANSWER_CONTENT_AT, CLEAR_BYTES, Envelope, Frame, FrameKind, HEADER_BYTES, HelloAnswer,
    HelloRefusal, Outcome, TAG_BYTES,
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

/// What is known of all frames.
#[derive(Default)]
pub struct Seals {
    next: u64,
    /// The last counter of what each side has sealed, and the session.
    counters: [Option<(u64, u64)>; 2],
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
                if let Some((session, last)) = self.counters[side] {
                    let fresh = session != header.session || counter > last;
                    assert!(fresh, "SEC-1: a counter was used twice: {header:?} {counter}");
                }
                self.counters[side] = Some((header.session, counter));
            }
            (FrameKind::Hello, Some(_)) => {
                self.hellos.insert(hello, now);
            }
            (FrameKind::HelloAnswer, Some(plain)) => {
                let made = self.hellos.get(&hello);
                let fresh = made.is_some_and(|made| *made >= self.started[DESTINATION]);
                assert!(fresh, "SEC-4: a hello was answered that is older than its destination");
                if let Some(event) = verdict(plain) {
                    self.answers.insert(hello, event);
                    // A hello that was said anew in its session gives that other keys, and they have counters of their own.
                    if is_taken(event) {
                        self.counters[side] = None;
                    }
                }
            }
            (FrameKind::Hello | FrameKind::HelloAnswer | FrameKind::Cookie, _) => {}
        }
        Some(made)
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
