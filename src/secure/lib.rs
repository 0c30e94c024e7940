//! What makes the link's frames the peer's and nobody else's: a key that both nodes hold, the handshake that makes a session's keys of
//! it, and the frames sealed and opened with those. docs/link-protocol.md draws what crosses the wire.
//! Takes bytes, the time, and chance from whoever has some; gives bytes. What a frame says is `wire::peer`'s, what comes of it the
//! shard's. Knows no clock, socket or file.
//!
//! SEC-1  a nonce is used once under a key: counters of a session only go up, and a session's keys come of two fresh ephemeral keys.
//! SEC-2  nothing is believed, remembered or answered but what was authenticated: the window moves after the tag has been checked.
//! SEC-3  a frame is opened at most once.
//! SEC-4  a hello is acted on only if it was made after the destination had started, and not long ago: it carries a cookie.
//! SEC-5  keys are overwritten when they are dropped, and nothing of them is shown.
//! SEC-6  what junk costs is bounded: by its length, by one tag, by so many handshakes in a second. What is recorded and said again takes
//!        nothing away from what is new.
#![forbid(unsafe_code)]

mod chance;
mod channel;
mod gate;
mod handshake;
mod key;
mod primitives;
mod security;
mod window;

#[cfg(test)]
mod tests;

pub use chance::Chance;
pub use channel::{Channel, Encryption, Limits, NotOpened, Side};
pub use gate::{COOKIE_SPAN, HELLOS_PER_SECOND};
pub use handshake::{Handshake, Heard, Initiator, NotHeard, Responder, SessionKeys};
pub use key::{KEY_TEXT_MAX, LinkKey, LinkKeyError};
pub use security::Security;
pub use window::WINDOW;
