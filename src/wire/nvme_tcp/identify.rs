//! Identify data (Base 5.17.2, NVM 4.1.5): what the fields ibid fills or reads lie at. Everything else is zero.

use super::layout::Field;

/// Every Identify structure has this length.
pub const IDENTIFY_BYTES: usize = 4096;

/// CNS values: what an Identify asks for.
pub mod cns {
    /// Namespace, NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// List of active namespaces.
    pub const NAMESPACE_LIST: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const DESCRIPTORS: u8 = 0x03;
    /// Namespace, of one command set.
    pub const SET_NAMESPACE: u8 = 0x05;
    /// Controller, of one command set.
    pub const SET_CONTROLLER: u8 = 0x06;
    /// List of active namespaces of one command set.
    pub const SET_NAMESPACE_LIST: u8 = 0x07;
    /// Namespace, independent of command sets.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// List of allocated namespaces.
    pub const ALLOCATED_LIST: u8 = 0x10;
    /// Namespace that is allocated, attached or not.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// List of controllers that a namespace is attached to.
    pub const ATTACHED_CONTROLLERS: u8 = 0x12;
    /// List of controllers.
    pub const CONTROLLER_LIST: u8 = 0x13;
    /// Command sets of the controller.
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// Command set identifiers.
pub mod csi {
    /// The NVM command set.
    pub const NVM: u8 = 0;
}

/// Bits of [`IdentifyController::oncs`].
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Save and Select fields of features.
    pub const SAVE_AND_SELECT: u16 = 1 << 4;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
}

/// Bits of [`IdentifyController::fuses`].
pub mod fuses {
    /// Compare and Write.
    pub const COMPARE_AND_WRITE: u16 = 1 << 0;
}

/// CNTRLTYPE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ControllerKind {
    /// Serves namespaces.
    Io = 1,
    /// Serves the discovery log only.
    Discovery = 2,
}

layout! {
    /// Identify Controller (CNS 01h).
    pub struct IdentifyController [4096] {
        /// Serial number, padded with spaces.
        serial: [u8; 20] = 4,
        /// Model, padded with spaces.
        model: [u8; 40] = 24,
        /// Firmware revision, padded with spaces.
        firmware: [u8; 8] = 64,
        /// Multi-path capabilities.
        cmic: u8 = 76,
        /// Longest transfer as a power of two of 4 KiB; 0 is no limit.
        mdts: u8 = 77,
        /// Controller identifier.
        cntlid: u16 = 78,
        /// Version.
        version: u32 = 80,
        /// Asynchronous events it may send.
        oaes: u32 = 92,
        /// Attributes.
        ctratt: u32 = 96,
        /// See [`ControllerKind`].
        kind: u8 = 111,
        /// Command retry delay 1, in 100 ms.
        crdt1: u16 = 128,
        /// Optional admin commands.
        oacs: u16 = 256,
        /// Abort limit, minus one.
        acl: u8 = 258,
        /// Asynchronous event request limit, minus one.
        aerl: u8 = 259,
        /// Firmware slots.
        frmw: u8 = 260,
        /// Log page attributes.
        lpa: u8 = 261,
        /// Error log entries, minus one.
        elpe: u8 = 262,
        /// Granularity of the keep-alive timer, in 100 ms.
        kas: u16 = 320,
        /// Longest time in the ANA state "change", in seconds.
        anatt: u8 = 342,
        /// ANA states that are told, see [`super::AnaState::capability`]; bit 6: no namespace changes its group.
        anacap: u8 = 343,
        /// Highest ANA group.
        anagrpmax: u32 = 344,
        /// ANA groups.
        nanagrpid: u32 = 348,
        /// Submission entry sizes.
        sqes: u8 = 512,
        /// Completion entry sizes.
        cqes: u8 = 513,
        /// Most outstanding commands per queue.
        maxcmd: u16 = 514,
        /// Highest namespace identifier.
        nn: u32 = 516,
        /// Optional I/O commands, see [`oncs`].
        oncs: u16 = 520,
        /// Fused operations, see [`fuses`].
        fuses: u16 = 522,
        /// Volatile write cache.
        vwc: u8 = 525,
        /// Atomic write unit, minus one.
        awun: u16 = 526,
        /// Atomic write unit across power failure, minus one.
        awupf: u16 = 528,
        /// Atomic compare and write unit, minus one.
        acwu: u16 = 532,
        /// SGL support.
        sgls: u32 = 536,
        /// Most namespaces.
        mnan: u32 = 540,
        /// The subsystem's NQN, NUL-terminated.
        subnqn: [u8; 256] = 768,
        /// Command capsule size in 16 bytes.
        ioccsz: u32 = 1792,
        /// Response capsule size in 16 bytes.
        iorcsz: u32 = 1796,
        /// Most SGL descriptors in a capsule.
        msdbd: u8 = 1803,
        /// Optional fabrics commands: bit 0 is Disconnect.
        ofcs: u16 = 1804,
    }
}

layout! {
    /// Identify Namespace (CNS 00h) with one LBA format.
    pub struct IdentifyNamespace [4096] {
        /// Size in logical blocks.
        nsze: u64 = 0,
        /// Capacity in logical blocks.
        ncap: u64 = 8,
        /// Use in logical blocks.
        nuse: u64 = 16,
        /// Features.
        nsfeat: u8 = 24,
        /// LBA formats, minus one.
        nlbaf: u8 = 25,
        /// The format in use.
        flbas: u8 = 26,
        /// Sharing.
        nmic: u8 = 30,
        /// What deallocated blocks read as.
        dlfeat: u8 = 33,
        /// Atomic write unit, minus one.
        nawun: u16 = 34,
        /// Atomic write unit across power failure, minus one.
        nawupf: u16 = 36,
        /// Atomic compare and write unit, minus one.
        nacwu: u16 = 38,
        /// Atomic boundary; 0 is none.
        nabsn: u16 = 40,
        /// Atomic boundary offset.
        nabo: u16 = 42,
        /// Atomic boundary across power failure; 0 is none.
        nabspf: u16 = 44,
        /// Preferred write granularity, minus one.
        npwg: u16 = 64,
        /// Preferred write alignment, minus one.
        npwa: u16 = 66,
        /// Preferred deallocate granularity, minus one.
        npdg: u16 = 68,
        /// Preferred deallocate alignment, minus one.
        npda: u16 = 70,
        /// Optimal write size, minus one.
        nows: u16 = 72,
        /// ANA group.
        anagrpid: u32 = 92,
        /// Globally unique identifier.
        nguid: [u8; 16] = 104,
        /// Extended unique identifier.
        eui64: [u8; 8] = 120,
        /// Metadata bytes of format 0.
        lbaf0_metadata: u16 = 128,
        /// Logical block of format 0 as a power of two.
        lbaf0_shift: u8 = 130,
    }
}

layout! {
    /// Identify Namespace independent of command sets (CNS 08h).
    pub struct IdentifyIndependentNamespace [4096] {
        /// Features.
        nsfeat: u8 = 0,
        /// Sharing.
        nmic: u8 = 1,
        /// ANA group.
        anagrpid: u32 = 4,
        /// State: bit 0 is ready.
        nstat: u8 = 14,
    }
}

layout! {
    /// Identify Controller of the NVM command set (CNS 06h): limits of commands MDTS says nothing about.
    pub struct IdentifyNvmController [4096] {
        /// Verify limit as a power of two of 4 KiB.
        vsl: u8 = 0,
        /// Write Zeroes limit as a power of two of 4 KiB.
        wzsl: u8 = 1,
        /// Most ranges in a Dataset Management.
        dmrl: u8 = 3,
        /// Most logical blocks in one of them.
        dmrsl: u32 = 4,
        /// Most logical blocks in one Dataset Management; 0 is no limit.
        dmsl: u64 = 8,
    }
}

/// Names of a namespace that no restart may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceId {
    /// EUI64 (descriptor type 1).
    pub eui64: [u8; 8],
    /// NGUID (descriptor type 2).
    pub nguid: [u8; 16],
    /// UUID (descriptor type 3).
    pub uuid: [u8; 16],
}

const DESCRIPTOR_EUI64: u8 = 1;
const DESCRIPTOR_NGUID: u8 = 2;
const DESCRIPTOR_UUID: u8 = 3;
const DESCRIPTOR_CSI: u8 = 4;
const DESCRIPTOR_HEAD_BYTES: usize = 4;

/// Writes the identification descriptors (CNS 03h) of a namespace of the NVM command set.
pub fn emit_descriptors(id: &NamespaceId, out: &mut [u8; IDENTIFY_BYTES]) {
    out.fill(0);
    let mut at = 0;
    for (kind, bytes) in [
        (DESCRIPTOR_EUI64, &id.eui64[..]),
        (DESCRIPTOR_NGUID, &id.nguid[..]),
        (DESCRIPTOR_UUID, &id.uuid[..]),
        (DESCRIPTOR_CSI, &[csi::NVM][..]),
    ] {
        out[at] = kind;
        out[at + 1] = bytes.len() as u8;
        at += DESCRIPTOR_HEAD_BYTES;
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
}

/// Reads identification descriptors; kinds ibid does not use are passed over, a broken list ends the reading.
pub fn parse_descriptors(bytes: &[u8; IDENTIFY_BYTES]) -> NamespaceId {
    let mut id = NamespaceId::default();
    let mut rest = &bytes[..];
    while let [kind, len, _, _, body @ ..] = rest {
        let len = usize::from(*len);
        if len == 0 || len > body.len() {
            break;
        }
        match (*kind, len) {
            (DESCRIPTOR_EUI64, 8) => id.eui64 = Field::get(body),
            (DESCRIPTOR_NGUID, 16) => id.nguid = Field::get(body),
            (DESCRIPTOR_UUID, 16) => id.uuid = Field::get(body),
            _ => {}
        }
        rest = &body[len..];
    }
    id
}

/// Writes a namespace list (CNS 02h) of the identifiers given, which ascend; returns how many fitted.
pub fn emit_namespace_list(
    ids: impl Iterator<Item = u32>,
    out: &mut [u8; IDENTIFY_BYTES],
) -> usize {
    out.fill(0);
    let mut count = 0;
    for (place, id) in out.chunks_exact_mut(4).zip(ids) {
        id.put(place);
        count += 1;
    }
    count
}

/// Writes a controller list (CNS 12h and 13h) of the identifiers given, which ascend; returns how many fitted.
pub fn emit_controller_list(
    ids: impl Iterator<Item = u16>,
    out: &mut [u8; IDENTIFY_BYTES],
) -> usize {
    out.fill(0);
    let mut count = 0;
    for (place, id) in out[2..].chunks_exact_mut(2).zip(ids) {
        id.put(place);
        count += 1;
    }
    (count as u16).put(&mut out[..2]);
    count
}
