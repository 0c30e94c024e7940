//! CRC32C for header digests and for small data that never reaches the arena. Payload digests are the runtime's, with the
//! machine's own instructions.

use crc::{CRC_32_ISCSI, Crc, Digest, Table};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The digest of `bytes` (TCP 3.3.1.1).
pub fn crc32c(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// A digest over several pieces.
pub struct Crc32c(Digest<'static, u32, Table<16>>);

impl Crc32c {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(CRC32C.digest())
    }
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest of all of them.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}
