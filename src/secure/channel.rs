//! The frames of a session, sealed and opened where they lie: AES-256-GCM with a key for each direction, queue and generation.
//! Takes the session's keys; gives frames that only the other end can have made. A generation is so many frames of a direction, and its
//! key comes of the one before by HKDF, so that there is nothing to agree on and nothing to wait for: the counter says which it is.
//!
//! SEC-1 and SEC-3 are kept here. A frame whose counter was seen is not even opened; the window moves when its tag was right (SEC-2).

use crate::handshake::SessionKeys;
use crate::key::expand;
use crate::window::{Seen, WINDOW, Window};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use ibid_units::Mutant;
use ibid_wire::peer::{CLEAR_BYTES, Envelope, HEADER_BYTES, TAG_BYTES, put_counter};
use zeroize::Zeroizing;

/// What is done to a session's frames. They are always authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// Table and bodies are encrypted.
    Full,
    /// They can be read by whoever sees the frame.
    IntegrityOnly,
}

/// Which end of the link this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It says hello.
    Source,
    /// It answers.
    Destination,
}

/// How long keys are used. Both ends need the same, so it is part of the protocol's version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Frames of one direction that are sealed with one key.
    pub frames_per_key: u64,
    /// Frames of one direction in a session.
    pub frames_max: u64,
    /// Frames of the other end that may fail their tag in a session.
    pub failures_max: u64,
}

impl Limits {
    /// The link's. 2^22 frames of 9000 bytes are 2^31 blocks, where the advantage that anybody has from so many under one key is still
    /// below 2^-64 (RFC 9001 B.1.1 has 2^23 packets of 2^14 bytes). 2^60 frames take centuries. A forger has 2^-128 for each of 2^52 tries
    /// (RFC 9001 6.6).
    pub const LINK: Limits =
        Limits { frames_per_key: 1 << 22, frames_max: 1 << 60, failures_max: 1 << 52 };
}

// A key is in use for longer than the window reaches, so that at most one old key is held.
const _: () = assert!(Limits::LINK.frames_per_key > WINDOW);

/// Why a frame was not opened. It is dropped and counted, and nothing is said about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOpened {
    /// Its counter was seen.
    Replayed,
    /// Its counter is behind the window.
    TooOld,
    /// Of a generation that has no key here: long over, or not to be reached from here.
    Generation,
    /// Its tag is wrong.
    Tag,
    /// Too many failed: the session is over.
    Retired,
}

/// Both directions of a session's queue.
#[derive(Debug)]
pub struct Channel {
    sealer: Sealer,
    opener: Opener,
}

impl Channel {
    /// The channel of a queue.
    pub fn new(
        keys: &SessionKeys,
        side: Side,
        shard: u16,
        encryption: Encryption,
        limits: Limits,
    ) -> Self {
        let (own, other) = match side {
            Side::Source => (&keys.of_source, &keys.of_destination),
            Side::Destination => (&keys.of_destination, &keys.of_source),
        };
        let mut sending = Ratchet::new(own, shard);
        let key = sending.advance();
        let sealer = Sealer {
            next: sending.advance(),
            ratchet: sending,
            key,
            counter: 0,
            generation: 0,
            encryption,
            limits,
        };
        let mut receiving = Ratchet::new(other, shard);
        let keys = [None, Some(receiving.advance()), Some(receiving.advance())];
        let opener = Opener {
            keys,
            ratchet: receiving,
            generation: 0,
            window: Window::new(),
            failures: 0,
            encryption,
            limits,
        };
        Self { sealer, opener }
    }

    /// Whether another frame may be sealed: beyond its limit the session is over.
    pub fn may_seal(&self) -> bool {
        self.sealer.counter < self.sealer.limits.frames_max
    }

    /// Whether so many frames failed that the session is over.
    pub fn is_retired(&self) -> bool {
        self.opener.is_retired()
    }

    /// Seals a whole frame where it lies.
    ///
    /// # Panics
    /// If the frame is shorter than its header, or [`Channel::may_seal`] says no.
    #[inline]
    pub fn seal(&mut self, frame: &mut [u8]) {
        self.sealer.seal(frame);
    }

    /// Opens a frame of this session where it lies; its tag is zeroes then. What could not be opened keeps its tag, and nothing else.
    ///
    /// # Panics
    /// If the frame is shorter than its header: the envelope is of another.
    #[inline]
    pub fn open(&mut self, envelope: &Envelope, frame: &mut [u8]) -> Result<(), NotOpened> {
        self.opener.open(envelope.counter, frame)
    }

    /// As if so many frames had been sealed.
    #[cfg(test)]
    pub(crate) fn leap(&mut self, frames: u64) {
        self.sealer.counter += frames;
        while self.sealer.counter / self.sealer.limits.frames_per_key > self.sealer.generation {
            self.sealer.generation += 1;
            let next = self.sealer.ratchet.advance();
            self.sealer.key = std::mem::replace(&mut self.sealer.next, next);
        }
    }

    /// The generation that is sent with, and the newest one received.
    pub fn generations(&self) -> [u64; 2] {
        [self.sealer.generation, self.opener.generation]
    }
}

/// Makes one key after another; none of them tells of those before it.
struct Ratchet {
    secret: Zeroizing<[u8; 32]>,
}

impl Ratchet {
    fn new(secret: &[u8; 32], shard: u16) -> Self {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
        let mut what = *b"ibid link 3 queue ..";
        what[18..].copy_from_slice(&shard.to_le_bytes());
        Self { secret: expand(&prk, &what) }
    }

    fn advance(&mut self) -> LessSafeKey {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*self.secret);
        let key = expand(&prk, b"ibid link 3 key");
        self.secret = expand(&prk, b"ibid link 3 next");
        let key = UnboundKey::new(&AES_256_GCM, &*key).expect("32 bytes are an AES-256 key");
        LessSafeKey::new(key)
    }
}

struct Sealer {
    key: LessSafeKey,
    /// Made ahead: the frame that is the first of a generation waits for no key.
    next: LessSafeKey,
    ratchet: Ratchet,
    counter: u64,
    generation: u64,
    encryption: Encryption,
    limits: Limits,
}

impl Sealer {
    #[inline]
    fn seal(&mut self, frame: &mut [u8]) {
        let counter = self.counter;
        assert!(counter < self.limits.frames_max, "SEC-1: a session's counters have an end");
        if counter / self.limits.frames_per_key > self.generation {
            self.generation += 1;
            self.key = std::mem::replace(&mut self.next, self.ratchet.advance());
        }
        if !(Mutant::CounterReused.is_on() && counter % 50 == 49) {
            self.counter += 1;
        }
        put_counter(frame, counter);
        let (clear, rest) = frame.split_at_mut(CLEAR_BYTES);
        let (tag, body) = rest.split_at_mut(TAG_BYTES);
        let sealed = match self.encryption {
            Encryption::Full => self.key.seal_in_place_separate_tag(
                nonce(counter),
                Aad::from(associated(clear)),
                body,
            ),
            Encryption::IntegrityOnly => {
                tag.fill(0);
                let aad = Aad::from(&*frame);
                self.key.seal_in_place_separate_tag(nonce(counter), aad, &mut [])
            }
        };
        let sealed = sealed.expect("a frame is shorter than what AES-GCM takes");
        frame[CLEAR_BYTES..HEADER_BYTES].copy_from_slice(sealed.as_ref());
    }
}

struct Opener {
    /// Of the generation before the newest, while the window reaches into it; of the newest; and of the one after it.
    keys: [Option<LessSafeKey>; 3],
    ratchet: Ratchet,
    generation: u64,
    window: Window,
    failures: u64,
    encryption: Encryption,
    limits: Limits,
}

impl Opener {
    fn is_retired(&self) -> bool {
        self.failures >= self.limits.failures_max
    }

    #[inline]
    fn open(&mut self, counter: u64, frame: &mut [u8]) -> Result<(), NotOpened> {
        if self.is_retired() {
            return Err(NotOpened::Retired);
        }
        if !Mutant::WindowForgotten.is_on() {
            self.window.check(counter).map_err(|seen| match seen {
                Seen::Before => NotOpened::Replayed,
                Seen::TooOld => NotOpened::TooOld,
            })?;
        }
        let generation = counter / self.limits.frames_per_key;
        let place = (generation + 1).checked_sub(self.generation).filter(|place| *place < 3);
        let place = place.ok_or(NotOpened::Generation)? as usize;
        let Some(key) = &self.keys[place] else { return Err(NotOpened::Generation) };
        if Mutant::WindowBeforeTag.is_on() {
            self.window.note(counter);
        }
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&frame[CLEAR_BYTES..HEADER_BYTES]);
        frame[CLEAR_BYTES..HEADER_BYTES].fill(0);
        let opened = match self.encryption {
            Encryption::Full => {
                let (header, body) = frame.split_at_mut(HEADER_BYTES);
                let aad = Aad::from(associated(&header[..CLEAR_BYTES]));
                key.open_in_place_separate_tag(nonce(counter), aad, &tag, body).is_ok()
            }
            Encryption::IntegrityOnly => key
                .open_in_place_separate_tag(nonce(counter), Aad::from(&*frame), &tag, &mut [])
                .is_ok(),
        };
        if !opened {
            frame[CLEAR_BYTES..HEADER_BYTES].copy_from_slice(&tag);
            self.failures += 1;
            return Err(NotOpened::Tag);
        }
        self.window.note(counter);
        if place == 2 {
            self.generation = generation;
            self.keys.rotate_left(1);
            self.keys[2] = Some(self.ratchet.advance());
        }
        // What is older than the window is not opened again: its key is of no more use, but to somebody who has recorded frames.
        if counter % self.limits.frames_per_key >= WINDOW && generation == self.generation {
            self.keys[0] = None;
        }
        Ok(())
    }
}

/// What of the header the tag covers in clear: all of it.
fn associated(clear: &[u8]) -> &[u8] {
    if Mutant::HeaderUnbound.is_on() { &clear[..8] } else { clear }
}

/// 96 bits, of which the counter is 64 (NIST SP 800-38D 8.2.1): the key is of one direction of one queue of one session.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl core::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sealer").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Opener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Opener").field("generation", &self.generation).finish_non_exhaustive()
    }
}
