//! The PDUs of NVMe/TCP (TCP 3.6): common header, connection initialisation, data, R2T and termination.
//! A capsule is a common header and a [`super::Sqe`] or [`super::Cqe`] behind it.

/// Bytes of the common header.
pub const COMMON_BYTES: usize = 8;
/// Bytes of ICReq and ICResp.
pub const IC_BYTES: usize = 128;
/// Header bytes of a command capsule.
pub const CAPSULE_BYTES: usize = 72;
/// Header bytes of a response capsule.
pub const RESPONSE_BYTES: usize = 24;
/// Header bytes of the data, R2T and termination PDUs.
pub const SHORT_BYTES: usize = 24;
/// Bytes of a header or data digest.
pub const DIGEST_BYTES: usize = 4;
/// At most so many bytes of the offending header travel in a termination PDU (PLEN ≤ 152).
pub const TERM_DATA_BYTES_MAX: usize = 128;

/// What a PDU is (TCP 3.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PduKind {
    /// Host opens the connection.
    IcReq = 0x00,
    /// Controller's answer to it.
    IcResp = 0x01,
    /// Host gives up the connection.
    H2cTermReq = 0x02,
    /// Controller gives up the connection.
    C2hTermReq = 0x03,
    /// A command, possibly with data.
    CapsuleCmd = 0x04,
    /// A completion.
    CapsuleResp = 0x05,
    /// Write data the controller asked for.
    H2cData = 0x06,
    /// Read data.
    C2hData = 0x07,
    /// Controller is ready to receive.
    R2t = 0x09,
}

impl PduKind {
    /// The kind with this number, if there is one.
    pub const fn new(raw: u8) -> Option<Self> {
        Some(match raw {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// The header length PDUs of this kind must state in HLEN.
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => IC_BYTES,
            Self::CapsuleCmd => CAPSULE_BYTES,
            Self::H2cTermReq
            | Self::C2hTermReq
            | Self::CapsuleResp
            | Self::H2cData
            | Self::C2hData
            | Self::R2t => SHORT_BYTES,
        }
    }
}

/// Flags of the common header.
pub mod pdu_flag {
    /// A header digest follows the header.
    pub const HDGST: u8 = 1 << 0;
    /// A data digest follows the data.
    pub const DDGST: u8 = 1 << 1;
    /// Last data PDU of the transfer (H2CData, C2HData).
    pub const LAST: u8 = 1 << 2;
    /// The command succeeded and no response capsule follows (C2HData).
    pub const SUCCESS: u8 = 1 << 3;
}

/// Digests that are asked for or granted in ICReq and ICResp.
pub mod dgst {
    /// Header digest.
    pub const HEADER: u8 = 1 << 0;
    /// Data digest.
    pub const DATA: u8 = 1 << 1;
}

layout! {
    /// The first 8 bytes of every PDU (TCP 3.6.1).
    pub struct CommonHeader [8] {
        /// The PDU's kind, see [`PduKind`].
        kind: u8 = 0,
        /// See [`pdu_flag`].
        flags: u8 = 1,
        /// Header length.
        hlen: u8 = 2,
        /// Offset of the data from the start of the PDU; 0 without data.
        pdo: u8 = 3,
        /// Length of the whole PDU.
        plen: u32 = 4,
    }
}

impl CommonHeader {
    /// The header of a PDU without data or digests.
    pub const fn plain(kind: PduKind) -> Self {
        let hlen = kind.header_bytes();
        Self { kind: kind as u8, flags: 0, hlen: hlen as u8, pdo: 0, plen: hlen as u32 }
    }
}

layout! {
    /// ICReq behind its common header (TCP 3.6.2.2); the offsets are the PDU's.
    pub struct IcReq [128] {
        /// PDU format version, 0.
        pfv: u16 = 8,
        /// Alignment the host wants of C2HData, in dwords, minus one.
        hpda: u8 = 10,
        /// Digests the host wants, see [`dgst`].
        dgst: u8 = 11,
        /// Outstanding R2Ts the host takes per command, minus one.
        maxr2t: u32 = 12,
    }
}

layout! {
    /// ICResp behind its common header (TCP 3.6.2.3); the offsets are the PDU's.
    pub struct IcResp [128] {
        /// PDU format version, 0.
        pfv: u16 = 8,
        /// Alignment the controller wants of H2CData and in-capsule data, in dwords, minus one.
        cpda: u8 = 10,
        /// Digests that are granted.
        dgst: u8 = 11,
        /// Most data bytes in one H2CData PDU; a multiple of 4, at least 4096.
        maxh2cdata: u32 = 12,
    }
}

layout! {
    /// H2CData and C2HData behind the common header (TCP 3.6.2.6, 3.6.2.7); the offsets are the PDU's.
    pub struct DataPdu [24] {
        /// The command's identifier.
        cccid: u16 = 8,
        /// The R2T's tag (H2CData only).
        ttag: u16 = 10,
        /// Offset of this data in the command's data (C2HData), or in the command's data as the R2T asked (H2CData).
        datao: u32 = 12,
        /// Bytes of data.
        datal: u32 = 16,
    }
}

layout! {
    /// R2T behind the common header (TCP 3.6.2.8); the offsets are the PDU's.
    pub struct R2t [24] {
        /// The command's identifier.
        cccid: u16 = 8,
        /// Tag that the host's data carries.
        ttag: u16 = 10,
        /// Offset in the command's data that is asked for.
        r2to: u32 = 12,
        /// Bytes that are asked for.
        r2tl: u32 = 16,
    }
}

layout! {
    /// H2CTermReq and C2HTermReq behind the common header (TCP 3.6.2.4, 3.6.2.5); the offending header follows.
    pub struct TermReq [24] {
        /// Fatal error status, see [`FatalError::fes`].
        fes: u16 = 8,
        /// More about it: a byte offset, or the digest that was received.
        fei: u32 = 10,
    }
}

/// Why a connection is given up (TCP 3.6.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FatalError {
    /// 01h, with the offset of the field.
    #[error("invalid PDU header field at byte {0}")]
    HeaderField(u8),
    /// 02h.
    #[error("PDU out of sequence")]
    Sequence,
    /// 03h, with the digest that came.
    #[error("header digest error, received {0:#010x}")]
    HeaderDigest(u32),
    /// 04h.
    #[error("data outside of what was asked for")]
    OutOfRange,
    /// 05h.
    #[error("more data than the limit allows")]
    LimitExceeded,
    /// 06h, with the offset of the parameter.
    #[error("unsupported parameter at byte {0}")]
    Unsupported(u8),
}

impl FatalError {
    /// The number on the wire.
    pub const fn fes(self) -> u16 {
        match self {
            Self::HeaderField(_) => 1,
            Self::Sequence => 2,
            Self::HeaderDigest(_) => 3,
            Self::OutOfRange => 4,
            Self::LimitExceeded => 5,
            Self::Unsupported(_) => 6,
        }
    }
    /// The information that goes with it.
    pub const fn fei(self) -> u32 {
        match self {
            Self::HeaderField(at) | Self::Unsupported(at) => at as u32,
            Self::HeaderDigest(got) => got,
            Self::Sequence | Self::OutOfRange | Self::LimitExceeded => 0,
        }
    }
    /// What a termination PDU says, if its number is one of the six.
    pub const fn from_term(term: TermReq) -> Option<Self> {
        Some(match term.fes {
            1 => Self::HeaderField(term.fei as u8),
            2 => Self::Sequence,
            3 => Self::HeaderDigest(term.fei),
            4 => Self::OutOfRange,
            5 => Self::LimitExceeded,
            6 => Self::Unsupported(term.fei as u8),
            _ => return None,
        })
    }
}
