//! In-band authentication: the fabrics commands that carry it, and the messages of DH-HMAC-CHAP (Base 6.1, 6.2, 8.13.5).
//! Takes the bytes of one whole message and gives what stands in it, borrowed. Every length in a message is checked against the
//! bytes that came, before anything is read by it: these are the first bytes of a host that nobody knows yet.

use super::command::{Sgl, Sqe, opcode};
use super::fabrics::fctype;
use super::layout::Field;

/// Security protocol of NVMe in-band authentication (SECP).
pub const SECP_NVME: u8 = 0xe9;
/// Its protocol specific value (SPSP1, SPSP0).
pub const SPSP_AUTH: u16 = 0x0101;
/// The longest message, a Reply: header, two digests, the value of the largest group.
pub const AUTH_BYTES_MAX: usize = LONG_BYTES + 2 * HASH_BYTES_MAX + DH_BYTES_MAX;
/// The longest digest.
pub const HASH_BYTES_MAX: usize = 64;
/// The longest Diffie-Hellman value.
pub const DH_BYTES_MAX: usize = 1024;
/// Identifiers that a list of hash functions, or of groups, holds.
pub const ID_LIST_MAX: usize = 30;

/// Bytes in front of the variable part of Challenge, Reply and Success1, and of a whole Success2.
const LONG_BYTES: usize = 16;
/// Bytes in front of the protocol descriptors of Negotiate, and of a whole failure.
const SHORT_BYTES: usize = 8;
/// Bytes of a protocol descriptor.
const DESCRIPTOR_BYTES: usize = 64;
/// Bytes up to T_ID and with it.
const HEADER_BYTES: usize = 6;
/// DH-HMAC-CHAP as a protocol in a descriptor.
const PROTOCOL_DHCHAP: u8 = 1;
/// AUTH_TYPE of messages of all protocols, and of those of DH-HMAC-CHAP.
const TYPE_COMMON: u8 = 0;
const TYPE_DHCHAP: u8 = 1;
/// AUTH_ID.
mod id {
    pub(super) const NEGOTIATE: u8 = 0x00;
    pub(super) const CHALLENGE: u8 = 0x01;
    pub(super) const REPLY: u8 = 0x02;
    pub(super) const SUCCESS1: u8 = 0x03;
    pub(super) const SUCCESS2: u8 = 0x04;
    pub(super) const FAILURE2: u8 = 0xf0;
    pub(super) const FAILURE1: u8 = 0xf1;
}

/// Bit of dword 0 of a Connect completion: the host must authenticate before it does anything else (AUTHREQ.ATR).
pub const CONNECT_AUTH_REQUIRED: u64 = 1 << 17;
/// Bit of the same: it must authenticate and set up a secure channel (AUTHREQ.ASCR). ibid never asks for it.
pub const CONNECT_SECURE_CHANNEL_REQUIRED: u64 = 1 << 18;

/// A hash function (Base 8.13.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum AuthHash {
    /// SHA-256.
    Sha256 = 1,
    /// SHA-384.
    Sha384 = 2,
    /// SHA-512.
    Sha512 = 3,
}

impl AuthHash {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];
    /// The function an identifier names, if there is one.
    pub fn new(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| *hash as u8 == id)
    }
    /// Bytes of a digest.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
    /// Its usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

/// A Diffie-Hellman group (Base 8.13.5.2, RFC 7919).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum DhGroup {
    /// No Diffie-Hellman exchange.
    Null = 0,
    /// ffdhe2048.
    Ffdhe2048 = 1,
    /// ffdhe3072.
    Ffdhe3072 = 2,
    /// ffdhe4096.
    Ffdhe4096 = 3,
    /// ffdhe6144.
    Ffdhe6144 = 4,
    /// ffdhe8192.
    Ffdhe8192 = 5,
}

impl DhGroup {
    /// All of them, NULL first.
    pub const ALL: [Self; 6] = [
        Self::Null,
        Self::Ffdhe2048,
        Self::Ffdhe3072,
        Self::Ffdhe4096,
        Self::Ffdhe6144,
        Self::Ffdhe8192,
    ];
    /// The group an identifier names, if there is one.
    pub fn new(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|group| *group as u8 == id)
    }
    /// Bytes of its prime, and so of a value or a shared key; 0 without a group.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Ffdhe2048 => 256,
            Self::Ffdhe3072 => 384,
            Self::Ffdhe4096 => 512,
            Self::Ffdhe6144 => 768,
            Self::Ffdhe8192 => 1024,
        }
    }
    /// Its usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ffdhe2048 => "ffdhe2048",
            Self::Ffdhe3072 => "ffdhe3072",
            Self::Ffdhe4096 => "ffdhe4096",
            Self::Ffdhe6144 => "ffdhe6144",
            Self::Ffdhe8192 => "ffdhe8192",
        }
    }
}

/// Why an authentication failed: the reason code explanation of AUTH_Failure1 and 2 (Base 8.13.5.6). The reason code is always 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AuthRefusal {
    /// The other side does not know the secret, or there is none to check it by.
    Failed = 1,
    /// None of the protocols offered is DH-HMAC-CHAP.
    ProtocolUnusable = 2,
    /// A secure channel was asked for.
    SecureChannel = 3,
    /// None of the hash functions offered is allowed.
    HashUnusable = 4,
    /// None of the groups offered is allowed.
    GroupUnusable = 5,
    /// A message does not hold what it must.
    IncorrectPayload = 6,
    /// A message that does not belong here: out of order, or of another transaction.
    IncorrectMessage = 7,
}

impl AuthRefusal {
    /// The explanation a number stands for, if there is one.
    pub fn new(explanation: u8) -> Option<Self> {
        [
            Self::Failed,
            Self::ProtocolUnusable,
            Self::SecureChannel,
            Self::HashUnusable,
            Self::GroupUnusable,
            Self::IncorrectPayload,
            Self::IncorrectMessage,
        ]
        .into_iter()
        .find(|refusal| *refusal as u8 == explanation)
    }
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Failed => "authentication failed",
            Self::ProtocolUnusable => "authentication protocol not usable",
            Self::SecureChannel => "secure channel concatenation mismatch",
            Self::HashUnusable => "hash function not usable",
            Self::GroupUnusable => "DH group not usable",
            Self::IncorrectPayload => "incorrect payload",
            Self::IncorrectMessage => "incorrect protocol message",
        }
    }
}

/// The fields of an Authentication Send or Receive command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthCommand {
    /// Security protocol, [`SECP_NVME`].
    pub secp: u8,
    /// Protocol specific, [`SPSP_AUTH`].
    pub spsp: u16,
    /// Bytes of the message (TL), or room for one (AL).
    pub bytes: u32,
}

impl AuthCommand {
    /// An ordinary one.
    pub const fn new(bytes: u32) -> Self {
        Self { secp: SECP_NVME, spsp: SPSP_AUTH, bytes }
    }
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self { secp: (sqe.cdw10 >> 24) as u8, spsp: (sqe.cdw10 >> 8) as u16, bytes: sqe.cdw11 }
    }
    /// Whether it is of the protocol that is spoken here.
    pub const fn is_nvme(&self) -> bool {
        self.secp == SECP_NVME && self.spsp == SPSP_AUTH
    }
    /// Authentication Send, its message in the capsule.
    pub const fn emit_send(&self, cid: u16) -> Sqe {
        self.emit(cid, fctype::AUTH_SEND, Sgl::in_capsule(self.bytes))
    }
    /// Authentication Receive.
    pub const fn emit_receive(&self, cid: u16) -> Sqe {
        self.emit(cid, fctype::AUTH_RECEIVE, Sgl::transport(self.bytes))
    }
    const fn emit(&self, cid: u16, kind: u8, sgl: Sgl) -> Sqe {
        let mut sqe = Sqe::new(opcode::FABRICS, cid, kind as u32);
        sqe.sgl = sgl;
        sqe.cdw10 = (self.spsp as u32) << 8 | (self.secp as u32) << 24;
        sqe.cdw11 = self.bytes;
        sqe
    }
}

/// What a host offers: identifiers as they came, known or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthOffer<'a> {
    /// Hash functions.
    pub hashes: &'a [u8],
    /// Groups.
    pub groups: &'a [u8],
}

/// A message, but for its transaction identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMessage<'a> {
    /// AUTH_Negotiate.
    Negotiate {
        /// SC_C: 0 is no secure channel.
        secure_channel: u8,
        /// Of the first DH-HMAC-CHAP descriptor; `None` where there is none.
        offer: Option<AuthOffer<'a>>,
    },
    /// DH-HMAC-CHAP_Challenge.
    Challenge {
        /// HashID.
        hash: u8,
        /// DHgID.
        group: u8,
        /// S1.
        seqnum: u32,
        /// C1.
        challenge: &'a [u8],
        /// The controller's value; empty without a group.
        value: &'a [u8],
    },
    /// DH-HMAC-CHAP_Reply.
    Reply {
        /// R1.
        response: &'a [u8],
        /// C2, where the host wants the controller to authenticate (CVALID).
        challenge: Option<&'a [u8]>,
        /// S2.
        seqnum: u32,
        /// The host's value; empty without a group.
        value: &'a [u8],
    },
    /// DH-HMAC-CHAP_Success1.
    Success1 {
        /// HL, also where there is no response.
        hash_bytes: u8,
        /// R2 (RVALID).
        response: Option<&'a [u8]>,
    },
    /// DH-HMAC-CHAP_Success2.
    Success2,
    /// AUTH_Failure1, of the controller.
    Failure1 {
        /// Reason code explanation.
        explanation: u8,
    },
    /// AUTH_Failure2, of the host.
    Failure2 {
        /// Reason code explanation.
        explanation: u8,
    },
}

/// What is wrong with a message, and its transaction if that could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMessage {
    /// T_ID.
    pub transaction: Option<u16>,
    /// How to answer it.
    pub refusal: AuthRefusal,
}

/// Takes the next `len` bytes off `bytes`.
fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

impl<'a> AuthMessage<'a> {
    /// Reads a message that is all of `bytes`: one byte too few or too many is an incorrect payload.
    pub fn parse(bytes: &'a [u8]) -> Result<(u16, Self), BadMessage> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(BadMessage { transaction: None, refusal: AuthRefusal::IncorrectPayload });
        };
        let transaction = u16::get(&header[4..]);
        let bad = |refusal| BadMessage { transaction: Some(transaction), refusal };
        let message = match (header[0], header[1]) {
            (TYPE_COMMON, id::NEGOTIATE) => Self::negotiate(bytes),
            (TYPE_COMMON, id::FAILURE1) if bytes.len() == SHORT_BYTES => {
                Some(Self::Failure1 { explanation: bytes[7] })
            }
            (TYPE_COMMON, id::FAILURE2) if bytes.len() == SHORT_BYTES => {
                Some(Self::Failure2 { explanation: bytes[7] })
            }
            (TYPE_DHCHAP, id::CHALLENGE) => Self::challenge(bytes),
            (TYPE_DHCHAP, id::REPLY) => Self::reply(bytes),
            (TYPE_DHCHAP, id::SUCCESS1) => Self::success1(bytes),
            (TYPE_DHCHAP, id::SUCCESS2) if bytes.len() == LONG_BYTES => Some(Self::Success2),
            (TYPE_COMMON, id::FAILURE1 | id::FAILURE2) | (TYPE_DHCHAP, id::SUCCESS2) => None,
            _ => return Err(bad(AuthRefusal::IncorrectMessage)),
        };
        message.map(|message| (transaction, message)).ok_or(bad(AuthRefusal::IncorrectPayload))
    }

    /// The same for a message at the front of a longer buffer, as Authentication Receive brings it: what is behind it must be zero.
    pub fn parse_padded(bytes: &'a [u8]) -> Result<(u16, Self), BadMessage> {
        let len = Self::bytes_at_front(bytes).unwrap_or(bytes.len()).min(bytes.len());
        let (message, padding) = bytes.split_at(len);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(BadMessage { transaction: None, refusal: AuthRefusal::IncorrectPayload });
        }
        Self::parse(message)
    }

    fn bytes_at_front(bytes: &[u8]) -> Option<usize> {
        let front = bytes.get(..LONG_BYTES).or_else(|| bytes.get(..SHORT_BYTES))?;
        match (front[0], front[1]) {
            (TYPE_COMMON, id::FAILURE1 | id::FAILURE2) => Some(SHORT_BYTES),
            (TYPE_DHCHAP, id::SUCCESS2) => Some(LONG_BYTES),
            (TYPE_DHCHAP, id::SUCCESS1) if front.len() == LONG_BYTES => {
                Some(LONG_BYTES + if front[8] != 0 { usize::from(front[6]) } else { 0 })
            }
            (TYPE_DHCHAP, id::CHALLENGE) if front.len() == LONG_BYTES => {
                Some(LONG_BYTES + usize::from(front[6]) + usize::from(u16::get(&front[10..])))
            }
            _ => None,
        }
    }

    fn negotiate(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let front = take(&mut rest, SHORT_BYTES)?;
        let count = usize::from(front[7]);
        if count == 0 || rest.len() != count * DESCRIPTOR_BYTES {
            return None;
        }
        let mut chunks = rest.chunks_exact(DESCRIPTOR_BYTES);
        let offer = match chunks.find(|descriptor| descriptor[0] == PROTOCOL_DHCHAP) {
            None => None,
            Some(descriptor) => {
                let (hashes, groups) = (usize::from(descriptor[2]), usize::from(descriptor[3]));
                if hashes > ID_LIST_MAX || groups > ID_LIST_MAX {
                    return None;
                }
                let (first, second) = descriptor[4..].split_at(ID_LIST_MAX);
                Some(AuthOffer { hashes: &first[..hashes], groups: &second[..groups] })
            }
        };
        Some(Self::Negotiate { secure_channel: front[6], offer })
    }

    fn challenge(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let front = take(&mut rest, LONG_BYTES)?;
        let challenge = take(&mut rest, front[6].into())?;
        let value = take(&mut rest, u16::get(&front[10..]).into())?;
        rest.is_empty().then_some(Self::Challenge {
            hash: front[8],
            group: front[9],
            seqnum: u32::get(&front[12..]),
            challenge,
            value,
        })
    }

    fn reply(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let front = take(&mut rest, LONG_BYTES)?;
        let response = take(&mut rest, front[6].into())?;
        // There is room for a challenge whether there is one or not.
        let challenge = take(&mut rest, front[6].into())?;
        let value = take(&mut rest, u16::get(&front[10..]).into())?;
        let challenge = match front[8] {
            0 => None,
            1 => Some(challenge),
            _ => return None,
        };
        let seqnum = u32::get(&front[12..]);
        rest.is_empty().then_some(Self::Reply { response, challenge, seqnum, value })
    }

    fn success1(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let front = take(&mut rest, LONG_BYTES)?;
        let response = match front[8] {
            0 => None,
            1 => Some(take(&mut rest, front[6].into())?),
            _ => return None,
        };
        rest.is_empty().then_some(Self::Success1 { hash_bytes: front[6], response })
    }

    /// Bytes the message takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Negotiate { .. } => SHORT_BYTES + DESCRIPTOR_BYTES,
            Self::Challenge { challenge, value, .. } => LONG_BYTES + challenge.len() + value.len(),
            Self::Reply { response, value, .. } => LONG_BYTES + 2 * response.len() + value.len(),
            Self::Success1 { response, .. } => {
                LONG_BYTES + response.map_or(0, |response| response.len())
            }
            Self::Success2 => LONG_BYTES,
            Self::Failure1 { .. } | Self::Failure2 { .. } => SHORT_BYTES,
        }
    }

    /// Writes the message to the start of `out`; gives its length. A Negotiate has one descriptor.
    ///
    /// # Panics
    /// If `out` is shorter than [`AuthMessage::bytes`], or a list or a value longer than its length can say.
    pub fn emit(&self, transaction: u16, out: &mut [u8]) -> usize {
        let out = &mut out[..self.bytes()];
        out.fill(0);
        let (kind, name) = match self {
            Self::Negotiate { .. } => (TYPE_COMMON, id::NEGOTIATE),
            Self::Challenge { .. } => (TYPE_DHCHAP, id::CHALLENGE),
            Self::Reply { .. } => (TYPE_DHCHAP, id::REPLY),
            Self::Success1 { .. } => (TYPE_DHCHAP, id::SUCCESS1),
            Self::Success2 => (TYPE_DHCHAP, id::SUCCESS2),
            Self::Failure1 { .. } => (TYPE_COMMON, id::FAILURE1),
            Self::Failure2 { .. } => (TYPE_COMMON, id::FAILURE2),
        };
        out[0] = kind;
        out[1] = name;
        transaction.put(&mut out[4..]);
        let byte = |len: usize| u8::try_from(len).expect("a digest is short");
        let word = |len: usize| u16::try_from(len).expect("a value is short");
        match *self {
            Self::Negotiate { secure_channel, offer } => {
                out[6] = secure_channel;
                out[7] = 1;
                let descriptor = &mut out[SHORT_BYTES..];
                let offer = offer.unwrap_or(AuthOffer { hashes: &[], groups: &[] });
                descriptor[0] = PROTOCOL_DHCHAP;
                descriptor[2] = byte(offer.hashes.len());
                descriptor[3] = byte(offer.groups.len());
                let (first, second) = descriptor[4..].split_at_mut(ID_LIST_MAX);
                first[..offer.hashes.len()].copy_from_slice(offer.hashes);
                second[..offer.groups.len()].copy_from_slice(offer.groups);
            }
            Self::Challenge { hash, group, seqnum, challenge, value } => {
                out[6] = byte(challenge.len());
                out[8] = hash;
                out[9] = group;
                word(value.len()).put(&mut out[10..]);
                seqnum.put(&mut out[12..]);
                let (first, second) = out[LONG_BYTES..].split_at_mut(challenge.len());
                first.copy_from_slice(challenge);
                second.copy_from_slice(value);
            }
            Self::Reply { response, challenge, seqnum, value } => {
                out[6] = byte(response.len());
                out[8] = challenge.is_some().into();
                word(value.len()).put(&mut out[10..]);
                seqnum.put(&mut out[12..]);
                let (first, rest) = out[LONG_BYTES..].split_at_mut(response.len());
                let (second, third) = rest.split_at_mut(response.len());
                first.copy_from_slice(response);
                if let Some(challenge) = challenge {
                    second.copy_from_slice(challenge);
                }
                third.copy_from_slice(value);
            }
            Self::Success1 { hash_bytes, response } => {
                out[6] = hash_bytes;
                if let Some(response) = response {
                    out[8] = 1;
                    out[LONG_BYTES..].copy_from_slice(response);
                }
            }
            Self::Success2 => {}
            Self::Failure1 { explanation } | Self::Failure2 { explanation } => {
                out[6] = 1;
                out[7] = explanation;
            }
        }
        out.len()
    }
}
