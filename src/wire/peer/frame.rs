//! A frame's header, section table and bodies, as they are before a frame is sealed and after it was opened, and where a hello and its
//! answers carry theirs. What is done with tag and counter is `secure`'s; each section's own CRC32C covers its body, so that a page's sum,
//! known since ingest, is sent along instead of being computed again.

use super::{ANSWER_BYTES_MAX, HELLO_BYTES_MAX};
use super::{LINK_VERSION, PeerFormatError};
use crate::bytes::{crc32c, put, u16_at, u32_at, u64_at};
use ibid_units::{Epoch, PacketNumber};

/// Bytes of the frame header.
pub const HEADER_BYTES: usize = 56;
/// Bytes of it that are never encrypted, always authenticated, and the same when the frame is opened: all but the tag.
pub const CLEAR_BYTES: usize = field::TAG;
/// Bytes of the tag, which ends the header.
pub const TAG_BYTES: usize = 16;
/// Bytes of a cookie.
pub const COOKIE_BYTES: usize = 16;
/// Bytes of a public key of one handshake.
pub const PUBLIC_BYTES: usize = 32;
/// Where a hello has its cookie …
pub const HELLO_COOKIE_AT: usize = HEADER_BYTES;
/// … its public key …
pub const HELLO_PUBLIC_AT: usize = HELLO_COOKIE_AT + COOKIE_BYTES;
/// … table and body …
pub const HELLO_CONTENT_AT: usize = HELLO_PUBLIC_AT + PUBLIC_BYTES;
/// … filled with zeroes up to here, and the handshake's own tag behind them.
pub const HELLO_CONTENT_BYTES: usize = SECTION_BYTES + HELLO_BYTES_MAX;
/// Bytes of every hello: as long as any answer to one, and of one length, so that another is no hello.
pub const HELLO_FRAME_BYTES: usize = HELLO_CONTENT_AT + HELLO_CONTENT_BYTES + TAG_BYTES;
/// Where an answer to a hello has its public key …
pub const ANSWER_PUBLIC_AT: usize = HEADER_BYTES;
/// … and its table and body, with the handshake's own tag behind them.
pub const ANSWER_CONTENT_AT: usize = ANSWER_PUBLIC_AT + PUBLIC_BYTES;
/// Bytes of a frame that gives a cookie, behind its header.
pub const COOKIE_FRAME_BYTES: usize = HEADER_BYTES + COOKIE_BYTES;

const ANSWER_FRAME_BYTES_MAX: usize =
    ANSWER_CONTENT_AT + SECTION_BYTES + ANSWER_BYTES_MAX + TAG_BYTES;
// Each is one frame, also on a 1500-byte network with IPv4 (28 bytes of headers) or IPv6 (48).
const _: () = assert!(HELLO_FRAME_BYTES + 48 <= 1500);
// Nobody is made to shout at others: what is said to a hello is shorter than it.
const _: () = assert!(ANSWER_FRAME_BYTES_MAX < HELLO_FRAME_BYTES);
const _: () = assert!(COOKIE_FRAME_BYTES < HELLO_FRAME_BYTES);
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
    pub(super) const COUNTER: usize = 32;
    pub(super) const TAG: usize = 40;
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
    /// Destination to source: the hello of that number is to be said again with this cookie.
    Cookie,
}

impl FrameKind {
    fn parse(raw: u8) -> Option<FrameKind> {
        const KINDS: [FrameKind; 7] = [
            FrameKind::Sourced,
            FrameKind::Reported,
            FrameKind::Hello,
            FrameKind::HelloAnswer,
            FrameKind::Ask,
            FrameKind::Answer,
            FrameKind::Cookie,
        ];
        KINDS.get(usize::from(raw)).copied()
    }
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
    /// count of their own, and what is said to one has its number. Questions count up as well, and a repeated one has the number that it had.
    pub number: PacketNumber,
}

/// What a datagram says of itself before it is opened. Nothing of it is to be believed until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The fixed part.
    pub header: FrameHeader,
    /// Lines of its table.
    sections: u16,
    /// How many frames were sealed before it with keys of the same session, direction and queue; 0 in what has no session yet.
    pub counter: u64,
}

impl Envelope {
    /// Reads the header of a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Envelope, PeerFormatError> {
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
        let kind = FrameKind::parse(datagram[field::KIND]).ok_or(PeerFormatError::Value)?;
        let header = FrameHeader {
            kind,
            shard: u16_at(datagram, field::SHARD),
            session: u64_at(datagram, field::SESSION),
            epoch: Epoch::new(u64_at(datagram, field::EPOCH)),
            number: PacketNumber::new(u64_at(datagram, field::NUMBER)),
        };
        let sections = u16_at(datagram, field::SECTIONS);
        Ok(Envelope { header, sections, counter: u64_at(datagram, field::COUNTER) })
    }
}

/// Writes the counter of a frame that is about to be sealed.
pub fn put_counter(datagram: &mut [u8], counter: u64) {
    put(datagram, field::COUNTER, &counter.to_le_bytes());
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
    table_at: usize,
    sections: u16,
}

impl<'a> FrameEmitter<'a> {
    /// Starts a frame in `out`, which must hold the header and the lines that follow it. Counter and tag are left 0.
    pub fn new(out: &'a mut [u8], header: &FrameHeader) -> Self {
        let table_at = table_at(header.kind);
        out[..table_at].fill(0);
        put(out, field::MAGIC, &MAGIC.to_le_bytes());
        put(out, field::VERSION, &[LINK_VERSION]);
        put(out, field::KIND, &[header.kind as u8]);
        put(out, field::SHARD, &header.shard.to_le_bytes());
        put(out, field::SESSION, &header.session.to_le_bytes());
        put(out, field::EPOCH, &header.epoch.get().to_le_bytes());
        put(out, field::NUMBER, &header.number.get().to_le_bytes());
        Self { out, table_at, sections: 0 }
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
        let at = self.table_at + usize::from(self.sections) * SECTION_BYTES;
        put(self.out, at, &[section.kind as u8 + 1, 0]);
        put(self.out, at + 2, &section.length.to_le_bytes());
        put(self.out, at + 4, &section.crc.to_le_bytes());
        put(self.out, at + 8, &section.segment.to_le_bytes());
        put(self.out, at + 12, &section.place.to_le_bytes());
        put(self.out, at + 16, &section.extra.to_le_bytes());
        self.sections += 1;
    }

    /// Completes header and table; gives their length. Bodies follow it, in the order of the table.
    pub fn finish(self) -> usize {
        put(self.out, field::SECTIONS, &self.sections.to_le_bytes());
        self.table_at + usize::from(self.sections) * SECTION_BYTES
    }

    /// A whole frame with one body of our own (hello, report …); gives its length.
    pub fn with_body(
        out: &'a mut [u8],
        header: &FrameHeader,
        kind: SectionKind,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let start = table_at(header.kind) + SECTION_BYTES;
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

/// Where a frame of this kind has its table.
pub const fn table_at(kind: FrameKind) -> usize {
    match kind {
        FrameKind::Sourced
        | FrameKind::Reported
        | FrameKind::Ask
        | FrameKind::Answer
        | FrameKind::Cookie => HEADER_BYTES,
        FrameKind::Hello => HELLO_CONTENT_AT,
        FrameKind::HelloAnswer => ANSWER_CONTENT_AT,
    }
}

/// An opened frame whose header and table have been checked. Bodies are checked by [`Sections`]' reader against their sums.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: FrameHeader,
    table: &'a [u8],
    bodies: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks a datagram that was opened. Every length must add up to exactly the datagram's.
    pub fn parse(datagram: &'a [u8]) -> Result<Frame<'a>, PeerFormatError> {
        let envelope = Envelope::parse(datagram)?;
        Frame::within(&envelope, &datagram[HEADER_BYTES..])
    }

    /// Checks table and bodies that came in this envelope. Every length must add up to exactly theirs.
    pub fn within(envelope: &Envelope, content: &'a [u8]) -> Result<Frame<'a>, PeerFormatError> {
        let (frame, rest) = Frame::begins(envelope, content)?;
        if rest.is_empty() { Ok(frame) } else { Err(PeerFormatError::Length) }
    }

    /// The same of a hello's, which is filled up with zeroes.
    pub fn within_padded(
        envelope: &Envelope,
        content: &'a [u8],
    ) -> Result<Frame<'a>, PeerFormatError> {
        let (frame, rest) = Frame::begins(envelope, content)?;
        if rest.iter().all(|&byte| byte == 0) { Ok(frame) } else { Err(PeerFormatError::Value) }
    }

    fn begins(
        envelope: &Envelope,
        content: &'a [u8],
    ) -> Result<(Frame<'a>, &'a [u8]), PeerFormatError> {
        let sections = usize::from(envelope.sections);
        if sections > SECTIONS_MAX || content.len() < sections * SECTION_BYTES {
            return Err(PeerFormatError::Length);
        }
        let (table, bodies) = content.split_at(sections * SECTION_BYTES);
        let mut sum = 0;
        for line in table.chunks_exact(SECTION_BYTES) {
            SectionKind::parse(line[0]).ok_or(PeerFormatError::Value)?;
            sum += usize::from(u16_at(line, 2));
        }
        let (bodies, rest) = bodies.split_at_checked(sum).ok_or(PeerFormatError::Length)?;
        Ok((Frame { header: envelope.header, table, bodies }, rest))
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
    fn what_is_no_frame_of_this_version_is_refused_before_it_is_opened() {
        let mut out = [0; 1024];
        let length = frame(&mut out);
        let envelope = Envelope::parse(&out[..length]).expect("what was just emitted");
        assert_eq!((envelope.header, envelope.counter), (header(), 0));
        for (at, error) in [
            (field::MAGIC, PeerFormatError::Magic),
            (field::VERSION, PeerFormatError::Version(LINK_VERSION ^ 0x40)),
            (field::KIND, PeerFormatError::Value),
        ] {
            out[at] ^= 0x40;
            assert_eq!(Envelope::parse(&out[..length]), Err(error));
            out[at] ^= 0x40;
        }
        for short in 0..HEADER_BYTES {
            assert_eq!(Envelope::parse(&out[..short]), Err(PeerFormatError::Length));
        }
    }

    #[test]
    fn a_hello_is_filled_up_with_zeroes_and_nothing_else() {
        let mut out = [0; HELLO_FRAME_BYTES];
        let header = FrameHeader { kind: FrameKind::Hello, ..header() };
        let end = FrameEmitter::with_body(&mut out, &header, SectionKind::Hello, |body| {
            body[..3].copy_from_slice(b"abc");
            3
        });
        assert_eq!(end, HELLO_CONTENT_AT + SECTION_BYTES + 3);
        let envelope = Envelope::parse(&out).expect("a header");
        let content = HELLO_CONTENT_AT..HELLO_CONTENT_AT + HELLO_CONTENT_BYTES;
        let parsed = Frame::within_padded(&envelope, &out[content.clone()]).expect("a hello");
        assert_eq!(parsed.sections().next().expect("one section").1, b"abc");
        assert!(Frame::within(&envelope, &out[content.clone()]).is_err());
        out[end] = 1;
        assert!(Frame::within_padded(&envelope, &out[content]).is_err());
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
