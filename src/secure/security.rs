//! What a node brings to its link: the pair's key, what is done to frames, and chance.

use crate::channel::{Encryption, Limits};
use crate::handshake::{Initiator, Responder};
use crate::key::LinkKey;
use zeroize::Zeroizing;

/// How a node's link is secured.
#[derive(Clone)]
pub struct Security {
    key: LinkKey,
    entropy: Zeroizing<[u8; 32]>,
    /// What is done to frames.
    pub encryption: Encryption,
    /// How long keys are used.
    pub limits: Limits,
}

impl Security {
    /// With the pair's key, and 32 bytes of chance that no other start has.
    pub fn new(key: LinkKey, entropy: [u8; 32], encryption: Encryption) -> Self {
        Self { key, entropy: Zeroizing::new(entropy), encryption, limits: Limits::LINK }
    }

    /// The source's end of handshakes.
    pub fn initiator(&self) -> Initiator {
        Initiator::new(&self.key, *self.entropy)
    }

    /// The destination's end of handshakes.
    pub fn responder(&self) -> Responder {
        Responder::new(&self.key, *self.entropy)
    }
}

impl core::fmt::Debug for Security {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Security").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}
