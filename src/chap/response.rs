//! Responses to challenges (Base 8.13.5.3 to 8.13.5.5): HMAC over everything that both sides know of the exchange.

use crate::secret::Key;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use ibid_wire::nvme_tcp::{AuthHash, HASH_BYTES_MAX};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The result of a hash function or of an HMAC.
#[derive(Clone)]
pub struct Digest {
    bytes: [u8; HASH_BYTES_MAX],
    len: usize,
}

impl Digest {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut digest = Self { bytes: [0; HASH_BYTES_MAX], len: bytes.len() };
        digest.bytes[..bytes.len()].copy_from_slice(bytes);
        digest
    }
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
    /// Compares in constant time; another length is another digest.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.bytes().ct_eq(other).into()
    }
}

impl Drop for Digest {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// Whose response it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// R1, to the controller's challenge.
    Host,
    /// R2, to the host's.
    Controller,
}

/// What a response speaks for.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The hash function that was chosen.
    pub hash: AuthHash,
    /// Who responds.
    pub role: Role,
    /// C1 or C2.
    pub challenge: &'a [u8],
    /// What was agreed by Diffie-Hellman, hashed; `None` without a group.
    pub agreed: Option<&'a Digest>,
    /// S1 or S2.
    pub seqnum: u32,
    /// T_ID.
    pub transaction: u16,
    /// The NQN of who responds.
    pub own_nqn: &'a str,
    /// The NQN of who asked.
    pub other_nqn: &'a str,
}

impl Exchange<'_> {
    /// The response of who has this key. There is no secure channel (SC_C is 0).
    pub fn response(&self, key: &Key) -> Digest {
        // The challenge augmented: Ca = HMAC(H(KS), C).
        let augmented = self.agreed.map(|agreed| mac(self.hash, agreed.bytes(), &[self.challenge]));
        let challenge = augmented.as_ref().map_or(self.challenge, Digest::bytes);
        let role: &[u8] = match self.role {
            Role::Host => b"HostHost",
            Role::Controller => b"Controller",
        };
        mac(
            self.hash,
            key.bytes(),
            &[
                challenge,
                &self.seqnum.to_le_bytes(),
                &self.transaction.to_le_bytes(),
                &[0],
                role,
                self.own_nqn.as_bytes(),
                &[0],
                self.other_nqn.as_bytes(),
            ],
        )
    }
}

/// HMAC over the parts, one behind the other.
pub(crate) fn mac(hash: AuthHash, key: &[u8], parts: &[&[u8]]) -> Digest {
    match hash {
        AuthHash::Sha256 => mac_with::<Hmac<Sha256>>(key, parts),
        AuthHash::Sha384 => mac_with::<Hmac<Sha384>>(key, parts),
        AuthHash::Sha512 => mac_with::<Hmac<Sha512>>(key, parts),
    }
}

fn mac_with<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("an HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    Digest::new(&mac.finalize().into_bytes())
}

/// The hash of what was agreed.
pub(crate) fn hashed(hash: AuthHash, bytes: &[u8]) -> Digest {
    match hash {
        AuthHash::Sha256 => Digest::new(&Sha256::digest(bytes)),
        AuthHash::Sha384 => Digest::new(&Sha384::digest(bytes)),
        AuthHash::Sha512 => Digest::new(&Sha512::digest(bytes)),
    }
}
