//! Little-endian fields at fixed places of a byte slice. Every caller has checked the slice's length before.

use crc::{CRC_32_ISCSI, Crc, Table};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC32C (Castagnoli) of `bytes`, for headers and descriptors. Payload is summed by the driver's faster one.
pub fn crc32c(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// CRC32C of `bytes` as if the four bytes at `hole` were zero: how a structure carries its own sum.
pub(crate) fn crc32c_with_hole(bytes: &[u8], hole: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&bytes[..hole]);
    digest.update(&[0; 4]);
    digest.update(&bytes[hole + 4..]);
    digest.finalize()
}

/// CRC32C summed piece by piece. Over the CRC32Cs of pages, in order, it is the `digest` of a reference.
pub struct Crc32c(crc::Digest<'static, u32, Table<16>>);

impl Crc32c {
    /// The sum of nothing.
    pub fn new() -> Self {
        Self(CRC32C.digest())
    }
    /// Takes the next page's checksum.
    pub fn push(&mut self, crc: u32) {
        self.0.update(&crc.to_le_bytes());
    }
    /// Takes bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The sum of everything taken.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}
pub(crate) fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}
pub(crate) fn put(b: &mut [u8], at: usize, field: &[u8]) {
    b[at..at + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_hole_counts_as_zeroes() {
        let with = [1, 2, 3, 9, 9, 9, 9, 4];
        let without = [1, 2, 3, 0, 0, 0, 0, 4];
        assert_eq!(crc32c_with_hole(&with, 3), crc32c(&without));
    }
}
