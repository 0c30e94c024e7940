//! What a node finds on its log device when it starts: read before anything listens or speaks, timed, and put in words.
//! Takes the open files; gives what a shard begins with, and what status and the node's own log say about it.

use anyhow::Context as _;
use ibid_control::config::Config;
use ibid_control::status::{LogEnd, RecoveryStatus};
use ibid_driver::{Arena, DiskFile, UringDisk};
use ibid_engine::sync::OutOfSync;
use ibid_runtime::{Layout, NodeConfig, Recovered, Role, Turn, Unrecovered};
use ibid_units::{BLOCK_BYTES, VolumeId};
use ibid_wire::disk::{SUPERBLOCK_AT, SUPERBLOCK_BYTES};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a turn that found nothing to do waits for the device.
const IDLE_WAIT: Duration = Duration::from_micros(50);

/// What a node begins with.
pub(crate) struct Found {
    pub(crate) recovered: Recovered<UringDisk>,
    pub(crate) map: OutOfSync,
    /// `None` on a device that held nothing.
    pub(crate) status: Option<RecoveryStatus>,
    took: Duration,
}

/// Whether a log device holds no superblock yet, so that the volumes' own contents are what there is to begin with.
pub(crate) fn is_blank(log: &DiskFile) -> bool {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    SUPERBLOCK_AT.into_iter().all(|at| {
        // What can't be read is nothing that may be taken for blank.
        log.read_at(at, &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
    })
}

/// Runs of blocks that the volumes hold: what a first synchronisation has to bring.
pub(crate) fn allocated(
    config: &Config,
    files: &[DiskFile],
    volume_bytes: &[u64],
) -> anyhow::Result<Vec<(VolumeId, u64, u64)>> {
    let mut runs = Vec::new();
    for (place, ((volume, file), bytes)) in
        config.volumes.iter().zip(files).zip(volume_bytes).enumerate()
    {
        let extents = file
            .allocated()
            .with_context(|| format!("volume.device {}: its holes", volume.device.display()))?;
        for (at, len) in extents {
            // A device may be longer than its volume.
            let end = (at + len).min(*bytes);
            if at < end {
                let first = at / BLOCK_BYTES;
                runs.push((VolumeId::new(place as u16), first, end.div_ceil(BLOCK_BYTES) - first));
            }
        }
    }
    Ok(runs)
}

/// Reads superblock, map and log; nothing else of the node runs meanwhile.
pub(crate) fn run(
    disk: UringDisk,
    layout: Layout,
    arena: Arc<Arena>,
    node: &NodeConfig,
    role: Role,
) -> anyhow::Result<Found> {
    let began = Instant::now();
    let mut map = node.map(role);
    let mut unrecovered = Unrecovered::new(disk, layout, arena, node.superblock(role), map.pages());
    loop {
        let turn = unrecovered.turn(&mut |page, bytes| {
            map.load(page, node.pair, bytes);
        })?;
        match turn {
            Turn::Done => break,
            Turn::Busy => {}
            Turn::Idle => std::thread::sleep(IDLE_WAIT),
        }
    }
    let recovered = unrecovered.finish();
    let took = began.elapsed();
    let Recovered { superblock, log, report, .. } = &recovered;
    let status = (!report.blank).then(|| RecoveryStatus {
        clean: superblock.clean,
        end: match (report.damaged, report.torn) {
            (true, _) => LogEnd::Damaged,
            (false, true) => LogEnd::TornTail,
            (false, false) => LogEnd::Whole,
        },
        entries: report.entries,
        segments: report.segments,
        bytes: report.bytes_read,
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        lsn: log.end.get(),
        // Nobody agrees on an entry that it does not hold.
        lsn_committed: log.committed.max(superblock.agreed).get(),
    });
    Ok(Found { recovered, map, status, took })
}

impl Found {
    /// What an operator should know of the device, a sentence each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let report = &self.recovered.report;
        let mut warnings = Vec::new();
        if report.superblock_copies_bad > 0 {
            warnings.push(
                "one of the log device's two superblocks did not check at the start; it has been written anew since"
                    .to_owned(),
            );
        }
        if report.blocks_unreadable > 0 {
            warnings.push(format!(
                "{} blocks of the log device could not be read at the start",
                report.blocks_unreadable
            ));
        }
        if report.map_pages_unreadable > 0 {
            warnings.push(format!(
                "{} pages of the out-of-sync map could not be read at the start: all their blocks are sent to the peer again",
                report.map_pages_unreadable
            ));
        }
        warnings
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            None => write!(f, "log: blank, made ready in {} ms", self.took.as_millis()),
            Some(status) => {
                let report = &self.recovered.report;
                write!(
                    f,
                    "log: {} entries in {} segments after cp {}, {} bytes read in {} ms, {}",
                    report.entries,
                    report.segments,
                    self.recovered.superblock.cp,
                    report.bytes_read,
                    self.took.as_millis(),
                    match (status.end, status.clean) {
                        (LogEnd::Damaged, _) => "DAMAGED",
                        (LogEnd::TornTail, _) => "torn tail",
                        (LogEnd::Whole, true) => "stopped in good order",
                        (LogEnd::Whole, false) => "whole",
                    }
                )
            }
        }
    }
}
