//! What a node says about itself: the answer to `status`, `cp` and `histograms` on the control socket.
//! Plain facts, filled in by the node from its shard's counters; JSON by serde, text by [`Status`]'s `Display`.
//! All counters are sums since the node's start. Fields may be added, so readers ignore what they don't know.

mod standing;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod trouble;
mod verify;

use core::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{CpMode, Encryption, Role, Uuid};

pub use standing::{MirrorState, PairState, Promise, Standing, SyncStatus};
pub use trouble::{FaultStatus, FaultSubject, LogEnd, RecoveryStatus};
pub use verify::{BlockRun, UNDECIDED_RUNS_MAX, VerifyReport, VerifyRequest, VerifyState};

#[cfg(test)]
pub(crate) use verify::tests::sample as verify_sample;

/// Everything `ibid status` shows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Who speaks.
    pub node: NodeStatus,
    /// What is promised now.
    pub promise: Promise,
    /// How far the two copies are the same.
    pub sync: SyncStatus,
    /// What was found in the log at the start.
    pub recovery: Option<RecoveryStatus>,
    /// What is wrong with this node; empty where nothing is.
    pub faults: Vec<FaultStatus>,
    /// The log.
    pub log: LogStatus,
    /// Consistency points.
    pub cp: CpStatus,
    /// The way to the peer.
    pub link: LinkStatus,
    /// The NVMe/TCP target, where the node has one.
    pub target: Option<TargetStatus>,
    /// The volumes, namespace 1 first.
    pub volumes: Vec<VolumeStatus>,
    /// Client payload the CPU copied, by place; a place without copies is listed with 0.
    pub copied_bytes: Vec<CopiedBytes>,
    /// Time spent in each stage of a write, in the order in which a write meets them.
    pub latency: Vec<StageLatency>,
    /// What an operator should know or mend, a sentence each.
    pub warnings: Vec<String>,
}

/// Who the node is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// What it does for the pair.
    pub role: Role,
    /// The pair.
    pub pair: Uuid,
    /// The epoch it writes or accepts.
    pub epoch: u64,
    /// Its process.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
}

/// The state of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LogStatus {
    /// Its device.
    pub device: PathBuf,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Segments that can be written next.
    pub segments_free: u32,
    /// Segments being written: one, or none while all are full.
    pub segments_open: u32,
    /// Segments waiting for or being drained by their consistency point.
    pub segments_sealed: u32,
    /// The newest entry.
    pub lsn: u64,
    /// The newest entry up to which all are durable on this node.
    pub lsn_durable: u64,
    /// The newest entry up to which the peer has said so too.
    pub lsn_peer: u64,
    /// Writes that had to wait because every segment was full.
    pub full_waits: u64,
    /// How long those waited, together.
    pub full_wait_ns: u64,
    /// Writes that waited longer than `peer.stall_timeout`, for the peer or for room, and ended with a status that asks for a retry.
    #[serde(default)]
    pub expired: u64,
    /// Batches that this node's log had lost and the peer gave back.
    #[serde(default)]
    pub fetched: u64,
    /// Whether the memory is huge pages.
    pub huge_pages: bool,
}

/// The consistency points.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CpStatus {
    /// What they send.
    pub mode: CpMode,
    /// The last that is durable here; 0 for none.
    pub cp: u64,
    /// The chain digest after it, in hexadecimal: equal digests are equal histories.
    pub chain_digest: String,
    /// The one running now.
    pub running: Option<u64>,
    /// How long the last one took.
    pub last_ns: u64,
    /// What all of them sent or, at a destination, received.
    pub sum: CpRecords,
}

/// What consistency points consist of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CpRecords {
    /// References: 16 bytes for a run of blocks.
    pub references: u64,
    /// Blocks those stood for.
    pub referenced_blocks: u64,
    /// Zero and deallocate records.
    pub opcodes: u64,
    /// Blocks whose bytes had to travel.
    pub blocks: u64,
    /// References the destination could not prove and was sent as blocks instead.
    pub refused: u64,
}

/// The answer to `cp`: the consistency point that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CpReport {
    /// Its number. Where nothing had been written since the last one, that one's.
    pub cp: u64,
    /// Whether there was anything to do.
    pub taken: bool,
    /// The chain digest after it, in hexadecimal.
    pub chain_digest: String,
    /// What it sent.
    pub records: CpRecords,
    /// Bytes of whole frames it put on the link.
    pub link_bytes: u64,
    /// How long it took.
    pub duration_ns: u64,
}

/// The link.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Kind of device, as the configuration names it.
    pub device: String,
    /// This node's address.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// Whether frames can leave: the device is up and the peer's Ethernet address is known.
    pub up: bool,
    /// Largest datagram in a frame.
    pub datagram_bytes_max: u32,
    /// The smoothed round trip time, once there is one.
    pub rtt_ns: Option<u64>,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes of whole frames sent, by traffic class.
    pub tx_bytes: ClassBytes,
    /// Datagrams sent again.
    pub tx_repeated_frames: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames that were not for this node or malformed.
    pub rx_dropped: u64,
    /// Datagrams that had arrived before.
    pub rx_repeated_frames: u64,
    /// What keeps others out.
    pub security: LinkSecurity,
}

/// How the link's frames are kept from others, and what became of frames that were none of the peer's. All counts since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkSecurity {
    /// What is done to frames.
    pub encryption: Encryption,
    /// Generation of the key that is sent with; a session begins with 0.
    pub tx_generation: u64,
    /// The newest generation received.
    pub rx_generation: u64,
    /// Handshakes that gave a session its keys.
    pub handshakes: u64,
    /// Frames whose tag was wrong.
    pub rx_unauthentic: u64,
    /// Frames that had been opened before, or came too late to know.
    pub rx_replayed: u64,
    /// Frames of no session or handshake of now.
    pub rx_strange: u64,
    /// Messages of a handshake whose tag was wrong: junk, or of a peer with another key.
    pub rx_handshakes_unauthentic: u64,
    /// Hellos without a cookie that were too many.
    pub rx_handshakes_limited: u64,
    /// Cookies given.
    pub tx_cookies: u64,
}

/// Bytes by traffic class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClassBytes {
    /// Log entries.
    pub log: u64,
    /// Consistency points.
    pub cp: u64,
    /// Hello, probes and acknowledgements.
    pub control: u64,
    /// Blocks that the peer missed, or never had.
    #[serde(default)]
    pub catch_up: u64,
}

/// The NVMe/TCP target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Where it listens; the kernel's choice where the configuration has port 0.
    pub listen: SocketAddr,
    /// The subsystem.
    pub nqn: String,
    /// Controllers, one per connected host.
    pub controllers: u32,
    /// TCP connections, one per queue.
    pub connections: u32,
    /// Commands being worked on.
    pub commands: u32,
    /// Who may connect.
    #[serde(default)]
    pub access: AccessStatus,
}

/// Who may connect to the target, and on what terms.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AccessStatus {
    /// Any host may connect, by any name that must not authenticate.
    pub any_host: bool,
    /// Hosts that must authenticate.
    pub authenticated: Vec<String>,
    /// Hosts that may connect without: whoever gives such a name.
    pub unauthenticated: Vec<String>,
    /// Connections that authenticated.
    pub succeeded: u64,
    /// Authentications that failed.
    pub failed: u64,
    /// Authentications under way.
    pub under_way: u32,
}

/// One volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// NVMe namespace id.
    pub nsid: u32,
    /// Backing file or device.
    pub device: PathBuf,
    /// Size.
    pub bytes: u64,
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// How hosts recognise it.
    pub uuid: Uuid,
    /// What hosts are told of the way to it through this node, where that has a target.
    #[serde(default)]
    pub path: Option<PathState>,
    /// Reads completed for clients.
    pub reads: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Writes completed for clients; at a destination, entries placed for it.
    pub writes: u64,
    /// Bytes of those.
    pub write_bytes: u64,
}

/// What a path to a volume is good for, in the words of NVMe (asymmetric namespace access).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Hosts use it.
    Optimized,
    /// Hosts use it where there is no better one.
    NonOptimized,
    /// Hosts wait, or take another.
    Inaccessible,
    /// Hosts take another for good.
    PersistentLoss,
    /// Hosts wait for it to become one of the others.
    Change,
}

impl PathState {
    /// The state's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent-loss",
            Self::Change => "change",
        }
    }
}

/// Client payload copied by the CPU at one place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopiedBytes {
    /// Where.
    pub place: String,
    /// How much.
    pub bytes: u64,
}

/// The time spent in one stage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageLatency {
    /// The stage.
    pub stage: String,
    /// How often it was passed.
    pub count: u64,
    /// The time half of them took at most.
    pub p50_ns: u64,
    /// The time 99 % took at most.
    pub p99_ns: u64,
    /// The time 99.9 % took at most.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// The answer to `histograms`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Histograms {
    /// One per stage, in the order in which a write meets them.
    pub stages: Vec<StageHistogram>,
}

/// One stage's whole distribution.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageHistogram {
    /// The stage.
    pub stage: String,
    /// How often it was passed.
    pub count: u64,
    /// `[t, n]`: n passed in at most t nanoseconds, and in more than the pair before it says. Only pairs with n > 0, by rising t.
    pub buckets: Vec<(u64, u64)>,
}

impl Status {
    /// Client payload copied by the CPU at one place; 0 where the node has no such place.
    pub fn copied(&self, place: &str) -> u64 {
        self.copied_bytes
            .iter()
            .find(|copied| copied.place == place)
            .map_or(0, |copied| copied.bytes)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::status(self, f)
    }
}

impl fmt::Display for CpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::cp_report(self, f)
    }
}
