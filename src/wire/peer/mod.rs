//! The peer protocol: what crosses the link, little-endian and versioned. docs/link-protocol.md draws it.
//! One UDP datagram is one frame: a header, a table of sections, then the sections' bodies in order.

use crate::disk::SyncState;

mod ask;
mod chain;
mod frame;
mod hello;
mod record;
mod report;

pub use ask::{
    ANSWER_HEAD_BYTES, ASK_BYTES, ASK_SECTORS_MAX, Answer, AnswerBody, Ask, AskWhat, SUMS_MAX, Sums,
};
pub use chain::ChainDigest;
pub use frame::{
    ANSWER_CONTENT_AT, ANSWER_PUBLIC_AT, CLEAR_BYTES, COOKIE_BYTES, COOKIE_FRAME_BYTES, Envelope,
    Frame, FrameEmitter, FrameHeader, FrameKind, HEADER_BYTES, HELLO_CONTENT_AT,
    HELLO_CONTENT_BYTES, HELLO_COOKIE_AT, HELLO_FRAME_BYTES, HELLO_PUBLIC_AT, PUBLIC_BYTES,
    SECTION_BYTES, SECTIONS_MAX, Section, SectionKind, Sections, TAG_BYTES, put_counter, table_at,
};
pub use hello::{
    ANSWER_BYTES_MAX, DestinationStanding, HELD_MAX, HELLO_BYTES_MAX, Held, HeldList, Hello,
    HelloAnswer, HelloRefusal, Identity, Outcome, SourceStanding, volumes_digest,
};
pub use record::{CP_OPEN_BYTES, CpOpen, RECORD_BYTES, RUN_SECTORS_MAX, Record, RecordKind};
pub use report::{PacketRange, RANGES_MAX, REFUSED_MAX, REPORT_BYTES_MAX, Report};

/// Version of the link protocol; both nodes must speak the same.
pub const LINK_VERSION: u8 = 3;

/// Reads how a node's volumes stand.
fn sync_state(raw: u8) -> Result<SyncState, PeerFormatError> {
    match raw {
        0 => Ok(SyncState::New),
        1 => Ok(SyncState::InSync),
        2 => Ok(SyncState::OutOfSync),
        _ => Err(PeerFormatError::Value),
    }
}

/// Why a frame or a body was not accepted. The frame is dropped and counted, never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerFormatError {
    /// Shorter or longer than its own fields say.
    #[error("length fields disagree")]
    Length,
    /// Not a frame of ours.
    #[error("magic number differs")]
    Magic,
    /// Another protocol version.
    #[error("link version {0}, this node speaks {LINK_VERSION}")]
    Version(u8),
    /// A field has a value that has no meaning.
    #[error("a field has an undefined value")]
    Value,
}
