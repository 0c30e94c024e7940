//! How a session gets its keys: Noise_NNpsk0 (revision 34 of the Noise framework), whose first message is the hello and whose second is its
//! answer. The pre-shared key says that it is the peer; the ephemeral keys of both are made for this handshake and gone after it, so that
//! whoever learns the pre-shared key later opens nothing that was recorded.
//!
//! The first message fails at its tag, before any Diffie-Hellman, without the pre-shared key. Both are covered from the front by a
//! [`Gate`], the hello also by a cookie (SEC-4, SEC-6). Snow allocates: only here, some ten times for a handshake.

use crate::chance::Chance;
use crate::gate::{Cookies, Gate, Limiter};
use crate::key::LinkKey;
use crate::primitives::Primitives;
use core::cmp::Ordering;
use ibid_units::{Mutant, Nanos};
use ibid_wire::peer::{
    ANSWER_CONTENT_AT, ANSWER_PUBLIC_AT, CLEAR_BYTES, COOKIE_BYTES, COOKIE_FRAME_BYTES, Envelope,
    HEADER_BYTES, HELLO_CONTENT_AT, HELLO_CONTENT_BYTES, HELLO_COOKIE_AT, HELLO_FRAME_BYTES,
    HELLO_PUBLIC_AT, PUBLIC_BYTES, TAG_BYTES,
};
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// What the gate of a hello covers behind the header.
const HELLO_GATE_BYTES: usize = COOKIE_BYTES + PUBLIC_BYTES;

/// What both ends take a session's keys from.
pub struct SessionKeys {
    pub(crate) of_source: Zeroizing<[u8; 32]>,
    pub(crate) of_destination: Zeroizing<[u8; 32]>,
}

/// Why a message was not heard. It is dropped and counted, and nothing is said about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotHeard {
    /// No hello has this length, or it answers none that was said.
    Strange,
    /// Its tag is wrong: junk, or of somebody with another key.
    Gate,
    /// Too many without a valid cookie, or older than what was heard.
    Limited,
    /// The handshake itself refuses it: changed on the way behind what the gate covers.
    Noise,
}

/// What both ends of a handshake need.
struct Party {
    gate: Gate,
    psk: Zeroizing<[u8; 32]>,
    chance: Chance,
    params: NoiseParams,
}

impl Party {
    fn new(key: &LinkKey, entropy: [u8; 32]) -> Self {
        let params = PATTERN.parse().expect("a pattern that snow knows");
        let gate = Gate::new(key.gate());
        Self { gate, psk: key.handshake(), chance: Chance::new(entropy), params }
    }

    /// A handshake over a hello: its header and cookie are agreed on as they were sent.
    fn begin(&mut self, hello: &[u8], initiator: bool) -> HandshakeState {
        let mut prologue = [0; CLEAR_BYTES + COOKIE_BYTES];
        prologue[..CLEAR_BYTES].copy_from_slice(&hello[..CLEAR_BYTES]);
        prologue[CLEAR_BYTES..].copy_from_slice(&hello[HELLO_COOKIE_AT..HELLO_PUBLIC_AT]);
        let resolver = Primitives::new(self.chance.bytes());
        let built = Builder::with_resolver(self.params.clone(), Box::new(resolver))
            .prologue(&prologue)
            .and_then(|builder| builder.psk(0, &self.psk))
            .and_then(|builder| {
                if initiator { builder.build_initiator() } else { builder.build_responder() }
            });
        built.expect("all that the pattern needs is there")
    }
}

/// Keys of a handshake that is over.
fn split(state: &mut HandshakeState) -> SessionKeys {
    let (of_source, of_destination) = state.dangerously_get_raw_split();
    SessionKeys {
        of_source: Zeroizing::new(of_source),
        of_destination: Zeroizing::new(of_destination),
    }
}

/// The source's end.
pub struct Initiator {
    party: Party,
    cookie: Option<(u64, [u8; COOKIE_BYTES])>,
    said: Option<Said>,
    hello: Box<[u8; HELLO_FRAME_BYTES]>,
    content: Box<[u8; HELLO_CONTENT_BYTES]>,
}

/// A hello that waits for its answer.
struct Said {
    session: u64,
    epoch: u64,
    number: u64,
    handshake: HandshakeState,
}

impl Said {
    fn is_of(&self, envelope: &Envelope) -> bool {
        let header = envelope.header;
        (self.session, self.epoch, self.number)
            == (header.session, header.epoch.get(), header.number.get())
    }
}

impl Initiator {
    /// One that has said nothing yet; `entropy` is used for nothing else.
    pub fn new(key: &LinkKey, entropy: [u8; 32]) -> Self {
        Self {
            party: Party::new(key, entropy),
            cookie: None,
            said: None,
            hello: Box::new([0; HELLO_FRAME_BYTES]),
            content: Box::new([0; HELLO_CONTENT_BYTES]),
        }
    }

    /// Makes a frame with a hello in it the first message of a new handshake, and remembers it until it is answered.
    ///
    /// # Panics
    /// If it is no whole hello.
    pub fn seal(&mut self, frame: &mut [u8]) {
        let envelope = Envelope::parse(frame).expect("a hello of our own");
        assert!(frame.len() == HELLO_FRAME_BYTES, "every hello has one length");
        let header = envelope.header;
        if let Some((_, cookie)) = self.cookie.filter(|(session, _)| *session == header.session) {
            frame[HELLO_COOKIE_AT..HELLO_PUBLIC_AT].copy_from_slice(&cookie);
        }
        let mut handshake = self.party.begin(frame, true);
        self.content
            .copy_from_slice(&frame[HELLO_CONTENT_AT..HELLO_CONTENT_AT + HELLO_CONTENT_BYTES]);
        let written = handshake
            .write_message(&*self.content, &mut frame[HELLO_PUBLIC_AT..])
            .expect("a hello has room for its message");
        assert!(written == HELLO_FRAME_BYTES - HELLO_PUBLIC_AT, "a message of another length");
        self.party.gate.close(frame, HELLO_GATE_BYTES);
        self.hello.copy_from_slice(frame);
        let (session, epoch) = (header.session, header.epoch.get());
        self.said = Some(Said { session, epoch, number: header.number.get(), handshake });
    }

    /// The hello that waits for its answer, as it was sent: it is said again byte for byte.
    pub fn said(&self) -> Option<&[u8]> {
        self.said.as_ref().map(|_| &self.hello[..])
    }

    /// An answer to what was said is of no more use.
    pub fn forget(&mut self) {
        self.said = None;
    }

    /// The hello that was said is to be said anew, with this cookie; false where nobody of ours says so.
    pub fn hear_cookie(&mut self, envelope: &Envelope, frame: &[u8]) -> Result<(), NotHeard> {
        let meant = self.said.as_ref().is_some_and(|said| said.is_of(envelope));
        if !meant || frame.len() != COOKIE_FRAME_BYTES {
            return Err(NotHeard::Strange);
        }
        if !self.party.gate.opens(frame, COOKIE_BYTES) {
            return Err(NotHeard::Gate);
        }
        let mut cookie = [0; COOKIE_BYTES];
        cookie.copy_from_slice(&frame[HEADER_BYTES..]);
        self.cookie = Some((envelope.header.session, cookie));
        self.said = None;
        Ok(())
    }

    /// Opens an answer to what was said: table and body, and the session's keys. It is heard once.
    pub fn hear_answer(
        &mut self,
        envelope: &Envelope,
        frame: &[u8],
    ) -> Result<(&[u8], SessionKeys), NotHeard> {
        let shortest = ANSWER_CONTENT_AT + TAG_BYTES;
        let meant = self.said.take_if(|said| {
            said.is_of(envelope)
                && (shortest..HELLO_FRAME_BYTES).contains(&frame.len())
                && self.party.gate.opens(frame, PUBLIC_BYTES)
        });
        // Without telling junk from what is late: either is nothing to this node.
        let Some(mut said) = meant else { return Err(NotHeard::Strange) };
        let read = said.handshake.read_message(&frame[ANSWER_PUBLIC_AT..], &mut *self.content);
        let length = read.map_err(|_| NotHeard::Noise)?;
        Ok((&self.content[..length], split(&mut said.handshake)))
    }
}

/// A hello that was heard and has no answer yet.
pub struct Handshake(Box<HandshakeState>);

/// What came of a hello.
#[derive(Debug)]
pub enum Heard<'a> {
    /// It is fresh: its table and body, filled up with zeroes, and what its answer needs.
    Fresh(&'a [u8], Handshake),
    /// It has no valid cookie, and is to be told one.
    NeedsCookie,
}

/// The destination's end.
pub struct Responder {
    party: Party,
    cookies: Cookies,
    /// Of the newest hello where it has no valid cookie, and of older ones.
    limiters: [Limiter; 2],
    /// The newest hello that passed the gate: epoch and number, which only go up. So the source's next is newer than all that anybody has
    /// recorded, and waits for none of that.
    newest: (u64, u64),
    content: Box<[u8; HELLO_CONTENT_BYTES]>,
}

impl Responder {
    /// One that gives cookies which nobody has; `entropy` is used for nothing else.
    pub fn new(key: &LinkKey, entropy: [u8; 32]) -> Self {
        let mut party = Party::new(key, entropy);
        let cookies = Cookies::new(&mut party.chance);
        let content = Box::new([0; HELLO_CONTENT_BYTES]);
        let limiters = [Limiter::new(), Limiter::new()];
        Self { party, cookies, limiters, newest: (0, 0), content }
    }

    /// Whether a hello is of somebody with our key, or is one that was recorded: nothing is believed yet, but it may be answered with what
    /// was said to it before.
    pub fn knows(&self, frame: &[u8]) -> Result<(), NotHeard> {
        if frame.len() != HELLO_FRAME_BYTES {
            return Err(NotHeard::Strange);
        }
        let opens = self.party.gate.opens(frame, HELLO_GATE_BYTES);
        if opens { Ok(()) } else { Err(NotHeard::Gate) }
    }

    /// Opens a hello that [`Responder::knows`].
    pub fn hear(
        &mut self,
        now: Nanos,
        envelope: &Envelope,
        frame: &[u8],
    ) -> Result<Heard<'_>, NotHeard> {
        assert!(frame.len() == HELLO_FRAME_BYTES, "every hello has one length");
        let cookie = &frame[HELLO_COOKIE_AT..HELLO_PUBLIC_AT];
        let valid = self.cookies.is_valid(now, envelope.header.session, cookie);
        let valid = valid || Mutant::CookieIgnored.is_on();
        let said = (envelope.header.epoch.get(), envelope.header.number.get());
        let [again, old] = &mut self.limiters;
        let limiter = match said.cmp(&self.newest) {
            Ordering::Greater => None,
            Ordering::Equal => Some(again).filter(|_| !valid),
            Ordering::Less => Some(old),
        };
        if limiter.is_some_and(|limiter| !limiter.passes(now)) {
            return Err(NotHeard::Limited);
        }
        self.newest = self.newest.max(said);
        if !valid {
            return Ok(Heard::NeedsCookie);
        }
        let mut handshake = self.party.begin(frame, false);
        let read = handshake.read_message(&frame[HELLO_PUBLIC_AT..], &mut *self.content);
        let length = read.map_err(|_| NotHeard::Noise)?;
        Ok(Heard::Fresh(&self.content[..length], Handshake(Box::new(handshake))))
    }

    /// Completes a frame that gives a session its cookie.
    ///
    /// # Panics
    /// If it is none.
    pub fn seal_cookie(&self, now: Nanos, frame: &mut [u8]) {
        let envelope = Envelope::parse(frame).expect("a frame of our own");
        assert!(frame.len() == COOKIE_FRAME_BYTES, "every cookie has one length");
        let cookie = self.cookies.cookie(now, envelope.header.session);
        frame[HEADER_BYTES..].copy_from_slice(&cookie);
        self.party.gate.close(frame, COOKIE_BYTES);
    }

    /// Makes a frame with an answer in it the second message of a handshake, which ends it.
    ///
    /// # Panics
    /// If it has no room for that.
    pub fn seal(&mut self, handshake: Handshake, frame: &mut [u8]) -> SessionKeys {
        let Handshake(mut handshake) = handshake;
        let length = frame.len() - ANSWER_CONTENT_AT - TAG_BYTES;
        let content = &mut self.content[..length];
        content.copy_from_slice(&frame[ANSWER_CONTENT_AT..ANSWER_CONTENT_AT + length]);
        let written = handshake
            .write_message(content, &mut frame[ANSWER_PUBLIC_AT..])
            .expect("an answer has room for its message");
        assert!(written == frame.len() - ANSWER_PUBLIC_AT, "a message of another length");
        self.party.gate.close(frame, PUBLIC_BYTES);
        split(&mut handshake)
    }
}

impl core::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SessionKeys")
    }
}

impl core::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Handshake")
    }
}

impl core::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Initiator")
    }
}

impl core::fmt::Debug for Responder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Responder")
    }
}
