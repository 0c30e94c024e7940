//! What comes and what is said before a session has its keys: hellos heard, cookies given, answers sealed and said again byte for byte.
//! What is decided about a hello is `session`'s.
//! SEC-4  a hello is acted on once: not if it was made before this start or long ago, nor behind a later one of its instance.

use super::{Core, PendingHello, SourceNode};
use crate::frames::Session;
use ibid_driver::{Class, Disk, Port};
use ibid_secure::{Handshake, Heard};
use ibid_units::{Nanos, PacketNumber};
use ibid_wire::peer::{
    Envelope, Frame, FrameKind, HEADER_BYTES, HELLO_FRAME_BYTES, Hello, HelloAnswer, SectionKind,
};

/// What a hello was told. The handshake ends when it is first sent; after that it is the same bytes.
#[derive(Debug)]
pub(super) struct Told {
    to: Option<(Session, u64)>,
    answer: Option<HelloAnswer>,
    handshake: Option<Handshake>,
    sealed: usize,
    bytes: Box<[u8; HELLO_FRAME_BYTES]>,
    due: bool,
}

impl Told {
    pub(super) fn new() -> Self {
        let bytes = Box::new([0; HELLO_FRAME_BYTES]);
        Self { to: None, answer: None, handshake: None, sealed: 0, bytes, due: false }
    }

    /// Is to be told this.
    pub(super) fn tell(
        &mut self,
        session: Session,
        number: u64,
        answer: HelloAnswer,
        handshake: Option<Handshake>,
    ) {
        self.to = Some((session, number));
        self.answer = Some(answer);
        self.due = handshake.is_some();
        self.handshake = handshake;
        self.sealed = 0;
    }

    fn is_of(&self, session: Session, number: u64) -> bool {
        self.to == Some((session, number))
    }

    /// The same hello came again: our answer was lost.
    fn again(&mut self, session: Session, number: u64) -> bool {
        let same = self.is_of(session, number);
        self.due |= same;
        same
    }
}

impl<D: Disk> Core<D> {
    /// A datagram of the link.
    pub(super) fn frame_came(&mut self, now: Nanos, datagram: &mut [u8]) {
        let accepted = Envelope::parse(datagram).is_ok_and(|envelope| match envelope.header.kind {
            FrameKind::Hello => self.hello_came(now, &envelope, datagram),
            FrameKind::Sourced | FrameKind::Ask => {
                self.session_frame_came(now, &envelope, datagram)
            }
            FrameKind::Reported
            | FrameKind::HelloAnswer
            | FrameKind::Answer
            | FrameKind::Cookie => false,
        });
        self.rx_refused += u64::from(!accepted);
    }

    fn session_frame_came(&mut self, now: Nanos, envelope: &Envelope, datagram: &mut [u8]) -> bool {
        let header = envelope.header;
        let session = Session { id: header.session, epoch: header.epoch };
        if self.source.is_none_or(|source| source.session != session) {
            self.secured.counters.strange += 1;
            return false;
        }
        if !self.secured.open(envelope, datagram) {
            return false;
        }
        let Ok(frame) = Frame::within(envelope, &datagram[HEADER_BYTES..]) else { return false };
        match header.kind {
            FrameKind::Ask => self.ask_came(&frame),
            _ => self.sourced_came(now, &frame),
        }
    }

    fn hello_came(&mut self, now: Nanos, envelope: &Envelope, datagram: &[u8]) -> bool {
        if let Err(why) = self.responder.knows(datagram) {
            self.secured.not_heard(why);
            return false;
        }
        let header = envelope.header;
        let session = Session { id: header.session, epoch: header.epoch };
        let number = header.number.get();
        let pending = self.hello.is_some_and(|pending| pending.is(session, number));
        if pending || self.refused.again(session, number) {
            return true;
        }
        if self.taken.is_of(session, number) {
            // A source that has shown that it has the session's keys has heard this.
            let waits = !self.secured.is_confirmed();
            self.taken.due |= waits;
            return waits;
        }
        let (hello, handshake) = match self.responder.hear(now, envelope, datagram) {
            Ok(Heard::Fresh(content, handshake)) => {
                let Some(hello) = hello_in(envelope, content) else { return false };
                (hello, handshake)
            }
            Ok(Heard::NeedsCookie) => {
                let newer = |(other, than): &(Session, u64)| {
                    (session.epoch, number) >= (other.epoch, *than)
                };
                if self.cookie_due.as_ref().is_none_or(newer) {
                    self.cookie_due = Some((session, number));
                }
                return true;
            }
            Err(why) => {
                self.secured.not_heard(why);
                return false;
            }
        };
        self.heard = now;
        self.ever = true;
        let taken = self.source.map(|source| (source.instance, source.hello));
        let mut newest = [self.newest_hello, taken].into_iter().flatten();
        if newest.any(|(instance, newest)| instance == hello.instance && number <= newest) {
            // Of a session that is over, or of this one before it was said anew.
            return false;
        }
        let known = self.source.filter(|source| source.session == session);
        if let Some(source) = known {
            // The source has no use for the answer that it was given, and says hello anew in the same session. Once it has shown that it has
            // the session's keys it does not.
            let Some(answer) = self.taken.answer.filter(|_| !self.secured.is_confirmed()) else {
                return false;
            };
            self.newest_hello = Some((hello.instance, number));
            self.source = Some(SourceNode { hello: number, ..source });
            self.secured.end();
            self.taken.tell(session, number, answer, Some(handshake));
            return true;
        }
        match &mut self.hello {
            Some(pending) if pending.session == session => pending.number = number,
            // One after the other: it comes again.
            Some(_) => return true,
            None => self.hello = Some(PendingHello { session, number, hello }),
        }
        self.newest_hello = Some((hello.instance, number));
        self.handshake = Some(handshake);
        true
    }

    /// Answers hellos, and gives them cookies.
    pub(super) fn speak_to_hellos<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        let Self { frame, responder, secured, refused, taken, cookie_due, .. } = self;
        if let Some((session, number)) = *cookie_due {
            frame.clear();
            let number = PacketNumber::new(number);
            let (head, spans) = frame.compose(FrameKind::Cookie, session, number);
            let mut seal = |datagram: &mut [u8]| responder.seal_cookie(now, datagram);
            if port.send(Class::Control, head, spans, Some(&mut seal)).is_ok() {
                *cookie_due = None;
                secured.counters.cookies += 1;
            }
            return true;
        }
        let (told, is_taken) = if refused.due { (refused, false) } else { (taken, true) };
        if !told.due {
            return false;
        }
        if told.sealed > 0 {
            told.due = port.send(Class::Control, &told.bytes[..told.sealed], &[], None).is_err();
            return true;
        }
        let (Some((session, number)), Some(answer)) = (told.to, told.answer) else { return false };
        frame.clear();
        frame.set_body(SectionKind::HelloAnswer, 0, 0, |out| answer.emit(out));
        let number = PacketNumber::new(number);
        let (head, spans) = frame.compose(FrameKind::HelloAnswer, session, number);
        let Told { handshake, sealed, bytes, due, .. } = told;
        let mut keys = None;
        let mut seal = |datagram: &mut [u8]| {
            keys = handshake.take().map(|handshake| responder.seal(handshake, datagram));
            bytes[..datagram.len()].copy_from_slice(datagram);
            *sealed = datagram.len();
        };
        *due = port.send(Class::Control, head, spans, Some(&mut seal)).is_err();
        if let Some(keys) = keys.filter(|_| is_taken) {
            secured.begin(&keys);
        }
        true
    }
}

/// The hello in a frame that was opened.
fn hello_in(envelope: &Envelope, content: &[u8]) -> Option<Hello> {
    let frame = Frame::within_padded(envelope, content).ok()?;
    let (section, body) = frame.sections().next()?;
    let whole = section.kind == SectionKind::Hello && ibid_wire::crc32c(body) == section.crc;
    Hello::parse(envelope.header.epoch, body).ok().filter(|_| whole)
}
