//! What all tests of the port share: a clock, an arena whose bytes are known, and both ends' addresses.

use ibid_dpdk::{LinkConfig, LinkDevice};
use ibid_driver::{Arena, Clock};
use ibid_units::Nanos;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

pub(crate) const ARENA_BYTES: usize = 4 << 20;

/// The system's monotonic time.
pub(crate) struct Ticks(Instant);

impl Ticks {
    pub(crate) fn new() -> Ticks {
        Ticks(Instant::now())
    }
}

impl Clock for Ticks {
    fn now(&mut self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap())
    }
}

/// The byte at a place of every peer's arena.
pub(crate) fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

pub(crate) fn patterned_arena() -> Arc<Arena> {
    let (arena, _) = Arena::new(ARENA_BYTES, false).unwrap();
    let bytes: Vec<u8> = (0..arena.len()).map(pattern).collect();
    arena.copy_in(0, &bytes);
    Arc::new(arena)
}

/// Addresses of a family, with what stands behind a hyphen: `vlan`, or `routed` for two networks with a router between them.
pub(crate) fn link_config_on(net: &str, device: LinkDevice, side: u8, mtu: u16) -> LinkConfig {
    let (family, more) = net.split_once('-').unwrap_or((net, ""));
    let routed = more == "routed";
    // Without a router both ends are in the first network.
    let ip = |side: u8, host: u8| -> IpAddr {
        let network = if routed { side } else { 1 };
        match (family, network) {
            ("v4", 1) => [192, 0, 2, host].into(),
            ("v4", _) => [198, 51, 100, host].into(),
            _ => [0x2001, 0xdb8, network.into(), 0, 0, 0, 0, host.into()].into(),
        }
    };
    let end = |side: u8| SocketAddr::new(ip(side, side), 4420 + u16::from(side));
    LinkConfig {
        device,
        local: end(side),
        peer: end(3 - side),
        gateway: routed.then(|| ip(side, 254)),
        vlan: (more == "vlan").then_some(77),
        peer_mac: None,
        mtu,
    }
}
