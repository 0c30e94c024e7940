//! A node's configuration: one TOML file, read once at start into plain types that need no further checks.
//! Takes a file; gives a [`Config`], or a [`ConfigError`] that names every mistake with file, key, value and what is allowed.
//! Opens none of the devices it names, so what only they can tell (a size, a missing interface) is found at start.
//!
//! CONFIG-1  A `Config` that came out of [`Config::parse`] has passed every check here, and `parse(to_toml(c)) == c`.
//!           One put together by a program has not: write it with `to_toml` and have the node read it.

mod build;
mod emit;
mod keys;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ibid_units::{BLOCK_BYTES, Nanos};

pub use keys::reference;
pub use read::{ConfigError, Problem};
pub use value::{
    AuthGroup, AuthHash, CpMode, DISCOVERY_NQN, Durability, Encryption, Idle, MemifRole,
    NQN_BYTES_MAX, NQN_UUID_PREFIX, OnPeerLoss, Role, Uuid, ValueError, format_mac, format_size,
    format_span, is_nqn, parse_mac, parse_size, parse_span,
};

/// What a node is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Who the node is.
    pub node: Node,
    /// Its log.
    pub log: Log,
    /// The way to its peer.
    pub link: Link,
    /// What happens without the peer, and when it is back.
    pub peer: Peer,
    /// Where clients connect; always there at a source. At a destination they find volumes that are inaccessible there.
    pub target: Option<Target>,
    /// Which hosts must authenticate, and how.
    pub auth: Auth,
    /// Its volumes, at least one; the first is NVMe namespace 1.
    pub volumes: Vec<Volume>,
}

/// Section `[node]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Name in status and logs.
    pub name: String,
    /// What it does for the pair.
    pub role: Role,
    /// The pair it belongs to, never nil.
    pub pair: Uuid,
    /// The core its shard is pinned to.
    pub cpu: Option<usize>,
    /// What the shard does with nothing to do.
    pub idle: Idle,
    /// Whether memory is to come from huge pages.
    pub huge_pages: bool,
    /// Bytes of one of those: [`HUGE_PAGE_SIZES`].
    pub huge_page_size: u64,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Bytes of memory for reads from the volume.
    pub read_memory: u64,
}

/// Section `[log]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The log's file or block device.
    pub device: PathBuf,
    /// Bytes of the device the log may use. `None`: [`Log::size_needed`], which only the volumes' devices can tell.
    pub size: Option<u64>,
    /// Segments in the ring.
    pub segments: u32,
    /// Bytes of a segment, a multiple of 2 MiB.
    pub segment_size: u64,
    /// What an acknowledged write has reached on this node.
    pub durability: Durability,
    /// Longest time between consistency points.
    pub cp_interval: Nanos,
    /// What a consistency point sends.
    pub cp_mode: CpMode,
}

/// Section `[link]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The DPDK port.
    pub device: LinkDevice,
    /// This node's address on it.
    pub local: SocketAddr,
    /// The peer's, on another IP address of the same family.
    pub peer: SocketAddr,
    /// Bits that all addresses of `local`'s network share; `None`: the peer is on the link.
    pub prefix: Option<u8>,
    /// The router of that network.
    pub gateway: Option<IpAddr>,
    /// The VLAN of all frames, 1 to 4094.
    pub vlan: Option<u16>,
    /// The Ethernet address of the peer, or of the gateway that leads to it, where nobody shall be asked.
    pub peer_mac: Option<[u8; 6]>,
    /// Largest IP packet, 1500 to 9000.
    pub mtu: u16,
    /// The file with the pair's key; `None`: systemd gives it ([`KEY_CREDENTIAL`]). It is read at start, and no part of a configuration.
    pub key: Option<PathBuf>,
    /// What is done to frames.
    pub encryption: Encryption,
}

/// Which device the link's DPDK port is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkDevice {
    /// A kernel interface.
    AfPacket {
        /// Its name.
        interface: String,
    },
    /// Shared memory with a process of this machine.
    Memif {
        /// The socket the two meet at.
        socket: PathBuf,
        /// Which end this is.
        role: MemifRole,
    },
    /// A virtual device as DPDK's `--vdev` takes it.
    Vdev(String),
    /// A NIC bound to vfio-pci, by its PCI address with domain, in lower case: `0000:3b:00.0`.
    Pci(String),
}

/// Section `[peer]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// What a source does with writes while its peer is away.
    pub on_loss: OnPeerLoss,
    /// The silence after which a peer is away.
    pub timeout: Nanos,
    /// How long a write waits for a peer that is away, with [`OnPeerLoss::Stall`].
    pub stall_timeout: Nanos,
    /// Most bytes of catching up in a second.
    pub catch_up_rate: Option<u64>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            on_loss: OnPeerLoss::Stall,
            timeout: Nanos::from_millis(2_000),
            stall_timeout: Nanos::from_millis(20_000),
            catch_up_rate: None,
        }
    }
}

impl Log {
    /// The least a log takes on its device, in bytes: superblocks, segments, and the out-of-sync map of volumes of these sizes.
    pub fn size_needed(segments: u32, segment_size: u64, volumes: &[u64]) -> u64 {
        let map: u64 = volumes.iter().map(|bytes| map_bytes(*bytes)).sum();
        u64::from(segments) * segment_size + LOG_HEAD_BYTES + map
    }

    /// The size the log has on its device with volumes of these sizes, or what `log.size` must be instead, beginning with a verb.
    pub fn size_with(&self, volumes: &[u64]) -> Result<u64, String> {
        let needed = Self::size_needed(self.segments, self.segment_size, volumes);
        match self.size {
            Some(size) if size < needed => {
                let map: u64 = volumes.iter().map(|bytes| map_bytes(*bytes)).sum();
                // Without a volume of known size there is more to come, when their devices are open.
                let map = if map == 0 { "room".to_owned() } else { format_size(map) };
                Err(format!(
                    "must be at least {}, that is {} segments of {}, {} for superblocks, and {map} for the map of the volumes",
                    format_size(needed),
                    self.segments,
                    format_size(self.segment_size),
                    format_size(LOG_HEAD_BYTES),
                ))
            }
            Some(size) => Ok(size),
            None => Ok(needed),
        }
    }
}

/// Bytes that a volume's part of the out-of-sync map takes: whole pages, so that each volume begins one.
pub const fn map_bytes(volume_bytes: u64) -> u64 {
    volume_bytes.div_ceil(BLOCK_BYTES).div_ceil(MAP_PAGE_BLOCKS) * BLOCK_BYTES
}

impl Link {
    /// Whether this node is the first of the two: something in which they differ, and that no change of roles changes.
    pub fn is_first(&self) -> bool {
        self.local < self.peer
    }

    /// The router that frames to the peer go to, where it is not on the link itself.
    pub fn router(&self) -> Option<IpAddr> {
        self.gateway.filter(|_| !self.is_near(self.peer.ip()))
    }

    /// Whether an address is of `local`'s network. Link-local ones always are.
    pub(crate) fn is_near(&self, ip: IpAddr) -> bool {
        let Some(prefix) = self.prefix else { return true };
        match (self.local.ip(), ip) {
            (IpAddr::V4(local), IpAddr::V4(ip)) => {
                (local.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(prefix)
            }
            (IpAddr::V6(local), IpAddr::V6(ip)) => {
                ip.is_unicast_link_local()
                    || (local.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl LinkDevice {
    /// The word `link.device` has for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::AfPacket { .. } => "af_packet",
            Self::Memif { .. } => "memif",
            Self::Vdev(_) => "vdev",
            Self::Pci(_) => "pci",
        }
    }
}

/// Section `[target]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where clients connect. Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Whether `listen` was allowed to be a wildcard.
    pub allow_wildcard: bool,
    /// Name of the subsystem.
    pub nqn: String,
    /// Its serial number, 1 to 20 ASCII characters.
    pub serial: String,
    /// Who may connect.
    pub hosts: Hosts,
    /// Largest queue a client may ask for.
    pub queue_depth: u16,
    /// I/O queues a client may have.
    pub io_queues: u16,
    /// TCP connections from one address.
    pub connections_per_address: u16,
    /// Queues of one host, over all its controllers.
    pub connections_per_host: u16,
    /// Other discovery services that are named, at most [`REFERRALS_MAX`].
    pub referrals: Vec<SocketAddr>,
}

/// Which hosts may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Every host, because the operator wrote so.
    Any,
    /// Hosts with one of these NQNs.
    Only(Vec<String>),
}

/// Section `[auth]` and every `[[host]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Auth {
    /// Hash functions that are allowed, the preferred one first.
    pub hashes: Vec<AuthHash>,
    /// Groups that are allowed, the preferred one first.
    pub groups: Vec<AuthGroup>,
    /// Hosts that must authenticate.
    pub hosts: Vec<AuthHost>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            hashes: vec![AuthHash::Sha512, AuthHash::Sha384, AuthHash::Sha256],
            groups: vec![
                AuthGroup::Ffdhe3072,
                AuthGroup::Ffdhe4096,
                AuthGroup::Ffdhe6144,
                AuthGroup::Ffdhe8192,
            ],
            hosts: Vec::new(),
        }
    }
}

/// One `[[host]]`. Its secrets are read at start, and are no part of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthHost {
    /// Its NQN.
    pub nqn: String,
    /// The file with its secret.
    pub secret: PathBuf,
    /// The file with the secret that the target proves to know.
    pub controller_secret: Option<PathBuf>,
}

/// One `[[volume]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Name in status and logs.
    pub name: String,
    /// Backing file or block device.
    pub device: PathBuf,
    /// Its size in bytes, a multiple of 4 KiB; a missing file is made with it. `None`: what the device has.
    pub size: Option<u64>,
    /// Bytes in a logical block: 512 or 4096.
    pub lba: u32,
    /// How hosts recognise it, never nil.
    pub uuid: Uuid,
}

/// Room for superblocks in front of the log's segments; where docs/format.md has the first segment begin.
pub const LOG_HEAD_BYTES: u64 = 1 << 20;
/// Blocks of a volume that a page of the out-of-sync map has a bit for, as docs/format.md draws it.
pub const MAP_PAGE_BLOCKS: u64 = 32_512;
/// What `node.huge_page_size` may be.
pub const HUGE_PAGE_SIZES: [u64; 2] = [2 << 20, 1 << 30];
/// Name of the credential that stands for `link.key`.
pub const KEY_CREDENTIAL: &str = "ibid-link-key";
/// Most volumes a node has.
pub const VOLUMES_MAX: usize = 48;
/// What `peer.catch_up_rate` says where there is no limit.
pub(crate) const UNLIMITED: &str = "unlimited";
/// Most discovery services that can be named.
pub const REFERRALS_MAX: usize = 8;
/// Most hosts that can be named.
pub const HOSTS_MAX: usize = 64;
/// Largest file that is taken for a configuration.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads and checks a node's file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |says: String| ConfigError {
            file: file.to_owned(),
            problems: vec![Problem::Unreadable(says)],
        };
        let mut bytes = Vec::new();
        std::fs::File::open(file)
            .and_then(|opened| opened.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| unreadable(error.to_string()))?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(unreadable(format!("larger than {}", format_size(CONFIG_BYTES_MAX))));
        }
        let text = String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8 text".to_owned()))?;
        Self::parse(&text, file)
    }

    /// Checks a file's text; `file` is what errors name.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let config = match read::parse(text) {
            Ok(root) => build::build(&root, &mut problems),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => {
                assert!(
                    !problems.is_empty(),
                    "CONFIG-1: a configuration is refused without a reason"
                );
                Err(ConfigError { file: file.to_owned(), problems })
            }
        }
    }
}
