//! The fields of admin and I/O commands, each bit field named once: reads them from a [`Sqe`] and makes the command from them.

use super::command::{Sgl, Sqe, opcode};

/// The range of a Read, Write or Write Zeroes (NVM 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// First logical block.
    pub slba: u64,
    /// Logical blocks, 1 to 65536.
    pub blocks: u32,
    /// Force unit access.
    pub fua: bool,
}

const FUA: u32 = 1 << 30;
const DEAC: u32 = 1 << 25;

/// Whether a Write Zeroes asks to deallocate (NVM 3.2.8, DEAC).
pub const fn write_zeroes_deallocates(sqe: &Sqe) -> bool {
    sqe.cdw12 & DEAC != 0
}

/// The directive type of a write (NVM 3.2.6, DTYPE); 0 is none.
pub const fn directive_type(sqe: &Sqe) -> u8 {
    (sqe.cdw12 >> 20 & 0xf) as u8
}

impl Io {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self {
            slba: sqe.cdw10 as u64 | (sqe.cdw11 as u64) << 32,
            blocks: (sqe.cdw12 & 0xffff) + 1,
            fua: sqe.cdw12 & FUA != 0,
        }
    }
    /// The command, without its data.
    ///
    /// # Panics
    /// If `blocks` is 0 or more than 65536.
    pub const fn emit(&self, code: u8, cid: u16, nsid: u32) -> Sqe {
        assert!(self.blocks >= 1);
        assert!(self.blocks <= 1 << 16);
        let mut sqe = Sqe::new(code, cid, nsid);
        sqe.cdw10 = self.slba as u32;
        sqe.cdw11 = (self.slba >> 32) as u32;
        sqe.cdw12 = (self.blocks - 1) | if self.fua { FUA } else { 0 };
        sqe
    }
    /// A Write Zeroes that asks to deallocate.
    pub const fn emit_zeroes(&self, cid: u16, nsid: u32, deallocate: bool) -> Sqe {
        let mut sqe = self.emit(opcode::WRITE_ZEROES, cid, nsid);
        if deallocate {
            sqe.cdw12 |= DEAC;
        }
        sqe
    }
}

/// The fields of a Dataset Management command (NVM 3.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deallocate {
    /// Ranges, 1 to 256.
    pub ranges: u16,
    /// AD: without it the command is a hint that changes nothing.
    pub deallocate: bool,
}

impl Deallocate {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self { ranges: (sqe.cdw10 & 0xff) as u16 + 1, deallocate: sqe.cdw11 & 4 != 0 }
    }
    /// The command, its list in the capsule.
    ///
    /// # Panics
    /// If `ranges` is 0 or more than 256.
    pub const fn emit(&self, cid: u16, nsid: u32) -> Sqe {
        assert!(self.ranges >= 1);
        assert!(self.ranges <= 256);
        let mut sqe = Sqe::new(opcode::DATASET_MANAGEMENT, cid, nsid);
        sqe.cdw10 = self.ranges as u32 - 1;
        sqe.cdw11 = (self.deallocate as u32) << 2;
        sqe.sgl = Sgl::in_capsule(self.ranges as u32 * DsmRange::BYTES as u32);
        sqe
    }
}

layout! {
    /// One range of a Dataset Management command (NVM 3.2.3.1).
    pub struct DsmRange [16] {
        /// Context attributes, hints.
        attributes: u32 = 0,
        /// Logical blocks.
        blocks: u32 = 4,
        /// First logical block.
        slba: u64 = 8,
    }
}

/// The fields of an Identify command (Base 5.17).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identify {
    /// What is asked for, see [`super::cns`].
    pub cns: u8,
    /// Command set.
    pub csi: u8,
    /// Namespace.
    pub nsid: u32,
    /// Controller that a controller list begins at.
    pub cntid: u16,
}

impl Identify {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self {
            cns: sqe.cdw10 as u8,
            csi: (sqe.cdw11 >> 24) as u8,
            nsid: sqe.nsid,
            cntid: (sqe.cdw10 >> 16) as u16,
        }
    }
    /// A question about a namespace or the controller, of the NVM command set.
    pub const fn of(cns: u8, nsid: u32) -> Self {
        Self { cns, csi: super::csi::NVM, nsid, cntid: 0 }
    }
    /// The command.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(opcode::IDENTIFY, cid, self.nsid);
        sqe.cdw10 = self.cns as u32 | (self.cntid as u32) << 16;
        sqe.cdw11 = (self.csi as u32) << 24;
        sqe.sgl = Sgl::transport(super::IDENTIFY_BYTES as u32);
        sqe
    }
}

/// The fields of a Get Log Page command (Base 5.16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetLogPage {
    /// Which page, see [`super::log_page`].
    pub lid: u8,
    /// Bytes wanted, 4 to 16 GiB: 64 bits so that nothing wraps.
    pub bytes: u64,
    /// Offset in the page.
    pub offset: u64,
    /// The offset is an index of entries, which ibid does not support.
    pub by_index: bool,
    /// Events that the page tells of stay as they are (RAE).
    pub retain: bool,
    /// Log specific field.
    pub specific: u8,
    /// Command set, where the page is of one.
    pub csi: u8,
    /// Namespace; 0 and FFFFFFFFh mean the controller.
    pub nsid: u32,
}

/// Retain asynchronous event.
const RAE: u32 = 1 << 15;

impl GetLogPage {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        let numd = (sqe.cdw10 >> 16) as u64 | ((sqe.cdw11 & 0xffff) as u64) << 16;
        Self {
            lid: sqe.cdw10 as u8,
            bytes: (numd + 1) * 4,
            offset: sqe.cdw12 as u64 | (sqe.cdw13 as u64) << 32,
            by_index: sqe.cdw14 & 1 << 23 != 0,
            retain: sqe.cdw10 & RAE != 0,
            specific: (sqe.cdw10 >> 8 & 0x7f) as u8,
            csi: (sqe.cdw14 >> 24) as u8,
            nsid: sqe.nsid,
        }
    }
    /// The first `bytes` of a page of the controller; events that it tells of are cleared.
    pub const fn of(lid: u8, bytes: u32) -> Self {
        Self {
            lid,
            bytes: bytes as u64,
            offset: 0,
            by_index: false,
            retain: false,
            specific: 0,
            csi: 0,
            nsid: u32::MAX,
        }
    }
    /// The command.
    ///
    /// # Panics
    /// If `bytes` is not a multiple of 4 between 4 and 16 GiB.
    pub const fn emit(&self, cid: u16) -> Sqe {
        assert!(self.bytes >= 4);
        assert!(self.bytes.is_multiple_of(4));
        assert!(self.bytes <= 4 << 32);
        let numd = self.bytes / 4 - 1;
        let mut sqe = Sqe::new(opcode::GET_LOG_PAGE, cid, self.nsid);
        sqe.cdw10 = self.lid as u32
            | (self.specific as u32 & 0x7f) << 8
            | if self.retain { RAE } else { 0 }
            | ((numd as u32) & 0xffff) << 16;
        sqe.cdw11 = (numd >> 16) as u32 & 0xffff;
        sqe.cdw12 = self.offset as u32;
        sqe.cdw13 = (self.offset >> 32) as u32;
        sqe.cdw14 = (self.by_index as u32) << 23 | (self.csi as u32) << 24;
        sqe.sgl = Sgl::transport(self.bytes as u32);
        sqe
    }
}

/// Feature identifiers (Base 5.27.1).
pub mod feature {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power management.
    pub const POWER: u8 = 0x02;
    /// Temperature threshold.
    pub const TEMPERATURE: u8 = 0x04;
    /// Error recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Number of queues.
    pub const QUEUES: u8 = 0x07;
    /// Write atomicity normal.
    pub const ATOMICITY: u8 = 0x0a;
    /// Asynchronous event configuration.
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Keep-alive timeout.
    pub const KEEP_ALIVE: u8 = 0x0f;
    /// Host identifier.
    pub const HOST_ID: u8 = 0x81;
    /// Host Behavior Support, with [`HOST_BEHAVIOR_BYTES`](super::HOST_BEHAVIOR_BYTES) of data.
    pub const HOST_BEHAVIOR: u8 = 0x16;
}

/// Bytes of the data of Host Behavior Support (Base 5.27.1.18).
pub const HOST_BEHAVIOR_BYTES: usize = 512;

/// The fields of a Set Features command (Base 5.27).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetFeatures {
    /// See [`feature`].
    pub fid: u8,
    /// Keep it over resets.
    pub save: bool,
    /// Dword 11.
    pub value: u32,
}

impl SetFeatures {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self { fid: sqe.cdw10 as u8, save: sqe.cdw10 >> 31 != 0, value: sqe.cdw11 }
    }
    /// The command.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(opcode::SET_FEATURES, cid, 0);
        sqe.cdw10 = self.fid as u32 | (self.save as u32) << 31;
        sqe.cdw11 = self.value;
        sqe
    }
}

/// The fields of a Get Features command (Base 5.15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetFeatures {
    /// See [`feature`].
    pub fid: u8,
    /// 0 current, 1 default, 2 saved, 3 capabilities.
    pub select: u8,
    /// Dword 11, which some features need.
    pub value: u32,
}

impl GetFeatures {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self { fid: sqe.cdw10 as u8, select: (sqe.cdw10 >> 8 & 7) as u8, value: sqe.cdw11 }
    }
    /// The command.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(opcode::GET_FEATURES, cid, 0);
        sqe.cdw10 = self.fid as u32 | (self.select as u32 & 7) << 8;
        sqe.cdw11 = self.value;
        sqe
    }
}
