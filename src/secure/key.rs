//! The key that both nodes hold, as a text with a checksum, and what is made of it once: no key is used by two algorithms.

use aws_lc_rs::{hkdf, hmac};
use base64ct::{Base64, Encoding};
use core::fmt;
use crc::{CRC_32_ISO_HDLC, Crc};
use zeroize::{Zeroize, Zeroizing};

const FORMAT: &str = "ibid-link-1:";
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const KEY_BYTES: usize = 32;
const RAW_BYTES: usize = KEY_BYTES + 4;
/// Characters of a key: prefix, 36 bytes in base64, a colon.
pub const KEY_TEXT_MAX: usize = FORMAT.len() + RAW_BYTES / 3 * 4 + 1;

/// The pre-shared key of a pair.
#[derive(Clone)]
pub struct LinkKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why a text is no key. Says nothing of what stands in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkKeyError {
    /// Not the form at all.
    #[error("it is not of the form ibid-link-1:base64:")]
    Form,
    /// No base64, or of another length.
    #[error("what stands between its colons is not the base64 of 36 bytes")]
    Base64,
    /// A slip of the pen.
    #[error("its checksum is wrong: a character is missing or mistyped")]
    Checksum,
    /// Nobody's secret.
    #[error("its bytes are all the same")]
    Trivial,
}

impl LinkKey {
    /// A key of 32 bytes of chance.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads `ibid-link-1:base64(key, CRC-32):`, with nothing before or behind it.
    pub fn parse(text: &str) -> Result<Self, LinkKeyError> {
        let rest = text.strip_prefix(FORMAT).ok_or(LinkKeyError::Form)?;
        let encoded = rest.strip_suffix(':').ok_or(LinkKeyError::Form)?;
        let mut raw = Zeroizing::new([0; RAW_BYTES]);
        let decoded = Base64::decode(encoded, &mut *raw).map_err(|_| LinkKeyError::Base64)?;
        let (key, crc) = decoded.split_last_chunk::<4>().ok_or(LinkKeyError::Base64)?;
        let key: &[u8; KEY_BYTES] = key.try_into().map_err(|_| LinkKeyError::Base64)?;
        if CRC32.checksum(key) != u32::from_le_bytes(*crc) {
            return Err(LinkKeyError::Checksum);
        }
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(LinkKeyError::Trivial);
        }
        Ok(Self::new(*key))
    }

    /// The text that [`LinkKey::parse`] reads, for a file that nobody but its owner may read.
    pub fn text(&self) -> Zeroizing<String> {
        let mut raw = Zeroizing::new([0; RAW_BYTES]);
        raw[..KEY_BYTES].copy_from_slice(&*self.0);
        raw[KEY_BYTES..].copy_from_slice(&CRC32.checksum(&*self.0).to_le_bytes());
        let mut out = Zeroizing::new([0; RAW_BYTES / 3 * 4]);
        let encoded = Base64::encode(&*raw, &mut *out).expect("36 bytes are 48 characters");
        let mut text = Zeroizing::new(String::with_capacity(KEY_TEXT_MAX));
        text.push_str(FORMAT);
        text.push_str(encoded);
        text.push(':');
        text
    }

    /// The key that gates are made with.
    pub(crate) fn gate(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.derive(b"ibid link 3 gate"))
    }

    /// The pre-shared key of the handshake.
    pub(crate) fn handshake(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"ibid link 3 handshake")
    }

    fn derive(&self, what: &[u8]) -> Zeroizing<[u8; 32]> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ibid link 3").extract(&*self.0);
        expand(&prk, what)
    }
}

/// HKDF-Expand to 32 bytes (RFC 5869).
pub(crate) fn expand(prk: &hkdf::Prk, what: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    prk.expand(&[what], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *out))
        .expect("one block of output is never refused");
    out
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey")
    }
}

impl Drop for LinkKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
