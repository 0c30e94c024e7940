//! The superblock of a running node: read and checked at start, written in turn to its two places, flushed before it counts.

use crate::disks::{Disks, LOG_FILE, Work};
use ibid_driver::{Arena, Disk, DiskFile, DiskOp};
use ibid_units::{CpId, Epoch, Lsn, Span};
use ibid_wire::disk::{
    DiskFormatError, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock, VOLUMES_MAX, VolumeIdentity,
};
use std::io;

/// Why a log device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StartRefused {
    /// The device can't be read or written.
    #[error("the log device: {0}")]
    Io(#[from] io::Error),
    /// Both superblocks are damaged, or something else lies there.
    #[error(
        "the log device holds no superblock of ibid ({0}) and is not blank; wipe its first 128 KiB if it may be overwritten"
    )]
    Foreign(DiskFormatError),
    /// Another pair's.
    #[error("the log device belongs to another pair")]
    Pair,
    /// Another geometry.
    #[error(
        "the log device was made for {0} segments of {1} blocks: log.segments and log.segment_size must stay as they were"
    )]
    Geometry(u32, u32),
    /// Other volumes.
    #[error("the log device was made for other volumes (uuid, size or order differ)")]
    Volumes,
    /// Written by a node in the other role.
    #[error("the log device was a {0}'s")]
    Role(&'static str),
    /// Entries are in the log that are not in the volumes.
    #[error(
        "the node was not stopped in good order: its log holds entries after consistency point {0} that are not in its volumes, and this version can't replay them"
    )]
    Unclean(CpId),
}

/// Reads the superblock of a log device, or writes the first one to a blank device. `expected` says what the node is configured as.
pub fn start(device: &DiskFile, expected: &Superblock) -> Result<Superblock, StartRefused> {
    let mut newest: Option<Superblock> = None;
    let mut damaged = None;
    for at in SUPERBLOCK_AT {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        device.read_at(at, &mut bytes)?;
        match Superblock::parse(&bytes) {
            Ok(found) if newest.is_none_or(|other| found.sequence > other.sequence) => {
                newest = Some(found)
            }
            Ok(_) => {}
            Err(_) if bytes.iter().all(|byte| *byte == 0) => {}
            Err(error) => damaged = Some(error),
        }
    }
    match (newest, damaged) {
        (Some(found), _) => check(&found, expected).map(|()| found),
        (None, Some(error)) => Err(StartRefused::Foreign(error)),
        (None, None) => {
            let first = *expected;
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            first.emit(&mut bytes);
            device.write_at(first.device_at(), &bytes)?;
            device.flush()?;
            Ok(first)
        }
    }
}

fn check(found: &Superblock, expected: &Superblock) -> Result<(), StartRefused> {
    if found.pair != expected.pair {
        return Err(StartRefused::Pair);
    }
    if (found.segments, found.segment_blocks) != (expected.segments, expected.segment_blocks) {
        return Err(StartRefused::Geometry(found.segments, found.segment_blocks));
    }
    if (found.volume_count, found.volumes) != (expected.volume_count, expected.volumes) {
        return Err(StartRefused::Volumes);
    }
    if found.role != expected.role {
        return Err(StartRefused::Role(if found.role == 1 { "source" } else { "destination" }));
    }
    // A destination's log is its source's: what it lacks is sent again. A source's own entries exist nowhere else.
    if !found.clean && found.role == 1 {
        return Err(StartRefused::Unclean(found.cp));
    }
    Ok(())
}

/// A superblock for a blank device.
pub(crate) fn blank(
    pair: [u8; 16],
    segments: u32,
    segment_blocks: u32,
    source: bool,
    identities: &[VolumeIdentity],
) -> Superblock {
    let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
    volumes[..identities.len()].copy_from_slice(identities);
    Superblock {
        sequence: 0,
        pair,
        epoch: Epoch::new(0),
        cp: CpId::new(0),
        last_lsn: Lsn::new(0),
        chain: [0; 32],
        segments,
        segment_blocks,
        clean: true,
        role: u8::from(source),
        volume_count: identities.len() as u16,
        volumes,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Writing,
    Flushing,
}

/// Writes superblocks, one at a time.
#[derive(Debug)]
pub(crate) struct SuperblockWriter {
    /// What is durable.
    pub(crate) durable: Superblock,
    next: Superblock,
    stage: Stage,
    span: Span,
}

impl SuperblockWriter {
    pub(crate) fn new(durable: Superblock, span: Span) -> Self {
        Self { durable, next: durable, stage: Stage::Idle, span }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Begins to write the durable superblock with a change.
    pub(crate) fn begin<D: Disk>(
        &mut self,
        arena: &Arena,
        disks: &mut Disks<D>,
        change: impl FnOnce(&mut Superblock),
    ) {
        assert!(self.is_idle(), "one superblock is written at a time");
        self.next = self.durable;
        self.next.sequence += 1;
        change(&mut self.next);
        arena.with_mut(self.span, |bytes| self.next.emit(bytes));
        self.stage = Stage::Writing;
        disks.submit(
            DiskOp::Write { file: LOG_FILE, at: self.next.device_at(), span: self.span },
            Work::Superblock,
        );
    }

    /// The write is complete: now the flush.
    pub(crate) fn written<D: Disk>(&mut self, disks: &mut Disks<D>) {
        assert!(self.stage == Stage::Writing, "a superblock was being written");
        self.stage = Stage::Flushing;
        disks.submit(DiskOp::Flush { file: LOG_FILE }, Work::SuperblockFlush);
    }

    /// The flush is complete: the change counts.
    pub(crate) fn flushed(&mut self) {
        assert!(self.stage == Stage::Flushing, "a superblock was being flushed");
        self.stage = Stage::Idle;
        self.durable = self.next;
    }
}
