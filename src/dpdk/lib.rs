//! DPDK as a link device: the EAL, started once, and [`LinkPort`], which sends and receives the link's datagrams.
//! Takes a device, two UDP addresses and the arena; implements [`ibid_driver::Port`] on queue 0 of one ethdev.
//! Payload is copied once, from the arena into the frame, where it is sealed; and counted.
//! Knows nothing of what the datagrams mean; reliability and integrity are the link's (engine).
//!
//! Rooms: `eal` (start, end, threads), `gate` (keeps DPDK's interrupt thread away from bursts), `config` (which device, with
//! what arguments), `device` (one ethdev), `pool` and `mbuf` (buffers), `frames` (what is sent) and
//! `outbox` (what waits for the device), `ethernet`, `headers`, `template` and `sum` (Ethernet, VLAN, IP, UDP), `neighbour`, `arp` and
//! `ndp` (who has which Ethernet address), `port` (all of it together).

mod arp;
mod config;
mod device;
mod eal;
mod error;
mod ethernet;
mod frames;
mod gate;
mod headers;
mod hugepages;
mod mbuf;
mod ndp;
mod neighbour;
mod outbox;
mod pool;
mod port;
mod socket;
mod sum;
mod template;

pub use config::{LinkConfig, LinkDevice, MTU_MAX, MTU_MIN, MTU_MIN_V6, MemifRole};
pub use eal::{Eal, EalConfig, EalMemory, EalWarning, RegisteredThread};
pub use error::{EalError, PortError};
pub use headers::{Dropped, FRAME_HEADERS_BYTES_MAX};
pub use port::{LinkDetails, LinkFacts, LinkPort, LinkState};
pub use template::UdpChecksum;
