//! The superblock of a running node: read and checked at start, written in turn to its two places, flushed before it counts.

use crate::disks::{Disks, LOG_FILE, Work};
use ibid_driver::{Arena, Disk, DiskOp};
use ibid_engine::log::ScanRefused;
use ibid_units::{CpId, Epoch, Lsn, Mutant, Span};
use ibid_wire::disk::{
    DiskFormatError, SUPERBLOCK_AT, Superblock, SyncState, VOLUMES_MAX, VolumeIdentity,
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
    /// One copy is of another version than this program's: nothing is guessed from the other.
    #[error("the log device: {0}")]
    Version(DiskFormatError),
    /// The log contradicts the superblock.
    #[error("the log device: {0}")]
    Log(#[from] ScanRefused),
    /// The log was written later than the superblock, and no copy of that is damaged.
    #[error(
        "the log device holds entries of epoch {found}, its superblock is of epoch {epoch}: one of the two was put back from a copy"
    )]
    Epoch {
        /// The log's.
        found: Epoch,
        /// The superblock's.
        epoch: Epoch,
    },
}

/// Refuses by name what another node, or this one with another configuration, has written.
pub(crate) fn identify(found: &Superblock, expected: &Superblock) -> Result<(), StartRefused> {
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
    Ok(())
}

/// What lies in a superblock's place.
#[derive(Clone, Debug)]
pub(crate) enum CopyFound {
    /// A superblock that checks.
    Good(Box<Superblock>),
    /// Zeroes.
    Blank,
    /// Anything else.
    Bad(DiskFormatError),
    /// Error code of a read.
    Unreadable(i32),
}

impl CopyFound {
    /// Judges the bytes of a place.
    pub(crate) fn judge(bytes: &[u8]) -> CopyFound {
        match Superblock::parse(bytes) {
            // Each superblock goes to both places, so which of them it was written to first says nothing.
            Ok(found) => CopyFound::Good(Box::new(found)),
            Err(_) if bytes.iter().all(|byte| *byte == 0) => CopyFound::Blank,
            Err(error) => CopyFound::Bad(error),
        }
    }
}

/// The superblock that counts, `None` on a blank device; and how many copies were (good, bad).
///
/// One copy that is torn or rotten leaves the other, which is one write older. That is safe: it is what a crash just before the newer one was
/// written would have left, and nothing that depends on a superblock is done before its flush has completed, so whatever was done since is
/// also what such a crash could meet: segments still in the log are applied again, entries still in it are recovered again. It
/// ends where the newer one had already released something: a slot whose segment the older one still needs, taken by the next lap. The
/// scan finds that lap and refuses (REC-4). An epoch above the superblock's in the log tells the same, and must not be given again.
pub(crate) fn newest(
    copies: &[CopyFound; 2],
) -> Result<(Option<Superblock>, (u8, u8)), StartRefused> {
    let mut newest: Option<Superblock> = None;
    let (mut good, mut bad) = (0, 0);
    let (mut format, mut code) = (None, None);
    for copy in copies {
        match copy {
            CopyFound::Good(found) => {
                good += 1;
                let newer = |other: Superblock| {
                    (found.sequence > other.sequence) != Mutant::OlderSuperblock.is_on()
                };
                if newest.is_none_or(newer) {
                    newest = Some(**found);
                }
            }
            CopyFound::Blank => {}
            CopyFound::Bad(error @ DiskFormatError::Version(_)) => {
                return Err(StartRefused::Version(*error));
            }
            CopyFound::Bad(error) => {
                bad += 1;
                format = Some(*error);
            }
            CopyFound::Unreadable(error) => {
                bad += 1;
                code = Some(*error);
            }
        }
    }
    // Only the first of all superblocks has no other beside it.
    if good == 1 && bad == 0 && newest.is_some_and(|found| found.sequence > 0) {
        bad = 1;
    }
    match (newest, format, code) {
        (Some(_), _, _) | (None, None, None) => Ok((newest, (good, bad))),
        // What can't be read now may be the good one: nobody is told to wipe it.
        (None, _, Some(code)) => Err(io::Error::from_raw_os_error(code).into()),
        (None, Some(error), None) => Err(StartRefused::Foreign(error)),
    }
}

/// Counts `newest` on by one where the next superblock would else be written over the only good copy of it (SUPER-1): a copy that rotted is
/// not always the one whose turn it is, and a crash in that write would leave neither.
pub(crate) fn spare(newest: &mut Superblock, copies: &[CopyFound; 2]) {
    let first = ((newest.sequence + 1) % 2) as usize;
    let counts = |copy: &CopyFound| matches!(copy, CopyFound::Good(found) if found.sequence == newest.sequence);
    if counts(&copies[first]) && !counts(&copies[1 - first]) {
        newest.sequence += 1;
    }
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
        agreed: Lsn::new(0),
        opened: Epoch::new(0),
        state: if source { SyncState::OutOfSync } else { SyncState::New },
        fresh: false,
        whole: false,
        peer_cp: Superblock::PEER_NONE,
        peer_chain: [0; 32],
        peer_next_chain: [0; 32],
        volume_count: identities.len() as u16,
        volumes,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    /// Copy `n` is being written …
    Writing(usize),
    /// … and flushed.
    Flushing(usize),
}

/// Writes superblocks, one at a time, each to both of its places: one copy may rot without taking the node back in time.
/// SUPER-1  what a superblock says counts from the flush of its first copy on; the second copy is written and flushed before the first is
///          touched again, so at every moment one of them is whole and the newest that counts.
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
        assert!(self.next.epoch >= self.durable.epoch, "the durable epoch never falls (I12)");
        assert!(self.next.cp >= self.durable.cp, "the durable CP never falls");
        arena.with_mut(self.span, |bytes| self.next.emit(bytes));
        self.write(disks, 0);
    }

    fn write<D: Disk>(&mut self, disks: &mut Disks<D>, copy: usize) {
        self.stage = Stage::Writing(copy);
        // The copy that counts least first: the one that the last superblock wrote first.
        let at = SUPERBLOCK_AT[(self.next.sequence as usize + copy) % 2];
        disks.submit(DiskOp::Write { file: LOG_FILE, at, span: self.span }, Work::Superblock);
    }

    /// The write is complete: now the flush.
    pub(crate) fn written<D: Disk>(&mut self, disks: &mut Disks<D>) {
        let Stage::Writing(copy) = self.stage else { panic!("a superblock was being written") };
        self.stage = Stage::Flushing(copy);
        if Mutant::SuperblockBeforeFlush.is_on() {
            self.durable = self.next;
        }
        disks.submit(DiskOp::Flush { file: LOG_FILE }, Work::SuperblockFlush);
    }

    /// The flush is complete: the change counts (SUPER-1).
    pub(crate) fn flushed<D: Disk>(&mut self, disks: &mut Disks<D>) {
        let Stage::Flushing(copy) = self.stage else { panic!("a superblock was being flushed") };
        self.durable = self.next;
        if copy == 0 && !Mutant::SuperblockOnce.is_on() {
            self.write(disks, 1);
        } else {
            self.stage = Stage::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_that_counts_is_not_the_first_to_be_overwritten() {
        for (sequence, rotten) in [(6, 0), (6, 1), (7, 0), (7, 1)] {
            let mut newest = blank([1; 16], 4, 64, true, &[]);
            newest.sequence = sequence;
            for other in [CopyFound::Unreadable(5), CopyFound::Blank] {
                let mut copies = [other.clone(), other];
                copies[1 - rotten] = CopyFound::Good(Box::new(newest));
                let mut spared = newest;
                spare(&mut spared, &copies);
                assert_eq!((spared.sequence + 1) % 2, rotten as u64, "sequence {sequence}");
                assert!(spared.sequence - sequence <= 1);
            }
            let both = [(); 2].map(|()| CopyFound::Good(Box::new(newest)));
            let mut same = newest;
            spare(&mut same, &both);
            assert_eq!(same.sequence, sequence);
        }
    }

    #[test]
    fn a_copy_that_cannot_be_read_now_is_not_called_foreign() {
        for place in [0, 1] {
            let mut copies = [(); 2].map(|()| CopyFound::judge(&[0x55; 4096]));
            assert!(matches!(newest(&copies), Err(StartRefused::Foreign(_))));
            copies[place] = CopyFound::Unreadable(5);
            assert!(matches!(newest(&copies), Err(StartRefused::Io(_))));
        }
    }
}
