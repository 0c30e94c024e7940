//! CRC32C (Castagnoli), the checksum of log pages, frames and NVMe/TCP digests (RFC 3385; NVMe/TCP transport 1.1, 3.1.1).
//! Takes bytes, gives 32 bits. Combination and other polynomials are not here.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Bytes that are copied before they are summed: they are then still in the first-level cache.
const COPY_BYTES: usize = 4096;

/// CRC32C of the bytes: reflected, initial value and final xor of all ones.
pub fn crc32c(bytes: &[u8]) -> u32 {
    low(crc_fast::checksum(Crc32Iscsi, bytes))
}

/// Copies `source` to `target` and returns its CRC32C. Copying page by page and summing each while it is hot costs one
/// pass over memory; a loop of our own that does both at once would lose the folding instructions crc-fast uses. The copy is
/// summed and not the source (which would be some 10 % quicker): a source in memory shared with another process may
/// change between the two, and what counts is what was placed.
///
/// # Panics
/// If the two differ in length.
pub fn crc32c_copy(target: &mut [u8], source: &[u8]) -> u32 {
    assert!(target.len() == source.len(), "a copy has the length of its source");
    if source.len() <= COPY_BYTES {
        target.copy_from_slice(source);
        return crc32c(target);
    }
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    for (to, from) in target.chunks_mut(COPY_BYTES).zip(source.chunks(COPY_BYTES)) {
        to.copy_from_slice(from);
        digest.update(to);
    }
    low(digest.finalize())
}

/// crc-fast returns every width in 64 bits.
fn low(sum: u64) -> u32 {
    u32::try_from(sum).expect("a 32-bit CRC fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_check_value_comes_out() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
        // RFC 3720 B.4: 32 bytes of zeroes, and of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    /// One bit at a time, straight from the definition.
    fn slow(bytes: &[u8]) -> u32 {
        let mut sum = !0u32;
        for &byte in bytes {
            sum ^= u32::from(byte);
            for _ in 0..8 {
                sum = (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg());
            }
        }
        !sum
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let bytes: Vec<u8> =
            (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..300).chain([4095, 4096, 4097, 8191, 8192, 12_289, 20_000]) {
            let source = &bytes[..len];
            let mut target = vec![0; len];
            assert_eq!(crc32c(source), slow(source), "{len} bytes");
            assert_eq!(crc32c_copy(&mut target, source), slow(source), "{len} bytes copied");
            assert_eq!(target, source);
        }
    }

    #[test]
    #[should_panic(expected = "length of its source")]
    fn a_copy_of_another_length_is_refused() {
        crc32c_copy(&mut [0; 3], b"four");
    }
}
