//! What all tests of the port share: a clock, an arena whose bytes are known, and both ends' addresses.

use ibid_dpdk::{LinkConfig, LinkDevice, SpanMode};
use ibid_driver::{Arena, Clock};
use ibid_units::Nanos;
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

pub(crate) fn link_config(device: LinkDevice, side: u8, mtu: u16) -> LinkConfig {
    let end = |side: u8| format!("192.0.2.{side}:{}", 4420 + u16::from(side)).parse().unwrap();
    LinkConfig {
        device,
        local: end(side),
        peer: end(3 - side),
        peer_mac: None,
        mtu,
        spans: SpanMode::Auto,
    }
}
