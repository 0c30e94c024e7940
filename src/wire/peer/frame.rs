//! A frame's header and section table.
//! The tag covers header and table; each section's own CRC32C covers its body, so that a page's sum, known since ingest,
//! is sent along instead of being computed again. Room for a 16-byte AEAD tag is kept: until frames are authenticated it holds
//! a CRC32C and twelve zero bytes.

use super::{LINK_VERSION, PeerFormatError};
use crate::bytes::{crc32c, crc32c_with_hole, put, u16_at, u32_at, u64_at};
use ibid_units::{Epoch, PacketNumber};

/// Bytes of the frame header.
pub const HEADER_BYTES: usize = 48;
/// Bytes of one section's line in the table.
pub const SECTION_BYTES: usize = 20;
/// Sections in one frame, at most: a 9000-byte frame holds two whole pages and descriptors, or many sub-block pages.
pub const SECTIONS_MAX: usize = 16;

mod field {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 2;
    pub(super) const KIND: usize = 3;
    pub(super) const SHARD: usize = 4;
    pub(super) const SECTIONS: usize = 6;
    pub(super) const SESSION: usize = 8;
    pub(super) const EPOCH: usize = 16;
    pub(super) const NUMBER: usize = 24;
    pub(super) const TAG: usize = 32;
}

const MAGIC: u16 = u16::from_le_bytes(*b"ib");

/// What a frame is, which tells who may send it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Source to destination; its packet number is acknowledged.
    Sourced,
    /// Destination to source: a report; newest wins, never acknowledged.
    Reported,
    /// Source to destination: opens a session.
    Hello,
    /// Destination to source: answers a hello.
    HelloAnswer,
    /// Source to destination: a question, repeated until it is answered; its number is the question's id.
    Ask,
    /// Destination to source: the answer to the question of that number.
    Answer,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// Whose queue it belongs to.
    pub shard: u16,
    /// Chosen at random by the source for each session: frames of another session are dropped.
    pub session: u64,
    /// The source's epoch.
    pub epoch: Epoch,
    /// Counts up from 0 within a session, for sourced frames and for reports each on its own, never used twice by them. Hellos have a
    /// count of their own, hello answers have 0. Questions count up as well, and a repeated one has the number that it had.
    pub number: PacketNumber,
}

/// What a section's body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Bytes of a log segment at a place of it: `segment` low 32 bits of its number, `place` byte offset in it, `extra` 1 for a
    /// header or descriptor block, 0 for sectors of a page.
    Log,
    /// Opens a consistency point: a [`super::CpOpen`].
    CpOpen,
    /// A stretch of the CP's list: `segment` low 32 bits of its CpId, `place` number of its first record in the list.
    CpList,
    /// Payload for a record: `segment` its CpId, `place` ordinal of the page among all pages of the list, `extra` first sector in the page.
    CpBlock,
    /// Wants a report, carries nothing.
    Ping,
    /// A [`super::Report`].
    Report,
    /// A [`super::Hello`].
    Hello,
    /// A [`super::HelloAnswer`].
    HelloAnswer,
    /// The source stops in good order; nothing is outstanding.
    Goodbye,
    /// A [`super::Ask`].
    Ask,
    /// A [`super::Answer`].
    Answer,
}

impl SectionKind {
    fn parse(raw: u8) -> Option<SectionKind> {
        const KINDS: [SectionKind; 11] = [
            SectionKind::Log,
            SectionKind::CpOpen,
            SectionKind::CpList,
            SectionKind::CpBlock,
            SectionKind::Ping,
            SectionKind::Report,
            SectionKind::Hello,
            SectionKind::HelloAnswer,
            SectionKind::Goodbye,
            SectionKind::Ask,
            SectionKind::Answer,
        ];
        KINDS.get(usize::from(raw).checked_sub(1)?).copied()
    }
}

/// One line of the section table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What the body is.
    pub kind: SectionKind,
    /// Bytes of the body.
    pub length: u16,
    /// CRC32C of the body.
    pub crc: u32,
    /// Low 32 bits of the segment or CP it belongs to.
    pub segment: u32,
    /// Where in it; see the kind.
    pub place: u32,
    /// See the kind.
    pub extra: u32,
}

/// Builds header, table and the bodies that are not sent straight from the arena.
pub struct FrameEmitter<'a> {
    out: &'a mut [u8],
    sections: u16,
}

impl<'a> FrameEmitter<'a> {
    /// Starts a frame in `out`, which must hold the header and [`SECTIONS_MAX`] lines.
    pub fn new(out: &'a mut [u8], header: &FrameHeader) -> Self {
        out[..HEADER_BYTES].fill(0);
        put(out, field::MAGIC, &MAGIC.to_le_bytes());
        put(out, field::VERSION, &[LINK_VERSION]);
        put(out, field::KIND, &[header.kind as u8]);
        put(out, field::SHARD, &header.shard.to_le_bytes());
        put(out, field::SESSION, &header.session.to_le_bytes());
        put(out, field::EPOCH, &header.epoch.get().to_le_bytes());
        put(out, field::NUMBER, &header.number.get().to_le_bytes());
        Self { out, sections: 0 }
    }

    /// Appends a line to the table.
    ///
    /// # Panics
    /// If the frame has [`SECTIONS_MAX`] already.
    pub fn section(&mut self, section: &Section) {
        assert!(
            usize::from(self.sections) < SECTIONS_MAX,
            "a frame has at most {SECTIONS_MAX} sections"
        );
        let at = HEADER_BYTES + usize::from(self.sections) * SECTION_BYTES;
        put(self.out, at, &[section.kind as u8 + 1, 0]);
        put(self.out, at + 2, &section.length.to_le_bytes());
        put(self.out, at + 4, &section.crc.to_le_bytes());
        put(self.out, at + 8, &section.segment.to_le_bytes());
        put(self.out, at + 12, &section.place.to_le_bytes());
        put(self.out, at + 16, &section.extra.to_le_bytes());
        self.sections += 1;
    }

    /// Seals header and table; gives their length. Bodies follow it, in the order of the table.
    pub fn finish(self) -> usize {
        put(self.out, field::SECTIONS, &self.sections.to_le_bytes());
        let length = HEADER_BYTES + usize::from(self.sections) * SECTION_BYTES;
        let tag = crc32c_with_hole(&self.out[..length], field::TAG);
        put(self.out, field::TAG, &tag.to_le_bytes());
        length
    }

    /// A whole frame with one body of our own (hello, report …); gives its length.
    pub fn with_body(
        out: &'a mut [u8],
        header: &FrameHeader,
        kind: SectionKind,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let start = HEADER_BYTES + SECTION_BYTES;
        let length = body(&mut out[start..]);
        let crc = crc32c(&out[start..start + length]);
        let mut frame = FrameEmitter::new(out, header);
        frame.section(&Section {
            kind,
            length: length as u16,
            crc,
            segment: 0,
            place: 0,
            extra: 0,
        });
        frame.finish() + length
    }
}

/// A frame whose header and table have been checked. Bodies are checked by [`Sections`]' reader against their sums.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: FrameHeader,
    table: &'a [u8],
    bodies: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks a datagram. Every length must add up to exactly the datagram's.
    pub fn parse(datagram: &'a [u8]) -> Result<Frame<'a>, PeerFormatError> {
        if datagram.len() < HEADER_BYTES {
            return Err(PeerFormatError::Length);
        }
        if u16_at(datagram, field::MAGIC) != MAGIC {
            return Err(PeerFormatError::Magic);
        }
        let version = datagram[field::VERSION];
        if version != LINK_VERSION {
            return Err(PeerFormatError::Version(version));
        }
        let sections = usize::from(u16_at(datagram, field::SECTIONS));
        if sections > SECTIONS_MAX {
            return Err(PeerFormatError::Length);
        }
        let length = HEADER_BYTES + sections * SECTION_BYTES;
        if datagram.len() < length {
            return Err(PeerFormatError::Length);
        }
        let (top, bodies) = datagram.split_at(length);
        if u32_at(top, field::TAG) != crc32c_with_hole(top, field::TAG) {
            return Err(PeerFormatError::Tag);
        }
        let kind = match top[field::KIND] {
            0 => FrameKind::Sourced,
            1 => FrameKind::Reported,
            2 => FrameKind::Hello,
            3 => FrameKind::HelloAnswer,
            4 => FrameKind::Ask,
            5 => FrameKind::Answer,
            _ => return Err(PeerFormatError::Value),
        };
        let header = FrameHeader {
            kind,
            shard: u16_at(top, field::SHARD),
            session: u64_at(top, field::SESSION),
            epoch: Epoch::new(u64_at(top, field::EPOCH)),
            number: PacketNumber::new(u64_at(top, field::NUMBER)),
        };
        let frame = Frame { header, table: &top[HEADER_BYTES..], bodies };
        let mut sum = 0;
        for line in frame.table.chunks_exact(SECTION_BYTES) {
            SectionKind::parse(line[0]).ok_or(PeerFormatError::Value)?;
            sum += usize::from(u16_at(line, 2));
        }
        if sum != bodies.len() {
            return Err(PeerFormatError::Length);
        }
        Ok(frame)
    }

    /// The sections in order, each with its body. The body's CRC has not been compared yet.
    pub fn sections(&self) -> Sections<'a> {
        Sections { table: self.table, bodies: self.bodies }
    }
}

/// Iterates over a checked frame's sections.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    table: &'a [u8],
    bodies: &'a [u8],
}

impl<'a> Iterator for Sections<'a> {
    type Item = (Section, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.table.is_empty() {
            return None;
        }
        let (line, table) = self.table.split_at(SECTION_BYTES);
        let length = u16_at(line, 2);
        let (body, bodies) = self.bodies.split_at(usize::from(length));
        self.table = table;
        self.bodies = bodies;
        let section = Section {
            kind: SectionKind::parse(line[0])?,
            length,
            crc: u32_at(line, 4),
            segment: u32_at(line, 8),
            place: u32_at(line, 12),
            extra: u32_at(line, 16),
        };
        Some((section, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Sourced,
            shard: 0,
            session: 0xFEED_F00D,
            epoch: Epoch::new(3),
            number: PacketNumber::new(17),
        }
    }

    fn frame(out: &mut [u8]) -> usize {
        let bodies: [&[u8]; 2] = [b"descriptors", b"page bytes"];
        let mut emitter = FrameEmitter::new(out, &header());
        for (n, body) in bodies.iter().enumerate() {
            emitter.section(&Section {
                kind: SectionKind::Log,
                length: body.len() as u16,
                crc: crc32c(body),
                segment: 4,
                place: 4096 * n as u32,
                extra: 0,
            });
        }
        let mut length = emitter.finish();
        for body in bodies {
            out[length..length + body.len()].copy_from_slice(body);
            length += body.len();
        }
        length
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let mut out = [0; 1024];
        let length = frame(&mut out);
        let parsed = Frame::parse(&out[..length]).expect("what was just emitted");
        assert_eq!(parsed.header, header());
        let mut sections = parsed.sections();
        assert_eq!(sections.next().expect("the first").1, b"descriptors");
        let (section, body) = sections.next().expect("the second");
        assert_eq!((section.place, section.crc, body), (4096, crc32c(body), &b"page bytes"[..]));
        assert!(sections.next().is_none());
    }

    #[test]
    fn a_frame_of_any_other_length_is_refused() {
        let mut out = [0; 1024];
        let length = frame(&mut out);
        for other in (0..length).chain(length + 1..length + 40) {
            assert!(Frame::parse(&out[..other]).is_err(), "{other} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_in_header_or_table_is_refused() {
        let mut out = [0; 1024];
        let length = frame(&mut out);
        for at in 0..HEADER_BYTES + 2 * SECTION_BYTES {
            if (field::TAG + 4..field::TAG + 16).contains(&at) {
                continue;
            }
            out[at] ^= 0x40;
            assert!(Frame::parse(&out[..length]).is_err(), "byte {at}");
            out[at] ^= 0x40;
        }
    }

    #[test]
    fn a_body_of_our_own_carries_its_sum() {
        let mut out = [0; 256];
        let length = FrameEmitter::with_body(&mut out, &header(), SectionKind::Ping, |body| {
            body[..3].copy_from_slice(b"abc");
            3
        });
        let parsed = Frame::parse(&out[..length]).expect("what was just emitted");
        let (section, body) = parsed.sections().next().expect("one section");
        assert_eq!((section.kind, section.crc), (SectionKind::Ping, crc32c(body)));
    }
}
