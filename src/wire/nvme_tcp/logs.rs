//! Log pages (Base 5.16.1) and asynchronous events (Base 5.2): the parts ibid fills or reads.

use super::TooShort;
use super::identify::IDENTIFY_BYTES;

/// Log page identifiers.
pub mod log_page {
    /// Log pages that are supported.
    pub const SUPPORTED: u8 = 0x00;
    /// Error information.
    pub const ERRORS: u8 = 0x01;
    /// Health.
    pub const HEALTH: u8 = 0x02;
    /// Firmware slots.
    pub const FIRMWARE: u8 = 0x03;
    /// Namespaces that have changed.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects.
    pub const EFFECTS: u8 = 0x05;
    /// Asymmetric namespace access.
    pub const ANA: u8 = 0x0c;
    /// Features supported and effects.
    pub const FEATURES: u8 = 0x12;
    /// NVMe-MI commands supported and effects.
    pub const MANAGEMENT: u8 = 0x13;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// Effects entry: the command is supported.
pub const EFFECTS_SUPPORTED: u32 = 1 << 0;
/// Effects entry: the command may change logical blocks.
pub const EFFECTS_WRITES: u32 = 1 << 1;
/// Effects entry: the command may change what a controller can do.
pub const EFFECTS_CAPABILITY: u32 = 1 << 4;
/// Effects entry: what the command is about is one namespace …
pub const SCOPE_NAMESPACE: u32 = 1 << 20;
/// … or one controller.
pub const SCOPE_CONTROLLER: u32 = 1 << 21;
/// Entry of the supported log pages (LID 00h) and of the supported features (LID 12h): it is.
pub const IS_SUPPORTED: u32 = 1 << 0;
/// Bytes of the supported log pages, and of the features: a dword for each of 256 identifiers.
pub const SUPPORTED_BYTES: usize = 1024;
/// Bytes of the list of changed namespaces: 1024 identifiers.
pub const CHANGED_NAMESPACES_BYTES: usize = IDENTIFY_BYTES;

layout! {
    /// Health (LID 02h).
    pub struct HealthLog [512] {
        /// Critical warnings, see [`HealthLog::TEMPERATURE`].
        critical: u8 = 0,
        /// Kelvin.
        temperature: u16 = 1,
        /// Available spare in percent.
        spare: u8 = 3,
        /// Spare below which it warns.
        spare_threshold: u8 = 4,
        /// Thousands of 512-byte units read.
        units_read: u128 = 32,
        /// Thousands of 512-byte units written.
        units_written: u128 = 48,
        /// Read commands.
        host_reads: u128 = 64,
        /// Write commands.
        host_writes: u128 = 80,
    }
}

layout! {
    /// Firmware slots (LID 03h), one slot.
    pub struct FirmwareLog [512] {
        /// The active slot.
        active: u8 = 0,
        /// Revision in slot 1, padded with spaces.
        slot1: [u8; 8] = 8,
    }
}

layout! {
    /// Head of the discovery log (LID 70h, Base 5.16.1.23); the records follow.
    pub struct DiscoveryHeader [1024] {
        /// Changes when the log does.
        generation: u64 = 0,
        /// How many records follow.
        records: u64 = 8,
        /// Format of the records, 0.
        recfmt: u16 = 16,
    }
}

layout! {
    /// One subsystem in the discovery log.
    pub struct DiscoveryRecord [1024] {
        /// Transport: 3 is TCP.
        trtype: u8 = 0,
        /// 1 is IPv4, 2 is IPv6.
        adrfam: u8 = 1,
        /// See [`subtype`].
        subtype: u8 = 2,
        /// Transport requirements: bits 1:0 are 1 where a secure channel is required, 2 where it is not; bit 2: flow control may be off.
        treq: u8 = 3,
        /// Port number within the subsystem.
        portid: u16 = 4,
        /// FFFFh: any controller.
        cntlid: u16 = 6,
        /// Entries of the admin queue.
        asqsz: u16 = 8,
        /// Entry flags, see [`entry_flag`].
        eflags: u16 = 10,
        /// TCP port in decimal, padded with spaces.
        trsvcid: [u8; 32] = 32,
        /// Subsystem NQN, NUL-terminated.
        subnqn: [u8; 256] = 256,
        /// Address, padded with spaces.
        traddr: [u8; 256] = 512,
        /// 0 is no TLS.
        sectype: u8 = 768,
    }
}

/// Kinds of discovery records.
pub mod subtype {
    /// Another discovery subsystem: a referral.
    pub const REFERRAL: u8 = 1;
    /// A subsystem with namespaces.
    pub const NVM: u8 = 2;
    /// The discovery subsystem that is asked.
    pub const CURRENT: u8 = 3;
}

/// Bits of [`DiscoveryRecord::eflags`].
pub mod entry_flag {
    /// Whoever connects there hears the same that is said here.
    pub const DUPLICATE: u16 = 1 << 0;
    /// The discovery subsystem keeps a connection whose host asks for it by a keep-alive timeout.
    pub const PERSISTENT: u16 = 1 << 1;
}

impl HealthLog {
    /// Critical warning: the temperature is past a threshold.
    pub const TEMPERATURE: u8 = 1 << 1;
}

/// Asymmetric namespace access: what a path to a namespace is good for (Base 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AnaState {
    /// The best path.
    Optimized = 1,
    /// One that works, at a price.
    NonOptimized = 2,
    /// No path now; another controller may have one.
    Inaccessible = 3,
    /// No path, and it will never be one again.
    PersistentLoss = 4,
    /// Between two of the others.
    Change = 15,
}

impl AnaState {
    /// All of them.
    pub const ALL: [AnaState; 5] = [
        AnaState::Optimized,
        AnaState::NonOptimized,
        AnaState::Inaccessible,
        AnaState::PersistentLoss,
        AnaState::Change,
    ];

    /// The state with this code.
    pub fn new(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == code & 15)
    }
    /// Its bit in ANACAP.
    pub const fn capability(self) -> u8 {
        match self {
            Self::Optimized => 1 << 0,
            Self::NonOptimized => 1 << 1,
            Self::Inaccessible => 1 << 2,
            Self::PersistentLoss => 1 << 3,
            Self::Change => 1 << 4,
        }
    }
}

layout! {
    /// Head of the ANA log (LID 0Ch, Base 5.16.1.13); the groups follow.
    pub struct AnaHeader [16] {
        /// Grows when the log changes.
        changes: u64 = 0,
        /// How many groups follow.
        groups: u16 = 8,
    }
}

layout! {
    /// One group in the ANA log; its namespaces' identifiers follow, four bytes each.
    pub struct AnaGroup [32] {
        /// Its identifier.
        group: u32 = 0,
        /// Namespaces that follow.
        namespaces: u32 = 4,
        /// Grows when the state of the group changes.
        changes: u64 = 8,
        /// Its state in bits 3:0, see [`AnaState`].
        state: u8 = 16,
    }
}

impl AnaHeader {
    /// Log specific field of Get Log Page: groups without their namespaces (RGO).
    pub const GROUPS_ONLY: u8 = 1 << 0;
}

/// Reads an ANA log; tells each namespace with its state, and gives the change count. `None` is a state that
/// the standard does not have.
pub fn parse_ana(
    bytes: &[u8],
    mut each: impl FnMut(u32, Option<AnaState>),
) -> Result<u64, TooShort> {
    let header = AnaHeader::parse(bytes)?;
    let mut rest = &bytes[AnaHeader::BYTES..];
    for _ in 0..header.groups {
        let group = AnaGroup::parse(rest)?;
        rest = &rest[AnaGroup::BYTES..];
        let needed = group.namespaces as usize * 4;
        if rest.len() < needed {
            return Err(TooShort { needed, given: rest.len() });
        }
        let (ids, behind) = rest.split_at(needed);
        for id in ids.chunks_exact(4) {
            let id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
            each(id, AnaState::new(group.state));
        }
        rest = behind;
    }
    Ok(header.changes)
}

/// An asynchronous event, as dword 0 of the completion that tells it (Base 5.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// Type.
    pub kind: u8,
    /// Information, of that type.
    pub info: u8,
    /// The log page that tells more, and clears it.
    pub page: u8,
}

impl AsyncEvent {
    /// The temperature is past a threshold.
    pub const TEMPERATURE: Self = Self { kind: 1, info: 1, page: log_page::HEALTH };
    /// Notice: the ANA state of a group has changed.
    pub const ACCESS: Self = Self { kind: 2, info: 3, page: log_page::ANA };

    /// Reads it.
    pub const fn parse(dword: u32) -> Self {
        Self { kind: dword as u8 & 7, info: (dword >> 8) as u8, page: (dword >> 16) as u8 }
    }
    /// The dword.
    pub const fn emit(self) -> u32 {
        self.kind as u32 | (self.info as u32) << 8 | (self.page as u32) << 16
    }
}

/// Bits of OAES and of the feature that enables asynchronous events: the same for notices (Base 5.27.1.8).
pub mod event_bit {
    /// Critical warnings of the health log, bit by bit.
    pub const HEALTH: u32 = 0xff;
    /// ANA changes.
    pub const ACCESS: u32 = 1 << 11;
}
