//! The primitives of the handshake for snow: X25519, SHA-256 and AES-256-GCM of the same library that seals frames, chance from the caller.

use crate::chance::Chance;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

/// Gives snow what [`crate::handshake`]'s pattern names, and nothing else.
pub(crate) struct Primitives {
    entropy: Zeroizing<[u8; 32]>,
}

impl Primitives {
    /// For one handshake, whose ephemeral key comes of `entropy`.
    pub(crate) fn new(entropy: Zeroizing<[u8; 32]>) -> Self {
        Self { entropy }
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Bits(Chance::new(*self.entropy))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Curve::default()) as Box<dyn Dh>)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha::default()) as Box<dyn Hash>)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(Gcm::default()) as Box<dyn Cipher>)
    }
}

struct Bits(Chance);

impl Random for Bits {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.0.fill(out);
        Ok(())
    }
}

#[derive(Default)]
struct Curve {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Curve {
    fn key(&self) -> PrivateKey {
        PrivateKey::from_private_key(&X25519, &*self.private).expect("any 32 bytes are a key")
    }
}

impl Dh for Curve {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        let public = self.key().compute_public_key().expect("a key has a public half");
        self.public.copy_from_slice(public.as_ref());
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &*self.private
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = UnparsedPublicKey::new(&X25519, &public[..32]);
        agreement::agree(&self.key(), public, Error::Dh, |agreed| {
            out[..32].copy_from_slice(agreed);
            Ok(())
        })
    }
}

struct Sha(digest::Context);

impl Default for Sha {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }
    fn block_len(&self) -> usize {
        64
    }
    fn hash_len(&self) -> usize {
        32
    }
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn input(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn result(&mut self, out: &mut [u8]) {
        let context = std::mem::replace(&mut self.0, digest::Context::new(&digest::SHA256));
        out[..32].copy_from_slice(context.finish().as_ref());
    }
}

#[derive(Default)]
struct Gcm(Option<LessSafeKey>);

impl Gcm {
    fn key(&self) -> &LessSafeKey {
        self.0.as_ref().expect("a cipher is given its key first")
    }
}

/// Noise, revision 34, section 12.4: 32 bits of zeroes, then the counter, big-endian.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

const TAG: usize = 16;

impl Cipher for Gcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }
    fn set(&mut self, key: &[u8; 32]) {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key");
        self.0 = Some(LessSafeKey::new(key));
    }
    fn encrypt(&self, counter: u64, authtext: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (body, tag) = out[..plain.len() + TAG].split_at_mut(plain.len());
        body.copy_from_slice(plain);
        let made = self
            .key()
            .seal_in_place_separate_tag(nonce(counter), Aad::from(authtext), body)
            .expect("a message is shorter than what AES-GCM takes");
        tag.copy_from_slice(made.as_ref());
        plain.len() + TAG
    }
    fn decrypt(
        &self,
        counter: u64,
        authtext: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let length = sealed.len().checked_sub(TAG).ok_or(Error::Decrypt)?;
        let (body, tag) = sealed.split_at(length);
        let out = out.get_mut(..length).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        self.key()
            .open_in_place_separate_tag(nonce(counter), Aad::from(authtext), tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(length)
    }
}
