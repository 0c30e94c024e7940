//! Random bits from 32 bytes of true chance: HMAC-SHA256 over a count, under a key that is replaced after each use, so that what was given
//! out can't be worked out from what is left (as HMAC_DRBG in NIST SP 800-90A does). The same 32 bytes give the same bits: a seed of the
//! simulator stays one run.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// A stream of random bits.
pub struct Chance {
    key: Zeroizing<[u8; 32]>,
}

impl Chance {
    /// A stream from chance that was used for nothing else.
    pub fn new(entropy: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(entropy) }
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.key);
        for (count, piece) in (1u64..).zip(out.chunks_mut(32)) {
            let bits = hmac::sign(&key, &count.to_le_bytes());
            piece.copy_from_slice(&bits.as_ref()[..piece.len()]);
        }
        self.key.copy_from_slice(hmac::sign(&key, &0u64.to_le_bytes()).as_ref());
    }

    /// 32 bytes.
    pub(crate) fn bytes(&mut self) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        self.fill(&mut *out);
        out
    }
}

impl core::fmt::Debug for Chance {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Chance")
    }
}
