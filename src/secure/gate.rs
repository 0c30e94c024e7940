//! What stands before a handshake: a tag that costs less than anything behind it, cookies that say when a hello was made, and how many may
//! come in without one.
//!
//! The tags are of HMAC-SHA256 under a key that lives as long as the pair's: no count has to survive a restart for it. They cover header,
//! cookie and public key, 104 bytes of whatever length the frame has; the rest is the handshake's own to check.

use crate::chance::Chance;
use aws_lc_rs::{constant_time, hmac};
use ibid_units::Nanos;
use ibid_wire::peer::{CLEAR_BYTES, COOKIE_BYTES, HEADER_BYTES, TAG_BYTES};

/// A cookie is valid in the span in which it was given, and in the one after it.
pub const COOKIE_SPAN: Nanos = Nanos::from_millis(10_000);
/// Hellos without a valid cookie that are heard in a second (and at once, after a quiet second), and as many that are older than others.
pub const HELLOS_PER_SECOND: u64 = 50;

/// Makes and checks the tags of frames that belong to no session yet.
pub(crate) struct Gate {
    key: hmac::Key,
}

impl Gate {
    pub(crate) fn new(key: hmac::Key) -> Self {
        Self { key }
    }

    /// Writes the tag of a frame, over its header and so many bytes behind it.
    pub(crate) fn close(&self, frame: &mut [u8], behind: usize) {
        let tag = self.tag(frame, behind);
        frame[CLEAR_BYTES..HEADER_BYTES].copy_from_slice(&tag.as_ref()[..TAG_BYTES]);
    }

    /// Whether a frame's tag is right.
    pub(crate) fn opens(&self, frame: &[u8], behind: usize) -> bool {
        let tag = self.tag(frame, behind);
        let (found, made) = (&frame[CLEAR_BYTES..HEADER_BYTES], &tag.as_ref()[..TAG_BYTES]);
        constant_time::verify_slices_are_equal(found, made).is_ok()
    }

    fn tag(&self, frame: &[u8], behind: usize) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&frame[..CLEAR_BYTES]);
        context.update(&frame[HEADER_BYTES..HEADER_BYTES + behind]);
        context.sign()
    }
}

/// Gives cookies and knows them again, without remembering one.
pub(crate) struct Cookies {
    key: hmac::Key,
}

impl Cookies {
    /// With a key that nobody had before this start and nobody has after it.
    pub(crate) fn new(chance: &mut Chance) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*chance.bytes()) }
    }

    /// The cookie of a session for now.
    pub(crate) fn cookie(&self, now: Nanos, session: u64) -> [u8; COOKIE_BYTES] {
        self.of(now.get() / COOKIE_SPAN.get(), session)
    }

    /// Whether it was given to this session, and not long ago.
    pub(crate) fn is_valid(&self, now: Nanos, session: u64, cookie: &[u8]) -> bool {
        let span = now.get() / COOKIE_SPAN.get();
        [Some(span), span.checked_sub(1)].into_iter().flatten().any(|span| {
            constant_time::verify_slices_are_equal(&self.of(span, session), cookie).is_ok()
        })
    }

    fn of(&self, span: u64, session: u64) -> [u8; COOKIE_BYTES] {
        let mut said = [0; 16];
        said[..8].copy_from_slice(&span.to_le_bytes());
        said[8..].copy_from_slice(&session.to_le_bytes());
        let mut cookie = [0; COOKIE_BYTES];
        cookie.copy_from_slice(&hmac::sign(&self.key, &said).as_ref()[..COOKIE_BYTES]);
        cookie
    }
}

/// Lets so many through in a second.
#[derive(Debug)]
pub(crate) struct Limiter {
    free: u64,
    since: Nanos,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self { free: HELLOS_PER_SECOND, since: Nanos::ZERO }
    }

    pub(crate) fn passes(&mut self, now: Nanos) -> bool {
        const EACH: u64 = 1_000_000_000 / HELLOS_PER_SECOND;
        let earned = now.since(self.since).get() / EACH;
        if self.free + earned >= HELLOS_PER_SECOND {
            (self.free, self.since) = (HELLOS_PER_SECOND, now);
        } else {
            self.free += earned;
            self.since = self.since.after(Nanos::new(earned * EACH));
        }
        let passes = self.free > 0;
        self.free = self.free.saturating_sub(1);
        passes
    }
}
