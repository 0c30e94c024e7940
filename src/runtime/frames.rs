//! Puts frames together: a head in a buffer of ours, payload as spans of the arena. They are sealed where the port has them in one piece.

use ibid_units::{Epoch, PacketNumber, SECTOR_BYTES, Span};
use ibid_wire::peer::{
    COOKIE_FRAME_BYTES, FrameEmitter, FrameHeader, FrameKind, HEADER_BYTES, HELLO_CONTENT_AT,
    HELLO_CONTENT_BYTES, HELLO_FRAME_BYTES, SECTION_BYTES, SECTIONS_MAX, Section, SectionKind,
    TAG_BYTES, table_at,
};

/// Bytes of the largest head: a frame of 9000 bytes that is all body of ours.
const HEAD_BYTES_MAX: usize = 9216;

/// What every frame of a session has in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) epoch: Epoch,
}

/// A frame in the making.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    head: Box<[u8]>,
    sections: [Section; SECTIONS_MAX],
    section_count: usize,
    spans: [Span; SECTIONS_MAX],
    span_count: usize,
    body: usize,
    bytes: usize,
    bytes_max: usize,
}

const NO_SECTION: Section =
    Section { kind: SectionKind::Ping, length: 0, crc: 0, segment: 0, place: 0, extra: 0 };

impl FrameBuffer {
    /// For datagrams of at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            head: vec![0; HEAD_BYTES_MAX].into_boxed_slice(),
            sections: [NO_SECTION; SECTIONS_MAX],
            section_count: 0,
            spans: [Span::default(); SECTIONS_MAX],
            span_count: 0,
            body: 0,
            bytes: HEADER_BYTES,
            bytes_max: bytes_max.min(HEAD_BYTES_MAX),
        }
    }

    /// Sectors of a page that one frame carries.
    pub(crate) fn piece_sectors(&self) -> u32 {
        let room = self.bytes_max - HEADER_BYTES - SECTION_BYTES;
        (room as u32 / SECTOR_BYTES as u32).min(8)
    }

    /// Bytes of one body that a frame carries.
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.bytes_max - HEADER_BYTES - SECTION_BYTES
    }

    pub(crate) fn clear(&mut self) {
        self.section_count = 0;
        self.span_count = 0;
        self.body = 0;
        self.bytes = HEADER_BYTES;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.section_count == 0
    }

    /// Adds a section whose body is a span; false (and nothing done) where it does not fit.
    pub(crate) fn push_span(&mut self, section: Section, span: Span) -> bool {
        assert!(self.body == 0, "a frame has bodies of ours or spans");
        let bytes = self.bytes + SECTION_BYTES + span.len as usize;
        if self.section_count == SECTIONS_MAX || bytes > self.bytes_max {
            return false;
        }
        self.sections[self.section_count] = section;
        self.section_count += 1;
        self.bytes = bytes;
        // Neighbours in the log go out as one piece.
        match self.spans[..self.span_count].last_mut() {
            Some(last) if last.end() == span.at => last.len += span.len,
            _ => {
                self.spans[self.span_count] = span;
                self.span_count += 1;
            }
        }
        true
    }

    /// Makes the frame one section with a body of ours.
    pub(crate) fn set_body(
        &mut self,
        kind: SectionKind,
        segment: u32,
        place: u32,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) {
        assert!(self.is_empty(), "a frame has one body of ours");
        let start = table_at(frame_kind(kind)) + SECTION_BYTES;
        let length = body(&mut self.head[start..]);
        let crc = ibid_wire::crc32c(&self.head[start..start + length]);
        self.sections[0] = Section { kind, length: length as u16, crc, segment, place, extra: 0 };
        self.section_count = 1;
        self.body = length;
        self.bytes = start + length;
        assert!(self.bytes <= self.bytes_max, "a body is cut to what a frame carries");
    }

    /// The frame as it is before it is sealed: its head, its spans.
    pub(crate) fn compose(
        &mut self,
        kind: FrameKind,
        session: Session,
        number: PacketNumber,
    ) -> (&[u8], &[Span]) {
        let header =
            FrameHeader { kind, shard: 0, session: session.id, epoch: session.epoch, number };
        let mut emitter = FrameEmitter::new(&mut self.head, &header);
        for section in &self.sections[..self.section_count] {
            assert!(self.body == 0 || frame_kind(section.kind) == kind, "a body of another kind");
            emitter.section(section);
        }
        let length = emitter.finish() + self.body;
        let whole = match kind {
            FrameKind::Sourced | FrameKind::Reported | FrameKind::Ask | FrameKind::Answer => length,
            // Filled up, and the handshake's tag.
            FrameKind::Hello => HELLO_FRAME_BYTES,
            FrameKind::HelloAnswer => length + TAG_BYTES,
            FrameKind::Cookie => COOKIE_FRAME_BYTES,
        };
        self.head[length..whole].fill(0);
        (&self.head[..whole], &self.spans[..self.span_count])
    }

    /// Bytes of the datagram so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The kind of the frame that a body of this kind stands in.
fn frame_kind(kind: SectionKind) -> FrameKind {
    match kind {
        SectionKind::Hello => FrameKind::Hello,
        SectionKind::HelloAnswer => FrameKind::HelloAnswer,
        SectionKind::Report => FrameKind::Reported,
        SectionKind::Ask => FrameKind::Ask,
        SectionKind::Answer => FrameKind::Answer,
        SectionKind::Log
        | SectionKind::CpOpen
        | SectionKind::CpList
        | SectionKind::CpBlock
        | SectionKind::Ping
        | SectionKind::Goodbye => FrameKind::Sourced,
    }
}

const _: () = assert!(HELLO_CONTENT_AT + HELLO_CONTENT_BYTES + TAG_BYTES == HELLO_FRAME_BYTES);
