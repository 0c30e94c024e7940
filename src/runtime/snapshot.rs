//! What a shard tells about itself, and the counters it keeps for that. Plain numbers; words are the control plane's.

use crate::recover::RecoveryReport;
use hdrhistogram::Histogram;
use ibid_driver::PortCounters;
use ibid_engine::frontend::{AnaState, Frontend};
use ibid_units::{CpId, Epoch, Lsn, Nanos, VolumeId};
use ibid_wire::disk::VOLUMES_MAX;
use ibid_wire::peer::HelloRefusal;

/// Stages of a client's command that are timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Write: from its command to its last byte.
    Receive,
    /// Batch: from closing to durable on this node.
    Persist,
    /// Batch: from closing to durable at the peer, as the source hears of it.
    Peer,
    /// Write: from its last byte to committed on both.
    Commit,
    /// Write: from its command to its completion.
    Write,
    /// Read: from its command to its data.
    Read,
    /// Write: waiting for a segment because all were full.
    FullWait,
}

/// Every stage with its name, in the order of [`Stage`].
pub const STAGES: [(Stage, &str); 7] = [
    (Stage::Receive, "receive"),
    (Stage::Persist, "persist"),
    (Stage::Peer, "peer"),
    (Stage::Commit, "commit"),
    (Stage::Write, "write"),
    (Stage::Read, "read"),
    (Stage::FullWait, "full_wait"),
];

/// A distribution per stage. Two significant digits, up to a minute.
#[derive(Clone, Debug)]
pub struct StageTimes {
    histograms: Vec<Histogram<u64>>,
}

impl StageTimes {
    /// Empty distributions; all their memory is taken here.
    pub fn new() -> Self {
        let make =
            |_| Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("fixed bounds are right");
        Self { histograms: (0..STAGES.len()).map(make).collect() }
    }
    /// Notes one passage.
    pub fn record(&mut self, stage: Stage, time: Nanos) {
        self.histograms[stage as usize].saturating_record(time.get().max(1));
    }
    /// A stage's distribution.
    pub fn get(&self, stage: Stage) -> &Histogram<u64> {
        &self.histograms[stage as usize]
    }
    fn set_to(&mut self, other: &StageTimes) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            mine.set_to(theirs).expect("the bounds are the same");
        }
    }
}

impl Default for StageTimes {
    fn default() -> Self {
        Self::new()
    }
}

/// How the peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerState {
    /// Not heard of since start.
    #[default]
    Connecting,
    /// A session is open.
    Connected,
    /// It was there and is silent.
    Away,
    /// It does not take this source.
    Refused(HelloRefusal),
}

/// How the two copies stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncState {
    /// They never were the same.
    #[default]
    Never,
    /// They differ by nothing but what is in the log, and writes need both nodes.
    InSync,
    /// The peer is away; writes wait for it.
    Waiting,
    /// Writes complete on this node alone.
    Alone,
    /// Writes need both nodes again, and older blocks are still to come.
    CatchingUp,
}

/// What stopped a node from making anything durable. The first one stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The log device failed; an operating system error code.
    Log(i32),
    /// The peer sent structures that contradict themselves.
    Peer,
    /// After a CP the chain digests of the two nodes differ.
    Chain,
    /// A page of the log is no longer what came, on the log device either, and the peer never had it.
    Memory,
}

/// Authentications of hosts' connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AuthCounters {
    /// That succeeded, since start.
    pub succeeded: u64,
    /// That failed.
    pub failed: u64,
    /// Under way now.
    pub under_way: u32,
}

/// Consistency points, summed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpCounters {
    /// How many.
    pub count: u64,
    /// References.
    pub references: u64,
    /// Blocks those stood for.
    pub referenced_blocks: u64,
    /// Opcodes.
    pub opcodes: u64,
    /// Blocks that travelled.
    pub blocks: u64,
    /// References refused.
    pub refused: u64,
}

impl CpCounters {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &CpCounters) -> CpCounters {
        CpCounters {
            count: self.count - earlier.count,
            references: self.references - earlier.references,
            referenced_blocks: self.referenced_blocks - earlier.referenced_blocks,
            opcodes: self.opcodes - earlier.opcodes,
            blocks: self.blocks - earlier.blocks,
            refused: self.refused - earlier.refused,
        }
    }
}

/// Client traffic of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeCounters {
    /// Reads.
    pub reads: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Writes; at a destination the entries placed.
    pub writes: u64,
    /// Bytes of those.
    pub write_bytes: u64,
}

/// What becomes of the link's frames before anything in them is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecurityCounters {
    /// Frames are encrypted, not only authenticated.
    pub encrypted: bool,
    /// Generations of the session's keys: of what is sent, and of what is received.
    pub generations: [u64; 2],
    /// Sessions that were given keys.
    pub handshakes: u64,
    /// Frames whose tag was wrong.
    pub failed: u64,
    /// Frames that had been opened before, or are too late to know.
    pub replayed: u64,
    /// Frames of no session or handshake of now.
    pub strange: u64,
    /// Messages of a handshake whose tag was wrong: junk, or of a peer with another key.
    pub hellos_failed: u64,
    /// Hellos without a cookie that were too many.
    pub hellos_limited: u64,
    /// Cookies given.
    pub cookies: u64,
}

/// A shard at one moment. Made by whoever asks, filled by the shard without taking memory.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The epoch.
    pub epoch: Epoch,
    /// The peer.
    pub peer: PeerState,
    /// How long it has been silent, where it is away.
    pub silent: Nanos,
    /// The first fault.
    pub fault: Option<Fault>,
    /// How long ago that was.
    pub fault_age: Nanos,
    /// Errors of volumes that are tried again: code of the last, time since the first, how many.
    pub volume_retry: Option<(i32, Nanos, u64)>,
    /// How the copies stand.
    pub sync: SyncState,
    /// The superblock says that the volumes may differ by more than what is in the log.
    pub out_of_sync: bool,
    /// The destination's volumes are those of one consistency point; at a source as far as it knows.
    pub mirror_usable: bool,
    /// The source's log takes writes.
    pub log_open: bool,
    /// Blocks of 4 KiB that the peer may lack, besides what is in the log.
    pub out_of_sync_blocks: u64,
    /// How long writes have completed on this node alone, where they do.
    pub alone: Option<Nanos>,
    /// Writes that ended because they waited too long.
    pub expired: u64,
    /// Batches of this node's own log that the peer gave back.
    pub fetched: u64,
    /// Reads of clients that were answered with the peer's bytes, because a volume could not be read here.
    pub reads_from_peer: u64,
    /// Blocks of this node's volumes that were written again with the peer's bytes.
    pub rewritten: u64,
    /// Pages of the log that were healed before a consistency point wrote them, or before they were sent again.
    pub healed: u64,
    /// What recovery found.
    pub recovery: Option<RecoveryReport>,
    /// The peer's log is in memory only, as far as it said.
    pub peer_memory: Option<bool>,
    /// The peer says that it has failed.
    pub peer_failed: bool,
    /// Segments free, open, sealed.
    pub segments: [u32; 3],
    /// The newest entry.
    pub lsn: Lsn,
    /// … durable here.
    pub lsn_durable: Lsn,
    /// … durable at the peer.
    pub lsn_peer: Lsn,
    /// Writes that waited for a segment.
    pub full_waits: u64,
    /// Their time.
    pub full_wait: Nanos,
    /// The newest CP durable here.
    pub cp: CpId,
    /// The chain digest there.
    pub chain: [u8; 32],
    /// The CP under way.
    pub cp_running: Option<CpId>,
    /// Time of the last.
    pub cp_last: Nanos,
    /// CPs summed up.
    pub cp_sum: CpCounters,
    /// The port.
    pub port: PortCounters,
    /// Largest datagram.
    pub datagram_bytes_max: u32,
    /// Smoothed round trip, once known.
    pub rtt: Nanos,
    /// Packets whose content was sent again.
    pub tx_repeated: u64,
    /// Probes: times that nothing was heard for too long.
    pub probes: u64,
    /// Packets that had arrived before.
    pub rx_repeated: u64,
    /// Frames of the peer that were not accepted.
    pub rx_refused: u64,
    /// What became of them before that.
    pub security: SecurityCounters,
    /// Client payload copied by the CPU: frames to log, frames to staging, late entries, gathered reads.
    pub copied: [u64; 4],
    /// Controllers, connections, commands under way.
    pub target: [u32; 3],
    /// Authentications of hosts.
    pub auth: AuthCounters,
    /// Per volume; as many as the node has.
    pub volumes: Vec<VolumeCounters>,
    /// Per volume: how hosts may reach it here; empty where no target listens.
    pub access: Vec<AnaState>,
    /// Stages.
    pub times: StageTimes,
}

/// Names of the places in [`Snapshot::copied`].
pub(crate) const COPIED_RECEIVE: usize = 0;
pub(crate) const COPIED_STAGING: usize = 1;
pub(crate) const COPIED_LATE: usize = 2;
pub(crate) const COPIED_GATHER: usize = 3;

impl Snapshot {
    /// Names of the places in [`Snapshot::copied`].
    pub const COPIED: [&str; 4] =
        ["frame to log", "frame to staging", "late entry", "gathered read"];

    /// An empty one with all the memory it will need.
    pub fn with_room() -> Self {
        Self {
            volumes: Vec::with_capacity(VOLUMES_MAX),
            access: Vec::with_capacity(VOLUMES_MAX),
            ..Self::default()
        }
    }

    pub(crate) fn take_tables(&mut self, volumes: &[VolumeCounters], times: &StageTimes) {
        self.volumes.clear();
        self.volumes.extend_from_slice(volumes);
        self.times.set_to(times);
    }

    pub(crate) fn take_access(&mut self, frontend: Option<&Frontend>, volumes: usize) {
        self.access.clear();
        let Some(frontend) = frontend else { return };
        let places = (0..volumes as u16).map(VolumeId::new);
        self.access.extend(places.filter_map(|volume| frontend.access(volume)));
    }
}
