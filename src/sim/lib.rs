//! The simulator: two whole nodes, their clients, the cable, disks, clocks and an operator in one thread, from one seed.
//! Nodes are the shards that production runs ([`ibid_runtime`]); only drivers and time are made up. A seed is a bug report.
#![allow(
    missing_docs,
    reason = "a machine for tests: every file says what it is, names say the rest"
)]

mod arenas;
pub mod clients;
pub mod config;
pub mod disk;
pub mod effects;
pub mod faults;
pub mod guard;
pub mod host;
pub mod images;
pub mod inject;
pub mod load;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod net;
pub mod oracle;
pub mod pair;
pub mod random;
mod seals;
pub mod run;
pub mod runner;
pub mod stream;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod verify;
pub mod world;

pub use config::WorldConfig;
pub use ibid_units::Mutant;
pub use world::{Crash, DESTINATION, SOURCE, TheDestination, TheSource, World, superblock};
