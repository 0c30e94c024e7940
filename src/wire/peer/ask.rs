//! What a source asks of its destination, and what it is told: bytes of the log, bytes of a volume, checksums of a volume's blocks.
//! A question may be repeated at will: it changes nothing, and every answer stands by itself and fits one frame.

use super::PeerFormatError;
use crate::bytes::{put, u16_at, u32_at, u64_at};
use ibid_units::{BLOCK_SECTORS, CpId, LogBlock, SECTOR_BYTES, Sector, Sectors, VolumeId};

/// Bytes of a question.
pub const ASK_BYTES: usize = 40;
/// Bytes of an answer before its payload.
pub const ANSWER_HEAD_BYTES: usize = 16;
/// Sectors of a volume in one answer, at most: two blocks, what a 9000-byte frame holds.
pub const ASK_SECTORS_MAX: u16 = 16;
/// Blocks whose checksums are in one answer, at most.
pub const SUMS_MAX: u16 = 256;
const SUM_BYTES: usize = 4;

// All sums fit a frame of a 1500-byte network, and all sectors one of a 9000-byte network.
const AROUND: usize = 28 + super::HEADER_BYTES + super::SECTION_BYTES + ANSWER_HEAD_BYTES;
const _: () = assert!(AROUND + SUMS_MAX as usize * SUM_BYTES <= 1500);
const _: () = assert!(AROUND + ASK_SECTORS_MAX as usize * SECTOR_BYTES as usize <= 9000);

mod ask_field {
    pub(super) const ID: usize = 0;
    pub(super) const CP: usize = 8;
    pub(super) const KIND: usize = 16;
    pub(super) const IN_BLOCK: usize = 17;
    pub(super) const VOLUME: usize = 18;
    pub(super) const BLOCK: usize = 20;
    pub(super) const FIRST: usize = 24;
    pub(super) const COUNT: usize = 32;
    pub(super) const ZERO: usize = 34;
}

mod answer_field {
    pub(super) const ID: usize = 0;
    pub(super) const KIND: usize = 8;
    pub(super) const ZERO: usize = 9;
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskWhat {
    /// Sectors of one block of the log, as they are durable there.
    Log {
        /// The segment …
        segment: CpId,
        /// … the block in it …
        block: LogBlock,
        /// … the first sector in the block …
        first: u8,
        /// … and how many, within the block.
        sectors: u8,
    },
    /// Sectors of a volume at the asker's CP.
    Volume {
        /// The volume.
        volume: VolumeId,
        /// The first sector.
        first: Sector,
        /// How many, at most [`ASK_SECTORS_MAX`] and what fits a frame.
        sectors: u16,
    },
    /// CRC32Cs of blocks of a volume at the asker's CP.
    Sums {
        /// The volume.
        volume: VolumeId,
        /// The first block.
        first: u64,
        /// How many, at most [`SUMS_MAX`].
        blocks: u16,
    },
}

impl AskWhat {
    /// Bytes of payload in an answer that has what was asked for.
    pub fn payload_bytes(&self) -> usize {
        match *self {
            AskWhat::Log { sectors, .. } => usize::from(sectors) * SECTOR_BYTES as usize,
            AskWhat::Volume { sectors, .. } => usize::from(sectors) * SECTOR_BYTES as usize,
            AskWhat::Sums { blocks, .. } => usize::from(blocks) * SUM_BYTES,
        }
    }

    fn is_sound(&self) -> bool {
        match *self {
            AskWhat::Log { first, sectors, .. } => {
                let end = u64::from(first) + u64::from(sectors);
                sectors > 0 && end <= BLOCK_SECTORS
            }
            AskWhat::Volume { first, sectors, .. } => {
                let counted = (1..=ASK_SECTORS_MAX).contains(&sectors);
                counted && first.checked_end(Sectors::new(u32::from(sectors))).is_some()
            }
            AskWhat::Sums { first, blocks, .. } => {
                let end = first.checked_add(u64::from(blocks));
                (1..=SUMS_MAX).contains(&blocks)
                    && end.is_some_and(|end| end <= u64::MAX / BLOCK_SECTORS)
            }
        }
    }
}

/// A question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Names the question; also the number of its frame, and of the answer's.
    pub id: u64,
    /// The CP that the asker's volumes are at: what is asked of a volume is told only by a peer whose volumes are at the same.
    pub cp: CpId,
    /// What is asked for.
    pub what: AskWhat,
}

impl Ask {
    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        debug_assert!(self.what.is_sound(), "a question is one that the peer will take");
        let out = &mut out[..ASK_BYTES];
        out.fill(0);
        put(out, ask_field::ID, &self.id.to_le_bytes());
        put(out, ask_field::CP, &self.cp.get().to_le_bytes());
        let (kind, count) = match self.what {
            AskWhat::Log { segment, block, first, sectors } => {
                put(out, ask_field::IN_BLOCK, &[first]);
                put(out, ask_field::BLOCK, &block.get().to_le_bytes());
                put(out, ask_field::FIRST, &segment.get().to_le_bytes());
                (1, u16::from(sectors))
            }
            AskWhat::Volume { volume, first, sectors } => {
                put(out, ask_field::VOLUME, &volume.get().to_le_bytes());
                put(out, ask_field::FIRST, &first.get().to_le_bytes());
                (2, sectors)
            }
            AskWhat::Sums { volume, first, blocks } => {
                put(out, ask_field::VOLUME, &volume.get().to_le_bytes());
                put(out, ask_field::FIRST, &first.to_le_bytes());
                (3, blocks)
            }
        };
        put(out, ask_field::KIND, &[kind]);
        put(out, ask_field::COUNT, &count.to_le_bytes());
        ASK_BYTES
    }

    /// Reads the body, refusing what is longer than an answer can be. Whether segment and volume exist is for the answerer to check.
    pub fn parse(bytes: &[u8]) -> Result<Ask, PeerFormatError> {
        if bytes.len() != ASK_BYTES {
            return Err(PeerFormatError::Length);
        }
        let in_block = bytes[ask_field::IN_BLOCK];
        let volume = VolumeId::new(u16_at(bytes, ask_field::VOLUME));
        let block = LogBlock::new(u32_at(bytes, ask_field::BLOCK));
        let first = u64_at(bytes, ask_field::FIRST);
        let count = u16_at(bytes, ask_field::COUNT);
        let of_log = in_block != 0 || block.get() != 0;
        let of_volume = volume.get() != 0;
        let (what, unused) = match bytes[ask_field::KIND] {
            1 => {
                let sectors = u8::try_from(count).map_err(|_| PeerFormatError::Value)?;
                let segment = CpId::new(first);
                (AskWhat::Log { segment, block, first: in_block, sectors }, of_volume)
            }
            2 => (AskWhat::Volume { volume, first: Sector::new(first), sectors: count }, of_log),
            3 => (AskWhat::Sums { volume, first, blocks: count }, of_log),
            _ => return Err(PeerFormatError::Value),
        };
        let rest = bytes[ask_field::ZERO..].iter().any(|&byte| byte != 0);
        if unused || rest || !what.is_sound() {
            return Err(PeerFormatError::Value);
        }
        Ok(Ask {
            id: u64_at(bytes, ask_field::ID),
            cp: CpId::new(u64_at(bytes, ask_field::CP)),
            what,
        })
    }
}

/// CRC32Cs of blocks, in order, as they lie in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums<'a>(&'a [u8]);

impl<'a> Sums<'a> {
    /// Sums that lie in `bytes`, little-endian; `None` if those are no whole number of sums from 1 to [`SUMS_MAX`].
    pub fn new(bytes: &'a [u8]) -> Option<Sums<'a>> {
        let whole = bytes.len().is_multiple_of(SUM_BYTES);
        let counted = (1..=usize::from(SUMS_MAX)).contains(&(bytes.len() / SUM_BYTES));
        (whole && counted).then_some(Sums(bytes))
    }

    /// The sums.
    pub fn iter(&self) -> impl Iterator<Item = u32> + 'a {
        self.0.chunks_exact(SUM_BYTES).map(|bytes| u32_at(bytes, 0))
    }
}

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerBody<'a> {
    /// The sectors asked for.
    Bytes(&'a [u8]),
    /// The checksums asked for.
    Sums(Sums<'a>),
    /// Not now: the volumes are at another CP, or on the way to one. Ask again.
    NotNow,
    /// The device there can't read it, or what it reads does not check.
    Unreadable,
    /// The log there does not hold it, or there is no such place.
    NotHeld,
}

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// The question's.
    pub id: u64,
    /// What is told.
    pub body: AnswerBody<'a>,
}

impl<'a> Answer<'a> {
    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let (kind, payload) = match self.body {
            AnswerBody::Bytes(bytes) => (1, bytes),
            AnswerBody::Sums(sums) => (2, sums.0),
            AnswerBody::NotNow => (3, &[][..]),
            AnswerBody::Unreadable => (4, &[][..]),
            AnswerBody::NotHeld => (5, &[][..]),
        };
        let length = ANSWER_HEAD_BYTES + payload.len();
        let out = &mut out[..length];
        out[..ANSWER_HEAD_BYTES].fill(0);
        put(out, answer_field::ID, &self.id.to_le_bytes());
        put(out, answer_field::KIND, &[kind]);
        put(out, ANSWER_HEAD_BYTES, payload);
        length
    }

    /// Reads the body. Whether it is what was asked for is for the asker to check: [`Answer::fits`].
    pub fn parse(bytes: &'a [u8]) -> Result<Answer<'a>, PeerFormatError> {
        if bytes.len() < ANSWER_HEAD_BYTES {
            return Err(PeerFormatError::Length);
        }
        let (head, payload) = bytes.split_at(ANSWER_HEAD_BYTES);
        if head[answer_field::ZERO..].iter().any(|&byte| byte != 0) {
            return Err(PeerFormatError::Value);
        }
        let body = match head[answer_field::KIND] {
            1 => AnswerBody::Bytes(payload),
            2 => AnswerBody::Sums(Sums::new(payload).ok_or(PeerFormatError::Length)?),
            3 => AnswerBody::NotNow,
            4 => AnswerBody::Unreadable,
            5 => AnswerBody::NotHeld,
            _ => return Err(PeerFormatError::Value),
        };
        let sound = match body {
            AnswerBody::Bytes(bytes) => {
                let sector = SECTOR_BYTES as usize;
                let most = usize::from(ASK_SECTORS_MAX) * sector;
                !bytes.is_empty() && bytes.len().is_multiple_of(sector) && bytes.len() <= most
            }
            AnswerBody::Sums(_) => true,
            AnswerBody::NotNow | AnswerBody::Unreadable | AnswerBody::NotHeld => payload.is_empty(),
        };
        if !sound {
            return Err(PeerFormatError::Length);
        }
        Ok(Answer { id: u64_at(head, answer_field::ID), body })
    }

    /// True if this can be an answer to `what`: of its kind and length, or a "can't".
    pub fn fits(&self, what: &AskWhat) -> bool {
        match (self.body, what) {
            (AnswerBody::Bytes(bytes), AskWhat::Log { .. } | AskWhat::Volume { .. }) => {
                bytes.len() == what.payload_bytes()
            }
            (AnswerBody::Sums(sums), AskWhat::Sums { .. }) => sums.0.len() == what.payload_bytes(),
            (AnswerBody::Bytes(_), AskWhat::Sums { .. }) => false,
            (AnswerBody::Sums(_), AskWhat::Log { .. } | AskWhat::Volume { .. }) => false,
            (AnswerBody::NotNow | AnswerBody::Unreadable | AnswerBody::NotHeld, _) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: [AskWhat; 3] = [
        AskWhat::Log {
            segment: CpId::new(1 << 40),
            block: LogBlock::new(1023),
            first: 3,
            sectors: 5,
        },
        AskWhat::Volume { volume: VolumeId::new(7), first: Sector::new(1 << 41), sectors: 16 },
        AskWhat::Sums { volume: VolumeId::new(47), first: 1 << 42, blocks: SUMS_MAX },
    ];

    #[test]
    fn every_question_round_trips_and_refuses_other_lengths() {
        for what in ASKS {
            let ask = Ask { id: 9, cp: CpId::new(77), what };
            let mut out = [0xFF; ASK_BYTES + 1];
            assert_eq!(ask.emit(&mut out), ASK_BYTES);
            assert_eq!(Ask::parse(&out[..ASK_BYTES]), Ok(ask));
            for other in (0..ASK_BYTES).chain([ASK_BYTES + 1]) {
                assert_eq!(Ask::parse(&out[..other]), Err(PeerFormatError::Length));
            }
        }
    }

    #[test]
    fn a_question_whose_answer_would_be_too_long_or_of_no_place_is_refused() {
        let refused = |what: AskWhat, at: usize, bytes: &[u8]| {
            let mut out = [0; ASK_BYTES];
            Ask { id: 1, cp: CpId::new(2), what }.emit(&mut out);
            put(&mut out, at, bytes);
            assert_eq!(Ask::parse(&out), Err(PeerFormatError::Value), "{what:?} {at}");
        };
        for what in ASKS {
            refused(what, ask_field::COUNT, &[0, 0]);
            refused(what, ask_field::COUNT, &[1, 1]);
            refused(what, ask_field::KIND, &[0]);
            refused(what, ask_field::KIND, &[4]);
            refused(what, ask_field::ZERO, &[1]);
            refused(what, ASK_BYTES - 1, &[1]);
        }
        refused(ASKS[0], ask_field::IN_BLOCK, &[4]);
        refused(ASKS[0], ask_field::VOLUME, &[1]);
        for what in &ASKS[1..] {
            refused(*what, ask_field::FIRST, &[0xFF; 8]);
            refused(*what, ask_field::IN_BLOCK, &[1]);
            refused(*what, ask_field::BLOCK, &[1]);
        }
    }

    #[test]
    fn every_answer_round_trips_and_fits_its_question_only() {
        let bytes = [0xA5; ASK_SECTORS_MAX as usize * SECTOR_BYTES as usize];
        let sums = Sums::new(&bytes[..SUMS_MAX as usize * SUM_BYTES]).expect("whole sums");
        assert_eq!(sums.iter().count(), usize::from(SUMS_MAX));
        assert!(sums.iter().all(|sum| sum == 0xA5A5_A5A5));
        let cases = [
            (AnswerBody::Bytes(&bytes[..5 * 512]), [true, false, false]),
            (AnswerBody::Bytes(&bytes), [false, true, false]),
            (AnswerBody::Sums(sums), [false, false, true]),
            (AnswerBody::NotNow, [true; 3]),
            (AnswerBody::Unreadable, [true; 3]),
            (AnswerBody::NotHeld, [true; 3]),
        ];
        for (body, fits) in cases {
            let answer = Answer { id: 6, body };
            let mut out = [0xFF; ANSWER_HEAD_BYTES + 8192];
            let length = answer.emit(&mut out);
            assert_eq!(Answer::parse(&out[..length]), Ok(answer));
            assert_eq!(ASKS.map(|what| answer.fits(&what)), fits, "{length} bytes");
        }
    }

    #[test]
    fn an_answer_of_no_kind_or_length_is_refused() {
        let mut out = [0; ANSWER_HEAD_BYTES + 8192 + 512];
        let mut parse = |kind: u8, length: usize| {
            out[answer_field::KIND] = kind;
            Answer::parse(&out[..length]).map(|_| ())
        };
        assert_eq!(parse(0, 16), Err(PeerFormatError::Value));
        assert_eq!(parse(6, 16), Err(PeerFormatError::Value));
        for (kind, length) in [
            (1, 15),
            (1, 16),
            (1, 16 + 511),
            (1, 16 + 8192 + 512),
            (2, 16),
            (2, 18),
            (2, 16 + 1028),
            (3, 17),
            (4, 17),
            (5, 17),
        ] {
            assert_eq!(parse(kind, length), Err(PeerFormatError::Length), "{kind}, {length}");
        }
        out[answer_field::ZERO] = 1;
        assert_eq!(Answer::parse(&out[..16]), Err(PeerFormatError::Value));
    }
}
