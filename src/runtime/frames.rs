//! Puts frames together: a head in a buffer of ours, payload as spans of the arena.

use ibid_units::{Epoch, PacketNumber, SECTOR_BYTES, Span};
use ibid_wire::peer::{
    FrameEmitter, FrameHeader, FrameKind, HEADER_BYTES, SECTION_BYTES, SECTIONS_MAX, Section,
    SectionKind,
};

/// Bytes of the largest head: a frame of 9000 bytes that is all body of ours.
const HEAD_BYTES_MAX: usize = 9216;

/// What every frame of a session has in common.
#[derive(Clone, Copy, Debug)]
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
        let start = HEADER_BYTES + SECTION_BYTES;
        let length = body(&mut self.head[start..]);
        let crc = ibid_wire::crc32c(&self.head[start..start + length]);
        self.sections[0] = Section { kind, length: length as u16, crc, segment, place, extra: 0 };
        self.section_count = 1;
        self.body = length;
        self.bytes = start + length;
        assert!(self.bytes <= self.bytes_max, "a body is cut to what a frame carries");
    }

    /// Seals the frame: its head, its spans.
    pub(crate) fn seal(
        &mut self,
        kind: FrameKind,
        session: Session,
        number: PacketNumber,
    ) -> (&[u8], &[Span]) {
        let header =
            FrameHeader { kind, shard: 0, session: session.id, epoch: session.epoch, number };
        let mut emitter = FrameEmitter::new(&mut self.head, &header);
        for section in &self.sections[..self.section_count] {
            emitter.section(section);
        }
        let length = emitter.finish() + self.body;
        (&self.head[..length], &self.spans[..self.span_count])
    }

    /// Bytes of the datagram so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
