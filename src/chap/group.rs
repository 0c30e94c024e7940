//! Diffie-Hellman over the safe-prime groups of RFC 7919, generator 2, in constant time.

use crate::primes::{FFDHE2048, FFDHE3072, FFDHE4096, FFDHE6144, FFDHE8192};
use crate::response::{Digest, hashed};
use core::fmt;
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U448, U2048, U3072, U4096, U6144, U8192, Uint};
use ibid_wire::nvme_tcp::{AuthHash, DH_BYTES_MAX, DhGroup};
use zeroize::Zeroize;

/// Bytes of an exponent, for every group: RFC 7919, 5.2 wants twice the group's strength in bits, 400 for the largest.
const PRIVATE_BYTES: usize = 52;
const PRIVATE_BITS: u32 = PRIVATE_BYTES as u32 * 8;
const GENERATOR: u8 = 2;

/// A secret exponent, for one authentication.
pub struct Private([u8; PRIVATE_BYTES]);

/// A value that goes over the wire, as long as the group's prime.
#[derive(Clone)]
pub struct Public {
    bytes: [u8; DH_BYTES_MAX],
    len: usize,
}

impl Private {
    /// One that nobody can guess.
    pub(crate) fn new<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = [0; PRIVATE_BYTES];
        random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The value that belongs to it.
    pub(crate) fn public(&self, group: DhGroup) -> Public {
        let mut public = Public { bytes: [0; DH_BYTES_MAX], len: group.bytes() };
        power(group, &[GENERATOR], self, &mut public.bytes[..group.bytes()])
            .expect("the generator is a value of its group");
        public
    }

    /// What was agreed with whoever has the other value, hashed. `None`: that value is none (0, 1, p - 1, or no less than p), or it is
    /// longer than the group's.
    pub(crate) fn agree(&self, group: DhGroup, hash: AuthHash, other: &[u8]) -> Option<Digest> {
        let mut agreed = [0; DH_BYTES_MAX];
        let agreed_bytes = &mut agreed[..group.bytes()];
        let digest = power(group, other, self, agreed_bytes).map(|()| hashed(hash, agreed_bytes));
        agreed.zeroize();
        digest
    }
}

impl Public {
    /// One that came. What is longer than any group's value becomes none at all.
    pub(crate) fn new(value: &[u8]) -> Self {
        let value = if value.len() > DH_BYTES_MAX { &[] } else { value };
        let mut public = Self { bytes: [0; DH_BYTES_MAX], len: value.len() };
        public.bytes[..value.len()].copy_from_slice(value);
        public
    }
    /// Its bytes, big-endian; empty without a group.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private")
    }
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Public")
    }
}

/// `value` to the power of `exponent`, into `out`, which is as long as the group's prime.
fn power(group: DhGroup, value: &[u8], exponent: &Private, out: &mut [u8]) -> Option<()> {
    match group {
        DhGroup::Null => None,
        DhGroup::Ffdhe2048 => power_mod::<{ U2048::LIMBS }>(FFDHE2048, value, exponent, out),
        DhGroup::Ffdhe3072 => power_mod::<{ U3072::LIMBS }>(FFDHE3072, value, exponent, out),
        DhGroup::Ffdhe4096 => power_mod::<{ U4096::LIMBS }>(FFDHE4096, value, exponent, out),
        DhGroup::Ffdhe6144 => power_mod::<{ U6144::LIMBS }>(FFDHE6144, value, exponent, out),
        DhGroup::Ffdhe8192 => power_mod::<{ U8192::LIMBS }>(FFDHE8192, value, exponent, out),
    }
}

fn power_mod<const LIMBS: usize>(
    prime: &str,
    value: &[u8],
    exponent: &Private,
    out: &mut [u8],
) -> Option<()> {
    // A value may come without its leading zeroes, as SPDK sends it.
    let start = out.len().checked_sub(value.len())?;
    out.fill(0);
    out[start..].copy_from_slice(value);
    let value = Uint::<LIMBS>::from_be_slice(out);
    let prime = Odd::new(Uint::<LIMBS>::from_be_hex(prime)).into_option()?;
    let last = prime.get().wrapping_sub(&Uint::ONE);
    // The value is public: this may tell which it is. In a group of a safe prime no other check is needed (RFC 7919, 5.1).
    if value <= Uint::ONE || value >= last {
        return None;
    }
    let params = FixedMontyParams::new_vartime(prime);
    let mut padded = [0; U448::BYTES];
    padded[U448::BYTES - PRIVATE_BYTES..].copy_from_slice(&exponent.0);
    let mut exponent = U448::from_be_slice(&padded);
    let mut power =
        FixedMontyForm::new(&value, &params).pow_bounded_exp(&exponent, PRIVATE_BITS).retrieve();
    out.copy_from_slice(power.to_be_bytes().as_ref());
    padded.zeroize();
    exponent.zeroize();
    power.zeroize();
    Some(())
}
