//! Bytes to meaning and back: NVMe/TCP, the peer protocol, and what lies on disk. Never holds state.
//! When parsing bytes from outside use the `parse` functions: they check every length and refuse with a small error.
#![no_std]
#![forbid(unsafe_code)]

mod bytes;
pub mod nvme_tcp;
pub mod peer;
pub mod disk;

pub use bytes::{Crc32c, crc32c};
