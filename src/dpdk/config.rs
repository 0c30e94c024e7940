//! What a link port is made of: a device, two addresses, an MTU. Turns them into DPDK's device arguments.
//! Refuses what would mean something else there; touches nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::PortError;
use crate::ethernet;

/// Smallest IPv4 MTU that every host must take (RFC 791).
pub const MTU_MIN: u16 = 576;
/// The same for IPv6 (RFC 8200).
pub const MTU_MIN_V6: u16 = 1280;
/// The largest frames that NICs commonly carry.
pub const MTU_MAX: u16 = 9000;

/// VLANs that a frame can belong to: 0 is none, 4095 is reserved (IEEE 802.1Q).
const VLAN_MIN: u16 = 1;
/// The other end.
const VLAN_MAX: u16 = 4094;

/// The device under a link port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkDevice {
    /// A kernel interface through a packet socket with mapped rings. Needs CAP_NET_RAW. Survives its peer and its link.
    AfPacket {
        /// Name of the interface in this network namespace. It should have no IP address of its own, or the kernel answers too.
        interface: String,
    },
    /// Shared memory with another process on this machine.
    Memif {
        /// Path of the UNIX socket that the two meet at.
        socket: PathBuf,
        /// Who makes the socket. The client reconnects when the server comes back.
        role: MemifRole,
    },
    /// Any other virtual device of DPDK, as `--vdev` takes it: `net_null0,size=64`.
    Vdev(String),
    /// A NIC that the kernel has given up: its PCI address, as [`EalConfig::pci`](crate::EalConfig::pci) had it.
    Pci(String),
}

/// The two ends of a memif.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemifRole {
    /// Makes the socket and waits.
    Server,
    /// Connects, and brings the shared memory.
    Client,
}

/// A link port's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// The device.
    pub device: LinkDevice,
    /// Our address and UDP port.
    pub local: SocketAddr,
    /// The peer's, of the same family.
    pub peer: SocketAddr,
    /// The router that leads to the peer; `None`: both are on one Ethernet segment.
    pub gateway: Option<IpAddr>,
    /// The 802.1Q VLAN of every frame, 1 to 4094; `None`: no tag.
    pub vlan: Option<u16>,
    /// The Ethernet address that frames go to, the peer's or the gateway's; `None` asks for it by ARP or NDP.
    pub peer_mac: Option<[u8; 6]>,
    /// Largest IP packet, [`MTU_MIN`] to [`MTU_MAX`]. Both ends must agree, and all between them carry it.
    pub mtu: u16,
}

/// A device as DPDK takes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceArguments {
    pub(crate) bus: Bus,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// Where a device comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    /// Made for us, and gone when we are.
    Virtual,
    /// There before us: found when the EAL starts.
    Pci,
}

impl LinkConfig {
    /// The largest Ethernet frame, without FCS.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        usize::from(self.mtu) + ethernet::header_bytes(self.vlan)
    }

    /// The size of one slot of a device's ring: the power of two that holds a frame and a driver's own header (af_packet: 66 bytes).
    pub(crate) fn slot_bytes(&self) -> usize {
        (self.frame_bytes_max() + RING_HEADER_BYTES_MAX).next_power_of_two()
    }

    /// Room for a frame in a buffer of ours. A ring's driver fills as much as a slot has; NICs want powers of two, too. af_xdp
    /// wants a whole buffer, with what DPDK and the kernel keep in front of it, in one page.
    pub(crate) fn room_bytes(&self) -> usize {
        match self.device {
            LinkDevice::Vdev(_) => {
                (self.frame_bytes_max() + XDP_HEADROOM_BYTES).next_multiple_of(CACHE_LINE_BYTES)
            }
            LinkDevice::AfPacket { .. } | LinkDevice::Memif { .. } | LinkDevice::Pci(_) => {
                self.slot_bytes()
            }
        }
    }

    /// Buffers for arriving frames: a device's ring (512), a burst, a thread's cache. af_xdp takes 2048 for its ring, whatever
    /// it is asked for; other devices may be as greedy, so they get what fits into as much memory.
    pub(crate) fn receive_buffers(&self) -> u32 {
        match self.device {
            LinkDevice::Vdev(_) => {
                let fitting = RECEIVE_BYTES / self.room_bytes();
                (fitting as u32).clamp(RECEIVE_BUFFERS, RECEIVE_BUFFERS_MAX)
            }
            LinkDevice::AfPacket { .. } | LinkDevice::Memif { .. } | LinkDevice::Pci(_) => {
                RECEIVE_BUFFERS
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), PortError> {
        let v4 = self.local.is_ipv4();
        let least = if v4 { MTU_MIN } else { MTU_MIN_V6 };
        if !(least..=MTU_MAX).contains(&self.mtu) {
            return Err(PortError::Mtu { mtu: self.mtu, least });
        }
        let others = [Some(self.peer.ip()), self.gateway];
        if others.iter().flatten().any(|ip| ip.is_ipv4() != v4) {
            return Err(PortError::Families);
        }
        if self.vlan.is_some_and(|vlan| !(VLAN_MIN..=VLAN_MAX).contains(&vlan)) {
            return Err(PortError::Vlan(self.vlan.unwrap_or(0)));
        }
        Ok(())
    }

    pub(crate) fn arguments(&self) -> Result<DeviceArguments, PortError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let slot = self.slot_bytes();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(match &self.device {
            LinkDevice::AfPacket { interface } => {
                let interface = plain(interface, libc::IFNAMSIZ - 1)?;
                // framesz is what counts, whatever the MTU says: larger frames are truncated without a word. The rings are
                // walked as one array, so it must divide the block.
                let block = slot.max(AF_PACKET_BLOCK_BYTES);
                DeviceArguments {
                    bus: Bus::Virtual,
                    name: format!("net_af_packet_ibid{number}"),
                    arguments: format!(
                        "iface={interface},blocksz={block},framesz={slot},framecnt={AF_PACKET_FRAMES}"
                    ),
                }
            }
            LinkDevice::Memif { socket, role } => {
                let socket = plain(socket.to_str().ok_or(PortError::Name)?, UNIX_PATH_BYTES_MAX)?;
                // bsize belongs to the client. A frame larger than it corrupts a mixed stream, so it holds the largest.
                let role = match role {
                    MemifRole::Server => "role=server".to_owned(),
                    MemifRole::Client => format!("role=client,bsize={slot}"),
                };
                DeviceArguments {
                    bus: Bus::Virtual,
                    name: format!("net_memif_ibid{number}"),
                    arguments: format!(
                        "{role},socket={socket},socket-abstract=no,rsize={MEMIF_RING_LOG2}"
                    ),
                }
            }
            LinkDevice::Vdev(text) => {
                let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
                DeviceArguments {
                    bus: Bus::Virtual,
                    name: plain(name, DEVICE_NAME_BYTES_MAX)?.to_owned(),
                    arguments: arguments.to_owned(),
                }
            }
            LinkDevice::Pci(address) => DeviceArguments {
                bus: Bus::Pci,
                name: plain(address, DEVICE_NAME_BYTES_MAX)?.to_owned(),
                arguments: String::new(),
            },
        })
    }
}

/// `text`, if DPDK's argument parser takes it as one plain word of at most `bytes_max` bytes.
fn plain(text: &str, bytes_max: usize) -> Result<&str, PortError> {
    let special = |c: char| c.is_whitespace() || c.is_control() || ",=[]\"'\\".contains(c);
    if text.is_empty() || text.len() > bytes_max || text.contains(special) {
        return Err(PortError::Name);
    }
    Ok(text)
}

/// What af_packet's ring needs in a slot before the frame: 80 bytes (TPACKET2 header, address, alignment) less the Ethernet header.
const RING_HEADER_BYTES_MAX: usize = 66;
const CACHE_LINE_BYTES: usize = 64;
/// What the kernel leaves free before a frame that it hands to af_xdp.
const XDP_HEADROOM_BYTES: usize = 256;
/// One less than a power of two: what a pool of DPDK holds best.
const RECEIVE_BUFFERS: u32 = 1023;
const RECEIVE_BUFFERS_MAX: u32 = 4095;
/// Of the EAL's memory: a quarter.
const RECEIVE_BYTES: usize = 16 << 20;
/// Slots in each of af_packet's two rings: at 16 KiB each, 8 MiB; about 1 ms of traffic at the rate the device reaches.
const AF_PACKET_FRAMES: usize = 512;
/// One allocation of the kernel for the ring; a whole number of slots.
const AF_PACKET_BLOCK_BYTES: usize = 64 << 10;
/// 2^9 slots in each of memif's two rings.
const MEMIF_RING_LOG2: usize = 9;
/// `sun_path` less its NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// RTE_ETH_NAME_MAX_LEN less its NUL.
const DEVICE_NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: LinkDevice, mtu: u16) -> LinkConfig {
        let address = |last| SocketAddr::from(([192, 0, 2, last], 4421));
        LinkConfig {
            device,
            local: address(1),
            peer: address(2),
            gateway: None,
            vlan: None,
            peer_mac: None,
            mtu,
        }
    }

    #[test]
    fn a_slot_holds_the_largest_frame_and_the_ring_header() {
        for mtu in [MTU_MIN, 1500, 1968, 1969, 4300, 8192, MTU_MAX] {
            let config = config(LinkDevice::Vdev("net_null0".into()), mtu);
            assert!(config.slot_bytes() >= config.frame_bytes_max() + RING_HEADER_BYTES_MAX);
            assert_eq!(AF_PACKET_BLOCK_BYTES % config.slot_bytes(), 0);
        }
    }

    #[test]
    fn the_client_alone_sizes_the_buffers_of_a_memif() {
        let of = |role| {
            let device = LinkDevice::Memif { socket: "/run/x.sock".into(), role };
            config(device, 9000).arguments().unwrap().arguments
        };
        assert!(of(MemifRole::Client).contains("bsize=16384"));
        assert!(!of(MemifRole::Server).contains("bsize"));
    }

    #[test]
    fn names_that_would_add_arguments_are_refused() {
        for name in ["", "a,b", "a=b", "a b", "[x]", "a\n", "sixteen-bytes-xx"] {
            let device = LinkDevice::AfPacket { interface: name.into() };
            assert_eq!(config(device, 1500).arguments(), Err(PortError::Name), "{name:?}");
        }
        let long = format!("/{}", "x".repeat(107));
        let device = LinkDevice::Memif { socket: long.into(), role: MemifRole::Server };
        assert_eq!(config(device, 1500).arguments(), Err(PortError::Name));
    }

    #[test]
    fn an_mtu_outside_the_bounds_is_refused() {
        let null = || LinkDevice::Vdev("net_null0".into());
        let refused = |mtu, least| Err(PortError::Mtu { mtu, least });
        assert_eq!(config(null(), 9001).check(), refused(9001, 576));
        assert_eq!(config(null(), 575).check(), refused(575, 576));
        let ends = ["[2001:db8::1]:1", "[2001:db8::2]:2"].map(|end| end.parse().unwrap());
        let [local, peer] = ends;
        let v6 = |mtu| LinkConfig { local, peer, ..config(null(), mtu) };
        assert_eq!(v6(1279).check(), refused(1279, 1280));
        assert_eq!(v6(1280).check(), Ok(()));
        assert_eq!(config(null(), 1500).check(), Ok(()));
    }

    #[test]
    fn ends_of_two_families_and_vlans_that_are_none_are_refused() {
        let plain = || config(LinkDevice::Vdev("net_null0".into()), 1500);
        let peer = "[2001:db8::2]:2".parse().unwrap();
        assert_eq!(LinkConfig { peer, ..plain() }.check(), Err(PortError::Families));
        let gateway = Some("fe80::1".parse().unwrap());
        assert_eq!(LinkConfig { gateway, ..plain() }.check(), Err(PortError::Families));
        for vlan in [0, 4095, u16::MAX] {
            let tagged = LinkConfig { vlan: Some(vlan), ..plain() };
            assert_eq!(tagged.check(), Err(PortError::Vlan(vlan)));
        }
        let tagged = LinkConfig { vlan: Some(4094), ..plain() };
        assert_eq!((tagged.check(), tagged.frame_bytes_max()), (Ok(()), 1518));
    }
}
