//! Fabrics commands: Connect, Property Get and Set, and the controller properties behind them (Base 3.1.3, 6).

use super::command::{Sgl, Sqe, opcode, psdt};
use super::layout::Field;

/// The well-known name of a discovery subsystem (Base 4.5).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// Longest NQN, without its NUL (Base 4.5).
pub const NQN_BYTES_MAX: usize = 223;

/// FCTYPE values (Base 6).
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Authentication Send.
    pub const AUTH_SEND: u8 = 0x05;
    /// Authentication Receive.
    pub const AUTH_RECEIVE: u8 = 0x06;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;
}

/// Offsets of controller properties (Base 3.1.3).
pub mod property {
    /// Capabilities, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VS: u32 = 0x08;
    /// Configuration, 4 bytes.
    pub const CC: u32 = 0x14;
    /// Status, 4 bytes.
    pub const CSTS: u32 = 0x1c;
    /// Ready timeouts, 4 bytes.
    pub const CRTO: u32 = 0x68;
}

/// The fields of a Connect command (Base 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect {
    /// Record format, 0.
    pub recfmt: u16,
    /// Queue: 0 is the admin queue.
    pub qid: u16,
    /// Entries of the submission queue, minus one.
    pub sqsize: u16,
    /// Attributes.
    pub cattr: u8,
    /// Keep-alive timeout in milliseconds (admin queue).
    pub kato_ms: u32,
}

impl Connect {
    /// Bit of `cattr`: the host wants no submission queue flow control.
    pub const NO_FLOW_CONTROL: u8 = 1 << 2;
    /// Where SQSIZE stands in the command: what a refusal names.
    pub const SQSIZE_AT: u16 = 44;
    /// Where QID stands in the command.
    pub const QID_AT: u16 = 42;

    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self {
            recfmt: sqe.cdw10 as u16,
            qid: (sqe.cdw10 >> 16) as u16,
            sqsize: sqe.cdw11 as u16,
            cattr: (sqe.cdw11 >> 16) as u8,
            kato_ms: sqe.cdw12,
        }
    }
    /// The command, its data in the capsule.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(opcode::FABRICS, cid, fctype::CONNECT as u32);
        sqe.flags = psdt::SGL;
        sqe.sgl = Sgl::in_capsule(ConnectData::BYTES as u32);
        sqe.cdw10 = self.recfmt as u32 | (self.qid as u32) << 16;
        sqe.cdw11 = self.sqsize as u32 | (self.cattr as u32) << 16;
        sqe.cdw12 = self.kato_ms;
        sqe
    }
}

layout! {
    /// The data of a Connect command (Base 6.3).
    pub struct ConnectData [1024] {
        /// Who the host is.
        hostid: [u8; 16] = 0,
        /// The controller; FFFFh asks for any (admin queue).
        cntlid: u16 = 16,
        /// The subsystem's NQN, NUL-terminated.
        subnqn: [u8; 256] = 256,
        /// The host's NQN, NUL-terminated.
        hostnqn: [u8; 256] = 512,
    }
}

impl ConnectData {
    /// Asks for any controller.
    pub const CNTLID_ANY: u16 = 0xffff;
    /// Where CNTLID stands in the data: what a refusal names.
    pub const CNTLID_AT: u16 = 16;
    /// Where SUBNQN stands.
    pub const SUBNQN_AT: u16 = 256;
    /// Where HOSTNQN stands.
    pub const HOSTNQN_AT: u16 = 512;
}

/// What is wrong with a Connect's parameters: dword 0 of a completion with [`super::Status::CONNECT_INVALID_PARAMETERS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectRefusal {
    /// Offset of the parameter.
    pub ipo: u16,
    /// Whether it stands in the data rather than in the command.
    pub in_data: bool,
}

impl ConnectRefusal {
    /// From the completion.
    pub const fn parse(result: u64) -> Self {
        Self { ipo: result as u16, in_data: result >> 16 & 1 != 0 }
    }
    /// For the completion.
    pub const fn emit(self) -> u64 {
        self.ipo as u64 | (self.in_data as u64) << 16
    }
}

/// The NQN in a NUL-terminated field, if it is one: terminated, not empty, not too long, printable ASCII only. (UTF-8 is allowed by
/// the standard in names nobody uses; refusing it keeps every byte safe to log.)
pub fn nqn_of(field: &[u8; 256]) -> Option<&str> {
    let len = field.iter().position(|&byte| byte == 0)?;
    if len == 0 || len > NQN_BYTES_MAX {
        return None;
    }
    let name = &field[..len];
    if !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    core::str::from_utf8(name).ok()
}

/// The field for an NQN; `None` where it is no NQN (see [`nqn_of`]).
pub fn put_nqn(nqn: &str) -> Option<[u8; 256]> {
    let mut field = [0; 256];
    field.get_mut(..nqn.len())?.copy_from_slice(nqn.as_bytes());
    nqn_of(&field)?;
    Some(field)
}

/// The fields of a Property Get (Base 6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertyGet {
    /// Whether 8 bytes are asked for rather than 4; `None` for a size that does not exist.
    pub wide: Option<bool>,
    /// See [`property`].
    pub offset: u32,
}

const fn width(cdw10: u32) -> Option<bool> {
    match cdw10 & 7 {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl PropertyGet {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self { wide: width(sqe.cdw10), offset: sqe.cdw11 }
    }
    /// The command; a size that does not exist is sent as the reserved value 7.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(opcode::FABRICS, cid, fctype::PROPERTY_GET as u32);
        sqe.cdw10 = match self.wide {
            Some(wide) => wide as u32,
            None => 7,
        };
        sqe.cdw11 = self.offset;
        sqe
    }
}

/// The fields of a Property Set (Base 6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertySet {
    /// Whether 8 bytes are set rather than 4; `None` for a size that does not exist.
    pub wide: Option<bool>,
    /// See [`property`].
    pub offset: u32,
    /// The value.
    pub value: u64,
}

impl PropertySet {
    /// Reads them.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self {
            wide: width(sqe.cdw10),
            offset: sqe.cdw11,
            value: sqe.cdw12 as u64 | (sqe.cdw13 as u64) << 32,
        }
    }
    /// The command.
    pub const fn emit(&self, cid: u16) -> Sqe {
        let mut sqe = PropertyGet { wide: self.wide, offset: self.offset }.emit(cid);
        sqe.nsid = fctype::PROPERTY_SET as u32;
        sqe.cdw12 = self.value as u32;
        sqe.cdw13 = (self.value >> 32) as u32;
        sqe
    }
}

/// Controller capabilities (Base 3.1.3.1): what ibid sets or reads of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    /// Entries of the largest queue, minus one.
    pub mqes: u16,
    /// Longest time to become ready, in half seconds.
    pub timeout_500ms: u8,
}

impl Cap {
    /// Queues must be contiguous: always so over fabrics.
    const CQR: u64 = 1 << 16;
    /// The NVM command set is there.
    const CSS_NVM: u64 = 1 << 37;
    /// Controller ready with media is supported: demanded of version 2.0.
    const CRWMS: u64 = 1 << 59;

    /// From the property.
    pub const fn parse(raw: u64) -> Self {
        Self { mqes: raw as u16, timeout_500ms: (raw >> 24) as u8 }
    }
    /// As the property.
    pub const fn emit(self) -> u64 {
        self.mqes as u64
            | Self::CQR
            | (self.timeout_500ms as u64) << 24
            | Self::CSS_NVM
            | Self::CRWMS
    }
}

/// Controller configuration (Base 3.1.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cc(pub u32);

impl Cc {
    /// Enable, with 64-byte submission and 16-byte completion entries, NVM command set, 4 KiB pages, round robin.
    pub const ENABLED: Cc = Cc(1 | 6 << 16 | 4 << 20);

    /// EN.
    pub const fn enable(self) -> bool {
        self.0 & 1 != 0
    }
    /// CSS: 0 is the NVM command set.
    pub const fn command_sets(self) -> u8 {
        (self.0 >> 4 & 7) as u8
    }
    /// MPS: 0 is 4 KiB.
    pub const fn page_shift(self) -> u8 {
        (self.0 >> 7 & 15) as u8
    }
    /// AMS: 0 is round robin.
    pub const fn arbitration(self) -> u8 {
        (self.0 >> 11 & 7) as u8
    }
    /// SHN: 0 none, 1 normal, 2 abrupt.
    pub const fn shutdown(self) -> u8 {
        (self.0 >> 14 & 3) as u8
    }
    /// The same with a normal shutdown asked for.
    #[must_use]
    pub const fn with_shutdown(self) -> Self {
        Self(self.0 & !(3 << 14) | 1 << 14)
    }
    /// IOSQES as a power of two.
    pub const fn sq_entry_shift(self) -> u8 {
        (self.0 >> 16 & 15) as u8
    }
    /// IOCQES as a power of two.
    pub const fn cq_entry_shift(self) -> u8 {
        (self.0 >> 20 & 15) as u8
    }
}

/// Controller status (Base 3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Csts {
    /// RDY.
    pub ready: bool,
    /// CFS.
    pub failed: bool,
    /// SHST is 2: shutdown is complete.
    pub shut_down: bool,
}

impl Csts {
    /// From the property.
    pub const fn parse(raw: u32) -> Self {
        Self { ready: raw & 1 != 0, failed: raw & 2 != 0, shut_down: raw >> 2 & 3 == 2 }
    }
    /// As the property.
    pub const fn emit(self) -> u32 {
        self.ready as u32 | (self.failed as u32) << 1 | (self.shut_down as u32) << 3
    }
}

const _: () = assert!(<[u8; 256] as Field>::LEN > NQN_BYTES_MAX);
