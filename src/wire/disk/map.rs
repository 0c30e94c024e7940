//! A page of the out-of-sync map: a bit for each block of a volume in which the peer's volume may differ.
//! Pages are updated in place and check themselves; what does not check says nothing, and is to be taken as all ones.

use super::{DiskFormatError, FORMAT_VERSION};
use crate::bytes::{array_at, crc32c_with_hole, put, u16_at, u32_at, u64_at};

/// Bytes of a map page.
pub const MAP_PAGE_BYTES: usize = 4096;
/// Words of bits in a page.
pub const MAP_PAGE_WORDS: usize = (MAP_PAGE_BYTES - field::BITS) / 8;
/// Volume blocks that a page speaks of, a bit each: 127 MiB of volume.
pub const MAP_PAGE_BLOCKS: u64 = MAP_PAGE_WORDS as u64 * 64;

mod field {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 4;
    pub(super) const ZERO: usize = 6;
    pub(super) const PAGE: usize = 8;
    pub(super) const CRC: usize = 12;
    pub(super) const PAIR: usize = 16;
    pub(super) const BITS: usize = 32;
}

const MAGIC: u32 = u32::from_le_bytes(*b"IBMP");
const _: () = assert!(MAP_PAGE_BLOCKS == 32_512);
const _: () = assert!(field::BITS + MAP_PAGE_WORDS * 8 == MAP_PAGE_BYTES);

/// A page without its bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapPage {
    /// Its number: volume after volume, each beginning a page of its own.
    pub page: u32,
    /// The pair the map belongs to.
    pub pair: [u8; 16],
}

impl MapPage {
    /// Writes the page with its bits, the lowest block in the lowest bit of the first word; checksum included.
    ///
    /// # Panics
    /// If `out` is not [`MAP_PAGE_BYTES`] long or `words` not [`MAP_PAGE_WORDS`].
    pub fn emit(&self, words: &[u64], out: &mut [u8]) {
        assert_eq!(out.len(), MAP_PAGE_BYTES, "a map page is one block");
        assert_eq!(words.len(), MAP_PAGE_WORDS, "a map page is full of bits");
        out.fill(0);
        put(out, field::MAGIC, &MAGIC.to_le_bytes());
        put(out, field::VERSION, &(FORMAT_VERSION as u16).to_le_bytes());
        put(out, field::PAGE, &self.page.to_le_bytes());
        put(out, field::PAIR, &self.pair);
        for (index, word) in words.iter().enumerate() {
            put(out, field::BITS + index * 8, &word.to_le_bytes());
        }
        let crc = crc32c_with_hole(out, field::CRC);
        put(out, field::CRC, &crc.to_le_bytes());
    }

    /// Reads a page and its words of bits, refusing what [`MapPage::emit`] does not write.
    pub fn parse(
        bytes: &[u8],
    ) -> Result<(MapPage, impl Iterator<Item = u64> + '_), DiskFormatError> {
        if bytes.len() != MAP_PAGE_BYTES {
            return Err(DiskFormatError::Length);
        }
        if u32_at(bytes, field::MAGIC) != MAGIC {
            return Err(DiskFormatError::Magic);
        }
        if u32_at(bytes, field::CRC) != crc32c_with_hole(bytes, field::CRC) {
            return Err(DiskFormatError::Checksum);
        }
        let version = u32::from(u16_at(bytes, field::VERSION));
        if version != FORMAT_VERSION {
            return Err(DiskFormatError::Version(version));
        }
        if u16_at(bytes, field::ZERO) != 0 {
            return Err(DiskFormatError::Value);
        }
        let page = MapPage { page: u32_at(bytes, field::PAGE), pair: array_at(bytes, field::PAIR) };
        let words = (0..MAP_PAGE_WORDS).map(|index| u64_at(bytes, field::BITS + index * 8));
        Ok((page, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ([u64; MAP_PAGE_WORDS], [u8; MAP_PAGE_BYTES]) {
        let mut words = [0; MAP_PAGE_WORDS];
        words[0] = 1;
        words[1] = 0x8000_0000_0000_0000;
        words[MAP_PAGE_WORDS - 1] = 0x0123_4567_89AB_CDEF;
        let mut out = [0xFF; MAP_PAGE_BYTES];
        MapPage { page: 7, pair: [3; 16] }.emit(&words, &mut out);
        (words, out)
    }

    fn refusal(bytes: &[u8]) -> Option<DiskFormatError> {
        MapPage::parse(bytes).err()
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let (words, bytes) = sample();
        let (page, parsed) = MapPage::parse(&bytes).expect("a page just made");
        assert_eq!(page, MapPage { page: 7, pair: [3; 16] });
        assert!(parsed.eq(words));
        assert_eq!(bytes[32], 1, "block 0 is the lowest bit of the first byte");
        assert_eq!(bytes[32 + 15], 0x80, "block 127 is the highest bit of the sixteenth");
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused() {
        let (_, mut bytes) = sample();
        for at in 0..MAP_PAGE_BYTES {
            for bit in [0x01, 0x40] {
                bytes[at] ^= bit;
                assert!(refusal(&bytes).is_some(), "byte {at}");
                bytes[at] ^= bit;
            }
        }
        assert_eq!(refusal(&bytes), None);
        assert_eq!(refusal(&bytes[1..]), Some(DiskFormatError::Length));
        assert_eq!(refusal(&[0; MAP_PAGE_BYTES]), Some(DiskFormatError::Magic));
    }

    #[test]
    fn another_version_and_a_value_without_meaning_are_refused_though_the_sum_fits() {
        let (_, bytes) = sample();
        let resummed = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            let crc = crc32c_with_hole(&bytes, field::CRC);
            put(&mut bytes, field::CRC, &crc.to_le_bytes());
            refusal(&bytes)
        };
        assert_eq!(resummed(field::VERSION, 0x77), Some(DiskFormatError::Version(0x77)));
        assert_eq!(resummed(field::ZERO, 1), Some(DiskFormatError::Value));
        assert_eq!(resummed(field::PAGE, 9), None);
    }
}
