//! Submission and completion queue entries, SGL descriptors, opcodes.

use super::layout::Field;
use super::status::Status;

/// Opcodes ibid knows (Base 5, NVM 3).
pub mod opcode {
    /// Admin: Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Admin: Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Admin: Abort.
    pub const ABORT: u8 = 0x08;
    /// Admin: Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Admin: Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Admin: Asynchronous Event Request.
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    /// Admin: Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
    /// I/O: Flush.
    pub const FLUSH: u8 = 0x00;
    /// I/O: Write.
    pub const WRITE: u8 = 0x01;
    /// I/O: Read.
    pub const READ: u8 = 0x02;
    /// I/O: Compare.
    pub const COMPARE: u8 = 0x05;
    /// I/O: Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// I/O: Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// I/O: Verify.
    pub const VERIFY: u8 = 0x0c;
    /// A fabrics command; its kind is in FCTYPE.
    pub const FABRICS: u8 = 0x7f;
}

/// PRP or SGL: bits 7:6 of a command's second byte (Base 3.3.3.1).
pub mod psdt {
    /// SGL, metadata contiguous: what fabrics commands use.
    pub const SGL: u8 = 0b01 << 6;
    /// SGL, metadata by SGL.
    pub const SGL_METADATA: u8 = 0b10 << 6;
    /// The bits.
    pub const MASK: u8 = 0b11 << 6;
    /// The bits of fused operations in the same byte.
    pub const FUSE_MASK: u8 = 0b11;
    /// First command of a fused operation.
    pub const FUSE_FIRST: u8 = 0b01;
    /// Second command of a fused operation.
    pub const FUSE_SECOND: u8 = 0b10;
}

/// What the fuse bits of a command say (Base 3.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fuse {
    /// A command by itself.
    Not,
    /// The first of two.
    First,
    /// The second of two.
    Second,
    /// A value that has no meaning.
    Reserved,
}

/// Type and subtype of an SGL descriptor in its last byte (Base 4.1.2).
pub mod sgl_kind {
    /// Data block, address is an offset: data in the capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport SGL data block: data by data PDUs.
    pub const TRANSPORT: u8 = 0x5a;
}

/// An SGL descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sgl {
    /// Address; for data in the capsule the offset in it.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Type and subtype, see [`sgl_kind`].
    pub kind: u8,
}

impl Sgl {
    /// Data that stands in the capsule.
    pub const fn in_capsule(length: u32) -> Self {
        Self { address: 0, length, kind: sgl_kind::IN_CAPSULE }
    }
    /// Data that travels in data PDUs; with length 0, no data.
    pub const fn transport(length: u32) -> Self {
        Self { address: 0, length, kind: sgl_kind::TRANSPORT }
    }
}

impl Field for Sgl {
    const LEN: usize = 16;
    fn get(bytes: &[u8]) -> Self {
        Self { address: u64::get(bytes), length: u32::get(&bytes[8..]), kind: bytes[15] }
    }
    fn put(self, bytes: &mut [u8]) {
        self.address.put(bytes);
        self.length.put(&mut bytes[8..]);
        bytes[12..15].fill(0);
        bytes[15] = self.kind;
    }
}

layout! {
    /// A submission queue entry (Base 3.3.3.1). Fabrics commands have FCTYPE in the first byte of `nsid`.
    pub struct Sqe [64] {
        /// See [`opcode`].
        opcode: u8 = 0,
        /// Fuse and PSDT bits.
        flags: u8 = 1,
        /// Command identifier.
        cid: u16 = 2,
        /// Namespace.
        nsid: u32 = 4,
        /// Where the data is.
        sgl: Sgl = 24,
        /// Command dword 10.
        cdw10: u32 = 40,
        /// Command dword 11.
        cdw11: u32 = 44,
        /// Command dword 12.
        cdw12: u32 = 48,
        /// Command dword 13.
        cdw13: u32 = 52,
        /// Command dword 14.
        cdw14: u32 = 56,
        /// Command dword 15.
        cdw15: u32 = 60,
    }
}

impl Sqe {
    /// A command without data.
    pub const fn new(opcode: u8, cid: u16, nsid: u32) -> Self {
        Self {
            opcode,
            flags: psdt::SGL,
            cid,
            nsid,
            sgl: Sgl::transport(0),
            cdw10: 0,
            cdw11: 0,
            cdw12: 0,
            cdw13: 0,
            cdw14: 0,
            cdw15: 0,
        }
    }
    /// FCTYPE of a fabrics command.
    pub const fn fctype(&self) -> u8 {
        self.nsid as u8
    }
    /// Whether it names its data by SGL, as fabrics demand.
    pub const fn uses_sgl(&self) -> bool {
        matches!(self.flags & psdt::MASK, psdt::SGL | psdt::SGL_METADATA)
    }
    /// Whether it is part of a fused operation, and which.
    pub const fn fuse(&self) -> Fuse {
        match self.flags & psdt::FUSE_MASK {
            0 => Fuse::Not,
            psdt::FUSE_FIRST => Fuse::First,
            psdt::FUSE_SECOND => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }
    /// The same command as part of a fused operation.
    #[must_use]
    pub const fn fused(mut self, fuse: u8) -> Self {
        self.flags = self.flags & !psdt::FUSE_MASK | fuse & psdt::FUSE_MASK;
        self
    }
}

layout! {
    /// A completion queue entry (Base 3.3.3.2).
    pub struct Cqe [16] {
        /// Command-specific result, dwords 0 and 1.
        result: u64 = 0,
        /// Submission queue head; FFFFh in a Connect response grants that flow control is off.
        sqhd: u16 = 8,
        /// Submission queue; reserved over fabrics.
        sqid: u16 = 10,
        /// Command identifier.
        cid: u16 = 12,
        /// Status field.
        status: Status = 14,
    }
}

impl Cqe {
    /// A completion of `cid`; the queue head is filled in where it is known.
    pub const fn new(cid: u16, status: Status, result: u64) -> Self {
        Self { result, sqhd: 0, sqid: 0, cid, status }
    }
}
