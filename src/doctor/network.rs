//! The way to the peer: IOMMU and drivers of network cards, and of a node's own interface its speed, its addresses, and its MTU both ways.
//! Facts out of /proc and /sys and of the running node's status; verdicts from those alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ibid_control::config::{Config, Link, LinkDevice};
use ibid_control::status::LinkStatus;

use super::check::{Check, Topic, at_boot, quoted};
use super::root::{Root, Seen, Unseen};

/// What the kernel says of network devices.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// IOMMU units and groups.
    pub(crate) iommus: usize,
    pub(crate) groups: usize,
    /// vfio's mode without protection.
    pub(crate) no_iommu: bool,
    /// Network controllers on the PCI bus.
    pub(crate) cards: Vec<Card>,
    /// Names of the interfaces there are.
    pub(crate) interfaces: Seen<Vec<String>>,
    /// The node's own one, where its link is a kernel interface that is there.
    pub(crate) own: Option<Interface>,
    /// The name and NUMA node of the link's NIC, whoever drives it.
    pub(crate) nic: Option<(String, u32)>,
    /// Addresses that the kernel answers for.
    pub(crate) addresses: Seen<BTreeSet<IpAddr>>,
}

/// A network controller on the PCI bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Card {
    pub(crate) address: String,
    pub(crate) driver: Option<String>,
    pub(crate) in_group: bool,
}

/// A kernel interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mtu: Seen<u32>,
    /// Switched on by the administrator.
    pub(crate) up: Seen<bool>,
    /// The other end is there.
    pub(crate) carrier: Seen<u32>,
    /// Mbit/s; most virtual devices have none.
    pub(crate) speed: Option<u32>,
    pub(crate) duplex: Option<String>,
    pub(crate) driver: Option<String>,
}

impl Network {
    pub(crate) fn gather(root: &Root, config: Option<&Config>) -> Self {
        let pci = "/sys/bus/pci/devices";
        let card = |address: &String| {
            // Class 02: network controllers.
            let class = root.text(format!("{pci}/{address}/class")).ok()?;
            let virtio_net = || {
                let names = root.names(format!("{pci}/{address}")).ok()?;
                let device = names.into_iter().find(|name| name.starts_with("virtio"))?;
                root.is_there(format!("{pci}/{address}/{device}/net")).then_some(())
            };
            (class.starts_with("0x02") || virtio_net().is_some()).then(|| Card {
                address: address.clone(),
                driver: root.link(format!("{pci}/{address}/driver")).ok(),
                in_group: root.is_there(format!("{pci}/{address}/iommu_group")),
            })
        };
        let count = |folder: &str| root.names(folder).map_or(0, |names| names.len());
        let no_iommu = root.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        let own = config.and_then(|config| match &config.link.device {
            LinkDevice::AfPacket { interface } => Some(interface),
            LinkDevice::Memif { .. } | LinkDevice::Vdev(_) | LinkDevice::Pci(_) => None,
        });
        Self {
            iommus: count("/sys/class/iommu"),
            groups: count("/sys/kernel/iommu_groups"),
            no_iommu: no_iommu.is_ok_and(|text| text == "Y" || text == "1"),
            cards: root.names(pci).iter().flatten().filter_map(card).collect(),
            interfaces: root.names("/sys/class/net"),
            own: own.and_then(|name| Interface::gather(root, name)),
            nic: config.and_then(|config| nic(root, config)),
            addresses: root.text("/proc/net/fib_trie").map(|text| {
                let mut all = local_addresses(&text);
                // Absent where the kernel has no IPv6.
                let v6 = root.text("/proc/net/if_inet6").unwrap_or_default();
                all.extend(local_addresses_v6(&v6));
                all
            }),
        }
    }

    /// Every check of this room. `link`: what the running node says of its link.
    pub(crate) fn checks(&self, config: Option<&Config>, link: Option<&LinkStatus>) -> Vec<Check> {
        let Some(config) = config else { return vec![self.iommu(None), self.driver(None)] };
        let mut checks = vec![self.iommu(Some(config)), self.driver(Some(config))];
        if let Some(own) = &self.own {
            checks.extend([own.speed(), self.address(config, own), own.mtu(config, link)]);
        }
        checks
    }

    fn iommu(&self, config: Option<&Config>) -> Check {
        if self.no_iommu {
            return IOMMU.fail(
                "vfio may work without an IOMMU (enable_unsafe_noiommu_mode)",
                [
                    "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                    "grep -r unsafe_noiommu /etc/modprobe.d/ /etc/default/grub   # who turns it on",
                ],
            );
        }
        if self.groups > 0 {
            return IOMMU.ok(format!("{} units, {} groups", self.iommus, self.groups));
        }
        let mend = [
            "# on in the firmware (VT-d, AMD-Vi); a virtual machine needs one from its host (QEMU: -device intel-iommu)".to_owned(),
            at_boot("intel_iommu=on iommu=pt", "intel_iommu=on iommu=pt"),
            "update-grub && reboot".to_owned(),
        ];
        match config {
            Some(config) if matches!(config.link.device, LinkDevice::Pci(_)) => {
                IOMMU.fail("none: link.address can't be given to vfio-pci", mend)
            }
            Some(_) => IOMMU.ok("none; this link's device needs none"),
            None => IOMMU.warn("none: no card can be given to vfio-pci", mend),
        }
    }

    fn driver(&self, config: Option<&Config>) -> Check {
        let Some(config) = config else { return self.cards() };
        let interface = match &config.link.device {
            LinkDevice::AfPacket { interface } => interface,
            LinkDevice::Pci(address) => return self.own_card(address),
            LinkDevice::Memif { .. } | LinkDevice::Vdev(_) => {
                return DRIVER.ok(format!("link.device = {}: no card", config.link.device.word()));
            }
        };
        let Some(own) = &self.own else {
            let there = match &self.interfaces {
                Ok(names) => names.join(", "),
                Err(unseen) => return DRIVER.unseen(unseen, ["ip link"]),
            };
            return DRIVER.fail(
                format!("link.interface = {interface} is not there; there are {there}"),
                ["ip link   # and the name in the configuration, or dpdk-config/bind.sh --release for a card that vfio-pci has"],
            );
        };
        let driver = own.driver.as_deref().unwrap_or("virtual");
        match (&own.up, &own.carrier) {
            (Ok(true), Ok(1)) => DRIVER.ok(format!("{interface}: {driver}, up")),
            (Ok(true), _) => DRIVER.fail(
                format!("{interface}: {driver}, without carrier"),
                [format!("# the cable, the switch's port, the other end's interface; then: ip link show dev {}", quoted(interface))],
            ),
            (Ok(false), _) => DRIVER.fail(
                format!("{interface}: {driver}, down"),
                [format!("ip link set dev {} up", quoted(interface))],
            ),
            (Err(unseen), _) => DRIVER.unseen(unseen, ["ip link".to_owned()]),
        }
    }

    /// Whether DPDK can drive the card of `link.address`.
    fn own_card(&self, address: &str) -> Check {
        let Some(card) = self.cards.iter().find(|card| card.address == address) else {
            let there: Vec<&str> = self.cards.iter().map(|card| card.address.as_str()).collect();
            return DRIVER.fail(
                format!(
                    "link.address = {address} is no network controller; there are {}",
                    there.join(", ")
                ),
                ["dpdk-config/bind.sh --show   # and the address in the configuration".to_owned()],
            );
        };
        match card.driver.as_deref() {
            Some("vfio-pci") if !card.in_group => DRIVER.fail(
                format!("{address} is vfio-pci's without an IOMMU group: it can write all memory"),
                [format!("dpdk-config/bind.sh --release {address}")],
            ),
            // mlx5 shares the card with the kernel instead of taking it over.
            Some(driver @ ("vfio-pci" | "mlx5_core")) => DRIVER.ok(format!("{address}: {driver}")),
            driver => DRIVER.fail(
                format!("{address}: {}, so DPDK can't drive it", driver.unwrap_or("no driver")),
                [format!("dpdk-config/bind.sh {address}")],
            ),
        }
    }

    fn cards(&self) -> Check {
        if self.cards.is_empty() {
            return DRIVER.warn(
                "no network controller on the PCI bus: links are virtual here",
                ["ls /sys/bus/pci/devices /sys/class/net"],
            );
        }
        let shown: Vec<String> = self
            .cards
            .iter()
            .map(|card| {
                format!("{} {}", card.address, card.driver.as_deref().unwrap_or("no driver"))
            })
            .collect();
        let shown = shown.join(", ");
        let vfio = |card: &&Card| card.driver.as_deref() == Some("vfio-pci");
        if let Some(card) = self.cards.iter().filter(vfio).find(|card| !card.in_group) {
            let address = &card.address;
            return DRIVER.fail(
                format!("{address} is vfio-pci's without an IOMMU group: it can write all memory"),
                [format!("dpdk-config/bind.sh --release {address}")],
            );
        }
        if let Some(card) = self.cards.iter().find(|card| card.driver.is_none()) {
            let address = &card.address;
            return DRIVER.warn(
                shown,
                [format!("echo {address} > /sys/bus/pci/drivers_probe   # gives {address} to its kernel driver")],
            );
        }
        DRIVER.ok(shown)
    }

    fn address(&self, config: &Config, own: &Interface) -> Check {
        let local = config.link.local.ip();
        match &self.addresses {
            Err(unseen) => ADDRESS.unseen(unseen, ["ip address".to_owned()]),
            Ok(all) if all.contains(&local) => ADDRESS.warn(
                format!("the kernel has link.local's address {local}, too"),
                [
                    format!("ip -brief address show to {local}   # which interface has it"),
                    format!(
                        "ip address flush dev {} to {local}   # if it is this one, and nobody is logged in through it",
                        quoted(&own.name)
                    ),
                    "# otherwise in the configuration of both nodes: another link.local and link.peer".to_owned(),
                ],
            ),
            Ok(_) => ADDRESS.ok(format!("{local} is the link's alone")),
        }
    }
}

impl Interface {
    fn gather(root: &Root, name: &str) -> Option<Self> {
        let folder = format!("/sys/class/net/{name}");
        if !root.is_there(&folder) {
            return None;
        }
        let flags = root.text(format!("{folder}/flags"));
        let up = flags.and_then(|text| {
            let bits = text.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            bits.map(|bits| bits & IFF_UP != 0).ok_or(Unseen::Absent)
        });
        Some(Self {
            name: name.to_owned(),
            mtu: root.number(format!("{folder}/mtu")),
            up,
            carrier: root.number(format!("{folder}/carrier")),
            // -1 where there is none.
            speed: root.number(format!("{folder}/speed")).ok(),
            duplex: root.text(format!("{folder}/duplex")).ok(),
            driver: root.link(format!("{folder}/device/driver")).ok(),
        })
    }

    fn speed(&self) -> Check {
        let (name, word) = (&self.name, quoted(&self.name));
        if self.duplex.as_deref() == Some("half") {
            return SPEED.warn(
                format!("{name}: half duplex"),
                [format!("apt-get install -y ethtool && ethtool -s {word} autoneg on")],
            );
        }
        match self.speed {
            None => SPEED.ok(format!("{name}: none is told (a virtual device, or no carrier)")),
            Some(speed) if speed < SPEED_MIN => SPEED.warn(
                format!("{name}: {speed} Mbit/s, so writes of {} MB/s at most", speed / 8),
                [format!("apt-get install -y ethtool && ethtool {word}   # what this and the other end can do")],
            ),
            Some(speed) => SPEED.ok(format!("{name}: {speed} Mbit/s")),
        }
    }

    fn mtu(&self, config: &Config, link: Option<&LinkStatus>) -> Check {
        let (name, want) = (&self.name, u32::from(config.link.mtu));
        let word = quoted(name);
        let have = match &self.mtu {
            Ok(have) => *have,
            Err(unseen) => return MTU.unseen(unseen, [format!("ip link show dev {word}")]),
        };
        if have < want {
            return MTU.fail(
                format!("{name}: {have}, link.mtu = {want}"),
                [format!("ip link set dev {word} mtu {want}   # and at the other end, and at every switch between")],
            );
        }
        let own = format!("{name}: {have} for link.mtu = {want}");
        let ping = ping(&config.link, &word);
        let Some(link) = link else {
            return MTU.warn(
                format!("{own}; the way to the peer was not tried: no node runs here"),
                ping,
            );
        };
        if !link.up {
            return MTU
                .warn(format!("{own}; the way to the peer was not tried: the link is down"), ping);
        }
        // The longest frame is at least as long as the average one.
        let bytes = link.tx_bytes;
        let sent = bytes.log + bytes.cp + bytes.control + bytes.catch_up;
        let out = sent.checked_div(link.tx_frames).unwrap_or(0);
        let into = link.rx_bytes.checked_div(link.rx_frames).unwrap_or(0);
        let ordinary = u64::from(MTU_ORDINARY + ETHERNET_BYTES);
        let whole = |bytes: u64| bytes > ordinary || (want <= MTU_ORDINARY && bytes > 0);
        if whole(into) {
            return MTU.ok(format!("{own}; frames of {into} bytes and more arrive from the peer"));
        }
        if want <= MTU_ORDINARY && link.rx_frames > 0 {
            return MTU.ok(format!("{own}; frames arrive from the peer"));
        }
        // What was sent and not repeated in vain has been acknowledged: the link goes nowhere without.
        if whole(out)
            && link.rtt_ns.is_some()
            && link.tx_repeated_frames * LOST_MAX < link.tx_frames
        {
            return MTU
                .ok(format!("{own}; frames of {out} bytes and more are acknowledged by the peer"));
        }
        if link.tx_repeated_frames * LOST_MAX >= link.tx_frames && link.tx_frames > 0 {
            return MTU.warn(
                format!(
                    "{own}; {} of {} frames had to be sent again: long ones may be lost on the way",
                    link.tx_repeated_frames, link.tx_frames
                ),
                ping,
            );
        }
        MTU.warn(
            format!("{own}; no frame longer than {MTU_ORDINARY} bytes has been needed yet"),
            ping,
        )
    }
}

/// Lines that try the longest packet on the way that the link's frames take from an interface.
fn ping(link: &Link, interface: &str) -> Vec<String> {
    let (local, peer) = (link.local.ip(), link.peer.ip());
    // An address of IPv6 could not be used at once: the kernel asks for others that have it.
    let (headers, at_once) =
        if local.is_ipv4() { (PING_HEADERS, "") } else { (PING_HEADERS_V6, " nodad") };
    let router = link.router();
    let next = router.unwrap_or(peer);
    let device = link.vlan.map_or(interface.to_owned(), |vlan| format!("ibid{vlan}"));
    let mut lines = vec!["# the kernel must know the addresses for this moment, on both nodes, while ibid does not run:".to_owned()];
    if let Some(vlan) = link.vlan {
        lines.push(format!("ip link add link {interface} name {device} type vlan id {vlan} && ip link set dev {device} up"));
    }
    lines.push(format!("ip address add {local} peer {next} dev {device}{at_once}"));
    lines.extend(router.map(|router| format!("ip route add {peer} via {router} dev {device}")));
    lines.push(format!("ping -M do -c 3 -s {} {peer}", u32::from(link.mtu) - headers));
    lines.extend(router.map(|_| format!("ip route del {peer} dev {device}")));
    lines.push(format!("ip address del {local} peer {next} dev {device}"));
    lines.extend(link.vlan.map(|_| format!("ip link del dev {device}")));
    lines
}

/// The NUMA node of a device's folder in sysfs, or of one it lies in; `None` where it has none, as most virtual ones.
pub(crate) fn numa_node(device: &Path) -> Option<u32> {
    let mut folder = std::fs::canonicalize(device).ok()?;
    for _ in 0..DEPTH_MAX {
        if let Ok(text) = std::fs::read_to_string(folder.join("numa_node")) {
            return text.trim().parse().ok();
        }
        if !folder.pop() {
            break;
        }
    }
    None
}

/// The NIC of a node's link, whoever drives it, and its NUMA node.
pub(crate) fn nic(root: &Root, config: &Config) -> Option<(String, u32)> {
    let (name, device) = match &config.link.device {
        LinkDevice::AfPacket { interface } => {
            (interface, format!("/sys/class/net/{interface}/device"))
        }
        LinkDevice::Pci(address) => (address, format!("/sys/bus/pci/devices/{address}")),
        LinkDevice::Memif { .. } | LinkDevice::Vdev(_) => return None,
    };
    Some((name.clone(), numa_node(&root.path(device))?))
}

/// Addresses that are marked LOCAL in the kernel's table of routes.
fn local_addresses(fib_trie: &str) -> BTreeSet<IpAddr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut all = BTreeSet::new();
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            all.extend(last.map(IpAddr::V4));
        }
    }
    all
}

/// The addresses of all interfaces, each line's first word in 32 digits.
fn local_addresses_v6(if_inet6: &str) -> impl Iterator<Item = IpAddr> {
    let words = if_inet6.lines().filter_map(|line| line.split_whitespace().next());
    words
        .filter_map(|word| u128::from_str_radix(word, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

/// IFF_UP of the interface's flags.
const IFF_UP: u32 = 1;
/// Folders between a device and the one that knows its NUMA node: virtio's lies in its PCI device's.
const DEPTH_MAX: usize = 4;
/// Mbit/s under which the link is the pair's bound.
const SPEED_MIN: u32 = 10_000;
/// What every Ethernet carries.
const MTU_ORDINARY: u32 = 1500;
const ETHERNET_BYTES: u32 = 14;
/// IPv4's and ICMP's headers.
const PING_HEADERS: u32 = 28;
/// IPv6's and ICMPv6's.
const PING_HEADERS_V6: u32 = 48;
/// One frame in so many may be sent again without a suspicion.
const LOST_MAX: u64 = 20;

const IOMMU: Topic = Topic {
    name: "iommu",
    why: "A card that DPDK drives writes where it is told to; only an IOMMU keeps it to ibid's memory.",
};
const DRIVER: Topic = Topic {
    name: "nic-driver",
    why: "A card is the kernel's (af_packet) or vfio-pci's, never both; without a driver and a carrier nothing leaves.",
};
const SPEED: Topic = Topic {
    name: "link-speed",
    why: "Each byte that hosts write crosses the link before the write is done.",
};
const ADDRESS: Topic = Topic {
    name: "link-address",
    why: "A kernel that has the link's address answers the same frames with \"port unreachable\".",
};
const MTU: Topic = Topic {
    name: "mtu",
    why: "A frame that is too long for one hop, here, there or between, is lost without a word; small ones still pass, so the pair meets and then hangs.",
};

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{Fail, Ok as Good, Warn};
    use super::super::node::tests::{config, link_status};
    use super::super::root::tests::Tree;
    use super::*;

    fn tree() -> Tree {
        let tree = Tree::new(&[
            ("sys/class/net/eth1/mtu", "9000\n"),
            ("sys/class/net/eth1/flags", "0x1003\n"),
            ("sys/class/net/eth1/carrier", "1\n"),
            ("sys/class/net/eth1/speed", "25000\n"),
            ("sys/class/net/eth1/duplex", "full\n"),
            ("sys/devices/pci0/0000:3b:00.0/numa_node", "1\n"),
            ("sys/devices/pci0/0000:3b:00.0/class", "0x020000\n"),
            ("sys/bus/pci/devices/0000:00:00.0/class", "0x060000\n"),
            (
                "proc/net/fib_trie",
                "Main:\n  |-- 10.0.0.0\n   /24 link UNICAST\n  |-- 10.0.0.5\n   /32 host LOCAL\n",
            ),
        ]);
        tree.link("sys/class/net/eth1/device", "../../../devices/pci0/0000:3b:00.0");
        tree.link("sys/devices/pci0/0000:3b:00.0/driver", "../../../bus/pci/drivers/ice");
        tree.link("sys/bus/pci/devices/0000:3b:00.0", "../../../devices/pci0/0000:3b:00.0");
        tree
    }

    fn on(interface: &str) -> Config {
        let mut config = config();
        config.link.device = LinkDevice::AfPacket { interface: interface.into() };
        config
    }

    fn check(tree: &Tree, name: &str, link: Option<&LinkStatus>) -> Check {
        let config = on("eth1");
        let checks = Network::gather(&tree.root(), Some(&config)).checks(Some(&config), link);
        checks.into_iter().find(|check| check.topic.name == name).unwrap()
    }

    #[test]
    fn a_good_interface_is_good_and_known() {
        let tree = tree();
        for name in ["iommu", "nic-driver", "link-speed", "link-address"] {
            let check = check(&tree, name, None);
            assert_eq!(check.verdict, Good, "{check:?}");
        }
        let network = Network::gather(&tree.root(), Some(&on("eth1")));
        assert_eq!(network.nic, Some(("eth1".into(), 1)));
        assert_eq!(network.own.unwrap().driver.as_deref(), Some("ice"));
        let mut config = on("eth1");
        config.link.device = LinkDevice::Pci("0000:3b:00.0".into());
        assert_eq!(nic(&tree.root(), &config), Some(("0000:3b:00.0".into(), 1)));
    }

    #[test]
    fn a_card_of_ones_own_is_vfios_behind_an_iommu() {
        let check = |tree: &Tree, address: &str, name: &str| {
            let mut config = config();
            config.link.device = LinkDevice::Pci(address.into());
            let checks = Network::gather(&tree.root(), Some(&config)).checks(Some(&config), None);
            checks.into_iter().find(|check| check.topic.name == name).unwrap()
        };
        let card = "0000:3b:00.0";
        let plain = tree();
        plain.put("sys/devices/pci0/0000:3b:00.0/class", "0x020000");
        let found = check(&plain, card, "nic-driver");
        assert_eq!(found.verdict, Fail, "{found:?}");
        assert!(format!("{found:?}").contains("bind.sh 0000:3b:00.0"), "{found:?}");
        let found = check(&plain, "0000:3c:00.0", "nic-driver");
        assert_eq!(found.verdict, Fail, "{found:?}");
        assert!(format!("{found:?}").contains("is no network controller"), "{found:?}");

        let bound = Tree::new(&[]);
        bound.put("sys/devices/pci0/0000:3b:00.0/class", "0x020000");
        bound.link("sys/devices/pci0/0000:3b:00.0/driver", "../../../bus/pci/drivers/vfio-pci");
        bound.link("sys/bus/pci/devices/0000:3b:00.0", "../../../devices/pci0/0000:3b:00.0");
        assert_eq!(check(&bound, card, "iommu").verdict, Fail);
        assert_eq!(check(&bound, card, "nic-driver").verdict, Fail);
        bound.put("sys/devices/pci0/0000:3b:00.0/iommu_group/type", "DMA");
        bound.put("sys/kernel/iommu_groups/1/type", "DMA");
        assert_eq!(check(&bound, card, "iommu").verdict, Good);
        assert_eq!(check(&bound, card, "nic-driver").verdict, Good);
    }

    #[test]
    fn each_check_has_its_verdicts() {
        let net = "sys/class/net/eth1";
        for (path, text, name, expected, told) in [
            (format!("{net}/flags"), "0x1002", "nic-driver", Fail, "ip link set dev eth1 up"),
            (format!("{net}/carrier"), "0", "nic-driver", Fail, "without carrier"),
            (format!("{net}/speed"), "1000", "link-speed", Warn, "125 MB/s"),
            (format!("{net}/speed"), "-1", "link-speed", Good, "none is told"),
            (format!("{net}/duplex"), "half", "link-speed", Warn, "autoneg on"),
            (format!("{net}/mtu"), "1500", "mtu", Fail, "ip link set dev eth1 mtu 9000"),
            (format!("{net}/mtu"), "big", "mtu", Warn, "could not be seen"),
            (
                "proc/net/fib_trie".to_owned(),
                "|-- 10.9.0.1\n /32 host LOCAL",
                "link-address",
                Warn,
                "ip address flush dev eth1 to 10.9.0.1 ",
            ),
            (
                "sys/module/vfio/parameters/enable_unsafe_noiommu_mode".to_owned(),
                "Y",
                "iommu",
                Fail,
                "echo N",
            ),
            ("sys/kernel/iommu_groups/0/type".to_owned(), "DMA", "iommu", Good, "1 groups"),
        ] {
            let tree = tree();
            tree.put(&path, text);
            let check = check(&tree, name, None);
            let said = format!("{}; {}", check.found, check.mend.join("; "));
            assert_eq!(check.verdict, expected, "{path} {text}: {said}");
            assert!(said.contains(told), "{path} {text}: {said}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_with_those_that_are() {
        let config = on("eth7");
        let network = Network::gather(&tree().root(), Some(&config));
        let check = network.driver(Some(&config));
        assert_eq!(check.verdict, Fail);
        assert!(check.found.contains("eth7 is not there; there are eth1"), "{check:?}");
        let config = super::super::node::tests::config();
        assert_eq!(
            Network::gather(&tree().root(), Some(&config)).driver(Some(&config)).verdict,
            Good
        );
    }

    #[test]
    fn cards_are_shown_where_no_node_is_asked_for() {
        let tree = tree();
        let machine = |tree: &Tree, name: &str| {
            let checks = Network::gather(&tree.root(), None).checks(None, None);
            checks.into_iter().find(|check| check.topic.name == name).unwrap()
        };
        let cards = machine(&tree, "nic-driver");
        assert_eq!((cards.verdict, cards.found.as_str()), (Good, "0000:3b:00.0 ice"));
        assert_eq!(machine(&tree, "iommu").verdict, Warn);
        tree.put("sys/bus/pci/devices/0000:5e:00.0/class", "0x020000");
        assert!(machine(&tree, "nic-driver").mend[0].contains("drivers_probe"));
        tree.link("sys/bus/pci/devices/0000:5e:00.0/driver", "../../drivers/vfio-pci");
        assert_eq!(machine(&tree, "nic-driver").verdict, Fail);
        tree.put("sys/bus/pci/devices/0000:5e:00.0/iommu_group/type", "DMA");
        assert_eq!(machine(&tree, "nic-driver").verdict, Good);
        assert_eq!(machine(&Tree::new(&[]), "nic-driver").verdict, Warn);
    }

    #[test]
    fn the_mtu_is_known_both_ways_only_by_what_has_passed() {
        let tree = tree();
        let said = |link: Option<&LinkStatus>| {
            let check = check(&tree, "mtu", link);
            (check.verdict, format!("{}; {}", check.found, check.mend.join("; ")))
        };
        let (verdict, text) = said(None);
        assert_eq!(verdict, Warn);
        assert!(text.contains("ping -M do -c 3 -s 8972 10.9.0.2"), "{text}");

        let good = link_status();
        let long_in = LinkStatus { rx_frames: 10, rx_bytes: 41_000, ..good.clone() };
        assert_eq!(said(Some(&long_in)).0, Good);
        let mut out = LinkStatus { rx_frames: 10, rx_bytes: 2_000, ..good.clone() };
        (out.tx_frames, out.tx_bytes.log, out.tx_repeated_frames) = (100, 400_000, 1);
        assert_eq!(said(Some(&out)).0, Good);
        out.tx_repeated_frames = 50;
        let (verdict, text) = said(Some(&out));
        assert_eq!(verdict, Warn);
        assert!(text.contains("50 of 100 frames had to be sent again"), "{text}");
        (out.tx_bytes.log, out.tx_repeated_frames) = (3_000, 0);
        (out.tx_bytes.cp, out.tx_bytes.control) = (0, 0);
        assert!(said(Some(&out)).1.contains("no frame longer than 1500"));
        let down = LinkStatus { up: false, ..good };
        assert_eq!(said(Some(&down)).0, Warn);
    }

    #[test]
    fn the_ping_takes_the_links_own_way() {
        let mut link = on("eth1").link;
        assert_eq!(
            ping(&link, "eth1")[1..],
            [
                "ip address add 10.9.0.1 peer 10.9.0.2 dev eth1",
                "ping -M do -c 3 -s 8972 10.9.0.2",
                "ip address del 10.9.0.1 peer 10.9.0.2 dev eth1",
            ]
        );
        (link.local, link.peer) =
            ("[fd00:9::1]:4790".parse().unwrap(), "[fd00:8::2]:4790".parse().unwrap());
        (link.vlan, link.prefix, link.gateway) =
            (Some(7), Some(64), Some("fd00:9::fe".parse().unwrap()));
        assert_eq!(
            ping(&link, "eth1")[1..],
            [
                "ip link add link eth1 name ibid7 type vlan id 7 && ip link set dev ibid7 up",
                "ip address add fd00:9::1 peer fd00:9::fe dev ibid7 nodad",
                "ip route add fd00:8::2 via fd00:9::fe dev ibid7",
                "ping -M do -c 3 -s 8952 fd00:8::2",
                "ip route del fd00:8::2 dev ibid7",
                "ip address del fd00:9::1 peer fd00:9::fe dev ibid7",
                "ip link del dev ibid7",
            ]
        );
    }

    #[test]
    fn the_kernels_addresses_of_ipv6_are_read_too() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000001 02 40 00 80     eth0\n";
        let all: Vec<IpAddr> = local_addresses_v6(text).collect();
        assert_eq!(all, ["::1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(local_addresses_v6("").count(), 0, "a kernel without IPv6");
    }
}
