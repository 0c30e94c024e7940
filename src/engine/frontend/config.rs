//! What the target is told at start: its names, its namespaces, its bounds. Checked once, never changed.

use alloc::{string::String, vec::Vec};
use ibid_chap::Secret;
use ibid_units::VolumeId;
use ibid_wire::nvme_tcp::{AnaState, AuthHash, DhGroup};

/// Commands per queue, at most: tags carry the slot in 11 bits.
pub(super) const QUEUE_DEPTH_LIMIT: u16 = 1024;
/// I/O queues per controller, at most.
pub(super) const IO_QUEUES_LIMIT: u16 = 64;
/// Bytes of in-capsule data that admin queues take, and every queue before Connect (TCP 3.3: at least 8192).
pub(super) const ADMIN_CAPSULE_BYTES: u32 = 8192;
/// The largest range of a Write Zeroes or of a deallocation.
pub(super) const ZEROES_BYTES_MAX: u64 = 8 << 20;
/// Other discovery subsystems that are named, at most.
pub const REFERRALS_MAX: usize = 8;

/// The largest range of a Verify: it is read at once, like the longest read.
pub(super) const VERIFY_BYTES_MAX: u64 = 1 << 20;

/// Everything a [`super::Frontend`] needs to know.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The subsystem's NQN.
    pub nqn: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model, at most 40.
    pub model: String,
    /// Firmware revision, at most 8.
    pub firmware: String,
    /// What is served; at least one, each volume once.
    pub namespaces: Vec<NamespaceConfig>,
    /// How hosts may reach them here, until [`super::Frontend::set_access`] says otherwise.
    pub access: AnaState,
    /// Bounds.
    pub limits: Limits,
    /// Host NQNs that may connect; `None`: any.
    pub hosts: Option<Vec<String>>,
    /// Which of them must authenticate, and how.
    pub auth: AuthConfig,
    /// The address that the discovery log names.
    pub traddr: String,
    /// The TCP port that the discovery log names.
    pub trsvcid: u16,
    /// Number of this port of the subsystem; the peer node's has another.
    pub port_id: u16,
    /// Other discovery subsystems that the discovery log names, at most [`REFERRALS_MAX`].
    pub referrals: Vec<Referral>,
    /// Controller identifiers this frontend may give, first and last. They must not be given by another shard or by the peer
    /// node under the same NQN: Linux refuses a subsystem that shows one identifier twice.
    pub controller_ids: (u16, u16),
}

/// In-band authentication. Without hosts, nobody is asked for it.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// Hosts that must authenticate, each once.
    pub hosts: Vec<HostAuth>,
    /// Hash functions that are allowed, the preferred one first.
    pub hashes: Vec<AuthHash>,
    /// Groups that are allowed, the preferred one first.
    pub groups: Vec<DhGroup>,
}

/// A host that must authenticate.
#[derive(Clone, Debug)]
pub struct HostAuth {
    /// Its NQN.
    pub nqn: String,
    /// What it proves to know.
    pub secret: Secret,
    /// What we prove to know if it asks. A host that asks without this is refused.
    pub controller_secret: Option<Secret>,
}

/// Another discovery subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Referral {
    /// Its IP address.
    pub traddr: String,
    /// Its TCP port.
    pub trsvcid: u16,
}

/// One volume as a namespace; its identifier is the volume's number plus one.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceConfig {
    /// The volume.
    pub volume: VolumeId,
    /// Its size in 512-byte sectors; a multiple of the logical block.
    pub capacity: u64,
    /// Logical block: 512 or 4096.
    pub lba_bytes: u32,
    /// The same on both nodes and after every restart.
    pub uuid: [u8; 16],
    /// The same on both nodes and after every restart.
    pub nguid: [u8; 16],
}

impl NamespaceConfig {
    pub(super) const fn id(&self) -> u32 {
        self.volume.get() as u32 + 1
    }
    /// Its EUI64, made of the UUID: the same on both nodes and after every restart. Its first byte says that no authority gave it
    /// (locally administered), so it is nobody else's.
    pub(super) fn eui64(&self) -> [u8; 8] {
        // FNV-1a, 64 bits. Halves of UUIDs that were counted up by hand are alike; their hashes are not.
        let hash = self.uuid.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut eui64 = hash.to_be_bytes();
        eui64[0] = eui64[0] & !1 | 2;
        eui64
    }
    pub(super) const fn blocks(&self) -> u64 {
        self.capacity / (self.lba_bytes as u64 / 512)
    }
    /// Logical blocks of a transfer of so many bytes, as a 0-based 16-bit field.
    pub(super) const fn blocks_field(&self, bytes: u32) -> u16 {
        let blocks = bytes / self.lba_bytes;
        if blocks > 1 << 16 { u16::MAX } else { (blocks - 1) as u16 }
    }
}

/// Bounds of everything a host can make grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections.
    pub connections_max: u16,
    /// TCP connections from one address; with IPv6 from one /64.
    pub connections_per_address: u16,
    /// Queues of one host, by its NQN: admin and I/O, of all its controllers but those for discovery.
    pub connections_per_host: u16,
    /// Controllers, discovery controllers among them.
    pub controllers_max: u16,
    /// I/O queues per controller.
    pub io_queues_max: u16,
    /// Entries per queue; at least 32 in practice, for so many Linux and SPDK want for their admin queues.
    pub queue_depth_max: u16,
    /// Longest read or write (MDTS): a power of two of 4096.
    pub transfer_bytes_max: u32,
    /// Data that an I/O command may carry in its capsule; a multiple of 4096. Larger writes wait for an R2T.
    pub in_capsule_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            connections_per_address: 64,
            connections_per_host: 64,
            controllers_max: 16,
            io_queues_max: 16,
            queue_depth_max: 128,
            transfer_bytes_max: 1 << 20,
            in_capsule_bytes: 16384,
        }
    }
}

impl TargetConfig {
    /// # Panics
    /// If a value is outside of what this file's comments allow; the control plane has refused that before, in words.
    pub(super) fn check(&self) {
        let limits = &self.limits;
        assert!(ibid_wire::nvme_tcp::put_nqn(&self.nqn).is_some(), "the subsystem's NQN is no NQN");
        for (index, host) in self.auth.hosts.iter().enumerate() {
            assert!(!self.auth.hashes.is_empty(), "no hash function to authenticate with");
            assert!(!self.auth.groups.is_empty(), "no group to authenticate with");
            assert!(
                self.auth.hosts[..index].iter().all(|other| other.nqn != host.nqn),
                "a host has two secrets"
            );
        }
        assert!(!self.namespaces.is_empty(), "no namespace to serve");
        for (index, namespace) in self.namespaces.iter().enumerate() {
            assert!(
                matches!(namespace.lba_bytes, 512 | 4096),
                "a logical block has 512 or 4096 bytes"
            );
            assert!(namespace.capacity > 0, "a namespace is empty");
            assert!(
                namespace.capacity.is_multiple_of(u64::from(namespace.lba_bytes) / 512),
                "a namespace ends within a block"
            );
            assert!(
                self.namespaces[..index].iter().all(|other| other.volume != namespace.volume),
                "a volume is served twice"
            );
        }
        assert!(self.referrals.len() <= REFERRALS_MAX, "too many referrals");
        assert!(limits.connections_max >= 1, "no connections");
        assert!(limits.connections_per_address >= 1, "no connections from an address");
        assert!(limits.connections_per_host >= 1, "no connections of a host");
        assert!(limits.controllers_max >= 1, "no controllers");
        assert!((1..=IO_QUEUES_LIMIT).contains(&limits.io_queues_max), "I/O queues out of range");
        assert!(
            (2..=QUEUE_DEPTH_LIMIT).contains(&limits.queue_depth_max),
            "queue depth out of range"
        );
        assert!(
            limits.transfer_bytes_max.is_power_of_two(),
            "the longest transfer is no power of two"
        );
        assert!(
            (4096..=32 << 20).contains(&limits.transfer_bytes_max),
            "the longest transfer is out of range"
        );
        assert!(
            limits.in_capsule_bytes.is_multiple_of(4096),
            "in-capsule data is not whole blocks"
        );
        assert!(limits.in_capsule_bytes >= 4096, "a list of ranges must fit a capsule");
        assert!(
            limits.in_capsule_bytes <= limits.transfer_bytes_max,
            "in-capsule data is larger than a transfer"
        );
        assert!(self.controller_ids.0 >= 1, "controller identifiers start at 1");
        assert!(self.controller_ids.0 <= self.controller_ids.1, "no controller identifiers");
        assert!(self.controller_ids.1 <= 0xffef, "controller identifiers end at FFEFh");
        assert!(
            self.controller_ids.1 - self.controller_ids.0 >= limits.controllers_max - 1,
            "too few controller identifiers"
        );
    }
}
