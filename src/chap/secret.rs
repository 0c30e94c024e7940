//! A secret in the form `nvme gen-dhchap-key` gives it, and the key that a host or controller makes of it (Base 8.13.5.8).

use crate::response::mac;
use base64ct::{Base64, Encoding};
use core::fmt;
use crc::{CRC_32_ISO_HDLC, Crc};
use ibid_wire::nvme_tcp::{AuthHash, HASH_BYTES_MAX};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

const FORMAT: &str = "DHHC-1:";
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Bytes of the checksum behind a key.
const CRC_BYTES: usize = 4;
/// What a key is bound to its owner with.
const BINDING: &[u8] = b"NVMe-over-Fabrics";
/// Characters of the longest secret: prefix, number, 68 bytes in base64, colons.
pub const SECRET_TEXT_MAX: usize =
    FORMAT.len() + 3 + (HASH_BYTES_MAX + CRC_BYTES).div_ceil(3) * 4 + 1;

/// What host and controller share: 32, 48 or 64 bytes.
#[derive(Clone)]
pub struct Secret {
    key: Key,
    /// How it is bound to its owner's name; `None`: not at all.
    binding: Option<AuthHash>,
}

/// A key of an HMAC.
#[derive(Clone)]
pub struct Key {
    bytes: [u8; HASH_BYTES_MAX],
    len: usize,
}

/// Why a text is no secret. Says nothing of what stands in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// Not the form at all.
    #[error("it is not of the form DHHC-1:hh:base64:")]
    Form,
    /// An unknown hh.
    #[error("its hh must be 00 (none), 01 (SHA-256), 02 (SHA-384) or 03 (SHA-512)")]
    Binding,
    /// No base64.
    #[error("what stands between its last two colons is not base64")]
    Base64,
    /// Another length.
    #[error("its key must have 32, 48 or 64 bytes and a checksum of 4")]
    Length,
    /// A slip of the pen.
    #[error("its checksum is wrong: a character is missing or mistyped")]
    Checksum,
}

impl Secret {
    /// Reads a secret: `DHHC-1:hh:base64(key, CRC-32):`, with nothing before or behind it.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if text.len() > SECRET_TEXT_MAX {
            return Err(SecretError::Form);
        }
        let rest = text.strip_prefix(FORMAT).ok_or(SecretError::Form)?;
        let (binding, rest) = rest.split_once(':').ok_or(SecretError::Form)?;
        let encoded = rest.strip_suffix(':').ok_or(SecretError::Form)?;
        let binding = match binding {
            "00" => None,
            "01" => Some(AuthHash::Sha256),
            "02" => Some(AuthHash::Sha384),
            "03" => Some(AuthHash::Sha512),
            _ => return Err(SecretError::Binding),
        };
        // Base64 decodes three bytes at a time.
        let mut raw = [0; (HASH_BYTES_MAX + CRC_BYTES).next_multiple_of(3)];
        let secret = Self::decode(encoded, &mut raw).map(|key| Self { key, binding });
        raw.zeroize();
        secret
    }

    fn decode(encoded: &str, raw: &mut [u8]) -> Result<Key, SecretError> {
        let decoded = Base64::decode(encoded, raw).map_err(|_| SecretError::Base64)?;
        let (key, crc) = decoded.split_last_chunk::<CRC_BYTES>().ok_or(SecretError::Length)?;
        if !matches!(key.len(), 32 | 48 | 64) {
            return Err(SecretError::Length);
        }
        if CRC32.checksum(key) != u32::from_le_bytes(*crc) {
            return Err(SecretError::Checksum);
        }
        Ok(Key::new(key))
    }

    /// The key of the entity with this NQN: of the host for the host's secret, of the subsystem for the controller's.
    pub fn key(&self, nqn: &str) -> Key {
        let Some(hash) = self.binding else { return self.key.clone() };
        let bound = mac(hash, self.key.bytes(), &[nqn.as_bytes(), BINDING]);
        Key::new(bound.bytes())
    }

    /// Whether both are made from the same key.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.key.bytes().ct_eq(other.key.bytes()).into()
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Self {
        let mut key = Self { bytes: [0; HASH_BYTES_MAX], len: bytes.len() };
        key.bytes[..bytes.len()].copy_from_slice(bytes);
        key
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
