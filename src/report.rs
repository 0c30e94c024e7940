//! A shard's numbers in the control plane's words.

use ibid_control::config::{self, Config, Durability, Hosts};
use ibid_control::status::{
    AccessStatus, BlockRun, ClassBytes, CopiedBytes, CpRecords, CpReport, CpStatus, FaultStatus,
    FaultSubject, Histograms, LinkSecurity, LinkStatus, LogStatus, MirrorState, NodeStatus,
    PairState, PathState, Promise, StageHistogram, StageLatency, Standing, Status, SyncStatus,
    TargetStatus, VerifyReport, VerifyState, VolumeStatus,
};
use ibid_engine::frontend::AnaState;
use ibid_runtime::{
    self as runtime, CpCounters, CpDone, Fault, PeerState, STAGES, Snapshot, Stage, SyncState,
    VerifyProgress,
};
use ibid_units::{BLOCK_BYTES, Nanos};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

const NANOS_PER_S: u64 = 1_000_000_000;

/// What `ibid status` shows.
pub(crate) fn status(
    config: &Config,
    snapshot: &Snapshot,
    uptime: Duration,
    listen: Option<SocketAddr>,
    huge_pages: bool,
) -> Status {
    let role = config.node.role;
    let standing = standing(config, snapshot);
    let [free, open, sealed] = snapshot.segments;
    Status {
        node: NodeStatus {
            name: config.node.name.clone(),
            role,
            pair: config.node.pair,
            epoch: snapshot.epoch.get(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: uptime.as_secs(),
        },
        promise: Promise::new(&standing),
        sync: SyncStatus::new(&standing),
        recovery: None,
        faults: faults(role, snapshot),
        log: LogStatus {
            device: config.log.device.clone(),
            segment_bytes: config.log.segment_size,
            segments_free: free,
            segments_open: open,
            segments_sealed: sealed,
            lsn: snapshot.lsn.get(),
            lsn_durable: snapshot.lsn_durable.get(),
            lsn_peer: snapshot.lsn_peer.get(),
            full_waits: snapshot.full_waits,
            full_wait_ns: snapshot.full_wait.get(),
            expired: snapshot.expired,
            fetched: snapshot.fetched,
            huge_pages,
        },
        cp: CpStatus {
            mode: config.log.cp_mode,
            cp: snapshot.cp.get(),
            chain_digest: hex(&snapshot.chain),
            running: snapshot.cp_running.map(|cp| cp.get()),
            last_ns: snapshot.cp_last.get(),
            sum: records(&snapshot.cp_sum),
        },
        link: link(config, snapshot),
        target: config.target.as_ref().map(|target| TargetStatus {
            listen: listen.unwrap_or(target.listen),
            nqn: target.nqn.clone(),
            controllers: snapshot.target[0],
            connections: snapshot.target[1],
            commands: snapshot.target[2],
            access: access(config, target, snapshot),
        }),
        volumes: volumes(config, snapshot),
        copied_bytes: copied(role, snapshot),
        latency: latency(role, snapshot),
        warnings: warnings(snapshot),
    }
}

fn access(config: &Config, target: &config::Target, snapshot: &Snapshot) -> AccessStatus {
    let must: Vec<String> = config.auth.hosts.iter().map(|host| host.nqn.clone()).collect();
    let (any_host, unauthenticated) = match &target.hosts {
        Hosts::Any => (true, Vec::new()),
        Hosts::Only(list) => {
            (false, list.iter().filter(|nqn| !must.contains(nqn)).cloned().collect())
        }
    };
    AccessStatus {
        any_host,
        authenticated: must,
        unauthenticated,
        succeeded: snapshot.auth.succeeded,
        failed: snapshot.auth.failed,
        under_way: snapshot.auth.under_way,
    }
}

fn link(config: &Config, snapshot: &Snapshot) -> LinkStatus {
    let port = &snapshot.port;
    LinkStatus {
        device: config.link.device.word().to_owned(),
        local: config.link.local,
        peer: config.link.peer,
        up: snapshot.peer == PeerState::Connected,
        datagram_bytes_max: snapshot.datagram_bytes_max,
        rtt_ns: (snapshot.rtt.get() > 0).then_some(snapshot.rtt.get()),
        tx_frames: port.tx_frames,
        tx_bytes: ClassBytes {
            log: port.tx_bytes[0],
            cp: port.tx_bytes[1],
            control: port.tx_bytes[2],
            catch_up: port.tx_bytes[3],
        },
        tx_repeated_frames: snapshot.tx_repeated,
        rx_frames: port.rx_frames,
        rx_bytes: port.rx_bytes,
        rx_dropped: port.rx_dropped + snapshot.rx_refused,
        rx_repeated_frames: snapshot.rx_repeated,
        security: LinkSecurity {
            encryption: config.link.encryption,
            tx_generation: snapshot.security.generations[0],
            rx_generation: snapshot.security.generations[1],
            handshakes: snapshot.security.handshakes,
            rx_unauthentic: snapshot.security.failed,
            rx_replayed: snapshot.security.replayed,
            rx_strange: snapshot.security.strange,
            rx_handshakes_unauthentic: snapshot.security.hellos_failed,
            rx_handshakes_limited: snapshot.security.hellos_limited,
            tx_cookies: snapshot.security.cookies,
        },
    }
}

fn volumes(config: &Config, snapshot: &Snapshot) -> Vec<VolumeStatus> {
    let counted = config.volumes.iter().zip(&snapshot.volumes).enumerate();
    counted
        .map(|(place, (volume, counters))| VolumeStatus {
            name: volume.name.clone(),
            nsid: place as u32 + 1,
            device: volume.device.clone(),
            bytes: volume.size.or_else(|| file_bytes(&volume.device)).unwrap_or(0),
            lba_bytes: volume.lba,
            uuid: volume.uuid,
            path: snapshot.access.get(place).copied().map(path),
            reads: counters.reads,
            read_bytes: counters.read_bytes,
            writes: counters.writes,
            write_bytes: counters.write_bytes,
        })
        .collect()
}

fn path(state: AnaState) -> PathState {
    match state {
        AnaState::Optimized => PathState::Optimized,
        AnaState::NonOptimized => PathState::NonOptimized,
        AnaState::Inaccessible => PathState::Inaccessible,
        AnaState::PersistentLoss => PathState::PersistentLoss,
        AnaState::Change => PathState::Change,
    }
}

/// Size of a volume whose configuration takes what the device has.
fn file_bytes(path: &std::path::Path) -> Option<u64> {
    use std::io::Seek as _;
    std::fs::File::open(path).and_then(|mut file| file.seek(std::io::SeekFrom::End(0))).ok()
}

/// Each role copies at places of its own.
fn copied(role: config::Role, snapshot: &Snapshot) -> Vec<CopiedBytes> {
    let receiving = ["frame to log", "frame to staging"];
    let places = Snapshot::COPIED.iter().copied().zip(snapshot.copied);
    places
        .chain([("log to frame", snapshot.port.tx_copied_bytes)])
        .filter(|(place, _)| receiving.contains(place) == (role == config::Role::Destination))
        .map(|(place, bytes)| CopiedBytes { place: place.to_owned(), bytes })
        .collect()
}

/// A destination's only stage is to persist.
fn latency(role: config::Role, snapshot: &Snapshot) -> Vec<StageLatency> {
    STAGES
        .iter()
        .filter(|(stage, _)| role == config::Role::Source || *stage == Stage::Persist)
        .map(|(stage, name)| {
            let times = snapshot.times.get(*stage);
            StageLatency {
                stage: (*name).to_owned(),
                count: times.len(),
                p50_ns: times.value_at_quantile(0.5),
                p99_ns: times.value_at_quantile(0.99),
                p999_ns: times.value_at_quantile(0.999),
                max_ns: times.max(),
            }
        })
        .collect()
}

/// Whether a source takes writes now: its log is open, and a write can be completed.
pub(crate) fn takes_writes(snapshot: &Snapshot) -> bool {
    let completes = snapshot.peer == PeerState::Connected || snapshot.sync == SyncState::Alone;
    snapshot.fault.is_none() && snapshot.log_open && completes
}

fn standing(config: &Config, snapshot: &Snapshot) -> Standing {
    let is_source = config.node.role == config::Role::Source;
    let state = match (snapshot.peer, snapshot.sync) {
        // A source that has gone on alone is alone until it meets its peer, whatever it tries meanwhile.
        (_, SyncState::Alone) => PairState::Alone,
        // What one of the two logs lacks is still on its way.
        (PeerState::Connected, _) if is_source && !snapshot.log_open => PairState::Connecting,
        (PeerState::Connected, SyncState::InSync) => PairState::InSync,
        (PeerState::Connected, _) => PairState::CatchingUp,
        (PeerState::Connecting | PeerState::Refused(_), _) => PairState::Connecting,
        (PeerState::Away, _) => PairState::Away,
    };
    let mirror =
        match snapshot.sync {
            SyncState::Never => MirrorState::NeverSynchronised,
            _ if !snapshot.mirror_usable => MirrorState::CatchingUp,
            SyncState::InSync => MirrorState::Consistent,
            SyncState::Waiting | SyncState::Alone | SyncState::CatchingUp => {
                if snapshot.out_of_sync { MirrorState::Stale } else { MirrorState::Consistent }
            }
        };
    Standing {
        role: config.node.role,
        state,
        durability: config.log.durability,
        peer_durability: snapshot.peer_memory.map(|memory| match memory {
            true => Durability::Memory,
            false => Durability::Disk,
        }),
        on_peer_loss: config.peer.on_loss,
        mirror,
        away_s: snapshot.silent.get() / NANOS_PER_S,
        alone_since_s: snapshot.alone.map(moment),
        out_of_sync_bytes: snapshot.out_of_sync_blocks * BLOCK_BYTES,
        failed: snapshot.fault.is_some(),
    }
}

/// When something began that has lasted `span`, in seconds since 1970.
fn moment(span: Nanos) -> u64 {
    // A clock before 1970 is a machine's that has none; then every moment is its beginning.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(span.get() / NANOS_PER_S)
}

fn faults(role: config::Role, snapshot: &Snapshot) -> Vec<FaultStatus> {
    let age_s = snapshot.fault_age.get() / NANOS_PER_S;
    let stopped = |subject, code| FaultStatus::stopped(role, subject, code, age_s);
    let last = snapshot.fault.map(|fault| match fault {
        Fault::Log(code) => stopped(FaultSubject::Log, Some(code)),
        Fault::Peer => stopped(FaultSubject::Peer, None),
        Fault::Chain => stopped(FaultSubject::Chain, None),
        Fault::Memory => stopped(FaultSubject::Memory, None),
    });
    let retried = snapshot.volume_retry.map(|(code, since, count)| {
        FaultStatus::transient(FaultSubject::Volume, code, since.get() / NANOS_PER_S, count)
    });
    last.into_iter().chain(retried).collect()
}

/// What is said where messages come that nobody with this node's key has made, and no others.
pub(crate) fn key_warning(snapshot: &Snapshot) -> Option<String> {
    let failed = snapshot.security.hellos_failed;
    (snapshot.peer != PeerState::Connected && failed > 0).then(|| {
        format!("{failed} hellos failed authentication: is link.key the same on both nodes?")
    })
}

fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(key_warning(snapshot));
    if let PeerState::Refused(refusal) = snapshot.peer {
        warnings.push(format!("the peer does not take this source: {refusal}"));
    }
    if snapshot.peer_failed {
        warnings.push("the peer reports a failed device: see its status".to_owned());
    }
    warnings
}

fn records(sum: &CpCounters) -> CpRecords {
    CpRecords {
        references: sum.references,
        referenced_blocks: sum.referenced_blocks,
        opcodes: sum.opcodes,
        blocks: sum.blocks,
        refused: sum.refused,
    }
}

/// The answer to `cp`.
pub(crate) fn cp(done: &CpDone) -> CpReport {
    CpReport {
        cp: done.cp.get(),
        taken: done.taken,
        chain_digest: hex(&done.chain),
        records: records(&done.counters),
        link_bytes: done.link_bytes,
        duration_ns: done.took.get(),
    }
}

/// The answer to `verify`, `verify_progress` and `verify_stop`.
pub(crate) fn verify(config: &Config, progress: &VerifyProgress) -> VerifyReport {
    let volume = &config.volumes[usize::from(progress.volume.get())];
    // Blocks are of 4 KiB, runs in what hosts count in.
    let unit = BLOCK_BYTES / u64::from(volume.lba);
    let run = |(first, blocks): &(u64, u64)| BlockRun { lba: first * unit, blocks: blocks * unit };
    VerifyReport {
        volume: volume.name.clone(),
        repair: progress.repair,
        state: match progress.state {
            runtime::VerifyState::Running => VerifyState::Running,
            runtime::VerifyState::Done => VerifyState::Done,
            runtime::VerifyState::Interrupted => VerifyState::Interrupted,
        },
        blocks: progress.blocks,
        compared: progress.compared,
        differing: progress.differing,
        repaired_here: progress.repaired_here,
        repaired_there: progress.repaired_there,
        undecided: progress.undecided,
        undecided_runs: progress.undecided_runs.iter().map(run).collect(),
        cp: progress.cp.get(),
        took_ns: progress.took.get(),
    }
}

/// The answer to `histograms`.
pub(crate) fn histograms(snapshot: &Snapshot) -> Histograms {
    let stages = STAGES
        .iter()
        .map(|(stage, name)| {
            let times = snapshot.times.get(*stage);
            let buckets = times
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()));
            StageHistogram {
                stage: (*name).to_owned(),
                count: times.len(),
                buckets: buckets.collect(),
            }
        })
        .collect();
    Histograms { stages }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes text");
        text
    })
}
