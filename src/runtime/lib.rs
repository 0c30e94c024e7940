//! The shard: one pinned thread's loop, generic over its drivers. Moves bytes where the engine says, and nothing else.
//! Takes commands of the control plane through a bounded queue; gives a [`Snapshot`] on request.
//! Not here: threads, sockets, DPDK, io_uring (drivers), configuration files (control).

mod auth;
mod blocks;
mod clients;
mod destination;
mod disks;
mod frames;
mod layout;
mod map;
mod memory;
mod persist;
mod pool;
mod recover;
mod secured;
mod shard;
mod slots;
mod snapshot;
mod source;
mod superblock;
mod trouble;
mod verify;
mod volumes;

pub use auth::AuthRoom;
pub use destination::Destination;
pub use layout::{Layout, LayoutConfig, MAP_STAGING_BLOCKS, Span64};
pub use recover::{Recovered, RecoveryReport, Turn, Unrecovered};
pub use shard::{
    COMMANDS_MAX, Command, CommandKind, CpDone, NodeConfig, Reply, Role, Shard, Stop, VolumeConfig,
};
pub use snapshot::{
    AuthCounters, CpCounters, Fault, PeerState, STAGES, SecurityCounters, Snapshot, Stage,
    StageTimes, SyncState, VolumeCounters,
};
pub use source::{COMPARE_ASKED_BLOCKS, PeerLoss, Source, SourceConfig};
pub use superblock::StartRefused;
pub use verify::{UNDECIDED_RUNS_MAX, VerifyProgress, VerifyState};
