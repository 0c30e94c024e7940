//! What a node does, without doing it: takes `(now, input)`, gives outputs, holds page handles and never client bytes.
//! Modules stand in the order in which a write meets them. No clock, socket, file or thread can be named here.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod frontend;
pub mod log;
pub mod link;
pub mod point;
pub mod sync;
pub mod volume;
pub mod role;
mod memory;

pub use memory::{Memory, PlainMemory};
