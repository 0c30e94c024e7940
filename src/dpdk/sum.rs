//! The Internet's checksum (RFC 1071) over bytes that lie in pieces.
//! Takes slices in order; gives the ones' complement sum. For what no device sums for us.

/// A sum under way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    /// Of 16-bit words in network order, with their carries.
    total: u64,
    /// The last piece ended within a word.
    odd: bool,
}

impl Sum {
    /// Adds the next piece.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // The sum doesn't depend on the order of bytes (RFC 1071 section 2 B): words are added as the processor has them, four bytes
        // at a time, which compilers make vector code of.
        let words = bytes.chunks_exact(4);
        let mut tail = [0; 4];
        tail[..words.remainder().len()].copy_from_slice(words.remainder());
        let mut total = u64::from(u32::from_le_bytes(tail));
        for word in words {
            total += u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        let piece = fold(total).swap_bytes();
        // Behind an odd byte every byte stands in the other half of its word (section 2 A).
        let piece = if self.odd { piece.swap_bytes() } else { piece };
        self.total += u64::from(piece);
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a word.
    pub(crate) fn word(&mut self, word: u16) {
        self.total += u64::from(word);
    }

    /// The sum, not complemented.
    pub(crate) fn folded(self) -> u16 {
        fold(self.total)
    }
}

/// Adds the carries of 16-bit words back.
fn fold(mut total: u64) -> u16 {
    // Each round takes at least 15 bits off: four are enough for 64.
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As section 1 says it, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)));
        fold(words.sum())
    }

    fn some(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 37 + at / 256 * 11) as u8 | 1).collect()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn every_length_and_every_cut_gives_the_same() {
        for len in (0..70).chain([1499, 4096, 8971, 65_535]) {
            let bytes = some(len);
            let mut whole = Sum::default();
            whole.add(&bytes);
            assert_eq!(whole.folded(), plain(&bytes), "{len}");
        }
        let bytes = some(61);
        for first in 0..=61 {
            for second in first..=61 {
                let mut cut = Sum::default();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    cut.add(piece);
                }
                assert_eq!(cut.folded(), plain(&bytes), "{first}, {second}");
            }
        }
    }

    #[test]
    fn full_words_carry_around() {
        let mut sum = Sum::default();
        sum.add(&[0xff; 9000]);
        assert_eq!(sum.folded(), 0xffff);
        sum.word(1);
        assert_eq!(sum.folded(), 1);
    }
}
