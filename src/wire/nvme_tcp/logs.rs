//! Log pages (Base 5.16.1): the parts ibid fills or reads.

/// Log page identifiers.
pub mod log_page {
    /// Error information.
    pub const ERRORS: u8 = 0x01;
    /// Health.
    pub const HEALTH: u8 = 0x02;
    /// Firmware slots.
    pub const FIRMWARE: u8 = 0x03;
    /// Commands supported and effects.
    pub const EFFECTS: u8 = 0x05;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// Effects entry: the command is supported.
pub const EFFECTS_SUPPORTED: u32 = 1 << 0;
/// Effects entry: the command may change logical blocks.
pub const EFFECTS_WRITES: u32 = 1 << 1;

layout! {
    /// Health (LID 02h).
    pub struct HealthLog [512] {
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
        /// 2 is a subsystem with namespaces.
        subtype: u8 = 2,
        /// Transport requirements; bit 2: flow control may be off.
        treq: u8 = 3,
        /// Port number within the subsystem.
        portid: u16 = 4,
        /// FFFFh: any controller.
        cntlid: u16 = 6,
        /// Entries of the admin queue.
        asqsz: u16 = 8,
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
