//! DPDK as a link device: the EAL, started once, and [`LinkPort`], which sends and receives the link's datagrams.
//! Takes a device, two UDP/IPv4 addresses and the arena; implements [`ibid_driver::Port`] on queue 0 of one ethdev.
//! Spans of the arena go to the device as external buffers: nothing here copies payload unless the device leaves no choice,
//! and then it is counted. Knows nothing of what the datagrams mean; reliability and integrity are the link's (engine).
//!
//! Rooms: `eal` (start, end, threads), `gate` (keeps DPDK's interrupt thread away from bursts), `config` (which device, with
//! what arguments), `device` (one ethdev), `pool` and `mbuf` (buffers), `frames` (what is sent) and
//! `outbox` (what waits for the device), `headers` and `neighbour` (Ethernet, ARP, IPv4, UDP), `port` (all of it together).

mod config;
mod device;
mod eal;
mod error;
mod frames;
mod gate;
mod headers;
mod hugepages;
mod mbuf;
mod neighbour;
mod outbox;
mod pool;
mod port;
mod socket;

pub use config::{LinkConfig, LinkDevice, MTU_MAX, MTU_MIN, MemifRole, SpanMode};
pub use eal::{Eal, EalConfig, EalMemory, EalWarning, RegisteredThread};
pub use error::{EalError, PortError};
pub use headers::{Dropped, FRAME_HEADERS_BYTES};
pub use port::{LinkDetails, LinkPort, LinkState};
